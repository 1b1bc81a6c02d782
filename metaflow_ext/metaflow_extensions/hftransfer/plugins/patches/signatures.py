"""Whether code of others is still as it was when its hook was written."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def parameters_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the parameters of `function`."""
    return tuple(inspect.signature(function).parameters)


def takes(owner: Any, name: str, parameters: tuple[str, ...]) -> bool:
    """Return True if `owner` has a function `name` with just these parameters."""
    function = getattr(owner, name, None)
    return function is not None and parameters_of(function) == parameters
