"""What lies in Hugging Face's cache: found, verified, pruned. The cache is written by huggingface_hub itself."""

import json
import os
import subprocess
import sys

import pytest

from tests.hub.client import CONTENT, card_of
from tests.hub.server import running
from tests.registry.test_names import write_card

REPOSITORIES = [f"zoo-models/{name}" for name in ("net.a", "old.a", "damaged.a", "foreign.a")] + ["others/net.a"]
PROGRAM = """
import json
from pathlib import Path
from huggingface_hub import hf_hub_download
from zoo import settings
from zoo.hub import cache
from zoo.registry.names import load_card

settings.card_folder = lambda: Path({cards!r})
settings.bundled_weights = lambda: Path({bundled!r})
assert cache.cached() == [file for file in cache.cached() if file.place == "bundled"]
assert cache.prune(["net.a"]) == 0
for repository in {repositories!r}:
    path = Path(hf_hub_download(repository, "model.safetensors"))
    if repository == "zoo-models/damaged.a":
        path.resolve().write_bytes(path.read_bytes()[:-1])
states = {{f"{{file.place}} {{file.name}}": state for file, state in cache.verify()}}
only = [file.name for file, _ in cache.verify(["net.a"])]
freed = cache.prune(["net.a", "no such.a"])
left = [file.to_dict() for file in cache.cached()]
print(json.dumps([states, only, freed, left]))
"""


@pytest.fixture
def cards(tmp_path):
    weights = card_of().weights
    for name in ("net.a", "old.a", "damaged.a", "starter.a"):
        content_is_newer = name == "old.a"
        digest = "0" * 64 if content_is_newer else weights.sha256
        write_card(tmp_path / "cards", name, status=f"published, bytes: {weights.bytes}, sha256: '{digest}'")
    (tmp_path / "bundled").mkdir()
    (tmp_path / "bundled" / "starter.a.safetensors").write_bytes(CONTENT)
    return tmp_path


def test_list_verify_prune(cards):
    with running() as hub:
        for repository in REPOSITORIES:
            hub.put(repository, {"model.safetensors": CONTENT})
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ZOO_"))}
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cards / "hf"), "HF_HUB_DISABLE_XET": "1"}
        program = PROGRAM.format(cards=str(cards / "cards"), bundled=str(cards / "bundled"), repositories=REPOSITORIES)
        done = subprocess.run(
            [sys.executable, "-c", program], env=kept | environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    states, only, freed, left = json.loads(done.stdout)
    assert states == {
        "bundled starter.a": "ok",
        "cache net.a": "ok",
        "cache old.a": "unknown",  # intact, of another revision than the card's
        "cache damaged.a": "corrupt",
        "cache foreign.a": "unknown",  # no card
    }
    assert only == ["net.a"]
    assert freed == len(CONTENT)
    assert [file["name"] for file in left] == ["starter.a", "damaged.a", "foreign.a", "old.a"]


def test_a_cache_that_is_no_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for command in (["list"], ["verify"], ["prune", "--all"]):
        done = subprocess.run(
            [sys.executable, "-m", "zoo", "cache", *command],
            env=os.environ | {"HF_HUB_CACHE": str(tmp_path / "file")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith("error: Scan cache expects a directory but found a file")
