"""What a manifest says of the files that are meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hftransfer._manifest import Manifest
from hftransfer._patterns import Patterns, select_entries
from hftransfer.errors import IntegrityError
from hftransfer.stores.base import Entry

__all__ = ("select_manifest", "with_manifest")


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
