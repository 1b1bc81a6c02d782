"""`hftransfer.stores.s3.account`: endpoint and credentials from options, variables and profiles."""

from __future__ import annotations

import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import aiobotocore.session
import anyio
import pytest
from botocore.exceptions import EndpointConnectionError

from hftransfer.errors import AccessError, NetworkError, OptionsError, UnsupportedError
from hftransfer.options import S3Options
from hftransfer.stores.s3 import account as account_module
from hftransfer.stores.s3 import botocore as botocore_module
from hftransfer.stores.s3.account import Account, BucketEndpoint
from hftransfer.stores.s3.signing import Credentials
from support.cli import run_cli

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
    """Configuration and credentials files that only this test sees."""
    (tmp_path / "config").write_text(CONFIG)
    (tmp_path / "credentials").write_text(CREDENTIALS)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


# --- endpoint and region


def test_a_profile_sets_region_endpoint_and_tls() -> None:
    """The endpoint of the service S3 takes precedence over that of all services."""
    account = Account(S3Options(profile="work"))

    assert account.region == "eu-north-1"
    assert account.endpoint_url == "http://s3.test:9000"
    assert account.verify == "/ca.pem"
    assert account.bucket_endpoint("b") == BucketEndpoint(
        "http://b.s3.test:9000", "b.s3.test:9000", "", "eu-north-1"
    )


def test_options_override_variables_and_variables_override_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order of every AWS tool; AWS_REGION overrides AWS_DEFAULT_REGION."""
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
        # No virtual style: an address has no subdomains, a wildcard certificate covers no dot.
        (
            "http://[::1]:9",
            "virtual",
            BucketEndpoint("http://[::1]:9", "[::1]:9", "/b.c", "us-east-1"),
        ),
        (
            "http://10.0.0.1",
            "virtual",
            BucketEndpoint("http://10.0.0.1", "10.0.0.1", "/b.c", "us-east-1"),
        ),
        ("https://h", "virtual", BucketEndpoint("https://h", "h", "/b.c", "us-east-1")),
    ],
)
def test_a_configured_endpoint(endpoint: str, style: str, expected: BucketEndpoint) -> None:
    """The bucket is in the path by default; the Host header omits the scheme's default port."""
    account = Account(S3Options(endpoint_url=endpoint, addressing_style=style))

    assert account.bucket_endpoint("b.c") == expected


@pytest.mark.parametrize(
    ("bucket", "region", "style", "url"),
    [
        ("b-c", "us-east-1", "auto", "https://b-c.s3.us-east-1.amazonaws.com"),
        ("b-c", "cn-north-1", "auto", "https://b-c.s3.cn-north-1.amazonaws.com.cn"),
        ("b-c", "eu-north-1", "path", "https://s3.eu-north-1.amazonaws.com/b-c"),
        # A bucket name with a dot does not match the wildcard certificate.
        ("b.c", "eu-north-1", "auto", "https://s3.eu-north-1.amazonaws.com/b.c"),
    ],
)
def test_endpoints_of_aws(bucket: str, region: str, style: str, url: str) -> None:
    """The host depends on region, partition and style, by botocore's rules."""
    endpoint = Account(S3Options(addressing_style=style)).bucket_endpoint(bucket, region)

    assert endpoint.origin + endpoint.prefix == url
    assert endpoint.region == region


@pytest.mark.parametrize(
    ("arn", "endpoint_url", "host", "service"),
    [
        (
            *("arn:aws:s3:us-west-2:123456789012:accesspoint/my-ap", None),
            *("my-ap-123456789012.s3-accesspoint.us-west-2.amazonaws.com", "s3"),
        ),
        (
            *("arn:aws:s3:us-west-2:123456789012:accesspoint:my-ap", "https://h:9"),
            *("my-ap-123456789012.h:9", "s3"),
        ),
        (
            *("arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/my-ap", None),
            *("my-ap-123456789012.s3-accesspoint.cn-north-1.amazonaws.com.cn", "s3"),
        ),
        (
            *("arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/ap", None),
            *("ap-123456789012.s3-object-lambda.us-west-2.amazonaws.com", "s3-object-lambda"),
        ),
        (
            "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01234567890123456/accesspoint/a",
            None,
            "a-123456789012.op-01234567890123456.s3-outposts.us-west-2.amazonaws.com",
            "s3-outposts",
        ),
    ],
)
def test_an_access_point_has_a_host_region_and_service_of_its_own(
    arn: str, endpoint_url: str | None, host: str, service: str
) -> None:
    """Its ARN names them, whatever region and addressing style are configured."""
    options = S3Options(endpoint_url=endpoint_url, region_name="eu-west-1", addressing_style="path")

    endpoint = Account(options).bucket_endpoint(arn)

    assert (endpoint.host, endpoint.prefix, endpoint.service) == (host, "", service)
    assert endpoint.region == arn.split(":")[3]


