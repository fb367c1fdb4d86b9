"""Adapters on disk, and the proof that an adapter is loaded.

If an adapter's keys do not match, PEFT only warns, and the base model then answers alone (TALLRec issues 58, 34, 66).
`load_adapter` fails unless every tensor has its place in the model, and the deltas are not zero and change the logits.
"""

import copy
import datetime
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from palate import __version__
from palate.config import Config, ModelConfig
from palate.errors import InputError, WorkError, first_line
from palate.models.item_vectors import FILE as ITEM_VECTORS
from palate.models.load import base_name, commit_of, quantization_of, quiet, weights_fingerprint
from palate.models.method import detach
from palate.prompt.chat import Chat
from palate.prompt.spec import PromptSpec
from palate.prompt.template import DATE, Template, date_of, with_date, without_date
from palate.prompt.tokenizer import differing, rendered_otherwise, tokenizer_identity
from palate.store.artifacts import (
    MANIFEST,
    atomic_folder,
    read_json,
    reading,
    remove_abandoned,
    sha256_file,
    write_json,
)
from palate.store.hub import locate
from palate.store.keys import damage_in, recorded
from palate.store.manifest import PREPARE_AGAIN, check_record, read_manifest

log = logging.getLogger(__name__)

ABOUT = "palate.json"
WEIGHTS = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
PICKLED = "adapter_model.bin"
TRAINING = "training.json"
"""What a training says of itself, with the manifest of its data."""
_PINNED = tuple(f"adapter/{name}" for name in (ABOUT, SETTINGS, WEIGHTS))


def save_adapter(
    model: Any,
    folder: Path,
    about: Mapping[str, Any],
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Mapping[str, Any] | None = None,
    finish: Callable[[Path], None] = lambda partial: None,
) -> None:
    """Write a PEFT model's adapter (safetensors), `palate.json` and other JSON files, atomically.

    An earlier adapter is replaced entirely, so that a folder never has files of two trainings. `weights` are the
    adapter's weights by parameter name, if the model itself has only a part of them. `finish` is called with the
    temporary folder before it takes the place of `folder`, and may add files.
    """
    from safetensors import SafetensorError

    from palate.models.item_embedding import KEY, items_of

    model.active_peft_config.revision = about.get("base", {}).get("revision")
    with atomic_folder(folder, whole=True) as partial, quiet():
        try:
            model.save_pretrained(partial, state_dict=weights, save_embedding_layers=False)
        except SafetensorError as error:  # a full disk
            raise WorkError(f"{folder}: cannot be written: {first_line(error)}") from error
        (partial / "README.md").unlink(missing_ok=True)  # PEFT writes an empty form
        if (items := items_of(model)) is not None:
            items.save(partial)
            about = {**about, KEY: {**about[KEY], "sha256": sha256_file(partial / ITEM_VECTORS)}}
        about = {**about, "sha256": sha256_file(partial / WEIGHTS)}
        for name, value in {ABOUT: about, **(facts or {})}.items():
            write_json(partial / name, dict(value))
        finish(partial)


class _Base(BaseModel):
    """The base model in `palate.json`."""

    weights: str | None = None
    quantization: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


class _Corrects(BaseModel):
    """The baseline that an adapter corrects, in `palate.json`."""

    baseline: str
    data: str
    alpha: float
    intercept: float


class _Items(BaseModel):
    """The vectors of an adapter's item tokens, in `palate.json`."""

    first: int
    count: int
    data: str
    sha256: str


class _About(BaseModel):
    """The types of the keys that Palate reads in a `palate.json`."""

    base: _Base = _Base()
    prompt: dict[str, Any] = {}
    tokenizer: dict[str, str] = {}
    decision: dict[str, Any] = {}
    sha256: str | None = None
    history_len: int | None = None
    cutoff_len: int | None = None
    truncation: str | None = None
    template_date: datetime.date | None = None
    offset: _Corrects | None = None
    item_vectors: _Items | None = None


