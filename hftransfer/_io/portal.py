"""An event loop in a thread of its own, for synchronous code."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from types import TracebackType

import anyio
from anyio.from_thread import BlockingPortal

__all__ = ("PortalThread",)


class PortalThread:
    """A thread that runs an asyncio event loop. Use as a context manager; it yields the portal.

    Not anyio's `start_blocking_portal`, whose generator ends the thread when it is garbage
    collected: in a fork of the process, which has no such thread, that waits forever.
    """

    def __init__(self) -> None:
        self._started: Future[BlockingPortal] = Future()
        self._thread = threading.Thread(target=self._run, name="hftransfer", daemon=True)

    def __enter__(self) -> BlockingPortal:
        self._thread.start()
        return self._started.result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        portal = self._started.result()
        portal.call(portal.stop, True)
        self._thread.join()

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            if not self._started.done():
                self._started.set_exception(error)

    async def _serve(self) -> None:
        async with BlockingPortal() as portal:
            self._started.set_result(portal)
            await portal.sleep_until_stopped()
