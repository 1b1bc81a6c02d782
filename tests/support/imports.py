"""The imports of a package as a graph, read from its text: what layer tests look at."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

Layers = Sequence[Sequence[str]]
"""From the bottom up: names of folders and modules. A row may import itself and the rows below."""


class ImportGraph:
    """The modules below a folder, and what each imports anywhere in its text.

    Imports inside functions and for type checkers alone count like all others.

    Args:
        folder: of the package.
        package: its dotted name.
    """

    def __init__(self, folder: Path, package: str) -> None:
        self.folder = folder
        self.package = package
        self.modules = {self._name(path): path for path in sorted(folder.rglob("*.py"))}
        """Module names relative to the package, which itself is the empty string, to files."""

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self.folder).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def imports(self, module: str) -> Iterator[tuple[str, int]]:
        """Give the absolute name of each import of `module`, with its line."""
        path = self.modules[module]
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(module, node)
                # `from package import module` imports a module, `from module import name` a name.
                for alias in node.names:
                    full = f"{origin}.{alias.name}"
                    yield (full if self.own(full) in self.modules else origin), node.lineno

    def _origin(self, module: str, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        names = [self.package, *filter(None, module.split("."))]
        if self.modules[module].name != "__init__.py":
            names.pop()
        parents = names[: len(names) - (node.level - 1)]
        return ".".join([*parents, *([node.module] if node.module else [])])

    def own(self, name: str) -> str | None:
        """Return an absolute name relative to the package; None if it is not of this package."""
        if name == self.package:
            return ""
        prefix = self.package + "."
        return name.removeprefix(prefix) if name.startswith(prefix) else None

    def upward(self, layers: Layers, module: str, inside: str = "") -> list[str]:
        """Return the imports of `module` from layers above its own, as messages.

        Args:
            layers: what may import what.
            module: relative to the package.
            inside: the sub-package whose content `layers` describes; others are not looked at.
        """
        level = _level(layers, module, inside)
        return [
            f"{self.modules[module]}:{line} imports {name}"
            for name, line in self.imports(module)
            if (own := self.own(name)) is not None
            and (not inside or own.startswith(inside + "."))
            and _level(layers, own, inside) > level
        ]

    @cached_property
    def cycle(self) -> list[str]:
        """A cycle of imports, if any. The package itself, a table of lazy names, is left out."""
        graph = {
            module: {
                own
                for name, _ in self.imports(module)
                if (own := self.own(name)) and own in self.modules and own != module
            }
            for module in self.modules
            if module
        }
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            return list(error.args[1])
        return []


def _level(layers: Layers, module: str, inside: str) -> int:
    name = module.removeprefix(inside + ".") if inside else module
    found = [index for index, row in enumerate(layers) if name.partition(".")[0] in row]
    assert len(found) == 1, f"give {module} a place in the layers"
    return found[0]
