"""Which module may import which: layers as data, and what `import hftransfer` must not load."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parents[1] / "hftransfer"
_HARNESS = Path(__file__).parents[1] / "perf"

# From the bottom up. A module imports from its own layer and from those below it. Names ending
# in `.*` stand for every module of that package, and the package itself.
_LAYERS: dict[str, tuple[str, ...]] = {
    "values": (
        "_hub_compat",
        "_client",
        "_engine",
        "_core",
        "_io",
        "_http",
        "errors",
        "_core.memory",
        "options",
        "locations",
    ),
    "plans": (
        "_core.plan",
        "_core.byte_range",
        "_core.checksums",
        "_core.digests",
        "_core.manifest",
        "report",
    ),
    "contract": ("_io.file_range", "stores", "stores.base"),
    "primitives": (
        *(
            "_io.thread_batch",
            "_io.buffers",
            "_io.direct_io",
            "_io.partial_file",
            "_engine.concurrency",
            "_io.journal",
        ),
        *(
            "_client.patterns",
            "_core.events",
            "_io.retry",
            "_io.signals",
            "_io.limiter",
            "_io.rate_limit",
        ),
    ),
    "wire": (
        "_http.parser",
        "_http.status",
        "_http.client",
        "_http.aiohttp_client",
        "_http.aiohttp_session",
        "_http.connection",
        "_http.errors",
        "_http.exchange",
        "_http.pool",
        "_http.response_body",
        "_http.loops",
        "_http.rcvlowat",
        "_http.proxy",
        "_http.request_body",
        "_http.settings",
    ),
    "stores": (
        *("stores.hub", "stores.hub.source", "stores.hub.url_guess", "stores.hub.metadata"),
        *("stores.local", "stores.s3"),
        *("stores.null", "stores.local.store", "stores.memory"),
        *(
            "stores.s3.store",
            "stores.s3.account",
            "stores.s3.botocore",
            "stores.s3.checksum_negotiation",
        ),
        *("stores.s3.upload_lock", "stores.s3.copy", "stores.s3.errors", "stores.s3.multipart"),
        *("stores.s3.headers", "stores.s3.hedging", "stores.s3.resume", "stores.s3.listing"),
        *("stores.s3.client", "stores.s3.signing", "stores.s3.put", "stores.s3.xml"),
    ),
    "engine": (
        "_engine.context",
        "_engine.transfer",
        "_engine.scheduler",
        "_engine.file_digest",
        "_engine.joined_crc",
        "_engine.file",
    ),
    "hub cache": (
        *(
            "_hub_compat.cache",
            "_hub_compat.cache_sink",
            "_hub_compat.content",
            "_hub_compat.dry_run",
            "_hub_compat.errors",
        ),
        *(
            "_hub_compat.local_dir",
            "_hub_compat.local_dir_sink",
            "_hub_compat.locked_sink",
            "_io.file_lock",
        ),
        *(
            "_hub_compat.offline",
            "_hub_compat.pinned",
            "_hub_compat.progress",
            "_hub_compat.request",
        ),
    ),
    "api": (
        *(
            "_client.registry",
            "_client.selection",
            "_client.sidecar",
            "_client.copy",
            "_client.verify",
            "_client.server_side_copy",
        ),
        *(
            "_client.client",
            "_hub_compat.session",
            "_hub_compat.sync",
            "_hub_compat.download",
            "aio",
            "sync",
        ),
    ),
    "package": ("", "cli", "__main__"),
    "testing": ("testing.*",),
}

# A third party's package and the only modules that may import it.
_SOLE_IMPORTERS: dict[str, tuple[str, ...]] = {
    "aiohappyeyeballs": ("_http.pool",),
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

# Nothing of this may be in memory before a client is opened.
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


def _name(path: Path) -> str:
    """`stores/s3/store.py` is `stores.s3.store`; the package itself is the empty string."""
    parts = path.relative_to(_PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_MODULES = {_name(path): path for path in sorted(_PACKAGE.rglob("*.py"))}


def _matches(module: str, pattern: str) -> bool:
    package = pattern.removesuffix(".*")
    return module == package or (package != pattern and module.startswith(package + "."))


def _layer(module: str) -> int:
    places = [
        index
        for index, patterns in enumerate(_LAYERS.values())
        if any(_matches(module, pattern) for pattern in patterns)
    ]
    assert len(places) == 1, f"give hftransfer.{module} a place in _LAYERS"
    return places[0]


def _imports(module: str) -> Iterator[tuple[str, int]]:
    """Absolute names that a module imports anywhere in its text, with the line."""
    for node in ast.walk(ast.parse(_MODULES[module].read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_MODULES[module]}:{node.lineno}: imports are absolute here"
            assert node.module is not None
            # `from hftransfer.stores import s3` imports a module, `… import BufferPool` a name.
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = full.removeprefix("hftransfer.") in _MODULES
                yield (full if is_module else node.module), node.lineno


def _own(name: str) -> str | None:
    if name == "hftransfer":
        return ""
    return name.removeprefix("hftransfer.") if name.startswith("hftransfer.") else None


@pytest.mark.parametrize("module", _MODULES)
def test_imports_point_down(module: str) -> None:
    """A module imports nothing of ours from a layer above its own."""
    wrong = [
        f"hftransfer/{_MODULES[module].relative_to(_PACKAGE)}:{line} imports {name}"
        for name, line in _imports(module)
        if (own := _own(name)) is not None and _layer(own) > _layer(module)
    ]

    assert wrong == []


@pytest.mark.parametrize("module", _MODULES)
def test_a_third_party_has_its_only_importers(module: str) -> None:
    """Who replaces aiohttp, botocore or xxhash knows from the table which modules change."""
    wrong = [
        f"hftransfer/{_MODULES[module].relative_to(_PACKAGE)}:{line} imports {name}"
        for name, line in _imports(module)
        if (allowed := _SOLE_IMPORTERS.get(name.partition(".")[0])) is not None
        and not any(_matches(module, pattern) for pattern in allowed)
    ]

    assert wrong == []


def test_every_row_names_a_module_that_exists() -> None:
    """The table describes the package as it is: a renamed module leaves no row behind."""
    patterns = [*(p for row in _LAYERS.values() for p in row)]
    patterns += [p for row in _SOLE_IMPORTERS.values() for p in row]

    assert [p for p in patterns if not any(_matches(m, p) for m in _MODULES)] == []


@pytest.mark.parametrize("path", sorted(_HARNESS.rglob("*.py")), ids=lambda path: path.stem)
def test_the_harness_uses_what_is_public(path: Path) -> None:
    """`perf` measures what users get: no module of ours that begins with an underscore."""
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


def test_importing_the_package_is_light(tmp_path: Path) -> None:
    """`import hftransfer` loads no HTTP client, no AWS library and no huggingface_hub."""
    loaded = _run("import sys, hftransfer; print(*sys.modules)", tmp_path)

    assert "hftransfer" in loaded
    assert sorted(set(_HEAVY) & set(loaded)) == []


@pytest.mark.parametrize(
    ("destination", "other"),
    [("out", "stores.s3."), ("s3://bucket/out", "_client.server_side_copy")],
)
def test_a_copy_loads_only_the_stores_that_it_touches(
    tmp_path: Path, destination: str, other: str
) -> None:
    """To start counts where files are small: what is for the Hub, or more of S3, is not loaded."""
    (tmp_path / "in").write_bytes(b"content")
    code = (
        "import sys\n"
        "from hftransfer.cli import main\n"
        "arguments = ['cp', 'in', sys.argv[1], '--s3-endpoint-url', 'http://127.0.0.1:1']\n"
        "main([*arguments, '--no-sign-request'])\n"
        "print(*sys.modules)\n"
    )

    loaded = _run(code, tmp_path, destination, HFTRANSFER_ATTEMPTS="1")

    unneeded = ("_hub", "_hub_compat.download", "_client.verify", "stores.hub.", other)
    prefixes = tuple(f"hftransfer.{each}" for each in unneeded)
    assert "hftransfer._engine.transfer" in loaded
    assert [name for name in loaded if name.startswith(prefixes)] == []


def test_the_asynchronous_originals_are_an_attribute(tmp_path: Path) -> None:
    """`hftransfer.aio` needs no import of its own."""
    assert _run("import hftransfer; print(hftransfer.aio.copy.__name__)", tmp_path) == ["copy"]


def test_every_exported_name_exists_and_is_light(tmp_path: Path) -> None:
    """`hftransfer.__all__` is sorted, true, and reading all of it loads nothing heavy either."""
    code = (
        "import sys, hftransfer\n"
        "assert list(hftransfer.__all__) == sorted(hftransfer.__all__), 'unsorted'\n"
        "assert len(set(hftransfer.__all__)) == len(hftransfer.__all__), 'twice'\n"
        "for name in hftransfer.__all__:\n"
        # The version is the installed distribution's; test_packaging.py asks for that.
        "    if name != '__version__': getattr(hftransfer, name)\n"
        "print(*sys.modules)\n"
    )

    assert sorted(set(_HEAVY) & set(_run(code, tmp_path))) == []


def test_type_checkers_see_what_is_exported() -> None:
    """The imports that only type checkers run and `__all__` name the same objects."""
    import hftransfer

    for node in ast.parse(_MODULES[""].read_bytes()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            imports = [each for each in node.body if isinstance(each, ast.ImportFrom)]
            break
    seen = {alias.asname or alias.name for each in imports for alias in each.names}

    assert seen | {"__version__"} == set(hftransfer.__all__)


def _public_modules() -> list[str]:
    return [
        module
        for module in _MODULES
        if module and not any(part.startswith("_") for part in module.split("."))
    ]


@pytest.mark.parametrize("module", _public_modules())
def test_a_public_module_declares_what_it_offers(module: str) -> None:
    """A module without a leading underscore has an `__all__`, unless it has no code."""
    body = ast.parse(_MODULES[module].read_bytes()).body
    targets = [
        target.id
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    only_docstring = all(isinstance(node, ast.Expr) for node in body)

    assert "__all__" in targets or only_docstring
