"""Pods of ``--with kubernetes`` as processes of this machine: environments for them."""

from __future__ import annotations

import os
import site
from pathlib import Path

__all__ = ("in_pods", "interpreter")

PODS = Path(__file__).resolve().parents[1] / "metaflow" / "pods"
# The packages that Metaflow installs into every task, and their dependencies.
BARE = (
    *("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six.py", "urllib3"),
    *("requests", "certifi", "idna", "charset_normalizer"),
)


def interpreter(folder: Path, *, bare: bool) -> Path:
    """Make an environment without Metaflow and without hftransfer; return its bin folder."""
    import venv

    venv.create(folder / "venv", symlinks=True)
    packages = folder / "packages"
    packages.mkdir()
    for place in map(Path, site.getsitepackages()):
        for item in place.iterdir():
            ours = item.name.startswith(("metaflow", "hftransfer", "__editable__"))
            if (item.name in BARE) if bare else not ours:
                (packages / item.name).symlink_to(item)
    (own,) = (folder / "venv").glob("lib/python*/site-packages")
    (own / "packages.pth").write_text(f"{packages}\n")
    return folder / "venv" / "bin"


def in_pods(bin_folder: Path) -> dict[str, str]:
    """Return the variables with which a flow's pods run as processes, with these commands."""
    return {
        "METAFLOW_KUBERNETES_CONTAINER_IMAGE": "image",
        "POD_PATH": f"{bin_folder}:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PODS), os.environ.get("PYTHONPATH", "")))),
    }
