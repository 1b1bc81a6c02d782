"""`hftransfer._engine.hedging`: which requests are asked for again, on a simulated clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._engine.hedging import HedgePolicy, select_hedges
from hftransfer._engine.pace import (
    InFlightRead,
    RateHistory,
    RequestPace,
    weighted_median,
)

MIB = 1 << 20
DRIP = 2000.0  # bytes per second
TICK = 0.05  # seconds
POLICY = HedgePolicy()
simulated = settings(deadline=None, max_examples=40)


class _Range(ByteRangeBuffer):
    """A range of any length, without the memory for it."""

    def __init__(self, limit: int) -> None:
        super().__init__(0, memoryview(b""))
        self.limit = limit


class _Network:
    """Chunks that are read over a limited number of connections, in simulated time.

    Args:
        chunks: bytes of each.
        connections: requests at the same time.
        rate: returns the bytes per second of a request, from its number and the time.
        latency: seconds before the first byte of each.
        total: bytes per second of all requests together, which share it equally.
    """

    def __init__(
        self,
        chunks: Sequence[int],
        connections: int,
        rate: Callable[[int, float], float],
        *,
        latency: float = 0.02,
        total: float = math.inf,
    ) -> None:
        self.now = 0.0
        self.hedged: list[int] = []
        """Indices of the chunks that were asked for again."""
        self._waiting = list(enumerate(chunks))
        self._connections = connections
        self._rate = rate
        self._latency = latency
        self._total = total
        self._requests = 0
        self._reads: dict[InFlightRead, int] = {}
        self._numbers: dict[RequestPace, int] = {}
        self._history = RateHistory()

    def run(self, limit: float) -> float:
        """Return the seconds until all chunks were read, or `limit` if that is less."""
        ticks = 0
        while (self._waiting or self._reads) and self.now < limit:
            self._start()
            self._move()
            self.now += TICK
            ticks += 1
            if ticks % 5 == 0:
                self._decide()
        return self.now

    def set_rate(self, rate: Callable[[int, float], float]) -> None:
        """Change the rate of requests."""
        self._rate = rate

    def numbers_of(self, chunk: int) -> set[int]:
        """Return the numbers of the requests in flight for a chunk."""
        return {
            self._numbers[request]
            for read, index in self._reads.items()
            if index == chunk
            for request in (read, read.duplicate)
            if request is not None
        }

    @property
    def _in_use(self) -> int:
        return sum(1 + (read.duplicate is not None) for read in self._reads)

    def _number(self, request: RequestPace) -> None:
        self._numbers[request] = self._requests
        self._requests += 1

    def _start(self) -> None:
        while self._waiting and self._in_use < self._connections:
            index, size = self._waiting.pop(0)
            read = InFlightRead(_Range(size), self.now)
            self._reads[read] = index
            self._number(read)

    def _move(self) -> None:
        share = self._total / max(1, self._in_use)
        for read in list(self._reads):
            for request in (read, read.duplicate):
                if request is None or self.now - request.started < self._latency:
                    continue
                buffer = request.buffer
                if buffer.response_started_at is None:
                    buffer.response_started_at = self.now
                rate = min(share, self._rate(self._numbers[request], self.now))
                buffer.advance(min(buffer.missing, max(1, int(rate * TICK))))
                if not buffer.missing:
                    self._history.record(0, request, self.now + TICK)
                    del self._reads[read]
                    break

    def _decide(self) -> None:
        for read in self._reads:
            read.mark(self.now, POLICY.window)
            if read.duplicate is not None:
                read.duplicate.mark(self.now, POLICY.window)
        idle = self._in_use < self._connections
        for hedge in select_hedges(
            list(self._reads), self._history, self.now, POLICY, window=POLICY.window, idle=idle
        ):
            read = hedge.read
            self.hedged.append(self._reads[read])
            read.hedges += 1
            read.hedged_at = self.now
            read.is_probed = hedge.is_probe
            if read.duplicate is not None:
                read.duplicate.begin(self.now)
                self._number(read.duplicate)
            elif self._in_use < self._connections:
                read.duplicate = RequestPace(_Range(read.buffer.missing), self.now)
                self._number(read.duplicate)
            else:
                read.begin(self.now)
                self._number(read)


# --- a connection that trickles


@simulated
@given(
    count=st.integers(2, 60),
    size=st.sampled_from([300_000, 2 * MIB, 8 * MIB, 64 * MIB]),
    connections=st.integers(1, 32),
    rate=st.sampled_from([1e6, 10e6, 50e6, 500e6]),
    slow=st.integers(0, 59),
)
def test_one_slow_request_costs_five_seconds_at_most(
    count: int, size: int, connections: int, rate: float, slow: int
) -> None:
    """Whichever request trickles, and however many connections there are."""
    drip = slow % count
    chunks = [size] * count
    fair = _Network(chunks, connections, lambda number, now: rate).run(math.inf)
    network = _Network(chunks, connections, lambda number, now: DRIP if number == drip else rate)

    # The rest of the slow chunk is requested once more, which takes the time of a chunk.
    assert network.run(fair + 100) <= fair + 5.0 + size / rate
    assert network.hedged == [drip]


@simulated
@given(
    files=st.integers(1, 3),
    drips=st.sets(st.integers(0, 11), min_size=2, max_size=3),
)
def test_several_slow_requests_cost_no_more(files: int, drips: set[int]) -> None:
    """Also if they are all that is left in flight: the first one that is fast shows the way."""
    chunks = [8 * MIB] * 12 * files
    fair = _Network(chunks, 16, lambda number, now: 50e6).run(math.inf)
    network = _Network(chunks, 16, lambda number, now: DRIP if number in drips else 50e6)

    assert network.run(fair + 100) <= fair + 5.0
    assert set(network.hedged) == drips
    assert len(network.hedged) == len(drips)


def test_second_request_that_trickles_too_is_replaced() -> None:
    """The third one ends the read; it was given twice the time."""
    chunks = [8 * MIB] * 12
    network = _Network(chunks, 16, lambda number, now: DRIP if number in (0, 12) else 50e6)

    assert network.run(100.0) <= 2.0 + 4.0 + 1.0
    assert network.hedged == [0, 0]


def test_request_that_starts_to_trickle_later_is_asked_for_again() -> None:
    """The rate of the last seconds counts, not the one since its start."""

    def rate(number: int, now: float) -> float:
        return DRIP if number == 3 and now > 4.0 else 5e6

    chunks = [32 * MIB] * 16
    network = _Network(chunks, 4, rate)

    fair = 32 * MIB * 16 / 4 / 5e6
    assert network.run(200.0) <= fair + 5.0 + 32 * MIB / 5e6
    assert network.hedged == [3]


def test_unanswered_request_is_asked_for_again() -> None:
    """Its headers never come, while others are answered."""

    def rate(number: int, now: float) -> float:
        return 0.0 if number == 2 else 10e6

    chunks = [MIB] * 200
    fair = _Network(chunks, 4, lambda number, now: 10e6).run(math.inf)
    network = _Network(chunks, 4, rate)

    assert network.run(100.0) <= fair + 5.0
    assert network.hedged == [2]


# --- nobody is replaced


@simulated
@given(
    count=st.integers(2, 40),
    size=st.sampled_from([300_000, 8 * MIB]),
    connections=st.integers(2, 32),
    rate=st.sampled_from([2e3, 20e3, 1e6, 10e6, 100e6]),
    latency=st.sampled_from([0.0, 0.2, 3.0]),
)
def test_nobody_is_replaced_if_all_are_slow_alike(
    count: int, size: int, connections: int, rate: float, latency: float
) -> None:
    """A slow link or server, or a limit of each connection: none is behind its peers."""
    network = _Network([size] * count, connections, lambda number, now: rate, latency=latency)

    network.run(120.0)

    assert network.hedged == []


@simulated
@given(connections=st.integers(2, 24), total=st.sampled_from([1e5, 1e6, 100e6]))
def test_nobody_is_replaced_on_a_shared_slow_link(connections: int, total: float) -> None:
    """The rate per connection falls when more of them share it."""
    network = _Network([8 * MIB] * 30, connections, lambda number, now: 50e6, total=total)

    network.run(60.0)

    assert network.hedged == []


@simulated
@given(
    seed=st.randoms(use_true_random=False),
    connections=st.integers(4, 32),
    rate=st.sampled_from([1e6, 20e6]),
)
def test_nobody_is_replaced_for_the_variation_between_connections(
    seed: object, connections: int, rate: float
) -> None:
    """Rates that differ by a factor of two are usual."""
    import random

    assert isinstance(seed, random.Random)
    network = _Network(
        [8 * MIB] * 60,
        connections,
        lambda number, now: rate * (0.7 + 0.6 * (number * 7919 % 100) / 100),
    )

    network.run(200.0)

    assert network.hedged == []


def test_a_server_that_queues_its_requests_is_not_asked_again() -> None:
    """Each response begins later than the one before: a second request would queue up, too."""
    history = RateHistory()
    reads = [InFlightRead(_Range(MIB), 0.0) for _ in range(16)]
    hedged: list[object] = []
    for tick in range(1, 65):  # one request is answered every second
        now = tick * 0.25
        if tick % 4 == 0:
            answered = reads.pop(0)
            answered.buffer.response_started_at = now
            answered.buffer.advance(MIB)
            history.record(0, answered, now)
        for read in reads:
            read.mark(now, POLICY.window)
        if tick > 12:  # the first two seconds show what the server does
            hedged += select_hedges(reads, history, now, POLICY, window=2.0, idle=False)

    assert hedged == []


def test_network_that_becomes_slow_is_probed_and_not_flooded() -> None:
    """All requests become slow at once: one is asked for again, ever more rarely."""

    def rate(number: int, now: float) -> float:
        return 20e6 if now < 5.0 else 2e3

    network = _Network([8 * MIB] * 1000, 16, rate)

    network.run(125.0)

    assert 1 <= len(network.hedged) <= 6
    assert len(set(network.hedged)) == 1


def test_chunk_that_is_slow_on_every_connection_is_asked_for_ever_more_rarely() -> None:
    """The server is slow at this place: each further request waits twice as long."""
    network = _Network([8 * MIB] * 2000, 16, lambda number, now: 20e6)
    network.set_rate(lambda number, now: DRIP if number in network.numbers_of(5) else 20e6)

    network.run(50.0)

    assert set(network.hedged) == {5}
    assert 3 <= len(network.hedged) <= 6


# --- single decisions


def _read(moved: int, left: int, *, age: float = 2.5, group: int = 0) -> InFlightRead:
    """Return a read that has been observed from its start, `age` seconds before 10.0."""
    read = InFlightRead(_Range(moved + left), 10.0 - age, group=group)
    read.mark(10.0 - age, POLICY.window)
    read.buffer.response_started_at = 10.0 - age
    read.buffer.advance(moved)
    return read


def _select(*reads: InFlightRead, idle: bool = False) -> list[InFlightRead]:
    hedges = select_hedges(reads, RateHistory(), 10.0, POLICY, window=2.0, idle=idle)
    return [hedge.read for hedge in hedges]


def test_idle_connections_lower_the_threshold() -> None:
    """A third of the rate of the others is too slow only where a new request costs no other one."""
    slow, fast = _read(30 * MIB, 90 * MIB), _read(100 * MIB, 100 * MIB)

    assert _select(slow, fast) == []
    assert _select(slow, fast, idle=True) == [slow]


def test_only_requests_to_the_same_store_are_compared() -> None:
    """A store that is slower than another one is not behind it."""
    slow, fast = _read(5000, MIB), _read(100 * MIB, MIB, group=1)

    assert _select(_read(5000, MIB), _read(100 * MIB, MIB)) != []
    assert [read for read in _select(slow, fast) if read.hedges] == []
    fast_peer = _read(5000, 5 * MIB)
    assert _select(slow, fast_peer, fast) == []


@pytest.mark.parametrize("state", ["is_pausing", "is_replaced"])
def test_read_between_two_requests_is_left_alone(state: str) -> None:
    """Its retry, or the request that replaces it, follows anyway."""
    slow, fast = _read(5000, MIB), _read(100 * MIB, MIB)
    assert _select(slow, fast) == [slow]

    setattr(slow, state, True)

    assert _select(slow, fast) == []


def test_request_of_the_only_file_is_probed_below_the_floor() -> None:
    """There is nothing to compare it with."""
    assert len(_select(_read(5000, MIB))) == 1
    assert _select(_read(100_000, MIB)) == []
    assert _select(_read(5000, MIB), _read(5000, MIB)) == []


def test_requests_that_all_hang_are_probed() -> None:
    """The first requests of all get no answer for 6 s: that is no slow network."""
    reads = [_read(0, MIB) for _ in range(3)]
    for read in reads:
        read.started = 4.5
    assert _select(*reads) == []
    for read in reads:
        read.started = 4.0
    assert len(_select(*reads)) == 1


def test_half_of_the_requests_are_asked_for_again_at_most() -> None:
    """However many are behind."""
    slow = [_read(5000, MIB) for _ in range(9)]

    assert len(_select(*slow, _read(100 * MIB, MIB))) == 5


@given(st.lists(st.tuples(st.floats(0, 1e9), st.integers(0, 1000))))
def test_weighted_median(samples: list[tuple[float, int]]) -> None:
    """Half of the weight is at most, and half is at least, the median; values without weight
    do not count."""
    median = weighted_median(samples)

    total = sum(weight for _, weight in samples)
    if median is None:
        assert total == 0
    else:
        assert sum(weight for value, weight in samples if value <= median) >= total / 2
        assert sum(weight for value, weight in samples if value >= median) >= total / 2
