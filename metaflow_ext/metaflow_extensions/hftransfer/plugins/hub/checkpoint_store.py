"""The one place that knows metaflow-checkpoint's way of storing entries from the inside.

Repositories are stored as its checkpoints are: under keys made of flow, step,
namespace and task, with metadata documents that name them. `EntryStore` finds, writes
and takes back such entries in the datastore that ``@model`` and ``@checkpoint`` of the
same task use. Imported only inside a task that uses ``@huggingface_hub``.
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
from typing import Any

from metaflow import current
from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from metaflow_extensions.hftransfer.plugins.engine.manifests import manifest_path
from metaflow_extensions.hftransfer.plugins.engine.orphans import KeyName, earlier, parse_key_name
from metaflow_extensions.hftransfer.plugins.engine.s3_settings import NotForEngine
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

_FILES = "files"


@dataclass
class NewEntry:
    """An entry that is being written and that nobody can find yet."""

    key_name: str
    """The last part of its key."""
    key: str
    """Relative to the datastore's root."""
    name: str
    attempt: int
    version_id: int
    location: str
    """Where the files go: the entry itself, or a folder that is then uploaded."""
    staged: bool
    adopted: bool = False
    """True if a killed attempt of the same task began it."""
    published: bool = False


class EntryStore:
    """The entries that one task can see and write.

    Parameters
    ----------
    checkpoint : Checkpoint
        metaflow-checkpoint's handle, set up for this task and cache scope.
    log : callable
        Takes one line for the task's log.
    exclusive : bool
        False if other tasks write the same keys, as the nodes of ``@parallel`` do; what
        a failed task wrote is then left alone.
    temp_dir_root : str, optional
        Where folders for datastores go that the engine cannot write itself.
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
        self._adopted: set[str] = set()

    @property
    def place(self) -> str:
        """Names the folder of entries that this task shares with others."""
        return self.access.location(self._datastore.artifact_store.FULL_PREFIX)

    @property
    def attempt(self) -> int:
        return int(self._checkpointer._attempt)

    def find(self, name: str) -> list[dict[str, Any]]:
        """Return the references of all entries called `name` in this task's cache scope."""
        found = self._checkpointer._list_checkpoints(name=name, within_task=False)
        return [artifact.to_dict() for artifact in found]

    def shares(self, reference: dict[str, Any]) -> bool:
        """Return True if this task finds the entry of `reference` among its own."""
        prefix: str = self._datastore.artifact_store.FULL_PREFIX
        return str(reference.get("key", "")).startswith(prefix.rstrip("/") + "/")

    @contextmanager
    def lease(
        self,
        *names: str,
        siblings: bool,
        owner: str,
        suffices: Callable[[dict[str, Any], bool], bool],
        on_wait: Callable[[], None],
    ) -> Iterator[StoreLease]:
        """Be the one task, of all machines, that stores what `names` say; see `store_lease`.

        Parameters
        ----------
        *names : str
            All parts together.
        siblings : bool
            True if the tasks of one step, each with entries of its own, share the lease.
        owner, suffices, on_wait
            As for `store_lease`.
        """
        documents = self.access.documents
        if documents is None:
            yield StoreLease()
            return
        store = self._datastore.artifact_store
        place = os.path.dirname(store.FULL_PREFIX) if siblings else store.FULL_PREFIX
        digest = hashlib.sha256(json.dumps([place, *names]).encode()).hexdigest()[:32]
        key = f"{store._root_prefix}/checkpoints/leases/{digest}.json"
        with store_lease(documents, key, owner, suffices=suffices, on_wait=on_wait) as lease:
            yield lease

    def is_folder(self, reference: dict[str, Any]) -> bool:
        """Return True if the files of `reference` are stored one by one."""
        return bool(reference.get("storage_format", _FILES) == _FILES)

    def load(self, reference: dict[str, Any], path: str) -> None:
        """Load `reference` as metaflow-checkpoint does, for what the engine cannot read."""
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".hftransfer-", dir=path) as folder:
            load_checkpoint(reference, folder)
            for bookkeeping in (".cache/huggingface", ".huggingface"):
                shutil.rmtree(os.path.join(folder, bookkeeping), ignore_errors=True)
            shutil.copytree(folder, path, dirs_exist_ok=True)

    @contextmanager
    def new_entry(
        self, name: str, *, keep: Callable[[], bool] = lambda: False
    ) -> Iterator[NewEntry]:
        """Reserve a key; what was written below it is taken back unless it gets published.

        Parameters
        ----------
        name : str
        keep : callable
            Asked after an ordinary failure: True if the next attempt of this task will
            find and use what is there.
        """
        entry, staging = self._reserve(name)
        try:
            yield entry
        except BaseException as error:
            resumable = isinstance(error, Exception) and keep()
            if self._exclusive and not entry.published and not resumable:
                self._take_back(entry)
            raise
        finally:
            if staging is not None:
                staging.cleanup()

    def _reserve(self, name: str) -> tuple[NewEntry, tempfile.TemporaryDirectory[str] | None]:
        with self._lock:
            attempt, version_id = self.attempt, self._checkpointer.current_version
            self._checkpointer._update_version()
            leftover = self._leftover(name, version_id)
            if leftover is not None:
                attempt, version_id = leftover
        key_name = self._datastore.create_key_name(
            self._datastore._NAME_ENTROPY, attempt, name, version_id
        )
        self._adopted.add(key_name)
        key = self._datastore.artifact_store.resolve_key_relative_path(key_name)
        staging = None if self._writable else self._staging_folder(name)
        entry = NewEntry(
            key_name=key_name,
            key=key,
            name=name,
            attempt=attempt,
            version_id=version_id,
            location=self.access.location(key) if staging is None else staging.name,
            staged=staging is not None,
            adopted=leftover is not None,
        )
        return entry, staging

    def _leftover(self, name: str, version: int) -> tuple[int, int] | None:
        """Return attempt and version of an entry that an attempt before this left unpublished.

        If nothing is seen, the first one that could have been: of an upload that was
        interrupted some stores tell only whoever uploads the same object.
        """
        if self.attempt == 0 or not self._exclusive:
            return None
        own = KeyName(self._datastore._NAME_ENTROPY, self.attempt, name, version)
        place = self._datastore.artifact_store.FULL_PREFIX
        listed = set(self.access.names_in(self._datastore.artifact_metadatastore.FULL_PREFIX))
        stored = [*self.access.names_in(place), *self.access.unfinished_in(place)]
        attempts = range(self.attempt) if self.access.is_s3 else ()
        twins = [str(own._replace(attempt=attempt)) for attempt in attempts]
        seen = earlier(own, stored)
        for key_name in dict.fromkeys((*seen, *twins)):
            found = parse_key_name(key_name)
            assert found is not None
            published = f"{key_name}.metadata" in listed or key_name in self._adopted
            if found.name != name or published:
                continue
            if key_name in seen:
                self._log(
                    f"Going on with what attempt {found.attempt} of this task left: {key_name}"
                )
            return found.attempt, found.version
        return None

    def publish(
        self, entry: NewEntry, manifest: dict[str, Any], metadata: dict[str, Any]
    ) -> dict[str, Any]:
        """Write the documents that let others find `entry`, all of whose files are there.

        Parameters
        ----------
        entry : NewEntry
        manifest : dict
            What the files are, JSON.
        metadata : dict
            What is kept with the entry, JSON.

        Returns
        -------
        dict
            The reference.
        """
        files = manifest["files"]
        if entry.staged:
            self._datastore.artifact_store._save_objects(entry.key_name, entry.location)
        elif entry.adopted:
            self._delete_others(entry, files)
        where = manifest_path(entry.key)
        if where is not None:
            self.access.write_document(where, manifest)
        # From here on others may see the entry, so its files must stay.
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
        """Delete what a killed attempt wrote and this one did not."""
        others = set(self.access.files_below(entry.key)) - set(files)
        self.access.delete(f"{entry.key}/{path}" for path in others)
        self.access.end_uploads(entry.key)

    @property
    def _writable(self) -> bool:
        if not (self.access.is_s3 or self.access.is_local):
            return False
        try:
            self.access.moves()
        except NotForEngine:
            return False
        return True

    def _staging_folder(self, name: str) -> tempfile.TemporaryDirectory[str]:
        if self._temp_dir_root is not None:
            os.makedirs(self._temp_dir_root, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f"metaflow_hf_{name}_", dir=self._temp_dir_root)

    def _take_back(self, entry: NewEntry) -> None:
        try:
            if self.access.is_local or self.access.is_s3:
                self.access.discard(entry.key)
            else:
                self._datastore.artifact_store.delete_prefix(entry.key_name)
        except Exception as error:  # noqa: BLE001 - the failure that led here is the one to show
            self._log(f"Could not remove the incomplete entry {entry.key}: {error}")


