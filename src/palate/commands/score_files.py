"""Scores that were made elsewhere: which model and which rows each file is of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palate.commands.prepare import sample_ids, scored_tokens
from palate.commands.score import adapter_identity
from palate.commands.scores import MEASURED, VALIDATION, Model, adapted
from palate.commands.server_model import check_served_key
from palate.config import Config
from palate.errors import InputError
from palate.measure.keys import ZERO_SHOT
from palate.models.adapter import read_about
from palate.models.load import load_base_model, weights_fingerprint
from palate.prompt.chat import Chat
from palate.samples import Prepared
from palate.score.files import Scored, read_scores


def scores_in(
    config: Config, data: Prepared, chat: Chat, models: Sequence[Model], files: Sequence[Path], name: str
) -> dict[Model, dict[str, Scored]]:
    """The scores in `files` of each of the `models` that has any, in their order; `name` is the base model's.

    Raises `InputError` if a file is not of this data and prompt, of another base model or adapter, a second one of
    the same rows, or if a model's only scores are of validation rows.
    """
    split = config.evaluate.split
    samples = scored_tokens(config, data, chat, tuple(dict.fromkeys(("val", split))))
    identities = {tokens.identity: each for each, tokens in samples.items()}
    found: dict[Model, dict[str, Scored]] = {}
    for path in files:
        scored = read_scores(path)
        of = identities.get(str(scored.key.get("tokens", "")))
        if of is None:
            raise InputError(
                "was scored on other samples, tokens or prompts than this config's: score again with `palate score`",
                path,
            )
        model = _model_of(scored, models, path)
        if "server" in scored.key:
            check_served_key(config, scored.key, model.adapter, path)
        elif scored.key.get("model") != _base_weights(config, model, models):
            raise InputError(f"was scored with other base weights than {name}'s, expected the same model.base", path)
        parts = found.setdefault(model, {})
        for what in [what for what, its in ((MEASURED, split), (VALIDATION, "val")) if its == of]:
            if what in parts:
                of_rows = model.key if what == MEASURED else f"{model.key} validation"
                raise InputError(f"is the second file of {of_rows} scores, expected one", path)
            _check_rows(scored, data, of, path)
            parts[what] = scored
    lacking = next((model for model, parts in found.items() if MEASURED not in parts), None)
    if lacking is not None:
        raise InputError(f"there are validation scores of {lacking.key} only, expected {split} scores too", "--scores")
    return {model: found[model] for model in models if model in found}


def _check_rows(scored: Scored, data: Prepared, split: str, path: Path) -> None:
    """Raise `InputError` where a row's user, item or label is not that of the data."""
    rows = scored.columns["row"]
    ids = sample_ids(data, split)
    known = ids | {"label": data.samples.label[data.samples.of(split)]}
    if rows.size and rows.max() >= len(known["label"]):
        raise InputError(f"has row {rows.max()} of {len(known['label']):,} rows, expected scores of this data", path)
    for name, values in known.items():
        wrong = np.flatnonzero(scored.columns[name].astype(str) != values[rows].astype(str))
        if wrong.size:
            row = rows[wrong[0]]
            raise InputError(f"has another {name} in row {row} than the data, expected scores of this data", path)


def _model_of(scored: Scored, models: Sequence[Model], path: Path) -> Model:
    """Whose scores these are."""
    adapter = scored.key.get("adapter")
    for model in models:
        if dict(adapter_identity(model.adapter)) == (adapter or {}) and (model.adapter is None) == (not adapter):
            return model
    own = ", ".join(str(model.adapter) for model in models if model.adapter is not None)
    found = f"another adapter than {own}" if own else "an adapter"
    raise InputError(f"was scored with {found}, expected that one as --adapter", path)


def _base_weights(config: Config, model: Model, models: Sequence[Model]) -> str:
    """The fingerprint of the base model: what the adapter was trained on, else that of the model itself."""
    trained = [each.adapter for each in (model, *models) if each.adapter is not None]
    known: dict[str, Any] = next((about for adapter in trained if (about := read_about(adapter))), {})
    return str(known.get("base", {}).get("weights") or weights_fingerprint(load_base_model(config.model)[0]))


def possible_models(adapters: Sequence[Path]) -> list[Model]:
    """The models that files may be of: the base model, and each adapter."""
    return [Model(ZERO_SHOT, None), *adapted(adapters)]
