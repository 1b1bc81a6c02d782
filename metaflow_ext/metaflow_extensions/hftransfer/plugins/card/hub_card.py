"""The card ``huggingface_hub_models``: the repositories, and the progress of transfers.

A thread of this process renders it and stores it where Metaflow keeps cards; the step does
not wait for updates. Metaflow's own code starts a process per update, and two more at the end
of the step. As with Metaflow's cards there are two documents: the page, which is stored when
its layout changes, and the runtime data, with which viewers update the components of an open
page every few seconds. The task's metadata name the card (``card-info``).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.card import overview
from metaflow_extensions.hftransfer.plugins.card.chart import throughput_chart
from metaflow_extensions.hftransfer.plugins.card.components import CardComponents, Cards
from metaflow_extensions.hftransfer.plugins.card.storage import CardTask, card_datastore
from metaflow_extensions.hftransfer.plugins.hub.access import LOADING

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.engine.progress import TransferProgress
    from metaflow_extensions.hftransfer.plugins.hub.access import Access

CARD_ID = "huggingface_hub_models"

_TYPE = "blank"
_OPTIONS = {"title": "Hugging Face Hub Models"}
# Seconds until the first page. A task whose transfers take less needs the final one only.
_FIRST_UPDATE = 1.0
# Seconds between updates of the runtime data, which are a few KiB.
_UPDATE_INTERVAL = 3.0
# Seconds between pages, of 1.1 MB each, if the layout changes often.
_PAGE_INTERVAL = 6.0
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
    metadata : MetadataProvider, optional
        Gets the name of the card, so that viewers show it before the task ends.
    """

    def __init__(
        self,
        flow_datastore: Any,
        pathspec: str,
        retry_count: int,
        cache_scope: str,
        metadata: Any = None,
    ) -> None:
        self._flow_datastore = flow_datastore
        self._pathspec = pathspec
        self._retry_count = retry_count
        self._cache_scope = cache_scope
        self._metadata = metadata
        self._is_registered = False
        self._uuid = uuid.uuid4().hex
        self._reload_key = "runtime-0"
        """Viewers load the page again when the runtime data have another token."""
        self._shown: tuple[object, ...] | None = None
        """The layout of the stored page."""
        self._page_stored = 0.0
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
            if self._is_refreshed or self._layout() != self._shown or self._is_busy:
                self._is_refreshed = False
                self._update()
                pause = _UPDATE_INTERVAL
        self._store_page(final=True)

    @property
    def _is_busy(self) -> bool:
        return any(access.state == LOADING for access in list(self._accesses))

    def _layout(self) -> tuple[object, ...]:
        """Return what changes if the page has other components than the stored one."""
        states = tuple(access.state for access in list(self._accesses))
        has_chart = throughput_chart(list(self._transfers)) is not None
        added = tuple(component.component_id for component in list(self._added or ()))
        return (states, *self._running(), has_chart, added)

    def _update(self) -> None:
        """Store a new page if the layout has changed, and the runtime data in any case."""
        is_due = time.monotonic() - self._page_stored >= _PAGE_INTERVAL
        if self._layout() != self._shown and (is_due or self._shown is None):
            self._store_page(final=False)
        else:
            self._try(lambda: self._save_data(self.rendered(final=False), self._reload_key))

    def _store_page(self, *, final: bool) -> None:
        def store() -> None:
            self._shown, self._page_stored = self._layout(), time.monotonic()
            self._reload_key = "final" if final else f"runtime-{time.time()}"
            components = self.rendered(final=final)
            page = self._page(components, final=final)
            self._datastore().save_card(self._uuid, _TYPE, page, card_id=CARD_ID, overwrite=True)
            self._save_data(components, self._reload_key)
            self._register()

        self._try(store)

    def _save_data(self, components: Sequence[dict[str, Any]], token: str) -> None:
        """Store the runtime data: viewers replace the components with the same ids by these."""
        data = {part["id"]: part for part in components if part.get("id")}
        document = {"reload_token": token, "data": data, "created_on": time.time()}
        self._datastore().save_data(self._uuid, _TYPE, document, card_id=CARD_ID)

    def _register(self) -> None:
        """Name the card in the task's metadata, once."""
        if self._metadata is None or self._is_registered:
            return
        from metaflow.plugins.cards.metadata import _save_metadata

        self._is_registered = True
        _, run_id, step_name, task_id = self._pathspec.split("/")
        about = {
            "card_uuid": self._uuid,
            "rank": None,
            "type": _TYPE,
            "options": _OPTIONS,
            "is_editable": True,
            "is_runtime_card": True,
            "refresh_interval": _UPDATE_INTERVAL,
            "customize": False,
            "id": CARD_ID,
        }
        attempt = self._retry_count
        _save_metadata(self._metadata, run_id, step_name, task_id, attempt, self._uuid, about)

    def _datastore(self) -> Any:
        flow = self._flow_datastore
        return card_datastore(flow._storage_impl, flow.flow_name, self._pathspec)

    def _try(self, store: Callable[[], None]) -> None:
        try:
            store()
        except Exception:  # noqa: BLE001 - a card must not fail its task
            return

    def html(self, *, final: bool) -> str:
        """Return the page as HTML; the final one is not reloaded by the browser."""
        return self._page(self.rendered(final=final), final=final)

    def _page(self, components: Sequence[dict[str, Any]], *, final: bool) -> str:
        from metaflow.plugins.cards.card_modules.basic import BlankCard

        card = BlankCard(components=list(components), options=_OPTIONS)
        page: str = card.render(CardTask(self._pathspec), runtime=not final)
        return page.replace(card.RELOAD_POLICY_TOKEN, self._reload_key)

    def rendered(self, *, final: bool) -> list[dict[str, Any]]:
        """Return the components, each as Metaflow stores it, with an id if it can be updated."""
        parts = [_rendered(part, name) for name, part in self._components(final=final)]
        return parts + [_rendered(part) for part in list(self._added or ())]

    def _running(self) -> list[int]:
        """Return the indices of the transfers under way whose size is known."""
        transfers = list(self._transfers)
        return [i for i, transfer in enumerate(transfers) if _is_running(transfer)]

    def _components(self, *, final: bool) -> list[tuple[str, Any]]:
        """Return pairs of an id and a component."""
        from metaflow.cards import Markdown, VegaChart

        accesses, transfers = list(self._accesses), list(self._transfers)
        heading = overview.heading(self._pathspec, self._retry_count, self._cache_scope)
        parts: list[tuple[str, Any]] = [
            ("hfh-heading", Markdown(heading)),
            ("hfh-repositories", Markdown(overview.repositories(accesses, final=final))),
        ]
        if not final:
            parts += [(f"hfh-bar-{i}", _bar(transfers[i])) for i in self._running()]
        if chart := throughput_chart(transfers):
            parts += [
                ("hfh-chart-title", Markdown("### Throughput")),
                ("hfh-chart", VegaChart(chart)),
            ]
        if accesses:
            parts += [
                ("hfh-details-title", Markdown("### Details")),
                ("hfh-details", Markdown(overview.details(accesses, self._cache_scope))),
            ]
        return parts


def _is_running(transfer: TransferProgress) -> bool:
    return not transfer.finished and transfer.files > 0


def _rendered(component: Any, component_id: str | None = None) -> Any:
    """Render a component; one of the step that fails shows its error, and the others stay."""
    from metaflow.cards import Markdown

    if component_id is not None:
        component.component_id = component_id
    try:
        return component.render()
    except Exception as error:  # noqa: BLE001 - the component is the user's code
        return Markdown(f"_{type(component).__name__}: {type(error).__name__}_").render()


def _bar(transfer: TransferProgress) -> Any:
    from metaflow.cards import ProgressBar

    from hftransfer._core.units import format_size

    percent = int(100 * transfer.moved / transfer.total) if transfer.total else 0
    return ProgressBar(
        max=100,
        label=transfer.what,
        value=max(0, min(percent, 100)),
        unit="%",
        metadata=f"{format_size(max(transfer.moved, 0))} of {transfer.figures()}",
    )
