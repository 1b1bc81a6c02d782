"""``current.card["huggingface_hub_models"]``: the components that a step adds to the card.

metaflow-checkpoint attaches a ``@card`` with that id to the step, so its users can append to
it. This extension attaches none, because every ``@card`` costs processes and seconds.
Instead `Cards` adds one card to those of the user's own ``@card`` decorators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class CardComponents:
    """The components of one card, with the interface of Metaflow's own manager.

    Parameters
    ----------
    store : ComponentStore
        Metaflow's list, and dict, of components.
    on_refresh : callable
        Called when the step refreshes the card.
    """

    def __init__(self, store: Any, on_refresh: Callable[[], None]) -> None:
        self.components = store
        self._on_refresh = on_refresh

    def append(self, component: Any, id: str | None = None) -> None:  # noqa: A002 - Metaflow's name
        self.components.append(component, id=id)

    def extend(self, components: Any) -> None:
        self.components.extend(components)

    def clear(self) -> None:
        self.components.clear()

    def refresh(self, data: Any = None, force: bool = False) -> None:
        self._on_refresh()

    def replace(self, components: Any) -> None:
        """Replace all components."""
        found = list(components)
        self.components.clear()
        self.components.extend(found)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.components)


class Cards:
    """``current.card`` of a step: the user's cards, and one more.

    Parameters
    ----------
    card_id : str
        The id of the additional card.
    components : CardComponents
        Its components. It is the default card if the user has none.
    others : CardComponentCollector, optional
        Metaflow's collector of the user's cards.
    """

    def __init__(self, card_id: str, components: CardComponents, others: Any = None) -> None:
        self._card_id = card_id
        self._own = components
        self._others = others

    def __getitem__(self, key: str) -> Any:
        if key == self._card_id:
            return self._own
        return [] if self._others is None else self._others[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key == self._card_id:
            self._own.replace(value)
        elif self._others is not None:
            self._others[key] = value

    def get(self, type: str | None = None) -> list[Any]:  # noqa: A002 - Metaflow's name
        """Return the components of each card of a type."""
        found = [] if self._others is None else list(self._others.get(type=type))
        return [*found, self._own] if type == "blank" else found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own if self._others is None else self._others, name)
