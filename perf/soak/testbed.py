"""The servers of a soak behind their relays, and the sources that they serve."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hftransfer.testing import HubServer
from hftransfer.testing.s3 import S3Server, start_minio
from perf.run.dataset import create_dataset, difference
from perf.soak.plan import Episode, FileSet, file_sets
from perf.soak.relay import Conditions, Relay, RelayThread

__all__ = ("SoakTestbed", "open_testbed")

_BUCKET = "soak"


@dataclass(frozen=True)
class SoakTestbed:
    """Where transfers come from and go to, and the line between."""

    root: Path
    datasets: Mapping[str, Path]
    """Folder of each file set."""
    conditions: Conditions
    relays: tuple[Relay, ...]
    environ: Mapping[str, str]
    """Of every process that transfers: it makes them use the relays."""
    client: Any
    """A botocore client that bypasses the relay."""

    def source(self, episode: Episode) -> str:
        """Return the location that an episode reads."""
        name = episode.files.name
        start = episode.direction.value.partition("-")[0]
        if start == "hub":
            return f"hf://soak/{name}"
        if start == "s3":
            return f"s3://{_BUCKET}/source/{name}/"
        return str(self.datasets[name])

    def destination(self, episode: Episode, lane: int) -> str:
        """Return the location that an episode writes, which is not used for another."""
        name = f"lane{lane}-{episode.number}"
        if episode.direction.value.endswith("-s3"):
            return f"s3://{_BUCKET}/result/{name}/"
        return f"{self.root / 'results' / name}/"

    def find_error(self, episode: Episode, destination: str) -> str | None:
        """Return how a result differs from its source, or what was left behind; else None."""
        if destination.startswith("s3://"):
            return self._find_error_in_store(episode, destination)
        folder = Path(destination)
        expected = {file.path for file in episode.files.files}
        found = {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        }
        if found != expected:
            return f"left behind: {sorted(found - expected)}, missing: {sorted(expected - found)}"
        return difference(self.datasets[episode.files.name], folder, sorted(expected))

    def _find_error_in_store(self, episode: Episode, destination: str) -> str | None:
        prefix = destination.removeprefix(f"s3://{_BUCKET}/")
        dataset = self.datasets[episode.files.name]
        for file in episode.files.files:
            key = prefix + file.path
            # MinIO lists the open uploads of an exact key only.
            uploads = self.client.list_multipart_uploads(Bucket=_BUCKET, Prefix=key)
            if uploads.get("Uploads"):
                return f"left behind: an open upload of {key}"
            try:
                body = self.client.get_object(Bucket=_BUCKET, Key=key)["Body"]
            except self.client.exceptions.NoSuchKey:
                return f"missing: {key}"
            with body:
                if _digest(body) != _file_digest(dataset / file.path):
                    return f"{key} differs from its source"
        return None

    def remove(self, destination: str) -> None:
        """Delete a result."""
        if not destination.startswith("s3://"):
            shutil.rmtree(destination, ignore_errors=True)
            return
        prefix = destination.removeprefix(f"s3://{_BUCKET}/")
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix=prefix)
        for page in pages:
            if keys := [{"Key": each["Key"]} for each in page.get("Contents", ())]:
                self.client.delete_objects(Bucket=_BUCKET, Delete={"Objects": keys})

    def counts(self) -> Mapping[str, int]:
        """Return how often each fault of the relays has happened."""
        total: Counter[str] = Counter()
        for relay in self.relays:
            total.update(relay.counts)
        return total


def _digest(body: Any) -> str:
    digest = hashlib.blake2b()
    while block := body.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(file)


@contextmanager
def open_testbed(root: Path, seed: int) -> Iterator[SoakTestbed]:
    """Start the servers and the relays, and store the sources.

    Args:
        root: an empty directory for everything on disk.
        seed: of the faults.
    """
    conditions = Conditions()
    datasets = {each.name: _dataset(each, root) for each in file_sets()}
    with ExitStack() as stack:
        thread = stack.enter_context(RelayThread())
        hub = stack.enter_context(HubServer())
        server = stack.enter_context(start_minio(root / "minio"))

        def relay(url: str) -> Relay:
            parts = urlsplit(url)
            generator = random.Random(f"hftransfer soak: {seed}, {len(relays)}")
            assert parts.hostname is not None
            assert parts.port is not None
            started = Relay(thread, parts.hostname, parts.port, conditions, generator)
            stack.callback(started.close)
            relays.append(started)
            return started

        relays: list[Relay] = []
        api, cdn, store = (
            relay(each) for each in (hub.endpoint, hub.cdn_endpoint, server.endpoint)
        )
        for name, folder in datasets.items():
            hub.create_repo(f"soak/{name}", folder=folder)
        hub.public_url = f"http://127.0.0.1:{api.port}"
        hub.cdn_url = f"http://localhost:{cdn.port}"
        client = _s3_client(server)
        stack.callback(client.close)
        client.create_bucket(Bucket=_BUCKET)
        for name, folder in datasets.items():
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    key = f"source/{name}/{file.relative_to(folder).as_posix()}"
                    client.put_object(Bucket=_BUCKET, Key=key, Body=file.read_bytes())
        endpoint = f"http://127.0.0.1:{store.port}"
        environ = {
            **hub.environ(),
            **server.client_environ(),
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "XDG_STATE_HOME": str(root / "state"),
            "HF_HOME": str(root / "hf"),
        }
        yield SoakTestbed(root, datasets, conditions, tuple(relays), environ, client)


def _dataset(files: FileSet, root: Path) -> Path:
    (root / "datasets").mkdir(exist_ok=True)
    return create_dataset(files.files, root / "datasets")


def _s3_client(server: S3Server) -> Any:
    import botocore.session

    return botocore.session.Session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
