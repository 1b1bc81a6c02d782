"""Where Metaflow keeps the cards of a task, for cards that are rendered in this process."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any


class CardTask:
    """All that a blank card asks of a task."""

    finished = False

    def __init__(self, pathspec: str) -> None:
        self.pathspec = pathspec


def card_datastore(storage: Any, flow_name: str, pathspec: str) -> Any:
    """Return where Metaflow looks for the cards of the task `pathspec`.

    Parameters
    ----------
    storage : DataStoreStorage
        Of the flow; cards are kept beside its artifacts.
    flow_name, pathspec : str
        The latter with the flow's name.
    """
    from metaflow.plugins.cards.card_datastore import CardDatastore

    storage = copy.copy(storage)
    root = CardDatastore.get_storage_root(storage.TYPE)
    if root is not None:
        storage.datastore_root = root
    place = SimpleNamespace(_storage_impl=storage, flow_name=flow_name)
    return CardDatastore(place, pathspec=pathspec)
