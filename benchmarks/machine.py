"""What a figure was measured on, in one line."""

import os
import platform
from pathlib import Path

import torch

__all__ = ["machine"]


def machine() -> str:
    """CPU, cores this process may use, threads of torch, versions."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{name}, {cores} cores, {torch.get_num_threads()} threads, {versions}"
