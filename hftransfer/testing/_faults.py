"""Faults that a server injects: which requests they hit, and what the client then sees."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

from hftransfer.testing._responses import FileBody, Host, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Status:
    """Respond with this status, headers and body in place of the regular response."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Redirect:
    """Respond with a redirect; `location` is sent unchanged."""

    location: str
    status: int = 302


@dataclass(frozen=True)
class CutBody:
    """Announce the whole Content-Length, send `after_bytes` of the body, close the connection."""

    after_bytes: int


@dataclass(frozen=True)
class ResetConnection:
    """Send `after_bytes` of the body, then reset the connection (RST).

    With 0 the connection is reset before any byte of the response is sent.
    """

    after_bytes: int = 0


@dataclass(frozen=True)
class Stall:
    """Send status, headers and `after_bytes` of the body, then wait.

    The rest is sent after `HubServer.release`. A response without a body waits before its status.
    """

    after_bytes: int = 0


@dataclass(frozen=True)
class Drip:
    """Send `after_bytes` of the body at once, and the rest at `bytes_per_second`.

    The connection never falls silent, so that no timeout of a client ends it: at 2,000 bytes per
    second, 8 MiB take more than an hour.
    """

    bytes_per_second: float
    after_bytes: int = 0

    def __post_init__(self) -> None:
        if self.bytes_per_second <= 0:
            raise ValueError("bytes_per_second must be positive")


@dataclass(frozen=True)
class IgnoreRange:
    """Respond to a ranged request for a file with 200 and the whole file."""


@dataclass(frozen=True)
class WrongRange:
    """Respond to a ranged request with the range that starts `shift` bytes later.

    Content-Range and body are consistent with each other, but not with the request.
    """

    shift: int


@dataclass(frozen=True)
class CorruptByte:
    """Invert the byte at `offset` (from the start of the file) in responses that contain it."""

    offset: int


@dataclass(frozen=True)
class ExpireUrls:
    """From this request on, the CDN responds 403 to every URL that was signed before it."""


Action: TypeAlias = (
    Status
    | Redirect
    | CutBody
    | ResetConnection
    | Stall
    | Drip
    | IgnoreRange
    | WrongRange
    | CorruptByte
    | ExpireUrls
)
"""What a `Fault` does to a request that it hits."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One planned fault of a server.

    A request on which the action would have no effect does not match: `IgnoreRange` and
    `WrongRange` hit only ranged requests for files, `CorruptByte` only responses that contain the
    byte, and `CutBody`, `ResetConnection`, `Stall` and `Drip` only bodies longer than
    `after_bytes`.

    Example::

        # The second ranged request to the CDN for the file ends after 1000 bytes.
        Fault(host="cdn", path="*/model.safetensors", ranged=True, after=1, action=CutBody(1000))
        # The first request for the range with the last byte of a file of 1 GiB trickles.
        Fault(path="*/model.safetensors", contains=(1 << 30) - 1, action=Drip(2000))
        # Every request on the third connection trickles.
        Fault(when=lambda request: request.connection == 3, times=None, action=Drip(2000))

    Args:
        action: what happens.
        host: `"hub"` or `"cdn"`; `None` for both.
        method: HTTP method; `None` for any.
        path: `fnmatch` pattern for a whole path (`*` also matches `/`); `None` for any. It is
            compared with the decoded path of the request and with `repo_id/path` of the
            requested file, so that `*/model.safetensors` hits a file on both hosts.
        ranged: `True` hits only requests with a Range header, `False` only those without;
            `None` hits both.
        contains: hits only responses that contain the byte at this offset of the file; `None` for
            any response.
        when: hits only requests for which this returns `True`; called in the server's thread.
            `None` for any request.
        after: number of matching requests that are served normally first.
        times: number of matching requests that are then hit; `None` for all.
    """

    action: Action
    host: Host | None = None
    method: str | None = None
    path: str | None = None
    ranged: bool | None = None
    contains: int | None = None
    when: Callable[[Request], bool] | None = None
    after: int = 0
    times: int | None = 1

    def matches(self, request: Request, response: Response) -> bool:
        """Return `True` if this fault can hit `request`, whose regular response is `response`."""
        if self.host not in (None, request.host) or self.method not in (None, request.method):
            return False
        if self.ranged not in (None, request.range is not None):
            return False
        if self.path is not None and not self._matches_path(request, response):
            return False
        if self.contains is not None and not _contains(response, self.contains):
            return False
        if self.when is not None and not self.when(request):
            return False
        return _has_effect(self.action, request, response)

    def _matches_path(self, request: Request, response: Response) -> bool:
        assert self.path is not None
        names = [unquote(request.path)]
        if response.file is not None:
            names.append(response.file)
        return any(fnmatchcase(name, self.path) for name in names)


def _contains(response: Response, offset: int) -> bool:
    body = response.body
    return isinstance(body, FileBody) and body.start <= offset < body.stop


def _has_effect(action: Action, request: Request, response: Response) -> bool:
    body = response.body
    length = 0 if request.method == "HEAD" else len(body)
    if isinstance(action, Stall | ResetConnection):
        return action.after_bytes == 0 or length > action.after_bytes
    if isinstance(action, CutBody | Drip):
        return length > action.after_bytes
    if isinstance(action, CorruptByte):
        return length > 0 and _contains(response, action.offset)
    if isinstance(action, IgnoreRange | WrongRange):
        return response.status == 206
    return True


class FaultHandle:
    """Counts and awaits one fault of a server; returned by `HubServer.add_fault`.

    Methods may be called from any thread.
    """

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._happened = threading.Event()
        self._lock = threading.Lock()
        self._matched = 0
        self._count = 0

    @property
    def count(self) -> int:
        """Number of times the fault has happened."""
        with self._lock:
            return self._count

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the fault has happened once.

        A fault within a body has happened when the bytes before it have been sent.

        Args:
            timeout: most seconds to wait; `None` for no limit.

        Returns:
            `False` if the time ran out.
        """
        return self._happened.wait(timeout)

    def happened(self) -> None:
        """Count the fault; called by the server."""
        with self._lock:
            self._count += 1
        self._happened.set()

    def claims(self, request: Request, response: Response) -> bool:
        """Return `True` if this fault hits `request`, and count the match; called by the server."""
        fault = self.fault
        if not fault.matches(request, response):
            return False
        with self._lock:
            self._matched += 1
            hits = self._matched - fault.after
            return hits > 0 and (fault.times is None or hits <= fault.times)


class FaultPlan:
    """The faults of one server, tried in the order in which they were added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: list[FaultHandle] = []

    def add(self, fault: Fault) -> FaultHandle:
        """Add a fault and return its handle."""
        handle = FaultHandle(fault)
        with self._lock:
            self._handles.append(handle)
        return handle

    def clear(self) -> None:
        """Remove every fault; stalls in progress continue."""
        with self._lock:
            self._handles.clear()

    def claim(self, request: Request, response: Response) -> FaultHandle | None:
        """Return the first fault that hits `request`, and count the match."""
        with self._lock:
            handles = tuple(self._handles)
        return next((handle for handle in handles if handle.claims(request, response)), None)
