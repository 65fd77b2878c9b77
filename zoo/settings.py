"""Every environment variable of ours, read here and nowhere else.

huggingface_hub reads its own: HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN.
"""

import os
import re
from pathlib import Path

from zoo.errors import UsageError

__all__ = [
    "PUBLIC_HUB",
    "bundled_weights",
    "card_folder",
    "data_root",
    "engine",
    "hub_endpoint",
    "hub_offline",
    "hub_org",
    "max_pixels",
    "mirror_token",
    "picture_folder",
    "processes_here",
    "set_hub_endpoint",
    "set_max_pixels",
    "store_token",
]

PACKAGE = Path(__file__).parent
PUBLIC_HUB = "https://huggingface.co"


def hub_org() -> str:
    """Organisation on the Hub that holds our checkpoints (ZOO_HUB_ORG)."""
    return os.environ.get("ZOO_HUB_ORG", "zoo-models")


def hub_offline() -> bool:
    """Whether the network is off limits (HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def hub_endpoint() -> str:
    """Address of the Hub (HF_ENDPOINT), without a slash at its end.

    Raises:
        UsageError: It is no address.
    """
    value = os.environ.get("HF_ENDPOINT") or PUBLIC_HUB
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        raise UsageError(f"the Hub's address is {value!r}", hint="HF_ENDPOINT or --endpoint: https://hub.example.org")
    return value.rstrip("/")


def set_hub_endpoint(address: str) -> None:
    """Another Hub for the rest of this process, and for huggingface_hub if it was not imported yet.

    Raises:
        UsageError: It is no address.
    """
    os.environ["HF_ENDPOINT"] = address
    os.environ["HF_ENDPOINT"] = hub_endpoint()


def mirror_token() -> str | None:
    """What a mirror wants to see before it is written to (ZOO_MIRROR_TOKEN); HF_TOKEN is never sent there."""
    return os.environ.get("ZOO_MIRROR_TOKEN") or None


def store_token() -> str | None:
    """What a vector database wants to see (ZOO_STORE_TOKEN): `user:password`, or a key."""
    return os.environ.get("ZOO_STORE_TOKEN") or None


def data_root() -> Path:
    """Folder that holds data sets by name (ZOO_DATA); recipes and `zoo eval` look there."""
    return Path(os.environ.get("ZOO_DATA") or Path.home() / ".cache" / "zoo" / "data")


def engine() -> str:
    """What runs binary networks: "auto", "float" or "packed" (ZOO_ENGINE).

    Raises:
        UsageError: Another word.
    """
    value = os.environ.get("ZOO_ENGINE", "auto")
    if value not in ("auto", "float", "packed"):
        raise UsageError(f"ZOO_ENGINE is {value!r}", hint="auto, float or packed")
    return value


def max_pixels() -> int:
    """Largest picture that is decoded, in pixels (ZOO_MAX_PIXELS); larger ones are refused as decompression bombs.

    Raises:
        UsageError: Not a positive whole number.
    """
    value = os.environ.get("ZOO_MAX_PIXELS", "178956970")  # Pillow's own limit
    if not value.isdigit() or value == "0":
        raise UsageError(f"ZOO_MAX_PIXELS is {value!r}", hint="a positive whole number of pixels")
    return int(value)


def processes_here() -> int:
    """Processes of this machine that torchrun started to share one job, this one among them; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def set_max_pixels(count: int) -> None:
    """Another limit for the rest of this process and for those it starts."""
    os.environ["ZOO_MAX_PIXELS"] = str(count)


def card_folder() -> Path:
    """Our cards: inside an installed package, beside it in a checkout."""
    inside = PACKAGE / "cards"
    return inside if inside.is_dir() else PACKAGE.parent / "cards"


def picture_folder() -> Path:
    """Two photographs: inside an installed package, among the documentation in a checkout."""
    inside = PACKAGE / "pictures"
    return inside if inside.is_dir() else PACKAGE.parent / "docs" / "pictures"


def bundled_weights() -> Path:
    """Folder of the checkpoints that come with the package."""
    return PACKAGE / "weights"
