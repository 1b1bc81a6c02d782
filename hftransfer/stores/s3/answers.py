"""What tells an S3 store from any other server that answers 200. No I/O.

A success of S3 has an ETag, or an XML document with a root element of its own. A web server, a
captive portal or a proxy's page has neither, and what was sent to it was not stored.
"""

from __future__ import annotations

from hftransfer.errors import RejectedError, Response, ServerError, redact
from hftransfer.stores.s3.errors import response_error
from hftransfer.stores.s3.xml import element, root_name

__all__ = ("check_document", "foreign_answer", "required_etag")


def required_etag(response: Response, context: str) -> str:
    """Return the ETag of a response to PutObject, UploadPart or HeadObject.

    Args:
        response: with status 2xx.
        context: the object; start of the message.

    Raises:
        RejectedError: if there is none, so that no S3 store has answered.
        TransferError: if the body is an error document of S3.
    """
    etag = response.headers.get("ETag", "")
    if etag.strip('"'):
        return etag
    if element(response.body.decode(errors="replace"), "Code"):
        raise response_error(response, context)
    raise foreign_answer(response, context, "an ETag")


def check_document(response: Response, root: str, context: str) -> None:
    """Check that the body of a response is an XML document whose root element begins with `root`.

    Args:
        response: with status 2xx.
        root: start of the name of the document's root element.
        context: the object or bucket; start of the message.

    Raises:
        RejectedError: if it is another document, so that no S3 store has answered.
        ServerError: if the body is empty or was cut off: S3 sends the status first, and may fail
            after that.
        TransferError: if the body is an error document of S3.
    """
    found = root_name(response.body)
    if found is not None and found.startswith(root):
        return
    if found == "Error":
        raise response_error(response, context)
    if found is None and not response.body.strip():
        raise ServerError(
            f"{context}: the server failed (200 without a document)", response=response
        )
    raise foreign_answer(response, context, f"the document {root}")


def foreign_answer(response: Response, context: str, missing: str) -> RejectedError:
    """Return the error for a success that no S3 store sends; it names what answered.

    Args:
        response: with status 2xx.
        context: the object or bucket; start of the message.
        missing: what a store would have sent.
    """
    server = response.headers.get("Server", "")
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
    who = f"the server {server!r}" if server.isprintable() and server else "an unnamed server"
    what = f", content type {kind!r}" if kind.isprintable() and kind else ""
    return RejectedError(
        f"{context}: this is not an S3 store: {response.method} {redact(response.url)} was "
        f"answered by {who} with {response.status}{what}, without {missing}; check the endpoint "
        "URL and any proxy in between",
        response=response,
    )
