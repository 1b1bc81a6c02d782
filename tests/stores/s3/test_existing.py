"""`hftransfer.stores.s3.existing`: what a destination has, asked in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer.errors import AccessError, NotFoundError, Response
from hftransfer.stores.s3 import existing
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.existing import ExistingObjects, just_before
from hftransfer.stores.s3.xml import ListedObject, Page

pytestmark = pytest.mark.anyio


class _Store:
    """Lists its keys in pages; stands in for `list_page` and `head_object`."""

    def __init__(self, keys: Sequence[str], *, page: int, seeks: bool = True) -> None:
        self.keys = keys
        self.page = page
        self.seeks = seeks
        self.requests = 0
        self.asked = 0

    async def list_page(
        self,
        client: S3Client,
        bucket: str,
        prefix: str,
        token: str | None = None,
        *,
        start_after: str | None = None,
    ) -> Page:
        self.requests += 1
        after = token if token is not None else (start_after if self.seeks else None)
        keys = [
            key for key in self.keys if key.startswith(prefix) and (after is None or key > after)
        ]
        objects = [ListedObject(key, len(key), "") for key in keys[: self.page]]
        more = keys[self.page - 1] if len(keys) > self.page else None
        return Page(objects, more)

    async def head_object(self, client: object, bucket: str, key: str) -> ListedObject | None:
        """Respond to HEAD."""
        self.asked += 1
        return ListedObject(key, len(key), "") if key in self.keys else None


async def _size(objects: ExistingObjects, key: str) -> int | None:
    found = await objects.find(key, ask=True)
    return None if found is None else found.size


async def _started(store: _Store, patch: pytest.MonkeyPatch) -> ExistingObjects:
    patch.setattr(existing, "list_page", store.list_page)
    patch.setattr(existing, "head_object", store.head_object)
    found = ExistingObjects(None, "bucket", "p/")  # type: ignore[arg-type]
    await found.start()
    return found


@given(data=st.data(), page=st.integers(2, 5))
async def test_the_answers_are_those_of_the_whole_listing(data: st.DataObject, page: int) -> None:
    """For any keys, asked in any order; some cost one more request."""
    names = st.text("!a/bz~é", min_size=1, max_size=4).map("p/{}".format)
    keys = sorted(data.draw(st.sets(names, max_size=30)))
    asked = data.draw(st.lists(names, max_size=20))
    with pytest.MonkeyPatch.context() as patch:
        objects = await _started(_Store(keys, page=page), patch)
        answers = [await _size(objects, key) for key in asked]

    for key, answer in zip(asked, answers, strict=True):
        assert answer == (len(key) if key in keys else None)


async def test_sorted_questions_cost_one_request_per_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if every second file is absent, and with the disorder of concurrent files."""
    keys = [f"p/{number:06d}" for number in range(10_000)]
    store = _Store(keys[::2], page=1000)
    objects = await _started(store, monkeypatch)
    shuffled = random.Random(1)
    for start in range(0, len(keys), 50):
        window = keys[start : start + 50]
        shuffled.shuffle(window)
        for key in window:
            assert await _size(objects, key) == (len(key) if int(key[2:]) % 2 == 0 else None)

    assert store.requests <= 2 * 5  # 5 pages; one may be requested again at its border


async def test_a_few_files_among_many_objects_do_not_cost_the_whole_listing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pages between them are skipped."""
    keys = [f"p/{number:06d}" for number in range(100_000)]
    store = _Store(keys, page=1000)
    objects = await _started(store, monkeypatch)
    for key in (keys[0], keys[50_000], keys[99_999], "p/absent"):
        assert await _size(objects, key) == (len(key) if key in keys else None)

    assert store.requests <= 4


async def test_in_an_order_at_random_most_objects_are_asked_for_by_their_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page per file would be 1,000 keys for one answer, one page after the other."""
    keys = [f"p/{number:06d}" for number in range(20_000)]
    store = _Store(keys, page=100)
    objects = await _started(store, monkeypatch)
    asked = random.Random(1).sample(keys, 400)
    for key in asked:
        found = await objects.find(key, ask=False)
        assert found is not None
        assert found.size == len(key)

    assert store.requests <= 1 + 400 / 8 + 8
    assert store.asked <= 400


async def test_pages_are_used_again_once_the_order_is_sorted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a part at random, each page answers as many questions as before."""
    keys = [f"p/{number:06d}" for number in range(20_000)]
    store = _Store(keys, page=1000)
    objects = await _started(store, monkeypatch)
    for key in random.Random(1).sample(keys, 200):
        await objects.find(key, ask=False)
    store.requests = store.asked = 0
    for key in keys:
        assert await objects.find(key, ask=False) is not None

    assert store.requests <= 25
    assert store.asked <= 64


async def test_an_empty_destination_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that there is nothing, whatever is asked."""
    store = _Store([], page=1000)
    objects = await _started(store, monkeypatch)

    assert [await _size(objects, f"p/{number}") for number in range(100)] == [None] * 100
    assert store.requests == 1


@pytest.mark.parametrize("fault", ["ignores-start-after", "unsorted"])
async def test_a_store_that_lists_in_its_own_way_makes_no_object_absent(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """What its listing does not show is asked for, unless that costs more than it saves."""
    keys = [f"p/{number:02d}" for number in range(20)]
    if fault == "unsorted":
        random.Random(1).shuffle(keys)
    store = _Store(keys, page=5, seeks=fault == "unsorted")
    objects = await _started(store, monkeypatch)
    answers = {await _size(objects, key) for key in keys}

    assert answers == {4}
    assert store.asked
    assert store.requests <= 3


async def test_without_permission_to_list_every_object_counts_as_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Credentials that may only write are enough; a missing bucket is an error."""
    denied = AccessError(
        "no", response=Response("GET", "http://x", 403, {}, b"<Code>AccessDenied</Code>")
    )

    async def refuse(*arguments: object, **options: object) -> Page:
        raise denied

    monkeypatch.setattr(existing, "list_page", refuse)
    objects = ExistingObjects(None, "bucket", "p/")  # type: ignore[arg-type]
    await objects.start()
    assert await _size(objects, "p/a") is None

    async def absent(*arguments: object, **options: object) -> Page:
        raise NotFoundError("no bucket")

    monkeypatch.setattr(existing, "list_page", absent)
    with pytest.raises(NotFoundError):
        await ExistingObjects(None, "bucket", "p/").start()  # type: ignore[arg-type]


@given(key=st.text(min_size=1))
def test_just_before_sorts_before_the_key(key: str) -> None:
    """For every key."""
    assert just_before(key) < key
