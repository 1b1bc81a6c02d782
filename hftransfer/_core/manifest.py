"""The manifest: the digests of all chunks of a transfer, to verify its files later.

The JSON form (``chunks`` are XXH3-128 digests in hex; ``xxh3`` is the XXH3-128 over them)::

    {"format": "hftransfer-manifest", "version": 1, "source": "hf://…", "commit": "…",
     "files": {"config.json": {"size": 570, "chunk_size": 8388608, "digest": "git-sha1:…",
                               "xxh3": "…", "chunks": ["…"]}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hftransfer._core.digests import Digest, root_digest
from hftransfer.errors import IntegrityError

__all__ = ("FileManifest", "Manifest")

_FORMAT = "hftransfer-manifest"


@dataclass(frozen=True, kw_only=True)
class FileManifest:
    """The digests of one file."""

    size: int
    """Bytes."""
    chunk_size: int
    """Bytes of each chunk but the last, which has the rest."""
    chunks: tuple[str, ...]
    """XXH3-128 of each chunk in order, 32 hex digits."""
    digest: Digest | None = None
    """Digest of the whole file as the source states it, if it does."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "size": self.size,
            "chunk_size": self.chunk_size,
            "digest": None if self.digest is None else str(self.digest),
            "xxh3": root_digest(self.chunks),
            "chunks": list(self.chunks),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FileManifest:
        """Return the file manifest of a JSON form.

        Raises:
            KeyError, TypeError, ValueError: if it is damaged.
        """
        digest = value["digest"]
        manifest = cls(
            size=int(value["size"]),
            chunk_size=int(value["chunk_size"]),
            chunks=tuple(value["chunks"]),
            digest=None if digest is None else Digest.parse(digest),
        )
        if (
            manifest.size < 0
            or manifest.chunk_size < 1
            or len(manifest.chunks) != -(-manifest.size // manifest.chunk_size)
            or root_digest(manifest.chunks) != value["xxh3"]
        ):
            raise ValueError("the chunk digests do not match the size or the root digest")
        return manifest


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The digests of all files of one transfer."""

    source: str
    """Location of the source, as text."""
    files: Mapping[str, FileManifest] = field(default_factory=dict)
    """By path relative to the root of the source."""
    commit: str | None = None
    """Commit of the repository that was transferred, if the source is one."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "format": _FORMAT,
            "version": 1,
            "source": self.source,
            "commit": self.commit,
            "files": {path: self.files[path].to_dict() for path in sorted(self.files)},
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Manifest:
        """Return the manifest of a JSON form.

        Raises:
            IntegrityError: if `value` is not a manifest, or is damaged.
        """
        try:
            if (value["format"], value["version"]) != (_FORMAT, 1):
                raise ValueError(f"unknown format {value['format']!r} {value['version']!r}")
            files = {path: FileManifest.from_dict(entry) for path, entry in value["files"].items()}
            return cls(source=value["source"], files=files, commit=value["commit"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise IntegrityError(f"damaged manifest: {error}") from error
