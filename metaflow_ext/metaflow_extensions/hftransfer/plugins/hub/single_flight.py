"""Single flight: of all tasks that need the same work done, one does it and the others wait.

The tasks of one machine exclude each other by a file lock, which lies with a local datastore
and otherwise in the temporary folder. Those of several machines exclude each other by a lease
in the datastore, where it has conditional writes. A record, a small document in the datastore,
says what the last holder stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.hub.host_lock import host_lock
from metaflow_extensions.hftransfer.plugins.hub.lease import store_lease

Record = dict[str, Any]
Usable = Callable[[Record], bool]


@dataclass
class Flight:
    """The right to do the work, or the record of a task that has done it."""

    name: str
    """From `flight_name`."""
    waited: bool = False
    """True if another task held it first."""
    is_exclusive: bool = False
    """True if no other task can be doing the work: what an earlier one left may be changed."""
    record: Record = field(default_factory=dict)
    """What the last holder kept; empty if there is none."""
    kept: Record | None = None

    def keep(self, record: Record) -> None:
        """Store `record`, at the end, for the tasks that come next."""
        self.kept = record


def flight_name(*parts: str) -> str:
    """Return a name, of 32 hex digits, that is made of all `parts` together."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@contextmanager
def single_flight(
    access: DatastoreAccess,
    root: str,
    name: str,
    *,
    doing: str,
    log: Callable[[str], None],
    owner: str = "",
    is_usable: Usable | None = None,
    on_this_machine_only: bool = False,
) -> Iterator[Flight]:
    """Wait for the right to do the work called `name`.

    Parameters
    ----------
    access : DatastoreAccess
    root : str
        The first part of the datastore's keys, such as ``mf.huggingface_hub``.
    name : str
        From `flight_name`.
    doing : str
        What the holder does, such as ``downloading org/model``; for the log.
    log : callable
        Takes one line, which says that this task waits.
    owner : str, optional
        Path of the task. A lease with the same owner is of an earlier attempt, which is dead.
        Default: no lease is taken for that.
    is_usable : callable, optional
        Takes a record. Returns True if it makes the work of this task unnecessary: the flight
        is then not waited for.
    on_this_machine_only : bool
        Take no lease, and neither read nor write a record.
    """
    logged: set[str] = set()

    def waiting(who: str) -> None:
        if who not in logged:
            logged.add(who)
            log(f"{who} is {doing}; waiting")

    with host_lock(
        name,
        on_wait=lambda: waiting("Another task on this machine"),
        folder=lock_folder(access, root),
    ) as lock:
        flight = Flight(name, lock.waited, is_exclusive=lock.held and access.is_local)
        if on_this_machine_only:
            yield flight
            return
        key = f"{root}/checkpoints/leases/{name}.json"
        if access.documents is None:
            document = access.read_document(key)
            if isinstance(document, dict) and isinstance(document.get("note"), dict):
                flight.record = document["note"]
            yield flight
            if flight.kept is not None:
                access.write_document(key, {"holder": None, "note": flight.kept})
            return
        with store_lease(
            access.documents,
            key,
            owner,
            is_usable=is_usable or (lambda record: False),
            on_wait=lambda: waiting("A task on another machine"),
        ) as lease:
            flight.waited = flight.waited or lease.waited
            flight.is_exclusive = lease.held
            flight.record = lease.record
            yield flight
            lease.new_record = flight.kept


def lock_folder(access: DatastoreAccess, root: str) -> str | None:
    """Return the folder of the lock files; None for that of this user on this machine."""
    return access.location(f"{root}/checkpoints/locks") if access.is_local else None
