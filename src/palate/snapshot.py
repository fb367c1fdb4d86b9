"""Snapshot: the files of a hub repository at one commit, downloaded into the Hugging Face cache.

A download has the files that transformers reads, and the weights in one format. A connection that breaks off goes on
within the file. Each finished file stays in the cache, so that an interrupted download goes on with the next one.
"""

import logging
import shutil
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from rich.filesize import decimal

from palate.errors import InputError, InterruptedWorkError, PalateError, WorkError, first_line
from palate.progress import download_bar
from palate.store.artifacts import read_json
from palate.store.hub import UNREACHABLE, endpoint, hub_is_out_of_reach

log = logging.getLogger(__name__)

SMALL = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
"""Files with a model's config and tokenizer."""
WEIGHTS = ("model.safetensors", "model-*.safetensors", "*.safetensors", "pytorch_model*.bin")
"""Files of weights; those of the first pattern that a repository or a folder has are read."""
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def snapshot(hub_id: str, revision: str | None = None, *, weights: bool = False) -> Path:
    """The folder of a repository's config and tokenizer, and of its `weights` if wanted; its name is the commit.

    Downloads the missing files; before weights, it logs their size and the free space. If the hub does not answer, a
    cached snapshot serves.

    Raises `InputError` for a repository or a revision that does not exist or needs a login; `WorkError` if the files
    do not fit on the disk, the download fails, or the hub cannot be reached and they are not cached.
    """
    if hub_is_out_of_reach():
        return _cached(hub_id, revision, weights)
    try:
        commit, sizes = _listing(hub_id, revision, endpoint())
    except Exception as error:  # of the hub's client, of HTTP
        known = explained(error, hub_id, revision)
        if type(error).__name__ == "RevisionNotFoundError":
            raise known from error
        try:
            return _cached(hub_id, revision, weights)
        except WorkError:
            raise known from error
    try:
        missing = {name: sizes[name] for name in _needed(sizes, weights) if not _is_whole(hub_id, name, commit, sizes)}
        if missing:
            _download(hub_id, commit, missing, verbose=weights)
    except PalateError:
        raise
    except Exception as error:  # also of the disk
        raise explained(error, hub_id, revision) from error
    return _cached(hub_id, commit, weights)


@lru_cache(maxsize=32)
def _listing(hub_id: str, revision: str | None, server: str) -> tuple[str, dict[str, int]]:
    """A revision's commit, and the sizes in bytes of its files; one answer a process, so that all parts agree."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=server)
    commit = api.resolve_revision(hub_id, revision=revision).resolved
    info = api.model_info(hub_id, revision=commit, files_metadata=True)
    return commit, {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _needed(names: Mapping[str, int], weights: bool) -> list[str]:
    """The files to read among a repository's: none in its folders, which hold the weights in other formats."""
    top = [name for name in names if "/" not in name]
    chosen = [name for name in top if any(fnmatchcase(name, kind) for kind in SMALL)]
    kinds = ([name for name in top if fnmatchcase(name, kind)] for kind in WEIGHTS if weights)
    return chosen + sorted(next(filter(None, kinds), []))


