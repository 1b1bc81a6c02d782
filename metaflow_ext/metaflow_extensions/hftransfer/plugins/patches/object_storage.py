"""metaflow-checkpoint's `ObjectStorage` moves whole checkpoints and models with the engine.

Four of its methods move data. Each is wrapped: `artifacts` does the work, and whatever the
engine does not support is left to the wrapped method, with one line in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine
from metaflow_extensions.hftransfer.plugins.engine.task_log import log_once


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
        except UnsupportedByEngine as reason:
            log_once(reason.log_line)
        return original(self, key, local)

    return method
