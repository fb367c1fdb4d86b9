"""What a training run takes, before any of it is spent: tokens, FLOPs, memory, time.

`Workload` says what is to be passed through the model, `ModelShape` what the model is, `predict` puts both
together. Weights are never needed, only the model's `config.json`.
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
