"""Training in processes of a Ray cluster, by Ray Train."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from palate.cluster.connection import DEATHS, Place, connect, on_node, slots
from palate.config import EngineConfig
from palate.errors import InputError, InterruptedWorkError, PalateError, WorkError, first_line
from palate.train.checkpoints import going_on

STORAGE = "ray"
"""The folder in the run's that Ray Train needs while it works."""


def in_workers(work: Callable[[], Any], engine: EngineConfig, run: Path) -> Any:
    """Call `work` in `engine.workers` processes (1), with ranks as `torchrun` sets them; returns the first's result.

    A process that ends, or whose node does, ends all; Ray Train starts them again, and `work` resumes from what it left
    in the folder `run`, which all nodes see. Raises the first process's `PalateError`, and `WorkError` after `DEATHS`.
    """
    ray = connect(engine)
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    _, resources = slots(ray, engine)
    gpu = "num_gpus" in resources
    place, storage = Place(), run.resolve() / STORAGE
    storage.mkdir(parents=True, exist_ok=True)

    def each() -> Any:
        try:
            place.enter()
            _stand_alone()
            return work()
        except InputError as error:
            return on_node(ray, error)
        except PalateError as error:
            return error

    trainer = TorchTrainer(
        each,
        scaling_config=ScalingConfig(
            num_workers=engine.workers or 1,
            use_gpu=gpu,
            resources_per_worker={"CPU": resources["num_cpus"], **({"GPU": 1} if gpu else {})},
        ),
        run_config=RunConfig(
            name="palate",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=DEATHS - 1),
        ),
    )
    try:
        with ThreadPoolExecutor(1) as pool:  # only outside the main thread does Ray Train leave Ctrl-C alone
            fitting = pool.submit(trainer.fit)
            try:
                found = fitting.result().return_value
            except KeyboardInterrupt:
                ray.shutdown()
                raise InterruptedWorkError(f"stopped by a signal; {going_on(run / 'checkpoints')}") from None
    except TrainingFailedError as error:
        raise WorkError(
            f"the processes of the Ray cluster ended {DEATHS} times: {first_line(error)}; the same command goes on "
            "from the last checkpoint"
        ) from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    if isinstance(found, PalateError):
        raise found
    return found


def _stand_alone() -> None:
    """Let a single process train as one that no launcher started."""
    if os.environ.get("WORLD_SIZE") != "1":
        return
    import torch

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK"):
        os.environ.pop(name, None)
    torch.distributed.destroy_process_group()
