"""The XML documents of S3 that this package reads and writes. No I/O.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from hftransfer._core.units import parse_count
from hftransfer.errors import ServerError

__all__ = (
    "ListedObject",
    "Page",
    "complete_body",
    "element",
    "parse_list",
    "records",
    "root_name",
    "text_of",
)

# White space, declarations and comments, then the name of the root element. S3 keeps a connection
# alive by white space while it assembles an object.
_ROOT = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*<(?:\w+:)?(?P<name>[A-Za-z]\w*)[\s/>]",
    re.DOTALL,
)

# A page lists at most 1,000 objects of about ten elements.
_MAX_TAGS = 200_000


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
    """Continuation token of the next page; None on the last page."""


def element(body: str, name: str) -> str:
    """Return the text of the first element `name`, or "" if there is none.

    Unlike a parser this also reads documents that are cut off, as bodies of errors may be.
    """
    matched = re.search(rf"<{name}>([^<]*)</{name}>", body)
    if matched is None:
        return ""
    text = matched[1]
    if "&" in text:
        import html  # rarely needed, and slow to load

        text = html.unescape(text)
    return text.strip()


def root_name(body: bytes) -> str | None:
    """Return the name of a document's first element without its namespace, or None.

    Only the start of the document is read, so that one that was cut off has a root, too.
    """
    matched = _ROOT.match(body[:4096])
    return None if matched is None else matched["name"].decode()


def parse_list(body: bytes) -> Page:
    """Return the page that a response to ListObjectsV2 describes.

    Raises:
        ServerError: if `body` is not such a document.
    """
    root = _parse(body)
    # Keys may contain characters that XML cannot express, so we ask for them URL-encoded. Servers
    # that comply say so; others leave the keys as they are.
    encoded = text_of(root, "EncodingType") == "url"
    objects = []
    for fields in records(root, "Contents"):
        key = fields.get("Key", "")
        size = parse_count(fields.get("Size", ""))
        if size is None:
            raise ServerError(f"the listing gives no valid size for {key!r}", is_outage=False)
        objects.append(
            ListedObject(unquote_plus(key) if encoded else key, size, fields.get("ETag", ""))
        )
    is_truncated = text_of(root, "IsTruncated") == "true"
    return Page(objects, text_of(root, "NextContinuationToken") or None if is_truncated else None)


def records(root: ElementTree.Element | bytes, name: str) -> Iterator[Mapping[str, str]]:
    """Yield, for every child `name` of `root`, the texts of its children by their names.

    Raises:
        ServerError: if `root` is bytes that are not XML.
    """
    top = _parse(root) if isinstance(root, bytes) else root
    for child in top:
        if _local_name(child.tag) == name:
            yield {_local_name(field.tag): field.text or "" for field in child}


def text_of(root: ElementTree.Element | bytes, name: str) -> str:
    """Return the text of the first child `name` of `root`, or "".

    Raises:
        ServerError: if `root` is bytes that are not XML.
    """
    top = _parse(root) if isinstance(root, bytes) else root
    return next((child.text or "" for child in top if _local_name(child.tag) == name), "")


def complete_body(parts: Sequence[Mapping[str, str]]) -> bytes:
    """Return the body of a CompleteMultipartUpload request.

    Args:
        parts: the fields of each part (``PartNumber``, ``ETag``, ``Checksum…``), in order.
    """
    joined = "".join(_part_element(part) for part in parts)
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    document = f'<CompleteMultipartUpload xmlns="{namespace}">{joined}</CompleteMultipartUpload>'
    return document.encode()


def _part_element(part: Mapping[str, str]) -> str:
    fields = (f"<{name}>{_escaped(text)}</{name}>" for name, text in part.items())
    return f"<Part>{''.join(fields)}</Part>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _parse(body: bytes) -> ElementTree.Element:
    # An element takes 50 times the memory of its tag.
    if body.count(b"<") > _MAX_TAGS:
        raise ServerError(f"the response is not an XML document of S3: over {_MAX_TAGS:,} tags")
    try:
        # expat limits the expansion of entities, so that a document cannot exhaust the memory.
        return ElementTree.fromstring(body)  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter: its encoding
        raise ServerError(
            f"the response is not an XML document of S3: {error}", is_outage=False
        ) from error


def _local_name(tag: str) -> str:
    """Return `tag` without its namespace, which some servers leave out."""
    return tag.rpartition("}")[2]
