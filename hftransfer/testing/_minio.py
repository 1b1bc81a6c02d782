"""Starts MinIO. There is no wheel of it: the binary is found, or built at a pinned version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hftransfer._io.file_lock import open_locked
from hftransfer.testing._s3_process import (
    ACCESS_KEY,
    HOST,
    REGION,
    SECRET_KEY,
    Launch,
    S3Server,
    ServerNotFoundError,
    free_ports,
    last_lines,
    responds,
    start_server,
)

MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""Go module version of ``github.com/minio/minio`` that `ensure_minio` builds."""


def find_minio() -> Path | None:
    """Return the path of MinIO's binary, or None if there is none.

    It is the value of the environment variable ``HFTRANSFER_MINIO`` if that is set, else
    ``minio`` on ``PATH``, else the binary that `ensure_minio` built.

    Raises:
        ServerNotFoundError: if ``HFTRANSFER_MINIO`` is not an executable file.
    """
    named = os.environ.get("HFTRANSFER_MINIO")
    if named:
        if not os.access(named, os.X_OK) or not Path(named).is_file():
            raise ServerNotFoundError(f"HFTRANSFER_MINIO={named} is not an executable file")
        return Path(named)

    on_path = shutil.which("minio")
    if on_path:
        return Path(on_path)

    cached = _cached_minio()
    return cached if cached.is_file() else None


def ensure_minio(log: Callable[[str], object] | None = None) -> Path:
    """Return the path of MinIO's binary; build it first if `find_minio` finds none.

    The build runs ``go install`` at `MINIO_VERSION`, once per user: about 4 minutes on 2 cores, and
    150 MB. A second process waits for the build of the first.

    Args:
        log: called with one line before the build and one line after it. Default: writes
            them to standard error.

    Raises:
        ServerNotFoundError: if there is neither MinIO nor Go, or if the build fails.
    """
    found = find_minio()
    if found:
        return found

    go = shutil.which("go")
    if go is None:
        raise ServerNotFoundError(
            "no MinIO: set HFTRANSFER_MINIO to its binary, put `minio` on PATH, "
            "or install Go 1.24 or newer so that it can be built"
        )

    log = log or _write_to_stderr
    target = _cached_minio()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _file_lock(target.with_name(target.name + ".lock")):
        if not target.is_file():  # else another process built it in the meantime
            _build_minio(go, target, log)
    return target


def start_minio(root: Path | None = None) -> S3Server:
    """Start MinIO and return when it is ready. With an existing `root` its buckets are kept.

    Args:
        root: folder for data and log, kept on close. Default: a temporary folder, removed
            on close.

    Raises:
        ServerNotFoundError: if there is no MinIO, and it cannot be built.
        ServerStartError: if it does not start.
    """
    binary = ensure_minio()

    def launch(folder: Path) -> Launch:
        (port,) = free_ports(1)
        return Launch(
            command=[
                *(str(binary), "server", "--quiet", "--address", f"{HOST}:{port}"),
                *("--certs-dir", str(folder / "certs"), str(folder / "data")),
            ],
            environ={
                "MINIO_ROOT_USER": ACCESS_KEY,
                "MINIO_ROOT_PASSWORD": SECRET_KEY,
                "MINIO_REGION": REGION,
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
                "MINIO_CI_CD": "1",  # permits data on the disk of the root file system
            },
            port=port,
            is_ready=lambda: responds(port, "/minio/health/ready"),
        )

    return start_server("minio", root, launch)


def _cached_minio() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "hftransfer", "bin", f"minio-{MINIO_VERSION}")


def _build_minio(go: str, target: Path, log: Callable[[str], object]) -> None:
    log(
        f"hftransfer: building MinIO {MINIO_VERSION} once with `go install` into {target} "
        "(about 4 minutes on 2 cores, 150 MB)"
    )
    started = time.monotonic()
    folder = target.with_name(target.name + ".build")
    shutil.rmtree(folder, ignore_errors=True)  # left by a build that was killed; the lock is held
    folder.mkdir()
    try:
        result = subprocess.run(
            [go, "install", f"github.com/minio/minio@{MINIO_VERSION}"],
            env={**os.environ, "GOBIN": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise ServerNotFoundError(f"building MinIO failed:\n{last_lines(result.stdout)}")
        (folder / "minio").replace(target)
    finally:
        shutil.rmtree(folder)
    log(f"hftransfer: built MinIO in {time.monotonic() - started:.0f} s")


def _write_to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    file = open_locked(path, os.O_RDWR | os.O_CREAT, wait=True)
    try:
        yield
    finally:
        file.close()
