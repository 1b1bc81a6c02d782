"""A Hugging Face Hub on loopback sockets, for tests.

`HubServer` runs two HTTP servers on one event loop in a daemon thread: the Hub on `127.0.0.1` and
its CDN on `localhost`. The host names differ so that clients treat them as two hosts (redirects,
authorization). Any client, in this process or another, works unmodified with
`HubServer.endpoint`.
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
from hftransfer.testing._request_log import PendingRecord, RequestLog, RequestRecord
from hftransfer.testing._response_sender import ResponseSender, apply_fault
from hftransfer.testing._responses import Host, Request, Response, apply_conditions

__all__ = ("HubServer",)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from aiohttp import web


class HubServer:
    """A Hub and its CDN; a synchronous and asynchronous context manager that starts and stops both.

    Every method may be called from any thread.

    Args:
        page_size: most entries per page of a tree listing.
        cdn_bytes_per_second: rate limit of each CDN connection; `None` for no limit.
        url_lifetime: seconds for which a signed CDN URL is valid.
        ssl_context: server-side context with which both hosts speak HTTPS; `None` for HTTP. Its
            certificate should name `127.0.0.1` and `localhost`.
        public_url: base URL of a proxy in front of the Hub host, used in responses in place of
            the server's own URL; `None` if there is no proxy.
        cdn_url: base URL of another server to which LFS files are redirected; it must serve the
            blobs of `cdn_blobs` at their paths. `None` for the server's own CDN.

    Attributes:
        cdn_bytes_per_second: as above; a change also applies to bodies that are being sent.
        public_url, cdn_url: as above; may be changed at any time.

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
        self._faults = FaultPlan()
        self._log = RequestLog()
        # Only the server's thread uses the connection numbers and the event.
        self._connections: weakref.WeakKeyDictionary[asyncio.BaseTransport, int]
        self._connections = weakref.WeakKeyDictionary()
        self._connection_numbers = itertools.count(1)
        self._thread: ServerThread | None = None
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
            RuntimeError: if the server was started before.
            OSError: if no loopback port is free.
        """
        if self._directory is not None:
            raise RuntimeError("a HubServer can be started only once")
        self._directory = tempfile.TemporaryDirectory(prefix="hftransfer-hub-")
        self._store = BlobStore(Path(self._directory.name))
        try:
            self._thread = ServerThread(self._handle, self._ssl_context)
        except BaseException:
            self._directory.cleanup()
            raise

    def close(self) -> None:
        """Close every connection, stop the thread and remove generated files. Idempotent."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None
        if self._directory is not None:
            self._directory.cleanup()

    @property
    def endpoint(self) -> str:
        """Base URL of the Hub, for example `http://127.0.0.1:40001`, as for HF_ENDPOINT.

        With `public_url` it is the URL of the proxy.
        """
        return self.public_url or self.own_endpoint

    @property
    def own_endpoint(self) -> str:
        """Base URL at which this server itself listens, also behind a proxy."""
        return f"{self._scheme}://127.0.0.1:{self._require_running().hub_port}"

    @property
    def cdn_endpoint(self) -> str:
        """Base URL of the CDN, whose host name differs from the Hub's; `cdn_url` if set."""
        return self.cdn_url or f"{self._scheme}://localhost:{self._require_running().cdn_port}"

    def cdn_blobs(self, repo: Repo, revision: str = "main") -> dict[str, Blob]:
        """Return the LFS files of a revision by their URL paths on the CDN.

        For a server that replaces the CDN (`cdn_url`): it serves each blob at its path and may
        ignore the query, which contains the signature.

        Raises:
            KeyError: if there is no such revision.
        """
        files = repo.find(revision).files.items()
        return {cdn_path(repo, path, blob): blob for path, blob in files if blob.is_lfs}

    def environ(self) -> dict[str, str]:
        """Return environment variables that make a child process use this Hub."""
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
            repo_id: `namespace/name`, or a `name` without namespace such as `bert-base-uncased`.
            repo_type: `"model"`, `"dataset"` or `"space"`.
            private: respond that the repository does not exist to requests without a token that
                may read it.
            gated: deny files, but not metadata, to requests without a token that may read it.
            token: a token that may read this repository; see `add_token`.
            direct: respond to `resolve` with the file itself instead of a redirect.
            lfs_threshold: size in bytes from which every file is an LFS file. Smaller files are
                LFS files if their suffix is on the Hub's list (`.safetensors`, `.bin`, …).
            files: contents of the first commit by path. Default: an empty commit.
            folder: a folder whose files are added to the first commit. They are served in place,
                without a copy, and must not change.

        Raises:
            RuntimeError: if the server is not running.
            ValueError: if the id is taken, or `repo_type` is not one of the three.
            NotADirectoryError: if `folder` is not a directory.
        """
        if self._store is None or self._thread is None:
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
        """Announce to clients that files are also in Xet storage.

        Tree listings then contain `xetHash`, responses of `resolve` have `X-Xet-Hash` and the
        links of the protocol, and the Hub issues tokens for the store. Clients without Xet support
        are not affected. Replaces an earlier announcement.

        Args:
            cas_url: base URL of a content-addressed store that has the files and accepts any
                token, for example the `local_cas_server` of Xet's own crate.
            hashes: Xet hash of each file's content by its sha256, both in hex. Only LFS files
                are announced.
        """
        self._api.xet = XetStorage(cas_url.rstrip("/"), dict(hashes))

    def rename_repo(self, old: str, new: str, *, repo_type: RepoType = "model") -> None:
        """Change the id of a repository; requests for the old id are redirected (307).

        Raises:
            KeyError: if there is no repository `old`.
            ValueError: if `new` is taken.
        """
        self._repositories.rename(repo_type, old, new)

    def add_token(self, token: str, *, repos: Iterable[str] | None = None) -> None:
        """Make a token valid, and permit it to read private and gated repositories.

        Requests with a token that was not added get 401, as on the Hub.

        Args:
            token: what follows `Bearer` in the Authorization header.
            repos: ids of the repositories that it may read, in addition to earlier calls;
                `None` for all.
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
        """The requests to both hosts since `clear_requests`, in order of arrival.

        Bytes are counted after they were sent: call `wait_idle` before `bytes_sent` is compared.
        """
        return self._log.records()

    def clear_requests(self) -> None:
        """Remove the requests recorded so far."""
        self._log.clear()

    def wait_idle(self, timeout: float | None = 10.0) -> bool:
        """Block until every response has ended, for example after a client was killed.

        Args:
            timeout: most seconds to wait; `None` for no limit.

        Returns:
            `False` if the time ran out.
        """
        return self._log.wait_idle(timeout)

    def add_fault(self, fault: Fault) -> FaultHandle:
        """Inject a fault. If several match a request, the one that was added first hits it.

        Returns:
            A handle that counts how often the fault has happened, and can wait for it.
        """
        return self._faults.add(fault)

    def clear_faults(self) -> None:
        """Remove all faults; stalls in progress continue (see `release`)."""
        self._faults.clear()

    def release(self) -> None:
        """End the stalls (`Stall`) in progress: the rest of each response is sent."""

        def release_all() -> None:
            self._released.set()
            self._released = asyncio.Event()

        self._require_running().loop.call_soon_threadsafe(release_all)

    def _require_running(self) -> ServerThread:
        if self._thread is None:
            raise RuntimeError("the HubServer is not running")
        return self._thread

    async def _handle(self, host: Host, web_request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = web_request.raw_path.partition("?")
        body = await web_request.read() if web_request.method == "POST" else b""
        connection = self._connection_number(web_request)
        request = Request(
            host, web_request.method, path, query, web_request.headers, body, connection
        )
        record = PendingRecord(request, connection)
        self._log.begin(record)
        try:
            response, handle = self._decide(request)
            record.file = response.file
            sender = ResponseSender(
                web_request,
                record,
                rate=lambda: self.cdn_bytes_per_second if host == "cdn" else None,
                released=lambda: self._released,
            )
            return await sender.send(response, handle)
        finally:
            self._log.end()

    def _decide(self, request: Request) -> tuple[Response, FaultHandle | None]:
        """Return the response to send, and the fault that hits the request."""
        response = self._respond(request)
        handle = self._faults.claim(request, apply_conditions(response, request.headers))
        if handle is None:
            return apply_conditions(response, request.headers), None
        action = handle.fault.action
        if isinstance(action, ExpireUrls):
            self._cdn.expire_urls()
            response = self._respond(request)
        return apply_fault(response, request, action), handle

    def _respond(self, request: Request) -> Response:
        return self._api.respond(request) if request.host == "hub" else self._cdn.respond(request)

    def _connection_number(self, web_request: web.BaseRequest) -> int:
        transport = web_request.transport
        if transport is None:
            raise ConnectionResetError("the client closed the connection")
        if transport not in self._connections:
            self._connections[transport] = next(self._connection_numbers)
        return self._connections[transport]
