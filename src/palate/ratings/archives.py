"""The named MovieLens archives, and the place of one on this machine."""

import difflib
import glob
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from palate.errors import InputError
from palate.ratings.download import download

BASE_URL = "https://files.grouplens.org/datasets/movielens"


@dataclass(frozen=True)
class Archive:
    """A published zip: its size in bytes and SHA-256 (None if the publisher updates it), and its rating scale."""

    size: int | None
    sha256: str | None
    scale: tuple[float, float]


ARCHIVES = {
    "ml-100k": Archive(4_924_029, "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229", (1.0, 5.0)),
    "ml-1m": Archive(5_917_549, "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20", (1.0, 5.0)),
    "ml-10m": Archive(65_566_137, "813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862", (0.5, 5.0)),
    "ml-20m": Archive(198_702_078, "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3", (0.5, 5.0)),
    "ml-25m": Archive(261_978_986, "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa", (0.5, 5.0)),
    "ml-32m": Archive(238_950_008, "e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee", (0.5, 5.0)),
    "ml-latest-small": Archive(978_202, "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436", (0.5, 5.0)),
    "ml-latest": Archive(None, None, (0.5, 5.0)),
}


def locate(source: str) -> Path:
    """The place of `source`: a path, a pattern of paths, or a named data set, which is downloaded if it is missing.

    A named data set may be a folder or a zip in `$PALATE_DATA_DIR` (default `data/`); `ml-100k` may also be in the
    installed package `recbole`. Raises `InputError` for a source that is neither a name nor a path, `WorkError` if a
    download fails.
    """
    if source not in ARCHIVES:
        path = Path(source)
        if os.path.exists(source) or next(glob.iglob(source, recursive=True), None) is not None:
            return path
        if any(character in source for character in "*?["):
            raise InputError("matches no file, expected a pattern of files that exist", source)
        near = difflib.get_close_matches(source.lower(), ARCHIVES, n=1, cutoff=0.6)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise InputError(f"no such file, folder or data set; {hint}known names: {', '.join(ARCHIVES)}", source)
    folder = Path(os.environ.get("PALATE_DATA_DIR") or "data")
    for path in (folder / source, folder / f"{source}.zip"):
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            return path
    if (packaged := _packaged(source)) is not None:
        return packaged
    archive = ARCHIVES[source]
    base = os.environ.get("PALATE_MOVIELENS_URL") or BASE_URL
    return download(
        f"{base.rstrip('/')}/{source}.zip", folder / f"{source}.zip", size=archive.size, sha256=archive.sha256
    )


def _packaged(name: str) -> Path | None:
    """The folder of a data set's RecBole atomic files in the installed package, found without an import."""
    try:
        files = metadata.files("recbole") or []
    except metadata.PackageNotFoundError:
        return None
    wanted = f"recbole/dataset_example/{name}/{name}.inter"
    found = next((Path(str(f.locate())) for f in files if f.as_posix() == wanted), None)
    return found.parent if found is not None and found.is_file() else None
