"""From a request to files: out of the datastore if they are there, else from the Hub.

On a miss the Hub is read once; an entry is published after its last byte. A stored copy is
checked while it is read, and repaired from the Hub if it is damaged. How the bytes move is
left to a `RepoMover`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.engine.cache_key import (
    choose_entry,
    entry_metadata,
    entry_name,
    serves,
)
from metaflow_extensions.hftransfer.plugins.engine.load_spec import HuggingfaceHubError, RepoRequest
from metaflow_extensions.hftransfer.plugins.hub.host_lock import MachineLock, machine_lock
from metaflow_extensions.hftransfer.plugins.hub.transfer import DamagedError, Moved, RepoMover

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.hub.checkpoint_store import EntryStore
    from metaflow_extensions.hftransfer.plugins.hub.lease import StoreLease


@dataclass(frozen=True)
class Access:
    """How one request was served."""

    request: RepoRequest
    mechanism: str
    """``decorator load``, ``snapshot_download`` or ``context manager``."""
    reference: dict[str, Any]
    cache_hit: bool
    moved: Moved | None
    """None if no byte had to move."""


class RepoCache:
    """Repositories of one task. Its methods may be called from several threads.

    Parameters
    ----------
    store : EntryStore
        The datastore's entries.
    mover : RepoMover
        Moves the files.
    cache_scope : str
        ``checkpoint``, ``flow`` or ``global``.
    task : str
        The path of the step, ``flow/run/step``, whose tasks share what they download.
    log : callable
        Takes one line for the task's log.
    owner : str
        The path of the task, equal for all of its attempts.
    may_retry : bool
        True if the task has another attempt, which finds what a failed one leaves.
    """

    def __init__(
        self,
        store: EntryStore,
        mover: RepoMover,
        cache_scope: str,
        task: str,
        log: Callable[[str], None],
        *,
        owner: str,
        may_retry: bool = False,
    ) -> None:
        self._store = store
        self._mover = mover
        self._cache_scope = cache_scope
        self._task = task
        self._owner = owner
        self._log = log
        self._may_retry = may_retry
        self._listing = threading.Lock()
        self.accesses: list[Access] = []
        """What was asked for so far, in the order in which it was served."""

    def name(self, request: RepoRequest) -> str:
        """Return the name of the entry for `request`."""
        return entry_name(request, self._cache_scope)

    def reference(self, request: RepoRequest) -> tuple[dict[str, Any], bool]:
        """Make sure that the datastore holds `request`.

        Returns
        -------
        tuple
            The reference, and whether it was there already.
        """
        started = time.monotonic()
        found = self._find(request)
        moved = None
        if found is None:
            with self._alone(request) as lock:
                found = self._find(request) if lock.waited else None
                if found is None:
                    reference, moved = self._store_only(request, lock, started)
        if found is not None:
            self._log(
                f"Found {request.repo_id} in the datastore in {_since(started)} seconds "
                f"with the key {found['key']}"
            )
            reference = found
        hit = found is not None
        self.accesses.append(Access(request, "snapshot_download", reference, hit, moved))
        return reference, hit

    def load(
        self, request: RepoRequest, path: str, mechanism: str = "decorator load"
    ) -> tuple[dict[str, Any], bool]:
        """Bring the files of `request` to the folder `path`, and into the datastore if need be.

        Other files in `path` are neither touched nor stored.

        Returns
        -------
        tuple
            The reference, and whether the files came from the datastore.
        """
        started = time.monotonic()
        served = self._load_stored(request, path)
        if served is None:
            with self._alone(request) as lock:
                served = self._load_stored(request, path) if lock.waited else None
                if served is None:
                    reference, moved = self._download_and_keep(request, path, lock)
        if served is not None:
            reference, moved = served
        hit = served is not None
        came_from = "the datastore" if hit else "huggingface"
        self._log(
            f"Loaded {request.repo_id} from {came_from} to {path} in {_since(started)} seconds "
            f"({moved.summary})"
        )
        self.accesses.append(Access(request, mechanism, reference, hit, moved))
        return reference, hit

    def _find(self, request: RepoRequest) -> dict[str, Any] | None:
        if request.force_download:
            return None
        with self._listing:
            found = choose_entry(self._store.find(self.name(request)), request)
        if found is None and request.local_files_only:
            raise HuggingfaceHubError(
                f"{request.repo_id} is not in the datastore, and local_files_only=True forbids "
                "to download it."
            )
        return found

    def _load_stored(self, request: RepoRequest, path: str) -> tuple[dict[str, Any], Moved] | None:
        """Load from the datastore; None if it has nothing, or nothing that could be repaired."""
        found = self._find(request)
        if found is None:
            return None
        self._log(f"Loading model from datastore to {path}. Model being loaded: {found['key']}")
        if not self._store.is_folder(found):
            return found, self._mover.load_otherwise(request, found, path)
        try:
            return found, self._mover.load(request, found, path)
        except DamagedError as error:
            if request.local_files_only:
                raise HuggingfaceHubError(
                    f"The stored copy of {request.repo_id} is damaged ({error}), and "
                    "local_files_only=True forbids to download it again."
                ) from error
            if not self._mover.repair(request, found, error):
                self._log(
                    f"The stored copy of {request.repo_id} is damaged ({error}). "
                    "Downloading it from huggingface again"
                )
                return None
        return found, self._mover.load(request, found, path)

    def _store_only(
        self, request: RepoRequest, lock: Turn, started: float
    ) -> tuple[dict[str, Any], Moved]:
        with _terminable(), self._new_entry(request) as entry:
            sibling = self._sibling(request, lock)
            self._log(f"Downloading {request.repo_id} from huggingface to path {entry.location}")
            moved = self._mover.fill(request, entry, None, sibling)
            self._log(
                f"Downloaded {request.repo_id} from huggingface in {_since(started)} seconds. "
                "Saving checkpoint to datastore."
            )
            saving = time.monotonic()
            reference = self._publish(entry, request, moved, lock, with_arguments=False)
        self._log(
            f"huggingface checkpoint for {request.repo_id} saved to datastore in "
            f"{_since(saving)} seconds"
        )
        return reference, moved

    def _download_and_keep(
        self, request: RepoRequest, path: str, lock: Turn
    ) -> tuple[dict[str, Any], Moved]:
        self._log(
            f"Model {request.repo_id} not found in datastore, downloading from HuggingFace Hub"
        )
        with _terminable(), self._new_entry(request) as entry:
            sibling = self._sibling(request, lock)
            self._log(f"Downloading {request.repo_id} from huggingface to path {path}")
            self._log(f"Caching {request.repo_id} in the datastore")
            moved = self._mover.fill(request, entry, path, sibling)
            reference = self._publish(entry, request, moved, lock, with_arguments=True)
        self._log(f"Cached {request.repo_id} in the datastore with the key {reference['key']}")
        return reference, moved

    def _new_entry(self, request: RepoRequest) -> AbstractContextManager[Any]:
        return self._store.new_entry(self.name(request), keep=lambda: self._may_retry)

    def _publish(
        self,
        entry: Any,
        request: RepoRequest,
        moved: Moved,
        lock: Turn,
        *,
        with_arguments: bool,
    ) -> dict[str, Any]:
        manifest = moved.manifest
        if not manifest["files"]:
            raise HuggingfaceHubError(
                f"No file of {request.repo_id} is selected by allow_patterns="
                f"{request.allow_patterns!r}, ignore_patterns={request.ignore_patterns!r}."
            )
        metadata = entry_metadata(request, manifest["commit"], with_arguments=with_arguments)
        reference = self._store.publish(entry, manifest, metadata)
        if not request.force_download:
            lock.leave_note({"task": self._task, "reference": reference})
        return reference

    @contextmanager
    def _alone(self, request: RepoRequest) -> Iterator[Turn]:
        """Have one task at a time download the same from the Hub."""

        def waiting_here() -> None:
            self._log(f"Another task on this machine is downloading {request.repo_id}; waiting")

        def waiting() -> None:
            if "elsewhere" not in told:
                told.add("elsewhere")
                self._log(f"A task on another machine is downloading {request.repo_id}; waiting")

        told: set[str] = set()
        # Tasks of one step, as of a foreach, do not share entries in the narrowest scope;
        # they share what is read from the Hub all the same.
        siblings = self._cache_scope == "checkpoint"
        selection = repr(sorted(request.arguments.items()))
        what = ("download", request.repo_type, request.repo_id, selection)
        here = self._task if siblings else self._store.place
        with machine_lock(here, *what, on_wait=waiting_here) as lock:
            if request.force_download:  # nobody waits for what is asked for anew
                yield Turn([lock])
                return
            with self._store.lease(
                *what,
                siblings=siblings,
                owner=self._owner,
                suffices=lambda note, has_waited: self._suffices(note, request, has_waited),
                on_wait=waiting,
            ) as lease:
                yield Turn([lock, lease])

    def _sibling(self, request: RepoRequest, lock: Turn) -> dict[str, Any] | None:
        """Return the entry that a task of the same step has just stored, if it is the same."""
        if request.force_download:
            return None
        found = (self._serving(note, request) for note in lock.notes())
        return next((reference for reference in found if reference is not None), None)

    def _suffices(self, note: dict[str, Any], request: RepoRequest, has_waited: bool) -> bool:
        """Return True if the task that left `note` has stored what this one can use."""
        if self._serving(note, request) is not None:
            return True
        # An older note may be of what has been deleted since, and found to be missing.
        reference = note.get("reference")
        return (
            has_waited
            and isinstance(reference, dict)
            and serves(reference, request)
            and self._store.shares(reference)
        )

    def _serving(self, note: dict[str, Any], request: RepoRequest) -> dict[str, Any] | None:
        """Return the reference in `note` if a task of this step and run left it for the same."""
        reference = note.get("reference")
        if note.get("task") != self._task or not isinstance(reference, dict):
            return None
        return reference if serves(reference, request) else None


class Turn:
    """The right to download, held among the tasks of this machine, and of all machines."""

    def __init__(self, held: Sequence[MachineLock | StoreLease]) -> None:
        self._held = held

    @property
    def waited(self) -> bool:
        """True if another task had it first."""
        return any(lock.waited for lock in self._held)

    def notes(self) -> list[dict[str, Any]]:
        """Return what the last holders left."""
        return [lock.read_note() for lock in self._held]

    def leave_note(self, note: dict[str, Any]) -> None:
        """Leave `note` to the next ones."""
        for lock in self._held:
            lock.leave_note(note)


def _terminable() -> AbstractContextManager[None]:
    """Have SIGTERM unwind the block, so that the entry being written is taken back."""
    from hftransfer._io.signals import terminable

    return terminable()


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.2f}"
