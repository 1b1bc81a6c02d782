"""Where requests go and as whom: options, variables, profiles, AWS's own endpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import aiobotocore.session
import anyio
import pytest

from hftransfer.errors import AccessError, OptionsError, UnsupportedError
from hftransfer.options import S3Options
from hftransfer.stores.s3 import account as account_module
from hftransfer.stores.s3.account import Account, BucketEndpoint
from hftransfer.stores.s3.signing import Credentials

CONFIG = """
[profile work]
region = eu-north-1
endpoint_url = http://everything.test
services = mine
ca_bundle = /ca.pem
s3 =
    addressing_style = virtual
[profile plain]
region = eu-west-3
[services mine]
s3 =
    endpoint_url = http://s3.test:9000
"""
CREDENTIALS = """
[work]
aws_access_key_id = work-id
aws_secret_access_key = work-secret
aws_session_token = work-token
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuration and credentials files of their own."""
    (tmp_path / "config").write_text(CONFIG)
    (tmp_path / "credentials").write_text(CREDENTIALS)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


# --- where


def test_a_profile_says_everything() -> None:
    """Region, the endpoint of the service before that of all, CA bundle, addressing style."""
    account = Account(S3Options(profile="work"))

    assert account.region == "eu-north-1"
    assert account.endpoint_url == "http://s3.test:9000"
    assert account.verify == "/ca.pem"
    assert account.bucket_endpoint("b") == BucketEndpoint(
        "http://b.s3.test:9000", "b.s3.test:9000", "", "eu-north-1"
    )


def test_variables_come_before_files_and_options_before_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order of every AWS tool; AWS_REGION counts like AWS_DEFAULT_REGION."""
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://any.test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-1")
    assert Account(S3Options()).endpoint_url == "http://any.test"
    assert Account(S3Options()).region == "us-west-1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3-only.test")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert Account(S3Options()).endpoint_url == "http://s3-only.test"
    assert Account(S3Options()).region == "us-west-2"
    given = Account(S3Options(endpoint_url="https://mine.test", region_name="r", verify=False))
    assert (given.endpoint_url, given.region, given.verify) == ("https://mine.test", "r", False)
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert Account(S3Options()).endpoint_url is None


@pytest.mark.parametrize(
    ("endpoint", "style", "expected"),
    [
        ("http://h:9000/", "auto", BucketEndpoint("http://h:9000", "h:9000", "/b.c", "us-east-1")),
        ("http://h:80", "path", BucketEndpoint("http://h:80", "h", "/b.c", "us-east-1")),
        ("https://h:443", "path", BucketEndpoint("https://h:443", "h", "/b.c", "us-east-1")),
        ("http://h/base", "auto", BucketEndpoint("http://h", "h", "/base/b.c", "us-east-1")),
        ("http://h", "virtual", BucketEndpoint("http://b.c.h", "b.c.h", "", "us-east-1")),
        ("http://u:p@H", "path", BucketEndpoint("http://H", "h", "/b.c", "us-east-1")),
    ],
)
def test_an_endpoint_of_ones_own(endpoint: str, style: str, expected: BucketEndpoint) -> None:
    """The bucket is in the path unless asked otherwise; the Host header names no usual port."""
    account = Account(S3Options(endpoint_url=endpoint, addressing_style=style))

    assert account.bucket_endpoint("b.c") == expected


@pytest.mark.parametrize(
    ("bucket", "region", "style", "url"),
    [
        ("b-c", "us-east-1", "auto", "https://b-c.s3.us-east-1.amazonaws.com"),
        ("b-c", "cn-north-1", "auto", "https://b-c.s3.cn-north-1.amazonaws.com.cn"),
        ("b-c", "eu-north-1", "path", "https://s3.eu-north-1.amazonaws.com/b-c"),
        # A dot in its name would not fit the certificate.
        ("b.c", "eu-north-1", "auto", "https://s3.eu-north-1.amazonaws.com/b.c"),
    ],
)
def test_awss_own_endpoints(bucket: str, region: str, style: str, url: str) -> None:
    """Region, partition and style make the host, as botocore's rules have it."""
    place = Account(S3Options(addressing_style=style)).bucket_endpoint(bucket, region)

    assert place.origin + place.prefix == url
    assert place.region == region


def test_dual_stack_and_fips(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment asks of AWS's endpoints is heeded."""
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "true")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")

    place = Account(S3Options(region_name="us-east-2")).bucket_endpoint("b-c")

    assert place.host == "b-c.s3-fips.dualstack.us-east-2.amazonaws.com"


def test_a_bucket_with_a_protocol_of_its_own_is_refused() -> None:
    """Directory buckets of S3 Express want sessions, which are not spoken here."""
    account = Account(S3Options(region_name="us-east-1"))
    with pytest.raises(UnsupportedError, match="not supported"):
        account.bucket_endpoint("name--use1-az4--x-s3")


def test_a_region_that_cannot_be() -> None:
    """Nonsense is an error before anything is sent."""
    with pytest.raises(OptionsError, match="not a region"):
        Account(S3Options(region_name="evil.test/"))


@pytest.fixture
def no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment whose variables are all there is."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


