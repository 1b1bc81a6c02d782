"""The report that every transfer returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hftransfer._manifest import Manifest

__all__ = ("Report",)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one transfer did."""

    source: str
    destinations: tuple[str, ...]
    files: int
    """Files published by this transfer."""
    skipped: int
    """Files that every destination had already."""
    bytes: int
    """Bytes read from the source."""
    reused_bytes: int
    """Bytes kept from an interrupted transfer, after checking them."""
    seconds: float
    """Wall time, the listing included."""
    retries: int
    """Requests that were tried again."""
    verified: int
    """Files checked against the source's own digest or a manifest."""
    stages: Mapping[str, float]
    """Seconds spent fetching, hashing and storing, added up over all connections."""
    manifest: Manifest = field(repr=False)
    """Chunk digests of the published files."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the manifest (see `Manifest.to_dict`)."""
        return {
            "source": self.source,
            "destinations": list(self.destinations),
            "commit": self.manifest.commit,
            "files": self.files,
            "skipped": self.skipped,
            "bytes": self.bytes,
            "reused_bytes": self.reused_bytes,
            "seconds": round(self.seconds, 3),
            "retries": self.retries,
            "verified": self.verified,
            "stages": {name: round(seconds, 3) for name, seconds in self.stages.items()},
        }
