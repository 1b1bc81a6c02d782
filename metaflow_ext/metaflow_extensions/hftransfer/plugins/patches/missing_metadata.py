"""``@checkpoint`` in a task that cannot read the metadata of its own run.

With METAFLOW_DEFAULT_METADATA=local the metadata is on the machine that started the run. With
``--namespace`` the run may be in another namespace than the one in which the task looks, and
the global namespace has no name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow.exception import MetaflowNamespaceMismatch, MetaflowNotFound

from metaflow_extensions.hftransfer.plugins.hub.run_scope import scope_of


def resolve_scope(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap ``CheckpointDecorator._resolve_scope``: use the tags that the task was given."""

    @wraps(original)
    def method(self: Any) -> Any:
        from metaflow import current, get_namespace

        try:
            if get_namespace() is not None:
                return original(self)
            raise MetaflowNotFound("the global namespace has no name")
        except (MetaflowNamespaceMismatch, MetaflowNotFound):

            def log(line: str) -> None:
                self._logger(f"[@checkpoint] {line}", timestamp=False, bad=True)

            return scope_of(current.tags or (), log)

    return method


def trace_lineage(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``trace_lineage``, whose result the card shows: without metadata it is empty."""

    @wraps(original)
    def function(*arguments: Any, **keywords: Any) -> Any:
        try:
            return original(*arguments, **keywords)
        except (MetaflowNamespaceMismatch, MetaflowNotFound):
            return []

    return function