def read_about(adapter: Path) -> dict[str, Any]:
    """The `palate.json` of an adapter; empty if there is none. Raises `InputError` for values of other types."""
    file = adapter / ABOUT
    if not file.is_file():
        return {}
    about = read_json(file)
    check_record(about, _About, file)
    return dict(about)


def corrects(adapter: Path | None) -> dict[str, Any] | None:
    """The baseline that an adapter was trained to correct, as its `palate.json` has it; None for other adapters.

    The key `baseline`, a hash of its `data`, and the factors `alpha` and `intercept` of the training.
    """
    return None if adapter is None else read_about(adapter).get("offset")


def shown_vectors(adapter: Path | None) -> dict[str, Any] | None:
    """The vectors that an adapter's prompts show, as its `palate.json` has them; None for other adapters.

    The first token's id, the number of items (`count`), a hash of their `data`, and the SHA-256 of the file.
    """
    return None if adapter is None else read_about(adapter).get("item_vectors")


def describe(config: Config, chat: Chat, model: Any) -> dict[str, Any]:
    """An adapter's `palate.json` for inference: base and number format, prompt, template, cutoff, decision token."""
    return {
        "palate": __version__,
        "base": {
            "name": model.name_or_path,
            "revision": getattr(model.config, "_commit_hash", None) or config.model.revision,
            "weights": weights_fingerprint(model),
            "weights_from": weights_from(config),
            "quantization": quantization_of(model),
            "dtype": config.model.dtype,
        },
        "prompt": config.prompt.model_dump(mode="json"),
        "history_len": config.prepare.history_len,
        "cutoff_len": config.tokens.cutoff_len,
        "truncation": config.tokens.truncation,
        "template_date": config.tokens.template_date.isoformat(),
        "messages": chat.template.form._asdict(),
        "tokenizer": tokenizer_identity(chat.tokenizer),
        "decision": chat.decision.describe(chat.tokenizer),
    }


def weights_from(config: Config) -> str | None:
    """A note on base weights from a GGUF file, which differ from the published ones; None for other weights."""
    path = locate(config.model.base).path
    if path is None or path.suffix != ".gguf":
        return None
    return f"{path.name}, a GGUF file, dequantized: not bit for bit the published weights"


def chosen_adapter(config: Config, adapter: Path | None, base_only: bool) -> Path | None:
    """The adapter at the path `adapter`, else the run's; None with `base_only`.

    Raises `InputError` if the folder does not exist, or if the run's was exchanged, or trained on other samples.
    """
    if base_only:
        return None
    own, adapter = adapter is None, adapter or config.run_path / "adapter"
    if own:
        _restore(adapter)
    if not adapter.is_dir():
        raise InputError("there is no adapter; train one, or score the base model with --base-only", adapter)
    if own:
        check_pinned(config.run_path)
        _check_data(config, adapter)
    return adapter


def check_pinned(run: Path) -> None:
    """Raise `InputError` if a run's adapter is another one than `palate run` measured, as the run's manifest has it."""
    if not (run / MANIFEST).is_file():
        return
    _restore(run / "adapter")
    manifest = read_manifest(run / MANIFEST, "run `palate run` again")
    outputs, replacing = manifest["outputs"], manifest.get("replacing")
    damage = damage_in(run, {name: outputs[name] for name in _PINNED if name in outputs})
    if damage is not None and (not replacing or damage_in(run, replacing)):
        raise InputError(
            f"{damage.problem} since `palate run` measured this adapter, by the hash in {MANIFEST}; train again, or "
            "name the adapter with --adapter to use it all the same",
            run / damage.file,
        )


def _restore(adapter: Path) -> None:
    """Put an adapter back that a process left beside its place when it was killed between two renames."""
    with suppress(OSError):
        remove_abandoned(adapter)


