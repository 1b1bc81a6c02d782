"""Protocols for what an object can do beyond its interface, asked with `isinstance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from weakref import ref

if TYPE_CHECKING:
    from abc import ABCMeta as ProtocolMeta
else:
    ProtocolMeta = type(Protocol)

__all__ = ("CapabilityMeta",)

_answers: dict[type, dict[ref[type], bool]] = {}
"""By protocol: by class, whether its objects implement the protocol."""


class CapabilityMeta(ProtocolMeta):
    """Metaclass of `runtime_checkable` protocols that are asked for again for each file or chunk.

    `isinstance` with such a protocol looks up every member of it at each call. In Python 3.11 the
    ten calls for a small file took as long as the rest of its transfer. Here the first object of
    a class answers for all objects of that class. So a member must not be added to a single
    object, and `isinstance` evaluates no property more than once.
    """

    def __instancecheck__(self, instance: object) -> bool:
        """Return True if `instance`, or an earlier object of its class, has all members."""
        kind = type(instance)
        answers = _answers.get(self)
        if answers is None:
            answers = _answers[self] = {}
        answer = answers.get(ref(kind))
        if answer is None:
            answer = super().__instancecheck__(instance)
            # The entry of a class is removed with the class.
            answers[ref(kind, lambda dead: answers.pop(dead, None))] = answer
        return answer
