"""Parameter lists of functions as text, for the comparison with what a patch expects."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_PREFIXES: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


def signature_of(function: Callable[..., Any]) -> str:
    """Return the names of the parameters of `function`, such as ``(self, key, *args)``.

    Defaults and annotations are left out: they may change without harm to a wrapper. The
    signature of a function that was wrapped with `functools.wraps` is that of the original.
    """
    parameters = inspect.signature(function).parameters.values()
    names = [_PREFIXES.get(parameter.kind, "") + parameter.name for parameter in parameters]
    return f"({', '.join(names)})"
