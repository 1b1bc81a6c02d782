"""Parses the paths of requests to the Hub host."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from hftransfer.testing._repositories import REPO_TYPES, RepoType

_PLURALS: dict[str, RepoType] = {f"{repo_type}s": repo_type for repo_type in REPO_TYPES}
_API_ACTIONS = frozenset(("revision", "tree", "paths-info", "refs", "xet-read-token"))


@dataclass(frozen=True)
class Route:
    """The parts of a request path.

    Attributes:
        action: `info`, `tree`, `paths-info`, `refs`, `xet-read-token`, `resolve` or
            `resolve-cache`.
        repo_type: kind of repository.
        repo_id: decoded, with or without a namespace.
        revision: decoded.
        path: decoded path inside the repository; empty for its root.
        before: percent-encoded path up to the repository id, with the slash in between.
        after: percent-encoded path after the repository id; empty, or starts with a slash.
    """

    action: str
    repo_type: RepoType
    repo_id: str
    revision: str
    path: str
    before: str
    after: str


def parse_route(raw_path: str) -> Route | None:
    """Return the route of a percent-encoded path, or `None` if the Hub has no such page.

    Segments are decoded after splitting: a revision such as `refs/pr/1` is sent as one segment
    that contains `%2F`.
    """
    segments = raw_path.strip("/").split("/")
    if segments[0] == "api" and len(segments) > 2:
        if segments[1] == "resolve-cache" and len(segments) > 4:
            return _resolve_cache(segments)
        if segments[1] in _PLURALS:
            return _api(segments)
        return None
    return _resolve(segments)


def _api(segments: list[str]) -> Route | None:
    rest = segments[2:]
    for length in (2, 1):
        if len(rest) > length and rest[length] in _API_ACTIONS:
            tail = rest[length + 1 :]
            action = rest[length]
            if action == "refs":
                return _route("refs", segments, 2, length, "main", [])
            if not tail:
                return None
            revision, path = _revision(tail)
            name = "info" if action == "revision" else action
            return _route(name, segments, 2, length, revision, path)
    if len(rest) <= 2:
        return _route("info", segments, 2, len(rest), "main", [])
    return None


def _resolve_cache(segments: list[str]) -> Route | None:
    """Parse `api/resolve-cache/models/NS/NAME/COMMIT/PATH`: the commit ends the id."""
    if segments[2] not in _PLURALS:
        return None
    for length in (1, 2):
        rest = segments[3 + length :]
        if len(rest) >= 2 and len(rest[0]) == 40:
            return _route("resolve-cache", segments, 3, length, rest[0], rest[1:])
    return None


def _resolve(segments: list[str]) -> Route | None:
    start = 1 if segments[0] in ("datasets", "spaces") else 0
    for length in (2, 1):
        verb = start + length
        if len(segments) > verb + 2 and segments[verb] == "resolve":
            revision, path = _revision(segments[verb + 1 :])
            return _route("resolve", segments, start, length, revision, path) if path else None
    return None


def _revision(tail: list[str]) -> tuple[str, list[str]]:
    """Split the revision from the path; `refs/pr/1` may also be three segments."""
    if tail[0] == "refs" and len(tail) >= 3:
        return unquote("/".join(tail[:3])), tail[3:]
    return unquote(tail[0]), tail[1:]


def _route(
    action: str, segments: list[str], start: int, length: int, revision: str, path: list[str]
) -> Route:
    stop = start + length
    after = segments[stop:]
    return Route(
        action=action,
        repo_type=_PLURALS.get(segments[start - 1], "model") if start else "model",
        repo_id=unquote("/".join(segments[start:stop])),
        revision=revision,
        path=unquote("/".join(path)),
        before="/" + "".join(f"{segment}/" for segment in segments[:start]),
        after="".join(f"/{segment}" for segment in after),
    )
