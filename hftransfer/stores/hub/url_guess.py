"""Guesses the URLs of small files on the Hub, to save the redirect of each.

For a regular (non-LFS) file, ``resolve`` redirects to the Hub's own cache, at a URL that is made
of the commit, the path and the file's git blob id (examples in the issues of
https://github.com/huggingface/huggingface_hub). The listing contains all three. Once two files
have shown the same URL template, the other files are requested directly: one request each
instead of two.

A guessed URL is only an optimization. If the response is not the file, guessing is
disabled and the file is resolved. If the content is wrong, the digest shows it, as for any file.
"""

from __future__ import annotations

import re
from urllib.parse import quote

__all__ = ("UrlGuesser", "url_template")

# How the Hub percent-encodes paths with other characters is not known.
_UNRESERVED_PATH = re.compile(r"[A-Za-z0-9._/-]+")
# Placeholders in a template. NUL does not occur in a URL.
_PATH, _QUOTED_PATH, _BLOB_ID = "\0path\0", "\0quoted\0", "\0id\0"


def url_template(url: str, path: str, blob_id: str) -> str | None:
    """Return `url` with placeholders for the path and the blob id of its file.

    Args:
        url: served the file.
        path: of the file in the repository.
        blob_id: git blob id of the file, 40 hex digits.

    Returns:
        None if `url` does not end with the path or its query does not contain the blob id: then
        it says nothing about the URLs of other files.
    """
    base, question_mark, query = url.partition("?")
    if not base.endswith(f"/{path}") or blob_id not in query:
        return None
    query = query.replace(quote(path, safe=""), _QUOTED_PATH).replace(blob_id, _BLOB_ID)
    return base[: -len(path)] + _PATH + question_mark + query


class UrlGuesser:
    """Derives the URL template of one commit from resolved files, and applies it.

    States: learning (at most one template seen, no guesses); confirmed (two files had the same
    template, which is applied); disabled (templates differed, or a guess failed; final).
    """

    def __init__(self) -> None:
        self._template: str | None = None
        self._is_confirmed = False
        self._is_disabled = False
        self._observed_paths: set[str] = set()

    def observe(self, url: str, path: str, blob_id: str) -> None:
        """Learn from a file that was resolved: `url` served `path` with git id `blob_id`."""
        if self._is_disabled or self._is_confirmed or path in self._observed_paths:
            return
        if not _UNRESERVED_PATH.fullmatch(path):
            return
        self._observed_paths.add(path)
        template = url_template(url, path, blob_id)
        if template is None or self._template not in (None, template):
            self.disable()
        else:
            self._is_confirmed = self._template is not None
            self._template = template

    def guess(self, path: str, blob_id: str) -> str | None:
        """Return the URL that the file `path` should have, or None if it cannot be guessed."""
        if self._template is None or not self._is_confirmed:
            return None
        if not _UNRESERVED_PATH.fullmatch(path):
            return None
        return (
            self._template.replace(_PATH, path)
            .replace(_QUOTED_PATH, quote(path, safe=""))
            .replace(_BLOB_ID, blob_id)
        )

    def disable(self) -> None:
        """Make no more guesses."""
        self._is_disabled = True
        self._is_confirmed = False
        self._template = None
