"""Fixtures for flows: a Hub on loopback, and datastores.

A run of Metaflow takes seconds, so runs are module-scoped fixtures that several tests use.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hftransfer.testing import HubServer, RandomFile
from support.environments import linked_environment
from support.metaflow_flows import FILES, PRIVATE_REPO, REPO, TOKEN, FlowRunner, S3Datastore
from support.metaflow_stores import Datastore
from support.s3 import client_params, s3_client

if TYPE_CHECKING:
    from hftransfer.testing.s3 import S3Server


@pytest.fixture(scope="session")
def upstream_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with the packages of this one except hftransfer."""
    folder = tmp_path_factory.mktemp("upstream")
    return str(linked_environment(folder, lambda name: "hftransfer" not in name) / "python")


@pytest.fixture(scope="module")
def model_hub() -> Iterator[HubServer]:
    """A Hub with two public repositories, one of them with two revisions, and a private one."""
    with HubServer() as hub:
        repo = hub.create_repo(REPO, files=FILES)
        repo.create_branch("v2")
        repo.commit({"config.json": b'{"revision": "v2"}'}, revision="v2")
        large: dict[str, bytes | RandomFile] = {"large.bin": RandomFile(40_000_000, seed=3)}
        hub.create_repo("acme/chunks", files=large)
        hub.create_repo(PRIVATE_REPO, files={"config.json": b"{}"}, private=True, token=TOKEN)
        yield hub


@pytest.fixture(scope="module")
def local_runner(model_hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> FlowRunner:
    """Runs flows on a local datastore that the tests of a module share."""
    return FlowRunner(tmp_path_factory.mktemp("local"), model_hub.environ())


@pytest.fixture
def runner(model_hub: HubServer, tmp_path: Path) -> FlowRunner:
    """Runs flows on a local datastore of this test alone."""
    return FlowRunner(tmp_path, model_hub.environ())


@pytest.fixture(scope="module")
def s3_datastore(minio: S3Server) -> Iterator[S3Datastore]:
    """A new bucket on MinIO."""
    client = s3_client(minio)
    datastore = S3Datastore(client, f"metaflow-{uuid.uuid4().hex[:16]}")
    client.create_bucket(Bucket=datastore.bucket)
    yield datastore
    for key in datastore.below(""):
        client.delete_object(Bucket=datastore.bucket, Key=key)
    client.delete_bucket(Bucket=datastore.bucket)
    client.close()


@pytest.fixture(params=["local", "s3"])
def datastore(request: pytest.FixtureRequest, tmp_path: Path) -> Datastore:
    """An empty datastore of this process, local or on MinIO."""
    if request.param == "local":
        return Datastore("local", str(tmp_path / "datastore" / ".metaflow"))
    minio: S3Server = request.getfixturevalue("minio")
    bucket: S3Datastore = request.getfixturevalue("s3_datastore")
    root = f"s3://{bucket.bucket}/{uuid.uuid4().hex}"
    return Datastore("s3", root, client_params(minio))


@pytest.fixture(scope="module")
def s3_runner(
    model_hub: HubServer,
    minio: S3Server,
    s3_datastore: S3Datastore,
    tmp_path_factory: pytest.TempPathFactory,
) -> FlowRunner:
    """Runs flows on a datastore in S3; Metaflow's own setting gives the endpoint."""
    environ = {
        **model_hub.environ(),
        "AWS_ACCESS_KEY_ID": minio.access_key,
        "AWS_SECRET_ACCESS_KEY": minio.secret_key,
        "AWS_DEFAULT_REGION": minio.region,
        "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{s3_datastore.bucket}/root",
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_S3_ENDPOINT_URL": minio.endpoint,
    }
    return FlowRunner(tmp_path_factory.mktemp("s3"), environ)
