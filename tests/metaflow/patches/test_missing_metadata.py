"""``@checkpoint`` in a task that cannot read the metadata of its run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")
pytest.importorskip("metaflow_extensions.obcheckpoint.plugins")

from metaflow_extensions.hftransfer.plugins.patches import missing_metadata

pytestmark = pytest.mark.metaflow


@pytest.mark.parametrize("tags", [["checkpoint:mine", "other"], ["other"]])
def test_a_special_tag_of_the_task_decides_the_scope(
    tags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without metadata the tags of the command line name it, as those of the run would."""
    from metaflow.client import core as client
    from metaflow.exception import MetaflowNotFound

    import metaflow
    from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import (
        core,
    )

    monkeypatch.setattr(client, "current_namespace", "user:tester")
    monkeypatch.setattr(metaflow.current, "_tags", tags, raising=False)
    is_special = tags[0].startswith("checkpoint:")
    resolver = core.ScopeResolver
    expected = resolver.from_tags(tags) if is_special else resolver.from_namespace()
    lines: list[str] = []

    def unreachable(self: Any) -> Any:
        raise MetaflowNotFound("no such run")

    decorator = SimpleNamespace(_logger=lambda line, **options: lines.append(line))

    assert missing_metadata.resolve_scope(unreachable)(decorator) == expected
    assert bool(lines) == is_special
