"""What a step requests: one repository, which files of it, and where they go.

Pure. The forms of ``load=`` and the arguments of ``huggingface_hub.snapshot_download``
become `RepoRequest` values, or a `HuggingfaceHubError` that says what is wrong, before a
task starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

from metaflow.exception import MetaflowException

REPO_TYPES = {"model": "", "dataset": "datasets/", "space": "spaces/"}

# Sent to the Hub, never stored and never shown: each of them may contain a credential.
_HUB_ARGUMENTS = frozenset(
    ("token", "endpoint", "headers", "library_name", "library_version", "user_agent")
)
# Arguments of snapshot_download, in the current or in older releases, that have no meaning
# here: files go to the datastore and to the path of the load entry, and the engine chooses
# its own connections.
_IGNORED = frozenset(
    (
        "cache_dir",
        "etag_timeout",
        "legacy_cache_layout",
        "local_dir",
        "local_dir_use_symlinks",
        "max_workers",
        "proxies",
        "resume_download",
        "tqdm_class",
    )
)
_SELECTING = frozenset(
    (
        "repo_id",
        "repo_type",
        "revision",
        "allow_patterns",
        "ignore_patterns",
        "force_download",
        "local_files_only",
        "dry_run",
    )
)
_LOAD_FORMS = (
    'a repository id such as "org/name", a pair (repository id, path), a dict with "repo_id" and '
    "further arguments of snapshot_download, or a pair (dict, path)"
)


class HuggingfaceHubError(MetaflowException, ValueError):
    """``@huggingface_hub`` was given arguments that cannot work."""

    headline = "@huggingface_hub"

    def __init__(self, message: str) -> None:
        super().__init__(message)


@dataclass(frozen=True)
class RepoRequest:
    """One repository, or a part of it.

    Patterns and revision are kept as they were written, because the names of cache entries
    are derived from them.
    """

    repo_id: str
    repo_type: str = "model"
    revision: str | None = None
    allow_patterns: str | list[str] | None = None
    ignore_patterns: str | list[str] | None = None
    force_download: bool = False
    local_files_only: bool = False
    hub: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Arguments for the access to the Hub, such as ``token``."""
    path: str | None = None
    """The folder for the files; None for a temporary one."""
    ignored: tuple[str, ...] = field(default=(), compare=False)
    """The arguments that were given and have no effect here."""

    @property
    def source(self) -> str:
        """The repository as a location of the engine (``hf://…``)."""
        revision = "" if self.revision is None else "@" + quote(self.revision, safe="")
        return f"hf://{REPO_TYPES[self.repo_type]}{self.repo_id}{revision}"

    @property
    def label(self) -> str:
        """The repository for users: ``org/name``, ``dataset org/name@v2``."""
        kind = "" if self.repo_type == "model" else f"{self.repo_type} "
        return f"{kind}{self.repo_id}{'' if self.revision is None else '@' + self.revision}"

    @property
    def whole(self) -> RepoRequest:
        """The request for all files of the repository at this revision."""
        return replace(self, allow_patterns=None, ignore_patterns=None)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that select files; none that could be a credential."""
        named = {
            "revision": self.revision,
            "allow_patterns": self.allow_patterns,
            "ignore_patterns": self.ignore_patterns,
            "force_download": self.force_download or None,
        }
        return {name: value for name, value in named.items() if value is not None}


def is_selected(request: RepoRequest, path: str) -> bool:
    """Return True if the patterns of `request` select the file `path`, as in huggingface_hub."""

    def matches(patterns: str | list[str]) -> bool:
        given = [patterns] if isinstance(patterns, str) else patterns
        return any(
            fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern)
            for pattern in given
        )

    if request.allow_patterns is not None and not matches(request.allow_patterns):
        return False
    return request.ignore_patterns is None or not matches(request.ignore_patterns)


def parse_load(load: object) -> list[RepoRequest]:
    """Parse the value of ``load=``.

    Parameters
    ----------
    load : object
        None, or a list of repository ids, pairs and dicts. A pair may be a list, which is
        its form in JSON (``--with``, a ``Config``).

    Returns
    -------
    list of RepoRequest

    Raises
    ------
    HuggingfaceHubError
        If the value has another form; the message names the entry.
    """
    if load is None:
        return []
    if not isinstance(load, list):
        raise HuggingfaceHubError(
            f"load must be a list, not {_shown(load)}. Each entry is {_LOAD_FORMS}."
        )
    return [_parse_entry(entry) for entry in load]


def _parse_entry(entry: object) -> RepoRequest:
    if isinstance(entry, (tuple, list)):
        if len(entry) != 2:
            raise HuggingfaceHubError(
                f"load entry {_shown(entry)} has {len(entry)} items; a pair is "
                "(repository id, path) or (dict, path)."
            )
        what, path = entry
        if not isinstance(path, str) or not path:
            raise HuggingfaceHubError(
                f"load entry {_shown(entry)}: the path, its second item, must be a string."
            )
    else:
        what, path = entry, None
    if isinstance(what, str):
        return parse_arguments({"repo_id": what}, path)
    if isinstance(what, Mapping):
        return parse_arguments(what, path)
    raise HuggingfaceHubError(f"load entry {_shown(entry)} is invalid. It can be {_LOAD_FORMS}.")


def without_credentials(load: list[Any]) -> list[Any]:
    """Return `load` without possible credentials, for attributes that are stored or shown."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: item for name, item in value.items() if name not in _HUB_ARGUMENTS}
        if isinstance(value, (list, tuple)):
            return type(value)(map(cleaned, value))
        return value

    return [cleaned(entry) for entry in load]


