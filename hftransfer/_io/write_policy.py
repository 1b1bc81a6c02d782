"""Decides for each write of a file whether it goes through the page cache or past it.

One `WritePolicy` serves all files of one sink. The worker threads that write those files ask it
before every write and report to it after every write. `WriteCosts` holds what was measured;
`next_phase` decides from it and is pure.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hftransfer._io.direct_io import DirectIO

__all__ = ("DIRECT_SAMPLES", "WriteCosts", "WritePhase", "WritePolicy", "next_phase")

# A direct write must take less than this share of the time of a cached write, if CPU time is
# plentiful: a cached file can be read from memory afterwards.
_DIRECT_ADVANTAGE = 0.7
# The disk keeps up if it writes a byte in less than this share of the time between the arrival of
# two bytes.
_DISK_HEADROOM = 0.8
# While writes go through the page cache, one in so many goes to the disk to measure it.
_PROBE_INTERVAL = 24
# Direct writes that are measured before the first decision: a file's first blocks take the disk
# longer than the others.
DIRECT_SAMPLES = 3
# Writes below this size (bytes) take too little time to measure a rate.
_MIN_SAMPLE_BYTES = 1 << 20
_EWMA_ALPHA = 0.5
# Above this share of time off the CPU, the CPU is saturated: cached writes wait for a core.
_SATURATED_OFF_CPU = 0.25
# CPU seconds per byte of a cached write above which copies count as expensive: three times a
# copy from memory to memory. Page faults in a virtual machine cost that much.
_EXPENSIVE_CPU = 0.5e-3 / (1 << 20)


class WritePhase(enum.Enum):
    """What the policy does with the next write."""

    FIXED_CACHED = enum.auto()
    """Every write goes through the page cache; nothing is measured."""
    FIXED_DIRECT = enum.auto()
    """Every write goes past the page cache; nothing is measured."""
    MEASURE_CACHED = enum.auto()
    """Writes go through the page cache until one of them is measured."""
    MEASURE_DIRECT = enum.auto()
    """Writes go past the page cache until `DIRECT_SAMPLES` of them are measured."""
    CACHED = enum.auto()
    """Writes go through the page cache; one in `_PROBE_INTERVAL` measures the disk."""
    DIRECT = enum.auto()
    """Writes go past the page cache."""


_FIXED = (WritePhase.FIXED_CACHED, WritePhase.FIXED_DIRECT)
_WRITES_DIRECT = (WritePhase.FIXED_DIRECT, WritePhase.MEASURE_DIRECT, WritePhase.DIRECT)


@dataclass
class _Average:
    """An exponentially weighted mean; a mean without a start value begins with the first sample."""

    value: float | None = None
    samples: int = 0

    def add(self, sample: float) -> None:
        self.samples += 1
        if self.value is None:
            self.value = sample
        else:
            self.value = (1 - _EWMA_ALPHA) * self.value + _EWMA_ALPHA * sample


@dataclass
class WriteCosts:
    """What the writes of one transfer have cost so far. Not thread-safe."""

    cached: _Average = field(default_factory=_Average)
    """Seconds per byte through the page cache."""
    direct: _Average = field(default_factory=_Average)
    """Seconds per byte past the page cache, of all writers together."""
    off_cpu: _Average = field(default_factory=lambda: _Average(0.0))
    """Share of the time of a cached write during which its thread had no core."""
    cpu: _Average = field(default_factory=_Average)
    """CPU seconds per byte of a cached write."""
    started_at: float | None = None
    """When the first measured write ended, in seconds of the policy's clock."""
    written: int = 0
    """Bytes of the measured writes after the first."""

    def add_cached(self, size: int, seconds: float, cpu_seconds: float) -> None:
        """Add a write through the page cache."""
        self.cached.add(seconds / size)
        self.off_cpu.add(max(0.0, 1 - cpu_seconds / seconds))
        self.cpu.add(cpu_seconds / size)

    def add_direct(self, size: int, seconds: float, in_flight: int) -> None:
        """Add a write past the page cache, during which `in_flight` direct writes ran."""
        self.direct.add(seconds / size / in_flight)

    def count(self, size: int, now: float) -> None:
        """Count the bytes of a write towards the arrival rate."""
        if self.started_at is None:
            self.started_at = now  # how long the bytes of the first write took is not known
        else:
            self.written += size

    def arrival_interval(self, now: float) -> float:
        """Return the seconds from one byte to the next, as they have arrived so far."""
        assert self.started_at is not None
        return (now - self.started_at) / max(1, self.written)


