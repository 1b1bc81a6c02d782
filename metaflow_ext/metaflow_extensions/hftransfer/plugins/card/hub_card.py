"""The card ``huggingface_hub_models``: what was loaded, and how transfers go.

It is rendered in this process and stored where Metaflow keeps cards, by a thread that the
step never waits for: Metaflow's own way starts a process per update, and two more at the
end of the step. While files move it shows progress and throughput and is renewed every few
seconds; otherwise only when something was loaded.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.card.components import CardComponents, Cards
from metaflow_extensions.hftransfer.plugins.card.storage import CardTask, card_datastore

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.engine.progress import TransferProgress
    from metaflow_extensions.hftransfer.plugins.hub.cache import Access

CARD_ID = "huggingface_hub_models"

_TYPE = "blank"
# Seconds between renewals while files move; the whole page is written every time.
_RENEWAL = 10.0
# The first one sooner, for whoever has just opened the page.
_FIRST = 2.0
# Longest wait, at the end of the task, for the last page to be stored.
_LAST_WAIT = 15.0


class HubCard:
    """The card of one task.

    Parameters
    ----------
    flow_datastore : FlowDataStore
        Of the flow; cards are kept beside its artifacts.
    pathspec : str
        Of the task.
    retry_count : int
        The attempt.
    cache_scope : str
        As given to the decorator.
    """

    def __init__(
        self, flow_datastore: Any, pathspec: str, retry_count: int, cache_scope: str
    ) -> None:
        self._flow_datastore = flow_datastore
        self._pathspec = pathspec
        self._retry_count = retry_count
        self._cache_scope = cache_scope
        self._uuid = uuid.uuid4().hex
        self._accesses: Sequence[Access] = ()
        self._transfers: list[TransferProgress] = []
        self._closing = threading.Event()
        self._is_wanted = False
        self._added: CardComponents | None = None
        self._thread: threading.Thread | None = None

    def follow(self, accesses: Sequence[Access]) -> None:
        """Show what is in `accesses`, a list that grows."""
        self._accesses = accesses

    def watch(self, progress: TransferProgress) -> None:
        """Show this transfer, too."""
        self._transfers.append(progress)

    def offer(self) -> None:
        """Let the step add to the card, by ``current.card``; after all of `task_pre_step`."""
        from metaflow.plugins.cards.component_serializer import ComponentStore

        from metaflow import current

        self._added = CardComponents(ComponentStore(None, card_type=_TYPE), self._want)
        others = getattr(current, "card", None)
        current._update_env({"card": Cards(CARD_ID, self._added, others)})

    def _want(self) -> None:
        self._is_wanted = True

    def start(self) -> None:
        """Begin to render, in the background."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="hftransfer-card")
        self._thread.start()

    def close(self) -> None:
        """Store the final page; waits for that, not for a renewal that was due later."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(_LAST_WAIT)
            self._thread = None

    def _run(self) -> None:
        pause = _FIRST
        # What takes no longer than the first pause needs no picture while it goes on.
        while not self._closing.wait(pause):
            if self._is_wanted or any(not transfer.finished for transfer in self._transfers):
                self._is_wanted = False
                self._store(final=False)
                pause = _RENEWAL
        self._store(final=True)

    def _state(self) -> tuple[int, int]:
        done = sum(transfer.finished for transfer in self._transfers)
        return len(self._accesses), done

    def _store(self, *, final: bool) -> None:
        try:
            page = self.html(final=final)
            flow = self._flow_datastore
            datastore = card_datastore(flow._storage_impl, flow.flow_name, self._pathspec)
            datastore.save_card(self._uuid, _TYPE, page, card_id=CARD_ID, overwrite=True)
        except Exception:  # noqa: BLE001 - a card is never worth a task
            return

    def html(self, *, final: bool) -> str:
        """Return the page."""
        from metaflow.plugins.cards.card_modules.basic import BlankCard

        components = [part.render() for part in self._components()]
        components += [_rendered(part) for part in list(self._added or ())]
        card = BlankCard(components=components, options={"title": "Hugging Face Hub Models"})
        page: str = card.render(CardTask(self._pathspec), runtime=not final)
        token = "final" if final else f"runtime-{self._state()}"
        return page.replace(card.RELOAD_POLICY_TOKEN, token)

    def _components(self) -> list[Any]:
        from metaflow.cards import Markdown

        accesses = list(self._accesses)
        running = [transfer for transfer in self._transfers if not transfer.finished]
        parts = [
            Markdown(
                "# Hugging Face Hub Models \n "
                f"**Task {self._pathspec} [Attempt:{self._retry_count}]**"
            ),
            Markdown(f"**Cache Scope:** `{self._cache_scope}`"),
        ]
        for transfer in running:
            parts += _running(transfer)
        declared = [access for access in accesses if access.mechanism == "decorator load"]
        parts += [Markdown("---"), Markdown("## Models Loaded via Decorator")]
        parts += self._sections(declared) or [
            Markdown("_No models loaded via decorator `load=` parameter_")
        ]
        others = [access for access in accesses if access.mechanism != "decorator load"]
        if others:
            parts += [Markdown("## Models Accessed at Runtime"), *self._sections(others)]
        if chart := throughput_chart(self._transfers):
            from metaflow.cards import VegaChart

            parts += [Markdown("## Throughput"), VegaChart(chart)]
        return parts

    def _sections(self, accesses: Sequence[Access]) -> list[Any]:
        return [part for access in accesses for part in _section(access, self._cache_scope)]


def _rendered(component: Any) -> Any:
    """Return what a component of the step's own shows; one that fails costs only itself."""
    from metaflow.cards import Markdown

    try:
        return component.render()
    except Exception as error:  # noqa: BLE001 - of code that is not ours
        return Markdown(f"_{type(component).__name__}: {type(error).__name__}_").render()


