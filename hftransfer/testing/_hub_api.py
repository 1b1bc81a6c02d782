"""The Hub host: repository information, tree listings, and the redirects of `resolve`.

`HubApi.answer` maps one request to one answer and does no I/O. Shapes are those of the real Hub
as huggingface_hub 2.4 reads them.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlencode

from hftransfer.testing._hub_routes import Route, parse_route
from hftransfer.testing._responses import Answer, Call, FileBody, json_answer, redirect_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from hftransfer.testing._content import Blob
    from hftransfer.testing._hub_cdn import Cdn
    from hftransfer.testing._hub_xet import XetStorage
    from hftransfer.testing._repositories import Commit, Repo, Repositories, TreeEntry

_TIMESTAMP = "2024-01-01T00:00:00.000Z"
_WINDOW_SECONDS = 300
_QUOTAS = {"api": 500, "resolvers": 3000}
_FOR_CONTENT = ("resolve", "xet-read-token")


class _RefusedError(Exception):
    """Carries the answer to a request that cannot be served."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class HubApi:
    """Answers the requests to the Hub host.

    Args:
        repositories: What there is.
        cdn: Signs the URLs to which LFS files are redirected.
        endpoint: Returns the base URL of this host.
        cdn_endpoint: Returns the base URL of the CDN.
        page_size: Most entries of one page of a tree listing.

    Attributes:
        xet: Where files lie that clients may fetch by the Xet protocol; `None` for nowhere.
    """

    def __init__(
        self,
        repositories: Repositories,
        cdn: Cdn,
        *,
        endpoint: Callable[[], str],
        cdn_endpoint: Callable[[], str],
        page_size: int,
    ) -> None:
        self._repositories = repositories
        self._cdn = cdn
        self._endpoint = endpoint
        self._cdn_endpoint = cdn_endpoint
        self.page_size = page_size
        self.xet: XetStorage | None = None

    def answer(self, call: Call) -> Answer:
        """Return the answer to `call`, always with the Hub's rate limit headers."""
        route = parse_route(call.path)
        try:
            answer = self._dispatch(call, route)
        except _RefusedError as refused:
            answer = refused.answer
        file = f"{route.repo_id}/{route.path}" if route is not None and route.path else None
        bucket = "resolvers" if route is not None and route.action.startswith("resolve") else "api"
        headers = {**answer.headers, **_rate_limit(bucket)}
        return dataclasses.replace(answer, headers=headers, file=file)

    def _dispatch(self, call: Call, route: Route | None) -> Answer:
        if route is None:
            return _error(404, None, "Sorry, we can't find the page you are looking for.")
        allowed = ("POST",) if route.action == "paths-info" else ("GET", "HEAD")
        if call.method not in allowed:
            return _error(405, None, "Method Not Allowed")
        repo = self._repo(call, route)
        if route.action == "refs":
            return _refs(repo)
        commit = _commit(repo, route.revision)
        if route.action == "info":
            return _info(repo, commit, blobs=_flag(call, "blobs"))
        if route.action == "tree":
            return self._tree(call, route, commit)
        if route.action == "paths-info":
            return _paths_info(call, commit, self.xet)
        if route.action == "xet-read-token":
            if self.xet is None:
                raise _RefusedError(_error(404, None, "No file of this Hub lies in Xet storage"))
            return self.xet.token_answer(commit)
        return self._file(call, route, repo, commit)

    def _repo(self, call: Call, route: Route) -> Repo:
        """Return the repository that the caller may see, or refuse as the Hub does."""
        token = _bearer_token(call)
        if token is not None and not self._repositories.knows(token):
            raise _RefusedError(_error(401, None, "Invalid credentials in Authorization header"))
        new_name = self._repositories.new_name(route.repo_type, route.repo_id)
        repo = self._repositories.get(route.repo_type, new_name or route.repo_id)
        opens = repo is not None and self._repositories.may_read(token, repo)
        if repo is None or (repo.private and not opens):
            # Who is not logged in is not told whether the repository exists.
            status = 401 if token is None else 404
            message = "Invalid username or password." if token is None else "Repository not found"
            raise _RefusedError(_error(status, "RepoNotFound", message))
        if new_name is not None:
            query = f"?{call.query}" if call.query else ""
            location = f"{route.before}{quote(new_name)}{route.after}{query}"
            raise _RefusedError(redirect_answer(307, location))
        if repo.disabled:
            raise _RefusedError(_error(403, None, "Access to this resource is disabled."))
        if repo.gated and not opens and route.action.startswith(_FOR_CONTENT):
            raise _RefusedError(_gated(repo, logged_in=token is not None))
        return repo

    def _tree(self, call: Call, route: Route, commit: Commit) -> Answer:
        parameters = call.parameters()
        entries = _below(commit, route.path, recursive=_flag(call, "recursive"))
        try:
            limit = min(self.page_size, int(parameters.get("limit") or self.page_size))
            last = base64.urlsafe_b64decode(parameters.get("cursor", "")).decode()
        except ValueError:
            raise _RefusedError(_error(400, None, "bad limit or cursor")) from None
        entries = [entry for entry in entries if entry.path > last]
        page = entries[:limit]
        headers = {"X-Repo-Commit": commit.id}
        if len(entries) > limit:
            following = base64.urlsafe_b64encode(page[-1].path.encode()).decode()
            query = urlencode({**parameters, "cursor": following})
            headers["Link"] = f'<{self._endpoint()}{call.path}?{query}>; rel="next"'
        expand = _flag(call, "expand")
        rows = [_entry(entry, commit, self.xet, expand=expand) for entry in page]
        return json_answer(rows, headers=headers)

    def _file(self, call: Call, route: Route, repo: Repo, commit: Commit) -> Answer:
        blob = commit.files.get(route.path)
        if blob is None:
            raise _RefusedError(_error(404, "EntryNotFound", "Entry not found", commit=commit.id))
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if blob.is_lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if self.xet is not None:
            headers |= self.xet.headers(self._endpoint(), repo, commit, blob)
        if repo.direct or route.action == "resolve-cache":
            return _whole_file(blob, headers)
        if blob.is_lfs:
            target = self._cdn.signed_target(repo, route.path, blob, range_header=call.range)
            return redirect_answer(302, self._cdn_endpoint() + target, headers=headers)
        return redirect_answer(307, _cache_location(repo, route, commit, blob), headers=headers)


