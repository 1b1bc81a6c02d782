"""The part of a checkpoint's key that names its run: a special tag of the run, or its namespace.

metaflow-checkpoint reads the tags from the run's metadata. Where a task cannot read the
metadata, the tags that Metaflow gave to the task are used. The run may belong to another
namespace than the one that ``--namespace`` chose. The global namespace has no name and gets a
scope of its own; metaflow-checkpoint refuses it.
"""

from __future__ import annotations

import hashlib
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
        tags = Run(f"{current.flow_name}/{current.run_id}", _namespace_check=False).tags
    except MetaflowNotFound:
        tags = current.tags
    return scope_of(tags or (), log)


def scope_of(tags: Iterable[str], log: Callable[[str], None]) -> str:
    """Return the scope that the first special one of `tags` names, else the namespace's."""
    from metaflow import get_namespace
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
        constants,
        core,
    )

    special = sorted(tag for tag in tags if constants.CHECKPOINT_TAG_PREFIX in tag)
    if special:
        log(f"This task stores its checkpoints under the run's tag {special[0]}")
        scope: str = core.ScopeResolver.from_tags(special)
    elif get_namespace() is None:
        scope = hashlib.sha256(b"").hexdigest()[: core.MAX_HASH_LEN]
    else:
        scope = core.ScopeResolver.from_namespace()
    return scope
