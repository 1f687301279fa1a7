"""The CPUs and the memory that this process may use, given the machine, the process's affinity mask and its cgroup.

A container limits its processes by a cgroup. os.cpu_count and /proc/meminfo tell the numbers of the machine, and ignore
these limits. This module reads both versions of cgroups, and the limits of enclosing cgroups, too.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

ROOT = Path("/")


@dataclass(frozen=True)
class Cpus:
    """The CPUs that this process may use."""

    count: int
    in_machine: int
    limit: Literal["", "affinity mask", "CPU quota"]
    """The reason why `count` is below `in_machine`, if it is."""

    def __str__(self) -> str:
        """Return a text such as "all 8 CPUs" or "2 of 64 CPUs by the CPU quota"."""
        plural = "" if self.in_machine == 1 else "s"
        if not self.limit:
            return f"all {self.in_machine} CPUs" if plural else "the only CPU"
        return f"{self.count} of {self.in_machine} CPU{plural} by the {self.limit}"


def available_cpus(root: Path = ROOT) -> Cpus:
    """Return the number of CPUs that the affinity mask and the cgroup's quota allow. A quota of 1.5 CPUs counts as 2.

    Args:
        root: the folder that holds proc and sys.
    """
    in_machine = os.cpu_count() or 1
    found = Cpus(in_machine, in_machine, "")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else in_machine
    if allowed < found.count:
        found = Cpus(allowed, in_machine, "affinity mask")
    quotas = [quota for folder in _cgroups("cpu", root) if (quota := _cpu_quota(folder)) is not None]
    granted = max(1, math.ceil(min(quotas, default=math.inf))) if quotas else in_machine
    return Cpus(granted, in_machine, "CPU quota") if granted < found.count else found


def free_memory(root: Path = ROOT) -> int | None:
    """Return the bytes of memory that this process may still use, or None if the system does not tell.

    Cached files, which the kernel frees first, do not count as used memory of a cgroup.

    Args:
        root: the folder that holds proc and sys.
    """
    available = re.search(r"MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"))
    found = [int(available[1]) * 1024] if available else []
    for folder in _cgroups("memory", root):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, taken = _number(folder / limit), _number(folder / used)
            if most is not None and taken is not None:
                reclaimable = re.search(rf"^{cache} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
                found.append(max(0, most - taken + (int(reclaimable[1]) if reclaimable else 0)))
    return min(found, default=None)


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of the cgroups that enclose it.

    A container may see the path that its cgroup has on the host. In the container, only the topmost folder exists,
    which is then the container's own.
    """
    mounts = root / "sys/fs/cgroup"
    places = {mounts: "", mounts / controller: ""}
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            places[mounts] = path
        elif controller in controllers.split(","):
            places[mounts / controller] = path
    for mount, path in places.items():
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for depth in range(len(parts), -1, -1):
            folder = mount.joinpath(*parts[:depth])
            if folder.is_dir():
                yield folder


def _cpu_quota(folder: Path) -> float | None:
    """Return the number of CPUs that a cgroup's quota allows, or None without a quota."""
    words = _text(folder / "cpu.max").split()
    if words:
        quota, period = words[0], words[1]
    else:
        quota, period = _text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
