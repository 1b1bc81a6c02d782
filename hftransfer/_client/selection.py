"""Which files of a place are meant, and what a manifest says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hftransfer._client.patterns import Patterns, select_entries
from hftransfer._core.manifest import Manifest
from hftransfer.errors import IntegrityError
from hftransfer.stores.base import Entry

__all__ = ("Selection", "with_manifest")


@dataclass(frozen=True)
class Selection:
    """Patterns that a caller gave; see `select_entries`."""

    allow: Patterns
    ignore: Patterns

    def entries(self, listed: Sequence[Entry]) -> Sequence[Entry]:
        """Return what the patterns leave of `listed`."""
        return select_entries(listed, self.allow, self.ignore)

    def manifest(self, recorded: Manifest) -> Manifest:
        """Return what the patterns leave of `recorded`."""
        files = [Entry(path=path, size=file.size) for path, file in recorded.files.items()]
        left = self.entries(files)
        return replace(recorded, files={entry.path: recorded.files[entry.path] for entry in left})


def with_manifest(entries: Sequence[Entry], manifest: Manifest, location: str) -> Sequence[Entry]:
    """Return `entries` with what each chunk of them must be.

    Raises:
        IntegrityError: if these are not the files that `manifest` records.
    """
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
