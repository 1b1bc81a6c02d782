"""Cards of ``@model`` and ``@checkpoint``, rendered without Metaflow's processes."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")

from metaflow.plugins.datastores.local_storage import LocalStorage

from metaflow import current
from metaflow_extensions.hftransfer.plugins.patches import inline_cards

pytestmark = pytest.mark.metaflow

TEXT = {"type": "markdown", "id": "m", "source": "what was saved"}
DATA = {"user": {}, "components": {"m": TEXT}, "component_update_ts": 7, "mode": "render"}


class Metadata:
    """Records what is registered."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, ...]] = []

    def register_metadata(self, *entry: Any) -> None:
        self.entries.append(entry)


class Creator:
    """Stands in for Metaflow's `CardCreator`: records the processes that it would start."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def _run_cards_subprocess(
        self,
        card_uuid: str,
        user_set_card_id: str,
        mode: str,
        runspec: str,
        decorator_attributes: dict[str, Any],
        card_options: dict[str, Any] | None,
        component_strings: list[dict[str, Any]],
        logger: Any,
        data: dict[str, Any] | None = None,
        final: bool = False,
        sync: bool = False,
        save_metadata: bool = False,
        metadata_dict: dict[str, Any] | None = None,
    ) -> None:
        self.started.append(mode)


class Cards:
    """The cards of one task: `make` makes an update of one."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        self.folder = folder
        self.metadata = metadata
        self.creator = Creator()
        self._run = inline_cards.run_in_this_process(Creator._run_cards_subprocess)

    def make(
        self, mode: str, *, card: str = "model_card", kind: str = "blank", **given: Any
    ) -> None:
        seq = "final" if given.get("final") else 0
        data = given.pop("data", {**DATA, "render_seq": seq})
        shown = [] if mode == "refresh" else [dict(TEXT)]
        attributes = {"type": kind, "timeout": 45, "save_errors": True}
        self._run(
            *(self.creator, "u" * 32, card, mode, "1/start/2", attributes, {}, shown, print, data),
            **given,
        )

    def stored(self, kind: str) -> dict[str, str]:
        return {file.name: file.read_text() for file in self.folder.rglob(f"*{kind}")}


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cards:
    """Return the cards of a task with a local datastore."""
    (tmp_path / ".metaflow").mkdir()
    monkeypatch.chdir(tmp_path)
    metadata = Metadata()
    monkeypatch.setattr(
        inline_cards, "_task", (LocalStorage(str(tmp_path / ".metaflow")), metadata)
    )
    monkeypatch.setattr(inline_cards, "_threads", {})
    monkeypatch.setattr(current, "_flow_name", "Flow", raising=False)
    monkeypatch.setattr(current, "_retry_count", 3, raising=False)
    return Cards(tmp_path, metadata)


def shown(page: str) -> list[str]:
    """Return the texts that a page shows."""
    for blob in re.findall(r"[A-Za-z0-9+/=]{100,}", page):
        try:
            found = json.loads(base64.b64decode(blob))
        except ValueError:
            continue
        return [part["source"] for part in found["components"][0]["contents"]]
    return []


def test_the_last_update_is_stored_when_the_call_returns(cards: Cards) -> None:
    """Page, data and metadata are stored as by Metaflow, and no process is started."""
    cards.make("render", final=True, save_metadata=True, metadata_dict={"type": "blank"})
    cards.make("refresh", final=True)

    ((name, page),) = cards.stored(".html").items()
    ((data_name, data),) = cards.stored(".data.json").items()
    assert name == f"blank-model_card-{'u' * 32}.html"
    assert data_name == f"blank-model_card-{'u' * 32}.data.json"
    assert shown(page) == ["what was saved"]
    assert "[METAFLOW_RELOAD_TOKEN]" not in page
    assert json.loads(data)["reload_token"] == "final"
    assert json.loads(data)["data"] == {"m": TEXT}
    (entry,) = cards.metadata.entries
    assert entry[:3] == ("1", "start", "2")
    assert entry[3][0].tags == ["attempt_id:3"]
    assert cards.creator.started == []


def test_an_update_is_stored_in_the_background(cards: Cards) -> None:
    """Later changes of the step are not in it, and the last update waits for it."""
    parts = {"m": dict(TEXT)}
    cards.make("render_runtime", data={**DATA, "components": parts, "render_seq": 1})
    parts["m"]["source"] = "changed"
    cards.make("refresh", final=True)

    (thread,) = inline_cards._threads.values()
    assert not thread.is_alive()
    (page,) = cards.stored(".html").values()
    assert shown(page) == ["what was saved"]
    assert "runtime-7" in page
    assert cards.creator.started == []


@pytest.mark.parametrize("other", [{"card": "mine"}, {"kind": "default"}])
def test_other_cards_are_left_to_metaflow(cards: Cards, other: dict[str, str]) -> None:
    """A user's own card may need what Metaflow's process has: the task, the flow, a time limit."""
    cards.make("render", final=True, **other)

    assert cards.creator.started == ["render"]
    assert cards.stored(".html") == {}


def test_a_failed_update_is_left_to_metaflow(cards: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metaflow's process then reports the error."""
    monkeypatch.setattr(inline_cards, "card_datastore", lambda *_: None)

    cards.make("render", final=True)

    assert cards.creator.started == ["render"]