def announce(run: Path, adapter: Path) -> None:
    """Put the hashes of the adapter that is about to replace a run's into the run's manifest, if it has one.

    A process that is killed before `pin` leaves the old adapter or this one, and both are known.
    """
    manifest = _recorded(run)
    if isinstance(manifest.get("outputs"), dict):
        files = {name: adapter / Path(name).name for name in _PINNED}
        manifest["replacing"] = {name: sha256_file(path) for name, path in files.items() if path.is_file()}
        write_json(run / MANIFEST, manifest)


def pin(run: Path) -> None:
    """Put the hashes of a run's new adapter into the run's manifest, if it has one."""
    manifest = _recorded(run)
    if isinstance(manifest.get("outputs"), dict):
        manifest.pop("replacing", None)
        manifest["outputs"] |= {name: sha256_file(run / name) for name in _PINNED if (run / name).is_file()}
        write_json(run / MANIFEST, manifest)


def _recorded(run: Path) -> dict[str, Any]:
    """A run's manifest, or the one whose rename removed it before the machine stopped; empty without either."""
    unfinished = (found for path in run.glob(f".{MANIFEST}.partial-*") if (found := recorded(path)))
    return recorded(run / MANIFEST) or next(unfinished, {})


def check_own(folder: Path) -> None:
    """Raise `InputError` if the folder of a run's adapter holds something else, which training would replace."""
    if folder.exists() and not (folder / ABOUT).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"has no {ABOUT}, expected an adapter of Palate's; name another run with --out", folder)


def _check_data(config: Config, adapter: Path) -> None:
    """Raise `InputError` if a run's adapter was trained on other samples: it may have learned the run's test rows.

    Nothing is compared if the adapter or the data have no record of the samples, or if the prompts differ, which
    `check_same_prompt` refuses.
    """
    files = adapter / TRAINING, config.data_path / MANIFEST
    if not all(file.is_file() for file in files):
        return
    manifests = read_json(files[0]).get("data_manifest") or {}, read_manifest(files[1], PREPARE_AGAIN)
    prompts = [each.get("options", {}).get("prompt") for each in manifests]
    hashes = [each.get("outputs", {}).get("train.json") for each in manifests]
    if prompts[0] == prompts[1] and None not in hashes and hashes[0] != hashes[1]:
        raise InputError(
            f"was trained on other samples than those in {config.data_path}, whose test rows it may have learned; "
            "train again, or name the adapter with --adapter to use it all the same",
            adapter,
        )


def as_trained(config: Config, *adapters: Path | None) -> Config:
    """The config with the base model's revision that the adapters record; raises `InputError` as `recorded_base`."""
    model = config.model
    for adapter in adapters:
        model = recorded_base(model, adapter)
    return config.model_copy(update={"model": model})


def recorded_base(model: ModelConfig, adapter: Path | None) -> ModelConfig:
    """The base model at the revision that an adapter records; unchanged if the adapter records none for it.

    Raises `InputError` if the config names another revision of the same repository.
    """
    place = (adapter / SETTINGS) if adapter is not None else None
    if place is None or not place.is_file() or locate(model.base).path is not None:
        return model
    settings, name = read_json(place), base_name(model)
    recorded = settings.get("revision") if settings.get("base_model_name_or_path") == name else None
    if recorded is None or recorded == model.revision:
        return model
    if model.revision is not None and recorded not in (model.revision, commit_of(model)):
        raise InputError(
            f"records revision {recorded!r} of {name}, the config has {model.revision!r}: expected the same, or none",
            place,
        )
    return model.model_copy(update={"revision": recorded})


