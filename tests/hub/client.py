"""Processes that use the loopback hub: huggingface_hub reads the environment once, so each fetch is one of its own."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from tests.hub.server import Hub
from zoo.registry.card import Card, Weights

CONTENT = bytes(range(256)) * 4096  # 1 MiB
REPOSITORY = "zoo-models/net.a"
FILE = "model.safetensors"
PROGRAM = """
import json, sys
import msgspec
from zoo.errors import ZooError
from zoo.hub.fetch import weights_path
from zoo.registry.card import Card

card = msgspec.json.decode(sys.argv[1], type=Card)
try:
    answer = {"path": str(weights_path(card, revision=json.loads(sys.argv[2])))}
except ZooError as error:
    answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
print(json.dumps(answer))
"""


def card_of(content: bytes = CONTENT, status: str = "published") -> Card:
    """A card whose file has this content."""
    weights = Weights(status=status, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return Card(
        name="net.a", body="", builder="nowhere:net", task="classify", summary="", license="mit", weights=weights
    )


def environment_for(hub: Hub, folder: Path) -> dict[str, str]:
    """This process's environment with the hub in it, a cache of its own, and short patience."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ZOO_", "HUGGING"))}
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_ETAG_TIMEOUT": "3",
        "HF_HUB_DOWNLOAD_TIMEOUT": "2",
    }


def start(
    environment: dict[str, str], card: Card | None = None, revision: str | None = None, **more: str
) -> "subprocess.Popen[str]":
    """A process that fetches a card's file."""
    command = [sys.executable, "-c", PROGRAM, msgspec.json.encode(card or card_of()).decode(), json.dumps(revision)]
    return subprocess.Popen(
        command, env={**environment, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What it found: a path, or the error's parts; and its stderr."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out) | {"stderr": err}


def fetch(
    environment: dict[str, str], card: Card | None = None, revision: str | None = None, **more: str
) -> dict[str, Any]:
    """Both at once."""
    return finish(start(environment, card, revision, **more))


def zoo(environment: dict[str, str], *args: object, **more: str) -> "subprocess.CompletedProcess[str]":
    """The command line."""
    command = [sys.executable, "-m", "zoo", *map(str, args)]
    return subprocess.run(
        command, env={**environment, **more}, capture_output=True, text=True, timeout=300, check=False
    )
