"""Fine-tunes an adapter: from samples to a folder in PEFT's format."""

import dataclasses
import logging
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from rich.console import Console
from transformers import PrinterCallback, TrainingArguments, set_seed

from palate.config import Config
from palate.errors import InputError, InterruptedWorkError, WorkError, is_out_of_memory
from palate.models.adapter import TRAINING, announce, describe, save_adapter
from palate.models.item_embedding import KEY, add_items
from palate.models.load import (
    best_dtype,
    check_vocabulary,
    device,
    load_model,
    quiet,
    tokenizer_of,
    weights_fingerprint,
)
from palate.models.method import attach, held_in, leave_casts_to_autocast
from palate.progress import clock
from palate.prompt.chat import Chat
from palate.prompt.item_tokens import FIELD
from palate.store.artifacts import writing
from palate.store.lock import locked
from palate.tokens.dataset import TokenDataset
from palate.train.answers import AnswerTrainer, auc
from palate.train.attention import choose_attention
from palate.train.card import write_card
from palate.train.checkpoints import StopRequest, going_on, resume_from, unwritten
from palate.train.layers import choose_kernels, recompute
from palate.train.offset import Offset
from palate.train.processes import Processes, join, sharding
from palate.train.report import LOG, EarlyStop, Report
from palate.train.schedule import Schedule, rate_of, schedule_of
from palate.train.training_prompts import FromBaseline, TrainingPrompts, prompts_of

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """The result of a training run."""

    adapter: Path
    samples: int
    """Samples trained at least once; fewer than were drawn if `max_steps` ends the run earlier."""
    unrated: int
    """The unrated pairs among the samples that were drawn."""
    samples_available: int
    steps: int
    samples_per_step: int
    resumed_at: int
    """The step of the checkpoint that the run resumed from; 0 if it started anew."""
    seconds: float
    """Time of this run's steps, without loading and tokenizing."""
    waited: float
    """Seconds of these in which the device was idle until the next step's samples were composed."""
    prompts: int
    """Number of prompts that hold the samples."""
    liked: float
    """Share of samples with the answer Yes; unrated pairs do not count."""
    best_step: int | None
    """The step whose weights were kept; None: the last."""
    train_loss: float | None
    """Mean over the last tenth of the logged steps (of all steps if none was logged), per labelled token.

    None if no step was logged and the run resumed from a checkpoint.
    """
    eval_loss: float | None
    """Per token of the response."""
    eval_decision_loss: float | None
    """Per answer: of the decision token alone."""
    eval_auc: float | None
    trained_weights: int
    attention: str
    """The attention implementation that keeps the targets of a prompt apart."""
    attention_refused: tuple[str, ...]
    """The implementations before it that failed the probe, each with the reason."""
    dtype: str
    peak_memory: int
    """Peak resident memory of the process, or peak memory of the GPU, in bytes."""


class _Fit(NamedTuple):
    """What the training loop and the final evaluation return."""

    train_loss: float
    seconds: float
    metrics: dict[str, float]


