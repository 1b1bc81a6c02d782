"""Records of the entries that are being written, for the tasks that come after a killed one.

The key of an entry has a digest of the task that began it, so a later run never writes to the
same key by itself. While an entry is being written, a small document names its key and the
processes behind it. The next task that downloads the same continues with the entry of a dead one.
What dead tasks of the same folder began, and nobody continues, is removed.

A record belongs to who wrote it last: a task that finds that its record was replaced or removed
has lost the entry to another one, and neither publishes nor removes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hftransfer._io.process_identity import is_token_of_dead_process, own_token, parent_token
from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.manifests import metadata_path
from metaflow_extensions.hftransfer.plugins.hub.host_lock import is_locked
from metaflow_extensions.hftransfer.plugins.hub.single_flight import Flight, flight_name


class Claim(NamedTuple):
    """A record that this task has written."""

    path: str
    """Of the document."""
    token: str
    """Identifies this process, and this record among its records."""


class UnfinishedEntries:
    """The records of the entries in the folders that the tasks of one cache scope share.

    Parameters
    ----------
    access : DatastoreAccess
    root : str
        The first part of the keys.
    folder : str
        Names what the tasks share; all their entries are below it.
    lock_folder : str, optional
        As for `host_lock`.
    log : callable
        Takes one line for the task's log.
    """

    def __init__(
        self,
        access: DatastoreAccess,
        root: str,
        folder: str,
        lock_folder: str | None,
        log: Callable[[str], None],
    ) -> None:
        self._access = access
        self._folder = f"{root}/checkpoints/unfinished/{flight_name(folder)}"
        self._lock_folder = lock_folder
        self._log = log

    def claim(self, flight: str, key: str, task: str, *, may_retry: bool) -> Claim:
        """Record that this task writes the entry `key`.

        Parameters
        ----------
        flight : str
            Name of the flight that the task holds.
        key : str
        task : str
            ``flow/run/step/task``.
        may_retry : bool
            True if the task has another attempt, which continues what this one leaves.
        """
        claim = Claim(f"{self._folder}/{flight}.{key.rpartition('/')[2]}.json", own_token())
        document = {
            "key": key,
            "task": task,
            "process": claim.token,
            # Metaflow's scheduler, which starts the next attempt.
            "scheduler": parent_token(),
            "may_retry": may_retry,
        }
        self._access.write_document(claim.path, document)
        return claim

    def is_mine(self, claim: Claim) -> bool:
        """Return False if another task has taken the entry over."""
        document = self._access.read_document(claim.path)
        return isinstance(document, dict) and document.get("process") == claim.token

    def end(self, claim: Claim) -> None:
        """Remove a record: the entry is published, or removed."""
        self._access.delete([claim.path])

    def find(self, flight: Flight, task: str) -> str | None:
        """Return the key of an entry that this task continues; remove those of dead tasks.

        Parameters
        ----------
        flight : Flight
            That this task holds: an earlier holder no longer writes.
        task : str
            ``flow/run/step/task``; what its earlier attempts left is continued.
        """
        found: str | None = None
        for item in self._access.list_names(self._folder):
            path = f"{self._folder}/{item}"
            record = self._access.read_document(path)
            key = record.get("key") if isinstance(record, dict) else None
            if not isinstance(key, str) or "/artifacts/" not in key:
                continue
            assert isinstance(record, dict)
            if self._access.exists(metadata_path(key)):
                self._access.delete([path])  # killed between the two
                continue
            is_of_flight = item.partition(".")[0] == flight.name
            if is_of_flight and found is None and _may_continue(record, flight, task):
                found = key
            elif _is_abandoned(record) and not (
                is_of_flight or is_locked(item.partition(".")[0], folder=self._lock_folder)
            ):
                self._remove(path, key)
        return found

    def _remove(self, path: str, key: str) -> None:
        self._access.delete_tree(key)
        self._access.delete([path])
        self._log(f"Removed the unfinished entry of a task that has died: {key}")


def _may_continue(record: dict[str, Any], flight: Flight, task: str) -> bool:
    """Return True if whoever began the entry, of the same flight, no longer writes it."""
    is_of_task = record.get("task") == task
    return flight.is_exclusive or is_of_task or is_token_of_dead_process(str(record.get("process")))


def _is_abandoned(record: dict[str, Any]) -> bool:
    """Return True if the task is known to be dead, and no attempt of it will follow."""
    if not is_token_of_dead_process(str(record.get("process"))):
        return False
    return not record.get("may_retry") or is_token_of_dead_process(str(record.get("scheduler")))
