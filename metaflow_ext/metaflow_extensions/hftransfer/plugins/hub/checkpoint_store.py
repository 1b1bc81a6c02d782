"""Entries for repositories, stored as metaflow-checkpoint stores its checkpoints.

Their keys are made of flow, step, namespace and task, and metadata documents name them.
`CheckpointStore` finds, writes and removes such entries in the datastore that ``@model`` and
``@checkpoint`` of the same task use. This module uses private parts of metaflow-checkpoint,
and is imported only in a task that uses ``@huggingface_hub``.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hftransfer._io.move_tree import move_tree
from hftransfer.errors import TransferError
from metaflow import current
from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.manifests import manifest_path, metadata_path
from metaflow_extensions.hftransfer.plugins.engine.orphans import parse_key_name
from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine
from metaflow_extensions.hftransfer.plugins.hub.run_scope import resolve_scope
from metaflow_extensions.hftransfer.plugins.hub.single_flight import Flight, lock_folder
from metaflow_extensions.hftransfer.plugins.hub.task_dirs import PREFIX, TaskDir
from metaflow_extensions.hftransfer.plugins.hub.unfinished_entries import Claim, UnfinishedEntries
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
    checkpoint_storage,
    constants,
)
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints.constructors import (  # noqa: E501
    _instantiate_checkpoint_for_writes,
    load_checkpoint,
)
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints.final_api import (  # noqa: E501
    Checkpoint,
)
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore.decorator import (  # noqa: E501
    set_datastore_context,
)
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.hf_hub.decorator import (
    init_hf_checkpoint,
)
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.utils.flowspec_utils import (  # noqa: E501
    resolve_task_identifier,
)

Log = Callable[[str], None]

_FILES = "files"  # metaflow-checkpoint's storage format for files that are stored one by one


@dataclass
class NewEntry:
    """An entry that is being written; no task can find it before it is published."""

    key: str
    """Relative to the datastore's root."""
    name: str
    attempt: int
    version_id: int
    location: str
    """The destination of the files: the entry itself, or a local folder."""
    staged: bool
    """True if that is a local folder, which Metaflow's code uploads afterwards."""
    adopted: bool = False
    """True if another task, or another attempt of this one, began the entry."""
    published: bool = False
    kept: bool = False
    """True if what was written stays after a failure, for the next task that needs it."""
    claim: Claim | None = None
    """The record that names the entry while it is being written."""

    @property
    def key_name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


