"""`hftransfer.stores.hub.metadata`: pages, lifetimes and errors from the Hub's responses."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from hftransfer.errors import AccessError, NotFoundError, Response, TransferError
from hftransfer.locations import HubLocation
from hftransfer.stores.hub.metadata import explain_hub_error, next_page, url_lifetime


@pytest.mark.parametrize(
    ("endpoint", "link", "expected"),
    [
        ("https://hub", None, None),
        ("https://hub", '<https://hub/api/x?cursor=2>; rel="first"', None),
        ("https://hub", '<https://hub/api/x?cursor=2>; rel="next"', "https://hub/api/x?cursor=2"),
        ("https://hub", '</api/x?cursor=2>; rel="next"', "https://hub/api/x?cursor=2"),
        ("https://hub", '<https://up/api/x?cursor=2>; rel="next"', "https://hub/api/x?cursor=2"),
        # The endpoints of some artifact stores have "/api/" in their path.
        (
            "https://store/api/hf/remote",
            '<https://up/api/x?cursor=2>; rel="next"',
            "https://store/api/hf/remote/api/x?cursor=2",
        ),
    ],
)
def test_the_next_page_is_on_the_endpoint(
    endpoint: str, link: str | None, expected: str | None
) -> None:
    """Relative links and those of a mirror's upstream lead to the endpoint."""
    url = f"{endpoint}/api/x"
    response = Response("GET", url, 200, {} if link is None else {"Link": link})

    assert next_page(url, response, endpoint) == expected


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("X-Amz-Expires=3600", 3540.0), ("Expires=soon", 3000.0), ("", 3000.0)],
)
def test_the_lifetime_of_a_url_is_in_its_query(query: str, seconds: float) -> None:
    """One minute is subtracted; without a valid number it is 50 minutes."""
    assert url_lifetime(f"https://cdn/x?{query}") == seconds


def test_expires_is_a_time_of_the_epoch() -> None:
    """CloudFront's `Expires` is absolute, so that the lifetime of a past time is negative."""
    assert url_lifetime(f"https://cdn/x?Expires={time.time() - 1:.0f}") < 0


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (404, {"X-Error-Code": "EntryNotFound"}, NotFoundError),
        (401, {}, NotFoundError),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, AccessError),
        (403, {}, AccessError),
    ],
)
def test_an_error_is_explained_by_the_hubs_headers(
    status: int, headers: Mapping[str, str], kind: type[TransferError]
) -> None:
    """X-Error-Code and X-Error-Message select the class; the response is kept."""
    response = Response("GET", "http://hub/x", status, headers)
    error = explain_hub_error(
        AccessError("as the status says", response=response), HubLocation("a/b"), "http://hub"
    )

    assert type(error) is kind
    assert error.response is response
