"""`hftransfer.stores.hub.url_guess`: where small files will be, learnt from two of them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hftransfer
from hftransfer.stores.hub.url_guess import CacheAddresses, address_form
from hftransfer.testing import Fault, HubServer, Status

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _address(path: str, blob_id: str) -> str:
    """An address as the Hub forms it."""
    original = quote(f"/acme/tiny/resolve/{COMMIT}/{path}", safe="")
    return (
        f"https://hub/api/resolve-cache/models/acme/tiny/{COMMIT}/{quote(path)}"
        f"?{original}=&etag=%22{blob_id}%22"
    )


_paths = st.text("ab/. &?%ü", min_size=1, max_size=12).filter(lambda text: text.strip("/"))
_ids = st.integers(0, (1 << 160) - 1).map("{:040x}".format)


@given(first=_paths, second=_paths, third=_paths, ids=st.tuples(_ids, _ids, _ids))
def test_the_form_of_two_is_that_of_the_third(
    first: str, second: str, third: str, ids: tuple[str, str, str]
) -> None:
    """Whatever characters a path has, its address is the one that the Hub would give."""
    addresses = CacheAddresses()
    addresses.observe(_address(first, ids[0]), first, ids[0])
    assert addresses.guess(third, ids[2]) is None
    addresses.observe(_address(second, ids[1]), second, ids[1])

    guessed = addresses.guess(third, ids[2])

    # The same file twice teaches nothing, nor do unusual characters; parts that occur in one
    # another may mislead the form, and then nothing is guessed.
    assert guessed in (None, _address(third, ids[2]))


def test_ordinary_paths_are_learnt() -> None:
    """Two files are enough."""
    addresses = CacheAddresses()
    for path, blob_id in (("a/config.json", "1a" * 20), ("b.txt", "2b" * 20)):
        addresses.observe(_address(path, blob_id), path, blob_id)

    assert addresses.guess("c/e-1_2.json", "3c" * 20) == _address("c/e-1_2.json", "3c" * 20)
    assert addresses.guess("c d/é.json", "3c" * 20) is None


def test_two_forms_end_the_guessing() -> None:
    """A second address that does not fit the first one's form is a warning."""
    addresses = CacheAddresses()
    addresses.observe(_address("a", "1" * 40), "a", "1" * 40)
    addresses.observe(_address("b", "2" * 40) + "&key=7", "b", "2" * 40)
    addresses.observe(_address("c", "3" * 40), "c", "3" * 40)

    assert addresses.guess("d", "4" * 40) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://hub/a?Signature=abc",  # has nothing of the file's id: signed, or something new
        "https://hub/elsewhere?etag=" + "1" * 40,
    ],
)
def test_an_address_that_does_not_name_the_file_teaches_nothing(url: str) -> None:
    """Only what is made of path and id can be made for another file."""
    assert address_form(url, "a", "1" * 40) is None


# --- against a server


def _files(count: int) -> dict[str, bytes]:
    return {f"data/{index:03}.json": b"%d" % index * 100 for index in range(count)}


def _resolved(hub: HubServer) -> int:
    return sum("/resolve/" in request.path for request in hub.requests)


def test_most_small_files_cost_one_request(hub: HubServer, tmp_path: Path) -> None:
    """Only the first few are resolved; all arrive and are verified."""
    hub.create_repo("acme/many", files=dict(_files(60)))

    path = hftransfer.snapshot_download("acme/many", endpoint=hub.endpoint, local_dir=tmp_path)

    assert {
        str(file.relative_to(path)): file.read_bytes() for file in (tmp_path / "data").iterdir()
    } == _files(60)
    assert 2 <= _resolved(hub) < 30
    assert len(hub.requests) < 60 + 30 + 2


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_address_that_is_refused_is_resolved_as_ever(
    hub: HubServer, tmp_path: Path, status: int
) -> None:
    """A Hub that changes its addresses costs some requests and no file."""
    hub.create_repo("acme/many", files=dict(_files(60)))
    # The first forty go well, so the guessing has begun by then.
    hub.add_fault(Fault(host="hub", path="resolve-cache", after=40, times=1, action=Status(status)))

    hftransfer.snapshot_download("acme/many", endpoint=hub.endpoint, local_dir=tmp_path)

    files = {f"data/{file.name}": file.read_bytes() for file in (tmp_path / "data").iterdir()}
    assert files == _files(60)
