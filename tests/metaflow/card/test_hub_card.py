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
from metaflow_extensions.hftransfer.plugins.card import overview
from metaflow_extensions.hftransfer.plugins.card.chart import throughput_chart
from metaflow_extensions.hftransfer.plugins.card.hub_card import HubCard
from metaflow_extensions.hftransfer.plugins.engine.load_spec import parse_arguments
from metaflow_extensions.hftransfer.plugins.engine.progress import TransferProgress
from metaflow_extensions.hftransfer.plugins.hub.access import (
    DATASTORE,
    HUB,
    Access,
    TransferSummary,
)

pytestmark = pytest.mark.metaflow

COMMIT = "c" * 40
MIB = 1 << 20
KEY = "mf.huggingface_hub/checkpoints/artifacts/Flow/start/a/b/c.0.d.0"
REFERENCE = {
    "size": 3 * MIB // 2,
    "key": KEY,
    "url": f"s3://bucket/{KEY}",
    "pathspec": "Flow/1/start/2",
    "created_on": "2026-01-02T03:04:05",
    "metadata": {"hftransfer": {"commit": COMMIT}},
}
MANIFEST = {
    "format": "hftransfer-digests",
    "files": {
        f"part-{number:03}.bin": {"size": MIB, "digest": f"sha256:{number:064x}"}
        for number in range(120)
    },
}


def started(**arguments: Any) -> Access:
    request = parse_arguments({"repo_id": "org/model", **arguments})
    return Access(request, "decorator load", "/tmp/model", started_at=1764550000.0)


