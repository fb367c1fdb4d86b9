"""One of the processes of a test: runs `palate train` for each case, and writes down what it saw.

python -m tests.train.a_process OUT CASES, a case being [name, words of the command, what to do, such as "nan"].
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palate import cli
from palate.errors import InputError
from palate.train import processes


def main(out: Path, cases: list[tuple[str, list[str], str]]) -> int:
    rank, leave = int(os.environ["RANK"]), processes.leave
    processes.leave = lambda: None  # the next case needs the others again
    for name, words, deed in cases:
        if deed == "fsdp2":
            shard_on_the_processor()
        elif deed == "nan" and rank == 1:
            spoil_losses()
        elif deed == "broken" and rank == 1:
            lack_the_model()
        with steps_noted() as seen:
            code = cli.main(words)
        (out / f"{name}.{rank}.json").write_text(json.dumps(seen))
        if code:
            return code
    leave()
    return 0


@contextmanager
def steps_noted() -> Iterator[list[list[int]]]:
    """The samples that this process trains in each step."""
    from palate.train.answers import AnswerTrainer

    seen: list[list[int]] = []
    step: Any = AnswerTrainer.training_step

    def noting(self: Any, model: Any, inputs: Any, *args: Any) -> Any:
        counted = [packed for packed, counts in zip(inputs.passes, inputs.counts, strict=True) if counts]
        seen.append([int(sample) for packed in counted for sample in packed.samples])
        return step(self, model, inputs, *args)

    AnswerTrainer.training_step = noting  # type: ignore[method-assign]
    yield seen
    AnswerTrainer.training_step = step  # type: ignore[method-assign]


def shard_on_the_processor() -> None:
    """Have accelerate take gloo for what it takes NCCL for: it does not shard on CPUs, though torch does."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    torch.distributed.init_process_group("gloo")
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)


def spoil_losses() -> None:
    from palate.train.answers import AnswerTrainer

    losses = AnswerTrainer._losses
    AnswerTrainer._losses = lambda self, logits, *rest: losses(self, logits * float("nan"), *rest)  # type: ignore[method-assign]


def lack_the_model() -> None:
    from palate.models import load

    def broken(config: Any) -> None:
        raise InputError("is broken here", "model")

    load.model_folder = broken


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
