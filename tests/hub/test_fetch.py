"""Fetching from a real server on the loopback: whatever goes wrong on the way, the card's file or a plain error."""

import os
import stat
from pathlib import Path

import msgspec
import pytest

from tests.hub.client import CONTENT, FILE, REPOSITORY, card_of, environment_for, fetch, finish, start
from tests.hub.server import running, sha256
from zoo import settings
from zoo.errors import IntegrityError, UsageError, WeightsUnavailable
from zoo.hub.fetch import weights_path
from zoo.registry.card import Weights
from zoo.registry.names import load_card

STORAGE, RESOLVE = "GET .*/storage/", f"HEAD .*/resolve/.*/{FILE}"
LARGE = CONTENT * 14


@pytest.fixture
def hub():
    with running() as hub:
        hub.put(REPOSITORY, {FILE: CONTENT})
        yield hub


@pytest.fixture
def environment(hub, tmp_path):
    return environment_for(hub, tmp_path)


def content_of(answer):
    return Path(answer["path"]).read_bytes()


# the proper way


def test_a_file_is_fetched_once_and_then_needs_no_network(hub, environment):
    first = fetch(environment)
    assert content_of(first) == CONTENT
    assert len(hub.ranges()) == 1
    asked = len(hub.requests)
    assert fetch(environment)["path"] == first["path"]
    assert fetch(environment, HF_HUB_OFFLINE="1")["path"] == first["path"]
    assert len(hub.requests) == asked


def test_a_large_file_lies_in_the_cache_under_its_sha256(hub, environment):
    path = Path(fetch(environment)["path"])
    assert path.resolve().name == sha256(CONTENT)
    assert path.parent.name == hub.repositories[REPOSITORY].head


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub, environment):
    hub.repositories[REPOSITORY].private = True
    refused = fetch(environment)
    assert "no repository zoo-models/net.a, or it is private" in refused["message"]
    assert content_of(fetch(environment, HF_TOKEN=hub.token)) == CONTENT
    shown = {path.split("/")[1]: token for _, path, _, token in hub.requests}
    assert shown == {"zoo-models": f"Bearer {hub.token}", "storage": None}


def test_a_renamed_repository_is_followed(hub, environment):
    hub.put("zoo-models/renamed.a", {FILE: CONTENT})
    hub.moved[REPOSITORY] = "zoo-models/renamed.a"
    assert content_of(fetch(environment)) == CONTENT


def test_the_organisation_is_a_setting(hub, environment):
    hub.put("elsewhere/net.a", {FILE: CONTENT})
    fetch(environment, ZOO_HUB_ORG="elsewhere")
    assert hub.asked("resolve") == [f"HEAD /elsewhere/net.a/resolve/main/{FILE}"]


def test_a_revision_is_pinned(hub, environment):
    old, new = hub.repositories[REPOSITORY].head, hub.put(REPOSITORY, {FILE: CONTENT[::-1]})
    hub.repositories[REPOSITORY].tags["v1"] = old
    assert content_of(fetch(environment, revision=old)) == CONTENT
    assert content_of(fetch(environment, revision="v1")) == CONTENT
    assert content_of(fetch(environment, card_of(CONTENT[::-1]), revision=new)) == CONTENT[::-1]
    asked = len(hub.requests)
    assert content_of(fetch(environment, revision=old)) == CONTENT
    assert len(hub.requests) == asked, "a commit that is in the cache needs no question"
    missing = fetch(environment, revision="nowhere")
    assert (missing["error"], missing["exit_code"]) == ("WeightsUnavailable", 3)
    assert "no such revision" in missing["message"]


def test_a_card_that_was_updated_fetches_the_new_file(hub, environment):
    fetch(environment)
    hub.put(REPOSITORY, {FILE: CONTENT[::-1]})
    assert content_of(fetch(environment, card_of(CONTENT[::-1]))) == CONTENT[::-1]


# faults on the way that are got over

RECOVERED = {
    "cut": ({"kind": "cut", "on": STORAGE, "after": 12 * 2**20}, [None, f"bytes={10 * 2**20}-"]),
    "cut twice": ({"kind": "cut", "on": STORAGE, "after": 2**19, "times": 2}, [None, None, None]),
    "cut at once": ({"kind": "cut", "on": STORAGE, "after": 0}, [None, None]),
    "stall": ({"kind": "stall", "on": STORAGE, "after": 11 * 2**20}, [None, f"bytes={10 * 2**20}-"]),
    "drip": ({"kind": "drip", "on": STORAGE}, [None]),
    "long": ({"kind": "long", "on": STORAGE}, [None, f"bytes={10 * 2**20}-"]),
    "lie": ({"kind": "lie", "on": STORAGE}, [None, None]),
    "too many": ({"kind": "status", "on": STORAGE, "status": 429}, [None, None]),
    "unwell": ({"kind": "status", "on": RESOLVE, "status": 503}, [None]),
}


