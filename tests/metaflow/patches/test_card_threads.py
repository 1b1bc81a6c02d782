"""The card threads of ``@checkpoint`` and ``@model`` end when their step ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

pytestmark = pytest.mark.metaflow


@pytest.mark.parametrize("name", ["CheckpointsCollector", "ModelsCollector"])
def test_a_thread_ends_in_the_middle_of_its_pause(name: str) -> None:
    """`stop` does not wait for the end of a pause of one hour."""
    import metaflow  # noqa: F401 - metaflow-checkpoint cannot be imported before it
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
        decorator as checkpoints,
    )
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.modeling_utils import (
        decorator as models,
    )

    started = threading.Event()
    refresher = SimpleNamespace(CARD_ID="card", on_startup=lambda card: started.set())
    collector = getattr(checkpoints, name, None) or getattr(models, name)
    thread = collector(refresher, interval=3600)
    thread.current = SimpleNamespace(card={"card": None})
    thread.collect = list
    thread.start()
    assert started.wait(30)

    thread.stop()  # joins the thread

    assert not thread.is_alive()
