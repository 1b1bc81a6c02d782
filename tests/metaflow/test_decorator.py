"""What the decorator refuses before a flow starts."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("metaflow.decorators")

from metaflow_extensions.hftransfer.plugins.decorator import HuggingfaceHubDecorator
from metaflow_extensions.hftransfer.plugins.engine.load_spec import HuggingfaceHubError

pytestmark = pytest.mark.metaflow


@pytest.mark.parametrize("missing", ["hftransfer", "metaflow_extensions.obcheckpoint"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the engine or metaflow-checkpoint a step says what to install."""
    for name in [*sys.modules]:
        if name == missing or name.startswith(missing + "."):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    decorator = HuggingfaceHubDecorator()

    with pytest.raises(HuggingfaceHubError, match=r'pip install "hftransfer\[metaflow\]"'):
        decorator.step_init(None, None, "start", None, None, None, print)


def test_an_unknown_cache_scope_is_refused() -> None:
    """The message lists the scopes; it is a ValueError, as metaflow-checkpoint's is."""
    decorator = HuggingfaceHubDecorator({"cache_scope": "namespace"})

    with pytest.raises(ValueError, match="checkpoint, flow, global"):
        decorator.step_init(None, None, "start", None, None, None, print)
