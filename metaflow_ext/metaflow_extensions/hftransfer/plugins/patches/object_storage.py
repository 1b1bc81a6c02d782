"""metaflow-checkpoint's `ObjectStorage` moves whole checkpoints and models with the engine.

Four of its methods move data. Each is wrapped: `artifacts` does the work, and whatever the
engine does not support is left to the wrapped method, with one line in the log.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.s3_settings import NotForEngine

_logged: set[str] = set()
"""Reasons that this process has logged."""


def save_objects(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``_save_objects``."""
    return _with_engine(original, "save_objects")


def save_tarball(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``_save_tarball``."""
    return _with_engine(original, "save_tarball")


def load_objects(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``_load_objects``; files that metaflow-checkpoint loads are checked afterwards."""

    def load_and_check(self: Any, key: str, local_directory: str) -> Any:
        from metaflow_extensions.hftransfer.plugins.patches.artifacts import check_loaded

        result = original(self, key, local_directory)
        check_loaded(self, key, local_directory)
        return result

    return _with_engine(wraps(original)(load_and_check), "load_objects")


def load_tarball(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``_load_tarball``."""
    return _with_engine(original, "load_tarball")


def _with_engine(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a method that calls `artifacts`' function `name`, and `original` as the fallback."""

    @wraps(original)
    def method(self: Any, key: str, *arguments: Any, **keywords: Any) -> Any:
        # Imported on first use: `import metaflow` must stay fast.
        from metaflow_extensions.hftransfer.plugins.patches import artifacts

        # The third parameter is `local_path` or `local_directory`, by position or by name.
        local = arguments[0] if arguments else next(iter(keywords.values()))
        try:
            return getattr(artifacts, name)(self, key, local)
        except NotForEngine as reason:
            _log_fallback(str(reason))
        return original(self, key, local)

    return method


def _log_fallback(reason: str) -> None:
    """Log once per reason that Metaflow's slower code is used, and how to change that."""
    if reason not in _logged:
        _logged.add(reason)
        cure = ""
        if reason.startswith("missing packages"):
            cure = '; get the fast way with: pip install "hftransfer[metaflow]"'
        line = f"[hftransfer] Slower transfers by Metaflow's own code ({reason}){cure}"
        print(line, file=sys.stderr)  # noqa: T201 - the log of the task
