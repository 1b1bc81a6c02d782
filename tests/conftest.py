"""Fixtures for all tests: a clean environment, S3 and Hub servers, buckets, HTTP sites.

S3 servers are session-scoped, and each test gets a new bucket, which is removed after it. Hub
servers are started per test.
"""

from __future__ import annotations

import os
import runpy
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

# Before anything of the package is imported; see the module.
if os.environ.get("HFTRANSFER_AS_MACOS") == "1":
    _as_macos = Path(__file__).parent / "support" / "as_macos"
    runpy.run_path(str(_as_macos / "sitecustomize.py"))
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(_as_macos), os.environ.get("PYTHONPATH")))
    )

from hftransfer.testing.s3 import (
    S3Server,
    ServerNotFoundError,
    ensure_minio,
    start_gofakes3,
    start_minio,
    start_moto,
    start_rclone,
    start_s3rver,
    start_seaweedfs,
    start_versitygw,
)
from support.s3 import Bucket, remove_bucket, run_server, s3_client

if TYPE_CHECKING:
    from hftransfer.testing import HubServer
    from support.http import Site

# A busy machine may take any time for one example; the timeout of the test remains.
hypothesis.settings.register_profile("any-speed", deadline=None)
hypothesis.settings.load_profile("any-speed")

# huggingface_hub reads the environment once, on import. So the developer's settings are removed
# before anything can import it.
for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_"))]:
    del os.environ[_name]
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HOME"] = os.devnull  # unusable; `clean_environ` gives each test its own

# Tests of what `support/as_macos` takes away.
_TESTS_OF_LINUX = (
    "_io/test_direct_io.py",
    "_io/test_file_range.py::test_a_file_that_became_shorter_is_an_error[get_nowait]",
    "_io/test_file_range.py::test_a_read_error_names_the_file",
    "_io/test_thread_batch.py::test_calls_that_sleep_run_side_by_side",
    "_io/test_thread_batch.py::test_fast_calls_run_in_the_event_loop",
)
_OPTIONAL_SERVERS = ("versitygw", "gofakes3", "s3rver")
_S3_FIXTURES = {"minio", "seaweedfs", "rclone", "moto", "s3_server", *_OPTIONAL_SERVERS}
# `clean_environ` removes variables with these prefixes, with the exceptions below.
_CLEANED = ("AWS_", "HF_", "HUGGING_FACE_", "HFTRANSFER_", "METAFLOW_")
_KEPT = (
    *("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET"),
    *("HFTRANSFER_MINIO", "HFTRANSFER_AS_MACOS"),
    *(f"HFTRANSFER_{name.upper()}" for name in _OPTIONAL_SERVERS),
)


@pytest.fixture(scope="session", autouse=True)
def default_sigint() -> None:
    """Restore the default SIGINT handler, so that child processes can be interrupted.

    A shell without job control starts `command &` with SIGINT ignored, and children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Event loop of `@pytest.mark.anyio` tests: each runs on asyncio and on trio."""
    return str(request.param)


@pytest.fixture(autouse=True)
def clean_environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Remove the developer's settings; yield the test's Hugging Face home, an empty folder.

    Applies to environment variables of AWS, Hugging Face, hftransfer and Metaflow. It has a
    `MonkeyPatch` of its own, so that a test's `monkeypatch.undo()` does not restore them.
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
    """Set huggingface_hub's constants to what a process started now would read."""
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


