"""Which folder of the Metaflow plugins may import which, and that no imports form a cycle."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.imports import ImportGraph

_EXTENSION = Path(__file__).parents[2] / "metaflow_ext" / "metaflow_extensions" / "hftransfer"

# From the bottom up: folders, and the modules beside them, which Metaflow imports by name. A
# module imports from its own layer and from those below it.
_LAYERS: tuple[tuple[str, ...], ...] = (
    ("engine",),
    ("hub",),
    ("card",),
    ("patches",),
    ("decorator", "mfextinit_hftransfer", "s3_storage"),
)

_PLUGINS = ImportGraph(_EXTENSION / "plugins", "metaflow_extensions.hftransfer.plugins")
_ALL = ImportGraph(_EXTENSION, "metaflow_extensions.hftransfer")


@pytest.mark.parametrize("module", _PLUGINS.modules)
def test_imports_point_down(module: str) -> None:
    """A module imports nothing from a folder above its own."""
    assert _PLUGINS.upward(_LAYERS, module) == []


def test_only_toplevel_stands_above_the_plugins() -> None:
    """`toplevel` installs the patches; the settings import no plugin, and no plugin `toplevel`."""
    across = {
        (module.partition(".")[0], own.partition(".")[0])
        for module in _ALL.modules
        for name, _ in _ALL.imports(module)
        if (own := _ALL.own(name)) is not None and own.partition(".")[0] != module.partition(".")[0]
    }

    assert across == {("toplevel", "plugins")}


def test_no_imports_form_a_cycle() -> None:
    """Not even with imports inside functions and imports for type checkers."""
    assert _ALL.cycle == []


def test_every_layer_names_what_exists() -> None:
    """The list describes the plugins as they are."""
    names = {module.partition(".")[0] for module in _PLUGINS.modules}

    assert {name for layer in _LAYERS for name in layer} == names
