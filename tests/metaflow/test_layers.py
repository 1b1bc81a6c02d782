"""Which folder of the Metaflow plugins may import which, and that no imports form a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

_EXTENSION = Path(__file__).parents[2] / "metaflow_ext" / "metaflow_extensions" / "hftransfer"
_NAMESPACE = "metaflow_extensions.hftransfer"

# From the bottom up. A module imports from its own folder and from those before it.
_FOLDERS = (
    "config",
    "plugins.engine",
    "plugins.hub",
    "plugins.card",
    "plugins.patches",
    "plugins",
    "toplevel",
)


def _name(path: Path) -> str:
    """`plugins/hub/cache.py` is `plugins.hub.cache`."""
    parts = path.relative_to(_EXTENSION).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_MODULES = {_name(path): path for path in sorted(_EXTENSION.rglob("*.py"))}


def _layer(module: str) -> int:
    folder = module if module in _FOLDERS else module.rpartition(".")[0]
    assert folder in _FOLDERS, f"add {folder} to _FOLDERS"
    return _FOLDERS.index(folder)


def _imports(module: str) -> Iterator[tuple[str, int]]:
    """Modules of the extension that `module` imports, in functions and for types as well."""
    for node in ast.walk(ast.parse(_MODULES[module].read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_MODULES[module]}:{node.lineno}: imports are absolute here"
            # `from …plugins.hub import cache` imports a module, `… import RepoCache` a name.
            names = [
                full if full.removeprefix(f"{_NAMESPACE}.") in _MODULES else str(node.module)
                for full in (f"{node.module}.{alias.name}" for alias in node.names)
            ]
        for name in names:
            if name.startswith(f"{_NAMESPACE}."):
                yield name.removeprefix(f"{_NAMESPACE}."), node.lineno


@pytest.mark.parametrize("module", _MODULES)
def test_imports_point_down(module: str) -> None:
    """A module imports nothing from a folder above its own."""
    wrong = [
        f"{_MODULES[module].relative_to(_EXTENSION)}:{line} imports {name}"
        for name, line in _imports(module)
        if _layer(name) > _layer(module)
    ]

    assert wrong == []


def test_no_imports_form_a_circle() -> None:
    """Not even with imports inside functions and imports for type checkers."""
    graph = {module: {name for name, _ in _imports(module)} for module in _MODULES}
    assert sum(map(len, graph.values())) > len(graph)

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_folder_of_the_list_exists() -> None:
    """The list describes the extension as it is."""
    assert [
        folder for folder in _FOLDERS if not (_EXTENSION / folder.replace(".", "/")).is_dir()
    ] == []
