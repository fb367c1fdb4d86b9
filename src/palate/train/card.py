"""The model card of an adapter: what it was made from, how, and what it reaches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from palate.config import Config
from palate.models.adapter import ABOUT
from palate.store.artifacts import atomic_file, read_json

RUN = "training.json"


def write_card(
    adapter: Path,
    config: Config,
    *,
    metrics: Sequence[Mapping[str, Any]] = (),
    data_manifest: Mapping[str, Any] | None = None,
) -> None:
    """Write `README.md` into an adapter's folder; called again after the evaluation to add `metrics`.

    `metrics` are the rows of a table, each a mapping from column to value. The rest is read from
    `palate.json` and `training.json` in the folder.
    """
    about, run = read_json(adapter / ABOUT), read_json(adapter / RUN)
    data_manifest = data_manifest or run.get("data_manifest")
    base = about["base"]
    kind = _kind(config, base["quantization"])
    head = {
        "base_model": base["name"],
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["palate", "recommendation", kind],
    }
    lora, training = config.train.lora, config.train
    trained = {"LoRA": f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}, on {lora.target_modules}"}
    if training.method == "full":
        trained = {"method": "full: all linear layers and norms, written beside the base"}
    decision = about["decision"]
    answers = ", ".join(f"{name} `{decision[name]['text']}` = {decision[name]['id']}" for name in ("yes", "no"))
    before = f" after `{decision['response_before']!r}`" if decision["response_before"] else ""
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {config.name}",
        f"{_WHAT[kind]} to answer whether a user will like an item, from the items that the user rated "
        "before. P(like) is the softmax over the two answers' logits at the decision token.",
        "## Metrics" + "\n\n" + _table(metrics) if metrics else "",
        "## Made from\n\n"
        + _facts(
            {
                "base model": base["name"] + (f" at {base['revision']}" if base["revision"] else ""),
                "base weights": base.get("weights_from") or "as published",
                "base in": _held_in(config, base["quantization"]) or run["dtype"],
                "data": config.ratings.source or str(config.data_path),
                **_labels(config, data_manifest),
                "trained on": f"{run['samples']:,} of {run['samples_available']:,} training samples, "
                f"history of {about['history_len']}",
            }
        ),
        _data(data_manifest),
        "## Training\n\n"
        + _facts(
            {
                **trained,
                "trained weights": f"{run['trained_weights']:,}",
                "learning rate": f"{training.learning_rate:g}, {training.scheduler}, warm-up {training.warmup_ratio:g}",
                "batch": f"{training.batch_size} × {training.gradient_accumulation}",
                **({"ranking loss": f"weight {weight:g}"} if (weight := training.ranking_weight) else {}),
                "optimizer": training.optimizer,
                "steps": run["steps"],
                "seed": config.train_seed,
                "loss": ", ".join(
                    f"{run[key]:.4f} {where}"
                    for key, where in (("train_loss", "training"), ("eval_loss", "on eval.json"))
                    if run[key] is not None
                ),
            }
        ),
        "## Prompt\n\nThe base model's own chat template; sequences are cut on the left at "
        f"{about['cutoff_len']} tokens. The response is the answer{before}, then "
        f"`{decision['response_after']!r}`; token ids of the answers: {answers}.\n\n"
        f"```yaml\n{yaml.safe_dump(about['prompt'], sort_keys=False, allow_unicode=True)}```",
        "## Use\n\n```\n"
        f"palate evaluate --config {config.run_path / 'config.yaml'} --adapter {adapter}\n```\n\n"
        "scores it with its prompt and proves that it is loaded: it must fit the base and change its logits. In other "
        f"code, `peft.PeftModel.from_pretrained(base, {adapter.name!r})` loads it.",
    ]
    with atomic_file(adapter / "README.md") as file:
        file.write(("\n\n".join(section for section in sections if section) + "\n").encode())


_WHAT = {
    "lora": "A LoRA adapter",
    "qlora": "A LoRA adapter",
    "full-finetuning": "All layers of the base, trained",
}


def _kind(config: Config, quantization: str) -> str:
    """What was trained, as the hub's tags call it."""
    if config.train.method == "full":
        return "full-finetuning"
    return "lora" if quantization == "none" else "qlora"


def _held_in(config: Config, quantization: str) -> str | None:
    """The format of quantized weights; None for others. A checkpoint that is stored quantized keeps its own."""
    if config.model.quantization == "nf4":
        return "4 bits (NF4, double quantization)"
    return None if quantization == "none" else f"{quantization}, as the checkpoint is stored"


def _labels(config: Config, data_manifest: Mapping[str, Any] | None) -> dict[str, str]:
    """Where splits and labels come from; Alpaca files of others have no manifest, and say both themselves."""
    options = config.prepare
    if not data_manifest:
        return {"answers": f"{config.prompt.yes!r} and {config.prompt.no!r}, in Alpaca files that bring their prompts"}
    shares = f", {options.val_ratio:g} validation, {options.test_ratio:g} test" if options.split != "given" else ""
    return {"split": options.split + shares, "liked": f"a rating of at least {options.rating_threshold:g}"}


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _data(manifest: Mapping[str, Any] | None) -> str:
    """The hashes of the data's files, so that the training set can be known again."""
    if not manifest:
        return ""
    hashes = {name: f"`{digest}`" for name, digest in manifest.get("outputs", {}).items()}
    return "### Data files (SHA-256)\n\n" + _facts(hashes) if hashes else ""


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        lines.append("| " + " | ".join(f"{c:.4f}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)
