"""`hftransfer._http.basic_auth`: users in URLs, and the endpoints of the stores that have one."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from hftransfer import Client, HubOptions, S3Options, TransferOptions
from hftransfer._http.basic_auth import split_userinfo
from hftransfer.stores.s3.account import Account
from hftransfer.testing import HubServer


@pytest.mark.parametrize(
    ("url", "bare", "user"),
    [
        ("http://h/x?q", "http://h/x?q", None),
        ("http://u:p@h:1/x?q", "http://h:1/x?q", "u:p"),
        ("http://u@h", "http://h", "u:"),
        ("http://a%40b:p%3Aq@[::1]:1", "http://[::1]:1", "a@b:p:q"),
    ],
)
def test_a_user_is_separated_from_its_url(url: str, bare: str, user: str | None) -> None:
    """Decoded, as the value of a header whose repr shows nothing."""
    found, header = split_userinfo(url)

    assert found == bare
    if user is None:
        assert header is None
    else:
        assert header == f"Basic {base64.b64encode(user.encode()).decode()}"
        assert repr(header) == "'…'"


def test_the_user_of_the_hubs_endpoint_is_sent_instead_of_the_token(
    hub: HubServer, tmp_path: Path
) -> None:
    """As huggingface_hub does for a mirror with passwords."""
    hub.create_repo("acme/tiny", files={"f": b"abc"})
    endpoint = hub.endpoint.replace("//", "//user:word@")
    options = TransferOptions(hub=HubOptions(endpoint=endpoint, token="hf_other"))
    with Client(options) as client:
        client.copy("hf://acme/tiny", tmp_path)

    assert (tmp_path / "f").read_bytes() == b"abc"
    sent = {
        value
        for request in hub.requests
        for name, value in request.headers.items()
        if name.lower() == "authorization"
    }
    assert sent == {f"Basic {base64.b64encode(b'user:word').decode()}"}
    assert "word" not in repr(options)


@pytest.mark.anyio
async def test_the_user_of_an_endpoint_of_s3_is_the_access_key() -> None:
    """Unless the options name another one."""
    url = "http://key:sec%2Fret@h:9000"
    found = await Account(S3Options(endpoint_url=url)).credentials()
    assert (found.access_key, found.secret_key) == ("key", "sec/ret")

    other = S3Options(endpoint_url=url, access_key_id="a", secret_access_key="b")
    assert (await Account(other).credentials()).access_key == "a"
    assert "sec" not in repr(other)