def _running(transfer: TransferProgress) -> list[Any]:
    from metaflow.cards import Markdown, ProgressBar

    from metaflow_extensions.hftransfer.plugins.engine.progress import shown_size

    rate = transfer.moved / max(transfer.seconds, 1e-9)
    percent = round(100 * transfer.moved / transfer.total) if transfer.total else 0
    bar = ProgressBar(
        max=100,
        label=transfer.what,
        value=percent,
        unit="%",
        metadata=f"{shown_size(transfer.moved)} of {shown_size(transfer.total)}, "
        f"{transfer.files_done} of {transfer.files} files, {shown_size(rate)}/s",
    )
    return [Markdown("## Moving now"), bar]


def _section(access: Access, cache_scope: str) -> list[Any]:
    from metaflow.cards import Artifact, Markdown, Table

    def shown(value: Any) -> Any:
        return Artifact(value, compressed=False)

    rows = [[Markdown(f"**{name}**"), shown(value)] for name, value in rows_of(access, cache_scope)]
    title = f"### 🤗 {access.request.repo_id} (`{access.request.repo_type}`)"
    return [Markdown(title), Table(rows), Markdown("---")]


def rows_of(access: Access, cache_scope: str) -> list[tuple[str, Any]]:
    """Return name and value of what the card tells about one access; no credentials."""
    from datetime import datetime

    from metaflow_extensions.hftransfer.plugins.engine.progress import shown_size

    request, reference, moved = access.request, access.reference, access.moved
    record = (reference.get("metadata") or {}).get("hftransfer") or {}
    rows: list[tuple[str, Any]] = [
        ("Calling Mechanism", access.mechanism),
        ("Repo Type", request.repo_type),
        ("Revision", request.revision or "main"),
        ("Commit", record.get("commit") or "not recorded"),
        ("Size", shown_size(int(reference.get("size") or 0))),
        ("Cache Scope", cache_scope),
        ("Cache Status", "✅ Cache Hit" if access.cache_hit else "⬇️ Downloaded from HF Hub"),
        ("Force Download", "Yes" if request.force_download else "No"),
    ]
    if moved is not None:
        rate = moved.fetched / max(moved.seconds, 1e-9)
        rows += [
            ("Files", moved.files),
            ("Moved", f"{shown_size(moved.fetched)} in {moved.seconds:.2f} s"),
            ("Throughput", f"{shown_size(rate)}/s"),
            ("Verified", moved.verified),
        ]
    created = reference.get("created_on")
    if created:
        moment = datetime.fromisoformat(str(created))
        rows.append(("Created On", moment.strftime("%B %d, %Y, %H:%M:%S")))
    rows += [
        ("Cached by Task", reference.get("pathspec", "N/A")),
        ("Remote URL", reference.get("url", "N/A")),
    ]
    if request.arguments:
        rows.append(("HF Hub Parameters", json.dumps(request.arguments)))
    return rows


def throughput_chart(transfers: Sequence[TransferProgress]) -> dict[str, Any] | None:
    """Return a Vega-Lite picture of throughput over time; None if there is nothing to see."""
    values = [
        {"transfer": f"{number}. {transfer.what}", "seconds": seconds, "rate": rate / 1e6}
        for number, transfer in enumerate(transfers, 1)
        for seconds, rate in transfer.rates()
    ]
    if len(values) < 3:
        return None
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": 620,
        "height": 240,
        "data": {"values": values},
        "mark": {"type": "area", "line": True, "opacity": 0.35, "interpolate": "monotone"},
        "encoding": {
            "x": {"field": "seconds", "type": "quantitative", "title": "seconds"},
            "y": {"field": "rate", "type": "quantitative", "title": "MB/s", "stack": None},
            "color": {"field": "transfer", "type": "nominal", "title": None},
        },
    }
