"""Finds paths of a listing that cannot both be files of one folder, with little memory.

In a listing that is sorted by path, a path that is listed twice follows itself, and of the earlier
paths only those that begin the current one can be a file where it needs a folder: ``a`` and
``a/b``, even if ``a-1`` is between them. So the check keeps a chain of prefixes and no set.
"""

from __future__ import annotations

from hftransfer._core.path_set import PathSet
from hftransfer.errors import LocationError

__all__ = ("PathCheck",)


class PathCheck:
    """Checks the paths of one listing in the order in which they are listed.

    While they are sorted by code points (that is by UTF-8 bytes, as S3 lists), the memory is that
    of the longest chain of prefixes, and both kinds of conflict are found. From the first path
    that is out of order on, a `PathSet` finds those that are listed twice.
    """

    def __init__(self) -> None:
        self._prefixes: list[str] = []
        """Earlier paths, each a prefix of the next one; the last one is the latest path."""
        self._seen: PathSet | None = None
        """The paths since one was out of order; None before."""

    def add(self, path: str, *, in_folders: bool) -> None:
        """Check the next path.

        Args:
            path: relative to the source's root.
            in_folders: True if a file cannot have the name of a folder at the destination.

        Raises:
            LocationError: if the path conflicts with an earlier one.
        """
        if self._seen is not None:
            self._add_unsorted(path)
            return
        latest = self._prefixes[-1] if self._prefixes else ""
        if path == latest and self._prefixes:
            raise _listed_twice(path)
        if path < latest:
            self._seen = PathSet()
            for each in (*self._prefixes, path):
                self._add_unsorted(each)
            return
        while self._prefixes and not path.startswith(self._prefixes[-1]):
            self._prefixes.pop()
        if in_folders:
            for earlier in self._prefixes:
                if path[len(earlier)] == "/":
                    raise LocationError(
                        f"{earlier!r} is a file and, for {path!r}, would have to be a folder, too: "
                        "exclude one of them"
                    )
        self._prefixes.append(path)

    def _add_unsorted(self, path: str) -> None:
        assert self._seen is not None
        if not self._seen.add(path):
            raise _listed_twice(path)


def _listed_twice(path: str) -> LocationError:
    return LocationError(f"{path!r} is listed twice")
