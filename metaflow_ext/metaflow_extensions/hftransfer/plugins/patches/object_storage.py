"""Has metaflow-checkpoint move whole checkpoints and models through the engine.

Its `ObjectStorage` has four methods that move data; `install` wraps them, after checking
that they are the ones that were written for. Whatever the engine does not handle goes on
to the wrapped method, with one line in the log.

Imported on every ``import metaflow``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.s3_settings import NotForEngine
from metaflow_extensions.hftransfer.plugins.patches.decorators import adapt
from metaflow_extensions.hftransfer.plugins.patches.signatures import parameters_of

# Minor releases whose ObjectStorage is known.
_VERSIONS = ("0.2.",)
_METHODS = {
    "_save_objects": ("self", "key", "local_path"),
    "_save_tarball": ("self", "key", "local_path"),
    "_load_objects": ("self", "key", "local_directory"),
    "_load_tarball": ("self", "key", "local_path"),
}
_ATTRIBUTES = ("resolve_key_full_url", "resolve_key_relative_path")
_MARK = "_hftransfer_original"

_told: set[str] = set()


def install() -> str:
    """Wrap the methods, once; return why it was not done, or an empty text."""
    try:
        from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import (
            core,
        )
        from metaflow_extensions.obcheckpoint.toplevel.version import package_version
    except ImportError as error:
        return f"metaflow-checkpoint cannot be imported: {error}"
    storage = core.ObjectStorage
    if hasattr(storage._load_objects, _MARK):
        return ""
    if unknown := unknown_interface(storage, str(package_version)):
        return unknown
    for name in _METHODS:
        setattr(storage, name, _wrapped(name, getattr(storage, name)))
    adapt()
    return ""


def unknown_interface(storage: Any, version: str) -> str:
    """Return how `storage` differs from the class that this module was written for."""
    if not version.startswith(_VERSIONS):
        return f"metaflow-checkpoint {version} is not known"
    for name, parameters in _METHODS.items():
        method = getattr(storage, name, None)
        if method is None:
            return f"ObjectStorage.{name} is missing"
        if parameters_of(method) != parameters:
            return f"ObjectStorage.{name} has other parameters"
    missing = [name for name in _ATTRIBUTES if not hasattr(storage, name)]
    return f"ObjectStorage.{missing[0]} is missing" if missing else ""


def _wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def method(self: Any, key: str, *arguments: Any, **keywords: Any) -> Any:
        from metaflow_extensions.hftransfer.plugins.patches import artifacts

        handler = getattr(artifacts, name.lstrip("_"))
        local = arguments[0] if arguments else next(iter(keywords.values()))
        try:
            return handler(self, key, local)
        except NotForEngine as reason:
            _tell(str(reason))
        result = original(self, key, local)
        if name == "_load_objects":
            artifacts.check_loaded(self, key, local)
        return result

    setattr(method, _MARK, original)
    return method


def _tell(reason: str) -> None:
    """Say once that the slower way is taken, and how to get the faster one."""
    if reason not in _told:
        _told.add(reason)
        cure = ""
        if reason.startswith("missing packages"):
            cure = '; get the fast way with: pip install "hftransfer[metaflow]"'
        line = f"[hftransfer] Slower transfers by Metaflow's own code ({reason}){cure}"
        print(line, file=sys.stderr)  # noqa: T201 - the log of the task
