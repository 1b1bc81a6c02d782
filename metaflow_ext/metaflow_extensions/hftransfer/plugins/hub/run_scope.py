"""The part of a checkpoint's key that names its run: a special tag of the run, or its namespace.

metaflow-checkpoint reads the tags from the run's metadata. Where a task cannot read the
metadata, the tags that Metaflow gave to the task are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from metaflow.exception import MetaflowNotFound


def resolve_scope(log: Callable[[str], None]) -> str:
    """Return the scope of the running task.

    Called in a task only, because it imports metaflow-checkpoint.

    Parameters
    ----------
    log : callable
        Takes one line, which says which tag decides if one does.
    """
    from metaflow import Run, current

    tags: Any
    try:
        tags = Run(f"{current.flow_name}/{current.run_id}").tags
    except MetaflowNotFound:
        tags = current.tags
    return scope_of(tags or (), log)


def scope_of(tags: Iterable[str], log: Callable[[str], None]) -> str:
    """Return the scope that the first special one of `tags` names, else the namespace's."""
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
        constants,
        core,
    )

    special = sorted(tag for tag in tags if constants.CHECKPOINT_TAG_PREFIX in tag)
    if special:
        log(f"This task stores its checkpoints under the run's tag {special[0]}")
        scope: str = core.ScopeResolver.from_tags(special)
    else:
        scope = core.ScopeResolver.from_namespace()
    return scope
