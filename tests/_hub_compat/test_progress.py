"""Progress bars of downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hftransfer import snapshot_download
from hftransfer.testing import Repo
from support.downloads import REPO, expected


def test_progress_bars_show_files_and_bytes(repo: Repo, tmp_path: Path) -> None:
    """A ``tqdm_class`` makes a bar of files and a bar of bytes; both end at their total."""
    bars: list[Recording] = []

    class Recording:
        def __init__(self, *, desc: str, total: int, **kwargs: Any) -> None:
            self.desc, self.total, self.n = desc, total, 0
            bars.append(self)

        def update(self, n: int) -> None:
            self.n += n

    snapshot_download(REPO, cache_dir=tmp_path, tqdm_class=Recording)

    size = sum(len(content) for content in expected(repo).values())
    assert {bar.desc: (bar.n, bar.total) for bar in bars} == {
        "Fetching 3 files": (3, 3),
        "Downloading bytes": (size, size),
    }
