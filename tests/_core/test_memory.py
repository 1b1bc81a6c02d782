"""`hftransfer._core.memory`: limits of the machine and of control groups, read from files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.memory import available_page_cache, memory_limit

_MIB = 1 << 20
_UNLIMITED = str(9223372036854771712)  # version 1: the largest multiple of a page
_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
_V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"


def _machine(
    root: Path, *, cgroup: str, mounts: str, files: dict[str, str], limits: str = "unlimited"
) -> Path:
    """Make the files of ``/proc`` and ``/sys`` below `root`, and return it."""
    described = f"Max address space         {limits:<20} unlimited            bytes\n"
    made = {
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": mounts,
        "proc/self/limits": f"Limit   Soft Limit   Hard Limit   Units\n{described}",
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }
    for name, text in made.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files"),
    [
        pytest.param(
            "0::/user.slice/user-1000.slice/run-7.scope\n",
            _V2,
            {
                "user.slice/user-1000.slice/memory.max": f"{300 * _MIB}\n",
                "user.slice/user-1000.slice/run-7.scope/memory.max": "max\n",
                "user.slice/memory.max": f"{900 * _MIB}\n",
            },
            id="slice-of-systemd",
        ),
        pytest.param(
            "0::/user.slice/run-7.scope\n",
            _V2,
            {
                "user.slice/run-7.scope/memory.max": f"{900 * _MIB}\n",
                "user.slice/run-7.scope/memory.high": f"{300 * _MIB}\n",
            },
            id="soft-limit",
        ),
        pytest.param(
            "9:memory:/slurm/uid_7/job_42/step_0\n1:name=systemd:/\n",
            _V1,
            {
                "memory/memory.limit_in_bytes": _UNLIMITED,
                "memory/slurm/uid_7/memory.limit_in_bytes": _UNLIMITED,
                "memory/slurm/uid_7/job_42/memory.limit_in_bytes": f"{300 * _MIB}",
                "memory/slurm/uid_7/job_42/step_0/memory.limit_in_bytes": f"{400 * _MIB}",
            },
            id="job-of-slurm",
        ),
        pytest.param(
            "9:memory:/docker/0a1b\n0::/system.slice\n",
            "35 31 0:32 /docker/0a1b /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
            "36 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            {"memory/memory.limit_in_bytes": f"{300 * _MIB}", "unified/cgroup.procs": "1\n"},
            id="container-without-namespace",
        ),
        pytest.param(
            "0::/\n",
            _V2,
            {"memory.max": f"{300 * _MIB}\n", "memory.current": "1\n"},
            id="container-with-namespace",
        ),
        pytest.param(
            "0::/../../outside\n",
            _V2,
            {"memory.max": f"{300 * _MIB}\n"},
            id="outside-the-namespace",
        ),
        pytest.param(
            "4:cpu,memory:/a b\n",
            "35 31 0:32 / /sys/fs/cgroup/cpu\\040mem rw - cgroup cgroup rw,cpu,memory\n",
            {"cpu mem/a b/memory.limit_in_bytes": f"{300 * _MIB}"},
            id="blanks-in-names",
        ),
    ],
)
def test_limits_of_all_groups_above_the_process_apply(
    tmp_path: Path, cgroup: str, mounts: str, files: dict[str, str]
) -> None:
    """Versions 1 and 2; the limit may be that of any level, and the smallest one counts."""
    root = _machine(tmp_path, cgroup=cgroup, mounts=mounts, files=files)

    assert memory_limit(root) == 300 * _MIB


def test_groups_of_other_processes_do_not_count(tmp_path: Path) -> None:
    """A limit of the root or of a sibling is not ours."""
    files = {
        "memory.max": f"{900 * _MIB}",
        "mine/memory.max": f"{800 * _MIB}",
        "other/memory.max": f"{_MIB}",
        "mine/child/memory.max": f"{_MIB}",
    }
    root = _machine(tmp_path, cgroup="0::/mine\n", mounts=_V2, files=files)

    assert memory_limit(root) == 800 * _MIB


def test_a_machine_without_groups_has_its_own_memory(tmp_path: Path) -> None:
    """No file, an unreadable one or "max" is no limit."""
    assert memory_limit(tmp_path) == memory_limit(tmp_path / "absent") > 0
    root = _machine(tmp_path, cgroup="0::/x\n", mounts=_V2, files={"x/memory.max": "max\n"})
    assert memory_limit(root) == memory_limit(tmp_path / "absent")


def test_the_address_space_is_a_limit(tmp_path: Path) -> None:
    """``ulimit -v``, which batch systems set."""
    root = _machine(tmp_path, cgroup="", mounts="", files={}, limits=str(200 * _MIB))

    assert memory_limit(root) == 200 * _MIB


@given(limit=st.integers(0, 1 << 40), used=st.integers(0, 1 << 40), cached=st.integers(0, 1 << 40))
@pytest.mark.parametrize("version", [1, 2])
def test_the_page_cache_can_take_what_is_free_or_cached(
    version: int, limit: int, used: int, cached: int
) -> None:
    """Pages of the cache can be reclaimed; the result never exceeds any limit."""
    with tempfile.TemporaryDirectory() as folder:
        if version == 2:
            cgroup, mounts = "0::/job/step\n", _V2
            files = {
                "job/memory.max": f"{limit}\n",
                "job/memory.current": f"{used}\n",
                "job/memory.stat": f"anon 5\nfile {cached}\nkernel 7\n",
            }
        else:
            cgroup, mounts = "4:memory:/job/step\n", _V1
            files = {
                "memory/job/memory.limit_in_bytes": f"{limit}\n",
                "memory/job/memory.usage_in_bytes": f"{used}\n",
                "memory/job/memory.stat": f"cache 1\nrss 3\ntotal_cache {cached}\n",
            }
        root = _machine(Path(folder), cgroup=cgroup, mounts=mounts, files=files)
        (root / "proc/meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   2000000 kB\n")

        available = available_page_cache(root)

    assert available == min(memory_limit(), limit, 2_000_000 * 1024, max(0, limit - used + cached))
