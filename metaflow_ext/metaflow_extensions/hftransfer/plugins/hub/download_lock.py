"""The right to download a request: of all tasks that need the same from the Hub, one downloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.engine.cache_key import satisfies
from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest
from metaflow_extensions.hftransfer.plugins.hub.single_flight import (
    Flight,
    flight_name,
    single_flight,
)

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.hub.checkpoint_store import CheckpointStore


class DownloadLock:
    """The right to download for `request`, or the entry that another task has stored.

    Parameters
    ----------
    flight : Flight
    request : RepoRequest
    """

    def __init__(self, flight: Flight, request: RepoRequest) -> None:
        self.flight = flight
        self._request = request

    @property
    def waited(self) -> bool:
        """True if another task held it first, and may have stored the repository."""
        return self.flight.waited

    @property
    def stored(self) -> dict[str, Any] | None:
        """The reference of the equal entry that the last holder stored; it may be deleted."""
        return None if self._request.force_download else _stored(self.flight.record, self._request)

    def keep(self, reference: dict[str, Any]) -> None:
        """Record which entry this task stored, for the tasks that hold the lock next."""
        if not self._request.force_download:
            self.flight.keep({"reference": reference})


@contextmanager
def download_lock(
    store: CheckpointStore,
    request: RepoRequest,
    *,
    owner: str,
    is_usable: Callable[[dict[str, Any]], bool],
    log: Callable[[str], None],
) -> Iterator[DownloadLock]:
    """Wait for the right to download for `request`.

    Parameters
    ----------
    store : CheckpointStore
        Where the entry will be stored; its datastore has the lease.
    request : RepoRequest
        Two tasks exclude each other if they request the same files.
    owner : str
        ``flow/run/step/task``, equal for all attempts of the task.
    is_usable : callable
        Takes the reference of an equal entry. Returns True if this task can use it.
    log : callable
        Takes one line for the task's log.
    """

    def is_record_usable(record: dict[str, Any]) -> bool:
        reference = _stored(record, request)
        return reference is not None and is_usable(reference)

    selection = repr(sorted(request.arguments.items()))
    name = flight_name(
        store.shared_folder, "download", request.repo_type, request.repo_id, selection
    )
    with single_flight(
        store.access,
        store.root,
        name,
        doing=f"downloading {request.repo_id}",
        log=log,
        owner=owner,
        is_usable=is_record_usable,
        # No other task can use a forced download in place of its own.
        on_this_machine_only=request.force_download,
    ) as flight:
        yield DownloadLock(flight, request)


def _stored(record: dict[str, Any], request: RepoRequest) -> dict[str, Any] | None:
    reference = record.get("reference")
    return reference if isinstance(reference, dict) and satisfies(reference, request) else None
