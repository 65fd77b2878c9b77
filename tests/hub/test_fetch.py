"""Fetching from a real server on the loopback. Each fetch is a process: huggingface_hub reads the environment once."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.hub.server import commit_of, running
from zoo import settings
from zoo.errors import IntegrityError, UsageError, WeightsUnavailable
from zoo.hub.fetch import weights_path
from zoo.registry.card import Card, Weights
from zoo.registry.names import load_card

CONTENT = bytes(range(256)) * 4096  # 1 MiB
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
    weights = Weights(status=status, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return Card(
        name="net.a", body="", builder="nowhere:net", task="classify", summary="", license="mit", weights=weights
    )


@pytest.fixture
def hub():
    with running() as hub:
        hub.files["zoo-models/net.a/model.safetensors"] = CONTENT
        yield hub


@pytest.fixture
def environment(hub, tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ZOO_", "HUGGING"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": "5",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }


def start(environment, card=None, revision=None, **more):
    command = [sys.executable, "-c", PROGRAM, msgspec.json.encode(card or card_of()).decode(), json.dumps(revision)]
    return subprocess.Popen(
        command, env={**environment, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out) | {"stderr": err}


def fetch(environment, card=None, revision=None, **more):
    return finish(start(environment, card, revision, **more))


def test_a_file_is_fetched_once_and_then_needs_no_network(hub, environment):
    first = fetch(environment)
    assert Path(first["path"]).read_bytes() == CONTENT
    assert len(hub.gets()) == 1
    asked = len(hub.requests)
    assert fetch(environment)["path"] == first["path"]
    assert fetch(environment, HF_HUB_OFFLINE="1")["path"] == first["path"]
    assert len(hub.requests) == asked


def test_the_organisation_is_a_setting(hub, environment):
    hub.files["elsewhere/net.a/model.safetensors"] = CONTENT
    fetch(environment, ZOO_HUB_ORG="elsewhere")
    assert {path.split("/")[1] for _, path, _ in hub.requests if "resolve" in path} == {"elsewhere"}


def test_a_revision_is_passed_on(hub, environment):
    commit = commit_of("zoo-models/net.a")
    assert "path" in fetch(environment, revision=commit)
    assert all(f"/resolve/{commit}/" in path for _, path, _ in hub.requests if "resolve" in path)
    missing = fetch(environment, revision="nowhere")
    assert (missing["error"], missing["exit_code"]) == ("WeightsUnavailable", 3)
    assert "no such revision" in missing["message"]


def test_a_download_that_breaks_off_resumes(hub, environment):
    content = CONTENT * 14
    hub.files["zoo-models/net.a/model.safetensors"] = content
    hub.cut = 12 * 2**20  # huggingface_hub writes down 10 MiB at a time
    answer = fetch(environment, card_of(content))
    assert Path(answer["path"]).read_bytes() == content
    assert hub.gets() == [None, f"bytes={10 * 2**20}-"]


def test_two_processes_at_once(hub, environment):
    answers = [finish(process) for process in [start(environment), start(environment)]]
    assert answers[0]["path"] == answers[1]["path"]
    assert Path(answers[0]["path"]).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: b"", lambda data: data[:500] + b"\0" + data[501:]],
    ids=["cut", "empty", "one byte"],
)
def test_a_damaged_cached_file_is_named_and_fetched_again(hub, environment, damage):
    path = Path(fetch(environment)["path"])
    path.resolve().write_bytes(damage(CONTENT))
    second = fetch(environment)
    assert Path(second["path"]).read_bytes() == CONTENT
    assert str(path) in second["stderr"]
    assert "fetching it again" in second["stderr"]
    assert len(hub.gets()) == 2


def test_a_damaged_cached_file_offline_is_an_integrity_error(hub, environment):
    path = Path(fetch(environment)["path"])
    path.resolve().write_bytes(CONTENT[:-1])
    answer = fetch(environment, HF_HUB_OFFLINE="1")
    assert (answer["error"], answer["exit_code"]) == ("IntegrityError", 4)
    assert str(path) in answer["message"]
    assert "HF_HUB_OFFLINE" in answer["message"]


def test_a_download_damaged_on_its_way_is_fetched_again(hub, environment):
    hub.lies = 1
    answer = fetch(environment)
    assert Path(answer["path"]).read_bytes() == CONTENT
    assert len(hub.gets()) == 2


def test_another_file_than_the_cards_is_refused(hub, environment):
    hub.files["zoo-models/net.a/model.safetensors"] = CONTENT[::-1]
    answer = fetch(environment)
    assert (answer["error"], answer["exit_code"]) == ("IntegrityError", 4)
    assert "sha256" in answer["message"]
    assert len(hub.gets()) == 2  # once, and once more to be sure


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((404, "RepoNotFound"), "no repository zoo-models/net.a"),
        ((401, "RepoNotFound"), "no repository zoo-models/net.a"),
        ((404, "EntryNotFound"), "has no model.safetensors"),
        ((403, "GatedRepo"), "is gated"),
        pytest.param((500, ""), "answered 500", marks=pytest.mark.slow),  # huggingface_hub asks six times
    ],
    ids=["no repository", "no rights", "no file", "gated", "server fault"],
)
def test_what_the_hub_refuses(hub, environment, refusal, said):
    hub.refusal = refusal
    answer = fetch(environment)
    assert (answer["error"], answer["exit_code"]) == ("WeightsUnavailable", 3)
    assert said in answer["message"]
    assert answer["hint"]
    assert "\n" not in answer["message"]


def test_offline_without_the_file(environment):
    answer = fetch(environment, HF_HUB_OFFLINE="1")
    assert (answer["error"], answer["exit_code"]) == ("WeightsUnavailable", 3)
    assert "HF_HUB_OFFLINE" in answer["message"]


@pytest.mark.slow  # huggingface_hub tries six times
def test_nobody_answers(environment):
    answer = fetch(environment, HF_ENDPOINT="http://127.0.0.1:9")
    assert (answer["error"], answer["exit_code"]) == ("WeightsUnavailable", 3)
    assert "cannot be reached" in answer["message"]


def test_a_bundled_file_comes_first_and_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "bundled_weights", lambda: tmp_path)
    path = tmp_path / "net.a.safetensors"
    path.write_bytes(CONTENT)
    assert weights_path(card_of(status="bundled")) == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(IntegrityError, match=r"net\.a\.safetensors has 1048575 bytes") as caught:
        weights_path(card_of(status="bundled"))
    assert caught.value.exit_code == 4


def test_unpublished_weights_say_what_to_do():
    with pytest.raises(WeightsUnavailable, match="no published weights") as caught:
        weights_path(load_card("reste_resnet18_cifar.c10"))
    assert "zoo convert reste_resnet18_cifar FILE.pth --out reste_resnet18_cifar.safetensors" in caught.value.hint
    assert caught.value.exit_code == 3


def test_what_needs_no_weights():
    card = msgspec.structs.replace(card_of(), weights=Weights(status="none"))
    with pytest.raises(UsageError, match="needs none"):
        weights_path(card)
