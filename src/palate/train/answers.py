"""transformers' Trainer over packed prompts: a whole optimizer step a batch, logits only where there is a label."""

import logging
import math
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from palate.errors import PalateError, WorkError, first_line
from palate.progress import Meter
from palate.store.artifacts import read_json, write_json
from palate.tokens.packed import Packed
from palate.tokens.shared import SharedHistory
from palate.train.attention import Attention, without_dropout
from palate.train.checkpoints import discard, going_on, mark_whole, rotate
from palate.train.schedule import Schedule, pack_passes

if TYPE_CHECKING:
    import torch
    from rich.console import Console

log = logging.getLogger(__name__)

UNTOLD = "untold.json"
"""In a checkpoint: sums of the steps since the last line of the log."""
SUMS = 6
"""How many sums are told of."""


class Step(NamedTuple):
    """What one device does in one optimizer step: its passes, which of them count, the labels on all devices."""

    passes: list[Packed]
    counts: list[bool]
    labelled: int


class Steps(Dataset):  # type: ignore[misc]
    """The steps of a run as one device sees them, composed when they are asked for."""

    def __init__(self, schedule: Schedule, rank: int, world: int) -> None:
        self.schedule, self.rank, self.world = schedule, rank, world

    def __len__(self) -> int:
        return self.schedule.steps

    def __getitem__(self, step: int) -> Step:
        passes = self.schedule.passes(step, self.rank, self.world)
        packed = [self.schedule.prompts.pack(each.pieces) for each in passes]
        return Step(packed, [each.counts for each in passes], self.schedule.trained(step))


