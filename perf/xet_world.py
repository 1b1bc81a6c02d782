"""The Hub of `hub_world` with its files in Xet storage too: Xet's own CAS server behind nginx.

The CAS server is made for simulations and slow at sending data, so nginx stands in front of it:
it passes on what is asked about files and serves the data, the xorbs, from the disk.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from perf.hub_world import HubWorld, hub
from perf.model import Place, Setup
from perf.nginx import Nginx, find_nginx, start_nginx
from perf.run.dataset import FileSpec
from perf.run.environments import python_of
from perf.run.process import Command, serving, tail

__all__ = ("hub_with_xet", "missing_for_xet")

_FILL = Path(__file__).with_name("clients") / "xet_fill.py"
_START_SECONDS = 20.0
_BUILD = "cargo install xet-client --version 1.8.0 --features simulation --bin local_cas_server"


def hub_with_xet(files: Sequence[FileSpec]) -> Setup:
    """Return what opens a Hub whose one repository lies in Xet storage and on the CDN."""
    return partial(_open, hub(files))


def missing_for_xet() -> str | None:
    """Return what is to be installed before such a Hub can be opened, or None."""
    if find_nginx() is None:
        return "nginx: apt-get install nginx"
    if _find_server() is None:
        return f"Xet's CAS server: {_BUILD}"
    python = python_of("hub")
    if python is None or subprocess.run([python, "-c", "import hf_xet"], check=False).returncode:
        return "hf_xet: python -m perf install"
    return None


def _find_server() -> str | None:
    cargo = Path(os.environ.get("CARGO_HOME") or "~/.cargo").expanduser() / "bin"
    return shutil.which("local_cas_server") or shutil.which("local_cas_server", path=str(cargo))


@contextmanager
def _open(opens_hub: Setup, place: Place) -> Iterator[HubWorld]:
    with ExitStack() as stack:
        world = stack.enter_context(opens_hub(place))
        assert isinstance(world, HubWorld)
        root = place.root / "cas"
        cas = _start_cas(stack, root)
        hashes = _fill(cas, root, world)
        front = _front(stack, cas, root)
        world.server.announce_xet(front.url, hashes)
        world.behind("cas", front)
        yield world


def _start_cas(stack: ExitStack, root: Path) -> str:
    """Start the CAS server and return its host and port."""
    program = _find_server()
    assert program is not None, "ask missing_for_xet first"
    root.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = root / "server.log"
    command = Command((program, "--data-directory", str(root / "data"), "--port", str(port)))
    process = stack.enter_context(serving(command, cwd=root, log=log))
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"local_cas_server did not start: {tail(log)}") from None
            time.sleep(0.05)
        else:
            return f"127.0.0.1:{port}"


def _fill(cas: str, root: Path, world: HubWorld) -> Mapping[str, str]:
    """Put the world's LFS files into the store and return their Xet hashes by sha256."""
    blobs = {blob.sha256: str(blob.source) for blob in world.repo.find("main").files.values()}
    known = root / "hashes.json"
    if known.exists():
        hashes: dict[str, str] = json.loads(known.read_text())
        if hashes.keys() == blobs.keys():
            return hashes
    python = python_of("hub")
    assert python is not None, "ask missing_for_xet first"
    filled = subprocess.run(
        [python, str(_FILL), f"http://{cas}", *blobs.values()],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "HF_HOME": str(root / "home")},
    )
    if filled.returncode:
        raise RuntimeError("the files could not be put into Xet storage; see above")
    by_path: dict[str, str] = json.loads(filled.stdout)
    hashes = {sha256: by_path[path] for sha256, path in blobs.items()}
    known.write_text(json.dumps(hashes))
    return hashes


def _front(stack: ExitStack, cas: str, root: Path) -> Nginx:
    """Serve the xorbs from the disk; the CAS server names its data by the host it was asked at."""
    xorbs = root / "data" / "xorbs"
    hashes = [path.name.partition(".")[2] for path in xorbs.iterdir() if not path.suffixes[1:]]
    # A term is base64 of `HASH…`; 63 characters are 84 of base64, whatever follows them.
    terms = {base64.urlsafe_b64encode(each[:63].encode()).decode(): each for each in hashes}
    rows = "".join(f'"~^{term}" "{each}";\n' for term, each in terms.items())
    front = root / "front"
    shutil.rmtree(front, ignore_errors=True)
    front.mkdir()
    (front / "xorbs").write_text(rows)
    http = f"""
    map $arg_term $xorb {{ default ""; include {front}/xorbs; }}
    upstream cas {{ server {cas}; keepalive 16; }}"""
    server = f"""
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        location / {{ proxy_pass http://cas; }}
        location = /v1/fetch_term {{
            if ($xorb) {{ rewrite ^ /xorb/default.$xorb last; }}
            proxy_pass http://cas;
        }}
        location /xorb/ {{ internal; alias {xorbs}/; }}"""
    return stack.enter_context(start_nginx(front / "nginx", server, http=http))
