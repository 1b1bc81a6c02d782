"""The synchronous API: `Client` and `copy` run the async API in an event loop thread.

Two threads take part in a call. The calling thread, any thread of the program, blocks until
the call has ended; it may be inside a running event loop of its own. The portal thread runs
the event loop with the transfer (`anyio.from_thread.BlockingPortal`). An exception that is
raised in the calling thread while it waits (Ctrl-C, SIGTERM, a signal handler such as that of
Metaflow's ``@timeout``) cancels the transfer in the portal thread, waits until that has cleaned
up, and is raised again.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, wait
from functools import partial, wraps
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from hftransfer._client import client
from hftransfer._client.bad_names import OnBadName
from hftransfer._client.client import AnyLocation, AsyncClient
from hftransfer._client.selection import Patterns
from hftransfer._core.events import Observer
from hftransfer._core.manifest import Manifest
from hftransfer._io.portal import PortalThread
from hftransfer._io.signals import deferred_interrupts, raising_interrupts, terminable
from hftransfer.options import TransferOptions
from hftransfer.report import Report, Verification
from hftransfer.stores.base import Entry

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ("Client", "copy", "run_sync", "terminable")

T = TypeVar("T")
P = ParamSpec("P")

# Seconds that a cancelled call may take to clean up before its exception is raised again. The
# engine needs up to 1.5 s; a disk write that hangs in the kernel must not block Ctrl-C longer.
_CLEANUP_TIMEOUT = 2.0
# Seconds between two wake-ups of the waiting thread. Python runs signal handlers between
# bytecodes: a signal that arrives just before the thread blocks is handled when it wakes up.
_SIGNAL_CHECK_INTERVAL = 0.5


class _Call(Generic[T]):
    """One operation that the calling thread starts in the portal thread and waits for.

    The portal's own futures do not serve for this: a future counts as done as soon as it is
    cancelled, while the operation is still cleaning up.

    `_scope` and `_is_cancelled` are read and written in the portal thread alone. `_finished` is
    set there and waited for in the calling thread.
    """

    def __init__(self, operation: Callable[[], Awaitable[T]]) -> None:
        self._operation = operation
        self._scope: anyio.CancelScope | None = None
        self._is_cancelled = False
        self._finished = threading.Event()

    def run(self, portal: BlockingPortal) -> T:
        """Run the operation in the portal thread and return its result. Called once.

        Raises:
            BaseException: what the operation raises, or what interrupts the calling thread;
                the latter once the operation has cleaned up, or after `_CLEANUP_TIMEOUT`.
        """
        try:
            with terminable():
                future = portal.start_task_soon(self._run_in_portal)
                while not wait([future], timeout=_SIGNAL_CHECK_INTERVAL).done:
                    pass
                return future.result()
        except BaseException:
            if not self._finished.is_set():
                portal.start_task_soon(self._cancel_in_portal)
                self._finished.wait(_CLEANUP_TIMEOUT)
            raise

    async def _run_in_portal(self) -> T:
        try:
            with anyio.CancelScope() as self._scope:
                if self._is_cancelled:
                    self._scope.cancel()
                return await self._operation()
            # Reached only after `_cancel_in_portal`; the calling thread raises its own exception.
            raise CancelledError("interrupted")
        finally:
            self._finished.set()

    def _cancel_in_portal(self) -> None:
        self._is_cancelled = True  # the operation may not have been started yet
        if self._scope is not None:
            self._scope.cancel()


class Client:
    """`AsyncClient` for synchronous code. Use as a context manager.

    Its methods may be called from several threads at once, also inside a running event loop.
    They block the calling thread; an exception that a signal handler raises there, such as
    KeyboardInterrupt, cancels the call.

    A client belongs to the process that opened it: in a fork of it, calls raise RuntimeError.

    Args:
        options: chunk size, connections, credentials, …. Default: `TransferOptions.from_env()`.
        observer: called with every progress event, in the client's event loop thread. It must
            return quickly; what it raises is logged. Default: none.
    """

    def __init__(
        self, options: TransferOptions | None = None, *, observer: Observer | None = None
    ) -> None:
        self._client = AsyncClient(options, observer=observer)
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal | None = None
        self._closing = threading.Lock()
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """The threads that have used the client."""

    def __enter__(self) -> Self:
        with deferred_interrupts(), contextlib.ExitStack() as stack:
            stack.enter_context(raising_interrupts())
            portal = stack.enter_context(PortalThread())
            stack.enter_context(portal.wrap_async_context_manager(self._client))
            self._stack = stack.pop_all()
            self._portal = portal
        thread = threading.current_thread()
        if thread not in self._threads:
            self._threads.add(thread)
            if thread is not threading.main_thread():
                _closer.start()
        _open_clients.add(self)
        return self

    def close(self) -> None:
        """Cancel what is running, in whichever thread, and close all connections. Idempotent.

        A call that waits in another thread raises `TransferError` once its transfer has cleaned up.
        """
        if self._client.is_of_other_process:
            self._portal = None  # the thread and the connections are those of the parent
            self._stack = contextlib.ExitStack()
            return
        with deferred_interrupts(), self._closing:
            self._portal = None
            self._stack.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def copy(
        self,
        source: AnyLocation,
        destination: AnyLocation | Sequence[AnyLocation],
        *,
        allow_patterns: Patterns = None,
        ignore_patterns: Patterns = None,
        manifest: Manifest | None = None,
        sidecar: bool = False,
        on_bad_name: OnBadName = "fail",
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
                on_bad_name=on_bad_name,
            )
        )

    @property
    def bandwidth(self) -> float | None:
        """See `AsyncClient.bandwidth`. It may be set from any thread."""
        return self._client.bandwidth

    @bandwidth.setter
    def bandwidth(self, rate: float | None) -> None:
        self._client.bandwidth = rate

    def list(self, location: AnyLocation) -> Sequence[Entry]:
        """See `AsyncClient.list`."""
        return self._call(partial(self._client.list, location))

    def pages(self, location: AnyLocation) -> Iterator[Sequence[Entry]]:
        """See `AsyncClient.pages`."""
        pages = self._client.pages(location)
        try:
            while (page := self._call(partial(anext, pages, None))) is not None:
                yield page
        finally:
            if self._portal is not None:
                self._call(pages.aclose)

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
        self._client.check_process()
        portal = self._portal
        if portal is None:
            raise RuntimeError("the client is not open: use it in a `with` statement")
        self._threads.add(threading.current_thread())
        return _Call(operation).run(portal)


@contextlib.contextmanager
def _own_portal() -> Iterator[BlockingPortal]:
    """Run an event loop in a new thread; no interrupt leaves the thread behind."""
    stack = contextlib.ExitStack()
    try:
        with deferred_interrupts():
            stack.enter_context(raising_interrupts())
            portal = stack.enter_context(PortalThread())
        yield portal
    finally:
        with deferred_interrupts():
            stack.close()


_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _close_clients() -> None:
    """Close the clients that the program has left open, when the interpreter exits.

    Otherwise anyio's worker threads would keep it alive. A client that another thread of the
    program has used is closed after that thread has ended; the interpreter waits for it, too.
    """
    for each in list(_open_clients):
        others = [
            thread
            for thread in each._threads
            if thread.is_alive() and not thread.daemon and thread is not threading.current_thread()
        ]
        if others:
            _closer.close_after(each, others)
        else:
            each.close()


class _Closer:
    """A thread that closes clients once the threads that use them have ended.

    It is started while the interpreter runs: at exit, Python 3.12 and later start no thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing: SimpleQueue[tuple[Client, Sequence[threading.Thread]]] = SimpleQueue()

    def start(self) -> None:
        """Start the thread, unless it runs; a fork has none."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="hftransfer-close", daemon=True
                )
                self._thread.start()

    def close_after(self, client: Client, threads: Sequence[threading.Thread]) -> None:
        """Close `client` when `threads` have ended."""
        self._closing.put((client, threads))

    def _run(self) -> None:
        while True:
            client, threads = self._closing.get()
            for thread in threads:
                thread.join()
            client.close()


_closer = _Closer()


# `atexit` is too late: it follows the wait for threads. `concurrent.futures` uses this function.
_register_at_exit = getattr(threading, "_register_atexit", atexit.register)
_register_at_exit(_close_clients)


def run_sync(operation: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """Return `operation` as a blocking function; each call runs in a new event loop and thread."""

    @wraps(operation)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        call: Callable[[], Awaitable[T]] = partial(operation, *args, **kwargs)
        with _own_portal() as portal:
            return _Call(call).run(portal)

    return run


copy = run_sync(client.copy)
