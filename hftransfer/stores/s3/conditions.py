"""Whether a store honours ``If-None-Match: *``, which keeps an existing object from being replaced.

AWS does. Others ignore it, some on one kind of request only: garage and s3rver on each, gofakes3
and S3Proxy on CompleteMultipartUpload. A store that ignores it answers as if it had been
honoured, so only a refusal proves anything. Therefore an upload that has just created an object
sends the same request once more: 412 is the proof. Without it the object is replaced by the same
bytes. The probe leaves nothing behind and needs no other permission. It is sent once per bucket,
kind of request and client, and not to AWS, which documents the condition.

A repeated CompleteMultipartUpload may also be answered by 200 or NoSuchUpload, whether or not the
condition is honoured (versitygw, moto; gofakes3, rclone). Then nothing is proven.

While a condition is not proven, the object is looked up just before each write. Between the two
another writer may create it, so `ExclusiveWrites` counts these writes for the report.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from hftransfer.errors import Response, TransferError
from hftransfer.stores.s3.errors import is_precondition_failure

__all__ = ("MAX_PROBE", "BucketConditions", "Condition", "ExclusiveWrites")

MAX_PROBE = 8 << 20
"""Bytes of an object up to which a PUT or a copy is repeated as a probe: one default chunk."""

_logger = logging.getLogger("hftransfer")


class Condition:
    """Whether one bucket honours the condition on one kind of request.

    Args:
        request: the kind of request, for a message.
        honoured: True if that is known; None if it has to be found out.
    """

    def __init__(self, request: str, honoured: bool | None) -> None:
        self._request = request
        self._is_probing = False
        self._is_accepted = True
        self.honoured = honoured
        """None while nothing is proven."""

    @property
    def is_proven(self) -> bool:
        """True if the store is known to refuse the request if the object exists."""
        return self.honoured is True

    @property
    def headers(self) -> Mapping[str, str]:
        """The header that states the condition; none if the store does not accept it."""
        return {"If-None-Match": "*"} if self._is_accepted else {}

    def reject(self, context: str) -> None:
        """Record that the store ignores the condition, or rejects each request with it."""
        if self.honoured is None:
            _logger.warning(
                "%s: the store does not honour If-None-Match on %s; objects are looked up before "
                "they are written, which is not atomic",
                *(context, self._request),
            )
            self.honoured = False

    def refuse(self, context: str) -> None:
        """Record that the store rejects requests with the header, and do not send it again."""
        self.reject(context)
        self._is_accepted = False

    def confirm(self) -> None:
        """Record that the store has refused to replace an object."""
        self.honoured = True

    async def probe(self, repeat: Callable[[], Awaitable[Response]]) -> Response | None:
        """Repeat a request that has created an object, unless the result is known already.

        Args:
            repeat: sends it once more, with the condition.

        Returns:
            The response, if the store did not refuse to replace the object; else None.
        """
        if self.honoured is not None or self._is_probing or not self._is_accepted:
            return None
        self._is_probing = True
        try:
            return await repeat()
        except TransferError as error:
            if is_precondition_failure(error):
                self.confirm()
            return None  # any other failure tells nothing; the object is there
        finally:
            self._is_probing = False


@dataclass(frozen=True)
class BucketConditions:
    """The conditions of one bucket."""

    put: Condition
    complete: Condition
    copy: Condition

    @classmethod
    def make(cls, *, documented: bool) -> BucketConditions:
        """Return the conditions of a bucket.

        Args:
            documented: True if the store is AWS.
        """
        honoured = True if documented else None
        return cls(
            put=Condition("PutObject", honoured),
            complete=Condition("CompleteMultipartUpload", honoured),
            copy=Condition("CopyObject", honoured),
        )


class ExclusiveWrites:
    """Counts the objects that were written under the condition, by its kind."""

    def __init__(self) -> None:
        self._counts: dict[Condition, int] = {}

    def record(self, condition: Condition) -> None:
        """Count one object."""
        self._counts[condition] = self._counts.get(condition, 0) + 1

    @property
    def non_atomic(self) -> int:
        """Objects for which the store has not been shown to honour the condition, until now."""
        return sum(count for condition, count in self._counts.items() if not condition.is_proven)
