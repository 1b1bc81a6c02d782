"""The systems that hftransfer runs on: what Windows is told, and that Linux's own is optional."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hftransfer

_ROOT = Path(hftransfer.__file__).parents[1]
_AS_MACOS = Path(__file__).parent / "support" / "as_macos"


def _python(code: str, *paths: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(map(str, (*paths, _ROOT)))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": search, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def test_windows_is_told_in_one_sentence_that_it_is_not_supported() -> None:
    """At import, instead of a module that is missing somewhere below."""
    result = _python("import sys; sys.platform = 'win32'; import hftransfer")

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ImportError: hftransfer does not support Windows: use it in WSL 2, or on Linux or macOS"
    )


_COPY = """
import os
assert not hasattr(os, "posix_fadvise") and not hasattr(os, "O_DIRECT")
import hftransfer
from pathlib import Path
folder = Path(os.environ["FOLDER"])
Path(folder, "in").mkdir()
for size in (0, 5, 300_000, 20_000_000):
    Path(folder, "in", str(size)).write_bytes(os.urandom(size))
options = hftransfer.TransferOptions(direct_io="on")
report = hftransfer.copy(folder / "in", folder / "out", options=options)
assert report.files == 4
for path in Path(folder, "in").iterdir():
    assert path.read_bytes() == Path(folder, "out", path.name).read_bytes()
"""


def test_a_copy_needs_nothing_that_only_linux_has(tmp_path: Path) -> None:
    """Every use of such a function or constant has an alternative; see also ``tox -e as-macos``."""
    result = _python(_COPY, _AS_MACOS, HFTRANSFER_AS_MACOS="1", FOLDER=str(tmp_path))

    assert result.returncode == 0, result.stderr
