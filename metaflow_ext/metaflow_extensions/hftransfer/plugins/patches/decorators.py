"""Wrappers of the hooks that ``@checkpoint`` and ``@model`` share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.requirements import announce_missing_packages


def package_engine(step_init: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``step_init``: the engine is loaded by then, so that Metaflow packages it.

    Metaflow packages for remote tasks the modules that are loaded when the flow starts.
    """

    signature = inspect.signature(step_init)

    @wraps(step_init)
    def method(self: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            import hftransfer  # noqa: F401 - light: it loads its own imports on first use
        except ImportError:
            pass  # metaflow-checkpoint's own code does the work then
        given = signature.bind(self, *arguments, **keywords).arguments
        announce_missing_packages(given.get("flow_datastore"))
        return step_init(self, *arguments, **keywords)

    return method


def remove_unfinished_saves(task_pre_step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``task_pre_step``: remove what killed attempts of the task did not finish saving."""

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
        *rest: Any,
        **keywords: Any,
    ) -> Any:
        from metaflow_extensions.hftransfer.plugins.engine.unfinished_saves import enter_and_clean
        from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
            context,
        )

        given = (step_name, task_datastore, metadata, run_id, task_id, flow, graph)
        result = task_pre_step(self, *given, retry_count, max_user_code_retries, *rest, **keywords)
        enter_and_clean(
            context.datastore_context.get(),
            f"{flow.name}/{run_id}/{step_name}/{task_id}",
            retry_count,
            may_retry=retry_count < max_user_code_retries,
        )
        return result

    return method
