"""The cards of ``@model`` and ``@checkpoint`` without a process for each of their states.

Metaflow makes a card in a process of its own, which imports the flow again, and at the end of
a step waits for up to four of them, one after the other. These cards are blank ones, which
need nothing but what they show: they are made in this process, in a thread where nobody
waits for them. Whatever is not as it was known goes Metaflow's way.
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
from metaflow_extensions.hftransfer.plugins.patches.signatures import parameters_of

_CARDS = frozenset(("model_card", "task_checkpoints"))
_TYPE = "blank"
_PARAMETERS = (
    "self",
    "card_uuid",
    "user_set_card_id",
    "mode",
    "runspec",
    "decorator_attributes",
    "card_options",
    "component_strings",
    "logger",
    "data",
    "final",
    "sync",
    "save_metadata",
    "metadata_dict",
)
_MARK = "_hftransfer_original"
# Longest wait for a page that is on its way while the last one is due.
_WAIT = 30.0

_task: tuple[Any, Any] | None = None
"""Datastore and metadata provider of the running task."""
_on_their_way: dict[str, threading.Thread] = {}


def noting(task_pre_step: Callable[..., Any]) -> Callable[..., Any]:
    """Return `task_pre_step` of a decorator, which then has the task's cards made here."""
    known = ("self", "step_name", "task_datastore", "metadata")
    if parameters_of(task_pre_step)[: len(known)] != known:
        return task_pre_step

    @wraps(task_pre_step)
    def method(
        self: Any, step_name: str, task_datastore: Any, metadata: Any, *rest: Any, **keywords: Any
    ) -> Any:
        global _task
        if install():
            _task = (task_datastore._storage_impl, metadata)
        return task_pre_step(self, step_name, task_datastore, metadata, *rest, **keywords)

    return method


def install() -> bool:
    """Take over from Metaflow's processes, once; False if Metaflow is not as it was known."""
    try:
        from metaflow.plugins.cards.card_creator import CardCreator

        original = CardCreator._run_cards_subprocess
    except (ImportError, AttributeError):
        return False
    if hasattr(original, _MARK):
        return True
    if parameters_of(original) != _PARAMETERS:
        return False
    CardCreator._run_cards_subprocess = _in_this_process(original)
    return True


def _in_this_process(original: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(original)

    @wraps(original)
    def method(*arguments: Any, **keywords: Any) -> None:
        bound = signature.bind(*arguments, **keywords)
        bound.apply_defaults()
        given = SimpleNamespace(**bound.arguments)
        try:
            handled = _task is not None and _make(given, *_task)
        except Exception:  # noqa: BLE001 - Metaflow's own way tells what is wrong
            handled = False
        if not handled:
            original(*arguments, **keywords)

    setattr(method, _MARK, original)
    return method


def _make(given: SimpleNamespace, storage: Any, metadata: Any) -> bool:
    """Make the card as `given` says; False if it is another one's."""
    if given.user_set_card_id not in _CARDS or given.decorator_attributes["type"] != _TYPE:
        return False
    before = _on_their_way.get(given.card_uuid)
    if not (given.final or given.sync):
        if before is not None and before.is_alive():
            return True  # Metaflow leaves out states that come too fast, too
        page = _page(given, storage, metadata)
        _on_their_way[given.card_uuid] = thread = threading.Thread(
            target=page.store_quietly, name="hftransfer-card"
        )
        thread.start()
        return True
    if before is not None:
        before.join(_WAIT)
    _page(given, storage, metadata).store()
    return True


@dataclass
class _Page:
    """One state of a card."""

    card: Any
    uuid: str
    id: str
    mode: str
    task: CardTask
    data: dict[str, Any]
    datastore: Any
    register: Callable[[], None]

    def store(self) -> None:
        from metaflow.plugins.cards.card_cli import update_card

        made = update_card(self.card, self.mode, self.task, self.data).data
        if made is None:
            return
        if self.mode == "refresh":
            self.datastore.save_data(self.uuid, _TYPE, made, card_id=self.id)
        else:
            self.datastore.save_card(self.uuid, _TYPE, made, card_id=self.id)
            self.register()

    def store_quietly(self) -> None:
        try:
            self.store()
        except Exception:  # noqa: BLE001 - as the process, whose output nobody sees
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
            place = given.runspec.split("/")
            _save_metadata(metadata, *place, attempt, given.card_uuid, given.metadata_dict)

    # The step may change what it showed as soon as this returns.
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
