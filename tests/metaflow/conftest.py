"""Flows as a user runs them: real processes, a Hub on loopback, datastores of their own.

A Metaflow run costs seconds, so runs are module-scoped fixtures that several tests look at.
"""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hftransfer.testing import HubServer, RandomFile
from support.metaflow_stores import Datastore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hftransfer.testing.s3 import S3Server

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent.parent / "examples"
REPO = "bert-base-uncased"
PRIVATE_REPO = "acme/private"
TOKEN = "hf_SECRETsecretSECRETsecret"
FILES: dict[str, bytes | RandomFile] = {
    ".gitattributes": b"*.bin filter=lfs\n",
    "README.md": b"# main\n",
    "config.json": b'{"revision": "main"}',
    "coreml/weights/weight.bin": RandomFile(300_000, seed=1),
    "model.safetensors": RandomFile(3_000_000, seed=2),
    "tokenizer.json": b"{}",
    "vocab.txt": b"a\nb\n",
}


@dataclass(frozen=True)
class FlowRun:
    """One finished run: its exit code, what it printed, and where it ran."""

    code: int
    output: str
    work: Path

    @property
    def probe(self) -> dict[str, Any]:
        """What `flows/probe_flow.py` saw."""
        assert self.code == 0, self.output
        _, _, found = self.output.partition("PROBE ")
        seen: dict[str, Any] = json.loads(found.splitlines()[0])
        return seen


class FlowRunner:
    """Runs flows in a folder of their own, which also holds the local datastore."""

    examples = EXAMPLES

    def __init__(self, work: Path, environ: Mapping[str, str]) -> None:
        self.work = work
        self.temporary = work / "tmp"
        self.temporary.mkdir()
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AWS_", "HF_", "HFTRANSFER_", "METAFLOW_"))
        }
        self.environ = {
            **inherited,
            "HF_HOME": str(work / "hf-home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HOME": str(work),
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(work),
            "METAFLOW_DEFAULT_DATASTORE": "local",
            "METAFLOW_DEFAULT_METADATA": "local",
            "METAFLOW_HOME": str(work / "metaflow"),
            "METAFLOW_USER": "tester",
            "TMPDIR": str(self.temporary),
            **environ,
        }

    def run(self, script: Path | str, *arguments: str, **options: Any) -> FlowRun:
        """Run a flow to its end; see `start`."""
        with self.start(script, *arguments, **options) as process:
            output, _ = process.communicate()
        return self.finished(process.returncode, output)

    def finished(self, code: int, output: str) -> FlowRun:
        """Return the run that ended so."""
        return FlowRun(code, output, self.work)

    @contextmanager
    def start(
        self,
        script: Path | str,
        *arguments: str,
        probe: Mapping[str, Any] | None = None,
        incumbent: bool = False,
        environ: Mapping[str, str] | None = None,
        python: str | None = None,
        command: Sequence[str] = ("run",),
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a flow; nothing of it outlives the block.

        Args:
            script: a file, or the name of one in ``flows``.
            *arguments: what follows the command.
            probe: what ``probe_flow.py`` is to do.
            incumbent: with metaflow-checkpoint's decorator instead of ours.
            environ: further variables.
            python: an interpreter other than this one.
            command: of the flow.
        """
        variables = {**self.environ, "PROBE": json.dumps(probe or {}), **(environ or {})}
        if incumbent:
            paths = [variables.get("PYTHONPATH", ""), str(HERE / "upstream_ext")]
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        with subprocess.Popen(
            [python or sys.executable, str(HERE / "flows" / script), *command, *arguments],
            cwd=self.work,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it ended by itself

    def stored(self) -> dict[str, bytes]:
        """Return everything below the local datastore's Hugging Face prefix."""
        root = self.work / ".metaflow" / "mf.huggingface_hub"
        return {
            str(file.relative_to(root)): file.read_bytes()
            for file in root.rglob("*")
            if file.is_file()
        }


@pytest.fixture(scope="session")
def theirs_alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter whose environment is this one's without hftransfer."""
    import venv

    folder = tmp_path_factory.mktemp("theirs")
    venv.create(folder / "venv", symlinks=True)
    packages = folder / "packages"
    (packages / "metaflow_extensions").mkdir(parents=True)
    for place in map(Path, site.getsitepackages()):
        for item in place.iterdir():
            if "hftransfer" not in item.name and item.name != "metaflow_extensions":
                (packages / item.name).symlink_to(item)
        for item in (place / "metaflow_extensions").glob("*"):
            if item.name != "hftransfer":
                (packages / "metaflow_extensions" / item.name).symlink_to(item)
    (own,) = (folder / "venv").glob("lib/python*/site-packages")
    (own / "packages.pth").write_text(f"{packages}\n")
    return str(folder / "venv" / "bin" / "python")


@pytest.fixture(scope="module")
def model_hub() -> Iterator[HubServer]:
    """A Hub with one public repository of two revisions, and a private one."""
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
    """Runs flows on a local datastore, shared by the tests of a module."""
    return FlowRunner(tmp_path_factory.mktemp("local"), model_hub.environ())


@pytest.fixture
def runner(model_hub: HubServer, tmp_path: Path) -> FlowRunner:
    """Runs flows on a local datastore of this test alone."""
    return FlowRunner(tmp_path, model_hub.environ())


@dataclass(frozen=True)
class S3Datastore:
    """A bucket that serves as Metaflow's datastore."""

    client: Any
    bucket: str

    def below(self, prefix: str = "root/mf.huggingface_hub/") -> list[str]:
        """Return the keys below `prefix`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return [item["Key"] for page in pages for item in page.get("Contents", [])]


@pytest.fixture(scope="module")
def s3_datastore(minio: S3Server) -> Iterator[S3Datastore]:
    """A fresh bucket on MinIO."""
    import botocore.session

    client: Any = botocore.session.Session().create_client(
        "s3",
        endpoint_url=minio.endpoint,
        region_name=minio.region,
        aws_access_key_id=minio.access_key,
        aws_secret_access_key=minio.secret_key,
    )
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
    parameters = {
        "endpoint_url": minio.endpoint,
        "region_name": minio.region,
        "aws_access_key_id": minio.access_key,
        "aws_secret_access_key": minio.secret_key,
    }
    return Datastore("s3", f"s3://{bucket.bucket}/{uuid.uuid4().hex}", parameters)


@pytest.fixture(scope="module")
def s3_runner(
    model_hub: HubServer,
    minio: S3Server,
    s3_datastore: S3Datastore,
    tmp_path_factory: pytest.TempPathFactory,
) -> FlowRunner:
    """Runs flows on a datastore in S3; the endpoint is given as Metaflow's own setting."""
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
