"""nginx as the server of the bytes, so that the server is not what is measured.

Each instance has its own configuration, logs and temporary files below one directory. The
listening sockets are made here and inherited by nginx: no port can be lost to a race, and a
rate per connection can be set on them. nginx's own ``limit_rate`` counts in whole seconds per
request, so that ranges of a few MiB would never be held back; the kernel's pacing
(``SO_MAX_PACING_RATE``), which accepted connections inherit, holds each connection to its rate
exactly and costs no CPU time.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from perf.run.process import Command, serving, tail

__all__ = ("Nginx", "Tls", "find_nginx", "start_nginx")

_HOST = "127.0.0.1"
_SO_MAX_PACING_RATE = getattr(socket, "SO_MAX_PACING_RATE", 47)
_START_SECONDS = 10.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_CONFIGURATION = """\
daemon off;
{user}worker_processes 2;
pid {root}/nginx.pid;
error_log {root}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    output_buffers 2 256k;
    keepalive_requests 1000000;
    open_file_cache max=20000 inactive=600s;
    open_file_cache_valid 600s;
    default_type application/octet-stream;
    types {{ }}
    map_hash_max_size 65536;
    map_hash_bucket_size 1024;
    absolute_redirect off;
    client_body_temp_path {root}/tmp;
    proxy_temp_path {root}/tmp;
    fastcgi_temp_path {root}/tmp;
    uwsgi_temp_path {root}/tmp;
    scgi_temp_path {root}/tmp;
    {http}
    server {{
        listen {host}:{port}{tls};
        {server}
    }}
    server {{
        listen {host}:{status_port};
        location / {{ stub_status; }}
    }}
}}
"""


@dataclass(frozen=True)
class Tls:
    """Files in PEM: a server's certificate with its key, and the authority that signed it."""

    certificate: Path
    authority: Path


@dataclass
class Nginx:
    """A running nginx."""

    url: str
    _status: str
    _asked: int = 0

    def requests(self) -> int:
        """Return how many requests it has received so far."""
        with _OPENER.open(self._status, timeout=10) as answer:
            text = answer.read().decode()
        self._asked += 1
        match = re.search(r"^ *\d+ +\d+ +(\d+) *$", text, re.MULTILINE)
        assert match is not None, text
        return int(match[1]) - self._asked


def find_nginx() -> str | None:
    """Return nginx's path; Debian keeps it where only root's PATH looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def start_nginx(
    root: Path,
    server: str,
    *,
    http: str = "",
    tls: Tls | None = None,
    bytes_per_second: int | None = None,
) -> Iterator[Nginx]:
    """Run nginx for the length of a block.

    Args:
        root: an empty or missing directory for all that it writes.
        server: directives of its one server.
        http: directives outside of the server.
        tls: serve HTTPS with this certificate.
        bytes_per_second: rate of each connection; None for no limit.

    Raises:
        RuntimeError: it did not start; the message quotes its log.
    """
    program = find_nginx()
    assert program is not None, "ask find_nginx first"
    (root / "tmp").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        main, status = (stack.enter_context(_listen(rate)) for rate in (bytes_per_second, None))
        text = _CONFIGURATION.format(
            user="user root;\n" if os.geteuid() == 0 else "",  # else its workers cannot read us
            root=root,
            host=_HOST,
            port=main.getsockname()[1],
            status_port=status.getsockname()[1],
            tls=" ssl" if tls else "",
            http=http,
            server=(_tls_directives(tls) if tls else "") + server,
        )
        configuration = root / "nginx.conf"
        configuration.write_text(text)
        files = [main.fileno(), status.fileno()]
        command = Command(
            (program, "-c", str(configuration), "-e", str(root / "error.log")),
            {"NGINX": "".join(f"{number};" for number in files)},
        )
        process = stack.enter_context(
            serving(command, cwd=root, log=root / "error.log", pass_fds=files)
        )
        scheme = "https" if tls else "http"
        nginx = Nginx(
            f"{scheme}://{_HOST}:{main.getsockname()[1]}",
            f"http://{_HOST}:{status.getsockname()[1]}/",
        )
        deadline = time.monotonic() + _START_SECONDS
        while not (root / "nginx.pid").exists() or not (root / "nginx.pid").stat().st_size:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nginx did not start: {tail(root / 'error.log', 5)}")
            time.sleep(0.02)
        yield nginx


def _listen(bytes_per_second: int | None) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if bytes_per_second is not None:
        listening.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, bytes_per_second)
    listening.bind((_HOST, 0))
    listening.listen(1024)
    # nginx takes inherited sockets as they are: in a blocking accept a worker would hang whenever
    # the other worker was faster.
    listening.setblocking(False)
    return listening


def _tls_directives(tls: Tls) -> str:
    return f"ssl_certificate {tls.certificate}; ssl_certificate_key {tls.certificate};\n        "
