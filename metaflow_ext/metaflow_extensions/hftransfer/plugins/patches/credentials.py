"""Credentials of ``@with_artifact_store`` stay out of the environment and of what is stored.

metaflow-checkpoint hands the store's whole configuration to the processes that a step
starts in a variable, from where it gets into every dump of the environment; a
configuration given as a dict is stored with the run's graph besides. Here the variable
keeps type and root. The rest lies in memory of the process that set it, as a file that
processes of the same user open by its name below ``/proc`` while that process lives.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow_extensions.hftransfer.plugins.patches.signatures import takes

# What of a configuration is no secret.
_SHOWN = frozenset(("root", "role_arn"))
_POINTER = "hftransfer"

_file: tuple[int, str] | None = None


def is_known(context: Any, decorator: Any) -> bool:
    """Return True if the two classes are those that this module was written for."""
    return (
        takes(context, "switch_context", ("self", "context"))
        and takes(decorator, "_export_context", ("self",))
        and hasattr(context, "flow_init_context")
    )


def hide_configuration(module: Any, decorator: Any) -> None:
    """Wrap what exports a configuration, and take on one that is hidden already.

    Parameters
    ----------
    module : module
        metaflow-checkpoint's ``datastore.context``.
    decorator : type
        Its ``ArtifactStoreFlowDecorator``.
    """
    context = module.ArtifactStoreContext
    variable: str = module.ARTIFACT_STORE_CONFIG_ENV_VAR
    context.flow_init_context = _hiding(context.flow_init_context, variable)
    decorator._export_context = _unstored(decorator._export_context)
    current = module.datastore_context.current_context
    if isinstance(current, dict) and _POINTER in current:
        module.datastore_context.switch_context(_whole(current))


def _hiding(flow_init_context: Callable[..., Any], variable: str) -> Callable[..., Any]:
    @wraps(flow_init_context)
    def method(self: Any, context: Any) -> Any:
        result = flow_init_context(self, context)
        if context is not None and set(context["config"]) - _SHOWN:
            os.environ[variable] = json.dumps(_shown(context))
        return result

    return method


def _unstored(export: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a configuration out of the decorator's attributes, which Metaflow stores."""

    @wraps(export)
    def method(self: Any) -> Any:
        given = self.attributes["config"]
        if isinstance(given, dict):

            def config() -> dict[str, Any]:
                return dict(given)

            config.__qualname__ = "config"
            self.attributes["config"] = config
        return export(self)

    return method


def _shown(context: dict[str, Any]) -> dict[str, Any]:
    """Return `context` without what may be a secret, and with the place where that is."""
    config = context["config"]
    mark = secrets.token_hex(8)
    place = _keep(json.dumps({"mark": mark, "config": config}).encode())
    shown = {name: value for name, value in config.items() if name in _SHOWN}
    return {"type": context["type"], "config": shown, _POINTER: {"place": place, "mark": mark}}


def _keep(data: bytes) -> str:
    """Return the name of a file with `data` that this user alone can read; the last one only."""
    global _file
    if _file is not None:
        os.close(_file[0])
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("hftransfer-store")
        place = f"/proc/{os.getpid()}/fd/{fd}"
    else:
        fd, place = tempfile.mkstemp(prefix="hftransfer-store-")
    os.write(fd, data)
    _file = (fd, place)
    return place


def _whole(context: dict[str, Any]) -> dict[str, Any]:
    """Return `context` with its whole configuration, if that can still be read."""
    pointer = context[_POINTER]
    try:
        with open(pointer["place"], "rb") as file:
            kept = json.load(file)
        if kept["mark"] != pointer["mark"]:
            raise ValueError("another one")
    except (OSError, ValueError, KeyError, TypeError):
        line = (
            "[hftransfer] The parameters of @with_artifact_store ended with the process that "
            "set them; going on with its root alone"
        )
        print(line, file=sys.stderr)  # noqa: T201 - the log of the task
        kept = context
    return {"type": context["type"], "config": kept["config"]}
