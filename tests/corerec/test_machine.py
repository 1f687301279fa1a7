import os

import pytest

from corerec.machine import Cpus, available_cpus, free_memory

MB = 10**6
V1 = "sys/fs/cgroup/memory"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 64 CPUs and 64 GB: files -> the folder that holds its proc and sys."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def of(files):
        for name, text in ({"proc/meminfo": "MemAvailable:   64000000 kB\n"} | files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return of


V2 = {"proc/self/cgroup": "0::/shop/train\n"}


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 64),
        ({"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        ({"sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 64),
        (V2 | {"sys/fs/cgroup/shop/train/cpu.max": "400000 100000\n"}, 4),
        (
            V2 | {"sys/fs/cgroup/shop/train/cpu.max": "max 100000\n", "sys/fs/cgroup/shop/cpu.max": "300000 100000\n"},
            3,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/docker/ab\n",  # the container sees only its own folder
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
            },
            5,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"proc/self/cgroup": "0::/../../other\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    ],
)
def test_the_quota_of_the_cgroup_bounds_the_cpus(machine, files, count):
    limit = "CPU quota" if count < 64 else ""
    assert available_cpus(machine(files)) == Cpus(count, 64, limit)


def test_the_smaller_of_mask_and_quota_counts(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert available_cpus(machine({})) == Cpus(3, 64, "affinity mask")
    assert available_cpus(machine({"sys/fs/cgroup/cpu.max": "400000 100000"})) == Cpus(3, 64, "affinity mask")
    assert available_cpus(machine({"sys/fs/cgroup/cpu.max": "200000 100000"})) == Cpus(2, 64, "CPU quota")


def test_without_an_affinity_mask_all_cpus_count(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS, Windows
    assert available_cpus(machine({})) == Cpus(64, 64, "")


def test_cpus_read_as_a_sentence():
    assert str(Cpus(1, 1, "")) == "the only CPU"
    assert str(Cpus(8, 8, "")) == "all 8 CPUs"
    assert str(Cpus(2, 64, "CPU quota")) == "2 of 64 CPUs by the CPU quota"


def test_memory_is_that_of_the_machine_without_a_cgroup(machine):
    assert free_memory(machine({})) == 64_000 * MB * 1024 // 1000
    assert free_memory(machine({"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "1"})) > 60_000 * MB


def test_the_tightest_cgroup_bounds_the_memory(machine):
    inner, outer = "sys/fs/cgroup/shop/train", "sys/fs/cgroup/shop"
    files = {
        f"{inner}/memory.max": f"{3000 * MB}\n",
        f"{inner}/memory.current": f"{1000 * MB}\n",
        f"{outer}/memory.max": f"{8000 * MB}\n",
        f"{outer}/memory.current": f"{7500 * MB}\n",
    }
    assert free_memory(machine(V2 | files)) == 500 * MB


def test_cached_files_do_not_count_as_used_memory(machine):
    """Reading a log of 10 GB fills the cgroup with its pages, which the kernel gives back at once."""
    files = {
        "proc/self/cgroup": "4:memory:/\n",
        f"{V1}/memory.limit_in_bytes": f"{4000 * MB}",
        f"{V1}/memory.usage_in_bytes": f"{3900 * MB}",
        f"{V1}/memory.stat": f"cache {3500 * MB}\ntotal_inactive_file {3000 * MB}\ntotal_active_file 5\n",
    }
    assert free_memory(machine(files)) == 3100 * MB


def test_a_system_that_says_nothing_has_no_known_memory(tmp_path):
    assert free_memory(tmp_path) is None


def test_this_machine_has_a_cpu_at_least():
    cpus = available_cpus()
    assert 1 <= cpus.count <= cpus.in_machine
