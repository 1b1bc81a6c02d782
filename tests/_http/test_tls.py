"""`hftransfer._http.tls`: which certificates are trusted."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import anyio
import pytest
import trustme

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.client import HttpClient
from hftransfer.errors import OptionsError, RejectedError
from hftransfer.options import Timeouts
from hftransfer.testing import HubServer
from support.http import open_client
from support.hub import SIZE, served_file


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_hub(authority: trustme.CA) -> HubServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return HubServer(ssl_context=context)


@pytest.mark.asyncio
async def test_an_unknown_certificate_is_a_permanent_error(tls_hub: HubServer) -> None:
    """Without its CA no request is sent, and the message says which variable to set."""
    with tls_hub as hub:
        url, _ = served_file(hub)
        async with open_client() as client:
            with pytest.raises(RejectedError, match=r"not trusted.*SSL_CERT_FILE") as caught:
                await client.request("GET", url)
        assert hub.requests == []

    assert "do-not-show" not in str(caught.value)


@pytest.mark.asyncio
async def test_the_setting_that_counts_is_named(
    tls_hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that is given replaces all others, so advice to set a variable would be wrong."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with tls_hub as hub:
        url, _ = served_file(hub)
        client = HttpClient(Timeouts(), verify=str(other), verify_setting="AWS_CA_BUNDLE")
        for unusual in ("", "é"):  # sent by aiohttp
            with pytest.raises(RejectedError, match=r"other\.pem counts here \(AWS_CA_BUNDLE\)"):
                await client.request("GET", url + unusual)
        await client.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("setting", ["verify", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), ("x", "no certificate")])
async def test_a_bundle_that_cannot_be_used_is_an_options_error(
    setting: str,
    content: str | None,
    reason: str,
    tls_hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names the setting and the file, and nothing is sent."""
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    if setting == "verify":
        client = HttpClient(Timeouts(), verify=str(bundle), verify_setting=setting)
    else:
        monkeypatch.setenv(setting, str(bundle))
        client = HttpClient(Timeouts())
    with tls_hub as hub:
        url, _ = served_file(hub)
        with pytest.raises(OptionsError, match=rf"{bundle} \({setting}\).*{reason}"):
            await client.request("GET", url)
        await client.aclose()
        assert hub.requests == []


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["verify", "folder", "environment", "unverified"])
async def test_a_ca_bundle_makes_a_private_server_trusted(
    how: str,
    tls_hub: HubServer,
    authority: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bundle may be an argument or REQUESTS_CA_BUNDLE; False turns verification off."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    verify: bool | str | None = None
    if how == "verify":
        verify = str(bundle)
    elif how == "folder":
        if shutil.which("openssl") is None:
            pytest.skip("openssl, which names the files of such a folder, is not installed")
        await anyio.run_process(["openssl", "rehash", str(tmp_path)])
        verify = str(tmp_path)
    elif how == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    else:
        verify = False
    memory = bytearray(1000)
    with tls_hub as hub:
        url, content = served_file(hub)
        client = HttpClient(Timeouts(), verify=verify)
        await client.fill(url, ByteRangeBuffer(5, memoryview(memory)), size=SIZE)
        await client.aclose()

    assert bytes(memory) == content[5:1005]
