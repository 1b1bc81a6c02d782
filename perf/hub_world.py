"""The world of the Hub scenarios: our Hub server, nginx as its CDN or in front of it."""

from __future__ import annotations

import shutil
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from hftransfer.testing import HubServer, Repo
from perf.hub_front import start_front
from perf.model import Job, Place, Setup, World
from perf.nginx import Nginx, Tls, find_nginx, start_nginx
from perf.run.dataset import FileSpec, difference, make_payload, require_space, scaled, warm
from perf.run.workdir import Scratch

__all__ = ("HubWorld", "hub")

_CONNECTIONS = 16
_REPO = "perf/model"


@dataclass(frozen=True)
class _Shape:
    files: Sequence[FileSpec]
    tls: bool
    bytes_per_second: int | None
    front: bool
    cached: bool
    connections: int


def hub(
    files: Sequence[FileSpec],
    *,
    tls: bool = False,
    bytes_per_second: int | None = None,
    front: bool = False,
    cached: bool = False,
    connections: int = _CONNECTIONS,
) -> Setup:
    """Return what opens a Hub with one repository.

    Args:
        files: of the repository.
        tls: Hub and CDN speak HTTPS.
        bytes_per_second: rate of each CDN connection.
        front: nginx stands before the Hub and answers for its files.
        cached: tools use Hugging Face's cache, which each keeps from one run to the next, in
            place of an empty folder.
        connections: what a tool is told that must be told how many to open.
    """
    shape = _Shape(
        files=files,
        tls=tls,
        bytes_per_second=bytes_per_second,
        front=front,
        cached=cached,
        connections=connections,
    )
    return partial(_open, shape)


class HubWorld(World):
    """A Hub with one repository, whose files lie in `payload`."""

    def __init__(
        self,
        place: Place,
        server: HubServer,
        repo: Repo,
        payload: Path,
        *,
        tls: Tls | None,
        shape: _Shape,
    ) -> None:
        self.repo = repo
        self.server = server
        blobs = repo.find("main").files
        self.bytes = sum(blob.size for blob in blobs.values())
        self.files = len(blobs)
        self._root = place.root
        self.payload = payload
        self._tls = tls
        self._shape = shape
        self._nginx: dict[str, Nginx] = {}
        self._scratch = Scratch(place.root, self.files)

    def behind(self, host: str, nginx: Nginx) -> None:
        """Count the requests of `host` (``hub``, ``cdn``) where they arrive: at this nginx."""
        self._nginx[host] = nginx

    def close(self) -> None:
        """Delete what runs have left on the disk."""
        self._scratch.clear()

    @contextmanager
    def job(self, tool: str) -> Iterator[Job]:
        """Give the tool an empty folder and an empty home, or its own home if it has a cache."""
        try:
            with self._scratch.fresh() as scratch:
                yield self._prepare(tool, scratch)
        finally:
            self.server.clear_requests()

    def _prepare(self, tool: str, scratch: Path) -> Job:
        home = self._root / "homes" / tool if self._shape.cached else scratch / "home"
        destination = scratch / "to"
        home.mkdir(parents=True, exist_ok=True)
        if self._shape.cached:
            repo = f"models--{self.repo.repo_id.replace('/', '--')}"
            destination = home / "hub" / repo / "snapshots" / self.repo.head
        else:
            destination.mkdir()
        values = {
            "endpoint": self.server.endpoint,
            "repo_id": self.repo.repo_id,
            "revision": self.repo.head,
            "destination": str(destination),
            "connections": self._shape.connections,
            "files": self._files(),
            "ca": str(self._tls.authority) if self._tls else None,
        }
        return Job(values, scratch, self._environ(home))

    def problem(self, job: Job) -> str | None:
        """Compare every file with its source."""
        copy = Path(job.values["destination"])
        return difference(self.payload, copy, list(self.repo.find("main").files))

    def requests(self) -> Mapping[str, int]:
        """Count at nginx where it stands, else at the Hub server."""
        counts: Counter[str] = Counter(record.host for record in self.server.requests)
        return {**counts, **{host: nginx.requests() for host, nginx in self._nginx.items()}}

    def _files(self) -> list[dict[str, object]]:
        """Every file with the URL that a tool gets which knows nothing of the Hub."""
        commit = self.repo.find("main")
        cdn = {blob.sha256: path for path, blob in self.server.cdn_blobs(self.repo).items()}
        files: list[dict[str, object]] = []
        for path, blob in commit.files.items():
            url = f"{self.server.endpoint}/{self.repo.repo_id}/resolve/{commit.id}/{quote(path)}"
            if blob.is_lfs and "cdn" in self._nginx:
                url = self.server.cdn_endpoint + cdn[blob.sha256]
            files.append({"path": path, "url": url, "size": blob.size})
        return files

    def _environ(self, home: Path) -> dict[str, str | None]:
        environ: dict[str, str | None] = {
            **self.server.environ(),
            "HOME": str(home),
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        if self._tls:
            for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
                environ[name] = str(self._tls.authority)
        return environ


@contextmanager
def _open(shape: _Shape, place: Place) -> Iterator[HubWorld]:
    specs = scaled(shape.files, place.scale)
    require_space(place.root, specs)
    payload = make_payload(specs, place.payloads)
    warm(payload)
    tls = make_certificate(place.root / "tls") if shape.tls else None
    shutil.rmtree(place.root / "homes", ignore_errors=True)
    with ExitStack() as stack:
        server = stack.enter_context(HubServer(ssl_context=_context(tls) if tls else None))
        # LFS follows the suffix alone: a scaled-down file stays what it was.
        repo = server.create_repo(_REPO, folder=payload)
        world = HubWorld(place, server, repo, payload, tls=tls, shape=shape)
        stack.callback(world.close)
        if find_nginx() is None:
            place.tell(
                "nginx is not installed (apt-get install nginx): the Hub server written in "
                "Python serves the bytes itself and will be what limits fast tools"
            )
            server.cdn_bytes_per_second = shape.bytes_per_second
        else:
            if server.cdn_blobs(repo):
                cdn = stack.enter_context(_cdn(place, shape, server, repo, tls))
                server.cdn_url = cdn.url
                world.behind("cdn", cdn)
            if shape.front:
                root = place.root / "front"
                front = stack.enter_context(start_front(root, server, repo, payload))
                server.public_url = front.url
                world.behind("hub", front)
        yield world


@contextmanager
def _cdn(
    place: Place, shape: _Shape, server: HubServer, repo: Repo, tls: Tls | None
) -> Iterator[Nginx]:
    """Serve the LFS files by the paths of their URLs."""
    root = place.root / "cdn"
    shutil.rmtree(root, ignore_errors=True)
    for path, blob in server.cdn_blobs(repo).items():
        link = root / "www" / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob.source)
    own = f"root {root}/www;"
    with start_nginx(root, own, tls=tls, bytes_per_second=shape.bytes_per_second) as nginx:
        yield nginx


def make_certificate(root: Path) -> Tls:
    """Make a throw-away authority and a certificate for loopback names."""
    import trustme

    root.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    tls = Tls(certificate=root / "server.pem", authority=root / "authority.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tls.certificate))
    authority.cert_pem.write_to_path(str(tls.authority))
    return tls


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate)
    return context
