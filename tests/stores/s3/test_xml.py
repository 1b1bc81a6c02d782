"""The pure parts of S3: documents, headers, hedging, the choice of a checksum, leftovers."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.plan import align_chunk_size, plan_chunks, stored_part_size
from hftransfer.errors import NetworkError, RejectedError, ServerError, UnsupportedError
from hftransfer.options import S3Options
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.checksum_negotiation import ChecksumChoice
from hftransfer.stores.s3.headers import customer_key_headers, object_headers
from hftransfer.stores.s3.hedging import HedgeTimer
from hftransfer.stores.s3.resume import OrphanedUpload, Part, fits
from hftransfer.stores.s3.xml import complete_body, element, parse_list, records

MIB = 1 << 20
LISTING = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<IsTruncated>true</IsTruncated><NextContinuationToken>a+b/c=</NextContinuationToken>%s
<Contents><Key>p/a%%20b%%2Bc+d</Key><Size>7</Size><ETag>&quot;e&quot;</ETag>
<Owner><ID>x</ID></Owner></Contents><CommonPrefixes><Prefix>p/q/</Prefix></CommonPrefixes>
</ListBucketResult>"""


# --- documents


@pytest.mark.parametrize(
    ("extra", "key"),
    [(b"<EncodingType>url</EncodingType>", "p/a b+c d"), (b"", "p/a%20b%2Bc+d")],
)
def test_keys_are_decoded_where_the_server_says_so(extra: bytes, key: str) -> None:
    """A server that was asked to encode keys and did not leaves them alone."""
    page = parse_list(LISTING % extra)

    assert [(each.key, each.size, each.etag) for each in page.objects] == [(key, 7, '"e"')]
    assert page.next_token == "a+b/c="


def test_the_last_page_has_no_token() -> None:
    """A token on a page that is not truncated leads nowhere."""
    assert parse_list(LISTING.replace(b"true", b"false") % b"").next_token is None


@pytest.mark.parametrize(
    "body", [b"", b"<html><br></html>", b"<L><Contents><Key>k</Key></Contents></L>"]
)
def test_what_is_no_listing_is_an_error_of_the_server(body: bytes) -> None:
    """It may be better the next time; it is never an empty folder."""
    with pytest.raises(ServerError):
        parse_list(body)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1))
def test_etags_of_any_kind_survive_completion(etags: list[str]) -> None:
    """What is written into the document is what an XML parser reads."""
    rows = [{"PartNumber": str(i), "ETag": etag} for i, etag in enumerate(etags, 1)]

    assert [dict(row) for row in records(complete_body(rows), "Part")] == rows


def test_an_element_of_a_torn_document_is_found() -> None:
    """Errors are cut off, too: what is there of them is still read."""
    assert element("<Error><Code> Slow&amp;Down </Code><Mess", "Code") == "Slow&Down"
    assert element("<Error><Code>Slow", "Code") == ""


# --- part sizes


@given(
    mib=st.sampled_from([5, 8, 16, 64]),
    count=st.integers(9, 10_000),
    missing=st.integers(0, 5 * MIB - 1),
)
def test_usual_part_sizes_are_recognised(mib: int, count: int, missing: int) -> None:
    """An object of enough parts of a usual size leaves one possible size, whatever the last is."""
    size = mib * MIB * count - missing
    found = stored_part_size(size, f'"{"0" * 32}-{count}"')

    assert found is not None
    assert len(plan_chunks(size, found)) == count
    if size / (count - 1) - size / count < MIB:
        assert found == mib * MIB


@pytest.mark.parametrize("etag", ["", '"abc"', f'"{"0" * 32}"', f'"{"0" * 32}-1"', f"{'g' * 32}-3"])
def test_other_etags_reveal_no_parts(etag: str) -> None:
    """One part, none, or no such ETag at all: nothing is known."""
    assert stored_part_size(100 * MIB, etag) is None


def test_odd_part_sizes_are_not_guessed() -> None:
    """Where no whole number of MiB fits the count, nothing is made up."""
    assert stored_part_size(9_000_000, f"{'0' * 32}-10") is None


@given(
    wanted=st.integers(64 * 1024, 64 * MIB),
    part=st.none() | st.integers(1, 512).map(lambda mib: mib * MIB),
)
def test_aligned_chunks_cross_no_border(wanted: int, part: int | None) -> None:
    """A chunk is several parts, a share of one, or unchanged; never far from what was wanted."""
    size = align_chunk_size(wanted, part)

    assert wanted / 2 <= size <= wanted
    if part is not None and size != wanted:
        assert part % size == 0 or size % part == 0


# --- headers