class AnswerTrainer(Trainer):  # type: ignore[misc]
    """Trains a causal model on the labelled tokens of packed prompts.

    The loss of a step is the mean negative log-likelihood of its labelled tokens, on however many devices and in
    however many passes; with `ranking_weight`, each sample's decision has that many times its `ranking_loss` added.
    Logs tell the decision token's loss and accuracy apart from the rest of the response, which is the same in every
    sample.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        schedule: Schedule,
        attention: Attention | None,
        answers: tuple[int, int],
        evaluated: SharedHistory | None = None,
        checkpoints_kept: int = 2,
        console: "Console | None" = None,
        ranking_weight: float = 0.0,
    ) -> None:
        """`answers` are the ids of Yes and No; `evaluated` the prompts that `evaluate` looks at.

        `attention` is set later where it is to be chosen under this trainer's autocast.

        `checkpoints_kept` takes the place of `save_total_limit`, by which transformers would remove a checkpoint before
        the next one is marked. `console` shows how far `evaluate` is.
        """
        self.schedule, self.answers, self.evaluated = schedule, answers, evaluated
        if attention is not None:
            self.attention: Attention = attention
        self.checkpoints_kept, self.console, self.ranking_weight = checkpoints_kept, console, ranking_weight
        self._seen: Any = None
        self.waited = 0.0
        """Seconds in which the device had nothing to do but wait for the next step's samples."""
        self.control: Any
        if args.n_gpu > 1:  # DataParallel would cut `logits_to_keep` and the passes of a step
            log.warning("trains on 1 of %d GPUs: to use all, start `palate train --launch %d`", args.n_gpu, args.n_gpu)
            args._n_gpu = 1
        super().__init__(model=model, args=args, eval_dataset=evaluated)  # only its presence is looked at

    def get_train_dataloader(self) -> Any:
        """One optimizer step an item; the whole run is one epoch to transformers, which then skips to any step."""
        steps = Steps(self.schedule, self.args.process_index, self.args.world_size)
        return DataLoader(steps, batch_size=1, shuffle=False, collate_fn=_only)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The next step; how long it takes is added up."""
        begun = time.monotonic()
        found = super().get_batch_samples(*args, **kwargs)
        self.waited += time.monotonic() - begun
        return found

    def training_step(self, model: Any, inputs: Step, num_items_in_batch: Any = None) -> "torch.Tensor":
        """All passes of a step; returns their loss. Raises `WorkError` if it is not finite."""
        import torch

        model.train()
        world, kwargs = self.args.world_size, {}
        if self.is_deepspeed_enabled:
            kwargs["scale_wrt_gas"] = False
        total = torch.zeros((), device=self.args.device)
        for n, (packed, counts) in enumerate(zip(inputs.passes, inputs.counts, strict=True)):
            last = n == len(inputs.passes) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    logits = self.attention.logits(model, packed)
                loss, seen = self._losses(logits, packed)
                # Data parallelism averages gradients over the devices; this makes it a sum over samples.
                loss = loss * (world / inputs.labelled if counts else 0.0)
                self.accelerator.backward(loss, **kwargs)
            if counts:
                self._seen = seen if self._seen is None else self._seen + seen
            total += loss.detach()
        # If the devices that are well went on, they would wait for the others at the next step.
        everywhere = total if world == 1 else self.accelerator.reduce(total, "sum")
        if not everywhere.isfinite():
            raise self._not_finite(f"the loss is {everywhere.item()} at step {self.state.global_step + 1}")
        return total

    def _not_finite(self, what: str) -> WorkError:
        return WorkError(
            f"{what}: try a lower train.learning_rate than {self.args.learning_rate:g}, or model.dtype=float32; "
            f"training then starts over, and the checkpoints in {self.args.output_dir} are set aside"
        )

    def _losses(self, logits: Any, packed: Packed) -> tuple[Any, Any]:
        """The sum of the samples' losses, and what is told of them; see `_told`."""
        import torch
        from torch.nn.functional import cross_entropy

        device = logits.device
        targets = torch.from_numpy(packed.targets.astype(np.int64)).to(device)
        decision = torch.from_numpy(packed.decision).to(device)
        liked = torch.from_numpy(packed.liked).to(device)
        logits = logits.float()
        nll = cross_entropy(logits, targets, reduction="none")
        yes, no = (logits[decision, answer] for answer in self.answers)
        margin = yes - no
        ranking = ranking_loss(margin, packed) if self.ranking_weight else margin.new_zeros(())
        with torch.no_grad():
            correct = ((margin > 0) == liked).sum()
            seen = [nll.sum(), nll[decision].sum(), correct, ranking, nll.numel(), decision.numel()]
            sums = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in seen])
        return nll.sum() + self.ranking_weight * ranking, sums

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As transformers, with what the decision token adds to a step's loss."""
        if "loss" in logs and self._seen is not None:
            logs |= _told(self.accelerator.reduce(self._seen, "sum").tolist())
            self._seen = None
        if self.state.epoch is not None:  # to transformers the run is one epoch
            share, epochs = self.state.epoch, self.schedule.steps / self.schedule.steps_per_epoch
            self.state.epoch = round(share * epochs, 4)
            super().log(logs, start_time)
            self.state.epoch = share
        else:
            super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Loss of the whole response, and loss, accuracy and AUC of the decision, on the prompts to evaluate."""
        import torch

        if self.evaluated is None:
            return {}
        prompts, started = self.evaluated, time.monotonic()
        model = self.model_wrapped
        passes = pack_passes(prompts, prompts.pieces(), self.schedule.tokens_per_batch)
        world, rank = self.args.world_size, self.args.process_index
        rounds = math.ceil(len(passes) / world)
        found: Any = 0
        margin = torch.zeros(prompts.order.size, dtype=torch.float64, device=self.args.device)
        meter = Meter("validation", prompts.order.size, console=self.console) if rank == 0 else None
        with torch.no_grad(), without_dropout(model), meter or nullcontext():
            for n in range(rounds):  # every device makes as many passes
                place = n * world + rank
                packed = prompts.pack(passes[min(place, len(passes) - 1)])
                with self.compute_loss_context_manager():
                    logits = self.attention.logits(model, packed)
                if place < len(passes):
                    found = found + self._losses(logits, packed)[1]
                    decision = torch.from_numpy(packed.decision).to(logits.device)
                    yes, no = (logits[decision, answer].double() for answer in self.answers)
                    margin[torch.from_numpy(packed.samples).to(margin.device)] = yes - no
                if meter is not None:
                    meter.advance(min(world * packed.samples.size, meter.total - meter.count))
        found = found if torch.is_tensor(found) else margin.new_zeros(SUMS)
        sums = self.accelerator.reduce(torch.cat([found.to(margin), margin]), "sum").tolist()
        told = _told(sums[:SUMS])
        liked = np.empty(prompts.order.size, bool)
        liked[prompts.order] = prompts.labels
        metrics = {"eval_loss": sums[0] / sums[4], **{f"eval_{name}": value for name, value in told.items()}}
        area = auc(liked, np.array(sums[SUMS:]))
        if area is not None:
            metrics["eval_auc"] = area
        metrics |= {"eval_samples": int(sums[5]), "eval_seconds": round(time.monotonic() - started, 3)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> None:
        """Nothing: a step knows its labels."""

    def floating_point_ops(self, inputs: Any) -> int:
        """Nothing: `palate plan` counts them."""
        return 0

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Nothing: the schedule knows them."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the adapter gets its own card, checkpoints need none."""

    def trained_weights(self) -> dict[str, Any]:
        """The adapter's weights by name, whole; each device must ask, for it may hold a part of them."""
        trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        if self.is_deepspeed_enabled and self.accelerator.deepspeed_config["zero_optimization"]["stage"] == 3:
            import deepspeed

            with deepspeed.zero.GatheredParameters(list(trained.values())):
                return {name: weight.detach().cpu().clone() for name, weight in trained.items()}
        # FSDP's weights are DTensors, of which a device holds its shard.
        whole = {name: w.full_tensor() if hasattr(w, "full_tensor") else w for name, w in trained.items()}
        return {name: weight.detach() for name, weight in whole.items()}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter, on the first device."""
        weights = self.trained_weights()
        if self.args.should_save:
            # Queries to decide on the embeddings itself, PEFT looks the base model up on the hub at every checkpoint.
            folder = output_dir or self.args.output_dir
            self.model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        import torch

        trained = [weight.detach() for weight in self.model.parameters() if weight.requires_grad]
        mine = [(w.to_local() if hasattr(w, "to_local") else w).isfinite().all() for w in trained]
        well = torch.stack(mine).all().to(torch.float32)
        if not self.accelerator.reduce(well, "sum") == self.args.world_size:  # to go on from these would fail for ever
            raise self._not_finite(f"the weights are not finite after step {self.state.global_step}")
        folder = Path(self._get_output_dir(trial))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        untold = self._untold()
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each device has files of its own in it
            if self.args.should_save:
                write_json(checkpoint / UNTOLD, untold)
                mark_whole(checkpoint)
        except MemoryError:
            raise
        except Exception as error:  # torch and safetensors have their own for a full disk
            if "allocate memory" in str(error):
                raise
            discard(checkpoint)  # the space is needed
            raise _unwritten(checkpoint, error) from error
        if self.args.should_save:
            rotate(folder, self.checkpoints_kept, self.state.best_model_checkpoint)

    def _untold(self) -> dict[str, Any]:
        """What the next line of the log will tell of the steps so far, on all devices."""
        return {
            "since": self._globalstep_last_logged,
            "loss": self.accelerator.reduce(self._tr_loss.clone(), "mean").item(),
            "seen": None if self._seen is None else self.accelerator.reduce(self._seen.clone(), "sum").tolist(),
        }

    def _run_epoch(self, **kwargs: Any) -> None:
        """As transformers; nothing for a run that had stopped early, and with what its last leg had not told yet."""
        import torch

        if self.control.should_training_stop:
            return
        checkpoint = kwargs.get("resume_from_checkpoint")
        if checkpoint is not None:
            untold = read_json(Path(checkpoint) / UNTOLD)
            self._globalstep_last_logged = untold["since"]
            self._tr_loss.fill_(untold["loss"])
            if untold["seen"] is not None:
                seen = torch.tensor(untold["seen"], dtype=torch.float64, device=self.args.device)
                self._seen = seen if self.args.process_index == 0 else torch.zeros_like(seen)
        super()._run_epoch(**kwargs)


def _unwritten(checkpoint: Path, error: Exception) -> PalateError:
    """What to say of a checkpoint that could not be written."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError):
        reason = str(cause.strerror)
    else:
        first = first_line(error)
        reason = "the disk is full" if "space left" in first or "unexpected pos" in first else first
    free = shutil.disk_usage(checkpoint.parent).free / 1e6
    return WorkError(
        f"{checkpoint}: cannot be written: {reason} ({free:,.0f} MB are free there); {going_on(checkpoint.parent)}"
    )


