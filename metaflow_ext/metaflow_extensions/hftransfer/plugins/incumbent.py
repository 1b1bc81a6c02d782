"""The one place that knows metaflow-checkpoint from the inside.

Repositories are stored as its checkpoints are: under keys made of flow, step,
namespace and task, with metadata documents that name them. `EntryStore` finds, writes
and takes back such entries in the datastore that ``@model`` and ``@checkpoint`` of the
same task use. Imported only inside a task that uses ``@huggingface_hub``.
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
from typing import Any

from metaflow.exception import MetaflowNotFound

from metaflow import Run, current
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
    constants,
)
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints.constructors import (  # noqa: E501
    _instantiate_checkpoint_for_writes,
    load_checkpoint,
)
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints.core import (
    ScopeResolver,
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

from .s3_backend import delete_below, s3_settings

Log = Callable[[str], None]

_FILES = "files"
_S3_TYPES = frozenset(("s3", "s3-compatible", "coreweave"))


@dataclass
class NewEntry:
    """An entry that is being written and that nobody can find yet."""

    key_name: str
    """The last part of its key."""
    name: str
    version_id: int
    location: str
    """Where the engine writes the files: the entry itself, or a folder that is then uploaded."""
    staged: bool
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
        self._backend = self._datastore.artifact_store._backend
        self._log = log
        self._exclusive = exclusive
        self._temp_dir_root = temp_dir_root
        self._lock = threading.Lock()

    @property
    def s3_settings(self) -> dict[str, Any]:
        """Fields of the engine's ``S3Options``; empty for other datastores."""
        return s3_settings(self._backend) if self._is_s3 else {}

    def find(self, name: str) -> list[dict[str, Any]]:
        """Return the references of all entries called `name` in this task's cache scope."""
        found = self._checkpointer._list_checkpoints(name=name, within_task=False)
        return [artifact.to_dict() for artifact in found]

    def source_of(self, reference: dict[str, Any]) -> str | None:
        """Return where the engine can read the files of `reference`; None if it cannot."""
        if reference.get("storage_format", _FILES) != _FILES or not self._reachable:
            return None
        # From the key, not from the recorded URL: a datastore may have moved.
        location: str = os.path.join(self._backend.datastore_root, reference["key"])
        return location

    def load(self, reference: dict[str, Any], path: str) -> None:
        """Load `reference` as metaflow-checkpoint does, for what the engine cannot read."""
        os.makedirs(path, exist_ok=True)
        load_checkpoint(reference, path)

    @contextmanager
    def new_entry(self, name: str) -> Iterator[NewEntry]:
        """Reserve a key; what was written below it is taken back unless it gets published."""
        with self._lock:
            version_id = self._checkpointer.current_version
            self._checkpointer._update_version()
        key_name = self._datastore.create_key_name(
            self._datastore._NAME_ENTROPY, self._checkpointer._attempt, name, version_id
        )
        staging = None if self._writable else self._staging_folder(name)
        location = self._location(key_name) if staging is None else staging.name
        entry = NewEntry(key_name, name, version_id, location, staged=staging is not None)
        try:
            yield entry
        except BaseException:
            if self._exclusive and not entry.published:
                self._take_back(entry)
            raise
        finally:
            if staging is not None:
                staging.cleanup()

    def publish(self, entry: NewEntry, size: int, metadata: dict[str, Any]) -> dict[str, Any]:
        """Write the documents that let others find `entry`, all of whose files are there.

        Parameters
        ----------
        entry : NewEntry
        size : int
            Bytes of all files.
        metadata : dict
            What is kept with the entry, JSON.

        Returns
        -------
        dict
            The reference.
        """
        if entry.staged:
            self._datastore.artifact_store._save_objects(entry.key_name, entry.location)
        # From here on others may see the entry, so its files must stay.
        entry.published = True
        datastore = copy.copy(self._datastore)
        datastore.artifact_store = _AlreadyStored(self._datastore.artifact_store, size)
        artifact = datastore.save(
            entry.location,
            attempt=self._checkpointer._attempt,
            version_id=entry.version_id,
            name=entry.name,
            metadata=metadata,
            storage_format=_FILES,
        )
        reference: dict[str, Any] = artifact.to_dict()
        return reference

    @property
    def _is_s3(self) -> bool:
        return self._backend.TYPE in _S3_TYPES

    @property
    def _reachable(self) -> bool:
        return self._is_s3 or self._backend.TYPE == "local"

    @property
    def _writable(self) -> bool:
        from metaflow.metaflow_config import S3_SERVER_SIDE_ENCRYPTION

        # Metaflow's own uploader sets the encryption header; a bucket may insist on it.
        return self._reachable and not (self._is_s3 and S3_SERVER_SIDE_ENCRYPTION)

    def _location(self, key_name: str) -> str:
        url: str = self._datastore.artifact_store.resolve_key_full_url(key_name)
        return url

    def _staging_folder(self, name: str) -> tempfile.TemporaryDirectory[str]:
        if self._temp_dir_root is not None:
            os.makedirs(self._temp_dir_root, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f"metaflow_hf_{name}_", dir=self._temp_dir_root)

    def _take_back(self, entry: NewEntry) -> None:
        location = self._location(entry.key_name)
        try:
            if self._is_s3:
                delete_below(self._backend, location + "/")
            elif self._backend.TYPE == "local":
                shutil.rmtree(location, ignore_errors=True)
            elif entry.staged:
                self._datastore.artifact_store.delete_prefix(entry.key_name + "/")
        except Exception as error:  # noqa: BLE001 - the failure that led here is the one to show
            self._log(f"Could not remove the incomplete entry {location}: {error}")


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
        scope=_scope(log),
        gang_scheduled_task=gang,
    )
    # Processes that the step starts find the task's checkpoints by these.
    os.environ[constants.CHECKPOINT_TASK_IDENTIFIER_ENV_VAR_NAME] = identifier
    os.environ[constants.CHECKPOINT_UID_ENV_VAR_NAME] = checkpoint._checkpointer._checkpoint_uid
    checkpoint = init_hf_checkpoint(checkpoint, cache_scope, flow.name)
    return EntryStore(checkpoint, log, exclusive=not gang, temp_dir_root=temp_dir_root)


def _scope(log: Log) -> str:
    """Return the part of the key that stands for the run's special tag, or its namespace."""
    try:
        tags = Run(f"{current.flow_name}/{current.run_id}").tags
    except MetaflowNotFound:
        tags = ()  # the metadata of the run lies on another machine
    special = [tag for tag in tags if constants.CHECKPOINT_TAG_PREFIX in tag]
    if special:
        log(f"Repositories of this task are stored under the run's tag {special[0]}")
        scope: str = ScopeResolver.from_tags(special)
    else:
        scope = ScopeResolver.from_namespace()
    return scope
