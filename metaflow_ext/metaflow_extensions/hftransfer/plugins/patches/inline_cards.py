"""The cards of ``@checkpoint`` and ``@model`` without a process for each update.

Metaflow renders a card in a process of its own, which imports the flow again. At the end of
a step it waits for up to four of them, one after the other. These two cards are blank ones,
which need nothing but their components. They are rendered in this process: updates by a
thread for which the step does not wait, the last one by the step itself. Anything
unexpected is left to Metaflow's own code.
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from types import SimpleNamespace
from typing import Any

from metaflow_extensions.hftransfer.plugins.card.storage import CardTask, card_datastore

_CARDS = frozenset(("model_card", "task_checkpoints"))
_TYPE = "blank"
# Seconds that the last update waits for an update that is still being written.
_MAX_WAIT = 30.0

_task: tuple[Any, Any] | None = None
"""Datastore backend and metadata provider of the running task."""
_threads: dict[str, threading.Thread] = {}
"""The last update of each card, by the card's UUID."""


def record_task(task_pre_step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``task_pre_step``: from then on the task's cards are rendered in this process."""

    @wraps(task_pre_step)
    def method(
        self: Any, step_name: str, task_datastore: Any, metadata: Any, *rest: Any, **keywords: Any
    ) -> Any:
        global _task
        _task = (task_datastore._storage_impl, metadata)
        return task_pre_step(self, step_name, task_datastore, metadata, *rest, **keywords)

    return method


def run_in_this_process(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``CardCreator._run_cards_subprocess``."""
    signature = inspect.signature(original)

    @wraps(original)
    def method(*arguments: Any, **keywords: Any) -> None:
        bound = signature.bind(*arguments, **keywords)
        bound.apply_defaults()
        given = SimpleNamespace(**bound.arguments)
        try:
            is_rendered = _task is not None and _render(given, *_task)
        except Exception:  # noqa: BLE001 - Metaflow's own code reports what is wrong
            is_rendered = False
        if not is_rendered:
            original(*arguments, **keywords)

    return method


def _render(given: SimpleNamespace, storage: Any, metadata: Any) -> bool:
    """Render and store a card; False if it is none of `_CARDS`.

    Parameters
    ----------
    given : SimpleNamespace
        The arguments of ``_run_cards_subprocess``.
    storage, metadata
        Datastore backend and metadata provider of the task.
    """
    if given.user_set_card_id not in _CARDS or given.decorator_attributes["type"] != _TYPE:
        return False
    previous = _threads.get(given.card_uuid)
    if not (given.final or given.sync):
        if previous is not None and previous.is_alive():
            return True  # Metaflow also skips updates that come too fast
        page = _page(given, storage, metadata)
        _threads[given.card_uuid] = thread = threading.Thread(
            target=page.store_quietly, name="hftransfer-card"
        )
        thread.start()
        return True
    if previous is not None:
        previous.join(_MAX_WAIT)
    _page(given, storage, metadata).store()
    return True


@dataclass
class _Page:
    """One update of a card."""

    card: Any
    uuid: str
    id: str
    mode: str
    """Metaflow's: ``render``, ``render_runtime`` or ``refresh``."""
    task: CardTask
    data: dict[str, Any]
    datastore: Any
    register: Callable[[], None]
    """Registers the card in the task's metadata."""

    def store(self) -> None:
        from metaflow.plugins.cards.card_cli import update_card

        content = update_card(self.card, self.mode, self.task, self.data).data
        if content is None:
            return
        if self.mode == "refresh":
            self.datastore.save_data(self.uuid, _TYPE, content, card_id=self.id)
        else:
            self.datastore.save_card(self.uuid, _TYPE, content, card_id=self.id)
            self.register()

    def store_quietly(self) -> None:
        try:
            self.store()
        except Exception:  # noqa: BLE001 - Metaflow's process discards its output as well
            return


def _page(given: SimpleNamespace, storage: Any, metadata: Any) -> _Page:
    from metaflow.plugins.cards.card_modules.basic import BlankCard
    from metaflow.plugins.cards.metadata import _save_metadata

    from metaflow import current

    flow_name = current.flow_name
    task = CardTask(f"{flow_name}/{given.runspec}")
    attempt = current.retry_count

    def register() -> None:
        if given.save_metadata:
            run_step_task = given.runspec.split("/")
            _save_metadata(metadata, *run_step_task, attempt, given.card_uuid, given.metadata_dict)

    # A copy: the step may change its components as soon as this call returns.
    components, data = json.loads(json.dumps((given.component_strings, given.data or {})))
    return _Page(
        card=BlankCard(options=given.card_options or {}, components=components),
        uuid=given.card_uuid,
        id=given.user_set_card_id,
        mode=given.mode,
        task=task,
        data=data,
        datastore=card_datastore(storage, flow_name, task.pathspec),
        register=register,
    )
