"""`hftransfer.stores.s3.signing`: the same signatures as botocore's."""

from __future__ import annotations

import calendar
import time
from datetime import datetime, timezone

from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from hftransfer.stores.s3.signing import Credentials, Signer, canonical_query, encoded_path

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
HEADERS = st.dictionaries(
    st.sampled_from(["If-Match", "content-type", "x-amz-meta-a", "x-amz-checksum-crc32"]), VALUES
)


class Reference(S3SigV4Auth):
    """botocore's signer, with unsigned bodies as it sends them over TLS."""

    def payload(self, request: AWSRequest) -> str:
        return str(UNSIGNED_PAYLOAD)


@given(
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    host=st.sampled_from(["127.0.0.1:9000", "b.s3.eu-north-1.amazonaws.com", "h"]),
    key=KEYS,
    query=st.dictionaries(KEYS, st.text(st.characters(exclude_categories=["Cs"])), max_size=4),
    headers=HEADERS,
    access=PRINTABLE,
    secret=PRINTABLE,
    token=st.none() | PRINTABLE,
)
def test_signatures_equal_those_of_botocore(
    method: str,
    host: str,
    key: str,
    query: dict[str, str],
    headers: dict[str, str],
    access: str,
    secret: str,
    token: str | None,
) -> None:
    """Any key, query, headers and credentials give the signature that botocore gives."""
    path, text = "/bucket/" + encoded_path(key), canonical_query(query)
    request = AWSRequest(method=method, url=f"http://{host}{path}?{text}", headers=dict(headers))
    Reference(BotocoreCredentials(access, secret, token), "s3", "eu-north-1").add_auth(request)
    then = calendar.timegm(time.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ"))
    signer = Signer(Credentials(access, secret, token), "eu-north-1")

    signed = signer.sign(method, host, path, text, headers, now=then)

    assert signed["Authorization"] == request.headers["Authorization"]
    assert signed["x-amz-content-sha256"] == UNSIGNED_PAYLOAD
    assert signed.get("x-amz-security-token") == token


def test_each_day_has_its_own_signing_key() -> None:
    """A signer that is used past midnight derives the new day's key, also for a day before."""
    signer = Signer(Credentials("id", "secret"), "us-east-1")
    noon = datetime(2026, 1, 31, 12, tzinfo=timezone.utc).timestamp()

    def sign(now: float) -> str:
        return signer.sign("GET", "h", "/", "", {}, now=now)["Authorization"]

    today, tomorrow = sign(noon), sign(noon + 24 * 3600)
    assert "/20260131/us-east-1/s3/" in today
    assert "/20260201/us-east-1/s3/" in tomorrow
    assert sign(noon) == today


def test_the_repr_of_credentials_hides_secrets() -> None:
    """The access key, too: with it a signature is that of a known account."""
    shown = repr(Credentials("hidden-key", "hidden-secret", "hidden-token"))

    assert "hidden" not in shown
