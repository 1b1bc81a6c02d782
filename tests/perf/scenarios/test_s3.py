"""The S3 scenarios from end to end, at a small scale: on a new server and in an existing bucket."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.report.results import read_results
from support.perf import run_perf
from support.s3 import Bucket, s3_client

pytestmark = [pytest.mark.slow, pytest.mark.extended, pytest.mark.timeout(240)]


@pytest.mark.usefixtures("minio")
@pytest.mark.parametrize("scenario", ["s3-get-large", "s3-get-small", "s3-put-large", "hub-to-s3"])
def test_a_scaled_run_on_a_new_server(tmp_path: Path, scenario: str) -> None:
    """The tools that need no environment of a peer succeed, and no file remains."""
    tools = ["half-download", "half-upload"] if scenario == "hub-to-s3" else ["limit"]
    path = tmp_path / "runs.json"
    done = run_perf(
        "run", scenario, "--scale", "0.01", "--runs", "1", "--json", str(path),
        "--tool", "hftransfer", *tools, cwd=tmp_path, timeout=200,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    (result,) = read_results([path])
    assert [each.tool for each in result.runs] == ["hftransfer", *tools]
    assert all(each.ok and each.wall_s > 0 for each in result.runs)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
def test_an_existing_bucket_is_left_unchanged(bucket: Bucket, tmp_path: Path) -> None:
    """All objects are below one prefix, which is deleted; other objects are kept."""
    client = s3_client(bucket.server)
    client.put_object(Bucket=bucket.name, Key="theirs", Body=b"x")
    done = run_perf(
        "run", "s3-get-small", "s3-put-large", "--scale", "0.01", "--runs", "1",
        "--json", str(tmp_path / "runs.json"), "--tool", "hftransfer", "limit",
        "--endpoint-url", bucket.server.endpoint, "--bucket", bucket.name,
        cwd=tmp_path, timeout=200,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    listed = client.list_objects_v2(Bucket=bucket.name)["Contents"]
    assert [each["Key"] for each in listed] == ["theirs"]
    assert not client.list_multipart_uploads(Bucket=bucket.name).get("Uploads")
