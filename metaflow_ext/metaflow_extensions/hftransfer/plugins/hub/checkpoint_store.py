"""Entries for repositories, stored as metaflow-checkpoint stores its checkpoints.

Their keys are made of flow, step, namespace and task, and metadata documents name them.
`CheckpointStore` finds, writes and removes such entries in the datastore that ``@model`` and
``@checkpoint`` of the same task use. This module uses private parts of metaflow-checkpoint,
and is imported only in a task that uses ``@huggingface_hub``.
"""

from __future__ import annotations

import copy
import hashlib
import json
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
from metaflow import current
from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.manifests import manifest_path
from metaflow_extensions.hftransfer.plugins.engine.orphans import (
    KeyName,
    of_earlier_attempts,
    parse_key_name,
)
from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine
from metaflow_extensions.hftransfer.plugins.hub.lease import StoreLease, store_lease
from metaflow_extensions.hftransfer.plugins.hub.run_scope import resolve_scope
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
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

    key_name: str
    """The last part of the key."""
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
    """True if an earlier attempt of the same task began the entry."""
    published: bool = False


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
    """

    def __init__(
        self, checkpoint: Any, log: Log, *, exclusive: bool, temp_dir_root: str | None
    ) -> None:
        self._checkpointer = checkpoint._checkpointer
        self._datastore = self._checkpointer._checkpoint_datastore
        self.access = DatastoreAccess(self._datastore.artifact_store._backend)
        self._log = log
        self._exclusive = exclusive
        self._temp_dir_root = temp_dir_root
        self._lock = threading.Lock()
        """Held while a key is reserved."""
        self._reserved: set[str] = set()
        """The key names that this process has reserved."""

    @property
    def location(self) -> str:
        """The folder of the entries that this task shares with other tasks."""
        return self.access.location(self._datastore.artifact_store.FULL_PREFIX)

    @property
    def attempt(self) -> int:
        """The attempt of the task, counted from 0."""
        return int(self._checkpointer._attempt)

    def find(self, name: str) -> list[dict[str, Any]]:
        """Return the references of all entries called `name` in this task's cache scope."""
        found = self._checkpointer._list_checkpoints(name=name, within_task=False)
        return [artifact.to_dict() for artifact in found]

    def shares(self, reference: dict[str, Any]) -> bool:
        """Return True if the entry of `reference` is in the folder `location`."""
        prefix: str = self._datastore.artifact_store.FULL_PREFIX
        return str(reference.get("key", "")).startswith(prefix.rstrip("/") + "/")

    @contextmanager
    def lease(
        self,
        *names: str,
        siblings: bool,
        owner: str,
        is_satisfied_by: Callable[[dict[str, Any], bool], bool],
        on_wait: Callable[[], None],
    ) -> Iterator[StoreLease]:
        """Hold the lease called `names`, the same one on all machines; see `store_lease`.

        Parameters
        ----------
        *names : str
            All parts together name the lease.
        siblings : bool
            True if the tasks of one step share the lease, though each has entries of its own.
        owner, is_satisfied_by, on_wait
            As for `store_lease`.
        """
        documents = self.access.documents
        if documents is None:
            yield StoreLease()
            return
        store = self._datastore.artifact_store
        folder = os.path.dirname(store.FULL_PREFIX) if siblings else store.FULL_PREFIX
        digest = hashlib.sha256(json.dumps([folder, *names]).encode()).hexdigest()[:32]
        key = f"{store._root_prefix}/checkpoints/leases/{digest}.json"
        with store_lease(
            documents, key, owner, is_satisfied_by=is_satisfied_by, on_wait=on_wait
        ) as lease:
            yield lease

    def is_folder(self, reference: dict[str, Any]) -> bool:
        """Return True if the files of `reference` are stored one by one, not as an archive."""
        return bool(reference.get("storage_format", _FILES) == _FILES)

    def load(self, reference: dict[str, Any], path: str) -> None:
        """Load `reference` with metaflow-checkpoint's code, where the engine cannot be used."""
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".hftransfer-", dir=path) as folder:
            load_checkpoint(reference, folder)
            for hub_metadata in (".cache/huggingface", ".huggingface"):
                shutil.rmtree(os.path.join(folder, hub_metadata), ignore_errors=True)
            move_tree(Path(folder), Path(path))

    @contextmanager
    def new_entry(self, name: str, *, keep_on_error: bool = False) -> Iterator[NewEntry]:
        """Reserve a key; what the block wrote there is removed unless it is published.

        Parameters
        ----------
        name : str
        keep_on_error : bool, default False
            After an `Exception` keep what was written, because the next attempt of the task
            resumes it. After SIGTERM or an interrupt it is removed.
        """
        entry, staging = self._reserve(name)
        try:
            yield entry
        except BaseException as error:
            is_resumable = keep_on_error and isinstance(error, Exception)
            if self._exclusive and not entry.published and not is_resumable:
                self._remove(entry)
            raise
        finally:
            if staging is not None:
                staging.cleanup()

    def _reserve(self, name: str) -> tuple[NewEntry, tempfile.TemporaryDirectory[str] | None]:
        with self._lock:
            attempt, version_id = self.attempt, self._checkpointer.current_version
            self._checkpointer._update_version()
            orphan = self._find_orphan(name, version_id)
            if orphan is not None:
                attempt, version_id = orphan
        key_name = self._datastore.create_key_name(
            self._datastore._NAME_ENTROPY, attempt, name, version_id
        )
        self._reserved.add(key_name)
        key = self._datastore.artifact_store.resolve_key_relative_path(key_name)
        staging = None if self._is_writable else self._staging_folder(name)
        entry = NewEntry(
            key_name=key_name,
            key=key,
            name=name,
            attempt=attempt,
            version_id=version_id,
            location=self.access.location(key) if staging is None else staging.name,
            staged=staging is not None,
            adopted=orphan is not None,
        )
        return entry, staging

    def _find_orphan(self, name: str, version: int) -> tuple[int, int] | None:
        """Return attempt and version of an entry that an earlier attempt left unpublished.

        On S3 an earlier attempt is assumed to have begun one even if nothing is listed: some
        stores list an unfinished upload only for the exact key of its object.
        """
        if self.attempt == 0 or not self._exclusive:
            return None
        own = KeyName(self._datastore._NAME_ENTROPY, self.attempt, name, version)
        folder = self._datastore.artifact_store.FULL_PREFIX
        metadata = self.access.list_names(self._datastore.artifact_metadatastore.FULL_PREFIX)
        published = {name.removesuffix(".metadata") for name in metadata}
        stored = [*self.access.list_names(folder), *self.access.list_unfinished(folder)]
        attempts = range(self.attempt) if self.access.is_s3 else ()
        assumed = [str(own._replace(attempt=attempt)) for attempt in attempts]
        listed = of_earlier_attempts(own, stored)
        for key_name in dict.fromkeys((*listed, *assumed)):
            found = parse_key_name(key_name)
            assert found is not None
            if found.name != name or key_name in published or key_name in self._reserved:
                continue
            if key_name in listed:
                self._log(
                    f"Resuming the unfinished entry of attempt {found.attempt} of this task: "
                    f"{key_name}"
                )
            return found.attempt, found.version
        return None

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
        if entry.staged:
            self._datastore.artifact_store._save_objects(entry.key_name, entry.location)
        elif entry.adopted:
            self._delete_others(entry, files)
        document_path = manifest_path(entry.key)
        if document_path is not None:
            self.access.write_document(document_path, manifest)
        # From here on other tasks may find the entry, so its files must stay.
        entry.published = True
        datastore = copy.copy(self._datastore)
        size = sum(file["size"] for file in files.values())
        datastore.artifact_store = _AlreadyStored(self._datastore.artifact_store, size)
        artifact = datastore.save(
            entry.location,
            attempt=entry.attempt,
            version_id=entry.version_id,
            name=entry.name,
            metadata=metadata,
            storage_format=_FILES,
        )
        reference: dict[str, Any] = artifact.to_dict()
        return reference

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

    def _staging_folder(self, name: str) -> tempfile.TemporaryDirectory[str]:
        if self._temp_dir_root is not None:
            os.makedirs(self._temp_dir_root, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f"metaflow_hf_{name}_", dir=self._temp_dir_root)

    def _remove(self, entry: NewEntry) -> None:
        try:
            if self.access.is_local or self.access.is_s3:
                self.access.delete_tree(entry.key)
            else:
                self._datastore.artifact_store.delete_prefix(entry.key_name)
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
    return CheckpointStore(checkpoint, log, exclusive=not gang, temp_dir_root=temp_dir_root)