def _only(batch: list[Step]) -> Step:
    return batch[0]


def _told(sums: list[float]) -> dict[str, float]:
    """What is told of labelled tokens, from the sums of `AnswerTrainer._losses`.

    `decision_loss` and `accuracy` (of Yes against No) are of the tokens that decide, `constant_loss` of all others.
    `ranking_loss` is there where it has a weight and something to compare.
    """
    nll, decided, correct, ranking, tokens, samples = sums
    told = {"decision_loss": decided / samples, "accuracy": correct / samples}
    if ranking:
        told["ranking_loss"] = ranking / samples
    if tokens > samples:
        told["constant_loss"] = (nll - decided) / (tokens - samples)
    return told


def ranking_loss(margin: "torch.Tensor", packed: Packed) -> "torch.Tensor":
    """RankNet's loss of the targets of each prompt, times their number: how far liked ones lie below disliked ones.

    `margin` (n,) is each target's logit of Yes less that of No. A pair of a liked and a disliked target of one prompt
    costs log(1 + exp(margin of the disliked - margin of the liked)); a prompt, the mean over its pairs. What all
    targets of a prompt have in common, how generous the user is, cancels out. A prompt without a pair costs nothing.

    Source: Burges et al., Learning to rank using gradient descent, ICML 2005. Beside the loss of each answer as in
    Sheng et al., Joint optimization of ranking and calibration, KDD 2023.
    """
    import torch
    from torch.nn.functional import softplus

    liked, prompt = packed.liked, packed.prompt_of
    better, worse = np.nonzero(liked[:, None] & ~liked & (prompt[:, None] == prompt))
    pairs = np.bincount(prompt[better], minlength=packed.prefix.size)
    each = np.bincount(prompt, minlength=packed.prefix.size) / np.maximum(pairs, 1)
    ahead, behind, weight = (torch.from_numpy(a).to(margin.device) for a in (better, worse, each[prompt[better]]))
    return (softplus(margin[behind] - margin[ahead]) * weight.to(margin)).sum()


def auc(liked: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    """The chance that a liked sample scores higher than a disliked one, ties half; None if there is but one kind.

    The Mann-Whitney statistic, from midranks.
    """
    yes = int(liked.sum())
    if not 0 < yes < liked.size:
        return None
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[inverse]
    return float((rank[liked].sum() - yes * (yes + 1) / 2) / (yes * (liked.size - yes)))
