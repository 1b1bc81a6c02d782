"""A temporary file of one call, in a folder that only this user may open (``mkdtemp``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hftransfer._io.os_errors import map_write_errors
from hftransfer._io.regular_file import create_exclusive

__all__ = ("temporary_path", "write_new_file")


@contextmanager
def temporary_path(name: str) -> Iterator[Path]:
    """Give the path of a file `name` that can be created, and that is deleted afterwards.

    Raises:
        DestinationError: if there is no folder for temporary files.
    """
    from tempfile import TemporaryDirectory, gettempdir  # rarely needed, and slow to import

    with map_write_errors(Path("the folder for temporary files")):
        folder = TemporaryDirectory(
            prefix="hftransfer-", dir=gettempdir(), ignore_cleanup_errors=True
        )
    with folder:
        yield Path(folder.name, name)


def write_new_file(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write `pieces` to a file that must not exist.

    Raises:
        DiskFullError: if the disk is full.
        DestinationError: if the file cannot be written for another reason.
    """
    with map_write_errors(path), open(create_exclusive(path, 0o600), "wb") as file:
        file.writelines(pieces)
