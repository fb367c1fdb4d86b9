"""Predict the cost of a training run: tokens, FLOPs, memory, time.

`Workload` counts the tokens to pass through the model, `ModelShape` counts the model's weights, and `predict` combines
both. They need the model's `config.json`, but no weights.
"""

from palate.plan.devices import DEVICES, Device, find_device
from palate.plan.memory import Memory
from palate.plan.predict import Estimate, Plan, StepCounts, predict
from palate.plan.shape import ModelShape, load_shape
from palate.plan.workload import Workload

__all__ = [
    "DEVICES",
    "Device",
    "Estimate",
    "Memory",
    "ModelShape",
    "Plan",
    "StepCounts",
    "Workload",
    "find_device",
    "load_shape",
    "predict",
]
