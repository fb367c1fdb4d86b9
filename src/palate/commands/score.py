"""Score: P(like) of samples by the base model, alone or with an adapter, in a file."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from palate import console
from palate.commands.item_vectors import check_vectors
from palate.commands.prepare import baseline_data, portable, prepared, sample_ids, scored_tokens
from palate.commands.server_model import check_scored_with, served_key, served_scorer
from palate.config import Config
from palate.errors import InputError
from palate.store.artifacts import sha256_file

if TYPE_CHECKING:
    from palate.samples import Prepared
    from palate.score.backend import Backend
    from palate.score.files import Columns, Scored
    from palate.score.scorer import Scorer
    from palate.tokens.dataset import TokenDataset
    from palate.tokens.portable import Portable


def load_scorer(config: Config, adapter: Path | None, *, all_gpus: bool = True) -> "Scorer":
    """The base model, with the adapter if one is given and proved to be loaded, ready to score.

    Where the config names a server, it is what has them. Otherwise `all_gpus` puts a copy on each GPU: of this machine,
    or of the cluster that `engine` names.
    """
    if config.score.server is not None:
        if config.engine.name == "ray":
            raise InputError("scores already, expected no --engine ray beside it", "score.server")
        return served_scorer(config, adapter)
    if config.engine.name == "ray" and all_gpus:
        return _cluster_scorer(config, adapter)
    from palate.models.load import load_base_model, tokenizer_of
    from palate.prompt.chat import Chat
    from palate.score.local import LocalBackend, other_gpus
    from palate.score.scorer import Scorer

    model, tokenizer = load_base_model(config.model, template_date=config.tokens.template_date)
    if config.tokens.tokenizer is not None:
        tokenizer = tokenizer_of(config)
    scorer = Scorer(
        model,
        adapter,
        chat=Chat(tokenizer, config.prompt.yes, config.prompt.no),
        prompt=config.prompt,
        history_len=config.prepare.history_len,
        cutoff_len=config.tokens.cutoff_len,
        truncation=config.tokens.truncation,
    )
    if all_gpus and isinstance(scorer.backend, LocalBackend):
        scorer.backend = scorer.backend.on(other_gpus())
    return scorer


def _cluster_scorer(config: Config, adapter: Path | None) -> "Scorer":
    """A scorer whose models are in processes of a Ray cluster; this one loads none."""
    from palate.cluster.scorers import Scorers
    from palate.models.adapter import check_same_prompt
    from palate.score.scorer import Scorer

    chat = check_scored_with(config)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
    return Scorer(
        Scorers(partial(_loaded, config, adapter), config.engine),
        adapter,
        chat=chat,
        prompt=config.prompt,
        history_len=config.prepare.history_len,
        cutoff_len=config.tokens.cutoff_len,
        truncation=config.tokens.truncation,
    )


def _loaded(config: Config, adapter: Path | None) -> "tuple[Backend, dict[str, Any]]":
    """In a process of the cluster: the model on its device, and its key."""
    scorer = load_scorer(config, adapter, all_gpus=False)
    return scorer.backend, _local_key(scorer, adapter)


def score(
    config: Config,
    data: "Prepared | Portable",
    adapter: Path | None,
    out: Path,
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> "Columns":
    """Score the chosen rows of `evaluate.split` into the file `out`; resumes an interrupted call.

    `beside` is what the file depends on beside rows, tokens and model. Raises `InputError` for another split than test
    of a portable folder, which has none.
    """
    from palate.tokens.portable import Portable

    split = config.evaluate.split
    if isinstance(data, Portable) and split != "test":
        raise InputError(
            f"holds no {split} samples to score, expected a prepared folder or the test split", data.folder
        )
    scorer = load_scorer(config, adapter)
    if isinstance(data, Portable):
        data.check_tokenizer(scorer.chat)
        tokens, about = data.dataset(split, scorer.chat), data.test_ids
    else:
        tokens, about = scored_tokens(config, data, scorer.chat, (split,))[split], sample_ids(data, split)
    rows, key = chosen_rows(config, len(tokens)), {**key_of(scorer, config, tokens, adapter), **beside}
    return score_with(scorer, config, tokens, about, rows, key, out).columns


def score_with(
    scorer: "Scorer",
    config: Config,
    tokens: "TokenDataset",
    about: "Columns",
    rows: np.ndarray[Any, np.dtype[np.int64]],
    key: dict[str, Any],
    out: Path,
) -> "Scored":
    """Score rows of a token dataset with a model that is loaded; `about` has `user_id` and `item_id` of all of them.

    `key` is that of `key_of`.
    """
    from palate.score.files import Scored, score_file

    batch_size = config.evaluate.batch_size
    columns = score_file(
        scorer, tokens, about, rows.tolist(), out=out, batch_size=batch_size, key=key, console=console.err
    )
    return Scored(columns, key)


def key_of(scorer: "Scorer", config: Config, tokens: "TokenDataset", adapter: Path | None) -> dict[str, Any]:
    """What scores depend on, beside the rows."""
    return {"tokens": tokens.identity, **model_key(scorer, config, adapter)}


def model_key(scorer: "Scorer", config: Config, adapter: Path | None) -> dict[str, Any]:
    """What of the model scores depend on: weights and number format, or who serves it, and the adapter."""
    if config.score.server is not None:
        return {"adapter": dict(adapter_identity(adapter))} | served_key(config, adapter)
    found: dict[str, Any] | None = getattr(scorer.backend, "key", None)
    return _local_key(scorer, adapter) if found is None else found


def _local_key(scorer: "Scorer", adapter: Path | None) -> dict[str, Any]:
    from palate.models.load import quantization_of, weights_fingerprint

    return {
        "adapter": dict(adapter_identity(adapter)),
        "model": weights_fingerprint(scorer.model),
        "dtype": str(scorer.model.dtype),
        "quantization": quantization_of(scorer.model),
    }


def score_sum(config: Config, data: "Prepared | Portable", adapter: Path | None, out: Path) -> "Columns":
    """As `score`; of an adapter that corrects a baseline, `p` is P(like) of the sum, `logit` the model's own z.

    Raises `InputError` for such an adapter and a portable folder, whose rows no baseline can predict.
    """
    from palate.tokens.portable import Portable

    if isinstance(data, Portable):  # a bare machine has no package that the rest needs
        refuse_without_ratings(adapter, data.folder)
        return score(config, data, adapter, out)
    from palate.commands.correction import correction_of

    found = correction_of(config, data, adapter)
    if found is None:
        return score(config, data, adapter, out)
    found.warn()
    from palate.measure.calibration import sigmoid
    from palate.score.files import Scored, read_scores, write_scores

    columns = score(config, data, adapter, out, {"offset": found.describe()})
    known = baseline_data(config, data, text=found.reads_text)
    queries = known.of_split(config.evaluate.split)[0].take(columns["row"])
    p = sigmoid(found.logit(known, queries, columns["logit"].astype(np.float64))).astype(np.float32)
    columns = {**columns, "p": p}
    write_scores(out, Scored(columns, read_scores(out).key))
    return columns


def refuse_without_ratings(adapter: Path | None, place: Path) -> None:
    """Raise `InputError` for an adapter that corrects a baseline, where only prompts are at hand."""
    from palate.models.adapter import corrects

    about = corrects(adapter)
    if about is not None:
        raise InputError(
            f"corrects a {about['baseline']} baseline, whose ratings {place} does not have, expected a prepared folder",
            adapter or "",
        )


def score_test(config: Config, *, adapter: Path | None = None, base_only: bool = False, out: str | None = None) -> Path:
    """Score the samples of a prepared or a portable folder into a file that `palate evaluate --scores` takes.

    They are those of `evaluate.split`. The file is `out`, else `scores.npz` (`scores-base.npz`) in the run's folder,
    with the split in its name unless that is test. Without `adapter` it is the run's own. Raises `InputError` if there
    is no adapter, unless `base_only` asks for none.
    """
    from palate.models.adapter import as_trained, check_same_prompt, chosen_adapter

    console.start_logging()
    split = config.evaluate.split
    name = "-".join(["scores", *(["base"] if base_only else []), *([split] if split != "test" else [])])
    file = Path(out) if out else config.run_path / f"{name}.npz"
    if file.suffix != ".npz":
        raise InputError("is no name for scores, expected one that ends with .npz", file)
    adapter = chosen_adapter(config, adapter, base_only)
    config = as_trained(config, adapter)
    chat = check_scored_with(config)
    if adapter is not None:
        check_same_prompt(adapter, chat, config.prompt)
    data = portable(config, chat) or prepared(config)
    check_vectors(config, data, adapter)
    scores = score_sum(config, data, adapter, file)
    line = f"scored {len(scores['row']):,} {split} samples; measure them with `palate evaluate --scores {file}`"
    console.out.print(line, highlight=False, soft_wrap=True)
    return file


def chosen_rows(config: Config, available: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Which of the available test rows to score, ascending: all, or `evaluate.max_samples` drawn with the seed."""
    rows = np.arange(available)
    if config.evaluate.max_samples is not None and config.evaluate.max_samples < len(rows):
        rows = np.sort(np.random.default_rng(config.seed).permutation(rows)[: config.evaluate.max_samples])
    return rows


def adapter_identity(adapter: Path | None) -> Mapping[str, str]:
    """The hashes of an adapter's weights and settings; empty for none."""
    names = ("adapter_model.safetensors", "adapter_config.json", "item_vectors.safetensors")
    return {name: sha256_file(adapter / name) for name in names if adapter and (adapter / name).is_file()}
