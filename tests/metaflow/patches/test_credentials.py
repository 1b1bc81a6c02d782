"""The configuration of ``@with_artifact_store`` in the processes that a step starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

pytestmark = [pytest.mark.metaflow, pytest.mark.slow, pytest.mark.timeout(120)]

PROGRAM = """
import os, subprocess, sys, metaflow
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore import context
store = {"root": "s3://bucket/root", "client_params": {"aws_secret_access_key": "SECRET"}}
name = context.ARTIFACT_STORE_CONFIG_ENV_VAR
if name not in os.environ:
    context.datastore_context.flow_init_context({"type": "s3", "config": store})
    assert context.datastore_context.current_context["config"] == store
    while_alive = subprocess.run([sys.executable, *sys.argv], capture_output=True, text=True)
    print(while_alive.stdout + while_alive.stderr)
    print(os.environ[name])
else:
    print("CONFIG", context.datastore_context.current_context)
"""


def test_a_process_that_outlives_the_credentials_has_the_root_alone(tmp_path: Path) -> None:
    """A child has the credentials until its parent ends; then a line says why it has none."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)

    def run(**environ: str) -> str:
        found = subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, **environ},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr
        return found.stdout + found.stderr

    first = run()
    exported = first.splitlines()[-1]
    late = run(METAFLOW_CHECKPOINT_ARTIFACT_STORE_CONFIG=exported)

    assert "'aws_secret_access_key': 'SECRET'" in first
    assert "SECRET" not in exported
    assert "CONFIG {'type': 's3', 'config': {'root': 's3://bucket/root'}}" in late
    assert "The process that set the parameters of @with_artifact_store has ended" in late
