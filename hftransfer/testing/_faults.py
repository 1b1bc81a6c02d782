"""Faults that a server can be told to commit: which requests they hit, and what then happens."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

from hftransfer.testing._responses import Answer, Call, FileBody, Host

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Status:
    """Answer with this status, headers and body in place of the real answer."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Redirect:
    """Answer with a redirect to `location`, which is sent as it is."""

    location: str
    status: int = 302


@dataclass(frozen=True)
class CutBody:
    """Promise the whole Content-Length, send `after_bytes` of the body, close the connection."""

    after_bytes: int


@dataclass(frozen=True)
class ResetConnection:
    """Send `after_bytes` of the body, then reset the connection (RST).

    With 0 the connection is reset before anything is answered.
    """

    after_bytes: int = 0


@dataclass(frozen=True)
class Stall:
    """Send the head and `after_bytes` of the body, then nothing more.

    The rest follows after `HubServer.release`. An answer without a body stalls before its head.
    """

    after_bytes: int = 0


@dataclass(frozen=True)
class IgnoreRange:
    """Answer a ranged request for a file with 200 and the whole file."""


@dataclass(frozen=True)
class WrongRange:
    """Answer a ranged request with the range that lies `shift` bytes further on, and say so.

    Content-Range and body agree with each other but not with what was asked.
    """

    shift: int


@dataclass(frozen=True)
class CorruptByte:
    """Invert the byte at `offset` (from the start of the file) in answers that contain it."""

    offset: int


@dataclass(frozen=True)
class ExpireUrls:
    """From this request on the CDN answers 403 to every URL that was signed before it."""


Action: TypeAlias = (
    Status
    | Redirect
    | CutBody
    | ResetConnection
    | Stall
    | IgnoreRange
    | WrongRange
    | CorruptByte
    | ExpireUrls
)
"""What a `Fault` does to a request that it hits."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One planned misbehaviour of a server.

    A fault that could have no effect on a request does not count it: `IgnoreRange` and
    `WrongRange` hit only ranged requests for files, `CorruptByte` only answers that contain the
    byte, and `CutBody`, `ResetConnection` and `Stall` only bodies longer than `after_bytes`.

    Args:
        action: What happens.
        host: `"hub"`, `"cdn"`, or `None` for both.
        method: HTTP method, or `None` for any.
        path: `fnmatch` pattern (`*` crosses `/`), or `None` for any. It is matched with the
            decoded path of the request and with `repo_id/path` of the file that the request is
            about, so `*/model.safetensors` hits a file on both hosts.
        ranged: Hit only requests with (`True`) or without (`False`) a Range header.
        after: How many matching requests pass untouched first.
        times: How many requests are then hit; `None` for all.
    """

    action: Action
    host: Host | None = None
    method: str | None = None
    path: str | None = None
    ranged: bool | None = None
    after: int = 0
    times: int | None = 1

    def matches(self, call: Call, answer: Answer) -> bool:
        """Return `True` if this fault can hit `call`, which would be answered with `answer`."""
        if self.host not in (None, call.host) or self.method not in (None, call.method):
            return False
        if self.ranged not in (None, call.range is not None):
            return False
        if self.path is not None and not self._matches_path(call, answer):
            return False
        return _has_effect(self.action, call, answer)

    def _matches_path(self, call: Call, answer: Answer) -> bool:
        assert self.path is not None
        names = [unquote(call.path)] if answer.file is None else [unquote(call.path), answer.file]
        return any(fnmatchcase(name, self.path) for name in names)


def _has_effect(action: Action, call: Call, answer: Answer) -> bool:
    body = answer.body
    length = 0 if call.method == "HEAD" else len(body)
    if isinstance(action, Stall | ResetConnection):
        return action.after_bytes == 0 or length > action.after_bytes
    if isinstance(action, CutBody):
        return length > action.after_bytes
    if isinstance(action, CorruptByte):
        return length > 0 and isinstance(body, FileBody) and body.start <= action.offset < body.stop
    if isinstance(action, IgnoreRange | WrongRange):
        return answer.status == 206
    return True


class FaultHandle:
    """Watches one fault of a server; returned by `HubServer.add_fault`."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self._happened = threading.Event()
        self._lock = threading.Lock()
        self._seen = 0
        self._done = 0

    @property
    def count(self) -> int:
        """How many times the fault has happened."""
        with self._lock:
            return self._done

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the fault has happened once.

        A fault in the middle of a body has happened when the bytes before it have been written.

        Args:
            timeout: Seconds to wait at most; `None` waits for ever.

        Returns:
            `False` if the time ran out first.
        """
        return self._happened.wait(timeout)

    def happened(self) -> None:
        """Record that the fault has taken place; called by the server."""
        with self._lock:
            self._done += 1
        self._happened.set()

    def claims(self, call: Call, answer: Answer) -> bool:
        """Return `True` if this fault hits `call`, and count that; called by the server."""
        fault = self.fault
        if not fault.matches(call, answer):
            return False
        with self._lock:
            self._seen += 1
            hits = self._seen - fault.after
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
        """Forget every fault; those that are happening go on."""
        with self._lock:
            self._handles.clear()

    def claim(self, call: Call, answer: Answer) -> FaultHandle | None:
        """Return the fault that hits `call`, at most one, and count it as used."""
        with self._lock:
            handles = tuple(self._handles)
        return next((handle for handle in handles if handle.claims(call, answer)), None)
