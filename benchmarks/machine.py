"""Describe the conditions of a measurement: the machine, the versions and the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata

import torch


def describe() -> dict[str, str | int]:
    """Processor, cores, threads, device, versions and commit, for a result's JSON."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "corerec": metadata.version("corerec-bert4rec"),
        "commit": commit.stdout.strip(),
    }


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.readlines()
    except OSError:
        return []