def an_access(**arguments: Any) -> Access:
    access = started(**arguments)
    done = TransferSummary(3, 3 * MIB // 2, MIB, 2.0, COMMIT, "every chunk verified", MANIFEST)
    access.finish(REFERENCE, cache_hit=True, summary=done)
    return access


def a_transfer(*, finished: bool) -> TransferProgress:
    """Return a transfer of 10 MiB of 20 in five seconds."""
    now = [0.0]
    progress = TransferProgress(
        "org/model", print, clock=lambda: now[0], wall_clock=lambda: 1764550000.0
    )
    progress(TransferStarted(2, 20 * MIB))
    for tenth in range(1, 51):
        now[0] = tenth / 10
        progress(BytesMoved("a", MIB // 5))
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


def test_a_line_says_what_came_from_where_and_how_fast() -> None:
    """Name, revision and commit, size, files, origin, seconds, rate, verified, hit or miss."""
    line = overview.line_of(an_access(revision="v1"), final=False)

    assert [re.sub("<[^>]*>", "", cell) for cell in line] == [
        *("org/model", "v1 → cccccccc", "1.5 MiB", "3", "datastore", "2.00", "512.0 KiB/s"),
        *("every chunk", "hit"),
    ]


def test_details_have_all_that_upstream_shows_and_more() -> None:
    """Paths, key, parameters, the first hundred files with sizes and digests; no token."""
    access = an_access(allow_patterns="*.json", token="hf_SECRET")
    rows = dict(overview.rows_of(access, "flow"))
    page = overview.details([access], "flow")

    assert rows["Local path"] == "/tmp/model"
    assert rows["Key"] == KEY
    assert rows["URL"] == f"s3://bucket/{KEY}"
    assert rows["Called as"] == "decorator load"
    assert rows["Commit"] == COMMIT
    assert rows["Cache scope"] == "flow"
    assert rows["Stored on"] == "2026-01-02 03:04:05"
    assert rows["Stored by task"] == "Flow/1/start/2"
    assert json.loads(rows["Parameters"]) == {"allow_patterns": "*.json"}
    assert f"sha256:{99:064x}" in page
    assert f"sha256:{100:064x}" not in page
    assert "and 20 more" in page
    assert "SECRET" not in repr(rows) + page


def test_texts_are_escaped_and_html_has_no_empty_line() -> None:
    """Names and errors cannot add elements, and Markdown does not end the HTML in between."""
    access = started(repo_id="org/<b>x</b>")
    access.fail(ValueError("first\n\n<script>"))

    page = overview.repositories([access], final=True) + overview.details([access], "flow")

    assert "<script>" not in page
    assert "<b>x</b>" not in page
    assert "ValueError: first<br><br>&lt;script&gt;" in page
    assert "\n\n" not in page + overview.heading("Flow/1/start/2", 0, "flow")


def test_the_state_of_all_is_one_line() -> None:
    """What is loading is no "none loaded"; at the end it was interrupted."""
    busy, failed = started(), started()
    failed.fail(ValueError("x"))
    hub = started()
    hub.finish(REFERENCE, False, TransferSummary.of(MANIFEST, None, 1.0, "x", origin=HUB))

    assert overview.state_line([], final=False) == "No repository was requested yet."
    assert overview.state_line([], final=True) == "This task used no repository."
    assert overview.state_line([busy], final=False) == "1 repository: 1 loading."
    assert overview.state_line([busy, an_access(), hub, failed], final=False) == (
        "4 repositories: 1 loading; 2 ready (3.0 MiB): 1 from the datastore, 1 from the Hub; "
        "1 failed."
    )
    assert overview.state_line([busy], final=True) == "1 repository: 1 interrupted."


def test_page_shows_progress_and_at_the_end_a_summary() -> None:
    """A running transfer has a progress bar with the time left; the final page has the chart."""
    card = HubCard(None, "Flow/1/start/2", 1, "checkpoint")
    loading = started()
    loading.origin = DATASTORE
    card.follow([an_access(), loading])
    card.watch(a_transfer(finished=False))

    live, final = content(card.html(final=False)), content(card.html(final=True))

    assert "Task Flow/1/start/2 · attempt 1 · cache scope checkpoint" in live
    assert "10.0 MiB of 20.0 MiB, 1 of 2 files, 2.0 MiB/s, 5 s left" in live
    assert live.count('"type": "progressBar"') == 1
    assert "1 loading" in live
    assert COMMIT in final
    assert "vegaChart" in final
    assert "progressBar" not in final


def test_the_chart_shows_throughput_by_the_time_of_day() -> None:
    """One step per window of equal length, in MiB/s; no chart with too few of them."""
    chart = throughput_chart([a_transfer(finished=True)])

    assert chart is not None
    values = chart["data"]["values"]
    assert {value["rate"] for value in values} <= {1.6, 2.0, 2.4}
    assert values[0]["time"] == 1764550000_000
    assert values[-1]["time"] == 1764550005_000
    assert chart["encoding"]["x"]["type"] == "temporal"
    assert throughput_chart([]) is None
    assert throughput_chart([TransferProgress("x", print)]) is None


def test_the_page_is_hardly_larger_than_metaflows_own() -> None:
    """At most 300 KB for ten repositories with 120 files each and ten charts."""
    from metaflow.plugins.cards.card_modules.basic import BlankCard

    card = HubCard(None, "Flow/1/start/2", 0, "checkpoint")
    card.follow([an_access() for _ in range(10)])
    for _ in range(10):
        card.watch(a_transfer(finished=True))
    task = SimpleNamespace(pathspec="Flow/1/start/2")

    own = len(BlankCard(components=[], options={"title": ""}).render(task))

    assert len(card.html(final=True)) - own <= 300_000


class Provider:
    """Metadata that are registered."""

    def __init__(self) -> None:
        self.registered: list[tuple[Any, ...]] = []

    def register_metadata(self, *arguments: Any) -> None:
        self.registered.append(arguments)


def test_viewers_learn_of_the_card_and_refresh_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`card-info` is registered once, and runtime data replace the components of the page."""
    from metaflow.plugins.datastores.local_storage import LocalStorage

    (tmp_path / ".metaflow").mkdir()
    monkeypatch.chdir(tmp_path)
    flow_datastore = SimpleNamespace(_storage_impl=LocalStorage(str(tmp_path)), flow_name="Flow")
    provider = Provider()
    card = HubCard(flow_datastore, "Flow/1/start/2", 0, "checkpoint", provider)
    accesses = [started()]
    card.follow(accesses)
    transfer = a_transfer(finished=False)
    card.watch(transfer)

    card._update()
    (page,) = tmp_path.rglob("cards/*.html")
    (file,) = tmp_path.rglob("runtime/*.data.json")
    first, first_page = json.loads(file.read_text()), page.read_text()
    transfer(BytesMoved("a", 5 * MIB))
    card._update()
    second = json.loads(file.read_text())
    card._store_page(final=True)
    last = json.loads(file.read_text())

    assert first["reload_token"] in first_page
    assert second["reload_token"] == first["reload_token"]
    assert page.name.replace(".html", ".data.json") == file.name
    assert (first["data"]["hfh-bar-0"]["value"], second["data"]["hfh-bar-0"]["value"]) == (49, 74)
    ids = {part["id"] for part in json.loads(content(first_page))["components"][0]["contents"]}
    assert set(first["data"]) == ids
    assert last["reload_token"] == "final"
    ((run_id, step, task, (datum,)),) = provider.registered
    assert (run_id, step, task, datum.type) == ("1", "start", "2", "card-info")
    assert json.loads(datum.value)["id"] == "huggingface_hub_models"
    assert datum.field in page.name


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
