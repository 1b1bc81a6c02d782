"""`hftransfer.stores.s3.checksum_negotiation`: from the best checksum to none."""

from __future__ import annotations

from hftransfer.errors import NetworkError, RejectedError, UnsupportedError
from hftransfer.stores.s3.checksum_negotiation import ChecksumNegotiation


def test_a_rejected_candidate_is_not_offered_again() -> None:
    """Only the present candidate can be rejected or confirmed; a confirmed one stays."""
    negotiation = ChecksumNegotiation(("A", "B"))
    assert (negotiation.candidate, negotiation.settled) == ("A", False)
    negotiation.reject("A")
    negotiation.reject("A")  # by a concurrent upload
    assert (negotiation.candidate, negotiation.settled) == ("B", False)
    negotiation.confirm("A")  # is not the candidate any more
    assert not negotiation.settled
    negotiation.confirm("B")
    negotiation.reject("B")
    assert (negotiation.candidate, negotiation.settled) == ("B", True)
    assert not negotiation.may_have_caused(RejectedError("x"))


def test_without_candidates_nothing_is_left_to_negotiate() -> None:
    """Uploads then carry no checksum."""
    negotiation = ChecksumNegotiation(("A",))
    negotiation.reject("A")

    assert (negotiation.candidate, negotiation.settled) == (None, True)


def test_only_permanent_errors_may_be_due_to_the_checksum() -> None:
    """A failed connection says nothing about what the store supports."""
    negotiation = ChecksumNegotiation(("A",))

    assert negotiation.may_have_caused(RejectedError("x"))
    assert negotiation.may_have_caused(UnsupportedError("x"))
    assert not negotiation.may_have_caused(NetworkError("x"))
