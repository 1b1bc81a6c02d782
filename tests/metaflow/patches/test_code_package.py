"""What Metaflow packages of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("metaflow.decorators")

from metaflow_extensions.hftransfer.plugins.patches.code_package import (
    without_compiled_files,
    without_unused_modules,
)

pytestmark = pytest.mark.metaflow

FILES = [
    "/site/hftransfer/options.py",
    "/site/hftransfer/__pycache__/options.cpython-311.pyc",
    "/site/hftransfer/testing/__init__.py",
    "/site/hftransfer/testing/hub/server.py",
    "/site/hftransfer/py.typed",
]


def packaged(name: str, files: list[str]) -> list[str]:
    def original(self: Any, name: str, paths: Any) -> Iterator[tuple[str, str]]:
        for file in files:
            yield file, ".mf_code" + file.removeprefix("/site")

    return [path for path, _ in without_unused_modules(original)(None, name, set())]


def test_the_engine_is_packaged_without_compiled_files_and_its_testing_package() -> None:
    """Modules and data stay; those of other packages with such folders, too."""
    others = [file.replace("hftransfer", "other") for file in FILES]

    assert packaged("hftransfer", FILES) == [FILES[0], FILES[-1]]
    assert packaged("other", others) == others


def test_other_extensions_are_packaged_as_they_are() -> None:
    """Only the compiled files of this extension stay out."""
    files = [
        "metaflow_extensions/hftransfer/plugins/__pycache__/decorator.cpython-311.pyc",
        "metaflow_extensions/hftransfer/plugins/decorator.py",
        "metaflow_extensions/other/plugins/__pycache__/decorator.cpython-311.pyc",
    ]

    def original(self: Any) -> Iterator[tuple[str, str]]:
        yield from ((file, file) for file in files)

    assert [path for path, _ in without_compiled_files(original)(None)] == files[1:]
