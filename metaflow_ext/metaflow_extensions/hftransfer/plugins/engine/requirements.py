"""What the engine needs where a task runs, and what is logged where it cannot be used."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Any

from metaflow_extensions.hftransfer.plugins.engine.task_log import log_once

_ALWAYS = ("aiohappyeyeballs", "aiohttp", "anyio", "huggingface_hub", "xxhash")
_FOR_S3 = ("aiobotocore",)


class UnsupportedByEngine(Exception):  # noqa: N818 - a decision, not a failure
    """The engine cannot do this; Metaflow's own code does. The message says why."""

    @property
    def log_line(self) -> str:
        """One line for the log of the task; if packages are missing it says how to get them."""
        line = f"Using the slower transfers of Metaflow's own code ({self})"
        if isinstance(self, MissingPackagesError):
            line += '; to use the engine: pip install "hftransfer[metaflow]"'
        return line


class MissingPackagesError(UnsupportedByEngine):
    """Packages that the engine needs are not installed; the message names them."""


@functools.cache
def missing_packages(*, s3: bool) -> str:
    """Return the names of the missing packages, separated by commas; empty if none is missing."""
    names = ("hftransfer", *_ALWAYS, *(_FOR_S3 if s3 else ()))
    return ", ".join(name for name in names if find_spec(name) is None)


def require_engine(*, s3: bool, flow_on_s3: bool = False) -> None:
    """Check that the packages that the engine needs are installed.

    Parameters
    ----------
    s3 : bool
        True for those that S3 needs as well.
    flow_on_s3 : bool, default False
        True if other transfers of the flow use S3: the error then names what these lack, too,
        so that one line of the log has all.

    Raises
    ------
    MissingPackagesError
        If any is missing.
    """
    if missing_packages(s3=s3):
        missing = missing_packages(s3=s3 or flow_on_s3)
        raise MissingPackagesError(f"missing packages: {missing}")


def announce_missing_packages(flow_datastore: Any) -> None:
    """Log once per run which packages are missing where the flow is started.

    Its local tasks find the same, and log nothing then.

    Parameters
    ----------
    flow_datastore : FlowDataStore
        What Metaflow gives to ``step_init``.
    """
    kind = getattr(flow_datastore, "TYPE", None)
    if kind in ("local", "s3", "spin") and (missing := missing_packages(s3=kind == "s3")):
        log_once(MissingPackagesError(f"missing packages: {missing}").log_line)
