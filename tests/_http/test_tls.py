"""`hftransfer._http.tls`: which certificates are trusted."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.client import HttpClient
from hftransfer.errors import RejectedError
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
@pytest.mark.parametrize("how", ["verify", "environment", "unverified"])
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
