"""The results of transfers (`Report`) and verifications (`Verification`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hftransfer._core.manifest import Manifest

__all__ = ("Report", "Verification")


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of one transfer."""

    source: str
    """Location, as text."""
    destinations: tuple[str, ...]
    """Locations, as text."""
    files: int = 0
    """Files that got their final name in this transfer."""
    skipped: int = 0
    """Files that every destination had before."""
    skipped_names: int = 0
    """Files that were left out because a destination cannot write their names (`on_bad_name`)."""
    bytes: int = 0
    """Bytes read from the source. A copy with a sidecar also reads files that are there already."""
    reused_bytes: int = 0
    """Bytes that an interrupted transfer had stored, verified and not read again."""
    seconds: float = 0.0
    """Wall time, including the listing of the source."""
    retries: int = 0
    """Requests that were repeated."""
    verified: int = 0
    """Files that were compared with a digest wherever they crossed a network: on arrival, with that
    of the source or of a manifest; on an upload, with the checksum or the MD5 that the store
    returned. Local files also count if a manifest was given."""
    unverified: int = 0
    """Files that crossed a network without such a comparison, since there was no digest, or since
    `TransferOptions.verify` is False."""
    non_atomic: int = 0
    """Files written with ``S3Options(overwrite=False)`` to a store that has not been shown to
    honour ``If-None-Match``. Each was looked for just before it was written, which is not atomic:
    an object that another writer created in between was replaced."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds of the stages ``fetch``, ``hash`` and ``store``, summed over all chunks."""
    manifest: Manifest = field(repr=False)
    """Digests of the chunks of the files, except those that were copied on the server. The
    records of many files are in a temporary file (`hftransfer._core.manifest_records`)."""
    server_side_bytes: int = 0
    """Bytes that a store copied itself; not included in `bytes`."""

    def to_dict(self) -> dict[str, Any]:
        """Return values for JSON, without the manifest (see `Manifest.to_dict`)."""
        return {
            "source": self.source,
            "destinations": list(self.destinations),
            "commit": self.manifest.commit,
            "files": self.files,
            "skipped": self.skipped,
            "skipped_names": self.skipped_names,
            "bytes": self.bytes,
            "reused_bytes": self.reused_bytes,
            "server_side_bytes": self.server_side_bytes,
            "seconds": round(self.seconds, 3),
            "retries": self.retries,
            "verified": self.verified,
            "unverified": self.unverified,
            "non_atomic": self.non_atomic,
            "stages": {name: round(seconds, 3) for name, seconds in self.stages.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of one verification."""

    location: str
    """The location that was verified, as text."""
    against: str
    """Where the expected digests come from."""
    files: int
    """Files that match their expected digest."""
    bytes: int
    """Bytes read."""
    wrong: Mapping[str, str]
    """Files that do not match: path to a description of the difference. Of this and of the two
    fields below only the first 10,000 that were found; the counts include all."""
    missing: tuple[str, ...]
    """Paths of expected files that do not exist."""
    unchecked: tuple[str, ...]
    """Paths of files without an expected digest."""
    wrong_count: int = 0
    missing_count: int = 0
    unchecked_count: int = 0
    seconds: float
    """Wall time."""

    @property
    def ok(self) -> bool:
        """True if no file is wrong or missing, and at least one was verified."""
        return not self.wrong and not self.missing and self.files > 0

    def to_dict(self) -> dict[str, Any]:
        """Return values for JSON."""
        return {
            "location": self.location,
            "against": self.against,
            "ok": self.ok,
            "files": self.files,
            "bytes": self.bytes,
            "wrong": dict(self.wrong),
            "missing": list(self.missing),
            "unchecked": list(self.unchecked),
            "wrong_count": self.wrong_count,
            "missing_count": self.missing_count,
            "unchecked_count": self.unchecked_count,
            "seconds": round(self.seconds, 3),
        }
