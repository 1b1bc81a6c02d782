"""Tokens and keys are in no environment, command line, metadata, card or log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("metaflow.decorators")

from support.metaflow_stores import unpacked
from support.s3 import client_params

if TYPE_CHECKING:
    from hftransfer.testing.s3 import S3Server
    from support.metaflow_flows import FlowRunner, S3Datastore

pytestmark = [pytest.mark.metaflow, pytest.mark.slow, pytest.mark.timeout(240)]

TOKEN = "hf_SECRETsecretSECRETsecret"


@pytest.mark.parametrize("as_dict", [False, True], ids=["callable", "dict"])
def test_credentials_are_in_no_environment_and_in_no_file(
    runner: FlowRunner, minio: S3Server, s3_datastore: S3Datastore, tmp_path: Path, as_dict: bool
) -> None:
    """Neither of a step nor of a process that it starts, though both use them."""
    store = {
        "root": f"s3://{s3_datastore.bucket}/secrets-{as_dict}",
        "client_params": client_params(minio),
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
    keys = s3_datastore.below("")
    assert keys
    for key in keys:
        body = s3_datastore.client.get_object(Bucket=s3_datastore.bucket, Key=key)["Body"].read()
        assert not [secret for secret in hidden if secret in unpacked(body)], key