def next_phase(phase: WritePhase, costs: WriteCosts, now: float) -> WritePhase:
    """Return the phase after `phase`, which is not a fixed one, given what was measured."""
    cached, direct = costs.cached.value, costs.direct.value
    if cached is None:
        return WritePhase.MEASURE_CACHED
    if direct is None or costs.direct.samples < DIRECT_SAMPLES:
        return WritePhase.MEASURE_DIRECT
    assert costs.off_cpu.value is not None
    assert costs.cpu.value is not None
    if (
        phase is WritePhase.DIRECT
        or costs.off_cpu.value > _SATURATED_OFF_CPU
        or costs.cpu.value > _EXPENSIVE_CPU
    ):
        prefers_direct = direct < cached or direct < costs.arrival_interval(now) * _DISK_HEADROOM
    else:
        prefers_direct = direct < cached * _DIRECT_ADVANTAGE
    return WritePhase.DIRECT if prefers_direct else WritePhase.CACHED


class WritePolicy:
    """Decides, write by write, whether to write past the page cache. Thread-safe.

    The modes ``on`` and ``off`` decide at once. So does ``auto`` for a transfer larger than half
    of the available page cache: it would evict its own beginning, and the files of other
    processes with it. Otherwise ``auto`` prefers the page cache, because a file that stays there
    is read from memory soon after, until it measures one of these:

    - Direct writes move more bytes in the same time. Only one cached write of a file runs at a
      time, but several direct ones. In many virtual machines each new page of the cache costs a
      fault in the host, and the disk is several times faster.
    - Cached writes use CPU time that is scarce: they wait for a core, or need much more CPU time
      than a copy should, while the disk can write all that arrives.

    After that, writes are direct for as long as the disk keeps up. They are not mixed with cached
    ones: a cached write would block the direct writes of its file (see `SharedExclusiveLock`)
    and cost the CPU time that is to be saved. A direct probe among cached writes costs neither.

    Args:
        mode: ``on``, ``off`` or ``auto``.
        size: bytes of the transfer, as far as they are known; see `grow`.
        page_cache: bytes that the page cache can take.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        mode: DirectIO,
        size: int,
        page_cache: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards all that follows
        self._page_cache = page_cache
        self._size = 0
        if mode == "auto":
            self._phase = WritePhase.MEASURE_CACHED
        else:
            self._phase = WritePhase.FIXED_DIRECT if mode == "on" else WritePhase.FIXED_CACHED
        self.grow(size)
        self._costs = WriteCosts()
        self._writes = 0
        self._direct_in_flight = 0

    def grow(self, size: int) -> None:
        """Add `size` bytes to the transfer, when more of its files are known."""
        with self._lock:
            self._size += size
            if self._phase not in _FIXED and self._size > self._page_cache // 2:
                self._phase = WritePhase.FIXED_DIRECT

    @property
    def may_write_direct(self) -> bool:
        """False if no write will ever be direct."""
        return self._phase is not WritePhase.FIXED_CACHED

    def choose_direct(self) -> bool:
        """Return True if the next write should be direct; `record` must be called after it."""
        if self._phase in _FIXED:  # without the lock: a fixed phase never changes
            return self._phase is WritePhase.FIXED_DIRECT
        with self._lock:
            if self._phase in _FIXED:  # since `grow`, in another thread
                return self._phase is WritePhase.FIXED_DIRECT
            self._writes += 1
            self._phase = next_phase(self._phase, self._costs, self._clock())
            direct = self._phase in _WRITES_DIRECT or (
                self._phase is WritePhase.CACHED and self._writes % _PROBE_INTERVAL == 0
            )
            self._direct_in_flight += direct
            return direct

    def record(self, *, direct: bool, size: int, seconds: float, cpu_seconds: float) -> None:
        """Record a write that has ended.

        Args:
            direct: True if it went past the page cache, as `choose_direct` said.
            size: bytes that were written.
            seconds: how long it took.
            cpu_seconds: for how many of them the thread had a core.
        """
        if self._phase in _FIXED:
            return
        with self._lock:
            in_flight = self._direct_in_flight
            self._direct_in_flight -= direct
            if size < _MIN_SAMPLE_BYTES:
                return
            self._costs.count(size, self._clock())
            if direct:
                self._costs.add_direct(size, seconds, in_flight)
            else:
                self._costs.add_cached(size, seconds, cpu_seconds)
