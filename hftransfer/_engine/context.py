"""What the transfers of one client share, and the counters of each transfer.

The limits, in the order in which they are acquired. A task that holds one of them may wait only
for limits below it, so that tasks cannot wait for each other in a circle. Limits with the same
number are never held together.

=  =====================  ===================================  ===================================
#  limiter                unit: size                           acquired by
=  =====================  ===================================  ===================================
1  workers of `transfer`  files: 32 small ones; large ones,    a worker, until the file is
                          2 per core, at least 4               published; per transfer
2  `in_flight`            bytes: at least 16 MiB, adapted to    `RangeStrategy`, unless all sinks
                          the throughput                       store pieces; `SendfileStrategy`
3  `large_chunks`         chunks in memory: 7/8 of what the    `ChunkPipeline.acquire`, for files
                          memory budget holds                  of several chunks
3  `sendfile_limiter`     chunks without a buffer: 2 per       `SendfileStrategy`, until the chunk
                          connection, and 1 per core           is stored
4  `hash_windows`         windows of 1 MiB: 1 per core         `SendfileStrategy`, for hashing
5  `buffer_pool`          bytes: the memory budget             `ChunkPipeline.acquire`, until the
                                                               chunk is stored; `SendfileStrategy`
                                                               for a window; sinks, to compare
                                                               existing files
6  `scheduler`            requests in flight: the option       `DownloadScheduler.fill`, for each
   ``.connections``       `connections`, or 16 to 64,          piece of a chunk; `StreamStrategy`
                          adapted to the throughput            for a whole file
7  `hash_threads`         worker threads: 1 per core           `ChunkPipeline.hash`,
                                                               `SendfileStrategy`, `Checkpointer`
7  `file_hash_threads`    worker threads: no limit but that    `OrderedHasher`, for files of one
                          of 1 (a file needs one)              chunk
7  queue of               chunks: 3 per file                   `OrderedHasher.update`, after its
   `OrderedHasher`                                             wait for the chunk's turn
7  those of a sink        local files: 4 writer threads per    `FileSink.write`, `read_into`
                          file; S3: uploads in flight
=  =====================  ===================================  ===================================

Three further waits fit into this order:

- In `OrderedHasher` a chunk waits, with its buffer, for the earlier chunks of its file. These
  got their buffers first, so they wait only for limits from 6 on.
- A chunk that has a connection takes further ones, and memory for a second request, only if they
  are free (`try_acquire`).
- The `RateLimiter` delays the next read or write of a connection. It is waited for and not held.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from hftransfer._core.events import Observer
from hftransfer._core.manifest import Manifest
from hftransfer._engine.checkpoint import Checkpointer
from hftransfer._engine.in_flight import InFlightWindow
from hftransfer._engine.scheduler import DownloadScheduler
from hftransfer._io.buffers import BufferPool
from hftransfer._io.limiter import ResizableLimiter
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.options import TransferOptions
from hftransfer.report import Report
from hftransfer.stores.base import ExclusiveSink, Sink

__all__ = ("Context", "TransferStats")

_STAGES = ("fetch", "hash", "store")

# Connections at the start, if the option is not given. Most servers and CDNs serve one client
# more than 16; where each brings 50 MB/s, starting with 8 would cost one more doubling, a sixth of
# a second.
_START_CONNECTIONS = 16
# Most connections, if the option is not given. Published measurements show no gain from 64 over
# 32 (Run:ai Model Streamer) and a loss at 400 (ai-dynamo/nixl, PR 1769: 18.1 GB/s with 150,
# 13.1 GB/s with 400).
_MAX_CONNECTIONS = 64
# Sendfile chunks in progress per connection; more than one hides the round trip of an upload.
# Many more would let the first of them leave the page cache, into which hashing read them,
# before they are sent.
_SENDFILE_PER_CONNECTION = 2
# One in this many chunks of the memory budget, and at least one, is kept for files of one chunk.
_SMALL_FILE_SHARE = 8


@dataclass(kw_only=True)
class Context:
    """What all transfers of one client share. The module docstring has the order of limits."""

    options: TransferOptions
    buffer_pool: BufferPool
    """All data memory."""
    scheduler: DownloadScheduler
    in_flight: InFlightWindow
    """Chunks that a sink stores only as a whole, from their first byte until they are stored."""
    large_chunks: ResizableLimiter
    """Chunks in memory that belong to files of several chunks. Less than the budget holds, so
    that small files find memory while the first bytes of a large file are late."""
    sendfile_limiter: ResizableLimiter
    """Chunks between hashing and the end of their upload that have no buffer."""
    hash_windows: anyio.CapacityLimiter
    """Those of them that are being hashed through a window of buffer memory."""
    hash_threads: anyio.CapacityLimiter
    """Worker threads that hash chunks."""
    file_hash_threads: anyio.CapacityLimiter
    """Worker threads that compute the digests of files of one chunk; unlimited. With one thread
    per core each would wait for the event loop between two files, and on a busy machine 1,000
    files of 500 kB took twice as long. Files of several chunks have a thread of their own."""
    checkpointer: Checkpointer
    """Stores what has arrived of chunks in flight."""
    observer: Observer | None = None

    @classmethod
    def make(
        cls,
        options: TransferOptions,
        observer: Observer | None = None,
        *,
        rate_limiter: RateLimiter | None = None,
    ) -> Context:
        """Return the limits that `options` and the number of cores call for.

        Args:
            options: of the client.
            observer: receives progress events.
            rate_limiter: the client's bandwidth cap. Default: one as `options` says.
        """
        budget = options.resolved_memory_budget
        chunk_slots = budget // options.chunk_size
        rate_limiter = rate_limiter or RateLimiter(options.bandwidth)
        cores = max(2, os.cpu_count() or 1)
        connections = options.connections or _START_CONNECTIONS
        small_file_slots = max(1, chunk_slots // _SMALL_FILE_SHARE)
        buffer_pool = BufferPool(budget)
        hash_threads = anyio.CapacityLimiter(cores)
        return cls(
            options=options,
            buffer_pool=buffer_pool,
            scheduler=DownloadScheduler(
                options.connections,
                start=_START_CONNECTIONS,
                maximum=_MAX_CONNECTIONS,
                chunk_slots=chunk_slots,
                retry=options.retry,
                rate_limiter=rate_limiter,
                buffer_pool=buffer_pool,
            ),
            in_flight=InFlightWindow(),
            large_chunks=ResizableLimiter(max(1, chunk_slots - small_file_slots)),
            sendfile_limiter=ResizableLimiter(_SENDFILE_PER_CONNECTION * connections + cores),
            hash_windows=anyio.CapacityLimiter(cores),
            hash_threads=hash_threads,
            file_hash_threads=anyio.CapacityLimiter(math.inf),
            checkpointer=Checkpointer(hash_threads),
            observer=observer,
        )


@dataclass
class TransferStats:
    """Counters of one transfer, which become its `Report`. Used on the event loop only."""

    files: int = 0
    skipped: int = 0
    bytes: int = 0
    reused: int = 0
    retries: int = 0
    verified: int = 0
    unverified: int = 0
    server_side: int = 0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))

    def record_checks(self, checks: Sequence[bool]) -> None:
        """Count a published file.

        Args:
            checks: for each network that its bytes crossed, whether they were compared with a
                digest; and True if they were compared although they crossed none.
        """
        if not all(checks):
            self.unverified += 1
        elif checks:
            self.verified += 1

    def timed(self, stage: str) -> _StageTimer:
        """Return a context manager that adds the time of its block to `stage`."""
        return _StageTimer(self.stages, stage)

    def report(self, manifest: Manifest, sinks: Sequence[Sink], *, seconds: float) -> Report:
        """Return the report of a transfer that took `seconds`."""
        return Report(
            source=manifest.source,
            destinations=tuple(sink.location for sink in sinks),
            files=self.files,
            skipped=self.skipped,
            bytes=self.bytes,
            reused_bytes=self.reused,
            server_side_bytes=self.server_side,
            seconds=seconds,
            retries=self.retries,
            verified=self.verified,
            unverified=self.unverified,
            non_atomic=sum(sink.non_atomic for sink in sinks if isinstance(sink, ExclusiveSink)),
            stages=self.stages,
            manifest=manifest,
        )


class _StageTimer:
    """Measures a ``with`` block. `contextlib.contextmanager` would cost more than some blocks."""

    __slots__ = ("_stage", "_stages", "_started")

    def __init__(self, stages: dict[str, float], stage: str) -> None:
        self._stages = stages
        self._stage = stage

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._stages[self._stage] += time.perf_counter() - self._started
