"""One request of a task, from its start to its end, and what it transferred."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest

HUB = "the Hugging Face Hub"
DATASTORE = "the datastore"
SIBLING = "another task's copy in the datastore"

LOADING = "loading"
DONE = "done"
FAILED = "failed"

# In less time the throughput is that of the set-up, not of the transfer.
_MIN_SECONDS_FOR_A_RATE = 0.05


@dataclass(frozen=True)
class TransferSummary:
    """What one load or download transferred."""

    files: int
    bytes: int
    """Of all files."""
    fetched: int
    """Bytes that were read from the Hub or the datastore; the others were already there."""
    seconds: float
    commit: str | None
    verified: str
    """How the bytes were verified, for users."""
    manifest: dict[str, Any]
    """The JSON document that describes the files; empty if they are not known."""
    origin: str = DATASTORE
    """From where the files came: one of the origins of `access`."""
    cloned: bool = False
    """True if the file system cloned or linked the files, so that no byte was copied."""

    @classmethod
    def of(
        cls,
        manifest: dict[str, Any],
        fetched: int | None,
        seconds: float,
        verified: str,
        *,
        origin: str = DATASTORE,
        cloned: bool = False,
    ) -> TransferSummary:
        """Return the summary of a transfer of all files of `manifest`.

        Parameters
        ----------
        manifest : dict
            In one of the two forms of `manifests`.
        fetched : int, optional
            Default: the bytes of all files.
        seconds : float
        verified : str
        origin : str
        cloned : bool
        """
        sizes = [file["size"] for file in manifest["files"].values()]
        return cls(
            files=len(sizes),
            bytes=sum(sizes),
            fetched=sum(sizes) if fetched is None else fetched,
            seconds=seconds,
            commit=manifest.get("commit"),
            verified=verified,
            manifest=manifest,
            origin=origin,
            cloned=cloned,
        )

    @property
    def rate(self) -> float | None:
        """Bytes per second; None if too little was transferred to say."""
        if self.cloned or not self.fetched or self.seconds < _MIN_SECONDS_FOR_A_RATE:
            return None
        return self.fetched / self.seconds

    def __str__(self) -> str:
        from hftransfer._core.units import format_size

        reused = 0 if self.cloned else self.bytes - self.fetched
        how = ""
        if self.cloned:
            how = ", cloned by the file system"
        elif reused > 0:
            how = f", {format_size(reused)} of it already there"
        if self.rate is not None:
            how += f", {format_size(self.rate)}/s"
        files = "1 file" if self.files == 1 else f"{self.files} files"
        return f"{files}, {format_size(self.bytes)}{how}, {self.verified}"


@dataclass
class Access:
    """One request and how it was satisfied.

    The thread of the request writes it, the card's thread reads it. `state` is written last.
    """

    request: RepoRequest
    mechanism: str
    """``decorator load``, ``snapshot_download`` or ``context manager``."""
    path: str | None = None
    """The folder of the files; None if they go to the datastore only."""
    started_at: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    state: str = LOADING
    """`LOADING`, `DONE` or `FAILED`."""
    origin: str = ""
    """`HUB`, `DATASTORE` or `SIBLING`; empty until that is known."""
    reference: dict[str, Any] = field(default_factory=dict)
    """metaflow-checkpoint's reference to the entry; empty until there is one."""
    cache_hit: bool = False
    """True if the files came from the datastore, or are there and were not moved."""
    summary: TransferSummary | None = None
    """None if no byte was transferred."""
    error: str = ""

    def finish(
        self,
        reference: dict[str, Any],
        cache_hit: bool,
        summary: TransferSummary | None,
        stored_at: str = DATASTORE,
    ) -> None:
        """Record that the request is satisfied.

        Parameters
        ----------
        reference : dict
        cache_hit : bool
        summary : TransferSummary, optional
        stored_at : str
            The origin, where no byte was transferred.
        """
        self.reference, self.cache_hit, self.summary = reference, cache_hit, summary
        self.origin = stored_at if summary is None else summary.origin
        self.state = DONE

    def fail(self, error: BaseException) -> None:
        """Record the error by which the request ends."""
        text = str(error)
        name = type(error).__name__
        self.error = f"{name}: {text}" if text else name
        self.state = FAILED
