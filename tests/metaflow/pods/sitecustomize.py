"""Runs the pods of ``--with kubernetes`` as processes of this machine, without a cluster.

Metaflow builds its real command: it downloads the code package from S3, unpacks it, and
runs the step in an empty folder with the interpreter that POD_PATH names first.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_MODULE = "metaflow.plugins.kubernetes.kubernetes"
_PASSED = ("METAFLOW_", "AWS_", "HF_", "HFTRANSFER_", "NO_PROXY", "no_proxy", "PROBE")
_POD = (
    *("POD_NAME", "POD_NAMESPACE", "POD_ID", "SERVICE_ACCOUNT_NAME", "NODE_IP", "NODE_NAME"),
    *("JOBSET_RESTART_ATTEMPT", "CLUSTER"),
)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            module.Kubernetes.launch_job = _launch_job
            module.Kubernetes.wait = _wait

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _launch_job(self: Any, **job: Any) -> None:
    command = self._command(
        flow_name=job["flow_name"],
        run_id=job["run_id"],
        step_name=job["step_name"],
        task_id=job["task_id"],
        attempt=job["attempt"],
        code_package_metadata=job["code_package_metadata"],
        code_package_url=job["code_package_url"],
        step_cmds=[job["step_cli"]],
    )
    home = tempfile.mkdtemp(prefix="pod-")
    environ = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
    environ |= {name: str(value) for name, value in (job.get("env") or {}).items()}
    environ |= {f"METAFLOW_KUBERNETES_{name}": "pod" for name in _POD}
    environ |= {
        "HOME": home,
        "TMPDIR": home,
        "PATH": os.environ["POD_PATH"],
        "METAFLOW_CODE_DS": job["code_package_ds"],
        "METAFLOW_CODE_METADATA": job["code_package_metadata"],
        "METAFLOW_CODE_SHA": job["code_package_sha"],
        "METAFLOW_CODE_URL": job["code_package_url"],
        "METAFLOW_KUBERNETES_WORKLOAD": "1",
        "METAFLOW_RUNTIME_ENVIRONMENT": "kubernetes",
        "METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1",
        "PYTHONNOUSERSITE": "1",
    }
    if "POD_WITHOUT_METADATA" in os.environ:
        environ["METAFLOW_DATASTORE_SYSROOT_LOCAL"] = home
    self._pod = subprocess.run(
        command,
        cwd=home,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _wait(self: Any, *arguments: Any, **keywords: Any) -> None:
    print(self._pod.stdout)  # noqa: T201 - read by the test
    if self._pod.returncode:
        sys.exit(self._pod.returncode)


if "POD_PATH" in os.environ:
    import importlib.util

    sys.meta_path.insert(0, _Finder())
