"""What a figure was measured on, in one line."""

import platform
from pathlib import Path

import torch

from zoo.tasks.decode import cores

__all__ = ["machine"]


def machine(device: torch.device | None = None) -> str:
    """The GPU, or by default the processor with the cores that may be used and torch's threads; versions."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    if device and device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {versions}"
    return f"{_processor()}, {cores()} cores, {torch.get_num_threads()} threads, {versions}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    named = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in named if "model name" in line), platform.machine())
