"""transformers' Trainer over packed prompts: a whole optimizer step a batch, logits only where there is a label."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, softplus
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback

from palate.errors import WorkError
from palate.models.item_embedding import items_of
from palate.models.item_vectors import FILE as ITEM_VECTORS
from palate.progress import Meter
from palate.store.artifacts import read_json, write_json
from palate.tokens.packed import Packed, upload
from palate.tokens.shared import SharedHistory
from palate.train.attention import Attention
from palate.train.checkpoints import mark_whole, rotate
from palate.train.offset import Offset
from palate.train.probe import without_dropout
from palate.train.schedule import Schedule, pack_passes

log = logging.getLogger(__name__)

UNLOGGED = "unlogged.json"
"""In a checkpoint: loss and sums of the steps since the last line of the log."""
EARLIER_UNLOGGED = "untold.json"
"""Its name in checkpoints of earlier versions."""
SUMS = 6
"""Number of the sums that `AnswerTrainer._losses` returns."""


class Step(NamedTuple):
    """The work of one device in one optimizer step: its passes, which of them count, the labels on all devices."""

    passes: list[Packed]
    counts: list[bool]
    labelled: int


Change = Callable[[Packed], Packed]


class Steps(Dataset):  # type: ignore[misc]
    """The steps of a run on one device; each is composed on access, and `change` applied to its passes."""

    def __init__(self, schedule: Schedule, rank: int, world: int, change: Change | None = None) -> None:
        self.schedule, self.rank, self.world, self.change = schedule, rank, world, change

    def __len__(self) -> int:
        return self.schedule.steps

    def __getitem__(self, step: int) -> Step:
        passes = self.schedule.passes(step, self.rank, self.world)
        packed = [self.schedule.prompts.pack(each.pieces) for each in passes]
        packed = list(map(self.change, packed)) if self.change else packed
        return Step(packed, [each.counts for each in passes], self.schedule.trained(step))


class AnswerTrainer(Trainer):  # type: ignore[misc]
    """Trains a causal model on the labelled tokens of packed prompts.

    The loss of a step is the mean negative log-likelihood of its labelled tokens, on however many devices and in
    however many passes; with `ranking_weight`, each sample's decision has that many times its `ranking_loss` added.
    With a teacher, the decision's target is the teacher's probability of Yes and No instead of the answer. With an
    offset, the decision's loss is that of P(like) by the sum of a baseline's logit and the correction. Logs tell the
    decision token's loss and accuracy apart from the rest of the response, which is the same in every sample.
    """

    attention: Attention
    """Set before training: `choose_attention` needs this trainer's autocast."""
    control: Any
    console: Console | None = None
    """Shows the progress of `evaluate`."""
    change: Change | None = None
    """What training passes show that differs from evaluation: vectors of items without the user's ratings."""
    rated: NDArray[np.bool_] | None = None
    """Whether each sample of the dataset has a rating, (samples,); None: all have. The others are taught."""
    stopped: Callable[[], bool] = staticmethod(lambda: False)
    """Whether a signal asks any device to stop; `evaluate` then leaves off unless it looks for the best checkpoint."""

    def __init__(
        self,
        model: Any,
        args: Any,
        schedule: Schedule,
        answers: tuple[int, int],
        evaluated: SharedHistory | None = None,
        ranking_weight: float = 0.0,
        taught: NDArray[np.float64] | None = None,
        offset: Offset | None = None,
    ) -> None:
        """`answers` are the ids of Yes and No; `evaluate` computes its metrics on the prompts `evaluated`.

        `taught` (samples,) is P(like) by the teacher, of each sample in the dataset's order.
        """
        self.schedule, self.answers, self.evaluated = schedule, answers, evaluated
        self.ranking_weight, self.offset = ranking_weight, offset
        self.taught = None if taught is None else torch.from_numpy(taught).to(args.device, torch.float32)
        # transformers would remove an old checkpoint before the new one is marked as whole.
        self.checkpoints_kept, args.save_total_limit = args.save_total_limit, None
        self.waited = 0.0
        """Seconds in which the device was idle until the next step's samples were composed."""
        if args.n_gpu > 1:  # DataParallel would cut `logits_to_keep` and the passes of a step
            log.warning("trains on 1 of %d GPUs: to use all, start `palate train --launch %d`", args.n_gpu, args.n_gpu)
            args._n_gpu = 1
        super().__init__(model=model, args=args, eval_dataset=evaluated)  # transformers only tests it for None
        self.logged_at = 0
        """The step of the last line of the log."""
        self.loss = torch.zeros((), device=args.device)
        """Sum of this device's losses since then; `sums` is the sum of what `_losses` returns."""
        self.sums = torch.zeros(SUMS, dtype=torch.float64, device=args.device)
        self.add_callback(_Checkpoints(self))

    def get_train_dataloader(self) -> Any:
        """One optimizer step an item; the whole run is one epoch to transformers, which then skips to any step."""
        steps = Steps(self.schedule, self.args.process_index, self.args.world_size, self.change)
        return DataLoader(steps, batch_size=1, shuffle=False, collate_fn=itemgetter(0))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Step], None]:
        """The next step, none if a resumed run had stopped early; adds the time it takes to `waited`."""
        begun = time.monotonic()
        found = [] if self.control.should_training_stop else list(islice(epoch_iterator, num_batches))
        self.waited += time.monotonic() - begun
        return found, None

    def training_step(self, model: Any, inputs: Step, num_items_in_batch: Any = None) -> torch.Tensor:
        """Compute all passes of a step and return their loss; the host waits for no result."""
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
                loss, seen = self._losses(logits, packed, self._taught(packed), self._beside(packed))
                # Data parallelism averages gradients over the devices; this makes it a sum over samples.
                loss = loss * (world / inputs.labelled if counts else 0.0)
                self.accelerator.backward(loss, **kwargs)
            if counts:
                self.sums += seen
                if self.offset is not None:
                    self.offset.observe(self._margin(logits.detach(), packed))
            total += loss.detach()
        if self.offset is not None:
            self.offset.settle(lambda sums: self.accelerator.reduce(sums, "sum"))
        self.loss += total
        return total

    def mean_loss(self) -> float:
        """The loss since the last line of the log, of all devices; raises `WorkError` if it is not finite.

        All devices must call this. Reading it waits for the GPU, so that only logged steps do.
        """
        loss = self.accelerator.reduce(self.loss, "mean").item() / max(1, self.state.global_step - self.logged_at)
        if not math.isfinite(loss):
            raise self._not_finite(f"the loss is {loss} at step {self.state.global_step}")
        return float(loss)

    def _not_finite(self, what: str) -> WorkError:
        return WorkError(
            f"{what}: try a lower train.learning_rate than {self.args.learning_rate:g}, or model.dtype=float32; "
            f"training then starts over, and the checkpoints in {self.args.output_dir} are set aside"
        )

    def _taught(self, packed: Packed) -> Any | None:
        """The teacher's P(like) of a training pass's samples, (n,)."""
        return None if self.taught is None else self.taught[upload(packed.samples, self.taught.device)]

    def _beside(self, packed: Packed, split: str = "train") -> Any | None:
        """The baseline's logit of a pass's samples, (n,)."""
        if self.offset is None:
            return None
        logit = self.offset.logit[split]
        return logit[upload(packed.samples, logit.device)]

    def _margin(self, logits: Any, packed: Packed) -> Any:
        """The logit of Yes less that of No of a pass's samples, (n,) float32."""
        decision = upload(packed.decision, logits.device)
        yes, no = (logits[decision, answer].float() for answer in self.answers)
        return yes - no

    def _losses(
        self, logits: Any, packed: Packed, taught: Any | None = None, beside: Any | None = None
    ) -> tuple[Any, Any]:
        """The sum of the samples' losses, and the sums (SUMS,) float64 that `_rates` divides.

        `taught` (n,) is the teacher's P(like) of the pass's samples, `beside` (n,) the logit of the baseline that the
        model corrects.
        """
        device = logits.device
        targets = upload(packed.targets.astype(np.int64), device)
        decision, liked = upload(packed.decision, device), upload(packed.liked, device)
        logits = logits.float()
        nll = cross_entropy(logits, targets, reduction="none")
        margin = self._margin(logits, packed)
        if taught is not None:
            no = logits[decision, self.answers[1]]
            nll = nll.index_copy(0, decision, logits[decision].logsumexp(-1) - no - taught * margin)
        if beside is not None and self.offset is not None:
            margin = self.offset.sum(beside, margin)
            nll = nll.index_copy(0, decision, softplus(torch.where(liked, -margin, margin)))
        rated = None if taught is None or self.rated is None else self.rated[packed.samples]
        ranking = ranking_loss(margin, packed, rated) if self.ranking_weight else margin.new_zeros(())
        if taught is not None and rated is not None:  # accuracy: the teacher's answer is the only one
            liked = torch.where(upload(rated, device), liked, taught > 0.5)
        with torch.no_grad():
            correct = ((margin > 0) == liked).sum()
            seen = torch.stack([value.double() for value in (nll.sum(), nll[decision].sum(), correct, ranking)])
            sums = torch.cat([seen, upload(np.array([nll.numel(), decision.numel()], np.float64), device)])
        return nll.sum() + self.ranking_weight * ranking, sums

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As transformers, with the loss since the last line also of an earlier process, and the decision's metrics."""
        if "loss" in logs:
            logs["loss"] = self.mean_loss()
            logs |= _rates(self.accelerator.reduce(self.sums, "sum").tolist())
            self.logged_at = self.state.global_step
            self.loss.zero_()
            self.sums.zero_()
        share = self.state.epoch
        if share is not None:  # to transformers the run is one epoch
            self.state.epoch = round(share * self.schedule.steps / self.schedule.steps_per_epoch, 4)
        super().log(logs, start_time)
        self.state.epoch = share

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Loss of the whole response, and loss, accuracy and AUC of the decision, on the prompts to evaluate."""
        if self.evaluated is None:
            return {}
        prompts, started = self.evaluated, time.monotonic()
        model = self.model_wrapped
        passes = pack_passes(prompts, prompts.pieces(), self.schedule.tokens_per_batch)
        world, rank = self.args.world_size, self.args.process_index
        rounds = math.ceil(len(passes) / world)
        found = torch.zeros(SUMS, dtype=torch.float64, device=self.args.device)
        margin = torch.zeros(prompts.order.size, dtype=torch.float64, device=self.args.device)
        meter = Meter("validation", prompts.order.size, console=self.console) if rank == 0 else None
        with torch.no_grad(), without_dropout(model), meter or nullcontext():
            for n in range(rounds):  # every device makes as many passes
                if self.args.metric_for_best_model is None and self.stopped():
                    self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, {})
                    return {}
                place = n * world + rank
                packed = prompts.pack(passes[min(place, len(passes) - 1)])
                with self.compute_loss_context_manager():
                    logits = self.attention.logits(model, packed)
                if place < len(passes):
                    beside = self._beside(packed, "val")
                    found += self._losses(logits, packed, None, beside)[1]
                    own = self._margin(logits, packed)
                    if self.offset is not None:
                        own = self.offset.sum(beside, own)
                    margin[upload(packed.samples, margin.device)] = own.double()
                if meter is not None:
                    meter.advance(min(world * packed.samples.size, meter.total - meter.count))
        sums = self.accelerator.reduce(torch.cat([found, margin]), "sum").tolist()
        liked = np.empty(prompts.order.size, bool)
        liked[prompts.order] = prompts.labels
        rates = {f"eval_{name}": value for name, value in _rates(sums[:SUMS]).items()}
        metrics = {"eval_loss": sums[0] / sums[4], **rates}
        area = auc(liked, np.array(sums[SUMS:]))
        if area is not None:
            metrics["eval_auc"] = area
        metrics |= {"eval_samples": int(sums[5]), "eval_seconds": round(time.monotonic() - started, 3)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: Any) -> int:
        """0: `palate plan` counts them."""
        return 0

    def trained_weights(self) -> dict[str, Any]:
        """The adapter's whole weights by name; call it on all devices, each of which may hold a part of them."""
        trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        if self.is_deepspeed_enabled and self.accelerator.deepspeed_config["zero_optimization"]["stage"] == 3:
            import deepspeed

            with deepspeed.zero.GatheredParameters(list(trained.values())):
                return {name: weight.detach().cpu().clone() for name, weight in trained.items()}
        # FSDP's weights are DTensors, of which a device holds its shard.
        whole = {name: w.full_tensor() if hasattr(w, "full_tensor") else w for name, w in trained.items()}
        return {name: weight.detach() for name, weight in whole.items()}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_projector(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_projector(str(self.state.best_model_checkpoint))

    def _load_projector(self, checkpoint: str) -> None:
        if (items := items_of(self.model)) is not None:
            items.fill(load_file(Path(checkpoint) / ITEM_VECTORS))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter, on the first device; raises `WorkError` if the loss or a weight is not finite."""
        self.mean_loss()
        weights = self.trained_weights()
        finite = torch.stack([weight.isfinite().all() for weight in weights.values()]).all()
        if not self.accelerator.reduce(finite.to(self.args.device, torch.float32), "sum") == self.args.world_size:
            # Every run that resumes from this checkpoint would fail.
            raise self._not_finite(f"the weights are not finite after step {self.state.global_step}")
        if self.args.should_save:
            # To decide on the embeddings itself, PEFT would query the hub for the base model at every checkpoint.
            folder = output_dir or self.args.output_dir
            self.model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
            if (items := items_of(self.model)) is not None:
                items.save(Path(folder))


class _Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Completes the checkpoints that transformers writes: the sums that are not logged yet, and the mark."""

    def __init__(self, trainer: AnswerTrainer) -> None:
        self.trainer = trainer

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint when all devices have written theirs, then remove old ones."""
        trainer, checkpoint = self.trainer, Path(args.output_dir) / f"checkpoint-{state.global_step}"
        unlogged = {
            "since": trainer.logged_at,
            "loss": trainer.accelerator.reduce(trainer.loss, "mean").item(),
            "seen": trainer.accelerator.reduce(trainer.sums, "sum").tolist(),
        }
        if trainer.offset is not None:
            unlogged["centre"] = None if trainer.offset.centre is None else float(trainer.offset.centre)
        trainer.accelerator.wait_for_everyone()
        if args.should_save:
            write_json(checkpoint / UNLOGGED, unlogged)
            mark_whole(checkpoint)
            rotate(checkpoint.parent, trainer.checkpoints_kept, state.best_model_checkpoint)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Continue the sums of the checkpoint that the run resumes from."""
        if state.global_step == 0:
            return
        unlogged = read_unlogged(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self.trainer.logged_at = unlogged["since"]
        self.trainer.loss.fill_(unlogged["loss"])
        if self.trainer.offset is not None:
            self.trainer.offset.centre = unlogged["centre"]
        if unlogged["seen"] and args.process_index == 0:  # null in checkpoints of earlier versions
            self.trainer.sums += self.trainer.sums.new_tensor(unlogged["seen"])
        found = any(entry["step"] == state.global_step and "eval_loss" in entry for entry in state.log_history)
        due = args.eval_strategy == "steps" and state.global_step % args.eval_steps == 0
        if due and not found and args.metric_for_best_model is None:  # a signal had cancelled this evaluation
            self.trainer.evaluate()


def read_unlogged(checkpoint: Path) -> dict[str, Any]:
    """The loss and sums that a checkpoint stores for the next line of the log."""
    file = checkpoint / UNLOGGED
    stored: dict[str, Any] = read_json(file if file.is_file() else checkpoint / EARLIER_UNLOGGED)
    return stored


def _rates(sums: list[float]) -> dict[str, float]:
    """Metrics of labelled tokens, from the sums of `AnswerTrainer._losses`.

    `decision_loss` and `accuracy` (of Yes against No) are means over the decision tokens, `constant_loss` over all
    others. `ranking_loss` is included where it has a weight and a pair to compare.
    """
    nll, decided, correct, ranking, tokens, samples = sums
    rates = {"decision_loss": decided / samples, "accuracy": correct / samples}
    if ranking:
        rates["ranking_loss"] = ranking / samples
    if tokens > samples:
        rates["constant_loss"] = (nll - decided) / (tokens - samples)
    return rates


def ranking_loss(margin: torch.Tensor, packed: Packed, rated: NDArray[np.bool_] | None = None) -> torch.Tensor:
    """RankNet's loss of the targets of each prompt, times their number: how far liked ones lie below disliked ones.

    `margin` (n,) is each target's logit of Yes less that of No. A pair of a liked and a disliked target of one prompt
    costs log(1 + exp(margin of the disliked - margin of the liked)); a prompt, the mean over its pairs. What all
    targets of a prompt have in common, how generous the user is, cancels out. A prompt without a pair costs nothing.
    Targets that are not `rated` (n,) are left out: they have no answer, and an order by the teacher's probability would
    count 0.51 above 0.49 as much as 0.9 above 0.1. The loss of their decisions learns its differences as they are.

    Source: Burges et al., Learning to rank using gradient descent, ICML 2005. Beside the loss of each answer as in
    Sheng et al., Joint optimization of ranking and calibration, KDD 2023.
    """
    liked, prompt = packed.liked, packed.prompt_of
    rated = np.ones(liked.size, bool) if rated is None else rated
    better, worse = np.nonzero((liked & rated)[:, None] & (~liked & rated) & (prompt[:, None] == prompt))
    pairs = np.bincount(prompt[better], minlength=packed.prefix.size)
    each = np.bincount(prompt[rated], minlength=packed.prefix.size) / np.maximum(pairs, 1)
    ahead, behind, weight = (upload(a, margin.device) for a in (better, worse, each[prompt[better]]))
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
