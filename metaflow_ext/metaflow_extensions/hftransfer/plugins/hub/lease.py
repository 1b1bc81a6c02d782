"""Between the tasks of several machines: who downloads, and what a sibling has just stored.

A lease is a small document in S3, made, renewed and taken over by conditional writes. Its
holder changes it every few seconds; who waits takes it over when it has not changed for a
while, by the waiter's own clock. When it is given back it stays, with a note for the tasks
that come next; without a note it is removed. Where the store has no conditional writes
every task works for itself.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.documents import Documents

# Seconds between two renewals by the holder.
BEAT = 5.0
# Seconds without a renewal after which a holder counts as dead.
PATIENCE = 30.0
# Seconds between two looks of who waits: at first, and at most.
_FIRST_LOOK, _LONGEST_LOOK = 0.2, 3.0

Note = dict[str, Any]


@dataclass
class StoreLease:
    """A lease, held or not, with its note."""

    waited: bool = False
    """True if another task held it, or has just given it back."""
    note: Note = field(default_factory=dict)
    held: bool = False
    _left: Note | None = None

    def read_note(self) -> Note:
        """Return what the last holder left, or an empty dict."""
        return self.note

    def leave_note(self, note: Note) -> None:
        """Leave `note` when the lease is given back."""
        self._left = note


@contextmanager
def store_lease(
    documents: Documents,
    key: str,
    owner: str,
    *,
    suffices: Callable[[Note, bool], bool],
    on_wait: Callable[[], None],
) -> Iterator[StoreLease]:
    """Hold the lease at `key`, unless what its last holder left suffices.

    Parameters
    ----------
    documents : Documents
    key : str
        Of the lease's document.
    owner : str
        Path of the task: an earlier attempt of it is dead, and its lease is taken over.
    suffices : callable
        True for a note with which there is nothing to be held for; told, too, if this has
        waited for another holder.
    on_wait : callable
        Called once, before this waits for another holder.
    """
    holder = _Holder(documents, key, owner)
    lease = StoreLease()
    try:
        lease.held = holder.acquire(lease, suffices, on_wait)
    except Exception:  # noqa: BLE001 - without a lease more is downloaded, and nothing is wrong
        lease.held = False
    with holder.renewing() if lease.held else _nothing():
        yield lease
    if lease.held:
        holder.give_back(lease._left)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


class _Holder:
    """One task's side of a lease."""

    def __init__(self, documents: Documents, key: str, owner: str) -> None:
        self._documents = documents
        self._key = key
        self._owner = owner
        self._name = uuid.uuid4().hex
        self._beat = 0
        self._etag: str | None = None
        self._lock = threading.Lock()

    def acquire(
        self, lease: StoreLease, suffices: Callable[[Note, bool], bool], on_wait: Callable[[], None]
    ) -> bool:
        """Wait for the lease; False if a note makes it needless."""
        seen, since, look, has_waited = "", time.monotonic(), _FIRST_LOOK, False
        while True:
            found = self._documents.read_with_etag(self._key)
            if found is None:
                if self._write(None):
                    return True
                time.sleep(look)
                continue
            data, etag = found
            document = _parsed(data)
            note = document.get("note") or {}
            lease.note, is_held = note, document.get("holder") is not None
            if not is_held:
                lease.waited = True
                if suffices(note, has_waited):
                    return False
            elif document.get("owner") != self._owner:
                lease.waited = has_waited = True
                if etag != seen:
                    seen, since = etag, time.monotonic()
                if time.monotonic() - since < PATIENCE:
                    on_wait()
                    time.sleep(look)
                    look = min(look * 1.5, _LONGEST_LOOK)
                    continue
            if self._write(etag):
                return True

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Renew the lease from time to time; give it back if the block fails."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(BEAT):
                try:
                    if not self._write(self._etag):
                        return  # taken over: we were thought dead
                except Exception:  # noqa: BLE001, S112 - the next one may succeed
                    continue

        thread = threading.Thread(target=run, daemon=True, name="hftransfer-lease")
        thread.start()
        try:
            yield
        except BaseException:
            ended.set()
            thread.join()
            self.give_back(None)
            raise
        finally:
            ended.set()
            thread.join()

    def give_back(self, note: Note | None) -> None:
        """Leave `note` to the next holder, or nothing."""
        try:
            if note is not None:
                self._write(self._etag, {"holder": None, "note": note})
            elif self._write(self._etag):  # it is ours, and for a while nobody else's
                self._documents.delete(self._key)
        except Exception:  # noqa: BLE001 - who waits finds out by itself
            return

    def _write(self, etag: str | None, document: dict[str, Any] | None = None) -> bool:
        with self._lock:
            self._beat += 1
            held = {"holder": self._name, "owner": self._owner, "beat": self._beat}
            data = json.dumps(document or held).encode()
            found = self._documents.write_if(self._key, data, etag)
            if found is not None:
                self._etag = found
            return found is not None


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
