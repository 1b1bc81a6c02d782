"""What the transfers of one client share, and what is counted of each."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from hftransfer._core.events import Observer
from hftransfer._core.manifest import Manifest
from hftransfer._engine.scheduler import DownloadScheduler
from hftransfer._io.buffers import BufferPool
from hftransfer._io.limiter import ResizableLimiter
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.options import TransferOptions
from hftransfer.report import Report
from hftransfer.stores.base import Sink

__all__ = ("Context", "TransferStats")

_STAGES = ("fetch", "hash", "store")

# Where the number of connections is not given: modest to begin with, and as many as pay.
_START_CONNECTIONS = 16
_MAX_CONNECTIONS = 64
# Chunks that are lent, for each of these: a store that takes several at a time may be far away.
_LENT_PER_CONNECTION = 2


@dataclass(kw_only=True)
class Context:
    """What all transfers of one client share."""

    options: TransferOptions
    pool: BufferPool
    fetcher: DownloadScheduler
    large: ResizableLimiter
    """Chunks of large files in memory: not so many that small files find no room."""
    sendfile_limiter: ResizableLimiter
    """Chunks that are moved from where they lie: not so many that the first of them have left
    the page cache when they are sent."""
    windows: anyio.CapacityLimiter
    """Those of them that are being hashed. Taken before memory is, never while holding it."""
    hashing: anyio.CapacityLimiter
    """Worker threads that make digests of chunks."""
    fronts: anyio.CapacityLimiter
    """Worker threads that make digests of files. Without a limit: `OrderedHasher` has its own."""
    observer: Observer | None = None

    @classmethod
    def make(
        cls,
        options: TransferOptions,
        observer: Observer | None = None,
        *,
        throttle: RateLimiter | None = None,
    ) -> Context:
        budget = options.resolved_memory_budget
        chunk_slots = budget // options.chunk_size
        throttle = throttle or RateLimiter(options.bandwidth)
        cores = max(2, os.cpu_count() or 1)
        connections = options.connections or _START_CONNECTIONS
        return cls(
            options=options,
            pool=BufferPool(budget),
            fetcher=DownloadScheduler(
                options.connections,
                start=_START_CONNECTIONS,
                maximum=_MAX_CONNECTIONS,
                chunk_slots=chunk_slots,
                retry=options.retry,
                throttle=throttle,
            ),
            large=ResizableLimiter(max(1, chunk_slots - max(1, chunk_slots // 8))),
            sendfile_limiter=ResizableLimiter(_LENT_PER_CONNECTION * connections + cores),
            windows=anyio.CapacityLimiter(cores),
            hashing=anyio.CapacityLimiter(cores),
            fronts=anyio.CapacityLimiter(math.inf),
            observer=observer,
        )


@dataclass
class TransferStats:
    """Counters of one transfer."""

    files: int = 0
    skipped: int = 0
    bytes: int = 0
    reused: int = 0
    retries: int = 0
    verified: int = 0
    unstarted: int = 0
    """Bytes of which not even the fetching has begun."""
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))

    def timed(self, stage: str) -> _Timed:
        """Return what adds the time of a ``with`` block to `stage`."""
        return _Timed(self.stages, stage)

    def report(self, manifest: Manifest, sinks: Sequence[Sink], *, seconds: float) -> Report:
        return Report(
            source=manifest.source,
            destinations=tuple(sink.location for sink in sinks),
            files=self.files,
            skipped=self.skipped,
            bytes=self.bytes,
            reused_bytes=self.reused,
            seconds=seconds,
            retries=self.retries,
            verified=self.verified,
            stages=self.stages,
            manifest=manifest,
        )


class _Timed:
    """Measures a ``with`` block. A class, since a generator costs more than what it measures."""

    __slots__ = ("_stage", "_stages", "_started")

    def __init__(self, stages: dict[str, float], stage: str) -> None:
        self._stages = stages
        self._stage = stage

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._stages[self._stage] += time.perf_counter() - self._started
