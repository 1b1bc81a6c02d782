"""No token and no key is where others look: environments, command lines, metadata, cards, logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("metaflow.decorators")

from support.metaflow_stores import unpacked

if TYPE_CHECKING:
    from hftransfer.testing.s3 import S3Server
    from metaflow.conftest import FlowRunner, S3Datastore

pytestmark = [pytest.mark.metaflow, pytest.mark.slow, pytest.mark.timeout(240)]

TOKEN = "hf_SECRETsecretSECRETsecret"


@pytest.mark.parametrize("as_dict", [False, True], ids=["callable", "dict"])
def test_credentials_are_in_no_environment_and_in_no_file(
    runner: FlowRunner, minio: S3Server, s3_datastore: S3Datastore, tmp_path: Path, as_dict: bool
) -> None:
    """Neither of a step nor of the process that it starts, which uses them all the same."""
    store = {
        "root": f"s3://{s3_datastore.bucket}/secrets-{as_dict}",
        "client_params": {
            "endpoint_url": minio.endpoint,
            "region_name": minio.region,
            "aws_access_key_id": minio.access_key,
            "aws_secret_access_key": minio.secret_key,
        },
    }
    secrets = tmp_path / "given.json"
    secrets.write_text(json.dumps({"store": store, "token": TOKEN, "as_dict": as_dict}))
    dumps = tmp_path / "dumps"
    dumps.mkdir()

    run = runner.run("secrets_flow.py", environ={"SECRETS_FILE": str(secrets), "DUMPS": str(dumps)})

    assert run.probe == {"names": ["child", "own"]}
    hidden = [TOKEN.encode(), minio.secret_key.encode()]
    assert sorted(file.name for file in dumps.iterdir()) == ["child", "end", "start"]
    assert b"METAFLOW_CHECKPOINT_ARTIFACT_STORE_CONFIG" in (dumps / "end").read_bytes()
    assert not [secret for secret in hidden if secret in run.output.encode()]
    files = [file for file in runner.work.rglob("*") if file.is_file() and file != secrets]
    assert [file for file in files if "/mf.cards/" in str(file)]
    assert [file for file in files if "/_meta/" in str(file)]
    for file in files:
        data = unpacked(file.read_bytes())
        assert not [secret for secret in hidden if secret in data], file
    for key in s3_datastore.below(""):
        body = s3_datastore.client.get_object(Bucket=s3_datastore.bucket, Key=key)["Body"].read()
        assert not [secret for secret in hidden if secret in unpacked(body)], key


def test_parameters_that_are_gone_are_told_of(tmp_path: Path) -> None:
    """A process that outlives the one with the parameters has the store's root, and says so."""
    program = """
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
    script = tmp_path / "program.py"
    script.write_text(program)

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
    assert "ended with the process that set them" in late
