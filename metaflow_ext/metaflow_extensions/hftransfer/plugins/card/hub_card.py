"""The card ``huggingface_hub_models``: the repositories, and the progress of transfers.

A thread of this process renders it and stores it where Metaflow keeps cards; the step does
not wait for updates. Metaflow's own code starts a process per update, and two more at the end
of the step. During a transfer the card shows progress and throughput, and is updated every
few seconds.
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
# Seconds between updates during a transfer; each of them writes the whole page.
_UPDATE_INTERVAL = 10.0
# Seconds until the first update. A transfer that takes less needs no progress bar.
_FIRST_UPDATE = 2.0
# Seconds that the end of the task waits for the last page to be stored.
_MAX_FINAL_WAIT = 15.0


class HubCard:
    """The card of one task.

    The card's thread reads `_accesses` and `_transfers`; the threads of the step only append
    to them, so there is no lock.

    Parameters
    ----------
    flow_datastore : FlowDataStore
        The flow's; cards are stored beside its artifacts.
    pathspec : str
        ``flow/run/step/task``.
    retry_count : int
        The attempt, counted from 0.
    cache_scope : str
        ``checkpoint``, ``flow`` or ``global``.
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
        self._is_refreshed = False
        """True if the step has refreshed the card since the last update."""
        self._added: CardComponents | None = None
        self._thread: threading.Thread | None = None

    def follow(self, accesses: Sequence[Access]) -> None:
        """Show the items of `accesses`, a list to which the cache appends."""
        self._accesses = accesses

    def watch(self, progress: TransferProgress) -> None:
        """Show this transfer as well."""
        self._transfers.append(progress)

    def attach_to_current(self) -> None:
        """Let the step add components by ``current.card``.

        Called after `task_pre_step` of all decorators, so that the user's cards are known.
        """
        from metaflow.plugins.cards.component_serializer import ComponentStore

        from metaflow import current

        self._added = CardComponents(ComponentStore(None, card_type=_TYPE), self._request_update)
        others = getattr(current, "card", None)
        current._update_env({"card": Cards(CARD_ID, self._added, others)})

    def _request_update(self) -> None:
        self._is_refreshed = True

    def start(self) -> None:
        """Begin to update the card in the background."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="hftransfer-card")
        self._thread.start()

    def close(self) -> None:
        """Store the final page now, and end the updates; wait up to 15 seconds for that."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(_MAX_FINAL_WAIT)
            self._thread = None

    def _run(self) -> None:
        pause = _FIRST_UPDATE
        while not self._closing.wait(pause):
            if self._is_refreshed or any(not transfer.finished for transfer in self._transfers):
                self._is_refreshed = False
                self._store(final=False)
                pause = _UPDATE_INTERVAL
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
        except Exception:  # noqa: BLE001 - a card must not fail its task
            return

    def html(self, *, final: bool) -> str:
        """Return the page as HTML; the final one is not reloaded by the browser."""
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
    """Render a component of the step; one that fails shows its error, and the others stay."""
    from metaflow.cards import Markdown

    try:
        return component.render()
    except Exception as error:  # noqa: BLE001 - the component is the user's code
        return Markdown(f"_{type(component).__name__}: {type(error).__name__}_").render()


def _running(transfer: TransferProgress) -> list[Any]:
    from metaflow.cards import Markdown, ProgressBar

    from hftransfer._core.units import format_size

    rate = transfer.moved / max(transfer.seconds, 1e-9)
    percent = round(100 * transfer.moved / transfer.total) if transfer.total else 0
    bar = ProgressBar(
        max=100,
        label=transfer.what,
        value=percent,
        unit="%",
        metadata=f"{format_size(transfer.moved)} of {format_size(transfer.total)}, "
        f"{transfer.files_done} of {transfer.files} files, {format_size(rate)}/s",
    )
    return [Markdown("## Transfers in Progress"), bar]


def _section(access: Access, cache_scope: str) -> list[Any]:
    from metaflow.cards import Artifact, Markdown, Table

    def shown(value: Any) -> Any:
        return Artifact(value, compressed=False)

    rows = [[Markdown(f"**{name}**"), shown(value)] for name, value in rows_of(access, cache_scope)]
    title = f"### 🤗 {access.request.repo_id} (`{access.request.repo_type}`)"
    return [Markdown(title), Table(rows), Markdown("---")]


def rows_of(access: Access, cache_scope: str) -> list[tuple[str, Any]]:
    """Return the rows of the card's table for one access: names and values.

    No value contains credentials.
    """
    from datetime import datetime

    from hftransfer._core.units import format_size

    request, reference, summary = access.request, access.reference, access.summary
    record = (reference.get("metadata") or {}).get("hftransfer") or {}
    rows: list[tuple[str, Any]] = [
        ("Calling Mechanism", access.mechanism),
        ("Repo Type", request.repo_type),
        ("Revision", request.revision or "main"),
        ("Commit", record.get("commit") or "not recorded"),
        ("Size", format_size(int(reference.get("size") or 0))),
        ("Cache Scope", cache_scope),
        ("Cache Status", "✅ Cache Hit" if access.cache_hit else "⬇️ Downloaded from HF Hub"),
        ("Force Download", "Yes" if request.force_download else "No"),
    ]
    if summary is not None:
        rate = summary.fetched / max(summary.seconds, 1e-9)
        rows += [
            ("Files", summary.files),
            ("Transferred", f"{format_size(summary.fetched)} in {summary.seconds:.2f} s"),
            ("Throughput", f"{format_size(rate)}/s"),
            ("Verified", summary.verified),
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
    """Return a Vega-Lite chart of throughput over time; None with fewer than three samples."""
    from hftransfer._core.units import MIB

    values = [
        {"transfer": f"{number}. {transfer.what}", "seconds": seconds, "rate": rate / MIB}
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
            "y": {"field": "rate", "type": "quantitative", "title": "MiB/s", "stack": None},
            "color": {"field": "transfer", "type": "nominal", "title": None},
        },
    }