class _AlreadyStored:
    """Stands in for an artifact store whose files are in place: only names them."""

    def __init__(self, artifact_store: Any, size: int) -> None:
        self._artifact_store = artifact_store
        self._size = size

    def _save_objects(self, key: str, _local_path: str) -> tuple[str, str, int]:
        return (
            self._artifact_store.resolve_key_full_url(key),
            self._artifact_store.resolve_key_relative_path(key),
            self._size,
        )


def open_entry_store(
    *,
    flow: Any,
    graph: Any,
    metadata: Any,
    step_name: str,
    retry_count: int,
    cache_scope: str,
    temp_dir_root: str | None,
    log: Log,
) -> EntryStore:
    """Set up metaflow-checkpoint for the running task, as ``@checkpoint`` does.

    Parameters
    ----------
    flow, graph, metadata, step_name, retry_count
        What Metaflow hands to ``task_pre_step``.
    cache_scope : str
        ``checkpoint``, ``flow`` or ``global``.
    temp_dir_root : str, optional
        Where temporary folders go.
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
    # Processes that the step starts find the task's checkpoints by these.
    os.environ[constants.CHECKPOINT_TASK_IDENTIFIER_ENV_VAR_NAME] = identifier
    os.environ[constants.CHECKPOINT_UID_ENV_VAR_NAME] = checkpoint._checkpointer._checkpoint_uid
    checkpoint = init_hf_checkpoint(checkpoint, cache_scope, flow.name)
    return EntryStore(checkpoint, log, exclusive=not gang, temp_dir_root=temp_dir_root)
