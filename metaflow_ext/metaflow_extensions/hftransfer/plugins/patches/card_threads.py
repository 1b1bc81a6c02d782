"""The card threads of ``@checkpoint`` and ``@model`` end when their step ends.

metaflow-checkpoint's threads sleep one or three seconds between updates, and the step waits
for them at its end. With this wrapper the end of the step interrupts the pause.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import Event
from typing import Any


class InterruptiblePause:
    """An argument for ``time.sleep`` that waits until `event` is set, or `seconds` are over.

    `time.sleep` calls ``__index__`` of an argument that is no float. The wait happens there,
    and the result leaves nothing to sleep.
    """

    def __init__(self, event: Event, seconds: float) -> None:
        self._event = event
        self._seconds = seconds

    def __index__(self) -> int:
        self._event.wait(self._seconds)
        return 0


def interruptible_pause(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``__init__`` of a card thread."""

    @wraps(init)
    def method(self: Any, *arguments: Any, **keywords: Any) -> None:
        init(self, *arguments, **keywords)
        event, seconds = getattr(self, "_exit_event", None), getattr(self, "_interval", None)
        if isinstance(event, Event) and isinstance(seconds, (int, float)):
            self._interval = InterruptiblePause(event, seconds)

    return method
