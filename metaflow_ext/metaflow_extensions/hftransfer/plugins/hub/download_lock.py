"""Single flight: of all tasks that need the same from the Hub, one downloads it.

The tasks of one machine exclude each other by a file lock, those of several machines by a
lease in the datastore. Both have a record of what the last holder stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.engine.cache_key import satisfies
from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest
from metaflow_extensions.hftransfer.plugins.hub.host_lock import HostLock, host_lock
from metaflow_extensions.hftransfer.plugins.hub.lease import StoreLease

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.hub.checkpoint_store import CheckpointStore


class DownloadLock:
    """The right to download for `request`, held on this machine and among all machines.

    Parameters
    ----------
    locks : sequence
        What is held: a `HostLock` and, where the datastore has leases, a `StoreLease`.
    request : RepoRequest
    step : str
        ``flow/run/step``: tasks of the same step share what they stored.
    """

    def __init__(
        self, locks: Sequence[HostLock | StoreLease], request: RepoRequest, step: str
    ) -> None:
        self._locks = locks
        self._request = request
        self._step = step

    @property
    def waited(self) -> bool:
        """True if another task held it first, and may have stored the repository."""
        return any(lock.waited for lock in self._locks)

    def sibling_entry(self) -> dict[str, Any] | None:
        """Return the reference of an equal entry that another task of this step stored."""
        if self._request.force_download:
            return None
        for lock in self._locks:
            reference = _sibling_reference(lock.read_record(), self._request, self._step)
            if reference is not None:
                return reference
        return None

    def record(self, reference: dict[str, Any]) -> None:
        """Record which entry this task stored, for the tasks that hold the lock next."""
        if not self._request.force_download:
            for lock in self._locks:
                lock.write_record({"task": self._step, "reference": reference})


@contextmanager
def download_lock(
    store: CheckpointStore,
    request: RepoRequest,
    *,
    step: str,
    owner: str,
    cache_scope: str,
    log: Callable[[str], None],
) -> Iterator[DownloadLock]:
    """Wait for the right to download for `request`.

    Parameters
    ----------
    store : CheckpointStore
        Where the entry will be stored; its datastore has the lease.
    request : RepoRequest
        Two tasks exclude each other if they request the same files.
    step : str
        ``flow/run/step`` of the task.
    owner : str
        ``flow/run/step/task``, equal for all attempts of the task.
    cache_scope : str
        ``checkpoint``, ``flow`` or ``global``.
    log : callable
        Takes one line for the task's log.
    """
    logged: set[str] = set()

    def log_once(line: str) -> None:
        if line not in logged:
            logged.add(line)
            log(line)

    repo_id = request.repo_id
    # In the scope "checkpoint" the tasks of a foreach have entries of their own. They
    # exclude each other all the same: one downloads, the others copy its entry.
    siblings = cache_scope == "checkpoint"
    selection = repr(sorted(request.arguments.items()))
    name = ("download", request.repo_type, repo_id, selection)
    with host_lock(
        step if siblings else store.location,
        *name,
        on_wait=lambda: log_once(f"Another task on this machine is downloading {repo_id}; waiting"),
    ) as lock:
        if request.force_download:  # no other task can use the result in place of its own
            yield DownloadLock([lock], request, step)
            return
        with store.lease(
            *name,
            siblings=siblings,
            owner=owner,
            is_satisfied_by=lambda record, has_waited: _is_satisfied_by(
                record, has_waited, store, request, step
            ),
            on_wait=lambda: log_once(
                f"A task on another machine is downloading {repo_id}; waiting"
            ),
        ) as lease:
            yield DownloadLock([lock, lease], request, step)


def _is_satisfied_by(
    record: dict[str, Any],
    has_waited: bool,
    store: CheckpointStore,
    request: RepoRequest,
    step: str,
) -> bool:
    """Return True if this task can use the entry of `record`, and needs no lease."""
    if _sibling_reference(record, request, step) is not None:
        return True
    # Without a wait the record may be old, and its entry deleted: this task has just looked
    # for it and not found it.
    reference = record.get("reference")
    return (
        has_waited
        and isinstance(reference, dict)
        and satisfies(reference, request)
        and store.shares(reference)
    )


def _sibling_reference(
    record: dict[str, Any], request: RepoRequest, step: str
) -> dict[str, Any] | None:
    """Return the reference in `record` if a task of this step and run stored the same files."""
    reference = record.get("reference")
    if record.get("task") != step or not isinstance(reference, dict):
        return None
    return reference if satisfies(reference, request) else None