def test_a_multi_region_access_point_is_not_supported() -> None:
    """It requires a signature for any region."""
    with pytest.raises(UnsupportedError, match="SigV4A"):
        Account(S3Options()).bucket_endpoint("arn:aws:s3::123456789012:accesspoint/a.mrap")


def test_dual_stack_and_fips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both variants of AWS's endpoints can be chosen by variables."""
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "true")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")

    endpoint = Account(S3Options(region_name="us-east-2")).bucket_endpoint("b-c")

    assert endpoint.host == "b-c.s3-fips.dualstack.us-east-2.amazonaws.com"


def test_a_directory_bucket_is_not_supported() -> None:
    """S3 Express requires sessions and another signature."""
    account = Account(S3Options(region_name="us-east-1"))
    with pytest.raises(UnsupportedError, match="not supported"):
        account.bucket_endpoint("name--use1-az4--x-s3")


def test_an_invalid_region_is_an_options_error() -> None:
    """A region that would change the host is rejected before anything is sent."""
    with pytest.raises(OptionsError, match="not a region name"):
        Account(S3Options(region_name="evil.test/"))


@pytest.fixture
def no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that consists of variables only."""
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
async def test_variables_are_read_as_botocore_reads_them(
    settings: dict[str, str], no_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without botocore they give the same endpoint and credentials as with it."""
    for name, text in settings.items():
        monkeypatch.setenv(name, text)

    async def resolve() -> tuple[object, ...]:
        account = Account(S3Options())
        return (
            account.region,
            account.endpoint_url,
            account.verify,
            account.bucket_endpoint("b"),
            await account.credentials(),
        )

    without_botocore = await resolve()
    monkeypatch.setattr(account_module, "_read_environment", lambda *_: None)

    assert await resolve() == without_botocore


