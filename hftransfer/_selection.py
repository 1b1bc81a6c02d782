"""Which files are meant: patterns by huggingface_hub's rules, and manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TypeAlias

from hftransfer._manifest import Manifest
from hftransfer.errors import IntegrityError
from hftransfer.stores.base import Entry

__all__ = ("Patterns", "select_entries", "select_manifest", "with_manifest")

Patterns: TypeAlias = str | Sequence[str] | None


def select_entries(
    entries: Sequence[Entry], allow_patterns: Patterns, ignore_patterns: Patterns
) -> Sequence[Entry]:
    """Return the entries that the patterns leave, by huggingface_hub's rules.

    Args:
        entries: what is there.
        allow_patterns: keep only paths that match one of these. ``*`` matches across
            ``/``; a pattern that ends in ``/`` means all below. Default: keep all.
        ignore_patterns: drop paths that match one of these.
    """
    allowed, ignored = _patterns(allow_patterns), _patterns(ignore_patterns)
    return [
        entry
        for entry in entries
        if (allowed is None or _matches(entry.path, allowed))
        and not (ignored is not None and _matches(entry.path, ignored))
    ]


def _patterns(patterns: Patterns) -> list[str] | None:
    if patterns is None:
        return None
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    return [f"{pattern}*" if pattern.endswith("/") else pattern for pattern in given]


def _matches(path: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def select_manifest(
    manifest: Manifest, *, allow_patterns: Patterns, ignore_patterns: Patterns
) -> Manifest:
    """Return what the patterns leave of `manifest`; see `select_entries`."""
    entries = [Entry(path=path, size=file.size) for path, file in manifest.files.items()]
    left = select_entries(entries, allow_patterns, ignore_patterns)
    return replace(manifest, files={entry.path: manifest.files[entry.path] for entry in left})


def with_manifest(entries: Sequence[Entry], manifest: Manifest, location: str) -> Sequence[Entry]:
    """Return `entries` with what each chunk of them must be."""
    listed = {entry.path for entry in entries}
    if missing := sorted(set(manifest.files) - listed):
        raise IntegrityError(
            f"{location}: {len(missing)} recorded files are missing, the first is {missing[0]!r}"
        )
    if unknown := sorted(listed - set(manifest.files)):
        raise IntegrityError(
            f"{location}: {len(unknown)} files are not in the manifest, the first is {unknown[0]!r}"
        )
    return [replace(entry, manifest=manifest.files[entry.path]) for entry in entries]
