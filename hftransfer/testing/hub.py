"""A Hugging Face Hub on loopback sockets, for tests.

`HubServer` runs two HTTP servers on one event loop in a daemon thread: the Hub on `127.0.0.1` and
its CDN on `localhost`, two host names so that rules about other hosts are real. Any client, in
this process or another, that is pointed at `HubServer.endpoint` works unmodified.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from hftransfer.testing._content import DEFAULT_LFS_THRESHOLD, Blob, BlobStore, Content
from hftransfer.testing._faults import ExpireUrls, Fault, FaultHandle, FaultPlan
from hftransfer.testing._hub_api import HubApi
from hftransfer.testing._hub_cdn import Cdn, cdn_path
from hftransfer.testing._hub_thread import ServerThread
from hftransfer.testing._hub_xet import XetStorage
from hftransfer.testing._repositories import REPO_TYPES, Repo, Repositories, RepoType, folder_files
from hftransfer.testing._request_log import Exchange, RequestLog, RequestRecord
from hftransfer.testing._response_sender import Delivery, spoil
from hftransfer.testing._responses import Answer, Call, Host, negotiate

__all__ = ("HubServer",)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from aiohttp import web


class HubServer:
    """A Hub and its CDN, started on entering the context and stopped on leaving it.

    Every method may be called from any thread. Also an asynchronous context manager.

    Args:
        page_size: Most entries of one page of a tree listing.
        cdn_bytes_per_second: Body rate of each CDN connection; `None` for no limit.
        url_lifetime: Seconds for which a signed CDN URL is valid.
        ssl_context: Server-side context; both hosts then speak HTTPS. Its certificate should
            name `127.0.0.1` and `localhost`.
        public_url: Base URL of a proxy in front of the Hub host, which answers then name; `None`
            for the Hub's own.
        cdn_url: Base URL of a CDN that stands in for this server's own; `None` for its own. It
            serves the blobs of `cdn_blobs` by their paths.

    Attributes:
        cdn_bytes_per_second: As above; a change also holds for bodies that are on their way.
        public_url, cdn_url: As above; they may be changed at any time.

    Example::

        with HubServer() as hub:
            repo = hub.create_repo("acme/tiny", files={"config.json": b"{}"})
            repo.commit({"model.safetensors": RandomFile(64 << 20, seed=1)})
            subprocess.run([...], env={**os.environ, **hub.environ()})
    """

    def __init__(
        self,
        *,
        page_size: int = 1000,
        cdn_bytes_per_second: float | None = None,
        url_lifetime: float = 3600.0,
        ssl_context: ssl.SSLContext | None = None,
        public_url: str | None = None,
        cdn_url: str | None = None,
    ) -> None:
        self.cdn_bytes_per_second = cdn_bytes_per_second
        self.public_url = public_url
        self.cdn_url = cdn_url
        self._ssl_context = ssl_context
        self._scheme = "http" if ssl_context is None else "https"
        self._repositories = Repositories()
        self._cdn = Cdn(url_lifetime=url_lifetime)
        self._api = HubApi(
            self._repositories,
            self._cdn,
            endpoint=lambda: self.endpoint,
            cdn_endpoint=lambda: self.cdn_endpoint,
            page_size=page_size,
        )
        self._plan = FaultPlan()
        self._log = RequestLog()
        self._connections: weakref.WeakKeyDictionary[asyncio.BaseTransport, int]
        self._connections = weakref.WeakKeyDictionary()
        self._serial = itertools.count(1)
        self._running: ServerThread | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._store: BlobStore | None = None
        self._released = asyncio.Event()

    def __enter__(self) -> HubServer:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> HubServer:
        await anyio.to_thread.run_sync(self.start)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.close)

    def start(self) -> None:
        """Start serving; the context manager calls this.

        Raises:
            RuntimeError: The server was started before.
            OSError: No loopback port could be had.
        """
        if self._directory is not None:
            raise RuntimeError("a HubServer can be started only once")
        self._directory = tempfile.TemporaryDirectory(prefix="hftransfer-hub-")
        self._store = BlobStore(Path(self._directory.name))
        try:
            self._running = ServerThread(self._handle, self._ssl_context)
        except BaseException:
            self._directory.cleanup()
            raise

    def close(self) -> None:
        """Drop every connection, stop the thread and remove generated files; idempotent."""
        if self._running is not None:
            self._running.stop()
            self._running = None
        if self._directory is not None:
            self._directory.cleanup()

    @property
    def endpoint(self) -> str:
        """Base URL of the Hub, for example `http://127.0.0.1:40001`; what HF_ENDPOINT takes.

        That of the proxy in front of it where there is one (`public_url`).
        """
        return self.public_url or self.own_endpoint

    @property
    def own_endpoint(self) -> str:
        """Base URL at which this server itself listens, whatever stands in front of it."""
        return f"{self._scheme}://127.0.0.1:{self._state().hub_port}"

    @property
    def cdn_endpoint(self) -> str:
        """Base URL of the CDN, which has another host name than the Hub, or `cdn_url`."""
        return self.cdn_url or f"{self._scheme}://localhost:{self._state().cdn_port}"

    def cdn_blobs(self, repo: Repo, revision: str = "main") -> dict[str, Blob]:
        """Return the LFS files of a revision by the paths of their URLs on the CDN.

        A server that is to stand in for this one's CDN (`cdn_url`) needs nothing else: the
        query of those URLs, which carries the signature, can be ignored.

        Raises:
            KeyError: There is no such revision.
        """
        files = repo.find(revision).files.items()
        return {cdn_path(repo, path, blob): blob for path, blob in files if blob.is_lfs}

    def environ(self) -> dict[str, str]:
        """Return the environment variables with which a child process uses this Hub."""
        return {
            **({} if self._api.xet is not None else {"HF_HUB_DISABLE_XET": "1"}),
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def create_repo(
        self,
        repo_id: str,
        *,
        repo_type: RepoType = "model",
        private: bool = False,
        gated: bool = False,
        token: str | None = None,
        direct: bool = False,
        lfs_threshold: int = DEFAULT_LFS_THRESHOLD,
        files: Mapping[str, Content] | None = None,
        folder: Path | None = None,
    ) -> Repo:
        """Create a repository with a first commit on `main`.

        Args:
            repo_id: `namespace/name`, or a bare `name` such as `bert-base-uncased`.
            repo_type: `"model"`, `"dataset"` or `"space"`.
            private: Without a token that may read it the repository does not exist.
            gated: Files are refused without a token that may read them.
            token: A token that may read this repository; see `add_token`.
            direct: Answer `resolve` with the file itself instead of a redirect.
            lfs_threshold: Size in bytes from which a file is LFS whatever its name.
            files: Contents of the first commit by path; none makes it an empty commit.
            folder: A folder whose files go into the first commit too. They are served from
                where they lie and must not change.

        Raises:
            RuntimeError: The server is not running.
            ValueError: The id is taken, or `repo_type` is none of the three.
            NotADirectoryError: `folder` is not a directory.
        """
        if self._store is None or self._running is None:
            raise RuntimeError("the HubServer is not running")
        if repo_type not in REPO_TYPES:
            raise ValueError(f"repo_type must be one of {', '.join(REPO_TYPES)}, not {repo_type!r}")
        repo = Repo(
            repo_id,
            repo_type,
            self._store,
            private=private,
            gated=gated,
            direct=direct,
            lfs_threshold=lfs_threshold,
        )
        repo.start({**(folder_files(folder) if folder is not None else {}), **(files or {})})
        self._repositories.add(repo)
        if token is not None:
            self.add_token(token, repos=[repo_id])
        return repo

    def announce_xet(self, cas_url: str, hashes: Mapping[str, str]) -> None:
        """Tell clients that files lie in Xet storage too; those who do not speak it see no change.

        Tree listings then carry `xetHash`, `resolve` answers `X-Xet-Hash` and the links of the
        protocol, and the Hub hands out tokens for the store. Replaces an earlier announcement.

        Args:
            cas_url: Base URL of a content-addressed store that holds the files and takes any
                token, for example the `local_cas_server` of Xet's own crate.
            hashes: Xet hash of each such file's content by its sha256, both in hex. Only LFS
                files are announced.
        """
        self._api.xet = XetStorage(cas_url.rstrip("/"), dict(hashes))

    def rename_repo(self, old: str, new: str, *, repo_type: RepoType = "model") -> None:
        """Give a repository a new id; requests for the old one are redirected (307).

        Raises:
            KeyError: There is no repository `old`.
            ValueError: `new` is taken.
        """
        self._repositories.rename(repo_type, old, new)

    def add_token(self, token: str, *, repos: Iterable[str] | None = None) -> None:
        """Make a token valid, and let it read private and gated repositories.

        Requests with a token that was never added are refused (401), as on the Hub.

        Args:
            token: The secret after `Bearer`.
            repos: Ids of the repositories that it opens; `None` for all.
        """
        self._repositories.allow(token, repos)

    @property
    def url_lifetime(self) -> float:
        """Seconds for which URLs signed from now on are valid."""
        return self._cdn.url_lifetime

    @url_lifetime.setter
    def url_lifetime(self, seconds: float) -> None:
        self._cdn.url_lifetime = seconds

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests to both hosts so far, in order of arrival, as they stand now."""
        return self._log.records()

    def clear_requests(self) -> None:
        """Forget the requests recorded so far."""
        self._log.clear()

    def wait_idle(self, timeout: float | None = 10.0) -> bool:
        """Block until no request is being answered, for example after a client was killed.

        Args:
            timeout: Seconds to wait at most; `None` waits for ever.

        Returns:
            `False` if the time ran out first.
        """
        return self._log.wait_idle(timeout)

    def add_fault(self, fault: Fault) -> FaultHandle:
        """Plan a fault; of several that fit a request the one added first hits it.

        Returns:
            A handle that tells how often the fault has happened, and waits for it.
        """
        return self._plan.add(fault)

    def clear_faults(self) -> None:
        """Forget all faults; those that are happening go on."""
        self._plan.clear()

    def release(self) -> None:
        """End the stalls (`Stall`) that are happening; their answers go on."""

        def release_all() -> None:
            self._released.set()
            self._released = asyncio.Event()

        self._state().loop.call_soon_threadsafe(release_all)

    def _state(self) -> ServerThread:
        if self._running is None:
            raise RuntimeError("the HubServer is not running")
        return self._running

    async def _handle(self, host: Host, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        body = await request.read() if request.method == "POST" else b""
        call = Call(host, request.method, path, query, request.headers, body)
        exchange = Exchange(call, self._connection_number(request))
        self._log.begin(exchange)
        try:
            answer, handle = self._decide(call)
            exchange.file = answer.file
            delivery = Delivery(
                request,
                exchange,
                rate=lambda: self.cdn_bytes_per_second if host == "cdn" else None,
                released=lambda: self._released,
            )
            return await delivery.send(answer, handle)
        finally:
            self._log.end()

    def _decide(self, call: Call) -> tuple[Answer, FaultHandle | None]:
        """Return the answer to send, and the fault that hits the request."""
        answer = self._answer(call)
        handle = self._plan.claim(call, negotiate(answer, call.headers))
        if handle is None:
            return negotiate(answer, call.headers), None
        action = handle.fault.action
        if isinstance(action, ExpireUrls):
            self._cdn.expire_urls()
            answer = self._answer(call)
        return spoil(answer, call, action), handle

    def _answer(self, call: Call) -> Answer:
        return self._api.answer(call) if call.host == "hub" else self._cdn.answer(call)

    def _connection_number(self, request: web.BaseRequest) -> int:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        if transport not in self._connections:
            self._connections[transport] = next(self._serial)
        return self._connections[transport]
