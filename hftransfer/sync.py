"""The synchronous facade: the engine in an event loop of its own thread.

Nothing is implemented twice: every method calls its async original through a portal. It
works from any thread, inside a running event loop too. Whatever interrupts the calling
thread (Ctrl-C, SIGTERM, an exception raised by a signal handler such as Metaflow's
``@timeout``) cancels the call and waits until it has cleaned up.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import CancelledError, wait
from functools import partial, wraps
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from hftransfer._client import client
from hftransfer._client.client import AnyLocation, AsyncClient
from hftransfer._client.selection import Patterns
from hftransfer._core.events import Observer
from hftransfer._core.manifest import Manifest
from hftransfer._io.signals import terminable
from hftransfer.options import TransferOptions
from hftransfer.report import Report, Verification
from hftransfer.stores.base import Entry

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ("Client", "copy", "run_sync", "terminable")

T = TypeVar("T")
P = ParamSpec("P")

# The engine cleans up within 1.5 s; a thread blocked in the kernel must not hold Ctrl-C longer.
_CANCEL_WAIT = 2.0
# A signal that arrives just before its thread blocks is noticed when that next wakes up.
_LOOK_UP = 0.5


class _Call(Generic[T]):
    """One operation on its way through a portal, which can be cancelled and waited for.

    The portal's own futures are done as soon as they are cancelled, before the operation
    has cleaned up.
    """

    def __init__(self, operation: Callable[[], Awaitable[T]]) -> None:
        self._operation = operation
        self._scope: anyio.CancelScope | None = None
        self._interrupted = False
        self._finished = threading.Event()

    async def _run(self) -> T:
        try:
            with anyio.CancelScope() as self._scope:
                if self._interrupted:
                    self._scope.cancel()
                return await self._operation()
            raise CancelledError("interrupted")
        finally:
            self._finished.set()

    def _cancel(self) -> None:
        self._interrupted = True
        if self._scope is not None:
            self._scope.cancel()

    def through(self, portal: BlockingPortal) -> T:
        """Run in the portal's event loop; an interruption of this thread ends it there first."""
        try:
            with terminable():
                future = portal.start_task_soon(self._run)
                while not wait([future], timeout=_LOOK_UP).done:
                    pass
                return future.result()
        except BaseException:
            if not self._finished.is_set():
                portal.start_task_soon(self._cancel)
                self._finished.wait(_CANCEL_WAIT)
            raise


class Client:
    """`AsyncClient` for synchronous code. Use as a context manager.

    Args:
        options: how. Default: `TransferOptions.from_env()`.
        observer: told what happens, in the event loop's thread.
    """

    def __init__(
        self, options: TransferOptions | None = None, *, observer: Observer | None = None
    ) -> None:
        self._client = AsyncClient(options, observer=observer)
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.enter_context(self._portal.wrap_async_context_manager(self._client))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal = None
        self._stack.__exit__(kind, error, traceback)

    def copy(
        self,
        source: AnyLocation,
        destination: AnyLocation | Sequence[AnyLocation],
        *,
        allow_patterns: Patterns = None,
        ignore_patterns: Patterns = None,
        manifest: Manifest | None = None,
        sidecar: bool = False,
    ) -> Report:
        """See `AsyncClient.copy`."""
        return self._call(
            partial(
                self._client.copy,
                source,
                destination,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                manifest=manifest,
                sidecar=sidecar,
            )
        )

    @property
    def bandwidth(self) -> float | None:
        """See `AsyncClient.bandwidth`. May be set from any thread."""
        return self._client.bandwidth

    @bandwidth.setter
    def bandwidth(self, rate: float | None) -> None:
        self._client.bandwidth = rate

    def list(self, location: AnyLocation) -> Sequence[Entry]:
        """See `AsyncClient.list`."""
        return self._call(partial(self._client.list, location))

    def verify(
        self,
        location: AnyLocation,
        *,
        manifest: Manifest | None = None,
        against: AnyLocation | None = None,
        allow_patterns: Patterns = None,
        ignore_patterns: Patterns = None,
    ) -> Verification:
        """See `AsyncClient.verify`."""
        return self._call(
            partial(
                self._client.verify,
                location,
                manifest=manifest,
                against=against,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
            )
        )

    def _call(self, operation: Callable[[], Awaitable[T]]) -> T:
        if self._portal is None:
            raise RuntimeError("the client is not open: use it in a with statement")
        return _Call(operation).through(self._portal)


def run_sync(operation: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """Return `operation` as a plain function that runs in an event loop of its own thread."""

    @wraps(operation)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with start_blocking_portal("asyncio") as portal:
            call: Callable[[], Awaitable[T]] = partial(operation, *args, **kwargs)
            return _Call(call).through(portal)

    return run


copy = run_sync(client.copy)