def train(
    config: Config,
    train: "Dataset | TokenDataset",
    eval: "Dataset | TokenDataset | None",
    out: Path,
    *,
    beside: FromBaseline | None = None,
    data_manifest: Mapping[str, Any] | None = None,
    console: Console | None = None,
    fitted: Callable[[Config, Schedule], Config] = lambda config, schedule: config,
) -> TrainResult:
    """Fine-tune the config's base model; writes `out/adapter` and `out/training_log.jsonl`.

    `train` and `eval` are token datasets of the config's tokenizer, or Alpaca examples, which this function
    tokenizes. `train.max_samples` of them are drawn with the seed. `beside` has what `train.teacher` or
    `train.offset` says of all samples. `fitted` resolves `train.gradient_checkpointing: auto` for this machine; without
    it, `auto` is `false`. An interrupted run resumes from its last checkpoint if model, data and options
    are the same. Ctrl-C and SIGTERM end with a checkpoint.

    Raises `InputError` for a model or options that do not fit, `WorkError` if training was stopped, the
    loss is not finite, or memory or disk are exhausted.
    """
    if len(train) == 0:
        raise InputError("there are no training samples, expected at least one: prepare more data", config.data_path)
    processes, beside = join(), beside or FromBaseline()
    chat = Chat(tokenizer_of(config), config.prompt.yes, config.prompt.no)
    held = config.model.model_copy(update={"dtype": held_in(config.train, config.model.dtype)})
    chat, shown = _with_vectors(config, chat, beside)
    model = load_model(held, for_training=True, on=_loading_device(config))
    check_vocabulary(model, chat.tokenizer)
    about = describe(config, chat, model) | shown
    prompts = prompts_of(config, chat, train, eval, beside)
    schedule = schedule_of(config, prompts)
    checkpoints = out / "checkpoints"
    fingerprint = _fingerprint(config, prompts, weights_fingerprint(model)) | _layout(processes)
    if beside.vectors is not None:
        fingerprint["item vectors"] = beside.vectors.identity
    started = time.monotonic()
    try:
        with quiet():
            trainer = _trainer(fitted(config, schedule), model, chat, schedule, prompts, checkpoints)
    except (ValueError, RuntimeError, ImportError, MemoryError) as error:  # an option that PEFT or transformers refuses
        explained = _explained(error, None, checkpoints)
        raise explained or InputError(textwrap.shorten(str(error), 200), "train") from error
    trainer.console = console
    # Only now, when nothing is left to refuse, are checkpoints of other options moved away.
    with _alone(checkpoints, processes):
        checkpoint = processes.first(lambda: resume_from(checkpoints, fingerprint))
        with StopRequest(echo=1.0 if processes.world > 1 else 0.0) as stop, quiet():
            report = Report(stop, out / LOG, schedule, console, processes)
            trainer.add_callback(report)
            trainer.stopped = report.stopped
            fit = _fit(trainer, stop, report, checkpoint, started)
        result = _result(config, out / "adapter", trainer, prompts, report, fit)
        weights = trainer.trained_weights()
        if processes.is_first:
            facts = dataclasses.asdict(result) | {"adapter": "adapter", "data_manifest": data_manifest}
            about |= _corrects(trainer, beside)
            finish = partial(_finish, out, beside)
            save_adapter(trainer.model, result.adapter, about, {TRAINING: facts}, weights, finish)
            write_card(result.adapter, config)
        processes.wait()  # no process returns before the adapter is written
    _log_result(result)
    trainer.attention.warn()  # again, at the end of the run's log
    return result


@contextmanager
def _alone(checkpoints: Path, processes: Processes) -> Iterator[None]:
    """Hold the lock of a run's checkpoints: a second training waits, and resumes from the last one of the first."""
    with ExitStack() as stack:

        def wait() -> None:
            checkpoints.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(checkpoints))

        with writing(checkpoints):
            processes.first(wait)
        yield


def _finish(out: Path, beside: FromBaseline, adapter: Path) -> None:
    """Complete an adapter's temporary folder; what a kill could leave out is not added after the rename."""
    if beside.write is not None:
        beside.write(adapter)
    announce(out, adapter)


def _with_vectors(config: Config, chat: Chat, beside: FromBaseline) -> tuple[Chat, dict[str, Any]]:
    """The chat with the tokens of the items, and their entry in `palate.json`; unchanged without `{item_vector}`."""
    if not config.prompt.names_vectors:
        return chat, {}
    if beside.vectors is None:
        raise InputError(
            "shows vectors of items, which these data do not have: expected prepared data", f"prompt: {{{FIELD}}}"
        )
    if sharding() in ("fsdp2", "zero3"):
        raise InputError(f"cannot be spread over devices ({sharding()}), expected DDP", f"prompt: {{{FIELD}}}")
    count = len(beside.vectors.values)
    chat = chat.with_items(count)
    if not chat.items:
        raise InputError("has item tokens already, expected the base of its training", config.model.base)
    return chat, {KEY: {"first": chat.first_item, "count": count, "data": beside.vectors_data}}


def _corrects(trainer: AnswerTrainer, beside: FromBaseline) -> dict[str, Any]:
    """The entry in `palate.json` of the baseline that the adapter corrects; empty if it corrects none."""
    if trainer.offset is None:
        return {}
    slope, intercept = trainer.offset.slope_and_intercept
    return {"offset": {**(beside.about or {}), "alpha": slope, "intercept": intercept}}


def _log_result(result: TrainResult) -> None:
    log.info(
        "trained on %d samples in %s%s%s",
        result.samples,
        clock(result.seconds),
        "" if result.train_loss is None else f", loss {result.train_loss:.4f}",
        "" if result.eval_auc is None else f", validation AUC {result.eval_auc:.4f}",
    )
    log.debug(
        "%.2g %% of the time waiting for samples, peak memory %.1f GB; adapter in %s",
        100 * result.waited / result.seconds,
        result.peak_memory / 1e9,
        result.adapter,
    )