def test_encryption_and_storage_class_are_said() -> None:
    """Each option is its header; what is left to the bucket is not mentioned."""
    options = S3Options(
        server_side_encryption="aws:kms", kms_key_id="key-1", storage_class="STANDARD_IA"
    )
    entry = Entry(path="a.json", size=1, properties={"x-amz-meta-a": "1", "blob-id": "no"})

    assert object_headers(options, entry) == {
        "content-type": "application/json",
        "x-amz-meta-a": "1",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
        "x-amz-storage-class": "STANDARD_IA",
    }
    assert object_headers(S3Options(), Entry(path="a.bin", size=1)) == {
        "content-type": "application/octet-stream"
    }


def test_a_customers_key_comes_with_its_md5() -> None:
    """SSE-C wants the algorithm, the key and the key's MD5."""
    key = base64.b64encode(b"k" * 32).decode()
    headers = customer_key_headers(S3Options(customer_key=key))

    assert set(headers.values()) == {"AES256", key, "mT2HRsMGJ5IX5C+0rreZ8Q=="}
    assert headers["x-amz-server-side-encryption-customer-algorithm"] == "AES256"
    assert customer_key_headers(S3Options()) == {}
    assert key not in repr(S3Options(customer_key=key))


# --- hedging


def feed(timer: HedgeTimer, *seconds: float) -> None:
    for each in seconds:
        timer.answered(each)


def test_nothing_is_late_before_enough_is_known() -> None:
    """The first parts, as many as connections and ten at least, are waited for."""
    timer = HedgeTimer(12)
    feed(timer, *[0.2] * 11)
    assert timer.limit is None
    feed(timer, 0.2)
    assert timer.limit == 1.0


def test_the_limit_follows_what_parts_take() -> None:
    """It starts at the 90th percentile and drifts towards the mean and a margin."""
    timer = HedgeTimer(1)
    feed(timer, *[2.0] * 10)
    assert timer.limit == 2.0
    feed(timer, *[0.1] * 2000)
    assert timer.limit == pytest.approx(0.8, abs=0.01)


def test_many_late_parts_switch_hedging_off() -> None:
    """A slow store is not helped by sending it everything twice."""
    timer = HedgeTimer(1)
    feed(timer, *[0.2] * 10)
    for _ in range(5):
        timer.timed_out()
    assert timer.limit is None
    feed(timer, *[0.2] * 300)
    assert timer.limit is not None  # it recovers with the store


def test_a_rare_late_part_changes_little() -> None:
    """One in a thousand is what hedging is for."""
    timer = HedgeTimer(1)
    feed(timer, *[0.2] * 900)
    before = timer.limit
    timer.timed_out()
    assert before is not None
    assert timer.limit == pytest.approx(before + 0.1)


# --- the choice of a checksum


def test_what_is_turned_down_is_not_offered_again() -> None:
    """From the best to none; what was confirmed once is never given up."""
    choice = ChecksumChoice(("A", "B"))
    assert (choice.name, choice.settled) == ("A", False)
    choice.reject("A")
    choice.reject("A")  # another upload found out the same
    assert (choice.name, choice.settled) == ("B", False)
    choice.confirm("A")  # too late to count
    assert not choice.settled
    choice.confirm("B")
    choice.reject("B")
    assert (choice.name, choice.settled) == ("B", True)
    assert not choice.may_be_about(RejectedError("x"))

    choice = ChecksumChoice(("A",))
    choice.reject("A")
    assert (choice.name, choice.settled) == (None, True)


def test_only_a_refusal_for_good_speaks_of_the_checksum() -> None:
    """A failing connection says nothing about what a store knows."""
    choice = ChecksumChoice(("A",))
    assert choice.may_be_about(RejectedError("x"))
    assert choice.may_be_about(UnsupportedError("x"))
    assert not choice.may_be_about(NetworkError("x"))


# --- leftovers


def leftover(*parts: tuple[int, int], etag: str = f'"{"0" * 32}"') -> OrphanedUpload:
    return OrphanedUpload("id", None, {number: Part(etag, size) for number, size in parts})


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (leftover((1, 8)), True),
        (leftover((2, 8), (3, 3)), True),
        (leftover(), False),  # may have been begun a moment ago, by anybody
        (leftover((1, 7)), False),  # another chunk size
        (leftover((3, 8)), False),  # longer than the file
        (leftover((4, 3)), False),
        (leftover((1, 8), etag='"of-kms"'), False),  # nothing to compare with
    ],
)
def test_which_uploads_can_be_gone_on_with(candidate: OrphanedUpload, expected: bool) -> None:
    """All parts have the sizes of the plan and an MD5."""
    assert fits(candidate, [8, 8, 3]) is expected


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kms_key_id": "k"}, "aws:kms"),
        ({"customer_key": "short"}, "32 bytes"),
        (
            {
                "customer_key": base64.b64encode(bytes(32)).decode(),
                "server_side_encryption": "AES256",
            },
            "exclude",
        ),
        ({"anonymous": True, "profile": "p"}, "anonymous"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    """Bad settings are named when they are made."""
    with pytest.raises(ValueError, match=message):
        S3Options(**options)
