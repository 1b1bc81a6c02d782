"""File contents of a test repository: the files on disk that hold them, and their digests.

A content is given as `bytes`, as a `pathlib.Path` (served in place) or as a `RandomFile`
(generated into the server's directory). Every content is stored as a file, so that bodies of
any size are sent by `sendfile` and none is kept in memory.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 1 << 20
DEFAULT_LFS_THRESHOLD = 10_000_000
# fmt: off
LFS_SUFFIXES = frozenset({
    ".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".ftz", ".gguf", ".gz",
    ".h5", ".joblib", ".mlmodel", ".model", ".msgpack", ".npy", ".npz", ".onnx",
    ".ot", ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".rar",
    ".safetensors", ".tar", ".tflite", ".tgz", ".wasm", ".xz", ".zip", ".zst",
})
# fmt: on
"""Suffixes of LFS files in the `.gitattributes` of a new Hub repository."""


@dataclass(frozen=True)
class RandomFile:
    """Incompressible bytes that depend only on `size` and `seed`.

    Args:
        size: length in bytes, 0 or more.
        seed: files of equal size and different seeds have different contents.

    Raises:
        ValueError: if `size` is negative.

    Example::

        repo.commit({"model.safetensors": RandomFile(64 << 20, seed=1)})
    """

    size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"RandomFile size must not be negative, got {self.size}")

    def blocks(self) -> Iterator[bytes]:
        """Yield the content in blocks of 1 MiB; the last block may be shorter.

        Each block is a random slice of 2 MiB of random bytes, and starts with its index so that
        no two blocks of a file are equal. This is about ten times as fast as generating every byte.
        """
        source = random.Random(f"hftransfer.testing/{self.seed}/{self.size}")
        pool = source.randbytes(min(self.size + 8, 2 * BLOCK_BYTES))
        for index, start in enumerate(range(0, self.size, BLOCK_BYTES)):
            length = min(BLOCK_BYTES, self.size - start)
            window = source.randrange(len(pool) - length + 1)
            stamp = index.to_bytes(8, "little") if index else b""
            yield (stamp + pool[window : window + length])[:length]

    def read_bytes(self) -> bytes:
        """Return the whole content; all of it is in memory."""
        return b"".join(self.blocks())


Content: TypeAlias = bytes | Path | RandomFile
"""The accepted contents of a file of a commit."""


@dataclass(frozen=True)
class Blob:
    """One stored file content and its digests.

    Attributes:
        source: the file on disk with the bytes.
        size: length in bytes.
        oid: git blob sha1 in hex; for an LFS file that of its pointer.
        sha256: sha256 of the content in hex.
        pointer_size: length of the LFS pointer in bytes; `None` for a regular file.
    """

    source: Path
    size: int
    oid: str
    sha256: str
    pointer_size: int | None

    @property
    def is_lfs(self) -> bool:
        """`True` if the Hub stores this content in LFS."""
        return self.pointer_size is not None

    @property
    def etag(self) -> str:
        """ETag of the file on the Hub host, without quotes: sha256 for LFS, else git blob sha1."""
        return self.sha256 if self.is_lfs else self.oid

    def read_bytes(self) -> bytes:
        """Return the whole content; all of it is in memory."""
        return self.source.read_bytes()


class BlobStore:
    """Stores contents as files and returns their `Blob`. May be used from any thread.

    Args:
        root: existing directory for the files of contents that are not a `Path`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._serial = itertools.count()
        self._lock = threading.Lock()
        self._generated: dict[RandomFile, Path] = {}

    def add(self, path: str, content: Content, *, lfs_threshold: int) -> Blob:
        """Store `content` for the repository path `path` and return its blob.

        Args:
            path: path in the repository; its suffix may make the file an LFS file.
            content: `bytes`, an existing file, or a `RandomFile`.
            lfs_threshold: size in bytes from which any file is an LFS file.

        Raises:
            FileNotFoundError: if `content` is a path without a file.
            TypeError: if `content` has another type.
        """
        _check_type(path, content)
        size = _size_of(content)
        lfs = size >= lfs_threshold or PurePosixPath(path).suffix.lower() in LFS_SUFFIXES
        sha256 = hashlib.sha256()
        git_blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with self._lock:
            source, blocks = self._stored(content)
            for block in blocks:
                sha256.update(block)
                if not lfs:
                    git_blob.update(block)
            if isinstance(content, RandomFile):
                self._generated[content] = source
        if not lfs:
            return Blob(source, size, git_blob.hexdigest(), sha256.hexdigest(), None)
        pointer = lfs_pointer(sha256.hexdigest(), size)
        return Blob(source, size, git_blob_id(pointer), sha256.hexdigest(), len(pointer))

    def _stored(self, content: Content) -> tuple[Path, Iterator[bytes]]:
        """Return the file of a content and its blocks.

        The blocks of a new content are written to the file while they are iterated.
        """
        if isinstance(content, Path):
            source = content.resolve(strict=True)
            return source, _read_blocks(source)
        if isinstance(content, RandomFile) and content in self._generated:
            source = self._generated[content]
            return source, _read_blocks(source)
        source = self._root / f"{next(self._serial):08d}"
        return source, _write_blocks(source, _blocks_of(content))


def _check_type(path: str, content: object) -> None:
    if not isinstance(content, bytes | Path | RandomFile):
        kind = type(content).__name__
        raise TypeError(f"{path}: content must be bytes, a Path or a RandomFile, not {kind}")


def _size_of(content: Content) -> int:
    if isinstance(content, Path):
        return content.stat().st_size
    if isinstance(content, RandomFile):
        return content.size
    return len(content)


def _blocks_of(content: bytes | RandomFile) -> Iterator[bytes]:
    return content.blocks() if isinstance(content, RandomFile) else iter((content,))


def _read_blocks(source: Path) -> Iterator[bytes]:
    with source.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block


def _write_blocks(source: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield each block after writing it, so that it is hashed while it is in the CPU cache."""
    with source.open("xb") as stream:
        for block in blocks:
            stream.write(block)
            yield block


def lfs_pointer(sha256: str, size: int) -> bytes:
    """Return the git-lfs pointer of a content (git-lfs specification, version 1)."""
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
        sha256.encode(),
        size,
    )


def git_blob_id(content: bytes) -> str:
    """Return the git object id of a blob, in hex."""
    header = b"blob %d\0" % len(content)
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()