@pytest.mark.parametrize("kind", RECOVERED)
def test_what_is_got_over(hub, environment, kind):
    how, ranges = RECOVERED[kind]
    hub.put(REPOSITORY, {FILE: LARGE})  # huggingface_hub writes down 10 MiB at a time, and goes on from there
    hub.fail(**how)
    assert content_of(fetch(environment, card_of(LARGE))) == LARGE
    assert hub.ranges() == ranges
    assert len(hub.injected) == how.get("times", 1)


def test_a_killed_process_leaves_nothing_that_is_taken_for_the_file(hub, environment):
    hub.put(REPOSITORY, {FILE: LARGE})
    hub.fail("stall", STORAGE, after=11 * 2**20)
    process = start(environment, card_of(LARGE))
    while not hub.ranges():
        assert process.poll() is None
    process.kill()
    process.communicate()
    answer = fetch(environment, card_of(LARGE))
    assert content_of(answer) == LARGE
    assert len(list(Path(environment["HF_HOME"]).glob("hub/*/snapshots/*/*"))) == 1


@pytest.mark.parametrize("wrong", [None, "cut"], ids=["well", "one of them cut"])
def test_four_processes_at_once(hub, environment, wrong):
    hub.put(REPOSITORY, {FILE: LARGE})
    if wrong:
        hub.fail(wrong, STORAGE, after=2**19)
    answers = [finish(process) for process in [start(environment, card_of(LARGE)) for _ in range(4)]]
    assert len({answer["path"] for answer in answers}) == 1
    assert content_of(answers[0]) == LARGE


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: b"", lambda data: data[:500] + b"\0" + data[501:]],
    ids=["cut", "empty", "one byte"],
)
def test_a_damaged_cached_file_is_named_and_fetched_again(hub, environment, damage):
    path = Path(fetch(environment)["path"])
    path.resolve().write_bytes(damage(CONTENT))
    second = fetch(environment)
    assert content_of(second) == CONTENT
    assert str(path) in second["stderr"]
    assert "fetching it again" in second["stderr"]
    assert len(hub.ranges()) == 2


# faults that are not


def refused(answer, error, exit_code, *said):
    assert (answer.get("error"), answer.get("exit_code")) == (error, exit_code), answer
    assert all(part in answer["message"] for part in said), answer
    assert "\n" not in answer["message"]
    assert answer["hint"]


REFUSALS = {
    "no repository": ({"status": 404, "code": "RepoNotFound"}, "no repository zoo-models/net.a"),
    "no rights": ({"status": 401, "code": "RepoNotFound"}, "no repository zoo-models/net.a"),
    "bad token": ({"status": 401}, "zoo-models/net.a"),
    "no file": ({"status": 404, "code": "EntryNotFound"}, "has no model.safetensors"),
    "gated": ({"status": 403, "code": "GatedRepo"}, "is gated"),
    "forbidden": ({"status": 403}, "answered 403"),
    "gone": ({"status": 410}, "answered 410"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_the_hub_refuses(hub, environment, kind):
    how, said = REFUSALS[kind]
    hub.fail("status", RESOLVE, 99, **how)
    refused(fetch(environment), "WeightsUnavailable", 3, said)


@pytest.mark.slow  # huggingface_hub asks six times, with growing pauses
@pytest.mark.parametrize("status", [429, 500, 502, 504])
def test_a_hub_that_stays_unwell(hub, environment, status):
    hub.fail("status", RESOLVE, 99, status=status)
    refused(fetch(environment), "WeightsUnavailable", 3, f"answered {status}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"kind": "cut", "on": STORAGE, "after": 0}, "cannot be reached"),
        ({"kind": "stall", "on": STORAGE, "after": 10}, "cannot be reached"),
        ({"kind": "long", "on": STORAGE}, "cannot be reached"),
    ],
    ids=["cut", "stall", "long"],
)
def test_a_download_that_never_ends_well(hub, environment, how, said):
    hub.fail(**how, times=99)
    refused(fetch(environment), "WeightsUnavailable", 3, said)


def test_a_file_shorter_than_the_hub_had_said(hub, environment):
    hub.fail("short", STORAGE, 99)
    refused(fetch(environment), "WeightsUnavailable", 3, "another length arrived")


def test_a_fault_does_not_cost_what_was_there(hub, environment):
    before = Path(fetch(environment)["path"])
    hub.put(REPOSITORY, {FILE: CONTENT[::-1]})
    hub.fail("status", STORAGE, 99, status=403)
    refused(fetch(environment, card_of(CONTENT[::-1])), "IntegrityError", 4, str(before), "answered 403")
    assert before.read_bytes() == CONTENT
    assert content_of(fetch(environment)) == CONTENT


def test_a_damaged_cached_file_offline_is_an_integrity_error(hub, environment):
    path = Path(fetch(environment)["path"])
    path.resolve().write_bytes(CONTENT[:-1])
    refused(fetch(environment, HF_HUB_OFFLINE="1"), "IntegrityError", 4, str(path), "HF_HUB_OFFLINE")


@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT[:-1], b""], ids=["sha256", "length", "empty"])
def test_another_file_than_the_cards_is_refused(hub, environment, other):
    hub.put(REPOSITORY, {FILE: other})
    refused(fetch(environment), "IntegrityError", 4, "sha256" if len(other) == len(CONTENT) else "bytes")
    assert len(hub.asked("HEAD")) == 2  # once, and once more to be sure


