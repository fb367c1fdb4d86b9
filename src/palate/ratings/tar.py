"""A tar, with the methods of `zipfile.ZipFile` that `palate.ratings.source` calls."""

import tarfile
from pathlib import Path
from typing import IO, NamedTuple


class Member(NamedTuple):
    """The sizes of a file in bytes, in the archive and unpacked."""

    file_size: int
    compress_size: int


class Tar:
    """The files of a tar that is not compressed; raises `tarfile.TarError` for another file.

    Links, devices and files with holes are left out: they name what is elsewhere, or are larger than their bytes.
    """

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "r:")  # noqa: SIM115
        self._members = {m.name.removeprefix("./"): m for m in self._tar if m.isreg() and not m.issparse()}

    def namelist(self) -> list[str]:
        """The names of the files."""
        return list(self._members)

    def getinfo(self, name: str) -> Member:
        """The sizes of a file."""
        return Member(self._members[name].size, self._members[name].size)

    def open(self, name: str) -> IO[bytes]:
        """The bytes of a file."""
        found = self._tar.extractfile(self._members[name])
        assert found is not None
        return found

    def __enter__(self) -> "Tar":
        return self

    def __exit__(self, *error: object) -> None:
        self._tar.close()
