"""Records of models that are being saved."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from metaflow_extensions.hftransfer.plugins.engine import unfinished_saves
from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess
from support.metaflow_stores import Datastore

pytestmark = pytest.mark.metaflow


def test_a_finished_model_of_a_failed_attempt_stays(datastore: Datastore, tmp_path: Path) -> None:
    """If the model was published after all, only its record is removed."""
    access = DatastoreAccess(datastore.backend)
    key = "mf.models/models/artifacts/label_1"
    unfinished_saves.enter_task("Flow/1/start/1", 0, may_retry=True)
    try:
        with pytest.raises(OSError, match="full"), unfinished_saves.recorded(access, key, [""]):
            datastore.write(f"{key}/a", b"a")
            raise OSError("full")
    finally:
        unfinished_saves.enter_task("Flow/1/start/1", 0, may_retry=False)
    datastore.write("mf.models/models/artifact_metadata/label_1.metadata", b"{}")

    assert unfinished_saves.remove_unfinished(access, "Flow/1/start/1", 0) == []
    assert len(datastore.keys("mf.models/models/unfinished")) == 1
    assert unfinished_saves.remove_unfinished(access, "Flow/1/start/1", 1) == []
    assert datastore.keys("mf.models/models/unfinished") == []
    assert datastore.read(f"{key}/a") == b"a"