def _path(hub_id: str, name: str, revision: str | None) -> Path | None:
    """A file's path in the cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _is_whole(hub_id: str, name: str, commit: str, sizes: Mapping[str, int]) -> bool:
    """Whether a file is in the cache with its size: a stopped machine may leave an empty one."""
    path = _path(hub_id, name, commit)
    return path is not None and sizes[name] in (0, path.stat().st_size)


def _cached(hub_id: str, revision: str | None, weights: bool) -> Path:
    """The folder in the cache; raises `WorkError` if it is not there, or without a file of its weights."""
    names = ("config.json", "tokenizer_config.json", "tokenizer.json")
    found = next((path for name in names if (path := _path(hub_id, name, revision)) is not None), None)
    at = f" at {revision}" if revision else ""
    if found is None:
        raise WorkError(f"{hub_id}{at}: {UNREACHABLE}")
    folder = found.parent
    index = folder / "model.safetensors.index.json"
    files = read_json(index).get("weight_map", {}) if index.is_file() else {}
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise InputError("weight_map is no object, expected one with the file of each tensor", index)
    shards = set(files.values())
    lacking = next((name for name in sorted(shards) if not (folder / name).is_file()), None)
    if weights and not shards and not any(any(folder.glob(kind)) for kind in WEIGHTS):
        lacking = "model.safetensors"
    if weights and lacking is not None:
        raise WorkError(f"{hub_id}{at}: {lacking}: {UNREACHABLE}")
    return folder


def _download(hub_id: str, commit: str, missing: Mapping[str, int], *, verbose: bool) -> None:
    """Download files with one bar for all; logs size and free space if `verbose`."""
    from huggingface_hub import constants, hf_hub_download

    cache = Path(constants.HF_HUB_CACHE).expanduser()
    size = sum(missing.values())
    free = shutil.disk_usage(next(place for place in (cache, *cache.parents) if place.exists())).free
    files = f"{len(missing)} file{'s' if len(missing) > 1 else ''}"
    what = f"{hub_id}: {decimal(size)} in {files} to {_from_home(cache)}"
    if size > free:
        raise WorkError(f"{what}, where {decimal(free)} are free: expected more, or HF_HOME on a larger disk")
    if verbose:
        log.info("%s, %s free", what, decimal(free))
    with download_bar(shown=verbose) as progress:
        task = progress.add_task(hub_id.rpartition("/")[2], total=size)

        class Bar:
            """What the hub's client takes for tqdm."""

            def __init__(self, *_: Any, **__: Any) -> None:
                pass

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, n: float | None = 1) -> None:
                progress.advance(task, n or 0)

            def close(self, *_: Any, **__: Any) -> None:
                pass

            update_transfer = set_postfix_str = set_transfer_postfix_str = close

        # One after the other: the client drops what it has of a file when it is stopped.
        for done, name in enumerate(missing):
            try:
                again = _path(hub_id, name, commit) is not None
                hf_hub_download(
                    hub_id, name, revision=commit, endpoint=endpoint(), tqdm_class=Bar, force_download=again
                )
            except KeyboardInterrupt:
                raise InterruptedWorkError(
                    f"{hub_id}: stopped after {done} of {files}; the same command downloads the others"
                ) from None


def _from_home(path: Path) -> str:
    """A path with `~` for the home folder."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def explained(error: Exception, hub_id: str, revision: str | None = None) -> PalateError:
    """A failure of the hub, the network or the disk as one line, with the way out."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    said = (getattr(error, "server_message", None) or "").strip().replace("\n", " ").rstrip(".")
    if isinstance(error, GatedRepoError):
        page = f"{endpoint()}/{hub_id}"
        return InputError(f"is gated: {said or 'no access'}; ask for access at {page}, then {LOG_IN}", hub_id)
    if isinstance(error, RevisionNotFoundError):
        return InputError(f"has no revision {revision!r}, expected a branch, a tag or a commit", hub_id)
    if isinstance(error, RepositoryNotFoundError):
        return InputError(f"is no repository at {endpoint()}, or a private one: check the name, or {LOG_IN}", hub_id)
    if isinstance(error, HFValidationError):
        return InputError(f"is no name of a repository: {first_line(error)}", hub_id)
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return InputError(f"the hub refuses access: {said or first_line(error)}; {LOG_IN}", hub_id)
    if isinstance(error, OSError) and error.errno is not None:
        return WorkError(f"{error.filename or hub_id}: cannot be written: {error.strerror or error}")
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    # By name: which client of HTTP this is depends on the version of huggingface_hub.
    is_gone = "TransportError" in {kind.__name__ for kind in (*type(error).__mro__, *type(cause).__mro__)}
    failed = UNREACHABLE if is_gone else f"cannot be downloaded from {endpoint()}"
    said = first_line(cause if isinstance(error, LocalEntryNotFoundError) else error)
    return WorkError(f"{hub_id}: {failed}: {said}; the same command goes on with the next file")
