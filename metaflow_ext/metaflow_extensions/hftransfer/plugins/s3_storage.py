"""metaflow-checkpoint's ``s3-compatible`` datastore without its subprocesses.

Registered under the same name, so that ``@checkpoint``, ``@model``, ``@huggingface_hub`` and
``@with_artifact_store`` of a flow on S3 use it. Small objects and listings go through
Metaflow's own S3 client in this process; the engine transfers whole checkpoints (see
`patches.object_storage`). No process is started, so credentials are on no command line.

Imported on every ``import metaflow``, so it imports nothing heavy.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from metaflow.datastore.datastore_storage import CloseAfterUse
from metaflow.plugins.datatools.s3.s3 import S3

try:
    from metaflow_extensions.obcheckpoint.plugins.datastores.s3_compat import S3CompatibleStorage
except Exception:  # noqa: BLE001 - `import metaflow` must work with any release, and with none
    # Without metaflow-checkpoint no decorator uses this datastore.
    from metaflow.plugins.datastores.s3_storage import S3Storage as S3CompatibleStorage

from metaflow_extensions.hftransfer.plugins.engine.s3_clients import shared_client
from metaflow_extensions.hftransfer.plugins.engine.task_log import log_once
from metaflow_extensions.hftransfer.plugins.patches.install import obstacle
from metaflow_extensions.hftransfer.plugins.patches.table import S3_DATASTORE

T = TypeVar("T")
R = TypeVar("R")

# Concurrent requests for small objects.
_THREADS = 16
# Concurrent uploads of files; boto3 sends each of them in parallel parts.
_UPLOADS = 4


class HftransferS3Storage(S3CompatibleStorage):
    """Objects below an S3 prefix, read and written in this process.

    Parameters
    ----------
    root : str, optional
        ``s3://bucket/prefix``.
    session_vars, role_arn, client_params
        As for Metaflow's ``S3``; given by ``@with_artifact_store``.
    """

    TYPE = "s3-compatible"

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return metaflow-checkpoint's datastore if Metaflow's S3 client is not as expected."""
        if not (reason := _obstacle()):
            return super().__new__(cls)
        log_once(f"Disabled: {S3_DATASTORE.name}. Reason: {reason}")
        return S3CompatibleStorage(*args, **kwargs)

    @property
    def _s3_client_params(self) -> dict[str, Any] | None:
        # A copy: Metaflow's client provider puts a Config object into the parameters, which
        # can then be neither stored nor given to another process.
        return copy.deepcopy(self._given_client_params)

    @_s3_client_params.setter
    def _s3_client_params(self, value: dict[str, Any] | None) -> None:
        self._given_client_params = copy.deepcopy(value)

    def is_file(self, paths: Sequence[str]) -> list[bool]:
        with self._s3() as s3:
            infos = _in_threads(lambda path: s3.info(path, return_missing=True), paths)
            return [info.exists for info in infos]

    def info_file(self, path: str) -> tuple[bool, Any]:
        with self._s3() as s3:
            info = s3.info(path, return_missing=True)
            return info.exists, info.metadata

    def size_file(self, path: str) -> int | None:
        with self._s3() as s3:
            size: int | None = s3.info(path, return_missing=True).size
            return size

    def list_content(self, paths: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        with self._s3() as s3:
            for pages in _in_threads(lambda path: self._pages(s3, path), paths):
                for key, is_file in pages:
                    found.append(self.list_content_result(path=key, is_file=is_file))
        return found

    def load_bytes(self, paths: Sequence[str]) -> Any:
        return self._load(paths)

    def load_files(self, keys: Sequence[str]) -> Any:
        return self._load(keys)

    def save_bytes(
        self,
        path_and_bytes_iter: Iterable[tuple[str, Any]],
        overwrite: bool = False,
        len_hint: int = 0,
    ) -> None:
        def put(item: tuple[str, Any]) -> None:
            path, value = item
            blob, metadata = value if isinstance(value, tuple) else (value, None)
            s3.put(path, blob, overwrite=overwrite, metadata=metadata)

        with self._s3() as s3:
            _in_threads(put, list(path_and_bytes_iter))

    def save_file(self, key: str, path: str, overwrite: bool = False) -> None:
        self.save_files([(key, path)], overwrite=overwrite)

    def save_files(
        self, key_path_tuples: Iterable[tuple[str, str]], overwrite: bool = False
    ) -> None:
        def put(item: tuple[str, str]) -> None:
            key, path = item
            with open(path, "rb") as file:
                s3.put(key, file, overwrite=overwrite)

        with self._s3() as s3:
            _in_threads(put, list(key_path_tuples), threads=_UPLOADS)

    def delete(self, key: str) -> bool:
        with self._s3() as s3:
            self._delete(s3, [self._location(key)[1]])
        return True

    def delete_prefix(self, key_prefix: str) -> bool:
        """Delete the object `key_prefix` and everything below it.

        Keys that merely begin with the same text are not deleted.
        """
        with self._s3() as s3:
            _, key = self._location(key_prefix)
            self._delete(s3, [key.rstrip("/"), *self._below(s3, key)])
        return True

    def list_uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Return the multipart uploads that are neither completed nor aborted.

        Parameters
        ----------
        prefix : str
            Of their keys. MinIO lists only the uploads whose key is exactly `prefix`.

        Returns
        -------
        list of tuple
            Key, relative to the root, and upload id. Empty if the store cannot list uploads,
            or does not permit it.
        """
        bucket, start = self._location(prefix)
        skip = len(start) - len(prefix)
        shared = self._client()
        pages = shared.client.get_paginator("list_multipart_uploads")
        try:
            return [
                (item["Key"][skip:], item["UploadId"])
                for page in pages.paginate(Bucket=bucket, Prefix=start)
                for item in page.get("Uploads", ())
            ]
        except shared.error:
            return []  # without the list fewer unfinished uploads are found and removed

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Abort a multipart upload; one that no longer exists is no error."""
        bucket, name = self._location(key)
        shared = self._client()
        try:
            shared.client.abort_multipart_upload(Bucket=bucket, Key=name, UploadId=upload_id)
        except shared.error as error:
            if _status(error) != 404:
                raise

    def read_with_etag(self, key: str) -> tuple[bytes, str] | None:
        """Return a small object and its ETag; None if there is none."""
        bucket, name = self._location(key)
        shared = self._client()
        try:
            found = shared.client.get_object(Bucket=bucket, Key=name)
        except shared.error as error:
            if _status(error) == 404:
                return None
            raise
        return found["Body"].read(), found["ETag"]

    def write_if(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Store a small object by a conditional write.

        Parameters
        ----------
        key : str
        data : bytes
        etag : str, optional
            The ETag that the object must have; None if it must not exist.

        Returns
        -------
        str or None
            The new ETag; None if the condition does not hold.
        """
        from metaflow.metaflow_config import S3_SERVER_SIDE_ENCRYPTION

        bucket, name = self._location(key)
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        if S3_SERVER_SIDE_ENCRYPTION:
            condition["ServerSideEncryption"] = S3_SERVER_SIDE_ENCRYPTION
        shared = self._client()
        try:
            stored = shared.client.put_object(Bucket=bucket, Key=name, Body=data, **condition)
        except shared.error as error:
            # 404 to a write without an ETag means that the bucket is missing.
            if _status(error) in ((409, 412) if etag is None else (404, 409, 412)):
                return None
            raise
        found: str = stored["ETag"]
        return found

    def _client(self) -> Any:
        return shared_client(self._s3_role_arn, self._s3_session_vars, self._s3_client_params)

    def _s3(self) -> Any:
        return S3(
            s3root=self.datastore_root,
            # metaflow-checkpoint moves loaded files from there: on one file system, a rename.
            tmproot=tempfile.gettempdir(),
            external_client=self._client(),
        )

    def _load(self, paths: Sequence[str]) -> Any:
        if not paths:
            return CloseAfterUse(iter(()))
        s3 = self._s3()

        def results() -> Iterator[tuple[str, str | None, Any]]:
            yield from _in_threads(
                lambda path: _loaded(s3.get(path, return_missing=True, return_info=True)), paths
            )

        return CloseAfterUse(results(), closer=s3)

    def _location(self, path: str) -> tuple[str, str]:
        """Return bucket and key of `path`."""
        # Not by `urlparse`: a key may contain "?" and "#".
        url = path if path.startswith("s3://") else f"{self.datastore_root.rstrip('/')}/{path}"
        bucket, _, key = url.removeprefix("s3://").partition("/")
        return bucket, key

    def _pages(self, s3: Any, path: str) -> list[tuple[str, bool]]:
        """List what is directly below `path`: paths relative to the root, and if each is a file."""
        bucket, key = self._location(path)
        prefix = key.rstrip("/") + "/" if key else ""
        root = self._location("")[1].rstrip("/")
        skip = len(root) + 1 if root else 0

        def list_pages(client: Any, _: Any) -> list[tuple[str, bool]]:
            found = []
            for page in client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix, Delimiter="/"
            ):
                found += [(item["Prefix"][skip:], False) for item in page.get("CommonPrefixes", ())]
                found += [
                    (item["Key"][skip:], True)
                    for item in page.get("Contents", ())
                    if item["Key"] != prefix  # a marker of the folder that some tools make
                ]
            return found

        _, found = s3._one_boto_op(list_pages, f"s3://{bucket}/{prefix}", create_tmp_file=False)
        pages: list[tuple[str, bool]] = found
        return pages

    def _below(self, s3: Any, key: str) -> list[str]:
        bucket, _ = self._location("")
        prefix = key.rstrip("/") + "/"

        def list_pages(client: Any, _: Any) -> list[str]:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return [item["Key"] for page in pages for item in page.get("Contents", ())]

        _, found = s3._one_boto_op(list_pages, f"s3://{bucket}/{prefix}", create_tmp_file=False)
        keys: list[str] = found
        return keys

    def _delete(self, s3: Any, keys: Sequence[str]) -> None:
        bucket, _ = self._location("")

        def delete(key: str) -> None:
            # One by one: some stores do not accept the checksums of DeleteObjects.
            s3._one_boto_op(
                lambda client, _: client.delete_object(Bucket=bucket, Key=key),
                f"s3://{bucket}/{key}",
                create_tmp_file=False,
            )

        _in_threads(delete, keys)


@cache
def _obstacle() -> str:
    return obstacle(S3_DATASTORE, any_release=True)


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _loaded(found: Any) -> tuple[str, str | None, Any]:
    return (found.key, found.path, found.metadata) if found.exists else (found.key, None, None)


def _in_threads(
    operation: Callable[[T], R], items: Sequence[T], *, threads: int = _THREADS
) -> list[R]:
    """Return the results of `operation` for `items`, in order, from several threads."""
    if len(items) < 2:
        return [operation(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(operation, items))
