"""`hftransfer.stores.s3.hedging`: when a part is sent a second time, and which response counts."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from hftransfer.errors import NetworkError, Response, ServerError
from hftransfer.stores.s3.hedging import HedgedRequest, HedgeTimer

# --- the delay


def record(timer: HedgeTimer, seconds: float, *, count: int) -> None:
    for _ in range(count):
        timer.record_response(seconds)


def test_nothing_is_hedged_before_enough_responses() -> None:
    """The timer needs as many responses as there are connections, and at least ten."""
    timer = HedgeTimer(12)
    record(timer, 0.2, count=11)
    assert timer.delay is None
    record(timer, 0.2, count=1)
    assert timer.delay == 1.0


def test_the_delay_follows_the_response_times() -> None:
    """It starts at the 90th percentile and approaches the mean plus the margin of 0.7 s."""
    timer = HedgeTimer(1)
    record(timer, 2.0, count=10)
    assert timer.delay == 2.0
    record(timer, 0.1, count=2000)
    assert timer.delay == pytest.approx(0.8, abs=0.01)


def test_many_late_parts_switch_hedging_off() -> None:
    """Copies would slow down a slow store further; hedging resumes when the store recovers."""
    timer = HedgeTimer(1)
    record(timer, 0.2, count=10)
    for _ in range(5):
        timer.record_late()
    assert timer.delay is None
    record(timer, 0.2, count=300)
    assert timer.delay is not None


def test_a_rare_late_part_raises_the_delay_little() -> None:
    """One late part in a thousand is what hedging is for."""
    timer = HedgeTimer(1)
    record(timer, 0.2, count=900)
    before = timer.delay
    timer.record_late()
    assert before is not None
    assert timer.delay == pytest.approx(before + 0.1)


# --- the request


class InstantTimer(HedgeTimer):
    """Sends the second copy at once."""

    def __init__(self) -> None:
        super().__init__(1)
        self.late = 0

    @property
    def delay(self) -> float | None:
        return 0.0

    def record_late(self) -> None:
        self.late += 1


class Copies:
    """Scripted outcomes of the copies of one request, which happen once all copies are sent.

    None means that the copy gets no response.
    """

    def __init__(self, outcomes: Sequence[Response | Exception | None]) -> None:
        self._outcomes = outcomes
        self._sent = 0
        self._all_sent = anyio.Event()
        self.cancelled = 0

    async def send(self) -> Response:
        outcome = self._outcomes[self._sent]
        self._sent += 1
        if self._sent == len(self._outcomes):
            self._all_sent.set()
        await self._all_sent.wait()
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is None:
            try:
                await anyio.sleep_forever()
            finally:
                self.cancelled += 1
        assert outcome is not None
        return outcome


OK = Response("PUT", "http://h/b/k", 200, {})


@pytest.mark.asyncio
async def test_the_second_copy_replaces_one_without_a_response() -> None:
    """The first copy is cancelled when the second has its response."""
    copies, timer = Copies([None, OK]), InstantTimer()

    assert await HedgedRequest(copies.send, timer).run() is OK
    assert timer.late == 1
    assert copies.cancelled == 1


@pytest.mark.asyncio
async def test_one_success_is_enough() -> None:
    """If the first copy fails while the second is in flight, the second decides."""
    copies = Copies([ServerError("first"), OK])

    assert await HedgedRequest(copies.send, InstantTimer()).run() is OK


@pytest.mark.parametrize(
    ("outcomes", "timer"),
    [
        ([ServerError("first")], HedgeTimer(1)),
        ([ServerError("first"), NetworkError("second")], InstantTimer()),
    ],
    ids=["not hedged", "hedged"],
)
@pytest.mark.asyncio
async def test_the_first_failure_is_raised(outcomes: list[Exception], timer: HedgeTimer) -> None:
    """Once no copy is in flight, the first failure is the request's."""
    with pytest.raises(ServerError, match="first"):
        await HedgedRequest(Copies(outcomes).send, timer).run()


@pytest.mark.parametrize(("seconds", "late_after"), [([], None), ([0.1], 2.0), ([0.1, 3.0], 12.0)])
def test_part_is_late_before_ten_were_answered(
    seconds: Sequence[float], late_after: float | None
) -> None:
    """After four times what the others took, and two seconds; none is before the first answer."""
    timer = HedgeTimer(connections=4)
    for value in seconds:
        timer.record_response(value)

    assert timer.late_after == late_after


def test_part_is_late_where_parts_usually_take_long() -> None:
    """The computed delay is above its limit; a part that takes four times as long trickles."""
    timer = HedgeTimer(connections=4)
    for _ in range(20):
        timer.record_response(30.0)

    assert timer.delay is None
    assert timer.late_after == 120.0


@pytest.mark.parametrize(("copies", "may_copy"), [(0, True), (1, True), (2, False)])
def test_second_copies_are_an_eighth_of_the_parts(copies: int, may_copy: bool) -> None:
    """A link that becomes slow makes every part late, and must not carry each twice."""
    timer = HedgeTimer(connections=4)
    timer.in_flight, timer.copies = 16, copies

    assert timer.may_copy is may_copy