_SETTINGS: dict[str, dict[str, str]] = {
    "nothing": {},
    "regions": {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"},
    "default region": {"AWS_DEFAULT_REGION": "eu-west-2"},
    "empty": {"AWS_REGION": "", "AWS_ENDPOINT_URL_S3": "", "AWS_SESSION_TOKEN": ""},
    "endpoint": {"AWS_ENDPOINT_URL": "http://a.test", "AWS_CA_BUNDLE": "/ca.pem"},
    "endpoints": {"AWS_ENDPOINT_URL": "http://a.test", "AWS_ENDPOINT_URL_S3": "http://b.test"},
    "token": {"AWS_SESSION_TOKEN": "t"},
    "tokens": {"AWS_SESSION_TOKEN": "t", "AWS_SECURITY_TOKEN": "u"},
    "ignored": {
        "AWS_ENDPOINT_URL": "http://a.test",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    },
}


@pytest.mark.asyncio
@pytest.mark.parametrize("settings", _SETTINGS.values(), ids=_SETTINGS)
async def test_variables_mean_what_botocore_makes_of_them(
    settings: dict[str, str], no_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read here or by botocore, they lead to the same place as the same identity."""
    for name, text in settings.items():
        monkeypatch.setenv(name, text)

    async def seen() -> tuple[object, ...]:
        account = Account(S3Options())
        return (
            account.region,
            account.endpoint_url,
            account.verify,
            account.bucket_endpoint("b"),
            await account.credentials(),
        )

    read_here = await seen()
    monkeypatch.setattr(account_module, "_read_environment", lambda *_: None)

    assert await seen() == read_here


def test_botocore_is_not_loaded_where_variables_say_everything(tmp_path: Path) -> None:
    """A process that copies some small files must not spend its time on imports."""
    code = (
        "import sys\n"
        "from hftransfer.options import S3Options\n"
        "from hftransfer.stores.s3.account import Account\n"
        "Account(S3Options(endpoint_url='http://a.test')).bucket_endpoint('b')\n"
        "assert 'hftransfer.stores.s3.store' not in sys.modules\n"
        "import hftransfer.stores.s3\n"
        "print(*sorted({'aiobotocore', 'aiohttp', 'botocore'} & set(sys.modules)))\n"
    )
    environ = {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )

    assert result.stdout.split() == []


@pytest.mark.parametrize(
    "variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"], ids=["no secret", "no key"]
)
@pytest.mark.asyncio
async def test_half_a_pair_of_variables_is_an_error(
    variable: str, no_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found before anything is sent, and said in words that help."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv(variable)

    with pytest.raises(AccessError, match="AWS_ACCESS_KEY_ID"):
        await Account(S3Options()).credentials()


@pytest.mark.asyncio
async def test_a_refusal_reads_the_variables_again(
    no_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever renews them in the environment of a long process is understood."""
    account = Account(S3Options())
    old = await account.credentials()
    assert not await account.replace_credentials(old)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "new-id")

    assert await account.replace_credentials(old)
    assert (await account.credentials()).access_key == "new-id"


# --- as whom


@pytest.mark.asyncio
async def test_credentials_of_a_profile() -> None:
    """Key, secret and token come from the file of credentials."""
    found = await Account(S3Options(profile="work")).credentials()

    assert found == Credentials("work-id", "work-secret", "work-token")


@pytest.mark.asyncio
async def test_options_need_no_file() -> None:
    """Keys that are given are used as they are."""
    options = S3Options(access_key_id="a", secret_access_key="b", session_token="c")

    assert await Account(options).credentials() == Credentials("a", "b", "c")


@pytest.mark.asyncio
async def test_a_profile_without_credentials() -> None:
    """The message says what can be done."""
    with pytest.raises(AccessError, match="AWS_ACCESS_KEY_ID"):
        await Account(S3Options(profile="plain")).credentials()


class _Refreshing:
    """What aiobotocore gives for a role: it knows when it is due, and fetches anew when asked."""

    def __init__(self) -> None:
        self.fetched = 0
        self.due = False

    def refresh_needed(self) -> bool:
        return self.due

    async def get_frozen_credentials(self) -> Any:
        self.fetched += 1
        self.due = False
        return Credentials(f"id-{self.fetched}", "secret", "token")


@pytest.mark.asyncio
async def test_credentials_of_a_role_are_renewed_in_time_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever asks at the same moment shares one renewal; nobody signs with what ran out."""
    role = _Refreshing()

    async def found(session: object) -> _Refreshing:
        return role

    monkeypatch.setattr(aiobotocore.session.AioSession, "get_credentials", found)
    account = Account(S3Options())
    assert (await account.credentials()).access_key == "id-1"
    assert (await account.credentials()).access_key == "id-1"
    role.due = True
    given: list[str] = []

    async def ask() -> None:
        given.append((await account.credentials()).access_key)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(ask)

    assert given == ["id-2"] * 8


@pytest.mark.asyncio
async def test_a_refusal_renews_what_was_refused_and_nothing_newer(tmp_path: Path) -> None:
    """Two requests that were refused with the same credentials look for others only once."""
    account = Account(S3Options(profile="work"))
    old = await account.credentials()

    def rewrite(access_key: str) -> None:
        (tmp_path / "credentials").write_text(CREDENTIALS.replace("work-id", access_key))

    assert not await account.replace_credentials(old)
    rewrite("new-id")
    assert await account.replace_credentials(old)
    assert (await account.credentials()).access_key == "new-id"
    rewrite("newer-id")
    assert await account.replace_credentials(old)
    assert (await account.credentials()).access_key == "new-id"
