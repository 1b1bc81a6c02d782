"""The worlds of the S3 scenarios: MinIO started here, or the operator's own store.

What is put into a store lies below a prefix of its own and is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hftransfer.testing.s3 import find_minio, start_minio
from perf.hub_world import HubWorld, hub
from perf.model import Job, Place, Setup, World
from perf.report.results import is_limit
from perf.run.dataset import FileSpec, difference, make_payload, require_space, scaled, warm
from perf.run.workdir import MANY_FILES, Scratch

__all__ = ("S3World", "hub_to_s3", "missing_for_s3", "s3")

CONNECTIONS = 16
"""What a tool that must be told is told."""
_PART = 8 << 20
_BUCKET = "perf"
Direction = Literal["get", "put"]


def missing_for_s3() -> str | None:
    """Return what is to be installed before MinIO can be started, or None."""
    if find_minio() is None and shutil.which("go") is None:
        return "MinIO: see hftransfer.testing.s3.ensure_minio"
    return None


def s3(files: Sequence[FileSpec], direction: Direction) -> Setup:
    """Return what opens a store for one payload.

    Args:
        files: of the payload.
        direction: ``get``: they lie in the store; ``put``: they go there.
    """
    return partial(_open, files, direction)


def hub_to_s3(files: Sequence[FileSpec]) -> Setup:
    """Return what opens a Hub with one repository, and a store to which it goes."""
    return partial(_open_hub, hub(files), files)


@dataclass(frozen=True)
class _Store:
    """A bucket, and what reaches it."""

    endpoint: str | None
    bucket: str
    environ: Mapping[str, str]
    client: Any
    prefix: str

    def keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        for page in pages:
            for each in page.get("Contents", ()):
                yield each["Key"], each["Size"]

    def remove(self, prefix: str) -> None:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            keys = [key for key, _ in self.keys(prefix)]
            list(pool.map(lambda key: self.client.delete_object(Bucket=self.bucket, Key=key), keys))

    def put(self, path: Path, key: str) -> None:
        """Store a file as uploaders do by default: in one piece, or in parts of 8 MiB."""
        size = path.stat().st_size
        target = {"Bucket": self.bucket, "Key": key}
        with path.open("rb") as file:
            if size <= _PART:
                self.client.put_object(Body=file.read(), **target)
                return
            upload = self.client.create_multipart_upload(**target)["UploadId"]

            def send(number: int) -> dict[str, Any]:
                body = os.pread(file.fileno(), _PART, (number - 1) * _PART)
                answer = self.client.upload_part(
                    UploadId=upload, PartNumber=number, Body=body, **target
                )
                return {"PartNumber": number, "ETag": answer["ETag"]}

            with ThreadPoolExecutor(4) as pool:
                parts = list(pool.map(send, range(1, -(-size // _PART) + 1)))
        self.client.complete_multipart_upload(
            UploadId=upload, MultipartUpload={"Parts": parts}, **target
        )

    def fetch(self, prefix: str, folder: Path) -> None:
        """Bring what a tool has stored below `prefix` into `folder`, to be compared."""

        def one(key: str) -> None:
            path = folder / key.removeprefix(prefix)
            path.parent.mkdir(parents=True, exist_ok=True)
            body = self.client.get_object(Bucket=self.bucket, Key=key)["Body"]
            with path.open("wb") as file:
                for piece in body.iter_chunks(1 << 20):
                    file.write(piece)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, [key for key, _ in self.keys(prefix)]))

    def presigned(self, operation: str, **parameters: Any) -> str:
        url: str = self.client.generate_presigned_url(
            operation, Params={"Bucket": self.bucket, **parameters}, ExpiresIn=3600
        )
        return url


class S3World(World):
    """A store with a payload in it, or with room for one."""

    def __init__(
        self,
        place: Place,
        store: _Store,
        payload: Path,
        specs: Sequence[FileSpec],
        direction: Direction,
        source: HubWorld | None = None,
    ) -> None:
        self.bytes = sum(spec.size for spec in specs)
        self.files = len(specs)
        self._store = store
        self._payload = payload
        self._specs = specs
        self._direction = direction
        self._source = source
        self._scratch = Scratch(place.root, self.files)
        self._jobs = 0

    def close(self) -> None:
        """Delete what runs have left on the disk."""
        self._scratch.clear()

    @contextmanager
    def job(self, tool: str) -> Iterator[Job]:
        """Give the tool an empty folder, or an empty prefix."""
        self._jobs += 1
        with self._scratch.fresh() as scratch, ExitStack() as stack:
            yield self._prepare(tool, scratch, stack)

    def _prepare(self, tool: str, scratch: Path, stack: ExitStack) -> Job:
        destination = scratch / "to"
        destination.mkdir()
        store, written = self._store, f"{self._store.prefix}run-{self._jobs}/"
        get = self._direction == "get"
        prefix = f"{store.prefix}in/" if get else written
        values: dict[str, Any] = {
            "endpoint": store.endpoint,
            "bucket": store.bucket,
            "prefix": prefix,
            "folder": str(destination if get else self._payload),
            "scratch": str(scratch),
            "connections": CONNECTIONS,
            "files": [{"path": s.path, "size": s.size} for s in self._specs],
            "ca": None,
        }
        environ: dict[str, str | None] = {**store.environ, "HOME": str(scratch)}
        upload_ids: dict[str, str] = {}
        if is_limit(tool):
            self._sign(values["files"], prefix, upload_ids)
        if self.files < MANY_FILES:
            stack.callback(store.remove, written)
        stack.callback(self._abort, upload_ids)
        if self._source is not None:
            inner = stack.enter_context(self._source.job(tool))
            values["hub"] = dict(inner.values)
            environ = {**inner.environ, **environ}
        return Job(values, scratch, environ)

    def _sign(self, files: list[dict[str, Any]], prefix: str, upload_ids: dict[str, str]) -> None:
        """Add to each file the URLs that raw sockets read from, or send parts to."""
        store = self._store
        for file in files:
            key = prefix + file["path"]
            if self._direction == "get":
                file["url"] = store.presigned("get_object", Key=key)
            elif file["size"] <= _PART:
                file["urls"] = [store.presigned("put_object", Key=key)]
            else:
                upload = store.client.create_multipart_upload(Bucket=store.bucket, Key=key)
                upload_ids[key] = upload["UploadId"]
                file["urls"] = [
                    store.presigned(
                        "upload_part", Key=key, UploadId=upload_ids[key], PartNumber=number
                    )
                    for number in range(1, -(-file["size"] // _PART) + 1)
                ]

    def _abort(self, upload_ids: Mapping[str, str]) -> None:
        for key, upload_id in upload_ids.items():
            self._store.client.abort_multipart_upload(
                Bucket=self._store.bucket, Key=key, UploadId=upload_id
            )

    def problem(self, job: Job) -> str | None:
        """Compare every file with its source."""
        copy = Path(job.values["folder"])
        if self._direction == "put":
            copy = job.scratch / "stored"
            self._store.fetch(job.values["prefix"], copy)
        return difference(self._payload, copy, [spec.path for spec in self._specs])

    def requests(self) -> Mapping[str, int]:
        """Return nothing: stores do not count for us."""
        return {}


@contextmanager
def _open(files: Sequence[FileSpec], direction: Direction, place: Place) -> Iterator[S3World]:
    specs = scaled(files, place.scale)
    require_space(place.root, [*specs, *specs])
    payload = make_payload(specs, place.payloads)
    warm(payload)
    with _store(place) as store:
        if direction == "get":
            for spec in specs:
                store.put(payload / spec.path, f"{store.prefix}in/{spec.path}")
        with closing(S3World(place, store, payload, specs, direction)) as world:
            yield world


@contextmanager
def _open_hub(opens_hub: Setup, files: Sequence[FileSpec], place: Place) -> Iterator[S3World]:
    specs = scaled(files, place.scale)
    payload = make_payload(specs, place.payloads)
    root = place.root / "hub"
    root.mkdir(exist_ok=True)
    with opens_hub(replace(place, root=root)) as source, _store(place) as store:
        assert isinstance(source, HubWorld)
        with closing(S3World(place, store, payload, specs, "put", source)) as world:
            yield world


@contextmanager
def _store(place: Place) -> Iterator[_Store]:
    """Give a prefix in the operator's bucket, or in one of a MinIO of our own."""
    import botocore.session

    prefix = f"hftransfer-perf-{uuid.uuid4().hex[:12]}/"
    session = botocore.session.Session()
    with ExitStack() as stack:
        if bucket := place.settings.get("bucket"):
            endpoint = place.settings.get("endpoint_url")
            client: Any = session.create_client("s3", endpoint_url=endpoint)
            environ = {name: text for name, text in os.environ.items() if name.startswith("AWS_")}
            if endpoint is not None:
                environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT_URL_S3": endpoint}
        else:
            root = place.root / "minio"
            shutil.rmtree(root, ignore_errors=True)
            server = stack.enter_context(start_minio(root))
            stack.callback(shutil.rmtree, root, ignore_errors=True)
            bucket, endpoint, environ = _BUCKET, server.endpoint, server.client_environ()
            client = session.create_client(
                "s3",
                endpoint_url=endpoint,
                region_name=server.region,
                aws_access_key_id=server.access_key,
                aws_secret_access_key=server.secret_key,
            )
            client.create_bucket(Bucket=bucket)
        stack.callback(client.close)
        store = _Store(endpoint, bucket, environ, client, prefix)
        stack.callback(store.remove, prefix)
        yield store
