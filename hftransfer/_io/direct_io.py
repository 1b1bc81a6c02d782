"""Writing past the page cache, where that is wanted and possible.

``O_DIRECT`` takes no memory for pages that nobody will read soon, and in virtual
machines it saves the host's faults for them. It asks for alignment of memory, offset and
length, and not every file system has it: whatever does not fit is written as usual.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

__all__ = ("DirectIO", "DirectWriter", "SharedExclusiveLock", "WritePolicy")

DirectIO: TypeAlias = Literal["auto", "on", "off"]

# At least the logical block size of every disk in use; memory is aligned to pages.
_ALIGNMENT = 4096
# Past the page cache only where that takes less than this share of the time.
_ADVANTAGE = 0.7
# The disk keeps up where a byte takes it less than this share of the time from one to the next.
_KEEPS_UP = 0.8
# While the page cache is used, the disk is tried every so many writes; shorter ones than
# this tell nothing.
_PROBE_EVERY = 24
# So many tries come first: a file's first blocks take the disk longer than the others.
_TRIES = 3
_TELLING = 1 << 20
_FRESH = 0.5
# A write through the page cache that spends more of its time than this without a core is one
# of too many who want one.
_CONTENDED = 0.25
# Seconds of a core for each byte through the page cache: three times a copy from memory to memory.
_DEAR = 0.5e-3 / (1 << 20)
_UNSUITABLE = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


class WritePolicy:
    """Decides, write by write, whether to go past the page cache.

    ``on`` and ``off`` decide at once, and so does ``auto`` for a transfer that the page cache
    could hardly hold: what pushes its own beginning out again, and everybody else's files
    with it, gains nothing. Otherwise the page cache is preferred, since files that stay there
    are read from memory soon after, until one of two things is measured:

    - More bytes go past it in the same time: through it one write of a file at a time, past
      it several. Where each of its pages costs a fault of the host, as in many virtual
      machines, the disk is several times quicker.
    - Copies through it take what is scarce: they have to wait for a core, or take one for
      much longer than a copy should; while the disk could take all that arrives.

    From then on writes go past the page cache as long as the disk keeps up: one now and then
    through it would hold up those beside it (see `SharedExclusiveLock`) and cost what is to be
    saved. The disk is tried from time to time, which costs nothing of the kind.

    Used by the writers of all files of one sink, from several threads.

    Args:
        mode: ``on``, ``off`` or ``auto``.
        size: bytes of the whole transfer.
        room: bytes that the page cache can take.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        mode: DirectIO,
        size: int,
        room: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_possible = mode != "off"
        self._fixed: bool | None = None if mode == "auto" else mode == "on"
        if mode == "auto" and size > room // 2:
            self._fixed = True
        self._lock = threading.Lock()
        self._writes = 0
        self._direct = False
        """The way that is taken."""
        self._tries = 0
        """Direct writes that told something."""
        self._at_once = 0
        """Direct writes under way."""
        self._costs: dict[bool, float] = {}
        """Seconds per byte, directly or not."""
        self._waiting = 0.0
        """Share of the time that a write through the page cache waits."""
        self._busy = 0.0
        """Seconds of a core that it takes for each byte."""
        self._clock = clock
        self._since: float | None = None
        self._written = 0

    def choose(self) -> bool:
        """Return whether the next write should be direct."""
        direct = self._choose()
        if direct:
            with self._lock:
                self._at_once += 1
        return direct

    def _choose(self) -> bool:
        if self._fixed is not None:
            return self._fixed
        with self._lock:
            self._writes += 1
            through, past = self._costs.get(False), self._costs.get(True)
            if through is None or past is None or self._tries < _TRIES:
                return through is not None
            if self._direct or self._waiting > _CONTENDED or self._busy > _DEAR:
                self._direct = past < through or past < self._pace() * _KEEPS_UP
            else:
                self._direct = past < through * _ADVANTAGE
            return self._direct or self._writes % _PROBE_EVERY == 0

    def _pace(self) -> float:
        """Return the seconds from one byte to the next, as they have arrived so far."""
        assert self._since is not None
        return (self._clock() - self._since) / max(1, self._written)

    def note(self, direct: bool, size: int, seconds: float, busy: float) -> None:
        """Remember how a write went; to be called for every one that was chosen direct.

        Args:
            direct: which way it went.
            size: bytes.
            seconds: how long it took.
            busy: for how many of them it had a core.
        """
        with self._lock:
            at_once = self._at_once if direct else 1
            self._at_once -= direct
            if self._fixed is not None or size < _TELLING:
                return
            if self._since is None:
                self._since = self._clock()  # what came before took unknown time to arrive
            else:
                self._written += size
            self._tries += direct
            cost = seconds / size / at_once
            known = self._costs.get(direct)
            self._costs[direct] = cost if known is None else _mean(known, cost)
            if not direct:
                self._waiting = _mean(self._waiting, max(0.0, 1 - busy / seconds))
                self._busy = busy / size if known is None else _mean(self._busy, busy / size)


def _mean(known: float, new: float) -> float:
    return (1 - _FRESH) * known + _FRESH * new


class SharedExclusiveLock:
    """Lets direct writes of a file go side by side, and every other write alone.

    The kernel's lock of an inode would see to that, too, but it burns a core meanwhile:
    who waits for it spins.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._beside = 0
        self._alone = False
        self._wanted = 0
        """Writes that wait to be alone; no further ones begin beside others before them."""

    @contextmanager
    def beside_others(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._wanted)
            self._beside += 1
        try:
            yield
        finally:
            with self._changed:
                self._beside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._wanted += 1
            self._changed.wait_for(lambda: not self._alone and not self._beside)
            self._wanted -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class DirectWriter:
    """A second descriptor of a file, for aligned writes past the page cache.

    Args:
        path: an existing file. Where it cannot be opened so, nothing is written directly.
    """

    def __init__(self, path: Path) -> None:
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except (AttributeError, OSError):
            pass  # no such flag on this system, or on this file system

    def write(self, data: memoryview, start: int) -> int:
        """Write as much of `data` as can be written directly; return how many bytes.

        Raises:
            OSError: if the disk is full or broken.
        """
        if self._fd < 0 or start % _ALIGNMENT:
            return 0
        aligned = len(data) - len(data) % _ALIGNMENT
        written = 0
        while written < aligned:
            try:
                count = os.pwrite(self._fd, data[written:aligned], start + written)
            except OSError as error:
                if error.errno not in _UNSUITABLE:
                    raise
                self.close()
                break
            written += count
            if count % _ALIGNMENT:
                break  # cut short by a full disk, which the ordinary write will report
        return written

    def close(self) -> None:
        """Close the descriptor; further writes are not direct."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
