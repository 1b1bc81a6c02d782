"""The real S3 servers of `hftransfer.testing.s3`: started, usable, stopped, never orphaned."""

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


def _binary_or_skip(name: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(name)  # the session's server decides between skip and failure


@pytest.mark.s3
def test_an_object_put_is_an_object_got(bucket: Bucket) -> None:
    """Each server stores what a plain S3 client puts, and answers a range with a range."""
    client = s3_client(bucket.server)
    client.put_object(Bucket=bucket.name, Key="a/b", Body=b"0123456789")

    answer = client.get_object(Bucket=bucket.name, Key="a/b", Range="bytes=2-4")

    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert answer["ContentRange"] == "bytes 2-4/10"
    assert answer["Body"].read() == b"234"


@pytest.mark.s3
def test_a_multipart_upload_is_assembled_in_order(bucket: Bucket) -> None:
    """Each server completes a multipart upload whose parts arrived out of order."""
    client = s3_client(bucket.server)
    parts = {1: b"a" * (5 << 20), 2: b"b" * 17}
    upload = client.create_multipart_upload(Bucket=bucket.name, Key="m")["UploadId"]
    etags = {}
    for number in (2, 1):
        answer = client.upload_part(
            Bucket=bucket.name, Key="m", UploadId=upload, PartNumber=number, Body=parts[number]
        )
        etags[number] = answer["ETag"]
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
    """No server creates a bucket because something was written to it."""
    with pytest.raises(ClientError) as caught:
        s3_client(s3_server).put_object(Bucket="never-created", Key="k", Body=b"")

    assert caught.value.response["Error"]["Code"] == "NoSuchBucket"


@pytest.mark.s3
def test_wrong_keys_are_refused(bucket: Bucket) -> None:
    """The credentials of a server are checked, so that tests of wrong ones mean something."""
    stranger = replace(bucket.server, secret_key="not the key")

    with pytest.raises(ClientError) as caught:
        s3_client(stranger).list_objects_v2(Bucket=bucket.name)

    assert caught.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


@pytest.mark.s3
def test_the_environment_alone_points_a_client_at_the_server(bucket: Bucket) -> None:
    """`client_environ` is all that an AWS client needs."""
    import botocore.session

    client: Any = botocore.session.Session().create_client("s3")

    assert client.list_objects_v2(Bucket=bucket.name)["KeyCount"] == 0


@pytest.mark.s3
def test_the_secret_key_is_not_printed(s3_server: S3Server) -> None:
    """The repr of a server can go into a log."""
    assert s3_server.secret_key not in repr(s3_server)


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.parametrize("name", _STARTERS)
def test_close_stops_the_server_and_keeps_a_given_root(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """After close nothing listens, closing again is fine, and the data is still there."""
    _binary_or_skip(name, request)
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
def test_a_killed_owner_leaves_neither_server_nor_folder(
    name: str, request: pytest.FixtureRequest
) -> None:
    """SIGKILL of the process that started a server ends the server and its temporary root."""
    _binary_or_skip(name, request)
    script = (
        "import os, signal\n"
        f"from hftransfer.testing.s3 import start_{name} as start\n"
        "server = start()\n"
        "print(server.root, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The server and its watchdog inherit `alive`; it reads as closed once both are gone.
    alive, held = os.pipe()
    try:
        owner = subprocess.Popen(
            [sys.executable, "-c", _INHERITING.format(fd=held) + script],
            stdout=subprocess.PIPE,
            pass_fds=[held],
            text=True,
        )
        os.close(held)
        root, _ = owner.communicate(timeout=50)
        select.select([alive], [], [])

        assert owner.returncode == -signal.SIGKILL
        assert os.read(alive, 1) == b""
        assert root.strip()
        assert not Path(root.strip()).exists()
    finally:
        os.close(alive)


# Lets every child of the script keep descriptor `fd`, which `close_fds` would close.
_INHERITING = """
import functools, subprocess
subprocess.Popen.__init__ = functools.partialmethod(subprocess.Popen.__init__, pass_fds=[{fd}])
"""


def test_a_server_that_cannot_start_quotes_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a server said before it ended is in the error."""
    broken = tmp_path / "minio"
    broken.write_text("#!/bin/sh\necho the disk is full >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("HFTRANSFER_MINIO", str(broken))

    with pytest.raises(ServerStartError, match=r"status 3 (?s:.)*the disk is full"):
        s3.start_minio(tmp_path / "root")


def test_a_wrong_path_to_minio_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in HFTRANSFER_MINIO is reported, not silently built around."""
    monkeypatch.setenv("HFTRANSFER_MINIO", str(tmp_path / "nowhere"))

    with pytest.raises(ServerNotFoundError, match=r"HFTRANSFER_MINIO=.*nowhere"):
        s3.find_minio()


class TestEnsureMinio:
    """The build, with a `go` that records how it was called."""

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
        """Neither MinIO nor Go: nothing is found, and the error names the ways out."""
        assert s3.find_minio() is None
        with pytest.raises(ServerNotFoundError, match=r"HFTRANSFER_MINIO.*PATH.*install Go"):
            s3.ensure_minio()

    def test_the_pinned_version_is_built_once_into_the_cache(self, tmp_path: Path) -> None:
        """The second call finds the first one's binary, and only the first says anything."""
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
        """A process that comes while another builds waits for that build and uses it."""
        (tmp_path / "gate").mkdir()
        os.mkfifo(tmp_path / "gate" / "started")
        os.mkfifo(tmp_path / "gate" / "go-on")
        self._install_go(
            tmp_path,
            f'echo "$@" >> {tmp_path}/calls\n'
            f"echo > {tmp_path}/gate/started\nread -r _ < {tmp_path}/gate/go-on\n"
            ': > "$GOBIN/minio"; /bin/chmod +x "$GOBIN/minio"',
        )
        ask = "from hftransfer.testing.s3 import ensure_minio; print(ensure_minio())"
        command = [sys.executable, "-c", ask]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first,
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second,
        ):
            (tmp_path / "gate" / "started").read_text()
            (tmp_path / "gate" / "go-on").write_text("\n")
            answers = {first.communicate()[0], second.communicate()[0]}

        assert len(answers) == 1
        assert (tmp_path / "calls").read_text().count("install") == 1

    def test_a_failed_build_quotes_go_and_leaves_nothing(self, tmp_path: Path) -> None:
        """What Go said is in the error, and no half-built binary is ever found."""
        self._install_go(tmp_path, 'echo half > "$GOBIN/minio"; echo no network >&2; exit 1')

        with pytest.raises(ServerNotFoundError, match="no network"):
            s3.ensure_minio(lambda line: None)

        assert s3.find_minio() is None