def check_same_prompt(adapter: Path, chat: Chat, prompt: PromptSpec) -> None:
    """Raise `InputError` if the adapter was trained with another prompt, chat template or decision token.

    For an adapter without `palate.json`, trained by another program, it only logs a warning.
    """
    if not (adapter / SETTINGS).is_file():
        raise InputError(f"holds no {SETTINGS}, expected an adapter in PEFT's format", adapter)
    _check_own_tokenizer(adapter, chat.tokenizer)
    if not (adapter / ABOUT).is_file():
        log.warning("%s: no %s, so its prompt and template cannot be compared", adapter, ABOUT)
        return
    about = read_about(adapter)
    trained, current = about.get("prompt", {}), prompt.model_dump(mode="json")
    for key in [key for key in current if trained.get(key) != current[key]]:
        raise InputError(
            f"was trained with prompt.{key} {trained.get(key)!r}, the config has {current[key]!r}: expected the same",
            adapter,
        )
    if about.get("decision") != chat.decision.describe(chat.tokenizer):
        raise InputError(
            "was trained with another decision token than this tokenizer and template have, expected those", adapter
        )
    what = differing(chat.tokenizer, about.get("tokenizer", {}))
    if what is not None:
        date = about.get("template_date")
        dated = f" and tokens.template_date {date}" if date and what == "chat template" else ""
        raise InputError(f"was trained with another {what}, expected the base model's own{dated}", adapter)
    if "template_date" not in about and rendered_otherwise(chat.tokenizer):
        log.warning(
            "%s: was trained by an earlier version, with the template's date of that day or without the system text",
            adapter,
        )


def _check_own_tokenizer(adapter: Path, tokenizer: Any) -> None:
    """Raise `InputError` if a template or a tokenizer in the adapter's folder differs from the base's."""
    remedy = "expected the base model's own; put this one into a copy of the base's folder and name that as model.base"
    settings = adapter / "tokenizer_config.json"
    inside = read_json(settings).get("chat_template") if settings.is_file() else None
    own = adapter / "chat_template.jinja"
    try:
        template, place = (own.read_text(encoding="utf-8"), own) if own.is_file() else (inside, settings)
    except UnicodeDecodeError:
        raise InputError("is not UTF-8 text, expected a chat template", own) from None
    if template is not None and not _same_template(template, tokenizer):
        raise InputError(f"brings another chat template, {remedy}", place)
    words = adapter / "tokenizer.json"
    if words.is_file():
        stored, base = _tokenizer_in(words), tokenizer.backend_tokenizer
        # Loading may add tokens to those of a file, so the base may have more of them.
        added = stored.get_vocab(with_added_tokens=True).items() <= base.get_vocab(with_added_tokens=True).items()
        if not added or stored.get_vocab(with_added_tokens=False) != base.get_vocab(with_added_tokens=False):
            raise InputError(f"brings another vocabulary, {remedy}", words)
        stored.no_truncation()
        stored.no_padding()
        ids = [each.encode(_PROBE, add_special_tokens=False).ids for each in (stored, base)]
        merges = [json.loads(each.to_str())["model"].get("merges") for each in (stored, base)]
        if ids[0] != ids[1] or merges[0] != merges[1]:
            raise InputError(f"brings another tokenizer, {remedy}", words)


_PROBE = "Yes No\n1. Ünlü, THE  (1995) 1234 don't\t\u2014 中文 "


def _same_template(template: Any, tokenizer: Any) -> bool:
    """Whether a chat template, or the default of several, renders the same as the tokenizer's."""
    if isinstance(template, list):
        template = {each["name"]: each["template"] for each in template if isinstance(each, dict) and len(each) == 2}
    own = without_date(tokenizer.chat_template)
    one, other = (each.get("default") if isinstance(each, dict) else each for each in (template, own))
    if one == other or not isinstance(one, str):
        return bool(one == other)
    changed = copy.copy(tokenizer)
    changed.chat_template = with_date(one, date_of(tokenizer.chat_template) or DATE)
    try:
        return Template(changed).identity() == Template(tokenizer).identity()
    except InputError:  # it renders nothing
        return False


