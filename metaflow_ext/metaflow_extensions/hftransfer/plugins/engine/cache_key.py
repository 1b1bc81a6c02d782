"""Which stored copy serves which request. Pure.

Names are those of metaflow-checkpoint, so that each side finds what the other stored.
In the scope ``checkpoint`` a name says nothing about revision and patterns; what we
store therefore carries a record of them in its metadata, and a copy whose record asks
for other files is not taken.

This record is ``metadata["hftransfer"]``: ``revision`` (as asked, null: the default
branch), ``commit`` (what it meant, null if not known), ``allow_patterns`` and
``ignore_patterns`` (lists or null).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest

CACHE_SCOPES = ("checkpoint", "flow", "global")
RECORD = "hftransfer"

_DEFAULT_BRANCH = "main"


class _Selection(NamedTuple):
    revision: str
    commit: str | None
    allow: frozenset[str] | None
    ignore: frozenset[str] | None


def entry_name(request: RepoRequest, cache_scope: str) -> str:
    """Return the name under which metaflow-checkpoint looks for what `request` asks for."""
    parts = [request.repo_type, request.repo_id]
    if cache_scope != "checkpoint":
        values = (request.revision, request.ignore_patterns, request.allow_patterns)
        parts += [json.dumps(value) for value in values if value is not None]
    return hashlib.md5("/".join(parts).encode(), usedforsecurity=False).hexdigest()[:10]


def entry_metadata(
    request: RepoRequest, commit: str | None, *, with_arguments: bool
) -> dict[str, Any]:
    """Return the ``metadata`` of a new entry.

    Args:
        request: what was asked for.
        commit: what its revision was resolved to.
        with_arguments: add ``kwargs``, which metaflow-checkpoint stores for ``load=`` only.
    """
    metadata: dict[str, Any] = {
        "repo_id": request.repo_id,
        "registry": "huggingface",
        "repo_type": request.repo_type,
    }
    if with_arguments:
        metadata["kwargs"] = request.arguments
    metadata[RECORD] = {
        "revision": request.revision,
        "commit": commit,
        "allow_patterns": _as_list(request.allow_patterns),
        "ignore_patterns": _as_list(request.ignore_patterns),
    }
    return metadata


def choose_entry(
    entries: Iterable[Mapping[str, Any]], request: RepoRequest
) -> dict[str, Any] | None:
    """Return the newest of `entries`, all of the right name, that serves `request`."""
    serving = [dict(entry) for entry in entries if serves(entry, request)]
    return max(serving, key=lambda entry: str(entry.get("created_on", "")), default=None)


def serves(entry: Mapping[str, Any], request: RepoRequest) -> bool:
    """Return True if `entry`, of the right name, holds what `request` asks for.

    An entry without a record was stored by metaflow-checkpoint's ``snapshot_download``.
    Its name says too little (in the scope ``checkpoint`` nothing, in the wider ones a
    revision looks like a pattern), so it serves a request for the whole default branch only.
    """
    wanted = _selection(request.arguments)
    metadata = entry.get("metadata") or {}
    if metadata.get("repo_id", request.repo_id) != request.repo_id:
        return False
    if metadata.get("repo_type", request.repo_type) != request.repo_type:
        return False
    recorded = _recorded(metadata)
    if recorded is None:
        return wanted == _selection({})
    same_files = (recorded.allow, recorded.ignore) == (wanted.allow, wanted.ignore)
    return same_files and wanted.revision in (recorded.revision, recorded.commit)


def recorded_request(
    metadata: Mapping[str, Any], hub: Mapping[str, Any]
) -> tuple[RepoRequest, str] | None:
    """Return the request that an entry with `metadata` was made for, and its commit.

    None if that is not recorded. `hub` are the arguments for reaching the Hub.
    """
    from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest

    record = metadata.get(RECORD)
    if not isinstance(record, Mapping) or not record.get("commit") or not metadata.get("repo_id"):
        return None
    request = RepoRequest(
        repo_id=str(metadata["repo_id"]),
        repo_type=str(metadata.get("repo_type") or "model"),
        revision=record.get("revision"),
        allow_patterns=record.get("allow_patterns"),
        ignore_patterns=record.get("ignore_patterns"),
        hub=dict(hub),
    )
    return request, str(record["commit"])


def _recorded(metadata: Mapping[str, Any]) -> _Selection | None:
    for name in (RECORD, "kwargs"):
        record = metadata.get(name)
        if isinstance(record, Mapping):
            return _selection(record)
    return None


def _selection(arguments: Mapping[str, Any]) -> _Selection:
    allow, ignore = (
        None if patterns is None else frozenset(patterns)
        for patterns in map(_as_list, map(arguments.get, ("allow_patterns", "ignore_patterns")))
    )
    revision = arguments.get("revision") or _DEFAULT_BRANCH
    return _Selection(revision, arguments.get("commit"), allow, ignore)


def _as_list(patterns: Any) -> list[str] | None:
    if patterns is None:
        return None
    return [patterns] if isinstance(patterns, str) else list(patterns)
