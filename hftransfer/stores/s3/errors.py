"""Error responses of S3, translated into `hftransfer.errors`.

Servers agree on error codes more than on status codes, so the code decides first. The status
decides if the code is unknown or missing: responses to HEAD have no body and hence no code.
"""

from __future__ import annotations

from collections.abc import Mapping

from hftransfer._http.status import is_outage_status, retry_after
from hftransfer.errors import (
    AccessError,
    DestinationError,
    DiskFullError,
    NetworkError,
    NotFoundError,
    RejectedError,
    Response,
    ServerError,
    SourceChangedError,
    ThrottledError,
    TransferError,
    TransientError,
    UnsupportedError,
)
from hftransfer.stores.s3.xml import element

__all__ = ("error_code", "is_precondition_failure", "lacks_permission", "response_error")

_WRONG_KEY = (
    "the access key or its secret is wrong; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
_WRONG_REGION = "the bucket is in {region}; set that as region_name or AWS_REGION"
_EXPIRED = "the temporary credentials have expired; get new ones"
_THROTTLED = "the server asks for fewer requests"
_SERVER_FAILED = "the server failed"
_DAMAGED = "the request was damaged in transit"
_UNSUPPORTED = "the store does not support this request"

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and the codes of MinIO,
# SeaweedFS and others.
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
    "AccountProblem": (AccessError, "the account has a problem; contact the provider"),
    "InvalidAccessKeyId": (AccessError, _WRONG_KEY),
    "SignatureDoesNotMatch": (AccessError, _WRONG_KEY),
    "InvalidToken": (AccessError, "the session token is not valid; get new credentials"),
    "ExpiredToken": (AccessError, _EXPIRED),
    "TokenRefreshRequired": (AccessError, _EXPIRED),
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
    "SlowDown": (ThrottledError, _THROTTLED),
    "SlowDownRead": (ThrottledError, _THROTTLED),
    "SlowDownWrite": (ThrottledError, _THROTTLED),
    "ServiceUnavailable": (ThrottledError, _THROTTLED),
    "Throttling": (ThrottledError, _THROTTLED),
    "ThrottlingException": (ThrottledError, _THROTTLED),
    "RequestLimitExceeded": (ThrottledError, _THROTTLED),
    "BandwidthLimitExceeded": (ThrottledError, _THROTTLED),
    "TooManyRequests": (ThrottledError, _THROTTLED),
    "InternalError": (ServerError, _SERVER_FAILED),
    "InternalServerError": (ServerError, _SERVER_FAILED),
    "RequestTimeout": (ServerError, "the request's body did not reach the server in time"),
    "OperationAborted": (ServerError, "a conflicting operation on the object is in progress"),
    "ConditionalRequestConflict": (
        ServerError,
        "a conflicting operation on the object is in progress",
    ),
    "IncompleteBody": (NetworkError, _DAMAGED),
    "BadDigest": (NetworkError, _DAMAGED),
    "InvalidDigest": (NetworkError, _DAMAGED),
    "XAmzContentChecksumMismatch": (NetworkError, _DAMAGED),
    "NotImplemented": (UnsupportedError, _UNSUPPORTED),
    "MethodNotAllowed": (UnsupportedError, _UNSUPPORTED),
}

_STATUSES: Mapping[int, tuple[type[TransferError], str]] = {
    301: (RejectedError, _WRONG_REGION),
    307: (RejectedError, _WRONG_REGION),
    401: (AccessError, "access denied; these credentials are wrong or lack a permission"),
    403: (AccessError, "access denied; these credentials are wrong or lack a permission"),
    404: (NotFoundError, "there is no such bucket or object"),
    408: _CODES["RequestTimeout"],
    409: _CODES["OperationAborted"],
    412: _CODES["PreconditionFailed"],
    416: _CODES["InvalidRange"],
    429: (ThrottledError, _THROTTLED),
    501: (UnsupportedError, _UNSUPPORTED),
    503: (ThrottledError, _THROTTLED),
    507: (DiskFullError, "the store is full"),
}


def error_code(error: TransferError) -> str:
    """Return the S3 error code of the response that caused `error`, or ""."""
    return "" if error.response is None else _text(error.response, "Code")


def lacks_permission(error: AccessError) -> bool:
    """Return True if the store knows the credentials but does not permit the request."""
    return error_code(error) == "AccessDenied"


def is_precondition_failure(error: TransferError) -> bool:
    """Return True if the object was not in the state that If-Match or If-None-Match required."""
    return error.response is not None and error.response.status == 412


def response_error(response: Response, context: str) -> TransferError:
    """Return the error that describes an error response.

    Args:
        response: any status but 2xx, or a 200 whose body is an error document.
        context: the object or bucket; start of the message.
    """
    code, message = _text(response, "Code"), _text(response, "Message")
    region = _text(response, "Region") or response.headers.get("X-Amz-Bucket-Region")
    status = response.status
    kind, advice = _CODES.get(code) or _STATUSES.get(status) or _unknown(status, code)
    quoted = ": ".join(part for part in (code or str(status), message) if part)
    text = f"{context}: {advice.format(region=region or 'another region')} ({quoted})"
    if issubclass(kind, TransientError):
        # 400 with these codes: the body of the request arrived too late, or damaged.
        is_outage = is_outage_status(status) or kind is ThrottledError or code == "RequestTimeout"
        wish = retry_after(response.headers)
        return kind(text, response=response, retry_after=wish, is_outage=is_outage)
    return kind(text, response=response)


def _text(response: Response, name: str) -> str:
    return element(response.body.decode(errors="replace"), name)


def _unknown(status: int, code: str) -> tuple[type[TransferError], str]:
    # A 200 without the expected document: the server failed after it had sent the status.
    if status >= 500 or (status < 300 and not code):
        return ServerError, _SERVER_FAILED
    return RejectedError, "the server rejected the request"
