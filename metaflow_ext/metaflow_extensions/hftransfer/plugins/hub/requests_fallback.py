"""Downloads from the Hub with ``requests`` alone, for tasks without the engine's packages.

Every Metaflow task has ``requests``. One file at a time is downloaded over one connection,
which is slower and as safe: every file is verified against the Hub's digest before it gets
its name, and a broken download is resumed with a Range request.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hftransfer._io.atomic_write import copy_atomically, open_atomically
from hftransfer.errors import (
    AccessError,
    IntegrityError,
    NetworkError,
    NotFoundError,
    RejectedError,
    Response,
    redact,
)
from hftransfer.locations import safe_path
from hftransfer.stores.hub.api_json import commit_of, tree_items
from metaflow_extensions.hftransfer.plugins.engine.load_spec import (
    REPO_TYPES,
    RepoRequest,
    is_selected,
)
from metaflow_extensions.hftransfer.plugins.engine.manifests import digests_document

_READ_SIZE = 1 << 20  # bytes
_ATTEMPTS = 5
_TIMEOUT = (10, 30)  # seconds to connect, and between two reads
_API_NAMES = {"model": "models", "dataset": "datasets", "space": "spaces"}


def download(request: RepoRequest, folders: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Download a repository into every one of `folders`.

    Parameters
    ----------
    request : RepoRequest
    folders : sequence of str
        At least one; the files are copied from the first to the others.

    Returns
    -------
    tuple
        The manifest (`digests_document`), and the duration in seconds.

    Raises
    ------
    NotFoundError
        If the repository or its revision does not exist.
    AccessError
        If the token does not allow to read it.
    IntegrityError
        If a file does not have the Hub's digest.
    NetworkError
        If the Hub cannot be reached.
    """
    started = time.monotonic()
    hub = _Hub(request)
    commit = hub.commit()
    files = {}
    for path, size, digest in hub.files(commit):
        if is_selected(request, path):
            files[path] = (size, digest)
    for path, (size, digest) in files.items():
        first = Path(folders[0], path)
        hub.fetch(commit, path, first, size, digest)
        for folder in folders[1:]:
            _copy(first, Path(folder, path))
    document = digests_document(files, source=request.source, commit=commit)
    return document, time.monotonic() - started


class _Hub:
    """One repository on the Hub."""

    def __init__(self, request: RepoRequest) -> None:
        import requests

        self._request = request
        endpoint = request.hub.get("endpoint") or os.environ.get("HF_ENDPOINT")
        self._endpoint = str(endpoint or "https://huggingface.co").rstrip("/")
        self._api = f"{self._endpoint}/api/{_API_NAMES[request.repo_type]}/{request.repo_id}"
        # A session of requests does not send Authorization to the host of a redirect.
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "hftransfer; metaflow"
        self._session.headers.update(request.hub.get("headers") or {})
        if token := _token(request.hub.get("token")):
            self._session.headers["Authorization"] = f"Bearer {token}"

    def commit(self) -> str:
        """Return the commit to which the revision resolves."""
        revision = quote(self._request.revision or "main", safe="")
        return commit_of(_as_ours(self._get(f"{self._api}/revision/{revision}")))

    def files(self, commit: str) -> Iterator[tuple[str, int, str]]:
        """Yield path, size and digest of every file."""
        tree = f"{self._api}/tree/{commit}"
        url: str | None = f"{tree}?recursive=true&expand=false"
        pages: set[str] = set()
        while url is not None:
            if url in pages:
                raise RejectedError(f"{redact(url)}: the listing repeats this page without end")
            pages.add(url)
            response = self._get(url)
            for item in tree_items(_as_ours(response)):
                if item.get("type") == "file":
                    lfs = item.get("lfs")
                    digest = f"sha256:{lfs['oid']}" if lfs else f"git-sha1:{item['oid']}"
                    yield safe_path(str(item["path"])), int(item["size"]), digest
            # A mirror may return the link of the original Hub: only its query is used.
            query = response.links.get("next", {}).get("url", "").partition("?")[2]
            url = f"{tree}?{query}" if query else None

    def fetch(self, commit: str, path: str, target: Path, size: int, digest: str) -> None:
        """Download the file `path` of the repository to `target`."""
        repo = f"{REPO_TYPES[self._request.repo_type]}{self._request.repo_id}"
        url = f"{self._endpoint}/{repo}/resolve/{commit}/{quote(path)}"
        with open_atomically(target) as fd, open(fd, "wb", closefd=False) as file:
            found = self._receive(url, file, size, digest.partition(":")[0])
            if found != digest:
                raise IntegrityError(f"{path}: digest mismatch: expected {digest}, got {found}")

    def _receive(self, url: str, file: Any, size: int, algorithm: str) -> str:
        """Write the content of `url` to `file`; return its digest as ``algorithm:hex``."""
        import requests

        hasher = hashlib.sha256()
        if algorithm == "git-sha1":
            hasher = hashlib.sha1(usedforsecurity=False)
            hasher.update(b"blob %d\0" % size)
        done = 0
        for remaining in reversed(range(_ATTEMPTS)):
            try:
                headers = {"Range": f"bytes={done}-"} if done else {}
                response = self._get(url, headers=headers, stream=True)
                with response:
                    # A server that ignores Range sends the file from its start again.
                    skip = done if response.status_code == 200 else 0
                    for data in response.iter_content(_READ_SIZE):
                        fresh = data[skip:]
                        skip = max(skip - len(data), 0)
                        file.write(fresh)
                        hasher.update(fresh)
                        done += len(fresh)
                if done >= size:
                    break
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                if not remaining:
                    raise NetworkError(f"cannot download {url}: {type(error).__name__}") from None
            time.sleep(min(0.2 * 2 ** (_ATTEMPTS - remaining), 10))
        return f"{algorithm}:{hasher.hexdigest()}"

    def _get(self, url: str, **options: Any) -> Any:
        import requests

        what = f"{self._request.repo_type} {self._request.repo_id}"
        for remaining in reversed(range(_ATTEMPTS)):
            try:
                response = self._session.get(url, timeout=_TIMEOUT, **options)
            except requests.ConnectionError as error:
                if not remaining:
                    reason = type(error).__name__
                    raise NetworkError(f"{what}: cannot reach {self._endpoint}: {reason}") from None
            else:
                if response.status_code not in (429, 500, 502, 503, 504):
                    _check(response.status_code, what, self._request.revision)
                    return response
                if not remaining:
                    raise NetworkError(f"{what}: the Hub returned status {response.status_code}")
            time.sleep(min(0.5 * 2 ** (_ATTEMPTS - remaining), 10))
        raise AssertionError("unreachable")


def _as_ours(response: Any) -> Response:
    return Response("GET", response.url, response.status_code, response.headers, response.content)


def _check(status: int, what: str, revision: str | None) -> None:
    if status in (401, 403):
        raise AccessError(f"{what} cannot be read with this token, or does not exist ({status})")
    if status == 404:
        raise NotFoundError(f"{what} at revision {revision or 'main'} does not exist")
    if status >= 400:
        raise NetworkError(f"{what}: the Hub returned status {status}")


def _token(given: Any) -> str | None:
    """Return the token that huggingface_hub would use.

    `given` is the ``token`` argument: a token, False for none, or None or True for that of
    the environment or the token file.
    """
    if isinstance(given, str):
        return given
    if given is False:
        return None
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name):
            return os.environ[name].strip()
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or Path(home, "token")).read_text().strip()
    except OSError:
        return None


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    copy_atomically(source, target, folder=target.parent)
