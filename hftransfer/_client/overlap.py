"""Copies whose destination lies in their source, or is the source itself.

A listing is read while files are written, so the copy of a folder into itself would find its own
files, copy them again, and never end. Files below a destination are therefore left out.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from hftransfer.errors import LocationError
from hftransfer.locations import LocalLocation, Location, S3Location
from hftransfer.stores.base import ListingPage

__all__ = ("outside_of", "refuse_same_files", "roots_in_source")


def roots_in_source(source: Location, destinations: Sequence[Location]) -> Sequence[str]:
    """Return those `destinations` that lie below the folder `source`, as paths relative to it.

    Each ends in a slash. Blocks: it resolves symbolic links.
    """
    roots = []
    for destination in destinations:
        root = ""
        if isinstance(source, S3Location) and isinstance(destination, S3Location):
            if source.bucket == destination.bucket:
                root = _below(_folder(source.key), _folder(destination.key))
        elif isinstance(source, LocalLocation) and isinstance(destination, LocalLocation):
            paths = [os.path.realpath(each.path) for each in (source, destination)]
            root = _below(*map(_folder, paths))
        if root:
            roots.append(root)
    return roots


def _folder(path: str) -> str:
    return path if not path or path.endswith("/") else f"{path}/"


def _below(folder: str, path: str) -> str:
    return path.removeprefix(folder) if path.startswith(folder) else ""


async def outside_of(
    roots: Sequence[str], pages: AsyncGenerator[ListingPage, None]
) -> AsyncGenerator[ListingPage, None]:
    """Yield `pages` without the files below one of `roots`, paths that end in a slash."""
    below = tuple(roots)
    async with aclosing(pages):
        async for page in pages:
            entries = [entry for entry in page.entries if not entry.path.startswith(below)]
            yield page._replace(entries=entries)


def refuse_same_files(source: Location, destinations: Sequence[Location]) -> None:
    """Raise LocationError if a local destination is the local source. Blocks.

    Nothing would be gained, and links to the files would be replaced. On S3 such a copy gives
    objects another storage class or encryption.
    """
    if not isinstance(source, LocalLocation):
        return
    for destination in destinations:
        if isinstance(destination, LocalLocation) and _is_same(source, destination):
            raise LocationError(f"{source} and {destination} are the same: nothing can be copied")


def _is_same(source: LocalLocation, destination: LocalLocation) -> bool:
    if os.path.isdir(source.path):
        return os.path.realpath(source.path) == os.path.realpath(destination.path)
    target = destination.path
    if destination.as_folder or os.path.isdir(target):
        target = target / source.path.name
    # A link at the destination is replaced by the file that it leads to, as by any other file.
    return _name_of(source.path) == _name_of(target)


def _name_of(path: Path) -> str:
    return os.path.join(os.path.realpath(path.parent), path.name)
