"""Hedging of reads: which requests are so slow that their missing bytes are asked for again.

A connection can trickle for as long as it likes without breaking any time limit, and a transfer
ends with its last chunk: one connection at 2 KB/s turns a second into an hour. So the rate of each
request over the last `window` is compared with what its *peers* achieve, and the missing bytes of
one that is far behind are asked for again on another connection; the first answer counts (J. Dean
and L. A. Barroso, The Tail at Scale, CACM 56(2), 2013). That is a comparison of connections only:
where all are slow, whether by a slow link, by a limit per connection or by a bandwidth cap, none is
behind, and none is asked for again.

The evidence that another connection would be faster is either

- *fresh*: peers that moved bytes in the window of the slow request, or ended in its later half.
  Then every request that is behind them is asked for again, up to half of those in flight; or
- *earlier*: no peer is in flight, or all of them became slow. It may be the network that became
  slow. One *probe* at a time finds out; if it is fast, that is fresh evidence for the others. Where
  nothing is known of earlier requests, `HedgePolicy.floor` and `silence` count.

Each further request for the same bytes needs twice the time of the one before, so that a range that
is slow on every connection costs a number of requests that grows with the logarithm of the time.

`select_hedges` is a pure function; `scheduler` sends the requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hftransfer._engine.pace import InFlightRead, RateHistory, weighted_median

__all__ = ("Hedge", "HedgePolicy", "select_hedges")


@dataclass(frozen=True, kw_only=True)
class HedgePolicy:
    """When a request counts as far behind. The defaults keep the delay by a connection below 5 s.

    They are `window`, `margin`, and less than a second for the new request, in the worst case. They
    are derived from that, not tuned.
    """

    window: float = 2.0
    """Seconds over which a rate is measured: long enough for a lost packet to be sent again."""
    margin: float = 2.0
    """Seconds that a request may take beyond the shares below."""
    share: float = 5.0
    """A request may take this many times as long as a new one while others need connections …"""
    idle_share: float = 2.0
    """… and this many while connections are idle, so that a new request costs no other one."""
    probe_share: float = 10.0
    """How many times slower than earlier requests one must be for a probe."""
    floor: float = 16 * 1024
    """Bytes per second below which the first request of all, if alone, is probed."""
    silence: float = 4.0
    """Seconds beyond the window after which one of the first requests of all is probed if none of
    them has received anything: a slow server answers sooner."""


@dataclass(frozen=True)
class Hedge:
    """One decision: ask for the missing bytes of `read` again."""

    read: InFlightRead
    is_probe: bool


def select_hedges(
    reads: Sequence[InFlightRead],
    history: RateHistory,
    now: float,
    policy: HedgePolicy,
    *,
    window: float,
    idle: bool,
) -> Sequence[Hedge]:
    """Return the reads whose missing bytes are to be asked for again now, the slowest first.

    Args:
        reads: all that are in flight.
        history: requests that have ended well.
        now: seconds of the clock of `reads`.
        policy: the thresholds.
        window: seconds over which rates are measured; `policy.window`, or more under a cap.
        idle: whether connections are idle.
    """
    due: list[tuple[float, InFlightRead]] = []
    for read in reads:
        left = _seconds_left(read, now, window)
        if left is not None and left > policy.margin:
            due.append((left, read))
    if not due:
        return ()  # the usual case
    due.sort(key=lambda pair: pair[0], reverse=True)
    is_probing = any(read.is_probed for read in reads)
    allowed = max(1, len(reads) // 2) - sum(read.duplicate is not None for read in reads)
    share = policy.idle_share if idle else policy.share
    hedges: list[Hedge] = []
    for left, read in due:
        if read.duplicate is None and allowed <= 0:
            continue
        peers = _Peers(reads, history, read, now, window)
        if peers.fresh is not None and peers.leave_behind(left, peers.fresh, share, policy):
            hedge = Hedge(read, is_probe=False)
        elif is_probing and not read.is_probed:
            continue
        elif _needs_probe(peers, left, policy):
            hedge, is_probing = Hedge(read, is_probe=True), True
        else:
            continue
        hedges.append(hedge)
        allowed -= read.duplicate is None  # otherwise it replaces the present duplicate
    return hedges


def _seconds_left(read: InFlightRead, now: float, window: float) -> float | None:
    """Return how long a read will take with its present requests; None if it is not to be judged.

    A read that failed and waits is left to its retry, and one that was asked for again gets twice
    the time before it is asked for once more.
    """
    if read.is_pausing or read.is_replaced or not read.buffer.missing:
        return None
    if read.hedged_at is not None and now - read.hedged_at < window * 2 ** min(read.hedges, 20):
        return None
    left = read.seconds_left(now, window)
    if left is None or read.duplicate is None:
        return left
    second = read.duplicate.seconds_left(now, window)
    return None if second is None else min(left, second)


class _Peers:
    """What the other requests to the store of `read` have achieved."""

    def __init__(
        self,
        reads: Sequence[InFlightRead],
        history: RateHistory,
        read: InFlightRead,
        now: float,
        window: float,
    ) -> None:
        self.read = read
        self.wait = now - read.started - window
        """Seconds that an unanswered request has waited beyond the window."""
        self.latency = history.latency(read.group)
        samples: list[tuple[float, int]] = []
        for peer in reads:
            if peer is read or peer.group != read.group:
                continue
            if (recent := peer.recent(now, window)) is not None:
                moved, seconds = recent
                samples.append((moved / seconds, moved))
        self.are_in_flight = bool(samples)
        """True if there are peers that are as old as the window."""
        self.are_moving = any(moved for _, moved in samples)
        """True if peers that are as old as the window have received bytes in it."""
        # The median of the bytes, not of the requests: those that trickle have no weight.
        self.fresh = weighted_median(samples + history.rates(read.group, now - window / 2))
        """Bytes per second while `read` was slow; None without any."""
        self.earlier = weighted_median(history.rates(read.group))
        """Bytes per second of the last requests that ended; None without any."""

    def leave_behind(self, left: float, rate: float, share: float, policy: HedgePolicy) -> bool:
        """Return True if a new request, at `rate`, would end much sooner than in `left` seconds."""
        if self.read.is_unanswered and self.read.duplicate is None:
            # A server that queues its requests answers each later than the one before.
            return self.wait >= share * self.latency
        fair = self.latency + self.read.buffer.missing / rate if rate else float("inf")
        return left > share * fair + policy.margin


def _needs_probe(peers: _Peers, left: float, policy: HedgePolicy) -> bool:
    """Return True if a read is slow by what is known of earlier requests, or of none at all."""
    if peers.earlier is not None:
        return peers.leave_behind(left, peers.earlier, policy.probe_share, policy)
    if peers.are_moving:
        return False  # all are slow alike
    if peers.are_in_flight and peers.wait < policy.silence:
        return False
    return left > peers.read.buffer.missing / policy.floor
