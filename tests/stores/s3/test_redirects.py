"""`hftransfer.stores.s3.redirects`: which hosts get signed requests."""

from __future__ import annotations

import pytest

from hftransfer.errors import Response
from hftransfer.stores.s3.redirects import redirect_of


@pytest.mark.parametrize(
    ("host", "is_trusted"),
    [
        ("b.s3.eu-west-1.amazonaws.com", True),
        ("s3-eu-west-1.amazonaws.com", True),
        ("b.s3.dualstack.us-gov-west-1.amazonaws.com", True),
        ("b.s3.cn-north-1.amazonaws.com.cn", True),
        ("ec2-1-2-3-4.compute-1.amazonaws.com", False),
        ("s3-mine-1.us-east-1.elb.amazonaws.com", False),
        ("s3.us-east-1.elb.amazonaws.com", False),
        ("s3.eu-west-1.amazonaws.com.evil.test", False),
        ("cdn.test", False),
    ],
)
def test_only_s3_of_aws_is_trusted_by_its_name(host: str, is_trusted: bool) -> None:
    """Customers of AWS have machines and balancers with names below amazonaws.com, too."""
    headers = {"Location": f"https://{host}/key"}
    response = Response("GET", "https://b.s3.us-east-1.amazonaws.com/key", 307, headers)

    redirect = redirect_of(response, "s3://b/key")

    assert redirect is not None
    assert redirect.is_same_origin is is_trusted
