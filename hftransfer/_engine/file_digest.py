"""A file's own digest: made in order, while chunks arrive in any."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread

from hftransfer._core.digests import INLINE_HASH_LIMIT, Digest, new_hasher
from hftransfer._io.limiter import ResizableLimiter
from hftransfer.errors import IntegrityError

__all__ = ("OrderedHasher", "wrong_digest")

# Chunks in threads: one that is being added, and others that go on where it ends. With a
# round of the event loop between two chunks, the digest would be what a transfer waits for.
_IN_LINE = 3


class OrderedHasher:
    """The digest of a whole file, made from chunks that arrive in any order.

    Each chunk waits for its turn; feeding one a second time changes nothing.

    Args:
        wanted: what the digest should be.
        size: bytes of the file.
        chunks: how many chunks it has.
    """

    def __init__(self, wanted: Digest, size: int, chunks: int) -> None:
        self._wanted = wanted
        self._hasher = new_hasher(wanted.algorithm, size)
        self._position = 0
        """Chunks that are in."""
        self._chunks = chunks
        self._moved_on = threading.Condition()
        self._line = ResizableLimiter(_IN_LINE)
        self.resume()

    def resume(self) -> None:
        """Begin, or go on after a failure: what is in stays in."""
        self._is_broken = False
        self._turns = [anyio.Event() for _ in range(self._chunks)]
        for turn in self._turns[: self._position + 1]:
            turn.set()

    async def feed(self, index: int, data: memoryview, threads: anyio.CapacityLimiter) -> None:
        """Wait until all chunks before `index` are in, then add this one.

        Args:
            index: of the chunk.
            data: its bytes, which must not change meanwhile.
            threads: lets in whoever asks: a thread here may wait for another one.
        """
        if index == self._position and len(data) <= INLINE_HASH_LIMIT:
            self._add(index, data)
            self._call_up(index + 1)
            return
        await self._turns[index].wait()
        if index < self._position:
            return
        async with self._line:
            try:
                self._call_up(index + 1)
                is_in = await anyio.to_thread.run_sync(self._add, index, data, limiter=threads)
            except BaseException:
                self._break()  # no thread has it: the one that waits for it must not go on
                raise
        if not is_in:
            await anyio.sleep_forever()  # what broke the line ends this task, too

    def _call_up(self, index: int) -> None:
        if index < len(self._turns):
            self._turns[index].set()

    def _add(self, index: int, data: memoryview) -> bool:
        """Add a chunk once its turn has come; return False if it will not come."""
        with self._moved_on:
            self._moved_on.wait_for(lambda: self._position == index or self._is_broken)
            if self._position != index:
                return False
        # A cancelled thread still runs to its end, so the position moves in it, with the hash.
        self._hasher.update(data)
        with self._moved_on:
            self._position += 1
            self._moved_on.notify_all()
        return True

    def _break(self) -> None:
        with self._moved_on:
            self._is_broken = True
            self._moved_on.notify_all()

    def check(self, path: str) -> None:
        """Compare with the wanted digest.

        Raises:
            IntegrityError: if they differ.
        """
        found = self._hasher.hexdigest()
        if found != self._wanted.value:
            raise wrong_digest(path, self._wanted, found)


def wrong_digest(path: str, wanted: Digest, found: str) -> IntegrityError:
    """Return what to raise for a file with another digest than it should have."""
    return IntegrityError(f"{path}: its {wanted.algorithm} is {found}, not {wanted.value}")
