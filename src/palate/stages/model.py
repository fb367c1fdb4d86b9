"""Train and score: the stages that hold a model in memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate import console
from palate.artifacts import MANIFEST, sha256_file
from palate.config import Config, write_config
from palate.errors import InputError
from palate.stages.data import check_model, evaluation_part, portable, prepared, scored_tokens, test_ids, tokens_of

if TYPE_CHECKING:
    from palate.prompt.chat import Chat
    from palate.samples import Prepared
    from palate.score.files import Columns
    from palate.score.scorer import Scorer
    from palate.tokens.portable import Portable


def train(config: Config) -> Path:
    """Fine-tune on the prepared data, with each seed; returns the adapter's folder, `adapter` in the run's."""
    from palate.processes import join, leave

    console.start_logging()
    processes = join()
    with processes.in_turn():
        chat = check_model(config)
        train, evaluated, manifest = _training_data(config, chat)
        from palate.models import files_at_hand
        from palate.stages.seeds import train_seeds
        from palate.train.finetune import train as finetune

        files_at_hand(config.model)
    if processes.is_first:
        begin(config, config.run_path)
    if config.train.seeds > 1:
        adapter = train_seeds(config, train, evaluated, manifest)
    else:
        result = finetune(config, train, evaluated, config.run_path, data_manifest=manifest, console=console.err)
        adapter = result.adapter
    leave()
    return adapter


def _training_data(config: Config, chat: "Chat") -> tuple[Any, Any, dict[str, Any] | None]:
    """What to train on, what to evaluate on, and the manifest of both."""
    carried = portable(config, chat)
    if carried is not None:
        return carried.dataset("train", chat), carried.dataset("eval", chat), carried.data_manifest
    from palate.stages import external

    alpaca = external.alpaca_of(config)
    if alpaca is not None:
        return *external.training_data(config, alpaca), None
    data = prepared(config)
    tokens = tokens_of(config, data, chat, ("train", "val"))
    return tokens["train"], evaluation_part(config, tokens["val"]), data.manifest


def begin(config: Config, folder: Path) -> None:
    """Open a folder of results: the log, and the resolved config unless `palate run` left its own."""
    console.start_logging(folder / "run.log")
    if not (folder / MANIFEST).is_file():
        write_config(config, folder / "config.yaml")


def load_scorer(config: Config, adapter: Path | None) -> "Scorer":
    """The base model, with the adapter if one is given and proved to be loaded, ready to score."""
    from palate.models import check_vocabulary, load_base_model
    from palate.prompt.chat import Chat
    from palate.score.scorer import Scorer
    from palate.tokens.tokenizer import load_tokenizer
    from palate.train.adapter import check_same_prompt, load_adapter

    model, tokenizer = load_base_model(config.model)
    if config.tokens.tokenizer is not None:
        tokenizer = load_tokenizer(config.tokens.tokenizer)
    check_vocabulary(model, tokenizer)
    chat = Chat(tokenizer, config.prompt.yes, config.prompt.no)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
        model = load_adapter(model, adapter)
    return Scorer(model, chat, config.tokens.cutoff_len)


def score(config: Config, data: "Prepared | Portable", adapter: Path | None, out: Path) -> "Columns":
    """Score the chosen test rows into the file `out`; goes on where an earlier call stopped."""
    from palate.models import weights_fingerprint
    from palate.score.files import score_file
    from palate.tokens.portable import Portable

    scorer = load_scorer(config, adapter)
    if isinstance(data, Portable):
        data.check_tokenizer(scorer.chat)
        tokens, about = data.dataset("test", scorer.chat), data.test_ids
    else:
        tokens, about = scored_tokens(config, data, scorer.chat), test_ids(data)
    key = {
        "tokens": tokens.identity,
        "model": weights_fingerprint(scorer.model),
        "dtype": str(scorer.model.dtype),
        "quantization": config.model.quantization,
        "adapter": dict(adapter_identity(adapter)),
    }
    return score_file(
        scorer,
        tokens,
        about,
        chosen_rows(config, len(tokens)).tolist(),
        out=out,
        batch_size=config.evaluate.batch_size,
        key=key,
        console=console.err,
    )


def score_test(config: Config, *, adapter: Path | None = None, base_only: bool = False, out: str | None = None) -> Path:
    """Score the test samples of a prepared or a portable folder into a file that `palate evaluate --scores` takes.

    The file is `out`, else `scores.npz` (`scores-base.npz`) in the run's folder. Without `adapter` it is the run's
    own. Raises `InputError` if there is no adapter, unless `base_only` asks for none.
    """
    from palate.train.adapter import check_same_prompt, chosen_adapter

    console.start_logging()
    file = Path(out) if out else config.run_path / ("scores-base.npz" if base_only else "scores.npz")
    if file.suffix != ".npz":
        raise InputError("is no name for scores, expected one that ends with .npz", file)
    chat = check_model(config)
    adapter = chosen_adapter(config, adapter, base_only)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
    data = portable(config, chat) or prepared(config)
    scores = score(config, data, adapter, file)
    told = f"scored {len(scores['row']):,} test samples; measure them with `palate evaluate --scores {file}`"
    console.out.print(told, highlight=False, soft_wrap=True)
    return file


def chosen_rows(config: Config, available: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Which of the available test rows to score, ascending: all, or `evaluate.max_samples` drawn with the seed."""
    rows = np.arange(available)
    if config.evaluate.max_samples is not None and config.evaluate.max_samples < len(rows):
        rows = np.sort(np.random.default_rng(config.seed).permutation(rows)[: config.evaluate.max_samples])
    return rows


def adapter_identity(adapter: Path | None) -> Mapping[str, str]:
    """The hashes of an adapter's weights and settings; empty for none."""
    names = ("adapter_model.safetensors", "adapter_config.json")
    return {name: sha256_file(adapter / name) for name in names if adapter and (adapter / name).is_file()}
