"""A file on a Hub server for tests of `hftransfer._http`, and what a Hub server has sent."""

from __future__ import annotations

from hftransfer.testing import HubServer, RandomFile

SIZE = 300 * 1024
"""Bytes of the file."""

SECRET = "Signature=do-not-show"
"""The query of its URL, which no error message may contain."""


def served_file(hub: HubServer) -> tuple[str, bytes]:
    """Put one file on `hub` that the Hub host serves itself; return its URL and its bytes."""
    repo = hub.create_repo("acme/tiny", direct=True, files={"data.bin": RandomFile(SIZE, seed=1)})
    url = f"{hub.endpoint}/acme/tiny/resolve/main/data.bin?{SECRET}"
    return url, repo.blob("data.bin").read_bytes()


def cdn_bytes(hub: HubServer) -> int:
    """Return the bytes of bodies that the CDN has sent since the last `clear_requests`."""
    assert hub.wait_idle()  # a request's bytes are counted after they were sent
    return sum(record.bytes_sent for record in hub.requests if record.host == "cdn")


def listings(hub: HubServer) -> int:
    """Return the number of requests that listed files of a repository; a download sends one."""
    return len([request for request in hub.requests if "/tree/" in request.path])
