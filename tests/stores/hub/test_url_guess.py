"""`hftransfer.stores.hub.url_guess`: URLs of small files, guessed from those of two others."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hftransfer
from hftransfer.stores.hub.url_guess import UrlGuesser, url_template
from hftransfer.testing import Fault, HubServer, Status

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _cache_url(path: str, blob_id: str) -> str:
    """Return the URL of a small file as the Hub builds it."""
    original = quote(f"/acme/tiny/resolve/{COMMIT}/{path}", safe="")
    return (
        f"https://hub/api/resolve-cache/models/acme/tiny/{COMMIT}/{quote(path)}"
        f"?{original}=&etag=%22{blob_id}%22"
    )


_paths = st.text("ab/. &?%ü", min_size=1, max_size=12).filter(lambda text: text.strip("/"))
_ids = st.integers(0, (1 << 160) - 1).map("{:040x}".format)


@given(first=_paths, second=_paths, third=_paths, ids=st.tuples(_ids, _ids, _ids))
def test_a_guess_is_the_url_that_the_hub_would_give(
    first: str, second: str, third: str, ids: tuple[str, str, str]
) -> None:
    """Paths with any characters: the third file gets no guess, or the right one."""
    guesser = UrlGuesser()
    guesser.observe(_cache_url(first, ids[0]), first, ids[0])
    assert guesser.guess(third, ids[2]) is None
    guesser.observe(_cache_url(second, ids[1]), second, ids[1])

    guessed = guesser.guess(third, ids[2])

    # No guess: if two paths are equal, a path has characters that are percent-encoded, or one
    # part of a URL occurs inside another, so that the two templates differ.
    assert guessed in (None, _cache_url(third, ids[2]))


def test_two_files_are_enough() -> None:
    """After two files the third is guessed, unless its path needs percent-encoding."""
    guesser = UrlGuesser()
    for path, blob_id in (("a/config.json", "1a" * 20), ("b.txt", "2b" * 20)):
        guesser.observe(_cache_url(path, blob_id), path, blob_id)

    assert guesser.guess("c/e-1_2.json", "3c" * 20) == _cache_url("c/e-1_2.json", "3c" * 20)
    assert guesser.guess("c d/é.json", "3c" * 20) is None


def test_different_templates_disable_guessing() -> None:
    """The second URL has another query parameter, so that no template is confirmed."""
    guesser = UrlGuesser()
    guesser.observe(_cache_url("a", "1" * 40), "a", "1" * 40)
    guesser.observe(_cache_url("b", "2" * 40) + "&key=7", "b", "2" * 40)
    guesser.observe(_cache_url("c", "3" * 40), "c", "3" * 40)

    assert guesser.guess("d", "4" * 40) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://hub/a?Signature=abc",  # no blob id: a signed URL, or a new scheme
        "https://hub/elsewhere?etag=" + "1" * 40,
    ],
)
def test_a_url_without_path_or_blob_id_has_no_template(url: str) -> None:
    """Both are needed to build the URL of another file."""
    assert url_template(url, "a", "1" * 40) is None


# --- against a server


def _files(count: int) -> dict[str, bytes]:
    return {f"data/{index:03}.json": b"%d" % index * 100 for index in range(count)}


def _count_resolves(hub: HubServer) -> int:
    return sum("/resolve/" in request.path for request in hub.requests)


def test_most_small_files_cost_one_request(hub: HubServer, tmp_path: Path) -> None:
    """Fewer than half of the files are resolved; all of them arrive."""
    hub.create_repo("acme/many", files=dict(_files(60)))

    path = hftransfer.snapshot_download("acme/many", endpoint=hub.endpoint, local_dir=tmp_path)

    assert {
        str(file.relative_to(path)): file.read_bytes() for file in (tmp_path / "data").iterdir()
    } == _files(60)
    assert 2 <= _count_resolves(hub) < 30
    assert len(hub.requests) < 60 + 30 + 2


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_failed_guess_falls_back_to_resolve(hub: HubServer, tmp_path: Path, status: int) -> None:
    """If the Hub rejects a guessed URL, every file still arrives."""
    hub.create_repo("acme/many", files=dict(_files(60)))
    # Forty requests succeed first: guesses are being made by then.
    fault = hub.add_fault(
        Fault(host="hub", path="/api/resolve-cache/*", after=40, times=1, action=Status(status))
    )

    hftransfer.snapshot_download("acme/many", endpoint=hub.endpoint, local_dir=tmp_path)

    assert fault.count == 1
    files = {f"data/{file.name}": file.read_bytes() for file in (tmp_path / "data").iterdir()}
    assert files == _files(60)
