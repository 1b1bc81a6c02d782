"""The names of the repositories in ``load=``. Pure.

A load is called by its repository id. Further parts make the name unambiguous, in this order:
``[models/|datasets/|spaces/]org/name[@revision][[patterns]][:path]``. The revision is as it was
written, ``main`` where none was. The patterns are those of ``allow_patterns``, ``*`` where there
are none, then those of ``ignore_patterns``, each after ``!``, and separated by commas:
``org/name[*.json,*.txt,!tokenizer*]``.

The id alone is the last of the loads that it fits, and so is any name that fits several.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product

from metaflow_extensions.hftransfer.plugins.engine.load_spec import (
    HuggingfaceHubError,
    RepoRequest,
)


def check_loads(requests: Sequence[RepoRequest], step_name: str) -> None:
    """Check that every load has a name and files of its own.

    Raises
    ------
    HuggingfaceHubError
        If two loads are equal, or two of one repository go to the same folder.
    """
    folders: dict[tuple[str, str, str], RepoRequest] = {}
    paths: dict[str, str | None] = {}
    for request in requests:
        what = f"{request.repo_type} {request.repo_id}"
        if request.path is not None:
            place = (request.repo_type, request.repo_id, os.path.abspath(request.path))
            if place in folders:
                raise HuggingfaceHubError(
                    f"load of step {step_name} puts {what} twice into {request.path}. Give each a "
                    "folder of its own."
                )
            folders[place] = request
        name = full_name(request)
        if name in paths and None in (paths[name], request.path):
            raise HuggingfaceHubError(
                f"load of step {step_name} names {what} twice with the same arguments. Name it "
                'once, or give each a folder of its own: (repository, "path").'
            )
        paths[name] = request.path


def full_name(request: RepoRequest) -> str:
    """Return the name of a load with all of its parts, except the path."""
    prefix, revision, patterns, _ = _parts(request)
    return f"{prefix}{request.repo_id}{revision}{patterns}"


def aliases(request: RepoRequest) -> list[str]:
    """Return all names that fit a load, the shortest, its repository id, first."""
    prefix, revision, patterns, path = _parts(request)
    found = [
        f"{type_}{request.repo_id}{at}{files}{folder}"
        for type_, at, files, folder in product(
            ("", prefix), ("", revision), ("", patterns), ("", path)
        )
    ]
    return sorted(dict.fromkeys(found), key=len)


def listed_names(requests: Sequence[RepoRequest]) -> list[list[str]]:
    """Return, for each load, the names under which it is listed.

    A load whose repository id no other has is listed by the id. Otherwise each is listed by a
    name with those parts in which they differ, and the last one by the id as well.
    """
    names: list[list[str]] = []
    for index, request in enumerate(requests):
        equal = [other for other in requests if other.repo_id == request.repo_id]
        if len(equal) == 1:
            names.append([request.repo_id])
            continue
        different = [len(set(parts)) > 1 for parts in zip(*map(_parts, equal), strict=True)]
        parts = zip(_parts(request), different, strict=True)
        own = [part if differs else "" for part, differs in parts]
        name = f"{own[0]}{request.repo_id}{own[1]}{own[2]}{own[3]}"
        is_last = not any(other.repo_id == request.repo_id for other in requests[index + 1 :])
        names.append([*([request.repo_id] if is_last else []), name])
    return names


def _parts(request: RepoRequest) -> tuple[str, str, str, str]:
    """Return the parts of a name before and after the repository id."""
    allowed = _as_list(request.allow_patterns) or ["*"]
    ignored = [f"!{pattern}" for pattern in _as_list(request.ignore_patterns)]
    return (
        f"{request.repo_type}s/",
        f"@{request.revision or 'main'}",
        f"[{','.join([*allowed, *ignored])}]",
        "" if request.path is None else f":{request.path}",
    )


def _as_list(patterns: str | list[str] | None) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns or ())
