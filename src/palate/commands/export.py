"""Export: merges the adapter into its base, writes a model folder or a GGUF file, and tests that it scores the same."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from palate import __version__, console
from palate.commands.correction import STATE
from palate.commands.prepare import check_model
from palate.commands.score import adapter_identity
from palate.config import Config
from palate.console import log
from palate.errors import InputError, WorkError
from palate.measure.offset import FILE
from palate.models.adapter import (
    ABOUT,
    as_trained,
    check_pinned,
    check_same_prompt,
    describe,
    load_adapter,
    shown_vectors,
)
from palate.models.gguf import convert, find_converter
from palate.models.load import load_model, model_folder, stored_dtype
from palate.models.merge import in_float32, merge, read_model, stored_alike, write_merged, write_model
from palate.models.probe_prompts import conversations
from palate.models.proof import ExportProof, Target, answers, without_items
from palate.progress import working
from palate.prompt.chat import Chat
from palate.prompt.messages import Message
from palate.prompt.tokenizer import tokenizer_at
from palate.store.artifacts import atomic_folder, files_of, read_json, sha256_file, write_json
from palate.store.hub import Location, locate
from palate.store.keys import recorded
from palate.store.places import foreign
from palate.tokens.cut import cut_prompts

RECORD = "export.json"
KINDS = ("files", "gguf")
"""Keys of `RECORD`: the files of a merged model, and the GGUF file."""
NOTHING = "nothing to write, expected --merge (a model folder), --gguf (a file for llama.cpp), or both"


def export(
    config: Config,
    *,
    merge: bool = False,
    gguf: str | None = None,
    adapter: Path | None = None,
    out: str | None = None,
    dtype: str | None = None,
    converter: Path | None = None,
) -> Path:
    """Write a merged model folder, a GGUF file, or both; returns the folder.

    The folder is `out`, else `merged` or (GGUF alone) `gguf` in the run's. Weights are summed in float32, rounded
    once to `dtype` (None: the base's own) and converted from there. What disagrees with base and adapter is not
    kept. With both, a GGUF file that fails leaves the model folder.

    Raises `InputError` if there is nothing to do, no adapter, no converter, or another thing in the folder's place.
    """
    console.start_logging()
    if not merge and gguf is None:
        raise InputError(NOTHING, "palate export")
    adapter = _adapter(config, adapter)
    folder = Path(out) if out else config.run_path / ("merged" if merge else "gguf")
    _check_replaceable(folder, [adapter, locate(config.model.base).path])
    items = shown_vectors(adapter)
    if items is not None and gguf is not None:
        raise InputError(
            f"cannot be tested with the adapter's {items['count']:,} item tokens, expected --merge alone", "--gguf"
        )
    if not merge:
        converter = find_converter(converter)
    config = as_trained(config, adapter)
    chat = check_model(config)
    check_same_prompt(adapter, chat, config.prompt)
    chat = chat if items is None else chat.with_items(items["count"])

    write, about, expected = _adapted(config, chat, adapter)
    dtype = dtype or str(stored_dtype(config.model)).removeprefix("torch.")
    made_from = {"adapter": {"folder": str(adapter), **adapter_identity(adapter)}, "base": about["base"]}
    record = {"palate": __version__, **made_from, "dtype": dtype}
    file = f"{config.name}-{gguf}.gguf"
    with atomic_folder(folder, whole=True) as partial:
        home = partial if merge else partial / "model"
        log.info("writing the merged model in %s", dtype)
        with working("writing the merged model"):
            write(home, dtype)
        del write  # frees the memory for the next model
        with working("comparing the written model's scores"):
            proof = _prove_folder(home, expected, dtype)
        if merge:
            record |= {"files": _sizes_and_hashes(home), "proof": proof.describe()}
        elif gguf and converter:
            proof, record["gguf"] = _convert(converter, home, partial / file, gguf, expected, dtype)
            shutil.rmtree(home)
        write_json(partial / ABOUT, about)
        write_json(partial / RECORD, record)
        for name in (STATE, FILE):  # of an adapter that corrects a baseline
            if (adapter / name).is_file():
                shutil.copy(adapter / name, partial / name)
    _print_result(folder if merge else folder / file, dtype if merge else str(gguf), proof)
    _print_missing_baseline(about)
    if merge and gguf:
        with atomic_folder(folder) as partial:
            proof, found = _convert(find_converter(converter), folder, partial / file, gguf, expected, dtype)
        write_json(folder / RECORD, record | {"gguf": found})
        _print_result(folder / file, gguf, proof)
    return folder


def _adapter(config: Config, adapter: Path | None) -> Path:
    """The adapter's folder, the run's own without `adapter`; raises `InputError` if it is not there."""
    own, adapter = adapter is None, adapter or config.run_path / "adapter"
    if not adapter.is_dir():
        raise InputError("there is no adapter; train one, or name one with --adapter", adapter)
    if own:
        check_pinned(config.run_path)
    return adapter


def _check_replaceable(folder: Path, sources: Sequence[Path | None]) -> None:
    """Raise `InputError` unless the folder is absent or an earlier export that this one does not read."""
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file, expected a folder to write", folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise InputError("exists and is no earlier export, expected a folder that may be replaced", folder)
    for source in sources:
        if source is not None and source.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"holds {source}, which the export is made from: expected another folder", folder)
    files, gguf = (found if isinstance(found := recorded(folder / RECORD).get(key), dict) else {} for key in KINDS)
    for name in files_of(folder) if folder.is_dir() else ():
        if name not in {RECORD, ABOUT, STATE, FILE, *files, gguf.get("file")}:
            raise foreign(folder, name, "palate export")


@dataclass(frozen=True)
class _Expected:
    """Prompts for the written model, and the expected scores."""

    conversations: Sequence[Sequence[Message]]
    prompts: list[list[int]]
    chat: Chat
    target: Target


def _adapted(
    config: Config, chat: Chat, adapter: Path
) -> tuple[Callable[[Path, str], None], dict[str, Any], _Expected]:
    """A function that writes the merged model in a dtype, the adapter's `palate.json`, and the expected scores."""
    import torch

    prompted, source = conversations(config)
    prompts = cut_prompts(chat.decision_prompts(prompted), chat, config.tokens.cutoff_len)
    log.info("the proof asks %d prompts: %s", len(prompts), source)
    base = model_folder(config.model.model_copy(update={"quantization": "none"}))
    held = "float32" if chat.items else stored_alike(base)
    mapped = config.model.model_copy(update={"dtype": held, "quantization": "none"})
    model = load_model(mapped, on=torch.device("cpu"))
    if getattr(model, "is_quantized", False):
        raise InputError("is stored quantized, expected the full-precision model behind it", config.model.base)
    in_4_bits = None
    if config.model.quantization == "nf4":
        # In float32, so that only the 4 bits differ.
        settings = config.model.model_copy(update={"dtype": "float32"})
        in_4_bits = answers(load_adapter(load_model(settings), adapter), chat.decision, prompts)
    about = read_json(adapter / ABOUT) if (adapter / ABOUT).is_file() else describe(config, chat, model)
    about.pop("sha256", None)  # of the adapter's weights, which the model has within its own
    with in_float32():
        adapted = load_adapter(model, adapter, exact=True)
    both = answers(adapted, chat.decision, prompts)
    with adapted.disable_adapter():
        target = Target(answers(adapted, chat.decision, prompts), both, in_4_bits)
    expected = _Expected(prompted, prompts, chat, target)
    if not chat.items:
        return partial(write_merged, adapted, base, chat.tokenizer), about, expected
    from palate.models.item_embedding import hidden_mean, tokenizer_with_items, write_rows

    hidden = hidden_mean(adapted, prompts)
    merged = merge(adapted)
    write_rows(merged, hidden)
    return partial(write_model, merged, tokenizer_with_items(chat.tokenizer, chat.items)), about, expected


def _prove_folder(home: Path, expected: _Expected, dtype: str) -> ExportProof:
    """Load the written model and tokenizer, score the prompts, and compare; raises `WorkError` if they disagree."""
    chat = expected.chat
    again = Chat(tokenizer_at(Location(home)), chat.yes, chat.no)
    if again.decision_prompts(expected.conversations) != chat.decision_prompts(expected.conversations):
        raise WorkError(
            "the tokenizer, written and read back, gives other tokens; export with the transformers of the training"
        )
    written = answers(read_model(home), again.decision, expected.prompts)
    written = without_items(written, expected.target.adapted.logits.shape[1])
    proof = expected.target.proof(written, exact=dtype == "float32")
    proof.check("the merged model")
    return proof


def _convert(
    converter: Path, home: Path, file: Path, kind: str, expected: _Expected, dtype: str
) -> tuple[ExportProof, dict[str, Any]]:
    """Convert the written model to GGUF, read it back, and compare the scores; returns the proof and a sentence."""
    log.info("converting to %s with %s", kind, converter)
    with working(f"converting to {kind}"):
        convert(converter, home, file, kind)
    with working("comparing the GGUF file's scores"):
        written = answers(read_model(file.parent, file.name), expected.chat.decision, expected.prompts)
    proof = expected.target.proof(written, exact=(kind, dtype) == ("f32", "float32"))
    proof.check(file.name)
    facts = {"type": kind, "converter": converter.name, "proof": proof.describe()}
    return proof, {"file": file.name, **_sizes_and_hashes(file.parent)[file.name], **facts}


def _sizes_and_hashes(folder: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file in a folder."""
    files = [p for p in sorted(folder.iterdir()) if p.is_file()]
    return {p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in files}


def _print_missing_baseline(about: dict[str, Any]) -> None:
    """Print what is missing to P(like), if the adapter corrects a baseline."""
    offset = about.get("offset")
    if offset is not None:
        text = (
            f"corrects {offset['baseline']}: P(like) needs the baseline's logit beside that of this model ({FILE}); "
            "what serves the model alone gives the correction alone"
        )
        console.out.print(text, soft_wrap=True)


def _print_result(place: Path, form: str, proof: ExportProof) -> None:
    """Print the written files and the result of the comparison."""
    size = sum(p.stat().st_size for p in ([place] if place.is_file() else place.iterdir()))
    text = f"exported {place} ({form}, {size / 1e6:,.0f} MB)\nproved   on {proof}"
    console.out.print(text, soft_wrap=True)