def parse_arguments(arguments: Mapping[str, Any], path: str | None = None) -> RepoRequest:
    """Parse arguments of ``snapshot_download``.

    Parameters
    ----------
    arguments : Mapping
        ``repo_id`` and any argument of ``huggingface_hub.snapshot_download``, of any
        release. Those that have no meaning here are accepted and ignored.
    path : str, optional
        The folder for the files.

    Returns
    -------
    RepoRequest

    Raises
    ------
    HuggingfaceHubError
        If ``repo_id`` is missing, an argument is unknown or has an impossible value.
    """
    unknown = sorted(map(str, set(arguments) - _SELECTING - _HUB_ARGUMENTS - _IGNORED))
    if unknown:
        raise HuggingfaceHubError(
            f"{', '.join(unknown)}: unknown argument of snapshot_download. Known arguments are "
            f"{', '.join(sorted(_SELECTING | _HUB_ARGUMENTS | _IGNORED))}."
        )
    if arguments.get("dry_run"):
        raise HuggingfaceHubError("dry_run=True downloads nothing, so there is nothing to load.")
    repo_id = arguments.get("repo_id")
    if not isinstance(repo_id, str) or not repo_id.strip():
        raise HuggingfaceHubError(
            f'"repo_id" must be a repository id such as "org/name", not {_shown(repo_id)}.'
        )
    repo_type = arguments.get("repo_type") or "model"
    if repo_type not in REPO_TYPES:
        raise HuggingfaceHubError(
            f"repo_type of {repo_id} must be model, dataset or space, not {_shown(repo_type)}."
        )
    revision = arguments.get("revision")
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise HuggingfaceHubError(
            f"revision of {repo_id} must be a branch, tag or commit, not {_shown(revision)}."
        )
    return RepoRequest(
        repo_id=repo_id,
        repo_type=repo_type,
        revision=revision,
        allow_patterns=_patterns(arguments, "allow_patterns"),
        ignore_patterns=_patterns(arguments, "ignore_patterns"),
        force_download=bool(arguments.get("force_download")),
        local_files_only=bool(arguments.get("local_files_only")),
        hub={name: arguments[name] for name in _HUB_ARGUMENTS & set(arguments)},
        path=path,
        ignored=tuple(sorted(n for n in _IGNORED & set(arguments) if arguments[n] is not None)),
    )


def ignored_arguments(requests: Iterable[RepoRequest]) -> str:
    """Return one line that names the arguments of `requests` without effect; empty if none."""
    names = sorted({name for request in requests for name in request.ignored})
    if not names:
        return ""
    have = "has" if len(names) == 1 else "have"
    return (
        f"@huggingface_hub: {', '.join(names)} {have} no effect. Files go to the datastore and to "
        "the path of the load, and the number of connections adapts to the throughput."
    )


def _patterns(arguments: Mapping[str, Any], name: str) -> str | list[str] | None:
    value = arguments.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(pattern, str) for pattern in value):
        return list(value)
    raise HuggingfaceHubError(
        f'{name} must be a pattern such as "*.json" or a list of them, not {_shown(value)}.'
    )


def _shown(value: object) -> str:
    """Return `value` as text for a message, without possible credentials."""
    if isinstance(value, Mapping):
        value = {k: "…" if k in _HUB_ARGUMENTS else v for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_shown, value)) + "]"
    try:
        return json.dumps(value, default=repr)
    except (TypeError, ValueError):
        return repr(value)