def _fixtures_of(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that use an S3 server; group the tests that share an expensive fixture."""
    if os.environ.get("HFTRANSFER_AS_MACOS") == "1":
        for item in items:
            if any(name in item.nodeid for name in _TESTS_OF_LINUX):
                item.add_marker(pytest.mark.skip(reason="a mechanism of Linux"))
    has_xdist = config.pluginmanager.hasplugin("xdist")
    for item in items:
        if _S3_FIXTURES & _fixtures_of(item):
            item.add_marker("s3")
        if has_xdist and (group := _xdist_group(item)) is not None:
            item.add_marker(pytest.mark.xdist_group(group))


def _xdist_group(item: pytest.Item) -> str | None:
    """Return the name of the group of tests that one pytest-xdist worker runs, or None.

    One worker runs all tests with SeaweedFS, which takes seconds to start (the other S3 servers
    less than half a second), and all tests of a module that share a fixture of the module, since
    some of those run whole flows or build a wheel.
    """
    if not isinstance(item, pytest.Function):
        return None
    callspec = getattr(item, "callspec", None)
    parameters = {} if callspec is None else callspec.params
    if "seaweedfs" in item.fixturenames or parameters.get("s3_server") == "seaweedfs":
        return "seaweedfs"
    if "runs" in item.fixturenames:  # it asks for fixtures of its module at run time
        return item.nodeid.partition("::")[0]
    fixtures = [found[-1] for found in item._fixtureinfo.name2fixturedefs.values()]
    if any(
        fixture.scope == "module" or (fixture.scope == "session" and ".py" in fixture.baseid)
        for fixture in fixtures
    ):
        return item.nodeid.partition("::")[0]
    return None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build MinIO if a test needs it, before any test's timeout starts, and log that."""
    needs_minio = any({"minio", "s3_server"} & _fixtures_of(item) for item in session.items)
    if not needs_minio or session.config.option.collectonly:
        return

    capture = session.config.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            ensure_minio()
    except ServerNotFoundError:
        pass  # the fixture `minio` reports it, once per test


@pytest.fixture(scope="session")
def minio() -> Iterator[S3Server]:
    """MinIO; skips the test, or fails it in CI, if there is no binary. Session-scoped."""
    with run_server(start_minio) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Server]:
    """SeaweedFS, if it is installed (see `minio`). Session-scoped."""
    with run_server(start_seaweedfs) as server:
        yield server


@pytest.fixture(scope="session")
def rclone() -> Iterator[S3Server]:
    """rclone's S3 server, if it is installed (see `minio`). Session-scoped."""
    with run_server(start_rclone) as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """moto's S3 server, if it is installed (see `minio`). Session-scoped."""
    with run_server(start_moto) as server:
        yield server


@pytest.fixture(scope="session")
def versitygw() -> Iterator[S3Server]:
    """The Versity gateway; skips the test, in CI too, if it is not installed. Session-scoped."""
    with run_server(start_versitygw, optional=True) as server:
        yield server


@pytest.fixture(scope="session")
def gofakes3() -> Iterator[S3Server]:
    """gofakes3 (see `versitygw`). Session-scoped."""
    with run_server(start_gofakes3, optional=True) as server:
        yield server


@pytest.fixture(scope="session")
def s3rver() -> Iterator[S3Server]:
    """s3rver (see `versitygw`). Session-scoped."""
    with run_server(start_s3rver, optional=True) as server:
        yield server


@pytest.fixture(scope="session", params=["minio", "seaweedfs"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """MinIO and SeaweedFS in turn; a test selects others by `indirect` parametrization."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    return server


@pytest.fixture
def bucket(s3_server: S3Server, clean_environ: Path) -> Iterator[Bucket]:
    """A new bucket on each `s3_server`; `AWS_*` variables make clients use that server."""
    client = s3_client(s3_server)
    created = Bucket(s3_server, f"test-{uuid.uuid4().hex[:16]}")
    client.create_bucket(Bucket=created.name)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.client_environ().items():
            patch.setenv(name, value)
        try:
            yield created
        finally:
            remove_bucket(client, created.name)
            client.close()


@pytest.fixture
def hub(clean_environ: Path) -> Iterator[HubServer]:
    """A new Hub server on loopback, without repositories."""
    from hftransfer.testing import HubServer

    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def secure_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An HTTPS site whose certificate is signed by a CA of the test session."""
    from support import http

    return http.secure_site(tmp_path_factory.mktemp("authority"))


@pytest.fixture(params=["http", "https"])
def site(request: pytest.FixtureRequest, secure_site: Site) -> Site:
    """An HTTP site and an HTTPS site in turn."""
    from support import http

    return secure_site if request.param == "https" else http.Site(None, None)


@pytest.fixture(params=["ours", "aiohttp"])
def either_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send requests with our HTTP/1.1 client, and with aiohttp as for unusual URLs and proxies."""
    from hftransfer._http.pool import ConnectionPool

    if request.param == "aiohttp":
        monkeypatch.setattr(ConnectionPool, "supports", lambda self, url: False)
