"""The world of the Metaflow scenarios: the Hub, and MinIO as the flows' datastore."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hftransfer.testing.s3 import S3Server, find_minio, start_minio
from perf.hub_world import HubWorld, hub
from perf.model import Job, Place, Setup, World
from perf.report.results import OURS
from perf.run.dataset import FileSpec
from perf.run.environments import python_of
from perf.run.process import clean_environ
from perf.run.workdir import MANY_FILES, Scratch

__all__ = ("INCUMBENT", "Mode", "metaflow", "missing_for_metaflow")

INCUMBENT = "metaflow-checkpoint"

Mode = Literal["load", "model", "checkpoint"]
"""What a flow does: load a repository, load a model by reference, save a checkpoint."""

_LAUNCHER = Path(__file__).with_name("clients") / "mf_run.py"


def metaflow(files: Sequence[FileSpec], mode: Mode, *, filled: bool = False) -> Setup:
    """Return what opens a Hub with one repository, and a datastore.

    Args:
        files: of the repository; in the mode ``checkpoint`` what is saved.
        mode: what the flow does.
        filled: the datastore holds the repository already, as each tool stored it itself.
    """
    return partial(_open, tuple(files), mode, filled)


def missing_for_metaflow() -> str | None:
    """Return what must be installed before flows can run, or None."""
    if find_minio() is None:
        return "MinIO: see the README"
    found = subprocess.run(
        [sys.executable, "-c", "import metaflow_extensions.obcheckpoint, boto3"],
        capture_output=True,
        check=False,
    )
    return None if found.returncode == 0 else 'Metaflow: pip install "hftransfer[metaflow]" boto3'


class MetaflowWorld(World):
    """A datastore in a bucket, new for every job or filled once."""

    def __init__(self, place: Place, hub_world: HubWorld, server: S3Server, mode: Mode) -> None:
        import botocore.session

        self.bytes = hub_world.bytes
        self.files = hub_world.files
        self._hub = hub_world
        self._server = server
        self._mode = mode
        root = place.root / "metaflow"
        root.mkdir(exist_ok=True)
        self._scratch = Scratch(root, self.files)
        self._filled: dict[str, tuple[str, Any]] = {}
        """By tool: the prefix of its datastore, and the reference to what is there."""
        self._bucket = "perf"
        client: Any = botocore.session.Session().create_client(
            "s3",
            endpoint_url=server.endpoint,
            region_name=server.region,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
        )
        client.create_bucket(Bucket=self._bucket)
        self._client = client

    def fill(self, tool: str, python: str) -> None:
        """Have a tool store the repository once, in its own way."""
        with self._job(tool, "fill") as job:
            environ = clean_environ(job.environ)
            command = [python, str(_LAUNCHER), str(job.path)]
            subprocess.run(command, env=environ, cwd=job.scratch, check=True, stdout=sys.stderr)
            reference = json.loads(job.facts.read_text())["reference"]
            self._filled[tool] = (str(job.values["prefix"]), reference)

    def close(self) -> None:
        """Delete what flows have left on the disk."""
        self._scratch.clear()

    @contextmanager
    def job(self, tool: str) -> Iterator[Job]:
        """Give the flow a folder of its own, and an empty datastore or its filled one."""
        with self._job(tool, self._mode) as job:
            try:
                yield job
            finally:
                if tool not in self._filled and self.files < MANY_FILES:
                    self._delete(str(job.values["prefix"]))

    @contextmanager
    def _job(self, tool: str, mode: str) -> Iterator[Job]:
        with self._hub.job(tool) as inner, self._scratch.fresh() as work:
            prefix, reference = self._filled.get(tool, (uuid.uuid4().hex, None))
            values = {
                **inner.values,
                "mode": mode,
                "prefix": prefix,
                "reference": reference,
                "payload": str(self._hub.payload),
            }
            job = Job(values, inner.scratch, {**inner.environ, **self._environ(work, prefix)})
            yield job

    def problem(self, job: Job) -> str | None:
        """Compare every file, or every stored object, with its source."""
        if self._mode != "checkpoint":
            return self._hub.problem(job)
        found = {}
        for key in self._keys(f"{job.values['prefix']}/mf.checkpoints/checkpoints/artifacts/"):
            found[key.split("/", 9)[-1]] = key
        sources = {
            file.relative_to(self._hub.payload).as_posix(): file
            for file in self._hub.payload.rglob("*")
            if file.is_file()
        }
        if set(found) != set(sources):
            return f"{len(found)} objects were stored for {len(sources)} files"
        for name, source in sources.items():
            if not self._is_equal(found[name], source):
                return f"{name} differs"
        return None

    def requests(self) -> Mapping[str, int]:
        """Count those to the Hub; MinIO counts none."""
        return self._hub.requests()

    def _is_equal(self, key: str, source: Path) -> bool:
        body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
        with source.open("rb") as file:
            while block := body.read(1 << 20):
                if file.read(len(block)) != block:
                    return False
            return not file.read(1)

    def _keys(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def _delete(self, prefix: str) -> None:
        for key in self._keys(prefix + "/"):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _environ(self, work: Path, prefix: str) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self._server.access_key,
            "AWS_SECRET_ACCESS_KEY": self._server.secret_key,
            "AWS_DEFAULT_REGION": self._server.region,
            "HOME": str(work),
            "HF_HUB_DISABLE_XET": "1",
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(work),
            "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{self._bucket}/{prefix}",
            "METAFLOW_DEFAULT_DATASTORE": "s3",
            "METAFLOW_DEFAULT_METADATA": "local",
            "METAFLOW_HOME": str(work / "home"),
            "METAFLOW_S3_ENDPOINT_URL": self._server.endpoint,
            "METAFLOW_USER": "perf",
            "TMPDIR": str(work),
            # Else metaflow-checkpoint cannot finish with hundreds of files: its progress bar
            # fills one pipe with a line that never ends, and Metaflow reads that one while
            # the task waits to be read at the other.
            "TQDM_DISABLE": "1",
            "PATH": os.environ.get("PATH", ""),
        }


@contextmanager
def _open(
    files: tuple[FileSpec, ...], mode: Mode, filled: bool, place: Place
) -> Iterator[MetaflowWorld]:
    with ExitStack() as stack:
        hub_world = stack.enter_context(hub(files)(place))
        assert isinstance(hub_world, HubWorld)
        shutil.rmtree(place.root / "minio", ignore_errors=True)
        server = stack.enter_context(start_minio(place.root / "minio"))
        world = MetaflowWorld(place, hub_world, server, mode)
        stack.callback(world.close)
        if filled:
            place.tell("storing the repository in the datastore")
            for tool, python in ((OURS, sys.executable), (INCUMBENT, python_of("metaflow"))):
                if python is not None:
                    world.fill(tool, python)
        yield world