def _whole_file(blob: Blob, headers: dict[str, str]) -> Answer:
    content_type = "application/octet-stream" if blob.is_lfs else "text/plain; charset=utf-8"
    return Answer(
        200,
        {**headers, "ETag": f'"{blob.etag}"', "Content-Type": content_type},
        FileBody(blob.source, 0, blob.size, blob.size),
    )


def _cache_location(repo: Repo, route: Route, commit: Commit, blob: Blob) -> str:
    """Return the relative address to which the Hub sends those who ask for a small file."""
    original = f"{route.before}{repo.repo_id}{route.after}"
    query = f"{quote(original, safe='')}=&etag={quote(chr(34) + blob.etag + chr(34), safe='')}"
    path = f"/api/resolve-cache/{repo.repo_type}s/{repo.repo_id}/{commit.id}/{quote(route.path)}"
    return f"{path}?{query}"


def _commit(repo: Repo, revision: str) -> Commit:
    try:
        return repo.find(revision)
    except KeyError:
        raise _RefusedError(
            _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        ) from None


def _info(repo: Repo, commit: Commit, *, blobs: bool) -> Answer:
    siblings: list[dict[str, object]] = []
    for path, blob in sorted(commit.files.items()):
        sibling: dict[str, object] = {"rfilename": path}
        if blobs:
            sibling |= {"blobId": blob.oid, "size": blob.size}
            if blob.is_lfs:
                lfs = {"sha256": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
                sibling["lfs"] = lfs
        siblings.append(sibling)
    value = {
        "_id": repo.storage_id,
        "id": repo.repo_id,
        "author": repo.repo_id.rpartition("/")[0] or None,
        "sha": commit.id,
        "lastModified": _TIMESTAMP,
        "createdAt": _TIMESTAMP,
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "disabled": repo.disabled,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
    }
    if repo.repo_type == "model":
        value["modelId"] = repo.repo_id
    return json_answer(value, headers={"X-Repo-Commit": commit.id})


def _refs(repo: Repo) -> Answer:
    listed: dict[str, list[dict[str, str]]] = {
        "branches": [],
        "converts": [],
        "pullRequests": [],
        "tags": [],
    }
    for name, sha in sorted(repo.branches.items()):
        row = {"name": name, "ref": name, "targetCommit": sha}
        if name.startswith("refs/pr/"):
            listed["pullRequests"].append(row)
        elif name.startswith("refs/convert/"):
            listed["converts"].append(row)
        else:
            listed["branches"].append({**row, "ref": f"refs/heads/{name}"})
    for name, sha in sorted(repo.tags.items()):
        listed["tags"].append({"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha})
    return json_answer(listed)


def _paths_info(call: Call, commit: Commit, xet: XetStorage | None) -> Answer:
    if "json" in call.headers.get("Content-Type", ""):
        asked = json.loads(call.body)
        paths, expand = asked["paths"], bool(asked.get("expand"))
    else:
        form = parse_qs(call.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[0].lower() == "true"
    wanted = {paths} if isinstance(paths, str) else set(paths)
    found = [entry for entry in commit.tree if entry.path in wanted]
    return json_answer([_entry(entry, commit, xet, expand=expand) for entry in found])


def _below(commit: Commit, folder: str, *, recursive: bool) -> list[TreeEntry]:
    """Return the entries of one folder, or of it and all below, in listing order."""
    if not folder:
        entries = list(commit.tree)
    else:
        entries = [entry for entry in commit.tree if entry.path.startswith(f"{folder}/")]
        if not entries:
            message = f"{folder} does not exist on {commit.id!r}"
            raise _RefusedError(_error(404, "EntryNotFound", message, commit=commit.id))
    if recursive:
        return entries
    start = len(folder) + 1 if folder else 0
    return [entry for entry in entries if "/" not in entry.path[start:]]


def _entry(
    entry: TreeEntry, commit: Commit, xet: XetStorage | None, *, expand: bool
) -> dict[str, object]:
    blob = entry.blob
    if blob is None:
        # A directory's id is git's tree id on the Hub; clients only show it.
        row: dict[str, object] = {"type": "directory", "oid": commit.id, "size": 0}
    else:
        row = {"type": "file", "oid": blob.oid, "size": blob.size}
        if blob.is_lfs:
            lfs = {"oid": blob.sha256, "size": blob.size, "pointerSize": blob.pointer_size}
            row["lfs"] = lfs
        if xet is not None and (xet_hash := xet.hash_of(blob)) is not None:
            row["xetHash"] = xet_hash
    row["path"] = entry.path
    if expand:
        row["lastCommit"] = {"id": commit.id, "title": "Upload files", "date": _TIMESTAMP}
    return row


def _flag(call: Call, name: str) -> bool:
    return call.parameters().get(name, "").lower() in ("true", "1")


def _bearer_token(call: Call) -> str | None:
    scheme, _, token = call.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _gated(repo: Repo, *, logged_in: bool) -> Answer:
    what = f"Access to {repo.repo_type} {repo.repo_id} is restricted"
    if logged_in:
        message = f"{what} and you are not in the authorized list. Ask for access on its page."
        return _error(403, "GatedRepo", message)
    message = f"{what}. You must have access to it and be authenticated. Please log in."
    return _error(401, "GatedRepo", message)


def _error(status: int, code: str | None, message: str, *, commit: str | None = None) -> Answer:
    # A header is one line of Latin-1, whatever the request put into the message.
    line = message.replace("\r", " ").replace("\n", " ")
    headers = {"X-Error-Message": line.encode("ascii", "backslashreplace").decode()}
    if code is not None:
        headers["X-Error-Code"] = code
    if commit is not None:
        headers["X-Repo-Commit"] = commit
    return json_answer({"error": message}, status=status, headers=headers)


def _rate_limit(bucket: str) -> dict[str, str]:
    """Return the headers of a window that is never used up; a `Status` fault makes a 429."""
    quota = _QUOTAS[bucket]
    return {
        "RateLimit": f'"{bucket}";r={quota - 1};t={_WINDOW_SECONDS}',
        "RateLimit-Policy": f'"fixed window";"{bucket}";q={quota};w={_WINDOW_SECONDS}',
    }
