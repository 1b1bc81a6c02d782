"""MinIO, which publishes no wheel: found, or built once at a pinned version."""

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
    answers,
    free_ports,
    start,
    tail,
)

MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""The Go module version of ``github.com/minio/minio`` that `ensure_minio` builds."""


def find_minio() -> Path | None:
    """Return MinIO's binary, or None where there is none.

    Looks at the environment variable ``HFTRANSFER_MINIO``, then on ``PATH``, then into
    the cache that `ensure_minio` fills.

    Raises:
        ServerNotFoundError: if ``HFTRANSFER_MINIO`` names something that cannot be run.
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
    """Return MinIO's binary, building it first where there is none.

    The build runs ``go install`` at `MINIO_VERSION`: about 4 minutes on 2 cores and
    150 MB, once per user. Two processes that want it at the same time build it once.

    Args:
        log: Called with one line before the build and one after it. Defaults to
            writing them to standard error.

    Raises:
        ServerNotFoundError: if there is neither MinIO nor Go, or the build failed.
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

    say = log or _say_on_stderr
    target = _cached_minio()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _file_lock(target.with_name(target.name + ".lock")):
        if not target.is_file():  # else another process built it while this one waited
            _build_minio(go, target, say)
    return target


def start_minio(root: Path | None = None) -> S3Server:
    """Start MinIO with an empty or existing store and return once it answers.

    Args:
        root: Folder for data and log; kept on close. Defaults to a temporary folder,
            removed on close.

    Raises:
        ServerNotFoundError: if there is no MinIO and it cannot be built.
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
                "MINIO_CI_CD": "1",  # lets it store on the root disk
            },
            port=port,
            is_ready=lambda: answers(port, "/minio/health/ready"),
        )

    return start("minio", root, launch)


def _cached_minio() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "hftransfer", "bin", f"minio-{MINIO_VERSION}")


def _build_minio(go: str, target: Path, say: Callable[[str], object]) -> None:
    say(
        f"hftransfer: building MinIO {MINIO_VERSION} once with `go install` into {target} "
        "(about 4 minutes on 2 cores, 150 MB)"
    )
    started = time.monotonic()
    folder = target.with_name(target.name + ".build")
    shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed: the lock is ours
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
            raise ServerNotFoundError(f"building MinIO failed:\n{tail(result.stdout)}")
        (folder / "minio").replace(target)
    finally:
        shutil.rmtree(folder)
    say(f"hftransfer: built MinIO in {time.monotonic() - started:.0f} s")


def _say_on_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    fd = open_locked(path, os.O_RDWR | os.O_CREAT, wait=True)
    try:
        yield
    finally:
        os.close(fd)
