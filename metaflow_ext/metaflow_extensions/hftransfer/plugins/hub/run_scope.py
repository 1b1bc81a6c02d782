"""The part of a checkpoint's key that stands for its run, with and without a metadata service.

A run's special tag, or its namespace. metaflow-checkpoint reads the tags from the run's
metadata; where those lie on another machine, the tags are those that the task was given.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow.exception import MetaflowNotFound


def resolve_scope(log: Callable[[str], None]) -> str:
    """Return the scope of the running task; `log` is told if a tag decides.

    Imported modules of metaflow-checkpoint are needed: called inside of a task only.
    """
    from metaflow import Run, current

    try:
        tags = Run(f"{current.flow_name}/{current.run_id}").tags
    except MetaflowNotFound:
        tags = current.tags
    return scope_of(tags or (), log)


def scope_of(tags: Any, log: Callable[[str], None]) -> str:
    """Return the scope that the first special one of `tags` names, else the namespace's."""
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
        constants,
        core,
    )

    special = sorted(tag for tag in tags if constants.CHECKPOINT_TAG_PREFIX in tag)
    if special:
        log(f"What this task stores is kept under the run's tag {special[0]}")
        scope: str = core.ScopeResolver.from_tags(special)
    else:
        scope = core.ScopeResolver.from_namespace()
    return scope


def without_a_service(resolve: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap ``CheckpointDecorator._resolve_scope``."""

    @wraps(resolve)
    def method(self: Any) -> Any:
        try:
            return resolve(self)
        except MetaflowNotFound:
            from metaflow import current

            def log(line: str) -> None:
                self._logger(f"[@checkpoint] {line}", timestamp=False, bad=True)

            return scope_of(current.tags or (), log)

    return method


def unknown_lineage(trace: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``trace_lineage``, of which a card tells: without metadata there is none to tell."""

    @wraps(trace)
    def function(*arguments: Any, **keywords: Any) -> Any:
        try:
            return trace(*arguments, **keywords)
        except MetaflowNotFound:
            return []

    return function
