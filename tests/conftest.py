"""Fixtures for every test: a clean environment, real servers, fresh buckets.

Servers live as long as the session; what tests put into them does not: each test gets
a bucket or a Hub server of its own.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hftransfer.testing.s3 import (
    S3Server,
    ServerNotFoundError,
    ensure_minio,
    start_minio,
    start_moto,
    start_rclone,
    start_seaweedfs,
)
from support.s3 import Bucket, remove_bucket, s3_client

if TYPE_CHECKING:
    from hftransfer.testing import HubServer
    from support.http import Site

# huggingface_hub reads its environment once, when it is imported, so what must never be
# the developer's own is set before anything can import it.
for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_"))]:
    del os.environ[_name]
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HOME"] = os.devnull  # unusable: a test that needs it gets its own below

_S3_FIXTURES = {"minio", "seaweedfs", "rclone", "moto", "s3_server"}
_CLEANED = ("AWS_", "HF_", "HUGGING_FACE_", "HFTRANSFER_", "METAFLOW_")
_KEPT = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET", "HFTRANSFER_MINIO")


@pytest.fixture(scope="session", autouse=True)
def heed_sigint() -> None:
    """Let child processes be interruptible where this one was started in the background.

    A shell without job control starts `command &` with SIGINT ignored, which is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run `@pytest.mark.anyio` tests on asyncio and on trio."""
    return str(request.param)


@pytest.fixture(autouse=True)
def clean_environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Hide the developer's settings and give Hugging Face an empty home; yields that home.

    Has a `MonkeyPatch` of its own, so that a test's `monkeypatch.undo()` cannot bring
    the developer's settings back.
    """
    home = tmp_path_factory.mktemp("hf-home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_CLEANED) and name not in _KEPT:
                patch.delenv(name)
        patch.setenv("HF_HOME", str(home))
        patch.setenv("HF_HUB_CACHE", str(home / "hub"))
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        patch.setenv("METAFLOW_HOME", str(home / "metaflow"))  # instead of ~/.metaflowconfig
        patch.setenv("METAFLOW_USER", "tester")  # containers often have no $USER
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        _patch_huggingface_hub(patch, home)
        yield home


def _patch_huggingface_hub(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Make huggingface_hub's constants what a process started now would have."""
    from huggingface_hub import constants

    values = {
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_XET_CACHE": str(home / "xet"),
    }
    for name, value in values.items():
        if hasattr(constants, name):  # the set differs between versions
            patch.setattr(constants, name, value)


# --- servers


def _unavailable(error: ServerNotFoundError) -> None:
    if os.environ.get("CI"):
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that reaches an S3 server through its fixtures."""
    for item in items:
        if {"minio", "seaweedfs", "rclone", "moto", "s3_server"} & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker("s3")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build MinIO before the first test, where no test's time limit runs, and say so."""
    wanted = any("minio" in getattr(item, "fixturenames", ()) for item in session.items) or any(
        "s3_server" in getattr(item, "fixturenames", ()) for item in session.items
    )
    if not wanted or session.config.option.collectonly:
        return

    capture = session.config.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            ensure_minio()
    except ServerNotFoundError:
        pass  # the fixture asks again and reports it per test


@pytest.fixture(scope="session")
def minio() -> Iterator[S3Server]:
    """A MinIO server for the session."""
    yield from _served(start_minio)


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Server]:
    """A SeaweedFS server for the session."""
    yield from _served(start_seaweedfs)


@pytest.fixture(scope="session")
def rclone() -> Iterator[S3Server]:
    """rclone's S3 server for the session."""
    yield from _served(start_rclone)


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """moto's S3 server for the session."""
    yield from _served(start_moto)


def _served(start: Callable[[], S3Server]) -> Iterator[S3Server]:
    try:
        server = start()
    except ServerNotFoundError as error:
        _unavailable(error)
        raise AssertionError("unreachable: skip and fail raise") from error
    with server:
        yield server


@pytest.fixture(scope="session", params=["minio", "seaweedfs"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each real S3 server in turn: the two that test most; others by `indirect` parameters."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    return server


@pytest.fixture
def bucket(s3_server: S3Server, clean_environ: Path) -> Iterator[Bucket]:
    """A fresh bucket on each real S3 server, with `AWS_*` pointing there."""
    client = s3_client(s3_server)
    fresh = Bucket(s3_server, f"test-{uuid.uuid4().hex[:16]}")
    client.create_bucket(Bucket=fresh.name)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.client_environ().items():
            patch.setenv(name, value)
        try:
            yield fresh
        finally:
            remove_bucket(client, fresh.name)
            client.close()


@pytest.fixture
def hub(clean_environ: Path) -> Iterator[HubServer]:
    """A fresh Hub server on loopback, without repositories."""
    from hftransfer.testing import HubServer

    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def secure_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Servers with TLS, and a CA of the tests."""
    from support import http

    return http.secure_site(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["http", "https"])
def site(request: pytest.FixtureRequest, secure_site: Site) -> Site:
    """Servers without TLS, and with it."""
    from support import http

    return secure_site if request.param == "https" else http.Site(None, None)


@pytest.fixture(params=["ours", "aiohttp"])
def either_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are sent by our own client, and by aiohttp, as for unusual URLs and proxies."""
    from hftransfer._http.pool import ConnectionPool

    if request.param == "aiohttp":
        monkeypatch.setattr(ConnectionPool, "supports", lambda self, url: False)
