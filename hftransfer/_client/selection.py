"""Which files of a listing to process: glob patterns, by huggingface_hub's rules, and manifests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeAlias

from hftransfer._core.manifest import Manifest
from hftransfer._core.manifest_records import ManifestRecords
from hftransfer.errors import IntegrityError
from hftransfer.stores.base import Entry, ListingPage

__all__ = ("Patterns", "Selection", "path_filter", "select_entries", "started", "with_manifest")

Patterns: TypeAlias = str | Sequence[str] | None
"""One glob pattern, several of them, or None for no filter."""


@dataclass(frozen=True)
class Selection:
    """The patterns of one call, applied to listings and to manifests; see `select_entries`."""

    allow: Patterns
    ignore: Patterns

    def entries(self, listed: Sequence[Entry]) -> Sequence[Entry]:
        """Return the entries of `listed` that the patterns select."""
        return select_entries(listed, self.allow, self.ignore)

    async def pages(
        self, listed: AsyncGenerator[ListingPage, None]
    ) -> AsyncGenerator[ListingPage, None]:
        """Yield the pages of `listed` with only the entries that the patterns select."""
        async with aclosing(listed):
            async for page in listed:
                yield ListingPage(self.entries(page.entries), page.is_last)

    def manifest(self, recorded: Manifest) -> Manifest:
        """Return `recorded` with only the files that the patterns select."""
        if self.allow is None and self.ignore is None:
            return recorded
        selects = path_filter(self.allow, self.ignore)
        selected = ManifestRecords()
        for path, file in recorded.files.items():
            if selects(path):
                selected.add(path, file)
        return replace(recorded, files=selected)


def select_entries(
    entries: Sequence[Entry], allow_patterns: Patterns, ignore_patterns: Patterns
) -> Sequence[Entry]:
    """Return the entries that the patterns select, in their order, by huggingface_hub's rules.

    The rules are those of `huggingface_hub.utils.filter_repo_objects`: `fnmatch` on the whole
    path, case-sensitive; ``*`` also matches ``/``; a pattern that ends in ``/`` matches
    everything below that folder.

    Args:
        entries: the listing.
        allow_patterns: keep only paths that match one of these. Default None: keep all.
        ignore_patterns: drop paths that match one of these, even if they are allowed.
            Default None: drop none.
    """
    if allow_patterns is None and ignore_patterns is None:
        return entries
    selects = path_filter(allow_patterns, ignore_patterns)
    return [entry for entry in entries if selects(entry.path)]


def path_filter(allow_patterns: Patterns, ignore_patterns: Patterns) -> Callable[[str], bool]:
    """Return the function by which `select_entries` selects paths."""
    allowed, ignored = _normalized(allow_patterns), _normalized(ignore_patterns)

    def selects(path: str) -> bool:
        is_allowed = allowed is None or _matches(path, allowed)
        return is_allowed and not (ignored is not None and _matches(path, ignored))

    return selects


def _normalized(patterns: Patterns) -> list[str] | None:
    if patterns is None:
        return None
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    return [f"{pattern}*" if pattern.endswith("/") else pattern for pattern in given]


def _matches(path: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def with_manifest(entries: Sequence[Entry], manifest: Manifest, location: str) -> Sequence[Entry]:
    """Return `entries`, each with the chunk digests that `manifest` records for it.

    Args:
        entries: the listing; it must have exactly the files of `manifest`.
        manifest: recorded by an earlier transfer.
        location: where `entries` were listed, for the error messages.

    Raises:
        IntegrityError: if a recorded file is not listed, or a listed file is not recorded.
    """
    listed = {entry.path for entry in entries}
    if missing := sorted(set(manifest.files) - listed):
        raise IntegrityError(
            f"{location}: {len(missing)} of {len(manifest.files)} recorded files missing, the "
            f"first is {missing[0]!r}"
        )
    if unknown := sorted(listed - set(manifest.files)):
        raise IntegrityError(
            f"{location}: {len(unknown)} of {len(listed)} files not in the manifest, the first is "
            f"{unknown[0]!r}"
        )
    return [replace(entry, manifest=manifest.files[entry.path]) for entry in entries]


async def started(
    pages: AsyncGenerator[ListingPage, None],
) -> AsyncGenerator[ListingPage, None]:
    """Wait for the first of `pages`; return all of them."""
    first = await anext(pages)

    async def chained() -> AsyncGenerator[ListingPage, None]:
        async with aclosing(pages):
            yield first
            async for page in pages:
                yield page

    return chained()
