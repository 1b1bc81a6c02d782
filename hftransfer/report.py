"""What transfers and verifications return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hftransfer._core.manifest import Manifest

__all__ = ("Report", "Verification")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one transfer did."""

    source: str
    destinations: tuple[str, ...]
    files: int = 0
    """Files published by this transfer."""
    skipped: int = 0
    """Files that every destination had already."""
    bytes: int = 0
    """Bytes read from the source."""
    reused_bytes: int = 0
    """Bytes kept from an interrupted transfer, after checking them."""
    seconds: float = 0.0
    """Wall time, the listing included."""
    retries: int = 0
    """Requests that were tried again."""
    verified: int = 0
    """Files checked against the source's own digest or a manifest."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent fetching, hashing and storing, added up over all connections."""
    manifest: Manifest = field(repr=False)
    """Chunk digests of the published files; without those that a store copied by itself."""
    server_side_bytes: int = 0
    """Bytes that a store copied within itself; they are not among `bytes`."""

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
            "server_side_bytes": self.server_side_bytes,
            "seconds": round(self.seconds, 3),
            "retries": self.retries,
            "verified": self.verified,
            "stages": {name: round(seconds, 3) for name, seconds in self.stages.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What one verification found."""

    location: str
    against: str
    """Who said what the bytes should be."""
    files: int
    """Files that are as they should be."""
    bytes: int
    """Bytes read."""
    wrong: Mapping[str, str]
    """Paths of files that differ, to what is wrong with them."""
    missing: tuple[str, ...]
    """Paths of files that should be there."""
    unchecked: tuple[str, ...]
    """Paths of files of which nobody says what they should be."""
    seconds: float
    """Wall time."""

    @property
    def ok(self) -> bool:
        """True if nothing is wrong or missing, and something was checked."""
        return not self.wrong and not self.missing and self.files > 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "location": self.location,
            "against": self.against,
            "ok": self.ok,
            "files": self.files,
            "bytes": self.bytes,
            "wrong": dict(self.wrong),
            "missing": list(self.missing),
            "unchecked": list(self.unchecked),
            "seconds": round(self.seconds, 3),
        }