def _fit(trainer: AnswerTrainer, stop: StopRequest, report: Report, checkpoint: Path | None, started: float) -> _Fit:
    """Train and evaluate; raises `InterruptedWorkError` after a signal."""
    checkpoints = Path(trainer.args.output_dir)
    try:
        outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.mean_loss()  # of the steps after the last line of the log
        seconds = time.monotonic() - started
        report.close()
        metrics = {} if stop.signal else trainer.evaluate()
    except KeyboardInterrupt:
        if stop.signal is None:
            raise
        raise InterruptedWorkError(f"stopped at once by a second signal; {going_on(checkpoints)}") from None
    except Exception as error:
        explained = _explained(error, trainer.state.global_step, checkpoints)
        if explained is None:
            raise
        raise explained from error
    finally:
        report.close()
    if stop.signal is not None:  # after the last step too: a signal cancels evaluation and adapter
        raise InterruptedWorkError(
            f"stopped by {stop.signal} at step {trainer.state.global_step} of {trainer.state.max_steps}; "
            + going_on(checkpoints)
        )
    return _Fit(outcome.training_loss, seconds, metrics)


def _result(
    config: Config, adapter: Path, trainer: AnswerTrainer, prompts: TrainingPrompts, report: Report, fit: _Fit
) -> TrainResult:
    state = trainer.state
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    last = losses[-max(1, len(losses) // 10) :]
    return TrainResult(
        adapter=adapter,
        samples=min(prompts.train.order.size, state.global_step * trainer.schedule.samples_per_step),
        unrated=prompts.unrated,
        samples_available=prompts.available,
        prompts=len(prompts.train),
        liked=prompts.liked,
        steps=state.global_step,
        samples_per_step=trainer.schedule.samples_per_step,
        best_step=state.best_global_step if config.train.looks_for_best else None,
        resumed_at=report.resumed_at,
        seconds=fit.seconds,
        waited=trainer.waited,
        train_loss=sum(last) / len(last) if last else None if report.resumed_at else fit.train_loss,
        eval_loss=fit.metrics.get("eval_loss"),
        eval_decision_loss=fit.metrics.get("eval_decision_loss"),
        eval_auc=fit.metrics.get("eval_auc"),
        trained_weights=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        attention=trainer.attention.way,
        attention_refused=trainer.attention.refused,
        dtype=str(best_dtype(config.model.dtype)).removeprefix("torch."),
        peak_memory=_peak_memory(),
    )


def _fingerprint(config: Config, prompts: TrainingPrompts, weights: str) -> dict[str, Any]:
    """Everything that determines the weights of each step; not how often they are logged or saved."""
    options = config.train.decisive()
    del options["max_samples"], options["draw_by"]  # the data's hash covers the drawn samples only
    data = {"data": prompts.train.identity}
    if prompts.taught is not None:
        data["taught"] = sha256(prompts.taught.tobytes()).hexdigest()
    if prompts.offset is not None:
        data["offset logits"] = sha256(prompts.offset.tobytes()).hexdigest()
    if config.train.looks_for_best and prompts.evaluated is not None:
        data["evaluated"] = prompts.evaluated.identity
    model = config.model.model_dump(mode="json", include={"dtype", "quantization"})
    return {**data, "base weights": weights, "seed": config.train_seed, **model, **options}


def _loading_device(config: Config) -> torch.device | None:
    """The device on which the base model is loaded; None for the one on which it is trained.

    A model that is sharded over the devices may not fit into one of them.
    """
    if sharding() not in ("fsdp2", "zero3"):
        return None
    if config.model.quantization != "none":
        raise InputError(
            f"{config.model.quantization} cannot be spread over devices, expected none, or DDP", "model.quantization"
        )
    return torch.device("cpu")


def _layout(processes: Processes) -> dict[str, Any]:
    """The sharding that a checkpoint depends on; a run on another number of devices cannot read DeepSpeed's."""
    how = sharding()
    if how is None:
        return {}
    return {"sharding": how} if how == "fsdp2" else {"sharding": f"{how} over {processes.world} devices"}


def _trainer(
    config: Config, model: Any, chat: Chat, schedule: Schedule, prompts: TrainingPrompts, folder: Path
) -> AnswerTrainer:
    """A trainer of the model with PEFT's adapter, and with a projector of the items' vectors; it prints nothing."""
    options = config.train
    _check_validation(config, prompts)
    args = _arguments(config, schedule, prompts, folder)
    # `prepare_model_for_kbit_training` is not called: PEFT freezes a model in 4 bits, and an upcast of embeddings and
    # head to float32 (5 GB for Qwen3-8B) has no benefit.
    set_seed(config.train_seed)
    peft = attach(model, options)
    if prompts.shown is not None:
        add_items(peft, prompts.shown.vectors, int(chat.first_item or 0))
    recompute(peft, options)  # for the probe already
    answers = chat.decision.yes_id, chat.decision.no_id
    offset = None
    if prompts.offset is not None:
        if schedule.steps == 1:
            raise InputError(
                "one step only measures the untrained model, expected two or more (train.max_steps, train.epochs)",
                "train.offset",
            )
        offset = Offset(args.device, train=prompts.offset, val=prompts.evaluated_offset)
    trainer = AnswerTrainer(
        peft, args, schedule, answers, prompts.evaluated, options.ranking_weight, prompts.taught, offset
    )
    trainer.rated = prompts.rated
    if prompts.shown is not None:
        trainer.change = prompts.shown.to_users(int(chat.first_item or 0))
    longest = int(max(p.lengths.max() for p in (prompts.train, prompts.evaluated) if p is not None))
    autocast = trainer.accelerator.autocast
    with autocast():
        if torch.is_autocast_enabled(args.device.type):
            leave_casts_to_autocast(peft)
    trainer.attention = choose_attention(peft, options.attention, options.targets_per_prompt, longest, autocast)
    choose_kernels(peft, options, trainer.attention, longest, schedule.steps, autocast)
    trainer.remove_callback(PrinterCallback)
    if sharding() == "fsdp2" and not trainer.is_fsdp_enabled:  # accelerate would use DDP without a message
        raise InputError(f"accelerate does not shard a model on {device().type}, expected a GPU, or DDP", "fsdp_config")
    if options.early_stopping is not None:
        trainer.add_callback(EarlyStop(options.early_stopping))
    return trainer


def _check_validation(config: Config, prompts: TrainingPrompts) -> None:
    """Raise `InputError` if the best weights are wanted and the validation samples have no AUC."""
    if not config.train.looks_for_best:
        return
    if prompts.evaluated is None:
        raise InputError(
            "there are no validation samples to find the best weights on, raise prepare.val_ratio", config.data_path
        )
    if auc(prompts.evaluated.labels, prompts.evaluated.labels.astype(float)) is None:
        raise InputError(
            "all validation samples have one answer, so that there is no AUC: raise prepare.max_eval", config.data_path
        )


def _arguments(config: Config, schedule: Schedule, prompts: TrainingPrompts, folder: Path) -> TrainingArguments:
    options, on = config.train, device()
    evaluated = options.eval_steps is not None and prompts.evaluated is not None
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=schedule.steps,
        learning_rate=rate_of(options, schedule.samples_per_step),
        lr_scheduler_type=options.scheduler,
        # transformers 5 reads a value below 1 as a share of all steps. The first warm-up step has a learning rate of 0:
        # a run of one step would learn nothing.
        warmup_steps=options.warmup_ratio if schedule.steps > 1 else 0,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        optim=options.optimizer,
        adam_beta2=options.adam_beta2,
        logging_steps=options.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluated else "no",
        eval_steps=options.eval_steps,
        save_strategy="steps",
        save_steps=options.eval_steps if options.looks_for_best else options.save_steps,
        save_total_limit=options.save_total_limit,
        load_best_model_at_end=options.looks_for_best,
        metric_for_best_model="auc" if options.looks_for_best else None,
        greater_is_better=True if options.looks_for_best else None,
        report_to=options.report_to or "none",
        run_name=config.name,
        seed=config.train_seed,
        data_seed=config.train_seed,
        bf16=best_dtype(config.model.dtype, on) is torch.bfloat16,
        use_cpu=on.type == "cpu",
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
    )


def _explained(error: Exception, step: int | None, checkpoints: Path) -> WorkError | None:
    """The cause and remedy if memory or disk are exhausted, else None; `step` steps are done, None before training."""
    text = str(error)
    if is_out_of_memory(error):
        return WorkError(
            f"out of memory{'' if step is None else f' at step {step + 1}'}: try a smaller train.tokens_per_batch (or "
            "train.batch_size with more train.gradient_accumulation), or train.gradient_checkpointing=true, which go "
            "on from the last checkpoint, or model.quantization=nf4, which starts over"
        )
    failed = None if step is None else unwritten(checkpoints / f"checkpoint-{step}", error)
    if failed is None and isinstance(error, OSError):
        return WorkError(f"{error.filename or checkpoints}: {error.strerror or text}; {going_on(checkpoints)}")
    return failed


def _peak_memory() -> int:
    import resource

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
