"""The S3 scenarios from end to end, small: on a MinIO of their own, and in an operator's bucket."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perf.cli import main
from perf.report.results import read_documents
from support.s3 import Bucket, s3_client

ROOT = Path(__file__).parents[3]
MINIO = pytest.mark.parametrize("s3_server", ["minio"], indirect=True)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perf", "run", *arguments, "--json", str(folder / "runs.json")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("minio")
@pytest.mark.parametrize("scenario", ["s3-get-large", "s3-get-small", "s3-put-large", "hub-to-s3"])
def test_a_scaled_run_on_a_minio_of_its_own(tmp_path: Path, scenario: str) -> None:
    """Ours and what has no peer's environment run, are right, and leave nothing behind."""
    tools = ["half-download", "half-upload"] if scenario == "hub-to-s3" else ["limit"]
    done = run(tmp_path, scenario, "--scale", "0.01", "--runs", "1", "--tool", "hftransfer", *tools)

    assert done.returncode == 0, done.stderr
    (document,) = read_documents([tmp_path / "runs.json"])
    assert [each.tool for each in document.runs] == ["hftransfer", *tools]
    assert all(each.ok and each.wall_s > 0 for each in document.runs)
    assert [path.name for path in tmp_path.iterdir()] == ["runs.json"]


@pytest.mark.slow
@pytest.mark.timeout(240)
@MINIO
def test_an_operators_bucket_is_left_as_it_was(bucket: Bucket, tmp_path: Path) -> None:
    """Everything happens below one prefix, which is gone at the end; what was there stays."""
    client = s3_client(bucket.server)
    client.put_object(Bucket=bucket.name, Key="theirs", Body=b"x")
    done = run(
        tmp_path, "s3-get-small", "s3-put-large", "--scale", "0.01", "--runs", "1",
        "--tool", "hftransfer", "limit",
        "--endpoint-url", bucket.server.endpoint, "--bucket", bucket.name,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    listed = client.list_objects_v2(Bucket=bucket.name)["Contents"]
    assert [each["Key"] for each in listed] == ["theirs"]
    assert not client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")


def test_an_endpoint_needs_a_bucket(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written into a store without being told where."""
    assert main(["run", "s3-get-small", "--endpoint-url", "http://127.0.0.1:9"]) == 2
    assert "--endpoint-url needs --bucket" in capsys.readouterr().err