def _tokenizer_in(file: Path) -> Any:
    """The `tokenizers.Tokenizer` in a `tokenizer.json`."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # it raises no other class
        raise InputError(f"is no tokenizer, copy the adapter again: {first_line(error)}", file) from error


def load_adapter(model: Any, adapter: Path, *, exact: bool = False) -> Any:
    """Load an adapter onto a base model and prove that it is loaded; returns a `PeftModel` in eval mode.

    The adapter's weights get the model's number format, or with `exact` float32. The model embeds the item tokens of a
    prompt with `{item_vector}` by the adapter's projector.

    Raises `InputError` if the folder lacks its files or they are broken, the adapter was trained on another
    base, a tensor has no place in the model or the wrong shape, a tensor that the model expects is missing,
    all deltas are zero, the logits of a probe are the same with and without it, or the weights are of another training
    than `palate.json`; also for vectors of items that are missing or broken. After an error the model has no adapter.
    """
    import torch
    from peft import PeftConfig, PeftModel
    from peft.utils.other import ModulesToSaveWrapper

    for name in (SETTINGS, WEIGHTS):
        if not (adapter / name).is_file():
            if (adapter / PICKLED).is_file() and name == WEIGHTS:
                raise InputError(
                    f"is a pickle, expected {WEIGHTS}; convert it: load it with peft.PeftModel.from_pretrained and "
                    "write it with save_pretrained(folder, safe_serialization=True)",
                    adapter / PICKLED,
                )
            raise InputError(f"holds no {name}, expected an adapter in PEFT's format", adapter)
    tensors = _read(adapter / WEIGHTS)
    with quiet():
        try:
            settings = PeftConfig.from_pretrained(str(adapter))
        except Exception as error:  # its values can cause errors of any class
            raise InputError(
                f"is not a PEFT config, copy the adapter again: {first_line(error)}", adapter / SETTINGS
            ) from error
        trained_on = str(settings.base_model_name_or_path)
        try:
            # Use the model's number format, as in training. With PEFT's default, float32, every layer would cast its
            # inputs twice.
            peft = PeftModel(model, settings, autocast_adapter_dtype=exact)
            for module in peft.modules() if exact else ():
                if isinstance(module, ModulesToSaveWrapper):  # PEFT widens no copies of layers
                    module.modules_to_save.float()
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise InputError(
                f"was trained on {trained_on} and does not fit {model.name_or_path}, expected that base: "
                f"{first_line(error)}",
                adapter,
            ) from error
    try:
        copies = _copies_of_base(peft, tensors)
        learned = {key: value for key, value in tensors.items() if key not in copies}
        _check_places(peft, learned, adapter, trained_on, model.name_or_path)
        _check_base(model, adapter, trained_on)
        _check_copies(copies, tensors, adapter)
        _fill(peft, learned)
        _check_effect(peft, learned, adapter)
        _check_weights(adapter)
        if (items := shown_vectors(adapter)) is not None:
            from palate.models.item_embedding import load_items

            load_items(peft, adapter, items)
    except BaseException:
        detach(peft, merged=False)
        raise
    return peft.eval()


def _read(path: Path) -> dict[str, Any]:
    """All tensors of a safetensors file, on the CPU."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with reading(path):
            return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"is broken or cut off, copy it again: {first_line(error)}", path) from error


