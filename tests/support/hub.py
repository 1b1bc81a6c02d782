"""A file on a Hub server, for the tests of `hftransfer._http`."""

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