class CheckpointStore:
    """The entries that one task can see and write.

    Parameters
    ----------
    checkpoint : Checkpoint
        metaflow-checkpoint's handle, set up for this task and cache scope.
    log : callable
        Takes one line for the task's log.
    exclusive : bool
        False if other tasks write the same keys, as the nodes of ``@parallel`` do. What a
        failed task wrote is not removed then.
    temp_dir_root : str, optional
        The parent of local folders, for datastores that the engine cannot write to.
    siblings : bool, default True
        The tasks of one step have folders of their own, and share their entries all the same: in
        the cache scope ``checkpoint``.
    """

    def __init__(
        self,
        checkpoint: Any,
        log: Log,
        *,
        exclusive: bool,
        temp_dir_root: str | None,
        siblings: bool = True,
    ) -> None:
        self._checkpointer = checkpoint._checkpointer
        self._datastore = self._checkpointer._checkpoint_datastore
        store = self._datastore.artifact_store
        self.access = DatastoreAccess(store._backend)
        self.root: str = store._root_prefix
        """The first part of all keys."""
        self.shared_folder: str = (
            os.path.dirname(store.FULL_PREFIX) if siblings else store.FULL_PREFIX
        )
        """The folder below which the entries are that this task shares with other tasks."""
        self._log = log
        self._exclusive = exclusive
        self._temp_dir_root = temp_dir_root
        self._unfinished = UnfinishedEntries(
            self.access, self.root, self.shared_folder, lock_folder(self.access, self.root), log
        )
        self._lock = threading.Lock()
        """Held while a key is reserved."""

    @property
    def attempt(self) -> int:
        """The attempt of the task, counted from 0."""
        return int(self._checkpointer._attempt)

    def find(self, name: str) -> list[dict[str, Any]]:
        """Return the references of all entries called `name` in this task's cache scope."""
        found = self._checkpointer._list_checkpoints(name=name, within_task=False)
        return [artifact.to_dict() for artifact in found]

    def exists(self, reference: dict[str, Any]) -> bool:
        """Return True if the entry of `reference` is published and was not deleted."""
        return self.access.exists(metadata_path(str(reference.get("key", ""))))

    def is_own(self, key: str) -> bool:
        """Return True if `find` of this task lists the entry `key`."""
        prefix: str = self._datastore.artifact_store.FULL_PREFIX
        return key.startswith(prefix.rstrip("/") + "/")

    def is_folder(self, reference: dict[str, Any]) -> bool:
        """Return True if the files of `reference` are stored one by one, not as an archive."""
        return bool(reference.get("storage_format", _FILES) == _FILES)

    def load(
        self, reference: dict[str, Any], path: str, selects: Callable[[str], bool] | None = None
    ) -> None:
        """Load `reference` with metaflow-checkpoint's code, where the engine cannot be used.

        Parameters
        ----------
        reference : dict
        path : str
        selects : callable, optional
            Takes the path of a file. Returns True if it is wanted. Default: all are.
        """
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".hftransfer-", dir=path) as folder:
            load_checkpoint(reference, folder)
            for hub_metadata in (".cache/huggingface", ".huggingface"):
                shutil.rmtree(os.path.join(folder, hub_metadata), ignore_errors=True)
            for file in [file for file in Path(folder).rglob("*") if not file.is_dir()]:
                if selects is not None and not selects(file.relative_to(folder).as_posix()):
                    file.unlink()
            move_tree(Path(folder), Path(path))

    @contextmanager
    def new_entry(
        self, name: str, flight: Flight, *, may_retry: bool = False
    ) -> Iterator[NewEntry]:
        """Reserve a key; what the block wrote there is removed unless it is published.

        Parameters
        ----------
        name : str
        flight : Flight
            That the task holds.
        may_retry : bool, default False
            True if the task has another attempt, which resumes what an `Exception` leaves.
            After SIGTERM or an interrupt it is removed.
        """
        entry, staging = self._reserve(name, flight, may_retry=may_retry)
        try:
            yield entry
        except BaseException as error:
            is_resumable = (may_retry or entry.kept) and isinstance(error, Exception)
            if self._exclusive and not entry.published and not is_resumable:
                self._remove(entry)
            raise
        finally:
            if staging is not None:
                staging.close()

    def _reserve(
        self, name: str, flight: Flight, *, may_retry: bool
    ) -> tuple[NewEntry, TaskDir | None]:
        with self._lock:
            attempt, version_id = self.attempt, self._checkpointer.current_version
            self._checkpointer._update_version()
        store, task = self._datastore, self._datastore.pathspec
        is_recorded = self._exclusive and self._is_writable
        found = self._unfinished.find(flight, task) if is_recorded else None
        if found is not None:
            of_found = parse_key_name(found.rpartition("/")[2])
            if of_found is None or of_found.name != name:
                found = None
            else:
                attempt, version_id = of_found.attempt, of_found.version
                self._log(f"Resuming the unfinished entry of a task that has ended: {found}")
        key = found or store.artifact_store.resolve_key_relative_path(
            store.create_key_name(store._NAME_ENTROPY, attempt, name, version_id)
        )
        staging = None if self._is_writable else self._staging_folder(name)
        entry = NewEntry(
            key=key,
            name=name,
            attempt=attempt,
            version_id=version_id,
            location=self.access.location(key) if staging is None else staging.name,
            staged=staging is not None,
            adopted=found is not None,
        )
        if is_recorded:
            entry.claim = self._unfinished.claim(flight.name, key, task, may_retry=may_retry)
        return entry, staging

    def publish(
        self, entry: NewEntry, manifest: dict[str, Any], metadata: dict[str, Any]
    ) -> dict[str, Any]:
        """Write the documents by which tasks find `entry`, all of whose files are written.

        Parameters
        ----------
        entry : NewEntry
        manifest : dict
            The manifest of the files.
        metadata : dict
            The metadata that is stored with the entry.

        Returns
        -------
        dict
            metaflow-checkpoint's reference to the entry.
        """
        files = manifest["files"]
        if entry.claim is not None and not self._unfinished.is_mine(entry.claim):
            raise TransferError(
                f"another task has taken over the entry {entry.key}, because this one seemed to "
                "be dead; run the task again, which then uses what the other one stored"
            )
        if entry.staged:
            self._datastore.artifact_store._save_objects(entry.key_name, entry.location)
        elif entry.adopted:
            self._delete_others(entry, files)
        document_path = manifest_path(entry.key)
        if document_path is not None:
            self.access.write_document(document_path, manifest)
        # From here on other tasks may find the entry, so its files must stay.
        entry.published = True
        datastore = self._datastore_of(entry)
        size = sum(file["size"] for file in files.values())
        datastore.artifact_store = _AlreadyStored(datastore.artifact_store, size)
        artifact = datastore.save(
            entry.location,
            attempt=entry.attempt,
            version_id=entry.version_id,
            name=entry.name,
            metadata=metadata,
            storage_format=_FILES,
        )
        reference: dict[str, Any] = artifact.to_dict()
        if not self.is_own(entry.key):
            self.refer(entry.name, reference)
        if entry.claim is not None:
            self._unfinished.end(entry.claim)
        return reference

    def _datastore_of(self, entry: NewEntry) -> Any:
        """Return metaflow-checkpoint's view of the folder of `entry`, for this task."""
        if not entry.adopted:
            return copy.copy(self._datastore)
        # Its key was made by another task, maybe in the folder of a sibling.
        datastore = checkpoint_storage.CheckpointDatastore.init_read_store(
            self._datastore.artifact_store._backend, checkpoint_key=entry.key
        )
        datastore.metadata_store = self._datastore.metadata_store
        datastore.pathspec = self._datastore.pathspec
        return datastore

    def refer(self, name: str, reference: dict[str, Any]) -> None:
        """Make the entry of another task one of this task, without a copy of its files.

        metaflow-checkpoint finds an entry by the name of its metadata and loads it by the key,
        attempt, name and version in there. So the metadata of another task's entry, stored under a
        name of this task, is enough.

        Parameters
        ----------
        name : str
            Of the entry.
        reference : dict
            Of the other task.
        """
        with self._lock:
            version_id = self._checkpointer.current_version
            self._checkpointer._update_version()
        store = self._datastore
        own = (self.attempt, name, version_id, "metadata")
        for folder, parts in (
            (store.artifact_metadatastore, (store._NAME_ENTROPY, *own)),
            (store.metadata_store, own),
        ):
            folder._save_metadata(store.create_key_name(*parts), reference)
            folder._save_metadata("latest", reference)

    def _delete_others(self, entry: NewEntry, files: dict[str, Any]) -> None:
        """Delete the files of an earlier attempt that this one did not write."""
        others = set(self.access.list_files(entry.key)) - set(files)
        self.access.delete(f"{entry.key}/{path}" for path in others)
        self.access.abort_uploads(entry.key)

    @property
    def _is_writable(self) -> bool:
        """True if the engine can write to the datastore."""
        try:
            self.access.jobs()
        except UnsupportedByEngine:
            return False
        return True

    def _staging_folder(self, name: str) -> TaskDir:
        owner = f"{self._datastore.pathspec}/staging/{self.attempt}"
        return TaskDir(f"{PREFIX}{name}_", owner, self._temp_dir_root)

    def _remove(self, entry: NewEntry) -> None:
        try:
            if entry.claim is not None and not self._unfinished.is_mine(entry.claim):
                return  # the entry is another task's now
            if self.access.is_local or self.access.is_s3:
                self.access.delete_tree(entry.key)
            else:
                self._datastore.artifact_store.delete_prefix(entry.key_name)
            if entry.claim is not None:
                self._unfinished.end(entry.claim)
        except Exception as error:  # noqa: BLE001 - the first failure is the one to report
            self._log(f"Could not remove the incomplete entry {entry.key}: {error}")


