"""Listings of commits in huggingface_hub's caches: ``trees/<commit>.json``.

A listing is written while it is requested, and read, file by file: that of a repository of 200,000
files has 50 MB. Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

from hftransfer._core.digests import Digest
from hftransfer._core.json_stream import JsonStream
from hftransfer._io.atomic_write import open_atomically, write_fully
from hftransfer.locations import safe_path
from hftransfer.stores.base import Entry

__all__ = ("CachedTree", "TreeWriter")

_logger = logging.getLogger(__name__)

_XET_HASH = re.compile(r"[0-9a-fA-F]{64}")
_VERSION = 1


class CachedTree:
    """The listing of a commit that is cached in a file, which was found to be valid."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    @classmethod
    def open(cls, path: Path) -> CachedTree | None:
        """Open a listing and check all of it; return None if it is absent, invalid or newer."""
        try:
            file = open(path, encoding="utf-8")  # noqa: SIM115 - closed by `close`
        except FileNotFoundError:
            return None
        except OSError as error:
            _logger.warning("ignoring the listing %s: %s", path, error)
            return None
        tree = cls(file)
        try:
            if tree._is_current():
                return tree
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _logger.warning("ignoring the damaged listing %s: %s", path, error)
        tree.close()
        return None

    def _is_current(self) -> bool:
        """Return False for another version, or if the entries cannot be used."""
        stream = JsonStream(self._file)
        version = None
        usable = True
        has_files = False
        for name in stream.members():
            if name == "files":
                has_files = True
                for entry in _entries(stream):
                    usable = usable and is_cacheable(entry)
            elif name == "format_version":
                version = stream.value()
            else:
                stream.value()
        stream.end()
        if not has_files:
            raise KeyError("files")
        return version == _VERSION and usable

    def __iter__(self) -> Iterator[Entry]:
        """Yield the files, from the first one on."""
        self._file.seek(0)
        stream = JsonStream(self._file)
        for name in stream.members():
            if name == "files":
                yield from _entries(stream)
            else:
                stream.value()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def __del__(self) -> None:
        self.close()


def _entries(stream: JsonStream) -> Iterator[Entry]:
    return (_entry_from_json(path, stream.value()) for path in stream.members())


class TreeWriter:
    """Writes the listing of a commit as its pages arrive.

    A failure is only logged: without a cached listing the next call needs more requests. A listing
    with masked Xet hashes (``***…``), which the Hub may return, is not cached.

    Args:
        path: of the listing, which appears there complete.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = ExitStack()
        self._fd: int | None = None
        """None before the first page, and after a failure."""
        self._is_abandoned = False
        self._separator = ""

    def add(self, entries: Sequence[Entry]) -> None:
        """Append the files of a page."""
        if self._is_abandoned:
            return
        if not all(map(is_cacheable, entries)):
            self.abandon()
            return
        try:
            self._write(entries)
        except OSError as error:
            _logger.warning("cannot cache the listing %s: %s", self._path, error)
            self.abandon()

    def _write(self, entries: Sequence[Entry]) -> None:
        text = []
        if self._fd is None:
            self._fd = self._stack.enter_context(open_atomically(self._path))
            text.append(f'{{\n "format_version": {_VERSION},\n "files": {{')
        for entry in entries:
            info = json.dumps(_entry_to_json(entry))
            text.append(f"{self._separator}\n  {json.dumps(entry.path)}: {info}")
            self._separator = ","
        write_fully(self._fd, memoryview("".join(text).encode()))

    def commit(self) -> None:
        """Publish the listing, which is complete."""
        self.add([])  # begins a listing without files
        if self._is_abandoned or self._fd is None:
            return
        try:
            write_fully(self._fd, memoryview(b"\n }\n}"))
            self._stack.close()
        except OSError as error:
            _logger.warning("cannot cache the listing %s: %s", self._path, error)
            self.abandon()

    def abandon(self) -> None:
        """Delete what was written of a listing that is not published. Idempotent."""
        self._is_abandoned = True
        # An exception makes `open_atomically` delete its file.
        with suppress(_AbandonedError), self._stack.pop_all():
            raise _AbandonedError


class _AbandonedError(Exception):
    """Ends the writing of a listing."""


def is_cacheable(entry: Entry) -> bool:
    """Return False for an entry with a masked Xet hash."""
    value = entry.properties.get("xet-hash")
    return value is None or _XET_HASH.fullmatch(value) is not None


def _entry_from_json(path: str, info: dict[str, Any]) -> Entry:
    properties = {"blob-id": str(info["blob_id"])}
    sha256 = info.get("lfs_sha256")
    if sha256 is not None:
        properties["lfs-sha256"] = str(sha256)
    if info.get("xet_hash") is not None:
        properties["xet-hash"] = str(info["xet_hash"])
    if sha256 is None:
        digest, size = Digest("git-sha1", str(info["blob_id"])), info["size"]
    else:
        digest, size = Digest("sha256", str(sha256)), info["lfs_size"]
    return Entry(path=safe_path(path), size=int(size), digest=digest, properties=properties)


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    info: dict[str, Any] = {"size": entry.size, "blob_id": entry.properties.get("blob-id")}
    if sha256 := entry.properties.get("lfs-sha256"):
        info |= {"lfs_sha256": sha256, "lfs_size": entry.size}
    if xet_hash := entry.properties.get("xet-hash"):
        info["xet_hash"] = xet_hash
    return info
