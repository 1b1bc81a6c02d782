"""The Hub host: repository information, tree listings, and the redirects of `resolve`.

`HubApi.respond` maps one request to one response and does no I/O. Responses have the form of the
real Hub's, as huggingface_hub 2.4 reads them.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlencode

from hftransfer.testing._hub_routes import Route, parse_route
from hftransfer.testing._responses import (
    FileBody,
    Request,
    Response,
    json_response,
    redirect_response,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hftransfer.testing._content import Blob
    from hftransfer.testing._hub_cdn import Cdn
    from hftransfer.testing._hub_xet import XetStorage
    from hftransfer.testing._repositories import Commit, Repo, Repositories, TreeEntry

_TIMESTAMP = "2024-01-01T00:00:00.000Z"
# The rate limit in the headers, which is not enforced: requests per window, by quota.
_WINDOW_SECONDS = 300
_QUOTAS = {"api": 500, "resolvers": 3000}
# Actions that a gated repository denies without access; prefixes of `Route.action`.
_CONTENT_ACTIONS = ("resolve", "xet-read-token")


class _HttpError(Exception):
    """Carries an error response out of nested calls to `HubApi.respond`."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class HubApi:
    """Responds to the requests to the Hub host.

    Args:
        repositories: the repositories of the server.
        cdn: signs the URLs to which LFS files are redirected.
        endpoint: returns the base URL of this host.
        cdn_endpoint: returns the base URL of the CDN.
        page_size: most entries per page of a tree listing.

    Attributes:
        xet: files that are also in Xet storage; `None` if there is none.
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

    def respond(self, request: Request) -> Response:
        """Return the response to `request`; each has the Hub's rate limit headers."""
        route = parse_route(request.path)
        try:
            response = self._dispatch(request, route)
        except _HttpError as error:
            response = error.response
        file = f"{route.repo_id}/{route.path}" if route is not None and route.path else None
        bucket = "resolvers" if route is not None and route.action.startswith("resolve") else "api"
        headers = {**response.headers, **_rate_limit(bucket)}
        return dataclasses.replace(response, headers=headers, file=file)

    def _dispatch(self, request: Request, route: Route | None) -> Response:
        if route is None:
            return _error(404, None, "Sorry, we can't find the page you are looking for.")
        allowed = ("POST",) if route.action == "paths-info" else ("GET", "HEAD")
        if request.method not in allowed:
            return _error(405, None, "Method Not Allowed")
        repo = self._repo(request, route)
        if route.action == "refs":
            return _refs(repo)
        commit = _commit(repo, route.revision)
        if route.action == "info":
            return _info(repo, commit, blobs=_flag(request, "blobs"))
        if route.action == "tree":
            return self._tree(request, route, commit)
        if route.action == "paths-info":
            return _paths_info(request, commit, self.xet)
        if route.action == "xet-read-token":
            if self.xet is None:
                raise _HttpError(_error(404, None, "No file of this Hub is in Xet storage"))
            return self.xet.token_response(commit)
        return self._file(request, route, repo, commit)

    def _repo(self, request: Request, route: Route) -> Repo:
        """Return the repository, or raise the Hub's error if the token does not permit that.

        Raises:
            _HttpError: also with a redirect, if the repository was renamed.
        """
        token = _bearer_token(request)
        if token is not None and not self._repositories.knows(token):
            raise _HttpError(_error(401, None, "Invalid credentials in Authorization header"))
        new_name = self._repositories.new_name(route.repo_type, route.repo_id)
        repo = self._repositories.get(route.repo_type, new_name or route.repo_id)
        may_read = repo is not None and self._repositories.may_read(token, repo)
        if repo is None or (repo.private and not may_read):
            # The response does not reveal whether a private repository exists.
            status = 401 if token is None else 404
            message = "Invalid username or password." if token is None else "Repository not found"
            raise _HttpError(_error(status, "RepoNotFound", message))
        if new_name is not None:
            query = f"?{request.query}" if request.query else ""
            location = f"{route.before}{quote(new_name)}{route.after}{query}"
            raise _HttpError(redirect_response(307, location))
        if repo.disabled:
            raise _HttpError(_error(403, None, "Access to this resource is disabled."))
        if repo.gated and not may_read and route.action.startswith(_CONTENT_ACTIONS):
            raise _HttpError(_gated(repo, logged_in=token is not None))
        return repo

    def _tree(self, request: Request, route: Route, commit: Commit) -> Response:
        parameters = request.parameters()
        entries = _tree_below(commit, route.path, recursive=_flag(request, "recursive"))
        try:
            limit = min(self.page_size, int(parameters.get("limit") or self.page_size))
            previous = base64.urlsafe_b64decode(parameters.get("cursor", "")).decode()
        except ValueError:
            raise _HttpError(_error(400, None, "bad limit or cursor")) from None
        entries = [entry for entry in entries if entry.path > previous]
        page = entries[:limit]
        headers = {"X-Repo-Commit": commit.id}
        if len(entries) > limit:
            cursor = base64.urlsafe_b64encode(page[-1].path.encode()).decode()
            query = urlencode({**parameters, "cursor": cursor})
            headers["Link"] = f'<{self._endpoint()}{request.path}?{query}>; rel="next"'
        expand = _flag(request, "expand")
        rows = [_entry(entry, commit, self.xet, expand=expand) for entry in page]
        return json_response(rows, headers=headers)

    def _file(self, request: Request, route: Route, repo: Repo, commit: Commit) -> Response:
        blob = commit.files.get(route.path)
        if blob is None:
            raise _HttpError(_error(404, "EntryNotFound", "Entry not found", commit=commit.id))
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if blob.is_lfs:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if self.xet is not None:
            headers |= self.xet.headers(self._endpoint(), repo, commit, blob)
        if repo.direct or route.action == "resolve-cache":
            return _whole_file(blob, headers)
        if blob.is_lfs:
            target = self._cdn.signed_target(repo, route.path, blob, range_header=request.range)
            return redirect_response(302, self._cdn_endpoint() + target, headers=headers)
        return redirect_response(307, _cache_location(repo, route, commit, blob), headers=headers)


