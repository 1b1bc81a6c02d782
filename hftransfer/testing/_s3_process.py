"""Runs the S3 servers as child processes, each in a process group of its own.

Each server has a watchdog process: a shell that reads from a pipe whose write end only this
process has open. If this process is killed, so that no Python code can clean up, the pipe is
closed; the watchdog then kills the server and removes its temporary folder.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

ACCESS_KEY = "hftransfer"
SECRET_KEY = "hftransfer-loopback-only"  # noqa: S105 - not a secret: the server listens on loopback
REGION = "us-east-1"
HOST = "127.0.0.1"
_START_SECONDS = 40.0
_START_ATTEMPTS = 3
_POLL_SECONDS = 0.05
# Then the server is killed. SeaweedFS would take 15 s to stop, to keep data that is not needed.
_TERMINATE_SECONDS = 2.0
_LOG_TAIL_LINES = 20

# Arguments: the server's process group, then the paths to remove. `read` returns when the process
# that started the server, the only writer of standard input, has ended. `rm` is repeated because
# a killed server may still complete a write, and `rm` fails if a file appears in a folder.
_WATCHDOG = """
read -r _
kill -s KILL -- "-$1"
shift
rm -rf -- "$@" || { sleep 1; rm -rf -- "$@"; }
"""


class ServerNotFoundError(FileNotFoundError):
    """Raised when the binary of a server is not installed and cannot be built."""


class ServerStartError(RuntimeError):
    """Raised when a server ends or is not ready in time; the message has the end of its log."""


@dataclass(kw_only=True, eq=False)
class S3Server:
    """A running S3 server, and what a client needs to use it.

    A context manager that stops the server on exit. Returned by `start_minio` and its like.
    """

    name: str
    """``"minio"``, ``"seaweedfs"``, ``"rclone"``, ``"moto"``, ``"versitygw"``, ``"gofakes3"`` or
    ``"s3rver"``."""
    endpoint: str
    """``http://127.0.0.1:PORT``, without a trailing slash. Buckets are addressed by path."""
    root: Path
    """Folder with the server's data and ``server.log``."""
    access_key: str = ACCESS_KEY
    secret_key: str = field(default=SECRET_KEY, repr=False)
    region: str = REGION
    _stack: ExitStack = field(repr=False)

    def client_environ(self) -> dict[str, str]:
        """Return ``AWS_*`` environment variables that make an AWS client use this server only."""
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
        """Stop the server, and remove its root if that is temporary. Idempotent."""
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


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How to start a server once, on ports that were free when they were chosen."""

    command: list[str]
    environ: Mapping[str, str]
    port: int
    is_ready: Callable[[], bool]
    extra_files: Sequence[Path] = ()
    """Files that the server creates outside its root and does not remove when it is killed."""


def start_server(name: str, root: Path | None, launch: Callable[[Path], Launch]) -> S3Server:
    """Start a server and wait until it is ready.

    Args:
        name: of the server, for messages and the temporary folder.
        root: folder for data and log. Default: a temporary folder, removed on close.
        launch: called with the root, again for every attempt, to choose other ports.

    Raises:
        ServerStartError: if it ends, or is not ready within 40 seconds.
    """
    with ExitStack() as stack:
        temporary = root is None
        if root is None:
            # Short: SeaweedFS's sockets are in it, and the path of a socket has at most 107 bytes.
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
                # Another process may bind a port after it was chosen.
                if "address already in use" not in str(error) or attempt == _START_ATTEMPTS:
                    raise
            else:
                break
        endpoint = f"http://{HOST}:{attempted.port}"
        return S3Server(name=name, endpoint=endpoint, root=root, _stack=stack.pop_all())


@contextmanager
def _running(launch: Launch, root: Path, *, temporary: bool) -> Iterator[subprocess.Popen[bytes]]:
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AWS_", "MINIO_", "RCLONE_", "WEED_"))
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
        with _watchdog(process.pid, [*launch.extra_files, *([root] if temporary else [])]):
            yield process
    finally:
        _stop(process)
        for path in launch.extra_files:
            path.unlink(missing_ok=True)


@contextmanager
def _watchdog(group: int, extra_files: Sequence[Path]) -> Iterator[None]:
    with subprocess.Popen(
        ["/bin/sh", "-c", _WATCHDOG, "hftransfer-watchdog", str(group), *map(str, extra_files)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as watchdog:
        try:
            yield
        finally:
            watchdog.kill()  # before the pipe is closed: this process cleans up itself


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # every process of the group has ended
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
        raise ServerStartError(f"{problem}:\n{last_lines(log.read_text(errors='replace'))}")


def responds(port: int, path: str, *, status: int | None = 200, needle: bytes = b"") -> bool:
    """Return True if a GET of `path` succeeds: `status` (None: any), and `needle` in the body."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return status in (None, response.status) and needle in response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_ports(count: int) -> list[int]:
    """Return `count` different ports of loopback that are free at present."""
    # All are bound before the first is released, so that they differ.
    with ExitStack() as stack:
        bound = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in bound:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in bound]


def last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])
