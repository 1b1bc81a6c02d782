"""Checkpoints and models go to the datastore of the flow, even if it is not the default one.

metaflow-checkpoint takes the datastore from the configuration, so that ``--datastore`` and
``--datastore-root`` apply to artifacts only. These wrappers use the datastore of the running
flow instead, also in processes that a step starts. References are loaded from the datastore
in which they were stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.flow_env import (
    remember_datastore,
    remembered_datastore,
)


def remember_on_step_init(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``step_init`` of a decorator: record the datastore of the flow."""

    @wraps(original)
    def method(
        self: Any,
        flow: Any,
        graph: Any,
        step_name: str,
        decorators: Any,
        environment: Any,
        flow_datastore: Any,
        logger: Any,
    ) -> Any:
        if flow_datastore is not None:
            remember_datastore(flow_datastore)
        return original(
            self, flow, graph, step_name, decorators, environment, flow_datastore, logger
        )

    return method


def default(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap ``ArtifactStoreContext.default``: the flow's datastore, if there is a flow."""

    @wraps(original)
    def method(self: Any) -> Any:
        remembered = remembered_datastore()
        backend = None if remembered is None else _backend(self, *remembered)
        return backend or original(self)

    return method


def resolve_task_storage_backend(
    original: Callable[..., tuple[Any, Any]],
) -> Callable[..., tuple[Any, Any]]:
    """Wrap the function: the datastore that the task's metadata names."""

    @wraps(original)
    def function(pathspec: Any = None) -> tuple[Any, Any]:
        context = _context()
        validation, backend = original(pathspec=pathspec)
        if context.current_context is not None or not validation.is_valid:
            return validation, backend
        from metaflow import Task

        task = Task(pathspec) if isinstance(pathspec, str) else pathspec
        metadata = task.metadata_dict
        if "ds-type" in metadata and "ds-root" in metadata:
            backend = _backend(context, metadata["ds-type"], metadata["ds-root"]) or backend
        return validation, backend

    return function


def from_checkpoint(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap ``ReadResolver.from_checkpoint``: read from where the checkpoint was stored."""

    @wraps(original)
    def function(checkpoint: Any) -> Any:
        from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (  # noqa: E501
            core,
        )

        context = _context()
        backend = _backend_of(context, context.get(), checkpoint)
        return core.CheckpointDatastore.init_read_store(backend, checkpoint_key=checkpoint.key)

    return function


def load_artifact(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``_load`` of a checkpoint or model: load it from where it was stored."""

    @wraps(original)
    def method(self: Any, storage_backend: Any, local_path: str) -> Any:
        return original(self, _backend_of(_context(), storage_backend, self), local_path)

    return method


def _context() -> Any:
    """Return metaflow-checkpoint's `ArtifactStoreContext` of this process."""
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
        context,
    )

    return context.datastore_context


def _backend_of(context: Any, backend: Any, artifact: Any) -> Any:
    """Return the datastore that holds `artifact`: `backend`, or else the one in its URL.

    `backend` is tried first, because a datastore may have moved since the URL was recorded.
    """
    url, key = str(artifact.url or ""), str(artifact.key)
    root = url.removesuffix(key).rstrip("/")
    own_root = str(backend.datastore_root).rstrip("/")
    if context.current_context is not None or not url.endswith("/" + key) or root == own_root:
        return backend
    kind = "s3" if root.startswith("s3://") else "local" if os.path.isabs(root) else None
    metadata_key = key.replace("/artifacts/", "/artifact_metadata/", 1) + ".metadata"
    if kind is None or backend.is_file([metadata_key])[0]:
        return backend
    return _backend(context, kind, root) or backend


def _backend(context: Any, kind: str, root: str) -> Any:
    """Return a datastore backend for `root`; None if there is none of that type."""
    type_ = context._runtime_ds_type(kind)
    found = [storage for storage in context.MF_DATASTORES if type_ == storage.TYPE]
    return found[0](root) if found else None
