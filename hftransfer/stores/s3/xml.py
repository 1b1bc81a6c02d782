"""The few XML documents of S3 that are read and written here. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from hftransfer.errors import ServerError

__all__ = ("ListedObject", "Page", "complete_body", "element", "parse_list", "records", "text_of")


@dataclass(frozen=True)
class ListedObject:
    """One object of a listing."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class Page:
    """One page of a listing."""

    objects: Sequence[ListedObject]
    next_token: str | None
    """What asks for the next page; None on the last one."""


def element(body: str, name: str) -> str:
    """Return the text of the first element `name` of a document that may be damaged."""
    matched = re.search(rf"<{name}>([^<]*)</{name}>", body)
    if matched is None:
        return ""
    text = matched[1]
    if "&" in text:
        import html  # rarely needed, and slow to load

        text = html.unescape(text)
    return text.strip()


def parse_list(body: bytes) -> Page:
    """Return the page of a ListObjectsV2 answer.

    Raises:
        ServerError: if `body` is none.
    """
    root = _parse(body)
    # Keys may hold what XML cannot; where a server was asked to encode them, it says so.
    encoded = text_of(root, "EncodingType") == "url"
    objects = []
    for fields in records(root, "Contents"):
        key = fields.get("Key", "")
        try:
            size = int(fields["Size"])
        except (KeyError, ValueError) as error:
            raise ServerError(f"a listing gives no size for {key!r}") from error
        objects.append(
            ListedObject(unquote_plus(key) if encoded else key, size, fields.get("ETag", ""))
        )
    more = text_of(root, "IsTruncated") == "true"
    return Page(objects, text_of(root, "NextContinuationToken") or None if more else None)


def records(root: ElementTree.Element | bytes, name: str) -> Iterator[Mapping[str, str]]:
    """Yield the simple children of every element `name`, by their names.

    Raises:
        ServerError: if `root` is text and no XML.
    """
    top = _parse(root) if isinstance(root, bytes) else root
    for child in top:
        if _local(child.tag) == name:
            yield {_local(each.tag): each.text or "" for each in child}


def text_of(root: ElementTree.Element | bytes, name: str) -> str:
    """Return the text of the first child `name`, or nothing.

    Raises:
        ServerError: if `root` is text and no XML.
    """
    top = _parse(root) if isinstance(root, bytes) else root
    return next((child.text or "" for child in top if _local(child.tag) == name), "")


def complete_body(parts: Sequence[Mapping[str, str]]) -> bytes:
    """Return the body of CompleteMultipartUpload.

    Args:
        parts: the fields of each part (``PartNumber``, ``ETag``, ``Checksum…``), in order.
    """

    def row(part: Mapping[str, str]) -> str:
        fields = (f"<{name}>{_escaped(text)}</{name}>" for name, text in part.items())
        return f"<Part>{''.join(fields)}</Part>"

    joined = "".join(row(part) for part in parts)
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    document = f'<CompleteMultipartUpload xmlns="{namespace}">{joined}</CompleteMultipartUpload>'
    return document.encode()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _parse(body: bytes) -> ElementTree.Element:
    try:
        # expat itself stops the expansion of entities that would fill the memory.
        return ElementTree.fromstring(body)  # noqa: S314
    except ElementTree.ParseError as error:
        raise ServerError(f"the answer is not one of an S3 server: {error}") from error


def _local(tag: str) -> str:
    """Servers differ in whether they name the namespace."""
    return tag.rpartition("}")[2]
