"""Evaluate and report: the model's scores beside the baselines that cost nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate import console
from palate.artifacts import read_json, write_json
from palate.config import Config, dump_config
from palate.errors import InputError
from palate.hub import locate
from palate.samples import Prepared
from palate.stages import seeds
from palate.stages.data import chat_of, check_model, prepared, scored_tokens
from palate.stages.model import adapter_identity, begin, chosen_rows, score

if TYPE_CHECKING:
    import polars as pl

    from palate.evaluate.evaluation import Evaluation
    from palate.prompt.chat import Chat
    from palate.score.files import Columns

METRICS = "metrics.json"
REPORT = "report.html"


@dataclass(frozen=True)
class ScoreFile:
    """A file of scores: under which key it is reported, and which adapter it is of (None: the base model)."""

    key: str
    adapter: Path | None
    path: Path


def score_files(config: Config, adapter: Path | None, folder: Path) -> list[ScoreFile]:
    """What is to be scored: the base model if the config asks for it, and the adapter if there is one."""
    from palate.evaluate.evaluation import FINE_TUNED, ZERO_SHOT

    wanted = []
    if config.evaluate.zero_shot or adapter is None:
        wanted.append(ScoreFile(ZERO_SHOT, None, folder / "scores" / f"{ZERO_SHOT}.parquet"))
    if adapter is not None:
        wanted.append(ScoreFile(FINE_TUNED, adapter, folder / "scores" / f"{FINE_TUNED}.parquet"))
    return wanted


def evaluate(
    config: Config,
    *,
    adapter: Path | None = None,
    base_only: bool = False,
    scores: Sequence[Path] = (),
    out: str | None = None,
    as_json: bool = False,
) -> None:
    """Score the test rows, measure, and write scores, `metrics.json` and `report.html` to a folder of their own.

    The folder is `out`, else `evaluation` in the run's, whose own evidence stays as it is. Without `adapter` it is
    the run's own. Raises `InputError` if there is no adapter, unless `base_only` asks for none.

    `scores` are files that `palate score` wrote, here or elsewhere; no model is loaded then. Raises `InputError` if
    they are not of this data, prompt, base model and adapter.
    """
    from palate.train.adapter import check_same_prompt, chosen_adapter

    console.start_logging()
    chat = chat_of(config) if scores else check_model(config)
    if not scores or adapter is not None:
        adapter = chosen_adapter(config, adapter, base_only)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
    data = prepared(config)
    folder = Path(out) if out else config.run_path / "evaluation"
    if scores:
        tables = brought(config, data, chat, adapter, scores)
        begin(config, folder)
    else:
        begin(config, folder)
        files = score_files(config, adapter, folder)
        tables = {file.key: frame_of(score(config, data, file.adapter, file.path)) for file in files}
    found = measure(config, data, tables, folder)
    report(config, data, found, tables, folder)
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False, indent=2))
    else:
        show(found, config)
        console.out.print(f"report: {folder / REPORT}", highlight=False, soft_wrap=True)


def brought(
    config: Config, data: Prepared, chat: "Chat", adapter: Path | None, files: Sequence[Path]
) -> "dict[str, pl.DataFrame]":
    """Scores that were made elsewhere, by their keys, zero-shot first.

    Raises `InputError` if a file is not of this data and prompt, or of another base model or adapter.
    """
    from palate.evaluate.evaluation import FINE_TUNED, ZERO_SHOT
    from palate.score.files import read_scores

    identity = scored_tokens(config, data, chat).identity
    own = adapter or config.run_path / "adapter"
    found: dict[str, pl.DataFrame] = {}
    for path in files:
        scored = read_scores(path)
        if scored.key.get("tokens") != identity:
            raise InputError("was scored on other samples, tokens or prompts than this config's", path)
        key = FINE_TUNED if scored.key.get("adapter") else ZERO_SHOT
        if key == FINE_TUNED and scored.key["adapter"] != dict(adapter_identity(own)):
            raise InputError(f"was scored with another adapter than {own}", path)
        if scored.key.get("model") != _base_weights(config, own):
            raise InputError(f"was scored with other base weights than {model_name(config)}'s", path)
        if key in found:
            raise InputError(f"is the second file of {key} scores, expected one", path)
        found[key] = frame_of(scored.columns)
    return {key: found[key] for key in (ZERO_SHOT, FINE_TUNED) if key in found}


def _base_weights(config: Config, adapter: Path) -> str:
    """The fingerprint of the base model: what the adapter was trained on, else that of the model itself."""
    from palate.models import load_base_model, weights_fingerprint
    from palate.train.adapter import ABOUT

    known = read_json(adapter / ABOUT) if (adapter / ABOUT).is_file() else {}
    return str(known.get("base", {}).get("weights") or weights_fingerprint(load_base_model(config.model)[0]))


def frame_of(scores: "Columns") -> "pl.DataFrame":
    """Scores as a frame."""
    import polars as pl

    return pl.DataFrame(scores)


def measure(config: Config, data: Prepared, scores: Mapping[str, "pl.DataFrame"], folder: Path) -> "Evaluation":
    """Metrics with intervals, the baselines on the same rows; written to `metrics.json`."""
    from palate.evaluate.evaluation import evaluate as compare

    name = model_name(config).replace("-Instruct", "")  # every model here is one; the tables are narrow
    found = compare(
        data.samples.timeline,
        scores,
        rating_threshold=config.prepare.rating_threshold,
        history_len=config.prepare.history_len,
        rows=chosen_rows(config, data.samples.of("test").size),
        bootstrap=config.evaluate.bootstrap,
        seed=config.seed,
        labels={key: f"{name}, {key}" for key in scores},
    )
    write_json(folder / METRICS, found.to_dict())
    return found


def show(found: "Evaluation", config: Config) -> None:
    """Print the table and what it comes to."""
    from palate.evaluate.table import rich_table

    console.out.print()
    console.out.print(rich_table(found))
    console.out.print()
    for sentence in found.verdict:
        console.out.print(f"• {sentence}", highlight=False)
    if (apart := seeds.sentence(config)) is not None:
        console.out.print(f"• {apart}", highlight=False)
    console.out.print()


def report(
    config: Config, data: Prepared, found: "Evaluation", scores: Mapping[str, "pl.DataFrame"], folder: Path
) -> None:
    """Write `report.html` to `folder`; a run's own evidence also goes into its adapter's model card."""
    from palate.evaluate.report import ReportInputs, write_report
    from palate.train.adapter import ABOUT
    from palate.train.card import RUN, write_card

    run = config.run_path
    last = list(scores)[-1]
    trained = config.train.max_samples or data.manifest["stats"]["samples"]["train"]
    write_report(
        folder / REPORT,
        ReportInputs(
            title=config.name,
            evaluation=found,
            run={
                "model": model_name(config) + (", in 4 bits (NF4)" if config.model.quantization == "nf4" else ""),
                "data": data.manifest["stats"]["name"],
                "split": config.prepare.split,
                "trained on": f"{trained:,} samples",
                "scored": f"{found.n:,} of {data.manifest['stats']['samples']['test']:,} test samples",
                "seed": config.seed,
            }
            | ({} if (apart := seeds.sentence(config)) is None else {"seeds": apart}),
            lengths=_json_if_there(run / "lengths.json"),
            training=_lines_if_there(run / "training_log.jsonl"),
            examples=_examples(data, scores[last]),
            data_stats=data.manifest["stats"],
            prompt=_prompt(config, data),
            config=dump_config(config),
            commands=_commands(config),
        ),
    )
    adapter = run / "adapter"
    if folder == run and all((adapter / name).is_file() for name in (ABOUT, RUN)):
        write_card(adapter, config, metrics=card_rows(found), data_manifest=data.manifest)


def card_rows(found: "Evaluation") -> list[dict[str, Any]]:
    """The table of the model card."""
    return [
        {
            "": entry.label,
            "AUC": entry.metrics.auc if entry.metrics.auc is not None else "–",
            "95 %": "–" if (i := entry.intervals.get("auc")) is None else f"[{i.low:.3f}, {i.high:.3f}]",
            "accuracy": entry.metrics.accuracy if entry.metrics.accuracy is not None else "–",
            "log loss": entry.metrics.log_loss if entry.metrics.log_loss is not None else "–",
        }
        for entry in found.entries
    ]


def model_name(config: Config) -> str:
    """A short name of the base model for tables; of a GGUF file its own, which tells the quantization."""
    location = locate(config.model.base)
    return location.path.stem if location.path is not None else str(location.hub_id).rpartition("/")[2]


def _examples(data: Prepared, scores: "pl.DataFrame") -> list[dict[str, Any]]:
    """Raw test samples with their scores: those that the model gets most right and most wrong."""
    from palate.evaluate import extreme_rows

    test = data.samples.of("test")
    p_of = dict(zip(scores["row"].to_list(), scores["p"].to_list(), strict=True))
    wanted = set(extreme_rows(scores, data.samples.label[test]))
    with (data.folder / "test_raw.jsonl").open(encoding="utf-8") as lines:
        samples = {row: json.loads(line) for row, line in enumerate(lines) if row in wanted}
    return [
        {name: sample[name] for name in ("history_titles", "candidate_title", "label")} | {"p": p_of[row]}
        for row, sample in samples.items()
    ]


def _prompt(config: Config, data: Prepared) -> str | None:
    """The first test sample as the model reads it, up to its answer."""
    from palate.prompt.messages import to_generation_messages

    with (data.folder / "test_raw.jsonl").open(encoding="utf-8") as lines:
        line = next(lines, None)
    if line is None:
        return None
    sample = json.loads(line)
    example = config.prompt.alpaca(
        sample["history_titles"], sample["candidate_title"], sample["label"], len(sample["history"])
    )
    chat = chat_of(config)
    text = chat.tokenizer.decode(chat.decision_prompts([to_generation_messages(example)])[0])
    assert isinstance(text, str)
    return text


def _commands(config: Config) -> Sequence[str]:
    return [
        f"palate run {config.run_path / 'config.yaml'}",
        f"palate lengths --config {config.run_path / 'config.yaml'} --show-examples 2",
        f"palate evaluate --config {config.run_path / 'config.yaml'} --adapter {config.run_path / 'adapter'}",
    ]


def _json_if_there(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _lines_if_there(path: Path) -> list[Any] | None:
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # what follows the last line break was cut off
