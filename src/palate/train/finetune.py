"""Fine-tunes an adapter: from Alpaca examples to a folder in PEFT's format."""

import dataclasses
import json
import logging
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from palate.artifacts import write_json
from palate.config import Config
from palate.errors import InputError, InterruptedWorkError, WorkError
from palate.models import best_dtype, device, load_base_model, quiet, weights_fingerprint
from palate.progress import Meter, clock
from palate.prompt.chat import Chat
from palate.tokens.cache import content_hash, preprocess_datasets_parallel
from palate.tokens.dataset import TokenDataset
from palate.tokens.tokenizer import load_tokenizer
from palate.train.adapter import describe, save_adapter
from palate.train.card import RUN, write_card
from palate.train.checkpoints import StopRequest, resume_from

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console

log = logging.getLogger(__name__)

AnyDataset = TypeVar("AnyDataset", "Dataset", TokenDataset)
LOG = "training_log.jsonl"


@dataclass(frozen=True)
class TrainResult:
    """What a training run came to."""

    adapter: Path
    samples: int
    samples_available: int
    steps: int
    resumed_at: int
    """The step that the run went on from; 0 if it began anew."""
    seconds: float
    """Time of this run's steps, without loading and tokenizing."""
    train_loss: float | None
    """Mean over the last tenth of the logged steps (of all steps if none was logged), per labelled token.

    None where none was logged and the run is the second leg of an interrupted one.
    """
    eval_loss: float | None
    trained_weights: int
    dtype: str
    peak_memory: int
    """Largest resident memory of the process so far, or memory of the GPU, in bytes."""


def train(
    config: Config,
    train: "Dataset | TokenDataset",
    eval: "Dataset | TokenDataset | None",
    out: Path,
    *,
    data_manifest: Mapping[str, Any] | None = None,
    console: "Console | None" = None,
) -> TrainResult:
    """Fine-tune the config's base model; writes `out/adapter` and `out/training_log.jsonl`.

    `train` and `eval` are token datasets of the config's tokenizer, or Alpaca examples, which are tokenized
    here. `train.max_samples` of them are drawn with the seed. A run that was interrupted goes on from its last
    checkpoint if model, data and options are the same. Ctrl-C and SIGTERM end with a checkpoint.

    Raises `InputError` for a model or options that do not fit, `WorkError` if training was stopped, the
    loss is not finite, or memory or disk are exhausted.
    """
    if len(train) == 0:
        raise InputError("there are no training samples", config.data_path)
    model, tokenizer = load_base_model(config.model, for_training=True)
    if config.tokens.tokenizer is not None:
        tokenizer = load_tokenizer(config.tokens.tokenizer)
    chat = Chat(tokenizer, config.prompt.yes, config.prompt.no)
    _check_vocabulary(model, tokenizer)
    about = describe(config, chat, model)
    chosen = select(train, config.train.max_samples, config.seed)
    tokens, identity = _tokens(config, tokenizer, {"train": chosen, "eval": eval})
    out.mkdir(parents=True, exist_ok=True)
    checkpoints = out / "checkpoints"
    fingerprint = _fingerprint(config, identity, weights_fingerprint(model))
    checkpoint = resume_from(checkpoints, fingerprint)
    started = time.monotonic()
    try:
        with quiet():
            trainer = _trainer(config, model, tokenizer, tokens, checkpoints)
    except (ValueError, RuntimeError, ImportError) as error:  # an option that TRL or transformers refuses
        explained = _explained(error)
        if explained is not error:
            raise explained from error
        raise InputError(textwrap.shorten(str(error), 200), "train") from error
    with StopRequest() as stop, quiet():
        report = _report_to(trainer, stop, out / LOG, config, console)
        try:
            outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except (MemoryError, RuntimeError, OSError) as error:
            raise _explained(error) from error
        finally:
            report.close()
        if stop.signal is not None and trainer.state.global_step < trainer.state.max_steps:
            raise InterruptedWorkError(
                f"stopped by {stop.signal} at step {trainer.state.global_step} of {trainer.state.max_steps}, "
                f"the checkpoint lies in {checkpoints}: the same command goes on from there"
            )
    seconds = time.monotonic() - started
    with quiet():
        eval_loss = trainer.evaluate()["eval_loss"] if "eval" in tokens else None
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last = history[-max(1, len(history) // 10) :]
    result = TrainResult(
        adapter=out / "adapter",
        samples=len(chosen),
        samples_available=len(train),
        steps=trainer.state.global_step,
        resumed_at=report.resumed_at,
        seconds=seconds,
        train_loss=sum(last) / len(last) if last else None if report.resumed_at else outcome.training_loss,
        eval_loss=eval_loss,
        trained_weights=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        dtype=str(best_dtype(config.model.dtype)).removeprefix("torch."),
        peak_memory=_peak_memory(),
    )
    save_adapter(trainer.model, result.adapter, about)
    facts = dataclasses.asdict(result) | {"adapter": "adapter", "data_manifest": data_manifest}
    write_json(result.adapter / RUN, facts)
    write_card(result.adapter, config)
    log.info(
        "trained on %d samples in %s, %speak memory %.1f GB; adapter in %s",
        result.samples,
        clock(seconds),
        "" if result.train_loss is None else f"loss {result.train_loss:.4f}, ",
        result.peak_memory / 1e9,
        result.adapter,
    )
    return result


def _tokens(
    config: Config, tokenizer: Any, data: Mapping[str, "Dataset | TokenDataset | None"]
) -> tuple[dict[str, "Dataset"], str]:
    """The datasets as TRL takes them, those that are empty left out; and a hash of what is trained on."""
    there = {name: dataset for name, dataset in data.items() if dataset is not None and len(dataset)}
    composed = {name: dataset for name, dataset in there.items() if isinstance(dataset, TokenDataset)}
    if composed:
        return {name: dataset.as_hf() for name, dataset in composed.items()}, composed["train"].identity
    if config.train.train_on != "response" or config.tokens.truncation != "left":
        raise InputError(
            "Alpaca files of other origin are cut on the left and trained on the response, expected "
            "tokens.truncation=left and train.train_on=response",
            config.data_path,
        )
    tokens = preprocess_datasets_parallel(there, tokenizer, config.tokens.cutoff_len, config.tokens.num_proc)
    return tokens, content_hash(tokens["train"])


def select(dataset: AnyDataset, max_samples: int | None, seed: int) -> AnyDataset:
    """`max_samples` rows of a dataset, drawn with the seed, in the dataset's order; all if None."""
    import numpy as np

    if max_samples is None or max_samples >= len(dataset):
        return dataset
    rows = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:max_samples])
    log.info("training on %s of %s samples, drawn with seed %d", f"{max_samples:,}", f"{len(dataset):,}", seed)
    return dataset.select(rows)


