"""Servers that answer anything: our own errors, nothing written, no token elsewhere, an end.

The wire itself is in `tests/_http`: heads by drops, lengths of 5,000 digits, endless interim
responses. Here a server of the right protocol says what no server of the Hub or of S3 would.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from hftransfer import (
    AsyncClient,
    HubOptions,
    RejectedError,
    RetryPolicy,
    S3Options,
    ServerError,
    TransferError,
    TransferOptions,
)
from support.http import Exchange, raw_server

pytestmark = pytest.mark.asyncio

COMMIT = "c" * 40
BLOB = "b" * 40
FILE = {"type": "file", "path": "f", "oid": BLOB, "size": 3}
NO_WAITING = RetryPolicy(attempts=2, wait_initial=0.0, wait_max=0.0)
TOKEN = "hf_secret_of_a_test"

NO_DOCUMENTS: list[Any] = [
    None,
    True,
    1,
    -1.5,
    "text",
    [],
    {},
    [[]],
    [None],
    [1],
    ["sha"],
    {"a": 1},
]
WRONG_REVISIONS: list[Any] = [
    *NO_DOCUMENTS,
    *({"sha": text} for text in ("", "main", "../../x", "C" * 40, "c" * 41, "\ud800" * 40)),
    *({"sha": value} for value in NO_DOCUMENTS),
]
WRONG_VALUES: dict[str, list[Any]] = {
    "path": [None, 1, [], "", "/etc/x", "../x", "\udc80", "a\0b"],
    "oid": [None, 1, "", "x" * 40, "b" * 39, {}],
    "size": [None, "3", -1, 1.5, True, 10**30, []],
    "xetHash": [1],
    "lfs": [
        *(1, "x", [1], {"oid": "d"}, {"size": 3}),
        *({"oid": "d" * 64, "size": size} for size in (None, "3", -1)),
    ],
}
WRONG_LISTINGS: list[Any] = [
    *(each for each in NO_DOCUMENTS if each != []),
    {"files": [FILE]},
    *([{**FILE, name: value}] for name, values in WRONG_VALUES.items() for value in values),
    [FILE, None],
]


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def json_body(document: Any) -> bytes:
    return json.dumps(document).encode()


def options(base: str) -> TransferOptions:
    return TransferOptions(
        retry=NO_WAITING,
        hub=HubOptions(endpoint=base, token=TOKEN),
        s3=S3Options(endpoint_url=base, access_key_id="key", secret_access_key="hidden"),
    )


Answer = Callable[[str], bytes]
"""Returns the response to a request for a path."""


async def fetch(answer: Answer, folder: Path, source: str = "hf://o/m") -> list[str]:
    """Copy from a server of these answers to `folder`; return the paths that it was asked for."""
    paths = []

    async def reply(exchange: Exchange) -> None:
        paths.append(exchange.request.head.split(b" ")[1].decode())
        await exchange.send(answer(paths[-1]))

    async with (
        raw_server(reply) as server,
        AsyncClient(options(server.base)) as client,
    ):
        await client.copy(source, folder)
    return paths


def hub(
    *,
    revision: bytes = response(json_body({"sha": COMMIT})),
    tree: bytes = response(json_body([FILE])),
    file: bytes = response(b"abc"),
) -> Answer:
    """Return the answers of a Hub, of which some are replaced."""

    def answer(path: str) -> bytes:
        return revision if "/revision/" in path else tree if "/tree/" in path else file

    return answer


def _files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def assert_rejected(
    answer: Answer, folder: Path, kind: type[TransferError], match: str, source: str = "hf://o/m"
) -> None:
    with pytest.raises(kind, match=match):
        await fetch(answer, folder, source)
    assert not await anyio.to_thread.run_sync(_files_below, folder)


@pytest.mark.parametrize("document", WRONG_REVISIONS, ids=lambda each: json.dumps(each)[:40])
async def test_a_revision_of_another_shape(document: Any, tmp_path: Path) -> None:
    """Its commit becomes a part of URLs and paths, so it has to be one."""
    answer = hub(revision=response(json_body(document)))
    await assert_rejected(answer, tmp_path, RejectedError, "a revision with its commit")


@pytest.mark.parametrize("document", WRONG_LISTINGS, ids=lambda each: json.dumps(each)[:60])
async def test_a_listing_of_another_shape(document: Any, tmp_path: Path) -> None:
    """A field of another type, a size that is none, a path that leads elsewhere."""
    answer = hub(tree=response(json_body(document)))
    await assert_rejected(answer, tmp_path, TransferError, "a listing of files|cannot be written")


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"[" * 100_000, RejectedError, "nested"),
        (b"[" + b"[]," * 600_000 + b"[]]", RejectedError, "at most 500,000 values"),
        (b'[{"size": ' + b"9" * 5000 + b"}]", ServerError, "not JSON"),
        (b"\xff\xfe\x00", ServerError, "not JSON"),
        (b"<html>log in</html>", ServerError, "not JSON"),
        (b"", ServerError, "not JSON"),
    ],
    ids=["deep", "many", "digits", "bytes", "html", "nothing"],
)
@pytest.mark.parametrize("where", ["revision", "tree"])
async def test_what_is_no_document(
    where: str, body: bytes, kind: type[TransferError], message: str, tmp_path: Path
) -> None:
    """Deep, large or none at all: neither the stack nor the memory is used up."""
    answer = hub(**{where: response(body)})
    await assert_rejected(answer, tmp_path, kind, message)


async def test_a_compressed_document_that_grows_is_cut(tmp_path: Path) -> None:
    """100 MiB of spaces in 100 KB: at most 16 MiB of them are kept."""
    body = gzip.compress(b" " * (100 << 20))
    answer = hub(tree=response(body, "200 OK", "Content-Encoding: gzip"))
    await assert_rejected(answer, tmp_path, TransferError, "not JSON")


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("</api/models/o/m/tree/{commit}?recursive=true&expand=false>", "without end"),
        ("<http://[>", "not a URL"),
        ("<?cursor=a>", "listed twice"),
    ],
)
async def test_a_listing_without_end(link: str, message: str, tmp_path: Path) -> None:
    """A page that links to itself, or to the one before."""
    header = f'Link: {link.format(commit=COMMIT)}; rel="next"'
    answer = hub(tree=response(json_body([FILE]), "200 OK", header))
    await assert_rejected(answer, tmp_path, TransferError, message)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("Location: ", "more than 20 redirects"),
        ("Location: ?again", "more than 20 redirects"),
        ("X-None: 1", "answered 302"),
        ("Location: ftp://host/f", "no http"),
        ("Location: file:///etc/passwd", "no http"),
        ("Location: javascript:alert(1)", "no http"),
        ("Location: http://", "more than 20 redirects"),
        ("Location: http://[::1", "no http"),
        ("Location: http://host:99999999/f", "no http"),
        ("Location: //[", "no http"),
    ],
)
@pytest.mark.parametrize("where", ["revision", "tree", "file"])
async def test_a_location_that_is_no_url(
    where: str, location: str, message: str, tmp_path: Path
) -> None:
    """Of the API and of files: without end, of another scheme, or none at all."""
    answer = hub(**{where: response(b"", "302 Found", location)})
    await assert_rejected(answer, tmp_path, RejectedError, message)


@pytest.mark.parametrize("name", [b"/caf\xc3\xa9", b"/\xff", b"/a b", b"/a\tb"])
async def test_a_location_with_other_bytes_than_those_of_urls_is_quoted(
    name: bytes, tmp_path: Path
) -> None:
    """As browsers do; a signed URL has none of them."""
    redirect = response(b"").replace(b"200 OK", b"302 Found\r\nLocation: " + name)
    content = {"/file": response(b"abc")}

    def answer(path: str) -> bytes:
        if "/resolve/" in path:
            return redirect
        return hub()(path) if path.startswith("/api/") else content["/file"]

    file = {**FILE, "oid": "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"}

    def served(path: str) -> bytes:
        return response(json_body([file])) if "/tree/" in path else answer(path)

    paths = await fetch(served, tmp_path)
    assert (tmp_path / "f").read_bytes() == b"abc"
    assert paths[-1].isascii()
    assert " " not in paths[-1]


@pytest.mark.parametrize("where", ["revision", "tree", "file"])
async def test_no_redirect_takes_the_token_to_another_host(where: str, tmp_path: Path) -> None:
    """Another port is another host; neither the API's nor a file's request carries it there."""
    heads: list[bytes] = []

    async def other(exchange: Exchange) -> None:
        heads.append(exchange.request.head)
        await exchange.send(response(b"{}"))

    async with raw_server(other) as elsewhere:
        redirect = response(b"", "302 Found", f"Location: {elsewhere.base}/x")
        with pytest.raises(TransferError):
            await fetch(hub(**{where: redirect}), tmp_path)

    assert heads
    assert not [head for head in heads if TOKEN.encode() in head or b"uthorization" in head]


# --- S3


def listing(content: str, **fields: str) -> bytes:
    texts = "".join(f"<{name}>{text}</{name}>" for name, text in fields.items())
    return f"<ListBucketResult>{texts}{content}</ListBucketResult>".encode()


def contents(**fields: str) -> str:
    texts = {"Key": "p/f", "Size": "3", "ETag": '"e"', **fields}
    return f"<Contents>{''.join(f'<{k}>{v}</{k}>' for k, v in texts.items())}</Contents>"


_BOMB = (
    '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaaaaaaaaaaaa">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1 or str()};" * 10}">' for n in range(1, 12))
    + "]><ListBucketResult><Contents><Key>&a11;</Key></Contents></ListBucketResult>"
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff\xff",
        b"<a>" * 100_000,
        b"<a/>" * 300_000,
        b"<?xml version='1.0' encoding='big5'?><ListBucketResult/>",
        b"<?xml version='1.0' encoding='none'?><ListBucketResult/>",
        _BOMB.encode(),
        *(
            listing(contents(Size=each))
            for each in ("", "x", "-1", "1_0", " 3", "9" * 5000, "\u0663", "3.0", "1e3")
        ),
        listing("<Contents><Key>p/f</Key></Contents>"),
        listing(contents(), IsTruncated="true", NextContinuationToken="t"),
    ],
    ids=lambda each: each[:60].decode("latin-1") or "nothing",
)
async def test_a_listing_of_s3_that_is_none(body: bytes, tmp_path: Path) -> None:
    """Not XML, deep, large, in an unknown encoding, with sizes that are none, or without end."""
    await assert_rejected(
        lambda path: response(body), tmp_path, TransferError, "bucket|listing", "s3://bucket/p"
    )