def test_botocore_is_not_imported_if_variables_suffice(tmp_path: Path) -> None:
    """Importing it takes longer than copying a few small files."""
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
async def test_a_key_without_its_secret_is_an_error(
    variable: str, no_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a secret without its key; the message names the variables to set."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv(variable)

    with pytest.raises(AccessError, match="AWS_ACCESS_KEY_ID"):
        await Account(S3Options()).credentials()


@pytest.mark.asyncio
async def test_rejected_credentials_are_looked_up_in_the_variables_again(
    no_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long-running process may have replaced them in its environment."""
    account = Account(S3Options())
    old = await account.credentials()
    assert not await account.replace_credentials(old)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "new-id")

    assert await account.replace_credentials(old)
    assert (await account.credentials()).access_key == "new-id"


# --- credentials


@pytest.mark.asyncio
async def test_credentials_of_a_profile() -> None:
    """Key, secret and token are read from the credentials file."""
    found = await Account(S3Options(profile="work")).credentials()

    assert found == Credentials("work-id", "work-secret", "work-token")


@pytest.mark.asyncio
async def test_credentials_of_options() -> None:
    """They are used without any lookup."""
    options = S3Options(access_key_id="a", secret_access_key="b", session_token="c")

    assert await Account(options).credentials() == Credentials("a", "b", "c")


@pytest.mark.asyncio
async def test_a_profile_without_credentials_is_an_error() -> None:
    """The message names the variables to set."""
    with pytest.raises(AccessError, match="AWS_ACCESS_KEY_ID"):
        await Account(S3Options(profile="plain")).credentials()


class _RoleCredentials:
    """Temporary credentials as aiobotocore returns them for a role."""

    def __init__(self) -> None:
        self.fetched = 0
        self.expires_soon = False

    def refresh_needed(self) -> bool:
        return self.expires_soon

    async def get_frozen_credentials(self) -> Any:
        self.fetched += 1
        self.expires_soon = False
        return Credentials(f"id-{self.fetched}", "secret", "token")


@pytest.mark.asyncio
async def test_credentials_of_a_role_are_refreshed_once_before_they_expire(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Concurrent requests share one refresh and all get the new credentials."""
    role = _RoleCredentials()

    async def get_credentials(session: object) -> _RoleCredentials:
        return role

    monkeypatch.setattr(aiobotocore.session.AioSession, "get_credentials", get_credentials)
    account = Account(S3Options())
    assert (await account.credentials()).access_key == "id-1"
    assert (await account.credentials()).access_key == "id-1"
    role.expires_soon = True
    given: list[str] = []

    async def ask() -> None:
        given.append((await account.credentials()).access_key)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(ask)

    assert given == ["id-2"] * 8


SIGN_IN = """
[profile sso]
sso_session = company
sso_account_id = 123456789012
sso_role_name = reader
region = eu-north-1
[profile old-sso]
sso_start_url = https://company.test/start
sso_region = eu-north-1
sso_account_id = 123456789012
sso_role_name = reader
[sso-session company]
sso_region = eu-north-1
sso_start_url = https://company.test/start
"""


@pytest.mark.parametrize("profile", ["sso", "old-sso"])
@pytest.mark.asyncio
async def test_without_a_sign_in_the_command_for_it_is_named(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both forms of an SSO profile: with a session of its own, and the older one."""
    (tmp_path / "config").write_text(SIGN_IN)
    monkeypatch.setenv("HOME", str(tmp_path))  # no cached token

    with pytest.raises(AccessError, match=f"run `aws sso login --profile {profile}`"):
        await Account(S3Options(profile=profile)).credentials()


@pytest.mark.parametrize(("listens", "cause"), [(False, "refused"), (True, "respond in time")])
@pytest.mark.asyncio
async def test_an_unreachable_sts_ends_the_first_lookup_and_is_named(
    listens: bool, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of attempts is small, each has a limit, and a retry of ours does not follow."""
    (tmp_path / "token").write_text("web-identity")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader")
    monkeypatch.setattr(botocore_module, "_READ_SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://{host}")
        monkeypatch.setattr(botocore_module, "_ATTEMPTS", 1)

        with pytest.raises(AccessError, match=f"{host} .*{cause}"):
            await Account(S3Options(region_name="us-east-1")).credentials()


@pytest.mark.asyncio
async def test_a_source_that_never_returns_ends_the_lookup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A credential process that waits for a password is an example."""

    async def wait(session: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(aiobotocore.session.AioSession, "get_credentials", wait)
    monkeypatch.setattr(botocore_module, "_LOOKUP_SECONDS", 0.1)

    with pytest.raises(AccessError, match="no source returned any"):
        await Account(S3Options(profile="work")).credentials()


@pytest.mark.asyncio
async def test_a_failed_refresh_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials have worked before, so the service has an outage and a retry may help."""
    role = _RoleCredentials()

    async def get_credentials(session: object) -> _RoleCredentials:
        return role

    async def fail() -> Any:
        raise EndpointConnectionError(endpoint_url="https://sts.test/?secret", error=None)

    monkeypatch.setattr(aiobotocore.session.AioSession, "get_credentials", get_credentials)
    account = Account(S3Options())
    await account.credentials()
    role.expires_soon = True
    monkeypatch.setattr(role, "get_frozen_credentials", fail)

    with pytest.raises(NetworkError, match=r"service sts\.test cannot be reached"):
        await account.credentials()


@pytest.mark.asyncio
async def test_only_the_rejected_credentials_are_replaced(tmp_path: Path) -> None:
    """If two requests were rejected with the same credentials, only the first looks up new ones."""
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


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("credential_process = /bin/echo Secret-1", "returned something else than credentials"),
        ("credential_process = /nowhere/tool", "No such file or directory: /nowhere/tool"),
        (
            "role_arn = arn:aws:iam::1:role/r\nweb_identity_token_file = /nowhere/token",
            "No such file or directory: /nowhere/token",
        ),
    ],
)
async def test_a_source_that_fails_in_its_own_way_is_an_access_error(
    setting: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What botocore does not turn into an error of its own is no reason for a traceback."""
    (tmp_path / "config").write_text(f"[profile p]\nregion = us-east-1\n{setting}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(AccessError, match=message) as caught:
        await Account(S3Options(profile="p")).credentials()
    assert "Secret-1" not in "".join(traceback.format_exception(caught.value))


def test_the_command_line_prints_no_traceback_of_the_lookup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiobotocore logs one before it raises, and Python prints what no handler takes."""
    (tmp_path / "config").write_text(SIGN_IN)
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = run_cli("ls", "s3://bucket/x", "--profile", "sso")
    assert "run `aws sso login --profile sso`" in shown.stderr
    assert "Refreshing" not in shown.stderr