def test_offline_without_the_file(hub, environment):
    refused(fetch(environment, HF_HUB_OFFLINE="1"), "WeightsUnavailable", 3, "HF_HUB_OFFLINE")
    assert hub.requests == []


@pytest.mark.parametrize("header", ["X-Repo-Commit", "X-Linked-Etag"])
def test_what_answers_is_no_hub(hub, environment, header):
    hub.fail("headers", RESOLVE, 99, headers={header: None})
    refused(fetch(environment), "WeightsUnavailable", 3, "is no Hub")


@pytest.mark.slow  # huggingface_hub tries six times
def test_nobody_answers(environment):
    answer = fetch(environment, HF_ENDPOINT="http://127.0.0.1:9")
    refused(answer, "WeightsUnavailable", 3, "cannot be reached")


@pytest.mark.parametrize("address", ["hub.example.org", "file:///etc/passwd", "ftp://hub", "http://", "https://a b"])
def test_addresses_that_are_none(environment, address):
    refused(fetch(environment, HF_ENDPOINT=address), "UsageError", 2, "address", address)


@pytest.mark.parametrize("revision", ["../../../x", "/etc", "a/../b", "-x", "", "a b", "a\0b"])
def test_revisions_that_are_none(environment, revision):
    refused(fetch(environment, revision=revision), "UsageError", 2, "is no revision")


# a hub that means harm

PATHS = ["../../../../escaped", "/escaped", "..\\..\\escaped", "C:\\escaped", "..", "a/b"]


def snapshot(folder):
    """Every path under a folder, with what would show a change."""
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("header", "value"),
    [("X-Linked-Etag", path) for path in PATHS] + [(name, PATHS[0]) for name in ("ETag", "X-Repo-Commit")],
)
def test_no_header_leads_outside_the_cache(hub, environment, tmp_path, header, value):
    (tmp_path / "bait").write_text("unchanged")
    outside = snapshot(tmp_path)
    headers = {header: value if header == "X-Repo-Commit" else f'"{value}"'}
    hub.fail("headers", RESOLVE, 99, headers={"X-Linked-Etag": "", **headers} if header == "ETag" else headers)
    refused(fetch(environment), "IntegrityError", 4, header, "would be a path")
    left = {path for path in snapshot(tmp_path) if not path.is_relative_to(tmp_path / "hf")}
    assert left == set(outside)
    assert (tmp_path / "bait").read_text() == "unchanged"


def test_a_link_in_the_cache_is_neither_used_nor_written_through(hub, environment, tmp_path):
    """Whoever may write to the cache can place a link there."""
    path = Path(fetch(environment)["path"])
    bait = tmp_path / "bait"
    bait.write_text("unchanged")
    path.unlink()
    path.symlink_to(bait)
    refused(fetch(environment), "IntegrityError", 4, str(path), "has 9 bytes")
    assert bait.read_text() == "unchanged"


def test_a_cache_that_cannot_be_written(hub, environment, tmp_path):
    if os.geteuid() == 0:
        (tmp_path / "hf").write_text("a file where the folder should be")
    else:
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf").chmod(stat.S_IRUSR | stat.S_IXUSR)
    refused(fetch(environment), "WeightsUnavailable", 3, "cache cannot be written")


# without the hub


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
