"""Which objects a destination has, by ranges of its listing: without holding the listing.

A listing is sorted by key. A page of it tells for every key between its bounds whether there is
such an object. Files arrive nearly sorted, so a few pages that were read last answer nearly every
question; for another key one page is requested that starts just before it.

A page is a slow request of up to 300 KB, and one at a time is sent. So in an order in which pages
answer few questions, such as one at random, most objects are asked for by their keys instead, side
by side: one HEAD per file, and one page per `_PAGE_COST` files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import anyio

from hftransfer.errors import AccessError
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.errors import lacks_permission
from hftransfer.stores.s3.listing import head_object, list_page
from hftransfer.stores.s3.xml import ListedObject, Page

__all__ = ("ExistingObjects",)

# Pages that are kept: those of small files, of large files that lag behind, and their neighbours.
_MAX_RANGES = 8
# Pages that one question may cost. Further objects between the start of the first page and the key
# would have to have nearly the same name.
_PAGES_PER_LOOKUP = 2
# Questions that a page must answer on average to be requested: AWS lists 1,000 objects in 50 to
# 100 ms, in which some 10 HEADs are answered side by side.
_PAGE_COST = 8
# Questions that count, at most: so many pages may answer little before HEADs replace them.
_MAX_CREDIT = 8 * _PAGE_COST


class _Range(NamedTuple):
    """What a page tells about the keys behind `start`, up to and including `end`."""

    start: str
    end: str | None
    """None if the listing ends with this page."""
    objects: Mapping[str, ListedObject]
    """By key."""

    def covers(self, key: str) -> bool:
        return self.start < key and (self.end is None or key <= self.end)


class ExistingObjects:
    """The objects of a bucket whose keys begin with a prefix.

    Args:
        client: open while this is in use.
        bucket: name of the bucket.
        prefix: not encoded.
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._ranges: deque[_Range] = deque(maxlen=_MAX_RANGES)
        self._can_seek = True
        """False once the store has ignored ``start-after``, or does not sort its listing."""
        self._can_list = True
        self._credit = _MAX_CREDIT
        """Each question adds 1, each page takes `_PAGE_COST`."""
        self._listing = anyio.Lock()
        """Held during a request, so that files that need the same page cause one request."""

    async def start(self) -> None:
        """Request the first page: it shows whether bucket and credentials are right.

        Raises:
            NotFoundError: if there is no such bucket.
            AccessError: if the credentials are missing or wrong. Credentials that may write but
                not list are good practice: with them every object counts as absent.
        """
        try:
            page = await list_page(self._client, self._bucket, self._prefix)
        except AccessError as error:
            if not lacks_permission(error):
                raise
            self._can_list = False
        else:
            self._keep("", page)

    async def find(self, key: str, *, ask: bool) -> ListedObject | None:
        """Return the object `key` as it is listed, or None if there is none.

        The answer can be as old as the transfer.

        Args:
            key: of the object.
            ask: if the store's listing is of no use, ask for the object itself. Otherwise it
                counts as absent then.

        Raises:
            TransientError: if the store fails more often than the retry policy allows.
        """
        if not self._can_list:
            return None
        self._credit = min(_MAX_CREDIT, self._credit + 1)
        found = self._find(key)
        if found is None and self._may_list:
            async with self._listing:
                found = self._find(key)
                if found is None and self._may_list:
                    self._credit -= _PAGE_COST
                    found = await self._request(key)
        if found is not None:
            return found.objects.get(key)
        if not (ask or self._can_seek):
            return None
        return await head_object(self._client, self._bucket, key)

    @property
    def _may_list(self) -> bool:
        return self._can_seek and self._credit >= _PAGE_COST

    def _find(self, key: str) -> _Range | None:
        return next((each for each in reversed(self._ranges) if each.covers(key)), None)

    async def _request(self, key: str) -> _Range | None:
        """Request the page that has, or would have, `key`; None if the store cannot tell."""
        start = just_before(key)
        token = None
        for _ in range(_PAGES_PER_LOOKUP):
            page = await list_page(
                self._client,
                self._bucket,
                self._prefix,
                token,
                start_after=start if token is None else None,
            )
            self._keep(start, page)
            token = page.next_token
            if not self._can_seek or self._ranges[-1].covers(key) or token is None:
                break
            start = page.objects[-1].key if page.objects else start
        return self._find(key)

    def _keep(self, start: str, page: Page) -> None:
        keys = [listed.key for listed in page.objects]
        is_sorted = all(before < after for before, after in pairwise(keys))
        if not is_sorted or (keys and keys[0] <= start):
            self._can_seek = False
            return
        end = keys[-1] if keys else start
        objects = {listed.key: listed for listed in page.objects}
        self._ranges.append(_Range(start, None if page.next_token is None else end, objects))


def just_before(key: str) -> str:
    """Return a string that sorts before `key`, so that few keys are between the two."""
    last = key[-1:]
    if "!" < last <= "~":
        return f"{key[:-1]}{chr(ord(last) - 1)}~"
    return key[:-1]
