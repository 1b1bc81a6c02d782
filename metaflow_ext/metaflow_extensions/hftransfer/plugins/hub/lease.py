"""Leases between the tasks of several machines: one downloads, the others use what it stored.

A lease is a small JSON document in S3 that is created, renewed and taken over by
conditional writes (``If-None-Match``, ``If-Match``):

- held: ``{"holder": id, "owner": task, "beat": n}``. The holder writes it every
  `RENEWAL_INTERVAL` seconds with another `n`. A waiting task takes it over when it has not
  changed for `EXPIRY` seconds of its own clock; clocks of different machines are never compared.
- released: ``{"holder": null, "note": record}``, for the tasks that come next, or deleted
  if the holder wrote no record.

Where the store has no conditional writes, or the document cannot be read or written, every
task works without a lease: more is downloaded, and nothing is wrong.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.documents import Documents

# Seconds between two renewals by the holder.
RENEWAL_INTERVAL = 5.0
# Seconds without a renewal after which a lease has expired and another task may take it over.
EXPIRY = 30.0
# Seconds between two reads by a waiting task: at first, and at most.
_FIRST_POLL, _LONGEST_POLL = 0.2, 3.0

Record = dict[str, Any]


@dataclass
class StoreLease:
    """A lease, held or not, with its record."""

    waited: bool = False
    """True if another task held it, or has just released it."""
    record: Record = field(default_factory=dict)
    held: bool = False
    _new_record: Record | None = None

    def read_record(self) -> Record:
        """Return the record that the last holder wrote, or an empty dict."""
        return self.record

    def write_record(self, record: Record) -> None:
        """Store `record` when the lease is released."""
        self._new_record = record


@contextmanager
def store_lease(
    documents: Documents,
    key: str,
    owner: str,
    *,
    is_satisfied_by: Callable[[Record, bool], bool],
    on_wait: Callable[[], None],
) -> Iterator[StoreLease]:
    """Hold the lease at `key`, unless the record of its last holder satisfies the request.

    Parameters
    ----------
    documents : Documents
    key : str
        Key of the lease's document.
    owner : str
        Path of the task. A lease with the same owner is of an earlier attempt, which is dead,
        and is taken over at once.
    is_satisfied_by : callable
        Called with a stored record, and with True if this task has waited for another holder.
        Returns True if the record already satisfies the request.
    on_wait : callable
        Called before each wait for another holder.
    """
    holder = _Holder(documents, key, owner)
    lease = StoreLease()
    try:
        lease.held = holder.acquire(lease, is_satisfied_by, on_wait)
    except Exception:  # noqa: BLE001 - see the end of the module's docstring
        lease.held = False
    with holder.renewing() if lease.held else nullcontext():
        yield lease
    if lease.held:
        holder.release(lease._new_record)


class _Holder:
    """One task's access to a lease. The renewing thread and the task share it."""

    def __init__(self, documents: Documents, key: str, owner: str) -> None:
        self._documents = documents
        self._key = key
        self._owner = owner
        self._id = uuid.uuid4().hex
        self._beat = 0
        self._etag: str | None = None
        self._lock = threading.Lock()
        """Held while writing: for `_beat` and `_etag`."""

    def acquire(
        self,
        lease: StoreLease,
        is_satisfied_by: Callable[[Record, bool], bool],
        on_wait: Callable[[], None],
    ) -> bool:
        """Wait for the lease; return False if a record already satisfies the request.

        `lease` gets the record, and whether another task held the lease.
        """
        last_etag, last_change = "", time.monotonic()
        poll, has_waited = _FIRST_POLL, False
        while True:
            found = self._documents.read_with_etag(self._key)
            if found is None:
                if self._write(None):
                    return True
                time.sleep(poll)
                continue
            data, etag = found
            document = _parsed(data)
            lease.record = document.get("note") or {}
            if document.get("holder") is None:
                lease.waited = True
                if is_satisfied_by(lease.record, has_waited):
                    return False
            elif document.get("owner") != self._owner:
                lease.waited = has_waited = True
                if etag != last_etag:
                    last_etag, last_change = etag, time.monotonic()
                if time.monotonic() - last_change < EXPIRY:
                    on_wait()
                    time.sleep(poll)
                    poll = min(poll * 1.5, _LONGEST_POLL)
                    continue
            if self._write(etag):
                return True

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Renew the lease every `RENEWAL_INTERVAL` seconds; release it if the block fails."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(RENEWAL_INTERVAL):
                try:
                    if not self._write(self._etag):
                        return  # another task took it over
                except Exception:  # noqa: BLE001, S112 - the next renewal may succeed
                    continue

        thread = threading.Thread(target=run, daemon=True, name="hftransfer-lease")
        thread.start()
        try:
            yield
        except BaseException:
            ended.set()
            thread.join()
            self.release(None)
            raise
        finally:
            ended.set()
            thread.join()

    def release(self, record: Record | None) -> None:
        """Release the lease with `record` for the next holder, or delete it."""
        try:
            if record is not None:
                self._write(self._etag, {"holder": None, "note": record})
            elif self._write(self._etag):
                # The write succeeded, so the lease is still this task's, and remains so for
                # `EXPIRY` seconds.
                self._documents.delete(self._key)
        except Exception:  # noqa: BLE001 - waiting tasks take it over after `EXPIRY` seconds
            return

    def _write(self, etag: str | None, document: dict[str, Any] | None = None) -> bool:
        """Write the document if it still has `etag`; False if another task has changed it."""
        with self._lock:
            self._beat += 1
            held = {"holder": self._id, "owner": self._owner, "beat": self._beat}
            data = json.dumps(document or held).encode()
            written = self._documents.write_if(self._key, data, etag)
            if written is not None:
                self._etag = written
            return written is not None


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
