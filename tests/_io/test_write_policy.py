"""`hftransfer._io.write_policy`: which writes are direct, for simulated times of writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._io.write_policy import (
    DIRECT_SAMPLES,
    WriteCosts,
    WritePhase,
    WritePolicy,
    next_phase,
)

SIZE = 8 << 20  # bytes of each write


def record(policy: WritePolicy, direct: bool, seconds: float, *, off_cpu: float = 0.0) -> None:
    """Record a write of 8 MiB that waited for a CPU core for a share of its time."""
    cpu_seconds = seconds * (1 - off_cpu)
    policy.record(direct=direct, size=SIZE, seconds=seconds, cpu_seconds=cpu_seconds)


class Simulation:
    """Writes of 8 MiB, one after another, under an ``auto`` policy with a simulated clock.

    Args:
        interval: seconds from one write to the next.
    """

    def __init__(self, interval: float = 0.0) -> None:
        self._now = 0.0
        self._interval = interval
        self._policy = WritePolicy("auto", 1, 1 << 40, clock=lambda: self._now)

    def write(
        self, count: int, *, cached: float, direct: float, off_cpu: float = 0.0
    ) -> list[bool]:
        """Write `count` times; return for each write whether it was direct.

        Args:
            count: number of writes.
            cached: seconds of a write through the page cache.
            direct: seconds of a direct write.
            off_cpu: share of that time in which the thread waited for a CPU core.
        """
        choices = []
        for _ in range(count):
            is_direct = self._policy.choose_direct()
            record(self._policy, is_direct, direct if is_direct else cached, off_cpu=off_cpu)
            choices.append(is_direct)
            self._now += self._interval
        return choices


def test_the_mode_and_the_size_decide() -> None:
    """``on`` and ``off`` are obeyed; ``auto`` is direct for more than half of the page cache."""
    assert WritePolicy("on", 1, 1 << 40).choose_direct()
    assert not WritePolicy("off", 1 << 40, 1).choose_direct()
    assert not WritePolicy("off", 1 << 40, 1).may_write_direct
    assert WritePolicy("auto", 51, 100).choose_direct()
    assert not WritePolicy("auto", 50, 100).choose_direct()
    assert WritePolicy("auto", 50, 100).may_write_direct


@given(cached=st.floats(1e-4, 3.9e-3), direct=st.floats(1e-4, 1e-1))
def test_auto_takes_the_faster_mode(cached: float, direct: float) -> None:
    """The time per write decides, with a margin in favour of the page cache.

    The disk is measured again from time to time, the page cache only in the beginning.
    """
    choices = Simulation().write(100, cached=cached, direct=direct)

    assert choices[:4] == [False, True, True, True]
    if direct < 0.7 * cached:
        assert all(choices[4:])
    else:
        assert 3 <= choices[4:].count(True) <= 5


@pytest.mark.parametrize(("direct", "expected"), [(0.009, True), (0.011, False)])
def test_expensive_copies_need_no_large_advantage(direct: float, expected: bool) -> None:
    """Copies that take 10 ms of CPU time for 8 MiB are avoided if the disk is faster at all."""
    choices = Simulation().write(50, cached=0.010, direct=direct)

    assert (choices[-20:].count(True) > 15) is expected


def test_auto_follows_a_change_of_speed() -> None:
    """Page faults become expensive during a transfer, and disks run out of burst credit."""
    simulation = Simulation()

    def is_direct(cached: float, direct: float) -> bool:
        """Return True if most of the last writes of many are direct."""
        choices = simulation.write(120, cached=cached, direct=direct)
        return choices[-20:].count(True) > 10

    assert not is_direct(cached=0.002, direct=0.005)
    assert is_direct(cached=0.030, direct=0.005)
    assert not is_direct(cached=0.030, direct=0.050)


def test_writes_stay_direct_while_the_disk_keeps_up() -> None:
    """After copies had to wait for a CPU core, every write is direct."""
    simulation = Simulation(interval=0.010)
    simulation.write(10, cached=0.004, direct=0.007, off_cpu=0.5)

    assert all(simulation.write(90, cached=0.004, direct=0.007))


def test_short_writes_are_not_measured() -> None:
    """The time of a write of 100 bytes says nothing about the rate."""
    policy = WritePolicy("auto", 1, 1 << 40)
    policy.record(direct=False, size=100, seconds=1e-9, cpu_seconds=1e-9)

    assert not policy.choose_direct()


@pytest.mark.parametrize(
    ("off_cpu", "interval", "expected"),
    [(0.5, 0.010, True), (0.1, 0.010, False), (0.5, 0.005, False)],
    ids=["too few cores", "cores to spare", "a slow disk"],
)
def test_a_saturated_cpu_makes_writes_direct(
    off_cpu: float, interval: float, expected: bool
) -> None:
    """If copies wait for a core and the disk writes 8 MiB before the next 8 MiB arrive."""
    choices = Simulation(interval).write(100, cached=0.004, direct=0.007, off_cpu=off_cpu)

    assert (choices[-50:].count(True) > 40) is expected
    assert (choices[-50:].count(True) < 10) is not expected


def test_parallel_direct_writes_are_measured_together() -> None:
    """Four direct writes of 8 ms in parallel are faster than four cached ones of 4 ms in turn."""
    policy = WritePolicy("auto", 1, 1 << 40)
    assert not policy.choose_direct()
    record(policy, False, 0.004)
    assert [policy.choose_direct() for _ in range(4)] == [True] * 4
    for _ in range(3):
        record(policy, True, 0.008)
        assert policy.choose_direct()  # four are in flight again


def test_one_slow_direct_write_decides_nothing() -> None:
    """The first direct write of a file may take long."""
    policy = WritePolicy("auto", 1, 1 << 40, clock=lambda: 0.0)
    for direct, seconds in ((False, 0.010), (True, 0.020), (True, 0.002), (True, 0.002)):
        assert policy.choose_direct() is direct
        record(policy, direct, seconds)

    assert policy.choose_direct()


def test_the_phases_follow_from_the_measurements() -> None:
    """The decision is a function of the phase, the costs and the time."""
    costs = WriteCosts()
    assert next_phase(WritePhase.MEASURE_CACHED, costs, 0.0) is WritePhase.MEASURE_CACHED
    costs.count(SIZE, 0.0)
    costs.add_cached(SIZE, 0.004, 0.004)
    for _ in range(DIRECT_SAMPLES):
        assert next_phase(WritePhase.MEASURE_CACHED, costs, 0.0) is WritePhase.MEASURE_DIRECT
        costs.add_direct(SIZE, 0.0035, 1)

    # Faster, but by less than the advantage that is needed to leave the page cache.
    assert next_phase(WritePhase.CACHED, costs, 0.0) is WritePhase.CACHED
    assert next_phase(WritePhase.DIRECT, costs, 0.0) is WritePhase.DIRECT
