"""metaflow-checkpoint's other decorators, with what their users need to go with the engine.

`adapt` is called once, after `storage_hooks` has found the release to be a known one. Each
part checks what it wraps, and leaves alone what it does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.flow_env import remember_datastore
from metaflow_extensions.hftransfer.plugins.hub.run_scope import unknown_lineage, without_a_service
from metaflow_extensions.hftransfer.plugins.patches import credentials, flow_datastore
from metaflow_extensions.hftransfer.plugins.patches.card_threads import shorten
from metaflow_extensions.hftransfer.plugins.patches.inline_cards import noting


def adapt() -> None:
    """Adapt ``@checkpoint``, ``@model`` and ``@with_artifact_store``."""
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
        decorator as checkpoints,
    )
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
        context,
    )
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
        decorator as stores,
    )
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.modeling_utils import (
        decorator as models,
    )

    for decorator in (checkpoints.CheckpointDecorator, models.ModelDecorator):
        decorator.step_init = _prepared(decorator.step_init)
        decorator.task_pre_step = noting(decorator.task_pre_step)
    for module, name in ((checkpoints, "CheckpointsCollector"), (models, "ModelsCollector")):
        if hasattr(module, name):
            shorten(getattr(module, name))
    _wrap(models.ModelDecorator, "task_pre_step", _cleaning)
    _wrap(checkpoints.CheckpointDecorator, "_resolve_scope", without_a_service)
    _wrap(checkpoints, "trace_lineage", unknown_lineage)
    holder, flow = context.ArtifactStoreContext, stores.ArtifactStoreFlowDecorator
    if credentials.is_known(holder, flow):
        credentials.hide_configuration(context, flow)
    if flow_datastore.is_known(holder):
        flow_datastore.follow_the_flow()


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    if hasattr(owner, name):
        setattr(owner, name, wrapper(getattr(owner, name)))


def _prepared(step_init: Callable[..., Any]) -> Callable[..., Any]:
    """Have the engine travel with the flow, and the flow's datastore known.

    Metaflow packages for remote tasks what is loaded when the flow starts.
    """

    @wraps(step_init)
    def method(self: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            import hftransfer  # noqa: F401 - light; the engine's own imports come with its use
        except ImportError:
            pass  # then their own code does the work
        # flow, graph, step_name, decorators, environment, flow_datastore, logger
        datastore = keywords.get("flow_datastore") or (arguments[5] if len(arguments) > 5 else None)
        if datastore is not None:
            remember_datastore(datastore)
        return step_init(self, *arguments, **keywords)

    return method


def _cleaning(task_pre_step: Callable[..., Any]) -> Callable[..., Any]:
    """Have a task of ``@model`` remove what its killed attempts did not finish to save."""

    @wraps(task_pre_step)
    def method(
        self: Any,
        step_name: str,
        task_datastore: Any,
        metadata: Any,
        run_id: str,
        task_id: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
        *others: Any,
        **named: Any,
    ) -> Any:
        from metaflow_extensions.hftransfer.plugins.engine.unfinished_saves import enter_and_clean
        from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
            context,
        )

        given = (step_name, task_datastore, metadata, run_id, task_id, flow, graph)
        result = task_pre_step(self, *given, retry_count, max_user_code_retries, *others, **named)
        enter_and_clean(
            context.datastore_context.get(),
            f"{flow.name}/{run_id}/{step_name}/{task_id}",
            retry_count,
            may_retry=retry_count < max_user_code_retries,
        )
        return result

    return method
