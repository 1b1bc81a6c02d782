"""Listings of S3: one object, or the objects of a folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from hftransfer._core.units import parse_count
from hftransfer._io.retry import retrying
from hftransfer.errors import AccessError, NotFoundError, RejectedError, ServerError, TransferError
from hftransfer.locations import S3Location
from hftransfer.stores.s3.answers import check_document, required_etag
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.xml import ListedObject, Page, parse_list

__all__ = ("ListedPage", "head_object", "list_page", "pages_of_location", "request_page")


@dataclass(frozen=True)
class ListedPage:
    """A page of the objects at a location."""

    objects: Sequence[ListedObject]
    root: str
    """Start of every key, up to and including a slash; the rest of a key is a path."""
    single: bool
    """True if the location is the key of one object."""
    is_last: bool


async def pages_of_location(client: S3Client, location: S3Location) -> AsyncIterator[ListedPage]:
    """Yield the object whose key the location is, or else the objects below it, page by page.

    For the first page one request usually suffices: in a listing by prefix an object precedes
    everything below it, and the keys that begin with ``key/`` are on the first page of those that
    begin with ``key``, unless there are many siblings such as ``key-2``.

    Raises:
        NotFoundError: if there is no such bucket, object or folder.
        AccessError: if it may be neither listed nor read as an object.
    """
    bucket, key = location.bucket, location.key
    folder = key if not key or key.endswith("/") else f"{key}/"
    try:
        page = await list_page(client, bucket, key)
    except AccessError:
        # Credentials that may read but not list can still name an object.
        if folder == key or (named := await head_object(client, bucket, key)) is None:
            raise
        page = Page([named], None)
    if folder != key:
        first = page.objects[0] if page.objects else None
        if first is not None and first.key == key:
            root = key.removesuffix(key.rpartition("/")[2])
            yield ListedPage([first], root, single=True, is_last=True)
            return
        if page.next_token is not None:
            page = await list_page(client, bucket, folder)
    is_empty = True
    while True:
        # Other tools mark folders by empty objects whose key ends in a slash.
        files = [
            listed
            for listed in page.objects
            if listed.key.startswith(folder) and (listed.size or not listed.key.endswith("/"))
        ]
        is_empty = is_empty and not files
        is_last = page.next_token is None
        if is_last and is_empty:
            raise NotFoundError(
                f"{client.describe(bucket, key)}: there is no object with this key, and none "
                "below it"
            )
        yield ListedPage(files, folder, single=False, is_last=is_last)
        if is_last:
            return
        token = page.next_token
        page = await list_page(client, bucket, folder, token)
        if page.next_token == token:
            where = client.describe(bucket, folder)
            raise RejectedError(f"{where}: the listing repeats a page without end")


async def list_page(
    client: S3Client,
    bucket: str,
    prefix: str,
    token: str | None = None,
    *,
    start_after: str | None = None,
) -> Page:
    """Return one page of the objects whose keys begin with `prefix`.

    Args:
        client: open.
        bucket: name of the bucket.
        prefix: not encoded.
        token: continuation token of the previous page; None for the first page.
        start_after: list only keys behind this one. Some stores ignore it.

    Raises:
        NotFoundError: if there is no such bucket.
        AccessError: if it may not be listed.
    """
    query = {"prefix": prefix}
    if token is not None:
        query["continuation-token"] = token
    if start_after is not None:
        query["start-after"] = start_after
    return await retrying(partial(request_page, client, bucket, query), client.options.retry)


async def request_page(client: S3Client, bucket: str, query: Mapping[str, str]) -> Page:
    """Request one page of a listing once.

    Args:
        client: open.
        bucket: name of the bucket.
        query: with the ``prefix``, not encoded.

    Raises:
        RejectedError: if no S3 store has answered.
        ServerError: if the listing was cut off; requested again, it may be whole.
        TransferError: as `S3Client.send`.
    """
    query = {"list-type": "2", "encoding-type": "url", **query}
    response = await client.send("GET", bucket, query=query)
    context = client.describe(bucket, query["prefix"])
    check_document(response, "ListBucketResult", context)
    try:
        return parse_list(response.body)
    except ServerError as error:
        error.message = f"{context}: {error.message}"
        raise


async def head_object(client: S3Client, bucket: str, key: str) -> ListedObject | None:
    """Return an object as a listing would, or None if it is absent or cannot be asked for."""
    try:
        head = await client.call("HEAD", bucket, key)
    except TransferError:
        return None  # the listing's error is clearer, since responses to HEAD have no body
    required_etag(head, client.describe(bucket, key))
    length = head.headers.get("Content-Length", "")
    size = parse_count(length)
    return ListedObject(key, -1 if size is None else size, head.headers.get("ETag", ""))
