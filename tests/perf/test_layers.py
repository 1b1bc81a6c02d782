"""Which folder of `perf` may import which."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.imports import ImportGraph

_GRAPH = ImportGraph(Path(__file__).parents[2] / "perf", "perf")
_ABLATED = "clients.hftransfer_ablated"

# From the bottom up. A folder imports from itself and from the rows above it in this list.
# `clients` contains scripts for other interpreters; `ablation` reads a table from one of them.
_LAYERS = (
    ("clients",),
    ("model",),
    ("report",),
    ("run",),
    ("fixtures", "tools"),
    ("scenarios",),
    ("soak",),
    ("ablation",),
    ("cli",),
    ("", "__main__"),
)


@pytest.mark.parametrize("module", _GRAPH.modules)
def test_imports_point_down(module: str) -> None:
    """No module imports from a folder above its own."""
    assert _GRAPH.upward(_LAYERS, module) == []


def test_no_imports_form_a_cycle() -> None:
    """No chain of imports returns to its first module, also within a folder."""
    assert _GRAPH.cycle == []


def test_the_layers_name_all_folders() -> None:
    """The table names every folder and module of `perf`, and no other."""
    tops = {module.partition(".")[0] for module in _GRAPH.modules}

    assert {name for row in _LAYERS for name in row} == tops


@pytest.mark.parametrize("module", [each for each in _GRAPH.modules if each.startswith("clients.")])
def test_a_client_imports_nothing_of_perf(module: str) -> None:
    """Other interpreters run the clients, and these have no `perf`."""
    assert [name for name, _ in _GRAPH.imports(module) if _GRAPH.own(name) is not None] == []


@pytest.mark.parametrize("module", _GRAPH.modules)
def test_only_the_ablation_names_private_modules(module: str) -> None:
    """`perf` measures the public interface; switching off a controller needs private modules.

    `tests/test_layers.py` checks the imports of all other modules.
    """
    names_private = "hftransfer._" in _GRAPH.modules[module].read_text()

    assert names_private == (module == _ABLATED)