def _whole_file(blob: Blob, headers: dict[str, str]) -> Response:
    content_type = "application/octet-stream" if blob.is_lfs else "text/plain; charset=utf-8"
    return Response(
        200,
        {**headers, "ETag": f'"{blob.etag}"', "Content-Type": content_type},
        FileBody(blob.source, 0, blob.size, blob.size),
    )


def _cache_location(repo: Repo, route: Route, commit: Commit, blob: Blob) -> str:
    """Return the relative URL to which the Hub redirects `resolve` of a regular file."""
    original = f"{route.before}{repo.repo_id}{route.after}"
    query = f"{quote(original, safe='')}=&etag={quote(chr(34) + blob.etag + chr(34), safe='')}"
    path = f"/api/resolve-cache/{repo.repo_type}s/{repo.repo_id}/{commit.id}/{quote(route.path)}"
    return f"{path}?{query}"


def _commit(repo: Repo, revision: str) -> Commit:
    try:
        return repo.find(revision)
    except KeyError:
        raise _HttpError(_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")) from None


def _info(repo: Repo, commit: Commit, *, blobs: bool) -> Response:
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
    return json_response(value, headers={"X-Repo-Commit": commit.id})


def _refs(repo: Repo) -> Response:
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
    return json_response(listed)


def _paths_info(request: Request, commit: Commit, xet: XetStorage | None) -> Response:
    if "json" in request.headers.get("Content-Type", ""):
        body = json.loads(request.body)
        paths, expand = body["paths"], bool(body.get("expand"))
    else:
        form = parse_qs(request.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[0].lower() == "true"
    wanted = {paths} if isinstance(paths, str) else set(paths)
    found = [entry for entry in commit.tree if entry.path in wanted]
    return json_response([_entry(entry, commit, xet, expand=expand) for entry in found])


def _tree_below(commit: Commit, folder: str, *, recursive: bool) -> list[TreeEntry]:
    """Return the entries of one folder, with `recursive` also those below it, sorted by path."""
    if not folder:
        entries = list(commit.tree)
    else:
        entries = [entry for entry in commit.tree if entry.path.startswith(f"{folder}/")]
        if not entries:
            message = f"{folder} does not exist on {commit.id!r}"
            raise _HttpError(_error(404, "EntryNotFound", message, commit=commit.id))
    if recursive:
        return entries
    start = len(folder) + 1 if folder else 0
    return [entry for entry in entries if "/" not in entry.path[start:]]


def _entry(
    entry: TreeEntry, commit: Commit, xet: XetStorage | None, *, expand: bool
) -> dict[str, object]:
    blob = entry.blob
    if blob is None:
        # On the Hub the id of a directory is git's tree id. Clients only display it.
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


def _flag(request: Request, name: str) -> bool:
    return request.parameters().get(name, "").lower() in ("true", "1")


def _bearer_token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _gated(repo: Repo, *, logged_in: bool) -> Response:
    what = f"Access to {repo.repo_type} {repo.repo_id} is restricted"
    if logged_in:
        message = f"{what} and you are not in the authorized list. Ask for access on its page."
        return _error(403, "GatedRepo", message)
    message = f"{what}. You must have access to it and be authenticated. Please log in."
    return _error(401, "GatedRepo", message)


def _error(status: int, code: str | None, message: str, *, commit: str | None = None) -> Response:
    # A header must be one line of ASCII; the message may contain anything from the request.
    line = message.replace("\r", " ").replace("\n", " ")
    headers = {"X-Error-Message": line.encode("ascii", "backslashreplace").decode()}
    if code is not None:
        headers["X-Error-Code"] = code
    if commit is not None:
        headers["X-Repo-Commit"] = commit
    return json_response({"error": message}, status=status, headers=headers)


def _rate_limit(bucket: str) -> dict[str, str]:
    """Return rate limit headers with nearly the whole quota left (use `Status` for a 429)."""
    quota = _QUOTAS[bucket]
    return {
        "RateLimit": f'"{bucket}";r={quota - 1};t={_WINDOW_SECONDS}',
        "RateLimit-Policy": f'"fixed window";"{bucket}";q={quota};w={_WINDOW_SECONDS}',
    }
