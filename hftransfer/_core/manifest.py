"""The manifest: what was moved, chunk by chunk, so that it can be checked later.

JSON form::

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
    """One file: `chunks` holds the XXH3-128 (hex) of each `chunk_size` bytes, in order."""

    size: int
    chunk_size: int
    chunks: tuple[str, ...]
    digest: Digest | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "chunk_size": self.chunk_size,
            "digest": None if self.digest is None else str(self.digest),
            "xxh3": root_digest(self.chunks),
            "chunks": list(self.chunks),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> FileManifest:
        digest = value["digest"]
        made = cls(
            size=int(value["size"]),
            chunk_size=int(value["chunk_size"]),
            chunks=tuple(value["chunks"]),
            digest=None if digest is None else Digest.parse(digest),
        )
        if (
            made.size < 0
            or made.chunk_size < 1
            or len(made.chunks) != -(-made.size // made.chunk_size)
            or root_digest(made.chunks) != value["xxh3"]
        ):
            raise ValueError("chunk digests do not add up")
        return made


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All files of one transfer, by path relative to its root."""

    source: str
    files: Mapping[str, FileManifest] = field(default_factory=dict)
    commit: str | None = None

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
            IntegrityError: if it is not one, or is damaged.
        """
        try:
            if (value["format"], value["version"]) != (_FORMAT, 1):
                raise ValueError(f"unknown format {value['format']!r} {value['version']!r}")
            files = {path: FileManifest.from_dict(entry) for path, entry in value["files"].items()}
            return cls(source=value["source"], files=files, commit=value["commit"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise IntegrityError(f"damaged manifest: {error}") from error
