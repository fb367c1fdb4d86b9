"""The model card of an adapter: its origin, training and metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from palate.config import Config
from palate.models.adapter import ABOUT, TRAINING
from palate.store.artifacts import atomic_file, read_json
from palate.train.schedule import rate_of


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
    about, run = read_json(adapter / ABOUT), read_json(adapter / TRAINING)
    data_manifest = data_manifest or run.get("data_manifest")
    base, decision = about["base"], about["decision"]
    tag, what = _kind(config, base["quantization"])
    head = {
        "base_model": base["name"],
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["palate", "recommendation", tag],
    }
    answers = ", ".join(f"{name} `{decision[name]['text']}` = {decision[name]['id']}" for name in ("yes", "no"))
    before = f" after `{decision['response_before']!r}`" if decision["response_before"] else ""
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {config.name}",
        f"{what} to answer whether a user will like an item, from the items that the user rated "
        "before. " + _probability(about),
        "## Metrics\n\n" + _table(metrics) if metrics else "",
        "## Made from\n\n" + _facts(_origin(config, about, run, data_manifest)),
        _data(data_manifest),
        "## Training\n\n" + _facts(_training(config, run)),
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


def _probability(about: Mapping[str, Any]) -> str:
    """A sentence on the meaning of P(like)."""
    offset = about.get("offset")
    if offset is None:
        return "P(like) is the softmax over the two answers' logits at the decision token."
    return (
        f"It corrects a {offset['baseline']} baseline (`baseline.npz`): P(like) is the sigmoid of the baseline's logit "
        "plus alpha times the difference of the two answers' logits at the decision token plus b (`offset.json`)."
    )


def _kind(config: Config, quantization: str) -> tuple[str, str]:
    """The hub's tag for the training method, and its description."""
    if config.train.method == "full":
        return "full-finetuning", "All layers of the base, trained"
    return "lora" if quantization == "none" else "qlora", "A LoRA adapter"


def _origin(
    config: Config, about: Mapping[str, Any], run: Mapping[str, Any], manifest: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Base model and data."""
    base, held = about["base"], run["dtype"]
    if config.model.quantization == "nf4":
        held = "4 bits (NF4, double quantization)"
    elif base["quantization"] != "none":
        held = f"{base['quantization']}, as the checkpoint is stored"
    return {
        "base model": base["name"] + (f" at {base['revision']}" if base["revision"] else ""),
        "base weights": base.get("weights_from") or "as published",
        "base in": held,
        "data": config.ratings.source or str(config.data_path),
        **_labels(config, manifest),
        "trained on": f"{run['samples']:,} of {run['samples_available']:,} training samples, "
        + (f"{run['unrated']:,} of them unrated pairs, " if run.get("unrated") else "")
        + f"history of {about['history_len']}",
    }


def _training(config: Config, run: Mapping[str, Any]) -> dict[str, Any]:
    """Options and losses."""
    options, lora = config.train, config.train.lora
    if options.method == "full":
        method = {"method": "full: all linear layers and norms, written beside the base"}
    else:
        method = {"LoRA": f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}, on {lora.target_modules}"}
    samples = run.get("samples_per_step", options.samples_per_step)  # which older versions did not record
    losses = {"train_loss": "training", "eval_loss": "on eval.json"}
    return {
        **method,
        "trained weights": f"{run['trained_weights']:,}",
        "learning rate": f"{rate_of(options, samples):.3g}, {options.scheduler}, warm-up {options.warmup_ratio:g}",
        "batch": f"{samples} samples",
        **({"ranking loss": f"weight {options.ranking_weight:g}"} if options.ranking_weight else {}),
        "optimizer": options.optimizer,
        "steps": run["steps"],
        "seed": config.train_seed,
        "loss": ", ".join(f"{run[key]:.4f} {where}" for key, where in losses.items() if run[key] is not None),
    }


def _labels(config: Config, data_manifest: Mapping[str, Any] | None) -> dict[str, str]:
    """Split and label threshold; Alpaca files of other programs have no manifest, but labels of their own."""
    options = config.prepare
    if not data_manifest:
        return {"answers": f"{config.prompt.yes!r} and {config.prompt.no!r}, in Alpaca files that bring their prompts"}
    shares = f", {options.val_ratio:g} validation, {options.test_ratio:g} test" if options.split != "given" else ""
    return {"split": options.split + shares, "liked": f"a rating of at least {options.rating_threshold:g}"}


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _data(manifest: Mapping[str, Any] | None) -> str:
    """The hashes of the data's files, which identify the training set."""
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
