"""Credentials of ``@with_artifact_store`` stay out of the environment and of stored metadata.

metaflow-checkpoint exports the whole configuration of the store, for the processes that a
step starts, in an environment variable, so that every dump of the environment has it. A
configuration given as a dict is also stored with the graph of the run. With these wrappers
the variable has the type, the root and the role only. The rest is in an anonymous file in
the memory of the process that set the variable. Processes of the same user open it by its
name below ``/proc`` while that process lives.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.task_log import log_line

# The fields of a configuration that hold no credentials.
_PUBLIC = frozenset(("root", "role_arn"))
# The field of an exported context that says where the whole configuration is.
_POINTER = "hftransfer"

_open_file: tuple[int, str] | None = None
"""Descriptor and path of the file with the last exported configuration."""


def hide_configuration(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``ArtifactStoreContext.flow_init_context``, which exports a configuration."""

    @wraps(original)
    def method(self: Any, context: Any) -> Any:
        result = original(self, context)
        if context is not None and set(context["config"]) - _PUBLIC:
            os.environ[_context_module().ARTIFACT_STORE_CONFIG_ENV_VAR] = json.dumps(
                _without_credentials(context)
            )
        return result

    return method


def keep_configuration_out_of_attributes(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``_export_context``: Metaflow stores a decorator's attributes, but no functions."""

    @wraps(original)
    def method(self: Any) -> Any:
        given = self.attributes["config"]
        if isinstance(given, dict):

            def config() -> dict[str, Any]:
                return dict(given)

            config.__qualname__ = "config"
            self.attributes["config"] = config
        return original(self)

    return method


def adopt_hidden_configuration() -> None:
    """Use the whole configuration if this process was given one without credentials."""
    context = _context_module().datastore_context
    current = context.current_context
    if isinstance(current, dict) and _POINTER in current:
        context.switch_context(_with_credentials(current))


def _context_module() -> Any:
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
        context,
    )

    return context


def _without_credentials(context: dict[str, Any]) -> dict[str, Any]:
    """Return `context` without possible credentials, and with the path of the whole."""
    config = context["config"]
    mark = secrets.token_hex(8)
    path = _write_private_file(json.dumps({"mark": mark, "config": config}).encode())
    public = {name: value for name, value in config.items() if name in _PUBLIC}
    return {"type": context["type"], "config": public, _POINTER: {"place": path, "mark": mark}}


def _write_private_file(data: bytes) -> str:
    """Return the path of a file with `data` that only this user can read.

    The file of the previous call is closed, and vanishes if it is an anonymous one.
    """
    global _open_file
    if _open_file is not None:
        os.close(_open_file[0])
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("hftransfer-store")
        path = f"/proc/{os.getpid()}/fd/{fd}"
    else:
        fd, path = tempfile.mkstemp(prefix="hftransfer-store-")
    os.write(fd, data)
    _open_file = (fd, path)
    return path


def _with_credentials(context: dict[str, Any]) -> dict[str, Any]:
    """Return `context` with its whole configuration, if that can still be read."""
    pointer = context[_POINTER]
    try:
        with open(pointer["place"], "rb") as file:
            stored = json.load(file)
        # The process id may have been given to another process since.
        if stored["mark"] != pointer["mark"]:
            raise ValueError("the file has the configuration of another process")
    except (OSError, ValueError, KeyError, TypeError):
        log_line(
            "The process that set the parameters of @with_artifact_store has ended; only the root "
            "of the store is used"
        )
        stored = context
    return {"type": context["type"], "config": stored["config"]}
