"""From the Hub to folders with nothing but ``requests``: slower, and as careful.

For environments that have what every Metaflow task has and no more. One file at a time
over one connection; every file is checked against the Hub's digest before it gets its
name, and a broken body is continued where it broke.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hftransfer.errors import AccessError, IntegrityError, NetworkError, NotFoundError
from hftransfer.locations import safe_path
from metaflow_extensions.hftransfer.plugins.engine.manifests import digests_document

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest

_STEP = 1 << 20
_TRIES = 5
_TIMEOUT = (10, 30)
_KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}


def download(request: RepoRequest, folders: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Bring a repository into every one of `folders`.

    Returns
    -------
    tuple
        What the files are (`digests_document`), and the seconds that it took.

    Raises
    ------
    NotFoundError
        If the repository or its revision does not exist.
    AccessError
        If it may not be read.
    IntegrityError
        If bytes are not what the Hub vouches for.
    NetworkError
        If the Hub cannot be reached.
    """
    started = time.monotonic()
    hub = _Hub(request)
    commit = hub.commit()
    files = {}
    for path, size, digest in hub.files(commit):
        if _selected(path, request):
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
        self._api = f"{self._endpoint}/api/{_KINDS[request.repo_type]}/{request.repo_id}"
        self._session = requests.Session()  # leaves Authorization out when redirected elsewhere
        self._session.headers["User-Agent"] = "hftransfer; metaflow"
        self._session.headers.update(request.hub.get("headers") or {})
        if token := _token(request.hub.get("token")):
            self._session.headers["Authorization"] = f"Bearer {token}"

    def commit(self) -> str:
        revision = quote(self._request.revision or "main", safe="")
        return str(self._get(f"{self._api}/revision/{revision}").json()["sha"])

    def files(self, commit: str) -> Iterator[tuple[str, int, str]]:
        tree = f"{self._api}/tree/{commit}"
        url: str | None = f"{tree}?recursive=true&expand=false"
        while url is not None:
            answer = self._get(url)
            for item in answer.json():
                if item.get("type") == "file":
                    lfs = item.get("lfs")
                    digest = f"sha256:{lfs['oid']}" if lfs else f"git-sha1:{item['oid']}"
                    yield safe_path(str(item["path"])), int(item["size"]), digest
            # A mirror may pass on its upstream's link: only the query is taken from it.
            query = answer.links.get("next", {}).get("url", "").partition("?")[2]
            url = f"{tree}?{query}" if query else None

    def fetch(self, commit: str, path: str, target: Path, size: int, digest: str) -> None:
        """Make `target` the file `path` of the repository."""
        kind = {"model": "", "dataset": "datasets/", "space": "spaces/"}[self._request.repo_type]
        url = f"{self._endpoint}/{kind}{self._request.repo_id}/resolve/{commit}/{quote(path)}"
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid.uuid4().hex}.incomplete")
        try:
            with open(temporary, "xb") as file:
                found = self._receive(url, file, size, digest.partition(":")[0])
            if found != digest:
                raise IntegrityError(f"{path}: its digest is {found}, not {digest}")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _receive(self, url: str, file: Any, size: int, algorithm: str) -> str:
        import requests

        hasher = hashlib.sha256()
        if algorithm == "git-sha1":
            hasher = hashlib.sha1(usedforsecurity=False)
            hasher.update(b"blob %d\0" % size)
        done = 0
        for remaining in reversed(range(_TRIES)):
            try:
                headers = {"Range": f"bytes={done}-"} if done else {}
                answer = self._get(url, headers=headers, stream=True)
                with answer:
                    skip = done if answer.status_code == 200 else 0
                    for data in answer.iter_content(_STEP):
                        fresh = data[skip:]
                        skip = max(skip - len(data), 0)
                        file.write(fresh)
                        hasher.update(fresh)
                        done += len(fresh)
                if done >= size:
                    break
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                if not remaining:
                    raise NetworkError(f"{url}: {type(error).__name__}") from None
            time.sleep(min(0.2 * 2 ** (_TRIES - remaining), 10))
        return f"{algorithm}:{hasher.hexdigest()}"

    def _get(self, url: str, **options: Any) -> Any:
        import requests

        what = f"{self._request.repo_type} {self._request.repo_id}"
        for remaining in reversed(range(_TRIES)):
            try:
                answer = self._session.get(url, timeout=_TIMEOUT, **options)
            except requests.ConnectionError as error:
                if not remaining:
                    reason = type(error).__name__
                    raise NetworkError(f"{what}: {self._endpoint}: {reason}") from None
            else:
                if answer.status_code not in (429, 500, 502, 503, 504):
                    _check(answer.status_code, what, self._request.revision)
                    return answer
                if not remaining:
                    raise NetworkError(f"{what}: the Hub answers {answer.status_code}")
            time.sleep(min(0.5 * 2 ** (_TRIES - remaining), 10))
        raise AssertionError("unreachable")


def _check(status: int, what: str, revision: str | None) -> None:
    if status in (401, 403):
        raise AccessError(f"{what} may not be read with this token, or does not exist ({status})")
    if status == 404:
        raise NotFoundError(f"{what} at revision {revision or 'main'} does not exist")
    if status >= 400:
        raise NetworkError(f"{what}: the Hub answers {status}")


def _token(given: Any) -> str | None:
    """Return the token as huggingface_hub finds it."""
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


def _selected(path: str, request: RepoRequest) -> bool:
    def matches(patterns: str | list[str]) -> bool:
        given = [patterns] if isinstance(patterns, str) else patterns
        return any(
            fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern)
            for pattern in given
        )

    if request.allow_patterns is not None and not matches(request.allow_patterns):
        return False
    return request.ignore_patterns is None or not matches(request.ignore_patterns)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.incomplete")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
