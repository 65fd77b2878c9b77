"""What this installation consists of, and what is wrong with it."""

from typing import Any

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Debug, Json

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
    import torch

    from zoo.tasks.decode import cores
    from zoo.tasks.device import pick_device

    return {
        "device": str(pick_device("auto")),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
        "cores": cores(),
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
    from zoo.extras import EXTRAS, missing

    found = {}
    for extra in EXTRAS:
        lacking = missing(extra)
        found[extra] = f"no {', '.join(lacking)}: pip install 'zoo[{extra}]'" if lacking else "installed"
    return found


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "-" if value is None else str(value)
