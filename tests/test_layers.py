"""The layers: which folder may import which, and what `import hftransfer` must not load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.imports import ImportGraph, writing_calls

_ROOT = Path(__file__).parents[1]
_PERF = _ROOT / "perf"

# From the bottom up: folders, and modules directly below `hftransfer`. A module may import from
# its own layer and from the layers below it.
_LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("_core",),
    ("locations", "options", "report"),
    ("_io",),
    ("_http",),
    ("stores",),
    ("_engine",),
    ("_client",),
    ("sync",),
    ("_hub_compat",),
    ("", "aio", "cli", "__main__"),
    ("testing",),
)

# The layers inside `hftransfer.stores`.
_STORES: tuple[tuple[str, ...], ...] = (("base", "names"), ("hub", "local", "memory", "null", "s3"))

# Third-party packages, each with the only modules that may import it.
_SOLE_IMPORTERS: dict[str, tuple[str, ...]] = {
    "aiohappyeyeballs": ("_http.dns", "_http.pool"),
    "aiohttp": ("_http.aiohttp_client", "_http.aiohttp_session", "testing.*"),
    "awscrt": ("_core.checksums",),
    "isal": ("_core.checksums",),
    "aiobotocore": ("stores.s3.botocore",),
    "botocore": ("stores.s3.botocore",),
    "xxhash": ("_core.digests",),
    "metaflow": (),
    "metaflow_extensions": (),
    "perf": (),
}

# Packages that `import hftransfer` must not load.
_HEAVY = (
    "aiobotocore",
    "aiohttp",
    "awscrt",
    "botocore",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "uvloop",
)


_GRAPH = ImportGraph(_ROOT / "hftransfer", "hftransfer")
_STORE_MODULES = [name for name in _GRAPH.modules if name.startswith("stores.")]


def _matches(module: str, pattern: str) -> bool:
    package = pattern.removesuffix(".*")
    return module == package or (package != pattern and module.startswith(package + "."))


@pytest.mark.parametrize("module", _GRAPH.modules)
def test_imports_point_down(module: str) -> None:
    """No module imports a module of a higher layer."""
    assert _GRAPH.upward(_LAYERS, module) == []


@pytest.mark.parametrize("module", _STORE_MODULES)
def test_stores_import_only_the_protocols(module: str) -> None:
    """What the stores share imports no store, and no store imports another store."""
    store = module.split(".")[1]
    others = {name.split(".")[1] for name in _STORE_MODULES} - {store, *_STORES[0]}

    assert _GRAPH.upward(_STORES, module, inside="stores") == []
    assert [
        name
        for name, _ in _GRAPH.imports(module)
        if (own := _GRAPH.own(name)) and own.startswith(tuple(f"stores.{each}" for each in others))
    ] == []


_PLUGINS = _ROOT / "metaflow_ext"
_MAY_NOT_WRITE = [
    path
    for path in [*sorted((_ROOT / "hftransfer").rglob("*.py")), *sorted(_PLUGINS.rglob("*.py"))]
    if path.relative_to(_ROOT).parts[1] not in ("_io", "testing")
]


@pytest.mark.parametrize("path", _MAY_NOT_WRITE, ids=lambda path: str(path.relative_to(_ROOT)))
def test_only_io_opens_files_for_writing(path: Path) -> None:
    """`_io` follows no planted link and publishes by a rename; other modules call it."""
    assert writing_calls(path) == []


def test_calls_that_write_are_found(tmp_path: Path) -> None:
    """The check sees each way of writing a file, and none of the ways of reading one."""
    writing = [
        "open(p, 'w')",
        "open(p, mode='xb')",
        "os.open(p, os.O_RDWR | os.O_CREAT)",
        "os.replace(a, b)",
        "p.write_text('')",
        "p.open('ab')",
        "p.touch()",
        "shutil.copyfile(a, b)",
    ]
    reading = ["open(p)", "open(p, 'rb')", "os.open(p, os.O_RDONLY)", "p.open('rb')", "p.unlink()"]
    module = tmp_path / "module.py"
    module.write_text("\n".join([*writing, *reading, "text.replace(a, b)"]))

    assert [call.partition(" ")[2] for call in writing_calls(module)] == writing


def test_there_are_no_import_cycles() -> None:
    """Imports inside functions and for type checkers count too."""
    assert _GRAPH.cycle == []


@pytest.mark.parametrize("module", _GRAPH.modules)
def test_only_the_listed_modules_import_a_third_party_package(module: str) -> None:
    """The table lists the modules to change when such a package is replaced."""
    wrong = [
        f"{_GRAPH.modules[module]}:{line} imports {name}"
        for name, line in _GRAPH.imports(module)
        if (allowed := _SOLE_IMPORTERS.get(name.partition(".")[0])) is not None
        and not any(_matches(module, pattern) for pattern in allowed)
    ]

    assert wrong == []


def test_every_row_names_an_existing_module() -> None:
    """The tables have every folder and module, and no name that was renamed or removed."""
    tops = {module.partition(".")[0] for module in _GRAPH.modules}
    importers = [pattern for row in _SOLE_IMPORTERS.values() for pattern in row]

    assert {name for row in _LAYERS for name in row} == tops
    assert [p for p in importers if not any(_matches(m, p) for m in _GRAPH.modules)] == []


@pytest.mark.parametrize("path", sorted(_PERF.rglob("*.py")), ids=lambda path: path.stem)
def test_perf_imports_only_public_modules(path: Path) -> None:
    """`perf` measures what users can call: it imports no module with a leading underscore."""
    named = [
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]

    private = [name for name in named if name and name.startswith("hftransfer") and "._" in name]
    assert private == []


def _run(code: str, cwd: Path, *arguments: str, **environ: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.split()


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    """`import hftransfer` loads no HTTP client, no AWS library and no huggingface_hub."""
    loaded = _run("import sys, hftransfer; print(*sys.modules)", tmp_path)

    assert "hftransfer" in loaded
    assert sorted(set(_HEAVY) & set(loaded)) == []


@pytest.mark.parametrize(
    ("destination", "unused"),
    [("out", "stores.s3."), ("s3://bucket/out", "stores.s3.copy")],
)
def test_a_copy_loads_only_the_stores_that_it_touches(
    tmp_path: Path, destination: str, unused: str
) -> None:
    """Modules for the Hub, and those for S3 that are not used, do not delay the start."""
    (tmp_path / "in").write_bytes(b"content")
    code = (
        "import sys\n"
        "from hftransfer.cli import main\n"
        "arguments = ['cp', 'in', sys.argv[1], '--s3-endpoint-url', 'http://127.0.0.1:1']\n"
        "main([*arguments, '--no-sign-request'])\n"
        "print(*sys.modules)\n"
    )

    loaded = _run(code, tmp_path, destination, HFTRANSFER_ATTEMPTS="1")

    unwanted = ("_hub_compat", "_client.verify_files", "stores.hub.", unused)
    prefixes = tuple(f"hftransfer.{each}" for each in unwanted)
    assert "hftransfer._engine.transfer" in loaded
    assert [name for name in loaded if name.startswith(prefixes)] == []


def test_aio_is_an_attribute_of_the_package(tmp_path: Path) -> None:
    """`hftransfer.aio` can be used after `import hftransfer`."""
    assert _run("import hftransfer; print(hftransfer.aio.copy.__name__)", tmp_path) == ["copy"]


def test_every_public_name_exists(tmp_path: Path) -> None:
    """`hftransfer.__all__` is sorted and complete; importing all of it loads nothing heavy."""
    code = (
        "import sys, hftransfer\n"
        "assert list(hftransfer.__all__) == sorted(hftransfer.__all__), 'unsorted'\n"
        "assert len(set(hftransfer.__all__)) == len(hftransfer.__all__), 'twice'\n"
        "for name in hftransfer.__all__:\n"
        # The version needs an installed distribution: scenarios/test_packaging.py tests it.
        "    if name != '__version__': getattr(hftransfer, name)\n"
        "print(*sys.modules)\n"
    )

    assert sorted(set(_HEAVY) & set(_run(code, tmp_path))) == []


def test_type_checkers_see_every_public_name() -> None:
    """The imports under TYPE_CHECKING and `__all__` have the same names."""
    import hftransfer

    for node in ast.parse(_GRAPH.modules[""].read_bytes()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            imports = [each for each in node.body if isinstance(each, ast.ImportFrom)]
            break
    seen = {alias.asname or alias.name for each in imports for alias in each.names}

    assert seen | {"__version__"} == set(hftransfer.__all__)


def _public_modules() -> list[str]:
    return [
        module
        for module in _GRAPH.modules
        if module and not any(part.startswith("_") for part in module.split("."))
    ]


@pytest.mark.parametrize("module", _public_modules())
def test_a_public_module_has_an_all(module: str) -> None:
    """A module without a leading underscore has `__all__`, unless it has no code."""
    body = ast.parse(_GRAPH.modules[module].read_bytes()).body
    targets = [
        target.id
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    only_docstring = all(isinstance(node, ast.Expr) for node in body)

    assert "__all__" in targets or only_docstring
