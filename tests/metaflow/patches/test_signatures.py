"""Signatures as the table of patches writes them."""

from __future__ import annotations

import functools
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")

from metaflow_extensions.hftransfer.plugins.patches.signatures import signature_of

pytestmark = pytest.mark.metaflow


def test_a_signature_is_the_names_of_the_parameters() -> None:
    """Defaults and annotations are left out; parameters that collect others keep their stars."""

    def function(self: Any, key: str, *args: int, path: str = "", **kwargs: Any) -> None: ...

    assert signature_of(function) == "(self, key, *args, path, **kwargs)"
    assert signature_of(lambda: None) == "()"


def test_a_wrapped_function_has_its_own_signature() -> None:
    """A wrapper of another extension does not hide what it wraps."""

    def function(self: Any, key: str) -> None: ...

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    assert signature_of(wrapper) == "(self, key)"