def _check_vocabulary(model: Any, tokenizer: Any) -> None:
    """A tokenizer with more ids than the model has embeddings would end in an index error, or worse."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"has {len(tokenizer)} tokens, {model.name_or_path} embeds {rows}: expected the model's own tokenizer",
            tokenizer.name_or_path,
        )


def _fingerprint(config: Config, data: str, weights: str) -> dict[str, Any]:
    """Everything that decides what is trained, in which order; not how often it is reported or saved."""
    options = config.train.decisive()
    del options["max_samples"]  # the data's hash is of the samples that were drawn
    model = config.model.model_dump(mode="json", include={"dtype", "quantization"})
    return {"data": data, "base weights": weights, "seed": config.seed, **model, **options}


def _trainer(config: Config, model: Any, tokenizer: Any, tokens: Mapping[str, "Dataset"], folder: Path) -> Any:
    """TRL's trainer with PEFT's adapter; nothing in it prints."""
    import torch
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig

    from palate.train.answers import AnswerTrainer

    options, on = config.train, device()
    args = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.scheduler,
        warmup_steps=options.warmup_ratio,  # transformers 5 reads a value below 1 as a share of all steps
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        gradient_checkpointing=options.gradient_checkpointing,
        optim=options.optimizer,
        logging_steps=options.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if options.eval_steps and "eval" in tokens else "no",
        eval_steps=options.eval_steps,
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=options.save_total_limit,
        report_to=options.report_to or "none",
        run_name=config.name,
        seed=config.seed,
        data_seed=config.seed,
        bf16=best_dtype(config.model.dtype, on) is torch.bfloat16,
        use_cpu=on.type == "cpu",
        dataloader_pin_memory=on.type == "cuda",
        disable_tqdm=True,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.lora.r,
        lora_alpha=options.lora.alpha,
        lora_dropout=options.lora.dropout,
        target_modules=options.lora.target_modules,
    )
    # A model in 4 bits is not passed through `prepare_model_for_kbit_training`: TRL freezes it and sets up
    # checkpointing itself, and the upcast of embeddings and head to float32 (5 GB for Qwen3-8B) buys nothing.
    try:
        trainer = AnswerTrainer(
            model=model,
            args=args,
            train_dataset=tokens["train"],
            eval_dataset=tokens.get("eval"),
            processing_class=tokenizer,
            peft_config=lora,
        )
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        wanted = options.lora.target_modules
        raise InputError(f"{wanted!r} names no layer of {model.name_or_path}", "train.lora.target_modules") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def _report_to(trainer: Any, stop: StopRequest, path: Path, config: Config, console: "Console | None") -> Any:
    """A callback that writes the log file, moves the progress bar, and stops the trainer when asked."""
    from transformers import TrainerCallback

    per_step = config.train.batch_size * config.train.gradient_accumulation

    class Report(TrainerCallback):  # type: ignore[misc]
        resumed_at = 0
        meter: Meter | None = None
        note = ""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.resumed_at = self.seen = state.global_step
            # A run that goes on has lost what came after its checkpoint.
            path.write_text("".join(json.dumps(entry) + "\n" for entry in state.log_history))
            total, done = state.max_steps * per_step, state.global_step * per_step
            self.meter = Meter("training", total, done=done, console=console).__enter__()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert self.meter is not None
            self.meter.advance((state.global_step - self.seen) * per_step, self.note)
            self.seen = state.global_step
            if stop.signal is not None:
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            entry = state.log_history[-1]
            with path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            self.note = f"loss {entry['loss']:.4f}" if "loss" in entry else self.note

        def close(self) -> None:
            if self.meter is not None:
                self.meter.__exit__(None, None, None)

    report = Report()
    trainer.add_callback(report)
    return report


def _explained(error: Exception) -> Exception:
    """What went wrong and what helps, for the failures that every trainer meets."""
    import torch

    text = str(error)
    memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in text
    if memory:
        return WorkError(
            "out of memory: try a smaller train.batch_size with more train.gradient_accumulation, "
            "train.gradient_checkpointing=true, or model.quantization=nf4"
        )
    if isinstance(error, OSError) or "No space left" in text:
        return WorkError(f"a checkpoint cannot be written: {text}")
    return error


def _peak_memory() -> int:
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
