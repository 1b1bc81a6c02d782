"""The code package of a flow has what runs of the engine, and no compiled or testing files.

``METAFLOW_PACKAGE_POLICY`` of the package ``hftransfer`` makes Metaflow add the whole
installed distribution, also the files that pip compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

_ENGINE = "hftransfer"
_UNUSED = frozenset(("__pycache__", "testing"))
"""Folders that no task needs; Python compiles the modules for the task's own release."""


def without_unused_modules(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``_module_files``, which yields the path and the packaged name of each file."""

    @wraps(original)
    def method(self: Any, name: str, paths: Any) -> Iterator[tuple[str, str]]:
        for path, packaged in original(self, name, paths):
            if name != _ENGINE or not _is_unused(packaged):
                yield path, packaged

    return method


def without_compiled_files(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``_metaflow_extension_files``: the compiled files of this extension stay out."""

    @wraps(original)
    def method(self: Any) -> Iterator[tuple[str, str]]:
        for path, packaged in original(self):
            parts = packaged.split(os.sep)
            if _ENGINE not in parts or "__pycache__" not in parts:
                yield path, packaged

    return method


def _is_unused(packaged: str) -> bool:
    return not _UNUSED.isdisjoint(packaged.split(os.sep))
