"""The files of a manifest as it is collected: compact in memory, and in a file if they are many.

A record is the path, the sizes and the digests in binary form: about 100 bytes and the path for a
file of one chunk, a tenth of what the objects of Python take. Beyond `_MAX_MEMORY` bytes the
records are in a temporary file without a name, which the system deletes with its last user.
"""

from __future__ import annotations

import heapq
import io
import logging
import struct
from array import array
from collections.abc import Iterator, Mapping
from typing import IO, Any

from hftransfer._core.digests import Digest
from hftransfer._core.manifest import FileManifest

__all__ = ("ManifestRecords", "sorted_files")

_logger = logging.getLogger("hftransfer")

# Bytes of records in memory: those of about 50,000 small files.
_MAX_MEMORY = 8 << 20
# Bytes of the path, of the digest and of the chunks' digests; the size of the file and of a chunk.
_HEADER = struct.Struct("<IIIQQ")
_DIGEST_SIZE = 16  # XXH3-128
_READ_SIZE = 1 << 16
# Records whose paths are sorted at a time. More need more memory, fewer make more runs to merge.
_RUN_LENGTH = 20_000


class ManifestRecords(Mapping[str, FileManifest]):
    """Path to `FileManifest`, in the order of `add`. Used by one thread at a time.

    Args:
        max_memory: bytes of records that are kept in memory. Default 8 MiB.
    """

    def __init__(self, max_memory: int = _MAX_MEMORY) -> None:
        self._max_memory = max_memory
        self._file: IO[bytes] = io.BytesIO()
        self._end = 0
        """Position behind the last record, bytes."""
        self._count = 0
        self._slots: array[int] | None = None
        """A hash table with open addressing: 1 more than the position of a record, or 0. Made for
        the first look-up after an `add`."""

    def add(self, path: str, manifest: FileManifest) -> None:
        """Append the record of a file; `path` must not have been added before."""
        record = _pack(path, manifest)
        self._slots = None
        try:
            if self._end <= self._max_memory < self._end + len(record):
                self._move_to_disk()
            self._write(record)
        except OSError as error:
            _logger.warning("the records of the manifest stay in memory: %s", error)
            self._file, self._max_memory = io.BytesIO(self._read(0, self._end)), 0
            self._write(record)
        self._end += len(record)
        self._count += 1

    def _move_to_disk(self) -> None:
        import tempfile  # rarely needed, and slow to import

        file = tempfile.TemporaryFile(prefix="hftransfer-manifest-")  # noqa: SIM115
        file.write(self._read(0, self._end))
        self._file = file

    def _write(self, record: bytes) -> None:
        self._file.seek(self._end)
        self._file.write(record)

    def _read(self, position: int, size: int) -> bytes:
        self._file.seek(position)
        return self._file.read(min(size, self._end - position))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (_path(record) for _, record in self._records())

    def __getitem__(self, path: str) -> FileManifest:
        if self._slots is None:
            self._slots = self._new_slots()
        mask = len(self._slots) - 1
        slot = hash(path) & mask
        while position := self._slots[slot]:
            record = self._record_at(position - 1)
            if _path(record) == path:
                return _unpack(record)
            slot = (slot + 1) & mask
        raise KeyError(path)

    def sorted_items(self) -> Iterator[tuple[str, FileManifest]]:
        """Yield all files sorted by path. Beside the records it takes 8 bytes per file."""
        runs: list[array[int]] = []
        paths: list[tuple[str, int]] = []
        for position, record in self._records():
            paths.append((_path(record), position))
            if len(paths) == _RUN_LENGTH:
                runs.append(array("q", (each for _, each in sorted(paths))))
                paths.clear()
        runs.append(array("q", (each for _, each in sorted(paths))))
        paths.clear()
        for _, record in heapq.merge(*map(self._run, runs)):
            yield _path(record), _unpack(record)

    def _run(self, positions: array[int]) -> Iterator[tuple[str, bytes]]:
        for position in positions:
            record = self._record_at(position)
            yield _path(record), record

    def __del__(self) -> None:
        self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as a dict: a file cannot be pickled."""
        return dict, (dict(self),)

    def _new_slots(self) -> array[int]:
        mask = (1 << (2 * self._count).bit_length()) - 1
        slots = array("q", bytes(8 * (mask + 1)))
        for position, record in self._records():
            slot = hash(_path(record)) & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            slots[slot] = position + 1
        return slots

    def _record_at(self, position: int) -> bytes:
        header = self._read(position, _HEADER.size)
        return header + self._read(position + _HEADER.size, _body_size(header))

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """Yield the position of each record, and the record."""
        position, buffer = 0, b""
        while position < self._end:
            size = _HEADER.size + _body_size(buffer) if len(buffer) >= _HEADER.size else _READ_SIZE
            if len(buffer) < size:
                buffer = self._read(position, max(size, _READ_SIZE))
                size = _HEADER.size + _body_size(buffer)
                if len(buffer) < size:
                    buffer = self._read(position, size)
            yield position, buffer[:size]
            position, buffer = position + size, buffer[size:]


def sorted_files(files: Mapping[str, FileManifest]) -> Iterator[tuple[str, FileManifest]]:
    """Yield the files of a manifest sorted by path, in little memory if they are records."""
    if isinstance(files, ManifestRecords):
        yield from files.sorted_items()
    else:
        for path in sorted(files):
            yield path, files[path]


def _body_size(record: bytes) -> int:
    path, digest, chunks, _, _ = _HEADER.unpack_from(record)
    return int(path + digest + chunks)


def _pack(path: str, manifest: FileManifest) -> bytes:
    name = path.encode("utf-8", "surrogatepass")
    digest = b"" if manifest.digest is None else str(manifest.digest).encode()
    chunks = bytes.fromhex("".join(manifest.chunks))
    header = _HEADER.pack(len(name), len(digest), len(chunks), manifest.size, manifest.chunk_size)
    return b"".join((header, name, digest, chunks))


def _path(record: bytes) -> str:
    (size,) = struct.unpack_from("<I", record)
    return record[_HEADER.size : _HEADER.size + size].decode("utf-8", "surrogatepass")


def _unpack(record: bytes) -> FileManifest:
    path_size, digest_size, _, size, chunk_size = _HEADER.unpack_from(record)
    start = _HEADER.size + path_size
    digest = record[start : start + digest_size].decode()
    chunks = record[start + digest_size :].hex()
    digits = 2 * _DIGEST_SIZE
    return FileManifest(
        size=size,
        chunk_size=chunk_size,
        chunks=tuple(chunks[at : at + digits] for at in range(0, len(chunks), digits)),
        digest=Digest.parse(digest) if digest else None,
    )
