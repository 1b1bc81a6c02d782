"""Leases between the tasks of several machines: one downloads, the others use what it stored.

A lease is a small JSON document in S3 that is created, renewed and taken over by
conditional writes (``If-None-Match``, ``If-Match``):

- held: ``{"holder": process, "owner": task, "beat": n}``. The holder writes it every
  `RENEWAL_INTERVAL` seconds with another `n`. A waiting task of the same machine takes it over at
  once when that process is dead. Any other takes it over when it has not changed for `EXPIRY`
  seconds of its own clock; clocks of different machines are never compared.
- released: ``{"holder": null, "note": record}``, for the tasks that come next, or deleted
  if the holder wrote no record.

Where the store has no conditional writes, or the document cannot be read or written, every
task works without a lease: more is downloaded, and nothing is wrong.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from hftransfer._io.process_identity import is_token_of_dead_process, own_token
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
    """True if another task held it first."""
    record: Record = field(default_factory=dict)
    """What the last holder wrote, or empty."""
    held: bool = False
    """False if the record is usable, or there can be no lease."""
    new_record: Record | None = None
    """What is stored when the lease is released."""


@contextmanager
def store_lease(
    documents: Documents,
    key: str,
    owner: str,
    *,
    is_usable: Callable[[Record], bool],
    on_wait: Callable[[], None],
) -> Iterator[StoreLease]:
    """Hold the lease at `key`, unless the record of its last holder makes that unnecessary.

    Parameters
    ----------
    documents : Documents
    key : str
        Key of the lease's document.
    owner : str
        Path of the task. A lease with the same owner is of an earlier attempt, which is dead,
        and is taken over at once. Empty for none.
    is_usable : callable
        Takes a stored record. Returns True if the lease is not needed because of it.
    on_wait : callable
        Called before each wait for another holder.
    """
    holder = _Holder(documents, key, owner)
    lease = StoreLease()
    try:
        lease.held = holder.acquire(lease, is_usable, on_wait)
    except Exception:  # noqa: BLE001 - see the end of the module's docstring
        lease.held = False
    with holder.renewing() if lease.held else nullcontext():
        yield lease
    if lease.held:
        holder.release(lease.new_record)


class _Holder:
    """One task's access to a lease. The renewing thread and the task share it."""

    def __init__(self, documents: Documents, key: str, owner: str) -> None:
        self._documents = documents
        self._key = key
        self._owner = owner
        self._id = own_token()
        self._beat = 0
        self._etag: str | None = None
        self._lock = threading.Lock()
        """Held while writing: for `_beat` and `_etag`."""

    def acquire(
        self,
        lease: StoreLease,
        is_usable: Callable[[Record], bool],
        on_wait: Callable[[], None],
    ) -> bool:
        """Wait for the lease; return False if it is not needed because of the record.

        `lease` gets the record, and whether another task held the lease.
        """
        last_etag, last_change = "", time.monotonic()
        poll = _FIRST_POLL
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
                if is_usable(lease.record):
                    return False
            elif not self._may_take_over(document):
                lease.waited = True
                if etag != last_etag:
                    last_etag, last_change = etag, time.monotonic()
                if time.monotonic() - last_change < EXPIRY:
                    on_wait()
                    time.sleep(poll)
                    poll = min(poll * 1.5, _LONGEST_POLL)
                    continue
            if self._write(etag):
                return True

    def _may_take_over(self, document: dict[str, Any]) -> bool:
        """Return True if the holder that a document names is known to be dead."""
        is_own = bool(self._owner) and document.get("owner") == self._owner
        return is_own or is_token_of_dead_process(str(document["holder"]))

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
