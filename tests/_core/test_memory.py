"""`hftransfer._core.memory`: limits of the machine and of control groups, read from files."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.memory import available_page_cache, memory_limit


def test_the_smallest_limit_counts(tmp_path: Path) -> None:
    """That of the machine and those of the control group, version 2 and version 1."""
    machine = memory_limit(tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    assert memory_limit(tmp_path) == 1_000_000 < machine

    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("500000")
    assert memory_limit(tmp_path) == 500_000

    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(1 << 62))
    assert memory_limit(tmp_path) == machine


@given(limit=st.integers(0, 1 << 40), used=st.integers(0, 1 << 40), cached=st.integers(0, 1 << 40))
def test_the_page_cache_can_take_what_is_free_or_cached(limit: int, used: int, cached: int) -> None:
    """Pages of the cache can be reclaimed; the result never exceeds any limit."""
    with tempfile.TemporaryDirectory() as folder:
        group = Path(folder)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 5\nfile {cached}\nkernel 7\n")
        meminfo = group / "meminfo"
        meminfo.write_text("MemTotal: 99 kB\nMemAvailable:   2000000 kB\n")

        available = available_page_cache(group, meminfo)

    assert available == min(memory_limit(), limit, 2_000_000 * 1024, max(0, limit - used + cached))
