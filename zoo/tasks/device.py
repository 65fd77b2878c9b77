"""Where networks run, and in which type: names to torch's."""

import torch

from zoo.errors import UsageError

__all__ = ["pick_device", "pick_dtype"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: There is no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"no device {name!r}", hint="auto, cpu, cuda, cuda:N or mps") from None
    there = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise UsageError(
            f"this machine has no {name}", hint="--device auto takes the best there is; zoo doctor lists them"
        )
    return device


def pick_dtype(name: str) -> torch.dtype:
    """The floating point type of a name.

    Raises:
        UsageError: Not one of ours.
    """
    if name not in DTYPES:
        raise UsageError(f"no dtype {name!r}", hint=", ".join(DTYPES))
    return DTYPES[name]
