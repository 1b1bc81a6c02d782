"""What is at an S3 location: one object, or the objects of a folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from hftransfer._io.retry import retrying
from hftransfer.errors import AccessError, NotFoundError, Response, TransferError
from hftransfer.locations import S3Location
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.xml import ListedObject, Page, parse_list

__all__ = ("Found", "find", "list_page", "size_of")


@dataclass(frozen=True)
class Found:
    """What a location turned out to be."""

    objects: Sequence[ListedObject]
    root: str
    """What all their keys begin with, and paths do not."""
    single: bool
    """True if the location is the key of one object."""


async def find(session: S3Client, location: S3Location) -> Found:
    """Return the object whose key the location is, else the objects below it.

    One request tells as a rule: an object sorts before everything below it, and what lies
    below ``key/`` is on the first page of what begins with ``key``, unless there are many
    siblings.

    Raises:
        NotFoundError: if there is no such bucket, object or folder.
        AccessError: if it may not be listed, nor read as an object.
    """
    bucket, key = location.bucket, location.key
    folder = key if not key or key.endswith("/") else f"{key}/"
    try:
        page = await list_page(session, bucket, key)
    except AccessError:
        # Who may read objects and not list them can still name one.
        if folder == key or (alone := await _stat(session, bucket, key)) is None:
            raise
        page = Page([alone], None)
    if folder != key:
        first = page.objects[0] if page.objects else None
        if first is not None and first.key == key:
            return Found([first], key.removesuffix(key.rpartition("/")[2]), single=True)
        if page.next_token is not None:
            page = await list_page(session, bucket, folder)
    objects = [each for each in page.objects if each.key.startswith(folder)]
    async for more in _following(session, bucket, folder, page):
        objects += more.objects
    # Empty objects whose key ends in a slash are other tools' folder markers.
    files = [each for each in objects if each.size or not each.key.endswith("/")]
    if not files:
        what = session.describe(bucket, key)
        raise NotFoundError(f"{what}: there is no such object, and nothing below it")
    return Found(files, folder, single=False)


async def _following(
    session: S3Client, bucket: str, prefix: str, page: Page
) -> AsyncIterator[Page]:
    while page.next_token is not None:
        page = await list_page(session, bucket, prefix, page.next_token)
        yield page


async def list_page(session: S3Client, bucket: str, prefix: str, token: str | None = None) -> Page:
    """Return one page of what begins with `prefix`, the first or that of `token`.

    Raises:
        NotFoundError: if there is no such bucket.
        AccessError: if it may not be listed.
    """
    query = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
    if token is not None:
        query["continuation-token"] = token

    async def ask() -> Page:
        # A listing that cannot be read is asked for again, too.
        return parse_list((await session.send("GET", bucket, query=query)).body)

    return await retrying(ask, session.options.retry)


async def _stat(session: S3Client, bucket: str, key: str) -> ListedObject | None:
    try:
        head = await session.call("HEAD", bucket, key)
    except TransferError:
        return None  # answers to HEAD have no body: the listing says what is wrong
    return ListedObject(key, size_of(head), head.headers.get("ETag", ""))


def size_of(head: Response) -> int:
    """Return the size that an answer to HEAD gives, or -1."""
    text = head.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else -1
