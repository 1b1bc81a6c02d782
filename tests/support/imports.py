"""The imports of a package as a graph, read from its text: what layer tests look at."""

from __future__ import annotations

import ast
import re
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


_WRITING_OS_CALLS = (
    "link",
    "mkfifo",
    "mknod",
    "rename",
    "renames",
    "replace",
    "symlink",
    "truncate",
)
_WRITING_METHODS = ("hardlink_to", "rename", "symlink_to", "touch", "write_bytes", "write_text")
_WRITING_SHUTIL_CALLS = ("copy", "copy2", "copyfile", "copytree", "move")


def writing_calls(path: Path) -> list[str]:
    """Return the calls in a Python file that write files by their path, with their lines.

    Deleting and making folders is not among them: neither follows a link at the path. Nor is
    ``open`` of a descriptor with ``closefd=False``.
    """
    return [
        f"{path.name}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and _writes(node)
    ]


def _writes(call: ast.Call) -> bool:
    function = call.func
    arguments = [ast.unparse(each) for each in call.args]
    if isinstance(function, ast.Name) and function.id == "open":
        named = {each.arg: ast.unparse(each.value) for each in call.keywords}
        mode = named.get("mode", arguments[1] if len(arguments) > 1 else "'r'")
        return named.get("closefd") != "False" and bool(set("wxa+") & set(mode))
    if not isinstance(function, ast.Attribute):
        return False
    name, owner = function.attr, ast.unparse(function.value)
    if owner == "os":
        is_open = name == "open" and re.search("O_(WRONLY|RDWR|CREAT)|flags", " ".join(arguments))
        return bool(is_open) or name in _WRITING_OS_CALLS
    if owner == "shutil":
        return name in _WRITING_SHUTIL_CALLS
    is_path_open = (
        name == "open" and arguments[:1] and re.fullmatch("'[rbt+]*[wxa+][bt+]*'", arguments[0])
    )
    return bool(is_path_open) or name in _WRITING_METHODS
