"""The S3 servers of `hftransfer.testing.s3`: start, use, stop, and after the owner was killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hftransfer.testing import s3
from hftransfer.testing.s3 import S3Server, ServerNotFoundError, ServerStartError
from support.s3 import Bucket, s3_client

_STARTERS = {"minio": s3.start_minio, "seaweedfs": s3.start_seaweedfs}


def _skip_without_binary(name: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(name)  # the fixture of the server skips, or fails in CI


@pytest.mark.s3
def test_a_stored_object_is_read_in_ranges(bucket: Bucket) -> None:
    """A plain S3 client stores an object and gets the requested range of it."""
    client = s3_client(bucket.server)
    client.put_object(Bucket=bucket.name, Key="a/b", Body=b"0123456789")

    response = client.get_object(Bucket=bucket.name, Key="a/b", Range="bytes=2-4")

    assert response["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert response["ContentRange"] == "bytes 2-4/10"
    assert response["Body"].read() == b"234"


@pytest.mark.s3
def test_a_multipart_upload_is_completed(bucket: Bucket) -> None:
    """The object has its parts in order, although they were uploaded in reverse."""
    client = s3_client(bucket.server)
    parts = {1: b"a" * (5 << 20), 2: b"b" * 17}
    upload = client.create_multipart_upload(Bucket=bucket.name, Key="m")["UploadId"]
    etags = {}
    for number in (2, 1):
        response = client.upload_part(
            Bucket=bucket.name, Key="m", UploadId=upload, PartNumber=number, Body=parts[number]
        )
        etags[number] = response["ETag"]
    client.complete_multipart_upload(
        Bucket=bucket.name,
        Key="m",
        UploadId=upload,
        MultipartUpload={
            "Parts": [{"PartNumber": number, "ETag": etags[number]} for number in (1, 2)]
        },
    )

    assert client.get_object(Bucket=bucket.name, Key="m")["Body"].read() == parts[1] + parts[2]


@pytest.mark.s3
def test_a_missing_bucket_is_an_error(s3_server: S3Server) -> None:
    """No server creates a bucket on the first write."""
    with pytest.raises(ClientError) as caught:
        s3_client(s3_server).put_object(Bucket="never-created", Key="k", Body=b"")

    assert caught.value.response["Error"]["Code"] == "NoSuchBucket"


@pytest.mark.s3
def test_a_wrong_secret_key_is_rejected(bucket: Bucket) -> None:
    """Signatures are verified, so that tests with wrong credentials are meaningful."""
    unauthorized = replace(bucket.server, secret_key="not the key")

    with pytest.raises(ClientError) as caught:
        s3_client(unauthorized).list_objects_v2(Bucket=bucket.name)

    assert caught.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


@pytest.mark.s3
def test_client_environ_is_sufficient(bucket: Bucket) -> None:
    """An AWS client without other configuration uses the server."""
    import botocore.session

    client: Any = botocore.session.Session().create_client("s3")

    assert client.list_objects_v2(Bucket=bucket.name)["KeyCount"] == 0


@pytest.mark.s3
def test_the_secret_key_is_not_in_the_repr(s3_server: S3Server) -> None:
    """The repr of a server may be logged."""
    assert s3_server.secret_key not in repr(s3_server)


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.parametrize("name", _STARTERS)
def test_close_stops_the_server_and_keeps_a_given_root(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """After `close` the port is closed; a given root keeps its data. Closing is idempotent."""
    _skip_without_binary(name, request)
    with _STARTERS[name](tmp_path) as server:
        s3_client(server).create_bucket(Bucket="kept")
    server.close()

    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.endpoint)  # noqa: S310 - http, on loopback
    with _STARTERS[name](tmp_path) as again:
        buckets = s3_client(again).list_buckets()["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == ["kept"]


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.parametrize("name", _STARTERS)
def test_killing_the_owner_stops_the_server_and_removes_its_folder(
    name: str, request: pytest.FixtureRequest
) -> None:
    """After SIGKILL of the process that started it, server and temporary root are gone."""
    _skip_without_binary(name, request)
    script = (
        "import os, signal\n"
        f"from hftransfer.testing.s3 import start_{name} as start\n"
        "server = start()\n"
        "print(server.root, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The server and its watchdog inherit the write end; the pipe is closed when both have ended.
    alive, write_end = os.pipe()
    try:
        owner = subprocess.Popen(
            [sys.executable, "-c", _INHERITING.format(fd=write_end) + script],
            stdout=subprocess.PIPE,
            pass_fds=[write_end],
            text=True,
        )
        os.close(write_end)
        root, _ = owner.communicate(timeout=50)
        select.select([alive], [], [])

        assert owner.returncode == -signal.SIGKILL
        assert os.read(alive, 1) == b""
        assert root.strip()
        assert not Path(root.strip()).exists()
    finally:
        os.close(alive)


# Every child of the script inherits the descriptor `fd`, which `close_fds` would close.
_INHERITING = """
import functools, subprocess
subprocess.Popen.__init__ = functools.partialmethod(subprocess.Popen.__init__, pass_fds=[{fd}])
"""


def test_a_server_that_cannot_start_quotes_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the end of the server's log."""
    broken = tmp_path / "minio"
    broken.write_text("#!/bin/sh\necho the disk is full >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("HFTRANSFER_MINIO", str(broken))

    with pytest.raises(ServerStartError, match=r"status 3 (?s:.)*the disk is full"):
        s3.start_minio(tmp_path / "root")


def test_a_wrong_path_to_minio_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong HFTRANSFER_MINIO is an error; MinIO is not built instead."""
    monkeypatch.setenv("HFTRANSFER_MINIO", str(tmp_path / "nowhere"))

    with pytest.raises(ServerNotFoundError, match=r"HFTRANSFER_MINIO=.*nowhere"):
        s3.find_minio()


class TestEnsureMinio:
    """The build, with a `go` script that records its arguments."""

    @pytest.fixture(autouse=True)
    def _nothing_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HFTRANSFER_MINIO", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        (tmp_path / "bin").mkdir()

    @staticmethod
    def _install_go(tmp_path: Path, script: str) -> None:
        go = tmp_path / "bin" / "go"
        go.write_text(f"#!/bin/sh\n{script}\n")
        go.chmod(0o755)

    def test_without_go_the_error_says_what_to_do(self) -> None:
        """Without MinIO and Go, the error lists the three possible remedies."""
        assert s3.find_minio() is None
        with pytest.raises(ServerNotFoundError, match=r"HFTRANSFER_MINIO.*PATH.*install Go"):
            s3.ensure_minio()

    def test_the_pinned_version_is_built_once_into_the_cache(self, tmp_path: Path) -> None:
        """The second call finds the binary of the first; only the first logs."""
        self._install_go(
            tmp_path,
            f'echo "$@" >> {tmp_path}/calls\n'
            '[ "$1" = install ] && : > "$GOBIN/minio" && /bin/chmod +x "$GOBIN/minio"',
        )
        lines: list[str] = []

        built = s3.ensure_minio(lines.append)
        found = s3.ensure_minio(lines.append)

        assert built == found == s3.find_minio()
        assert built.parent == tmp_path / "cache" / "hftransfer" / "bin"
        assert (tmp_path / "calls").read_text() == (
            f"install github.com/minio/minio@{s3.MINIO_VERSION}\n"
        )
        assert len(lines) == 2
        assert "go install" in lines[0]
        assert sorted(path.name for path in built.parent.iterdir()) == [
            built.name,
            built.name + ".lock",
        ]

    def test_two_processes_build_once(self, tmp_path: Path) -> None:
        """A process that is started during the build waits for it and uses its binary."""
        (tmp_path / "gate").mkdir()
        os.mkfifo(tmp_path / "gate" / "started")
        os.mkfifo(tmp_path / "gate" / "go-on")
        self._install_go(
            tmp_path,
            f'echo "$@" >> {tmp_path}/calls\n'
            f"echo > {tmp_path}/gate/started\nread -r _ < {tmp_path}/gate/go-on\n"
            ': > "$GOBIN/minio"; /bin/chmod +x "$GOBIN/minio"',
        )
        code = "from hftransfer.testing.s3 import ensure_minio; print(ensure_minio())"
        command = [sys.executable, "-c", code]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first,
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second,
        ):
            (tmp_path / "gate" / "started").read_text()
            (tmp_path / "gate" / "go-on").write_text("\n")
            printed = {first.communicate()[0], second.communicate()[0]}

        assert len(printed) == 1
        assert (tmp_path / "calls").read_text().count("install") == 1

    def test_a_failed_build_shows_the_output_of_go(self, tmp_path: Path) -> None:
        """The error has Go's output, and an incomplete binary is not found later."""
        self._install_go(tmp_path, 'echo half > "$GOBIN/minio"; echo no network >&2; exit 1')

        with pytest.raises(ServerNotFoundError, match="no network"):
            s3.ensure_minio(lambda line: None)

        assert s3.find_minio() is None
