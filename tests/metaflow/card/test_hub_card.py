"""The card: its content, and that no task waits for it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")

from metaflow.cards import Markdown

from hftransfer._core.events import BytesMoved, FileFinished, TransferStarted
from metaflow_extensions.hftransfer.plugins.card.hub_card import HubCard, rows_of, throughput_chart
from metaflow_extensions.hftransfer.plugins.engine.load_spec import parse_arguments
from metaflow_extensions.hftransfer.plugins.engine.progress import TransferProgress
from metaflow_extensions.hftransfer.plugins.hub.cache import Access
from metaflow_extensions.hftransfer.plugins.hub.transfer import TransferSummary

pytestmark = pytest.mark.metaflow

COMMIT = "c" * 40
MIB = 1 << 20
REFERENCE = {
    "size": 3 * MIB // 2,
    "url": "s3://bucket/key",
    "pathspec": "Flow/1/start/2",
    "created_on": "2026-01-02T03:04:05",
    "metadata": {"hftransfer": {"commit": COMMIT}},
}


def an_access(**arguments: Any) -> Access:
    done = TransferSummary(3, 3 * MIB // 2, MIB, 2.0, COMMIT, "every chunk verified", {})
    request = parse_arguments({"repo_id": "org/model", **arguments})
    return Access(request, "decorator load", REFERENCE, True, done)


def a_transfer(*, finished: bool) -> TransferProgress:
    """Return a transfer of 10 MiB in five seconds."""
    now = [0.0]
    progress = TransferProgress("org/model", print, clock=lambda: now[0])
    progress(TransferStarted(2, 10 * MIB))
    for second in range(1, 6):
        now[0] = float(second)
        progress(BytesMoved("a", 2 * MIB))
    progress(FileFinished("a", 10 * MIB))
    if finished:
        progress.finish()
    return progress


def content(page: str) -> str:
    """Return the page's data, which its script shows."""
    found = re.search(r'mfCardDataElement[^>]*>|id="data"[^>]*>', page)
    blobs = re.findall(r"[A-Za-z0-9+/=]{400,}", page)
    for blob in blobs:
        try:
            data = json.loads(base64.b64decode(blob))
        except ValueError:
            continue
        return json.dumps(data, ensure_ascii=False)
    raise AssertionError(f"no data in the page ({found})")


def test_rows_have_all_that_upstream_shows_and_more() -> None:
    """Mechanism, sizes, commit, cache status, files, throughput and how it was verified."""
    rows = dict(rows_of(an_access(allow_patterns="*.json", token="hf_SECRET"), "flow"))

    assert rows["Calling Mechanism"] == "decorator load"
    assert rows["Commit"] == COMMIT
    assert rows["Size"] == "1.5 MiB"
    assert rows["Cache Scope"] == "flow"
    assert rows["Cache Status"] == "✅ Cache Hit"
    assert rows["Files"] == 3
    assert rows["Transferred"] == "1.0 MiB in 2.00 s"
    assert rows["Throughput"] == "512.0 KiB/s"
    assert rows["Verified"] == "every chunk verified"
    assert rows["Created On"] == "January 02, 2026, 03:04:05"
    assert rows["Cached by Task"] == "Flow/1/start/2"
    assert rows["Remote URL"] == "s3://bucket/key"
    assert json.loads(rows["HF Hub Parameters"]) == {"allow_patterns": "*.json"}
    assert "SECRET" not in repr(rows)


def test_page_shows_progress_and_at_the_end_a_summary() -> None:
    """A running transfer has a progress bar with numbers; the final page has the chart."""
    card = HubCard(None, "Flow/1/start/2", 1, "checkpoint")
    card.follow([an_access()])
    card.watch(a_transfer(finished=False))

    live, final = content(card.html(final=False)), content(card.html(final=True))

    assert "Hugging Face Hub Models" in live
    assert "Task Flow/1/start/2 [Attempt:1]" in live
    assert "10.0 MiB of 10.0 MiB, 1 of 2 files, 2.0 MiB/s" in live
    assert "progressBar" in live
    assert COMMIT in final
    assert "vegaChart" in final


def test_the_chart_shows_throughput_over_time() -> None:
    """One area per transfer, in MiB/s; no chart with too few samples."""
    chart = throughput_chart([a_transfer(finished=True)])

    assert chart is not None
    assert {value["rate"] for value in chart["data"]["values"]} == {2.0}
    assert throughput_chart([]) is None
    assert throughput_chart([TransferProgress("x", print)]) is None


def test_card_is_stored_where_metaflow_looks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the datastore's card root, as a blank card with metaflow-checkpoint's id."""
    from metaflow.plugins.datastores.local_storage import LocalStorage

    (tmp_path / ".metaflow").mkdir()
    monkeypatch.chdir(tmp_path)
    flow_datastore = SimpleNamespace(_storage_impl=LocalStorage(str(tmp_path)), flow_name="Flow")
    card = HubCard(flow_datastore, "Flow/1/start/2", 0, "checkpoint")

    card.start()
    card.follow([an_access()])
    card.close()

    (page,) = tmp_path.rglob("*.html")
    folder = ".metaflow/mf.cards/Flow/runs/1/steps/start/tasks/2/cards"
    assert page.parent == tmp_path / folder
    assert page.name.startswith("blank-huggingface_hub_models-")
    assert "org/model" in content(page.read_text())


def test_card_that_cannot_be_stored_fails_nothing() -> None:
    """An error while the card is stored does not reach the task."""
    card = HubCard(None, "Flow/1/start/2", 0, "checkpoint")

    card.start()
    card.close()


class Broken(Markdown):  # type: ignore[misc,unused-ignore]
    """A user's component that cannot be rendered."""

    def render(self) -> Any:
        raise ValueError("broken")


@pytest.mark.parametrize("with_cards", [True, False])
def test_a_step_adds_to_the_card(with_cards: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`current.card[id]` takes components as with metaflow-checkpoint, beside other cards."""
    from metaflow.metaflow_current import Current
    from metaflow.plugins.cards.component_serializer import ComponentStore

    import metaflow

    current = type("Own", (Current,), {})()  # attributes are added to its class
    monkeypatch.setattr(metaflow, "current", current)
    others = {"mine": ComponentStore(None), "default": ComponentStore(None)}
    if with_cards:
        named = {"append": others["default"].append, "__getitem__": lambda self, key: others[key]}
        named["append"] = staticmethod(named["append"])
        current._update_env({"card": type("Collector", (), named)()})
    card = HubCard(None, "Flow/1/start/2", 0, "checkpoint")
    card.attach_to_current()

    models = current.card["huggingface_hub_models"]
    models.append(Markdown("added by the step"), id="one")
    models.extend([Broken("x"), Markdown("and more")])
    current.card.append(Markdown("to the default card"))
    models.components["one"].update("changed by the step")
    models.refresh()

    page = content(card.html(final=True))
    assert "changed by the step" in page
    assert "added by the step" not in page
    assert "and more" in page
    assert "Broken: ValueError" in page
    assert ("to the default card" in page) is not with_cards
    assert len(list(others["default"])) == with_cards
    assert "Hugging Face Hub Models" in page
    current.card["huggingface_hub_models"] = [Markdown("instead")]
    page = content(card.html(final=True))
    assert "instead" in page
    assert "and more" not in page
    if with_cards:
        current.card["mine"].append(Markdown("mine"))
        assert len(list(others["mine"])) == 1
