"""What S3 and botocore say when they refuse, as errors of `hftransfer.errors`.

One table for both ways to a server: control calls (botocore's exceptions) and data
requests on presigned URLs (XML bodies). Servers differ in status codes and agree on
codes, so the code decides first and the status only where a code is missing or unknown:
answers to HEAD have no body.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from botocore import exceptions as botocore
from botocore.parsers import ResponseParserError

from hftransfer._http_status import retry_after
from hftransfer.errors import (
    AccessError,
    DestinationError,
    DiskFullError,
    ExpiredError,
    NetworkError,
    NotFoundError,
    OptionsError,
    RejectedError,
    Response,
    ServerError,
    SourceChangedError,
    StalledError,
    ThrottledError,
    TransferError,
    TransientError,
)

__all__ = ("botocore_error", "lacks_permission", "response_error")

_WRONG_KEY = "the access key or its secret is wrong; check AWS_ACCESS_KEY_ID and its companions"
_WRONG_REGION = "the bucket is in {region}; set that as region_name or AWS_REGION"
_GONE = "the temporary credentials ran out; get new ones"
_SLOW = "the server asks for fewer requests"
_FAILED = "the server failed"
_DAMAGED = "the request was damaged on its way"

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and what other servers add.
_CODES: Mapping[str, tuple[type[TransferError], str]] = {
    "NoSuchBucket": (NotFoundError, "the bucket does not exist"),
    "NoSuchKey": (NotFoundError, "the object does not exist"),
    "NoSuchVersion": (NotFoundError, "the object does not exist"),
    "NoSuchUpload": (
        NotFoundError,
        "its multipart upload is gone; another process or a lifecycle rule ended it",
    ),
    "AccessDenied": (AccessError, "access denied; these credentials lack a permission"),
    "AllAccessDisabled": (AccessError, "access to the bucket is disabled"),
    "AccountProblem": (AccessError, "the account has a problem"),
    "InvalidAccessKeyId": (AccessError, _WRONG_KEY),
    "SignatureDoesNotMatch": (AccessError, _WRONG_KEY),
    "InvalidToken": (AccessError, "the session token is not valid; get new credentials"),
    "ExpiredToken": (AccessError, _GONE),
    "TokenRefreshRequired": (AccessError, _GONE),
    "RequestTimeTooSkewed": (AccessError, "this machine's clock is wrong; set it"),
    "InvalidObjectState": (RejectedError, "the object is archived; restore it first"),
    "PermanentRedirect": (RejectedError, _WRONG_REGION),
    "TemporaryRedirect": (RejectedError, _WRONG_REGION),
    "AuthorizationHeaderMalformed": (RejectedError, _WRONG_REGION),
    "AuthorizationQueryParametersError": (RejectedError, _WRONG_REGION),
    "IllegalLocationConstraintException": (RejectedError, _WRONG_REGION),
    "PreconditionFailed": (SourceChangedError, "the object was replaced during its transfer"),
    "InvalidRange": (SourceChangedError, "the object became shorter during its transfer"),
    "EntityTooLarge": (DestinationError, "the object is too large for this store"),
    "EntityTooSmall": (DestinationError, "a part is too small for this store"),
    "InvalidPart": (DestinationError, "a part of the upload is missing or was replaced"),
    "InvalidPartOrder": (DestinationError, "a part of the upload is missing or was replaced"),
    "KeyTooLongError": (DestinationError, "the key is too long"),
    "QuotaExceeded": (DiskFullError, "the quota is used up"),
    "InsufficientStorage": (DiskFullError, "the store is full"),
    "XMinioStorageFull": (DiskFullError, "the store is full"),
    "XMinioAdminBucketQuotaExceeded": (DiskFullError, "the bucket's quota is used up"),
    "SlowDown": (ThrottledError, _SLOW),
    "SlowDownRead": (ThrottledError, _SLOW),
    "SlowDownWrite": (ThrottledError, _SLOW),
    "ServiceUnavailable": (ThrottledError, _SLOW),
    "Throttling": (ThrottledError, _SLOW),
    "ThrottlingException": (ThrottledError, _SLOW),
    "RequestLimitExceeded": (ThrottledError, _SLOW),
    "BandwidthLimitExceeded": (ThrottledError, _SLOW),
    "TooManyRequests": (ThrottledError, _SLOW),
    "InternalError": (ServerError, _FAILED),
    "InternalServerError": (ServerError, _FAILED),
    "RequestTimeout": (ServerError, "the server waited too long for the request"),
    "OperationAborted": (ServerError, "another operation on the object was in the way"),
    "ConditionalRequestConflict": (ServerError, "another operation on the object was in the way"),
    "IncompleteBody": (NetworkError, _DAMAGED),
    "BadDigest": (NetworkError, _DAMAGED),
}

_STATUSES: Mapping[int, tuple[type[TransferError], str]] = {
    301: (RejectedError, _WRONG_REGION),
    307: (RejectedError, _WRONG_REGION),
    401: (AccessError, "access denied; these credentials are wrong or lack a permission"),
    403: (AccessError, "access denied; these credentials are wrong or lack a permission"),
    404: (NotFoundError, "nothing is there"),
    408: _CODES["RequestTimeout"],
    409: _CODES["OperationAborted"],
    412: _CODES["PreconditionFailed"],
    416: _CODES["InvalidRange"],
    429: (ThrottledError, _SLOW),
    503: (ThrottledError, _SLOW),
    507: (DiskFullError, "the store is full"),
}

# One sentence per family; the first that fits, so the narrower class comes first.
_LOCAL: tuple[tuple[tuple[type[Exception], ...], type[TransferError], str], ...] = (
    (
        (
            botocore.NoCredentialsError,
            botocore.PartialCredentialsError,
            botocore.CredentialRetrievalError,
            botocore.SSOError,
            botocore.TokenRetrievalError,
        ),
        AccessError,
        "no usable credentials; set AWS_ACCESS_KEY_ID and its companions, a profile or a role",
    ),
    (
        (botocore.ConnectTimeoutError, botocore.ReadTimeoutError),
        StalledError,
        "the server did not answer in time",
    ),
    ((botocore.SSLError,), NetworkError, "the TLS connection failed; see s3.verify for own CAs"),
    ((botocore.ConnectionError, botocore.HTTPClientError), NetworkError, "the connection failed"),
    ((ResponseParserError,), ServerError, "the answer is not one of an S3 server"),
    ((botocore.ParamValidationError,), RejectedError, "the name cannot be used"),
)


def botocore_error(error: Exception, what: str) -> TransferError:
    """Return the error that stands for `error`, raised by a botocore client or session.

    Args:
        error: a ``ClientError``, or a ``BotoCoreError`` for what never got an answer.
        what: what was being done to what, and where; begins the message.
    """
    if isinstance(error, botocore.ClientError):
        answer: Mapping[str, Any] = error.response
        meta = answer.get("ResponseMetadata", {})
        # botocore writes names in lower case, `Response` leaves them as servers spell them.
        headers = {name.title(): text for name, text in meta.get("HTTPHeaders", {}).items()}
        response = Response("", "", meta.get("HTTPStatusCode", 0), headers)
        problem = answer.get("Error", {})
        region = problem.get("Region") or headers.get("X-Amz-Bucket-Region")
        return _error(what, problem.get("Code", ""), problem.get("Message", ""), region, response)
    for families, kind, advice in _LOCAL:
        if isinstance(error, families):
            # Only the class is quoted: texts of connection errors hold whole request URLs.
            return kind(f"{what}: {advice} ({type(error).__name__})")
    return OptionsError(f"{what}: {error}")


def lacks_permission(error: AccessError) -> bool:
    """Return True if a control call was refused to credentials that are known and right."""
    cause = error.__cause__
    return (
        isinstance(cause, botocore.ClientError)
        and cause.response.get("Error", {}).get("Code") == "AccessDenied"
    )


def response_error(response: Response, what: str) -> TransferError:
    """Return the error that stands for a refused data request.

    A request that came too late for its signature gives `ExpiredError`: a new URL helps.
    """
    body = response.body.decode(errors="replace")
    code, message = _element(body, "Code"), _element(body, "Message")
    region = _element(body, "Region") or response.headers.get("X-Amz-Bucket-Region")
    if response.status in (400, 403) and (
        code in ("ExpiredToken", "TokenRefreshRequired") or "has expired" in message
    ):
        return ExpiredError(f"{what}: the signed URL ran out", response=response)
    return _error(what, code, message, region, response)


def _element(body: str, name: str) -> str:
    matched = re.search(rf"<{name}>([^<]*)</{name}>", body)
    return html.unescape(matched[1]).strip() if matched else ""


def _error(
    what: str, code: str, message: str, region: str | None, response: Response
) -> TransferError:
    status = response.status
    kind, advice = _CODES.get(code) or _STATUSES.get(status) or _unknown(status)
    # botocore gives the status as the code where the answer had no body.
    quoted = ": ".join(part for part in (code or str(status), message) if part)
    text = f"{what}: {advice.format(region=region or 'another region')} ({quoted})"
    if issubclass(kind, TransientError):
        return kind(text, response=response, retry_after=retry_after(response.headers))
    return kind(text, response=response)


def _unknown(status: int) -> tuple[type[TransferError], str]:
    if status >= 500:
        return ServerError, _FAILED
    return RejectedError, "the server refused the request"
