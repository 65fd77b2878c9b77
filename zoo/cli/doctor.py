"""What this installation consists of, and what is wrong with it."""

from typing import Any

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Debug, Json

HIDDEN = ("dev", "docs", "test")  # extras for those who work on zoo itself
PACKAGES = ("torch", "timm", "huggingface-hub", "safetensors", "pillow", "numpy", "typer")


@app.command(rich_help_panel="This installation")
def doctor(json: Json = False, debug: Debug = False) -> None:
    """Explain the installation: versions, devices, cache, network, extras.

    [bold]Examples[/]

    zoo doctor
    zoo doctor --json > installation.json
    """
    facts = _facts()
    if json:
        out.data(facts)
        return
    for room, entries in facts.items():
        out.line(out.style(room, "bold"))
        for key, value in entries.items():
            out.line(f"  {key.ljust(18)} {_words(value)}")


def _facts() -> dict[str, dict[str, Any]]:
    return {
        "versions": _versions(),
        "compute": _compute(),
        "cache": _cache(),
        "network": _network(),
        "extras": _extras(),
    }


def _versions() -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import zoo

    found: dict[str, Any] = {"zoo": zoo.__version__, "python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _compute() -> dict[str, Any]:
    import os

    import torch

    from zoo.tasks.device import pick_device

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": str(pick_device("auto")),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "cpu features": torch.backends.cpu.get_cpu_capability(),
        "1-bit engine": _engine(),
    }


def _engine() -> str:
    """What would run binary layers here, and why."""
    from zoo import settings
    from zoo.kernels.native import NoKernels, load

    if settings.engine() == "float":
        return "float: ZOO_ENGINE asks for it"
    try:
        return f"packed ({load().instructions})"
    except NoKernels as error:
        return f"float: {error}"


def _cache() -> dict[str, Any]:
    import shutil
    from pathlib import Path

    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return {"folder": str(folder), "exists": folder.is_dir(), "free": out.size(shutil.disk_usage(there).free)}


def _network() -> dict[str, Any]:
    from zoo import settings

    return {
        "offline": settings.hub_offline(),
        "endpoint": settings.hub_endpoint(),
        "organisation": settings.hub_org(),
    }


def _extras() -> dict[str, Any]:
    """What of each extra is not installed, by the requirements that this installation came with."""
    import re
    from importlib.metadata import PackageNotFoundError, distribution, requires

    def is_missing(package: str) -> bool:
        try:
            return not distribution(package)
        except PackageNotFoundError:
            return True

    try:
        lines = requires("zoo") or []
    except PackageNotFoundError:
        return {"unknown": "zoo runs from a checkout; pip install -e . makes extras known"}
    packages: dict[str, list[str]] = {}
    for line in lines:
        extra = re.search(r"extra == ['\"]([\w-]+)", line)
        if extra and extra[1] not in HIDDEN:
            packages.setdefault(extra[1], []).append(re.split(r"[^\w.-]", line)[0])
    found = {}
    for extra, names in packages.items():
        missing = [name for name in names if is_missing(name)]
        found[extra] = f"no {', '.join(missing)}: pip install 'zoo[{extra}]'" if missing else "installed"
    return found


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "-" if value is None else str(value)