class _AlreadyStored:
    """Stands in for an artifact store whose files are already stored: it only names them."""

    def __init__(self, artifact_store: Any, size: int) -> None:
        self._artifact_store = artifact_store
        self._size = size

    def _save_objects(self, key: str, _local_path: str) -> tuple[str, str, int]:
        return (
            self._artifact_store.resolve_key_full_url(key),
            self._artifact_store.resolve_key_relative_path(key),
            self._size,
        )


def open_checkpoint_store(
    *,
    flow: Any,
    graph: Any,
    metadata: Any,
    step_name: str,
    retry_count: int,
    cache_scope: str,
    temp_dir_root: str | None,
    log: Log,
) -> CheckpointStore:
    """Set up metaflow-checkpoint for the running task, as ``@checkpoint`` does.

    Parameters
    ----------
    flow, graph, metadata, step_name, retry_count
        The arguments of ``task_pre_step``.
    cache_scope : str
        ``checkpoint``, ``flow`` or ``global``.
    temp_dir_root : str, optional
        The parent of temporary folders.
    log : callable
        Takes one line for the task's log.
    """
    set_datastore_context(flow, metadata, current.run_id, step_name, current.task_id, retry_count)
    gang = bool(graph[step_name].parallel_step) and bool(
        getattr(current.parallel, "control_task_id", None)
    )
    identifier = resolve_task_identifier(flow, gang, 0)
    checkpoint = _instantiate_checkpoint_for_writes(
        Checkpoint(),
        flow=flow,
        task_identifier=identifier,
        scope=resolve_scope(log),
        gang_scheduled_task=gang,
    )
    # With these, processes that the step starts find the task's checkpoints.
    os.environ[constants.CHECKPOINT_TASK_IDENTIFIER_ENV_VAR_NAME] = identifier
    os.environ[constants.CHECKPOINT_UID_ENV_VAR_NAME] = checkpoint._checkpointer._checkpoint_uid
    checkpoint = init_hf_checkpoint(checkpoint, cache_scope, flow.name)
    return CheckpointStore(
        checkpoint,
        log,
        exclusive=not gang,
        temp_dir_root=temp_dir_root,
        siblings=cache_scope == "checkpoint",
    )
