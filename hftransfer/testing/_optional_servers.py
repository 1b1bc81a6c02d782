"""Starts S3 servers that are neither wheels nor built here: versitygw, gofakes3 and s3rver.

Each is found by an environment variable with the path of its program, or on ``PATH``.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
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

__all__ = ("start_gofakes3", "start_s3rver", "start_versitygw")

# s3rver has one user, whose key and secret are its name.
_S3RVER_KEY = "S3RVER"


def _program(name: str, install: str) -> str:
    """Return the path of a program.

    Raises:
        ServerNotFoundError: if it is not installed.
    """
    variable = f"HFTRANSFER_{name.upper()}"
    found = os.environ.get(variable) or shutil.which(name)
    if found is None or not os.access(found, os.X_OK):
        raise ServerNotFoundError(f"no {name}: {install}; set {variable} to its path")
    return found


def start_versitygw(root: Path | None = None) -> S3Server:
    """Start the Versity S3 gateway on a local folder and return when it is ready.

    Args:
        root: folder for data and log, kept on close. Default: a temporary folder, removed
            on close.

    Raises:
        ServerNotFoundError: if it is not installed.
        ServerStartError: if it does not start.
    """
    package = "github.com/versity/versitygw/cmd/versitygw@latest"
    program = _program("versitygw", f"go install {package}")

    def launch(folder: Path) -> Launch:
        for name in ("data", "metadata"):
            (folder / name).mkdir(exist_ok=True)
        (port,) = free_ports(1)
        return Launch(
            command=[
                *(program, "--port", f"{HOST}:{port}", "--health", "/health", "posix"),
                # Not in extended attributes, which not every file system has.
                *("--sidecar", str(folder / "metadata"), str(folder / "data")),
            ],
            environ={"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
            port=port,
            is_ready=lambda: responds(port, "/health"),
        )

    return start_server("versitygw", root, launch)


def start_gofakes3(root: Path | None = None) -> S3Server:
    """Start gofakes3, which keeps all data in memory and verifies no signatures.

    Args:
        root: folder for the log, kept on close. Default: a temporary folder, removed on
            close.

    Raises:
        ServerNotFoundError: if it is not installed.
        ServerStartError: if it does not start.
    """
    package = "github.com/johannesboyne/gofakes3/cmd/gofakes3@latest"
    program = _program("gofakes3", f"go install {package}")

    def launch(folder: Path) -> Launch:
        (port,) = free_ports(1)
        return Launch(
            command=[program, "-host", f"{HOST}:{port}", "-backend", "memory"],
            environ={},
            port=port,
            is_ready=lambda: responds(port, "/", status=None),
        )

    return start_server("gofakes3", root, launch)


def start_s3rver(root: Path | None = None) -> S3Server:
    """Start s3rver on a local folder and return when it is ready. Its key is its own.

    Args:
        root: folder for data and log, kept on close. Default: a temporary folder, removed
            on close.

    Raises:
        ServerNotFoundError: if it is not installed.
        ServerStartError: if it does not start.
    """
    program = _program("s3rver", "npm install s3rver")

    def launch(folder: Path) -> Launch:
        (folder / "data").mkdir(exist_ok=True)
        (port,) = free_ports(1)
        return Launch(
            command=[
                *(program, "--directory", str(folder / "data"), "--address", HOST),
                *("--port", str(port), "--no-vhost-buckets"),
            ],
            environ={},
            port=port,
            is_ready=lambda: responds(port, "/", status=None),
        )

    server = start_server("s3rver", root, launch)
    return replace(server, access_key=_S3RVER_KEY, secret_key=_S3RVER_KEY)
