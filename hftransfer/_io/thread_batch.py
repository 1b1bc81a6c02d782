"""Short blocking calls in a worker thread, as many per wake-up as have piled up.

Handing one call to a thread and back costs more than writing a small file, and threads
that each do a little fight for the interpreter's lock. So one caller takes what is
waiting to a thread, and whoever came meanwhile goes with the next one.

Calls that never sleep, as writes into the page cache do not, are quicker still where they
are asked for. The kernel counts when a thread sleeps, so that is found out and not guessed.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread

__all__ = ("ThreadBatch",)

T = TypeVar("T")

_SLEEPS_ARE_COUNTED = hasattr(resource, "RUSAGE_THREAD")

# After a call that slept or was slow, so many go to a thread before another is tried here.
_CAUTION = 256
# What takes the kernel longer can go beside the event loop, on another core: seconds.
_QUICK = 0.0003
# So long that a wake-up hardly counts, so short that nobody waits long for others.
_MOST = 64


class _Item:
    """One call, and what became of it."""

    __slots__ = ("call", "changed", "error", "finished", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.changed = anyio.Event()
        """Set when the call is finished, or when it is this caller's turn to lead."""
        self.finished = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.call()
        except BaseException as error:  # noqa: BLE001 - raised again where it belongs
            self.error = error
        self.finished = True


class ThreadBatch:
    """Runs calls one after another, never two at a time.

    Args:
        allow_inline: run calls in the event loop as long as they are allow_inline and do not sleep.
    """

    def __init__(self, *, allow_inline: bool = False) -> None:
        self._caution = 0 if allow_inline and _SLEEPS_ARE_COUNTED else -1
        """Calls for a thread before one is tried here; negative for all."""
        self._waiting: list[_Item] = []
        self._is_led = False

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call`, as a rule in a worker thread, and return its result, or raise its error.

        When this is cancelled, the call was not begun, or has ended.
        """
        if self._caution == 0 and not self._is_led and not self._waiting:
            return self._run_here(call)
        self._caution -= self._caution > 0
        item = _Item(call)
        self._waiting.append(item)
        try:
            while not item.finished:
                await self._advance(item)
        except BaseException:
            with anyio.CancelScope(shield=True):
                while not item.finished and item not in self._waiting:
                    await item.changed.wait()
                    item.changed = anyio.Event()
            if not item.finished:
                self._waiting.remove(item)
                self._appoint()
            raise
        if item.error is not None:
            raise item.error
        return cast("T", item.result)

    def _run_here(self, call: Callable[[], T]) -> T:
        slept, started = _sleeps(), time.perf_counter()
        try:
            return call()
        finally:
            if _sleeps() != slept or time.perf_counter() - started > _QUICK:
                self._caution = _CAUTION

    async def _advance(self, item: _Item) -> None:
        if self._is_led:
            await item.changed.wait()
            item.changed = anyio.Event()
            return
        self._is_led = True
        taken, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
        try:
            await anyio.to_thread.run_sync(_run_all, taken)
        finally:
            self._is_led = False
            # A leader that was cancelled before its thread began leaves them to the next.
            self._waiting[:0] = [other for other in taken if not other.finished]
            for other in taken:
                other.changed.set()
            self._appoint()

    def _appoint(self) -> None:
        if self._waiting and not self._is_led:
            self._waiting[0].changed.set()


def _sleeps() -> int:
    """Return how often this thread has given up its core to wait for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _run_all(items: list[_Item]) -> None:
    for item in items:
        item.run()
