"""Roles, with moto's STS, which checks every signature and every policy.

The user may only assume the role; the role may only use S3.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

import botocore.session
from aiohttp import ClientSession, web
from anyio.from_thread import start_blocking_portal

from hftransfer.errors import AccessError
from hftransfer.testing.s3 import S3Server, start_moto
from metaflow_extensions.hftransfer.plugins.engine import s3_clients
from support.files import tree
from support.metaflow_stores import Datastore
from support.s3 import Bucket, client_params, run_server
from support.s3_proxy import proxy_for, xml_error

pytestmark = [pytest.mark.metaflow, pytest.mark.s3, pytest.mark.timeout(120)]

BUCKET = "roles"


def policy(action: str, **more: Any) -> str:
    statement = {"Effect": "Allow", "Action": action, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@dataclass(frozen=True)
class Identities:
    """A server that requires valid signatures, with a user and a role."""

    server: S3Server
    user: dict[str, str] = field(repr=False)
    """Credentials of the user, as ``AWS_*`` variables."""
    role: str


@pytest.fixture(scope="module")
def identities() -> Iterator[Identities]:
    """One user, who may assume one role, which may use S3."""
    with run_server(start_moto) as server:

        def client(service: str) -> Any:
            return botocore.session.Session().create_client(service, **client_params(server))

        iam = client("iam")
        client("s3").create_bucket(Bucket=BUCKET)
        iam.create_user(UserName="user")
        iam.put_user_policy(
            UserName="user",
            PolicyName="roles",
            PolicyDocument=policy("sts:AssumeRole", Resource="*"),
        )
        made = iam.create_role(
            RoleName="data",
            AssumeRolePolicyDocument=policy("sts:AssumeRole", Principal={"AWS": "*"}),
        )
        iam.put_role_policy(
            RoleName="data", PolicyName="s3", PolicyDocument=policy("s3:*", Resource="*")
        )
        key = iam.create_access_key(UserName="user")["AccessKey"]
        user = {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_DEFAULT_REGION": server.region,
        }
        # From here on the server checks every signature.
        connection = HTTPConnection(server.endpoint.removeprefix("http://"))
        connection.request("POST", "/moto-api/reset-auth", b"0")
        assert connection.getresponse().status == 200
        connection.close()
        yield Identities(server, user, made["Role"]["Arn"])


@pytest.fixture(autouse=True)
def empty_client_cache() -> Iterator[None]:
    """Each test assumes its role again."""
    s3_clients._clients.clear()
    yield
    s3_clients._clients.clear()


@pytest.fixture
def as_user(identities: Identities, monkeypatch: pytest.MonkeyPatch, clean_environ: Path) -> None:
    """This process has the user's credentials, and the STS endpoint of the server."""
    for name, value in identities.user.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", identities.server.endpoint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoint"
    (made / "deep").mkdir(parents=True)
    (made / "weights.bin").write_bytes(os.urandom(20_000_000))
    (made / "deep" / "config.json").write_text("{}")
    return made


def datastore(
    identities: Identities, name: str, *, role: str | None, endpoint: str | None = None
) -> Datastore:
    parameters = {"endpoint_url": endpoint or identities.server.endpoint}
    return Datastore("s3", f"s3://{BUCKET}/{name}", parameters, role=role)


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("form", ["objects", "tarball"])
def test_a_role_is_assumed(identities: Identities, folder: Path, tmp_path: Path, form: str) -> None:
    """With `role_arn` checkpoints are saved, listed and loaded; without it access is denied."""
    store = datastore(identities, form, role=identities.role).storage()
    getattr(store, f"_save_{form}")("one", str(folder))
    getattr(store, f"_load_{form}")("one", str(tmp_path / "loaded"))

    assert tree(tmp_path / "loaded") == tree(folder)
    assert list(store.list_paths([""]))
    with pytest.raises(AccessError):
        getattr(datastore(identities, form, role=None).storage(), f"_save_{form}")(
            "two", str(folder)
        )


@dataclass
class Expiring:
    """A proxy between client and server: the first role credentials expire in a transfer.

    STS returns credentials for one minute, so botocore renews them when it is asked again.
    """

    server: S3Server
    bodies: int
    """Requests of `method` for data until the first credentials expire."""
    method: str
    keys: list[str] = field(default_factory=list)
    """Access keys, in the order of their first request for data."""
    refused: int = 0
    assumed: int = 0
    """Requests to STS for credentials of the role."""

    async def hook(self, request: web.Request) -> web.StreamResponse | None:
        body = await request.read()
        if b"Action=AssumeRole" in body:
            return await self._assume(request, body)
        if request.method != self.method or not request.path.endswith(("weights.bin", "one")):
            return None
        key = request.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        if key not in self.keys:
            self.keys.append(key)
        if key != self.keys[0]:
            return None
        self.bodies -= 1
        if self.bodies >= 0:
            return None
        self.refused += 1
        return xml_error(400, "ExpiredToken", "The provided token has expired.")

    async def _assume(self, request: web.Request, body: bytes) -> web.Response:
        self.assumed += 1
        url = self.server.endpoint + request.path_qs
        async with (
            ClientSession() as session,
            session.post(url, data=body, headers=request.headers) as response,
        ):
            text = await response.text()
            start, _, rest = text.partition("<Expiration>")
            end = datetime.now(timezone.utc) + timedelta(minutes=1)
            text = f"{start}<Expiration>{end:%Y-%m-%dT%H:%M:%SZ}{rest[rest.index('<') :]}"
            return web.Response(status=response.status, text=text, content_type="text/xml")


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("form", ["objects", "tarball"])
@pytest.mark.parametrize("direction", ["save", "load"])
def test_the_credentials_of_a_role_are_renewed_in_a_transfer(
    identities: Identities,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    direction: str,
) -> None:
    """When they expire, the transfer continues with new ones of the same role."""
    monkeypatch.setenv("HFTRANSFER_CHUNK_SIZE", "5MiB")
    monkeypatch.setenv("HFTRANSFER_CONNECTIONS", "1")
    monkeypatch.setenv("HFTRANSFER_MEMORY_BUDGET", "10MiB")
    name = f"renewed-{direction}-{form}"
    if direction == "load":
        whole = datastore(identities, name, role=identities.role).storage()
        getattr(whole, f"_save_{form}")("one", str(folder))
        s3_clients._clients.clear()
    expiring = Expiring(identities.server, bodies=2, method="PUT" if direction == "save" else "GET")
    bucket = Bucket(identities.server, BUCKET)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(proxy_for(bucket, expiring.hook)) as endpoint,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint)
        store = datastore(identities, name, role=identities.role, endpoint=endpoint).storage()
        place = folder if direction == "save" else tmp_path / "loaded"
        getattr(store, f"_{direction}_{form}")("one", str(place))

    if direction == "save":
        s3_clients._clients.clear()
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", identities.server.endpoint)
        store = datastore(identities, name, role=identities.role).storage()
        getattr(store, f"_load_{form}")("one", str(tmp_path / "loaded"))
    assert tree(tmp_path / "loaded") == tree(folder)
    assert expiring.refused
    assert len(expiring.keys) == 2
    assert expiring.assumed >= 2
