"""The card threads of ``@model`` and ``@checkpoint`` end when their step does.

metaflow-checkpoint's threads sleep between two looks, for one second or three, and the
step waits for them in the end. Their pause becomes one that the step's end cuts short.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import Event
from typing import Any

from metaflow_extensions.hftransfer.plugins.patches.signatures import takes

_PARAMETERS = ("self", "refresher", "interval")
_MARK = "_hftransfer_original"


class Pause:
    """Seconds for ``time.sleep`` that are over as soon as `event` is set.

    `time.sleep` asks whatever is no float for its whole number of seconds; the waiting is
    done there, and nothing is left to sleep.
    """

    def __init__(self, event: Event, seconds: float) -> None:
        self._event = event
        self._seconds = seconds

    def __index__(self) -> int:
        self._event.wait(self._seconds)
        return 0


def shorten(collector: Any) -> bool:
    """Give threads of the class `collector` such pauses; False if it is not as it was known."""
    if hasattr(collector.__init__, _MARK):
        return True
    if not takes(collector, "__init__", _PARAMETERS):
        return False
    collector.__init__ = _with_pause(collector.__init__)
    return True


def _with_pause(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def method(self: Any, *arguments: Any, **keywords: Any) -> None:
        init(self, *arguments, **keywords)
        event, seconds = getattr(self, "_exit_event", None), getattr(self, "_interval", None)
        if isinstance(event, Event) and isinstance(seconds, (int, float)):
            self._interval = Pause(event, seconds)

    setattr(method, _MARK, init)
    return method
