"""Names that a destination cannot give to a file, found before any byte is moved.

An S3 key can be any text: ``a//b``, ``../x``, ``C:x``. It is checked where it becomes the path of a
local file and nowhere else, so that such objects can be listed, verified, excluded, and copied
from S3 to S3. The local path of an accepted name is the name itself, so that two names never
share one; what is left is a file in the place of a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hftransfer._io.atomic_write import SUFFIX
from hftransfer._io.partial_file import is_partial_file_name
from hftransfer.errors import LocationError
from hftransfer.locations import path_problem

__all__ = ("BadNames", "LocalNameCheck", "refuse_bad_names")

# Bytes of a segment: NAME_MAX of nearly all file systems of Linux and macOS.
_MAX_SEGMENT = 255
# Names that an error tells; of more it tells the number.
_NAMED = 5


class LocalNameCheck:
    """Finds the paths of one listing that cannot be those of local files.

    Call it with each path in the listing's order. Where that is the order of the code points, as
    in listings of S3, a file in the place of a folder is found with a memory of a few paths;
    otherwise the file system finds it.
    """

    def __init__(self) -> None:
        self._prefixes: list[str] = []
        """Paths of files, each the start of the next one and of the last path."""
        self._last = ""

    def __call__(self, path: str) -> str | None:
        """Return what is wrong with `path`, or None."""
        problem = path_problem(path) or _long_segment(path) or _partial_name(path)
        return problem if problem else self._check_folders(path)

    def _check_folders(self, path: str) -> str | None:
        if path < self._last:
            self._prefixes.clear()
        while self._prefixes and not path.startswith(self._prefixes[-1]):
            self._prefixes.pop()
        self._last = path
        for prefix in self._prefixes:
            if path[len(prefix) : len(prefix) + 1] == "/":
                return f"is below {prefix!r}, which is a file"
        self._prefixes.append(path)
        return None


def _long_segment(path: str) -> str | None:
    if len(path) * 4 <= _MAX_SEGMENT:
        return None
    longest = max(len(segment.encode(errors="surrogatepass")) for segment in path.split("/"))
    if longest <= _MAX_SEGMENT:
        return None
    return f"has a segment of {longest} bytes, more than the {_MAX_SEGMENT} of file systems"


def _partial_name(path: str) -> str | None:
    # It would neither be listed nor verified, and be deleted as what a dead process has left.
    if path.endswith(SUFFIX) and is_partial_file_name(path.rpartition("/")[2]):
        return "is the name of an unfinished file of hftransfer"
    return None


class BadNames:
    """The names that are refused so far, for one message."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, path: str, problem: str) -> None:
        """Record that `path` is refused because it `problem`."""
        self.count += 1
        if len(self._first) < _NAMED:
            self._first.append(f"{path!r} {problem}")

    def error(self, location: str, hint: str = "") -> LocationError:
        """Return the error that names the first of them.

        Args:
            location: of the destination.
            hint: what the user can do, to follow a semicolon. Default: nothing is said.
        """
        names = "name" if self.count == 1 else "names"
        more = f", and {self.count - _NAMED} more" if self.count > _NAMED else ""
        return LocationError(
            f"{location}: {self.count} {names} cannot be written: {'; '.join(self._first)}{more}"
            f"{hint and '. '}{hint}"
        )


def refuse_bad_names(
    location: str, paths: Iterable[str], check: Callable[[str], str | None]
) -> None:
    """Check all of `paths` with the `check` of a destination (`NameCheckingSink.name_check`).

    Raises:
        LocationError: if it refuses one.
    """
    bad = BadNames()
    for path in paths:
        if problem := check(path):
            bad.add(path, problem)
    if bad.count:
        raise bad.error(location)
