"""Checkpoints and models go to the datastore of the flow, also when that is not the default.

metaflow-checkpoint asks the configuration for the datastore, so that ``--datastore`` and
``--datastore-root`` hold for artifacts alone. Here the running flow decides, for the
processes that a step starts, too. References are loaded from where they were stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.flow_env import remembered_datastore
from metaflow_extensions.hftransfer.plugins.patches.signatures import takes

_METHODS = {
    "default": ("self",),
    "get": ("self",),
    "_runtime_ds_type": ("self", "ds_type"),
}


def is_known(context: Any) -> bool:
    """Return True if `context` is the class that this module was written for."""
    return all(takes(context, name, parameters) for name, parameters in _METHODS.items())


def follow_the_flow() -> None:
    """Have metaflow-checkpoint's classes ask for the flow's datastore."""
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities import (
        datastructures,
    )
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
        core,
    )
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
        context as module,
    )

    context = module.datastore_context
    module.ArtifactStoreContext.default = _of_the_flow(module.ArtifactStoreContext.default)
    if takes(core.ReadResolver, "from_checkpoint", ("checkpoint",)):
        core.ReadResolver.from_checkpoint = _from_checkpoint(context, core)
    for artifact in (datastructures.ModelArtifact, datastructures.CheckpointArtifact):
        if takes(artifact, "_load", ("self", "storage_backend", "local_path")):
            artifact._load = _where_it_is(artifact._load, context)
    if takes(core, "resolve_task_storage_backend", ("pathspec",)):
        resolve = core.resolve_task_storage_backend
        core.resolve_task_storage_backend = _of_the_task(resolve, context)


def _of_the_flow(default: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @wraps(default)
    def method(self: Any) -> Any:
        found = remembered_datastore()
        return (None if found is None else _backend(self, *found)) or default(self)

    return method


def _of_the_task(
    resolve: Callable[..., tuple[Any, Any]], context: Any
) -> Callable[..., tuple[Any, Any]]:
    @wraps(resolve)
    def function(pathspec: Any = None) -> tuple[Any, Any]:
        validation, backend = resolve(pathspec=pathspec)
        if context.current_context is not None or not validation.is_valid:
            return validation, backend
        from metaflow import Task

        task = Task(pathspec) if isinstance(pathspec, str) else pathspec
        recorded = task.metadata_dict
        if "ds-type" in recorded and "ds-root" in recorded:
            backend = _backend(context, recorded["ds-type"], recorded["ds-root"]) or backend
        return validation, backend

    return function


def _from_checkpoint(context: Any, core: Any) -> Any:
    def from_checkpoint(checkpoint: Any) -> Any:
        backend = _holder(context, context.get(), checkpoint)
        return core.CheckpointDatastore.init_read_store(backend, checkpoint_key=checkpoint.key)

    return staticmethod(from_checkpoint)


def _where_it_is(load: Callable[..., Any], context: Any) -> Callable[..., Any]:
    @wraps(load)
    def method(self: Any, storage_backend: Any, local_path: str) -> Any:
        return load(self, _holder(context, storage_backend, self), local_path)

    return method


def _holder(context: Any, backend: Any, artifact: Any) -> Any:
    """Return the datastore that has `artifact`: `backend`, or else the one that its URL names.

    A datastore may have been moved since the URL was recorded, so `backend` comes first.
    """
    url, key = str(artifact.url or ""), str(artifact.key)
    root = url.removesuffix(key).rstrip("/")
    own = str(backend.datastore_root).rstrip("/")
    if context.current_context is not None or not url.endswith("/" + key) or root == own:
        return backend
    kind = "s3" if root.startswith("s3://") else "local" if os.path.isabs(root) else None
    described = key.replace("/artifacts/", "/artifact_metadata/", 1) + ".metadata"
    if kind is None or backend.is_file([described])[0]:
        return backend
    return _backend(context, kind, root) or backend


def _backend(context: Any, kind: str, root: str) -> Any:
    wanted = context._runtime_ds_type(kind)
    found = [storage for storage in context.MF_DATASTORES if wanted == storage.TYPE]
    return found[0](root) if found else None