def _copies_of_base(peft: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The base's tensors of which an adapter's file has copies, by the key in the file.

    PEFT also saves embeddings and vocabulary head if it adapts one of them, or if the caller sets so.
    """
    from peft import get_peft_model_state_dict

    places = get_peft_model_state_dict(peft, save_embedding_layers=False)
    own = {name.replace(".base_layer.", "."): value for name, value in peft.state_dict().items()}
    plain = {key: key.replace(".base_layer.", ".") for key in tensors.keys() - places.keys()}
    return {key: own[name] for key, name in plain.items() if name in own}


def _check_copies(copies: Mapping[str, Any], tensors: Mapping[str, Any], adapter: Path) -> None:
    """Raise `InputError` if a copy of a base's tensor differs from it: PEFT would overwrite the base with it."""
    for key, base in sorted(copies.items()):
        value = tensors[key]
        # Either tensor may have been rounded.
        if base.shape != value.shape or not (base.equal(value.to(base)) or base.to(value).equal(value)):
            raise InputError(
                f"{key} differs from the base's own, expected the same values, or the layer among {SETTINGS}'s "
                "modules_to_save",
                adapter / WEIGHTS,
            )


def _check_places(peft: Any, tensors: Mapping[str, Any], adapter: Path, trained_on: str, base: str) -> None:
    """Raise `InputError` unless the file and the model have the same tensors with the same shapes."""
    from peft import get_peft_model_state_dict

    places = get_peft_model_state_dict(peft, save_embedding_layers=False)
    both = places.keys() & tensors.keys()
    for key in sorted(both):
        if places[key].shape != tensors[key].shape:
            raise InputError(
                f"was trained on {trained_on} and does not fit {base}: {key} has shape "
                f"{tuple(tensors[key].shape)}, the model's is {tuple(places[key].shape)}, expected its base",
                adapter,
            )
    lacking, surplus = sorted(places.keys() - both), sorted(tensors.keys() - both)
    if lacking or surplus:
        raise InputError(
            f"does not load: {len(surplus)} of its {len(tensors)} tensors have no place in {base}"
            + (f" (first: {surplus[0]})" if surplus else "")
            + f", {len(lacking)} are missing"
            + (f" (first: {lacking[0]})" if lacking else "")
            + ", expected an adapter of this base model",
            adapter / WEIGHTS,
        )


def _check_base(model: Any, adapter: Path, trained_on: str) -> None:
    """Raise `InputError` if the adapter was trained on another base, by its recorded weights, else by its name."""
    base = model.name_or_path
    about = read_about(adapter)
    recorded, found = about.get("base", {}).get("weights"), weights_fingerprint(model)
    # Earlier versions hashed a part of the weights, to 16 digits.
    comparable = recorded and len(recorded) == len(found)
    same = recorded == found if comparable else Path(base).name == Path(trained_on).name
    if not same:
        other = f"the base model {base} has other weights" if base == trained_on else f"the base model is {base}"
        raise InputError(f"was trained on {trained_on}, {other}: expected the same", adapter)


def _fill(peft: Any, tensors: Mapping[str, Any]) -> None:
    from peft import set_peft_model_state_dict

    with quiet():
        set_peft_model_state_dict(peft, dict(tensors))


def _check_weights(adapter: Path) -> None:
    """Raise `InputError` if the weights are not those that `palate.json` was written with."""
    recorded = read_about(adapter).get("sha256")
    if recorded is not None and sha256_file(adapter / WEIGHTS) != recorded:
        raise InputError(
            f"is not the file that {ABOUT} describes (its SHA-256 differs), expected both of one training; "
            f"copy the adapter's folder as a whole, or remove sha256 from {ABOUT} if you changed the weights yourself",
            adapter / WEIGHTS,
        )


def _check_effect(peft: Any, tensors: Mapping[str, Any], adapter: Path) -> None:
    """Raise `InputError` if the deltas are zero or not finite, or do not change the logits of a probe."""
    import torch

    for key, value in tensors.items():
        if not value.float().isfinite().all():
            raise InputError(f"{key} holds NaN or infinite weights, expected finite numbers", adapter / WEIGHTS)
    deltas = [value for key, value in tensors.items() if "lora_B" in key or "lora_embedding_B" in key]
    if deltas and not any(value.any() for value in deltas):
        raise InputError(
            "all its lora_B matrices are zero: it was never trained, or not saved as trained; train again", adapter
        )
    vocabulary = peft.get_input_embeddings().weight
    probe = torch.linspace(0, vocabulary.shape[0] - 1, 16, device=vocabulary.device).long()[None]
    peft.eval()
    with torch.inference_mode():
        adapted = peft(input_ids=probe, use_cache=False).logits.float()
        with peft.disable_adapter():
            base = peft(input_ids=probe, use_cache=False).logits.float()
    change = (adapted - base).abs().max().item()
    if not change > 0:  # NaN counts as no effect
        raise InputError(f"does not change the logits of a probe (largest change {change}), train again", adapter)
    log.debug("adapter %s is loaded: %d tensors, logits of a probe change by up to %.3g", adapter, len(tensors), change)
