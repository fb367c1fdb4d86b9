"""Callbacks of a training: the log file, the progress bar, and stopping on a signal or without a better AUC."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

from palate.progress import Meter
from palate.store.artifacts import atomic_file
from palate.train.checkpoints import StopRequest
from palate.train.processes import Processes
from palate.train.schedule import Schedule

LOG = "training_log.jsonl"


class Report(TrainerCallback):  # type: ignore[misc]
    """Writes `training_log.jsonl` and the progress bar on the first device; stops all devices after a signal to any."""

    def __init__(
        self, stop: StopRequest, path: Path, schedule: Schedule, console: Console | None, processes: Processes
    ) -> None:
        self.stop, self.path, self.schedule, self.console, self.processes = stop, path, schedule, console, processes
        self.resumed_at = self.seen = 0
        self.meter: Meter | None = None
        self.note: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Truncate the log to the checkpoint that the run resumes from, and open the bar."""
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if state.best_global_step and best.is_dir():
            state.best_model_checkpoint = str(best)  # the run's folder may have been moved
        self.resumed_at = self.seen = state.global_step
        if not state.is_world_process_zero:
            return
        # The steps after the checkpoint are trained again.
        with atomic_file(self.path) as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in state.log_history).encode())
        total, done = self.schedule.samples_in(state.max_steps), self.schedule.samples_in(state.global_step)
        self.meter = Meter("training", total, done=done, console=self.console).__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar; stop with a checkpoint after a signal to any device."""
        if self.meter is not None:
            note = ", ".join(f"{name} {value:.4f}" for name, value in self.note.items())
            self.meter.advance(self.schedule.samples_in(state.global_step) - self.schedule.samples_in(self.seen), note)
        self.seen = state.global_step
        self._heed(control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop before the next step after a signal to any device."""
        self._heed(control)

    def stopped(self) -> bool:
        """Whether any device was asked to stop; all must ask at the same place, and leave off there."""
        if not self.processes.any(self.stop.signal is not None):
            return False
        self.stop.signal = self.stop.signal or "a signal to another process"
        return True

    def _heed(self, control: Any) -> None:
        if self.stopped():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Append the entry as a line of JSON."""
        entry = state.log_history[-1]
        names = {"loss": "loss", "eval_auc": "validation AUC"}
        self.note |= {name: entry[key] for key, name in names.items() if key in entry}
        if state.is_world_process_zero:
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Close the bar."""
        if self.meter is not None:
            self.meter.__exit__(None, None, None)


class EarlyStop(TrainerCallback):  # type: ignore[misc]
    """Stops after `patience` evaluations without a better AUC.

    It counts them in the checkpoint's history: transformers' own counter restarts at 0 in each process.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop a resumed run that had already stopped early."""
        self.on_evaluate(args, state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop if the best AUC is `patience` evaluations old."""
        aucs = [entry["eval_auc"] for entry in state.log_history if "eval_auc" in entry]
        if aucs and len(aucs) - 1 - aucs.index(max(aucs)) >= self.patience:
            control.should_training_stop = True
