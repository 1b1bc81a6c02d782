"""Where the Hub keeps small files, learnt from where it sent others of the same commit.

``resolve`` answers for a regular file with a redirect to the Hub's own cache, whose
address is made of the commit, the path and the file's git id (shapes as in the issues of
https://github.com/huggingface/huggingface_hub). All three are known from the listing, so
once two files have shown the same form the others are asked for where they will be: one
request each, instead of two. An address that does not answer with the file ends the
guessing, and a wrong content would be found by its digest like any other.
"""

from __future__ import annotations

import re
from urllib.parse import quote

__all__ = ("CacheAddresses", "address_form")

# Of other characters it is not known how often they are percent-encoded there.
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")
_PATH, _QUOTED, _ID = "\0path\0", "\0quoted\0", "\0id\0"


def address_form(url: str, path: str, blob_id: str) -> str | None:
    """Return `url` with the file's own parts replaced by marks, or None if it has not all of them.

    Args:
        url: where the file `path` was found.
        path: in the repository.
        blob_id: its git id.
    """
    address, question, query = url.partition("?")
    quoted = quote(path, safe="")
    if not address.endswith(f"/{path}") or blob_id not in query:
        return None
    form = address[: -len(path)] + _PATH
    return form + question + query.replace(quoted, _QUOTED).replace(blob_id, _ID)


class CacheAddresses:
    """Learns the form of addresses and applies it."""

    def __init__(self) -> None:
        self._form: str | None = None
        self._is_confirmed = False
        self._is_given_up = False
        self._seen: set[str] = set()

    def observe(self, url: str, path: str, blob_id: str) -> None:
        """Note that the file `path` was found at `url`."""
        if self._is_given_up or self._is_confirmed or path in self._seen:
            return
        if not _PLAIN.fullmatch(path):
            return
        self._seen.add(path)
        form = address_form(url, path, blob_id)
        if form is None or self._form not in (None, form):
            self.abandon()
        else:
            self._is_confirmed = self._form is not None
            self._form = form

    def guess(self, path: str, blob_id: str) -> str | None:
        """Return where the file `path` will be, or None if that is not known."""
        if self._form is None or not self._is_confirmed or not _PLAIN.fullmatch(path):
            return None
        return (
            self._form.replace(_PATH, path)
            .replace(_QUOTED, quote(path, safe=""))
            .replace(_ID, blob_id)
        )

    def abandon(self) -> None:
        """Guess no more."""
        self._is_given_up = True
        self._is_confirmed = False
        self._form = None
