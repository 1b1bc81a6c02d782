from __future__ import annotations

from typing import Protocol, runtime_checkable

from hftransfer._core.capability import CapabilityMeta


@runtime_checkable
class _Named(Protocol, metaclass=CapabilityMeta):
    @property
    def name(self) -> str: ...


@runtime_checkable
class _Closing(Protocol, metaclass=CapabilityMeta):
    def close(self) -> None: ...


class _File:
    looks = 0

    @property
    def name(self) -> str:
        type(self).looks += 1
        return "file"


class _Socket:
    def __init__(self) -> None:
        self.name = "socket"

    def close(self) -> None: ...


class _NamedByClass(_Named):
    name = "class"


def test_an_object_implements_the_protocols_whose_members_it_has() -> None:
    """Each protocol has its own answer for a class, also for members set in `__init__`."""
    for _ in range(2):
        assert isinstance(_File(), _Named)
        assert not isinstance(_File(), _Closing)
        assert isinstance(_Socket(), _Named)
        assert isinstance(_Socket(), _Closing)
        assert not isinstance(object(), _Named)


def test_members_are_looked_up_once_per_class() -> None:
    _File.looks = 0

    class Fresh(_File): ...

    assert all(isinstance(Fresh(), _Named) for _ in range(100))
    assert Fresh.looks <= 1


def test_a_class_that_inherits_from_a_protocol_can_be_asked_for() -> None:
    assert isinstance(_NamedByClass(), _Named)
    assert isinstance(_NamedByClass(), _NamedByClass)
    assert not isinstance(_Socket(), _NamedByClass)
