"""Pods of ``--with kubernetes`` as processes of this machine: environments for them."""

from __future__ import annotations

import os
from pathlib import Path

from support.environments import linked_environment

__all__ = ("in_pods", "interpreter")

PODS = Path(__file__).resolve().parents[1] / "metaflow" / "pods"
# The packages that Metaflow installs into every task, and their dependencies.
BARE = (
    *("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six.py", "urllib3"),
    *("requests", "certifi", "idna", "charset_normalizer"),
)
_OURS = ("metaflow", "hftransfer", "__editable__")


def interpreter(folder: Path, *, bare: bool) -> Path:
    """Make an environment without Metaflow and without hftransfer; return its bin folder."""

    def is_included(name: str) -> bool:
        return name in BARE if bare else not name.startswith(_OURS)

    return linked_environment(folder, is_included)


def in_pods(bin_folder: Path) -> dict[str, str]:
    """Return the variables with which a flow's pods run as processes, with these commands."""
    return {
        "METAFLOW_KUBERNETES_CONTAINER_IMAGE": "image",
        "POD_PATH": f"{bin_folder}:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PODS), os.environ.get("PYTHONPATH", "")))),
    }
