"""Where Metaflow keeps the cards of a task, for cards that are rendered in this process."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any


class CardTask:
    """Stands in for a Metaflow `Task`, of which a blank card reads two attributes."""

    finished = False

    def __init__(self, pathspec: str) -> None:
        self.pathspec = pathspec


def card_datastore(storage: Any, flow_name: str, pathspec: str) -> Any:
    """Return the `CardDatastore` of a task.

    Parameters
    ----------
    storage : DataStoreStorage
        The backend of the flow's datastore; cards are stored beside the artifacts.
    flow_name : str
    pathspec : str
        ``flow/run/step/task``.
    """
    from metaflow.plugins.cards.card_datastore import CardDatastore

    storage = copy.copy(storage)
    root = CardDatastore.get_storage_root(storage.TYPE)
    if root is not None:
        storage.datastore_root = root
    flow_datastore = SimpleNamespace(_storage_impl=storage, flow_name=flow_name)
    return CardDatastore(flow_datastore, pathspec=pathspec)
