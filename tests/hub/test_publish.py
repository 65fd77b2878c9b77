"""Publishing to the loopback hub and reading back: through zoo, through timm, from a mirror, without a network."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import zoo as zoo_package
from tests.goldens import Golden
from tests.hub.client import FILE, environment_for, zoo
from tests.hub.server import running, sha256
from zoo import settings
from zoo.cli.app import commands
from zoo.convert import convert
from zoo.errors import CardError, InputError, IntegrityError, UsageError, ZooError
from zoo.hub.checkpoint import read_contents
from zoo.hub.readme import PIPELINES, readme
from zoo.publish import build_folder
from zoo.registry import names
from zoo.registry.card import Task

NAME = "reste_resnet20_cifar.c10"
REPOSITORY = f"zoo-models/{NAME}"
FILES = ["README.md", "config.json", FILE, f"{NAME}.confusion.png"]
BUNDLED = settings.bundled_weights() / f"{NAME}.safetensors"
PROGRAM = """
import json, sys, torch, timm, zoo
image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
ours = zoo.create_model("reste_resnet20_cifar", pretrained=True).eval()
for name in sys.argv[1:]:
    model = timm.create_model(name, pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(image), ours(image))
assert model.pretrained_cfg["label_names"][3] == "cat"
small = timm.create_model(sys.argv[1], pretrained=True, num_classes=3, in_chans=1).eval()
assert small(torch.rand(1, 1, 32, 32)).shape == (1, 3)
print("same")
"""
PUSH = """
import dataclasses, json, pathlib, sys
from zoo.errors import ZooError
from zoo.hub.push import push
try:
    print(json.dumps(dataclasses.asdict(push(map(pathlib.Path, sys.argv[2:]), sys.argv[1], "message"))))
except ZooError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
"""


@pytest.fixture
def hub():
    with running() as hub:
        yield hub


@pytest.fixture
def environment(hub, tmp_path):
    return {**environment_for(hub, tmp_path), "HF_TOKEN": hub.token}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_folder(NAME, tmp_path_factory.mktemp("publish") / "folder")


def python(environment, program, *args):
    command = [sys.executable, "-c", program, *map(str, args)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def upload(environment, folder, **more):
    """What `zoo publish` does once its folder is built, in a process that needs no torch for it."""
    files = list(map(str, folder.files))
    return json.loads(python({**environment, **more}, PUSH, REPOSITORY, *files))


def well(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


# the folder


def test_a_dry_run_builds_the_folder_and_asks_nobody(hub, environment, tmp_path):
    folder = tmp_path / "folder"
    done = zoo(environment, "publish", NAME, "--dry-run", "--out", folder, "--json", "--org", "mine")
    report = json.loads(well(done))
    assert report["repository"] == f"mine/{NAME}"
    assert report["uploaded"] is None
    assert [file["name"] for file in report["files"]] == FILES == sorted(path.name for path in folder.iterdir())
    for file in report["files"]:
        content = (folder / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(content), sha256(content))
    assert (folder / FILE).read_bytes() == BUNDLED.read_bytes()
    assert hub.requests == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="is there already"):
        build_folder(NAME, tmp_path)
    assert (tmp_path / "mine").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made: Not a directory"):
        build_folder(NAME, tmp_path / "file" / "folder")


def test_a_fault_behind_a_link_is_said_as_it_is(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(UsageError, match="cannot sign"):
        build_folder(NAME, tmp_path / "link", key=tmp_path / "absent.pem")
    assert not (tmp_path / "folder").exists()


def test_the_page_says_what_was_measured_and_nothing_else():
    card = zoo_package.card(NAME)
    text = readme(card, REPOSITORY)
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    facts = yaml.safe_load(front)
    assert facts["license"] == "apache-2.0"
    assert facts["library_name"] == "timm"
    assert facts["pipeline_tag"] == "image-classification"
    assert facts["datasets"] == ["cifar10"]
    (model,) = facts["model-index"]
    values = [metric["value"] for result in model["results"] for metric in result["metrics"]]
    assert values == [figure.value for figure in card.figures if figure.by == "zoo"]
    assert f"hf-hub:{REPOSITORY}" in body
    assert card.weights.sha256 in body
    assert all(limit in body for limit in card.limits)
    for figure in card.figures:
        assert f"{figure.value:g}" in body


def test_config_json_is_timms(folder):
    config = json.loads((folder.path / "config.json").read_text())
    assert config["architecture"] == "reste_resnet20_cifar"
    assert config["num_classes"] == len(config["label_names"]) == 10
    assert config["model_args"]["act_bits"] == 1
    assert "file" not in config["pretrained_cfg"]  # no path of the machine that built it
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]


# what is refused


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Makes the card say something else, through its text."""
    cards = tmp_path / "cards"

    def edit(*changes):
        shutil.copytree(settings.card_folder(), cards)
        for name in names.list_names():
            text = (settings.card_folder() / f"{name}.md").read_text()
            if name == NAME:
                for old, new in changes:
                    assert re.search(old, text), old
                    text = re.sub(old, new, text)
            (cards / f"{name}.md").write_text(text)
        monkeypatch.setattr(settings, "card_folder", lambda: cards)
        names.forget()

    yield edit
    names.forget()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("license: apache-2.0", 'license: ""', "no licence"),
        ("license: apache-2.0", "license: unknown", "no licence"),
        (r"value: [\d.]+", "value: .nan", "top1 on cifar10 was not measured"),
        (r'date: "[\d-]+"', 'date: "2999-01-01"', "top1 on cifar10 was not measured"),
        (r'date: "[\d-]+"', 'date: "soon"', "top5 on cifar10 was not measured"),
        ("command: zoo eval", "command: guess", "not measured"),
        ("by: zoo\n    command", "by: paper\n    command", "nothing of it was measured"),
        ("weights: {.*}", "weights: {status: unpublished}", "names no file"),
        (r"c10\.confusion\.png", "c10.absent.png", "absent.png is not beside it"),
    ],
)
def test_a_card_that_is_not_fit(edited, tmp_path, old, new, said):
    edited((old, new))
    with pytest.raises(CardError) as caught:
        build_folder(NAME, tmp_path / "folder", checkpoint_path=BUNDLED)
    assert said in caught.value.message
    assert not (tmp_path / "folder").exists()


def test_a_card_without_a_licence_line(edited, tmp_path):
    edited(("license: apache-2.0\n", ""))
    with pytest.raises(ZooError, match="license"):
        build_folder(NAME, tmp_path / "folder")


def test_a_file_that_differs_from_its_card(tmp_path):
    state = load_file(BUNDLED)
    state["fc.bias"][0] += 1
    from safetensors import safe_open

    with safe_open(BUNDLED, "pt") as file:
        save_file(state, tmp_path / "other.safetensors", file.metadata())
    with pytest.raises(IntegrityError, match="sha256"):
        build_folder(NAME, tmp_path / "folder", checkpoint_path=tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(BUNDLED.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="promises"):
        build_folder(NAME, tmp_path / "folder", checkpoint_path=tmp_path / "cut.safetensors")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": None}, "what made it"),
        ({"architecture": "reste_resnet18_cifar"}, "architecture"),
        ({"format": "float"}, "format"),
        ({"builder_args": {"num_classes": 10, "act_bits": 32}}, "builder_args"),
    ],
)
def test_a_file_whose_metadata_contradict_the_card(edited, tmp_path, change, said):
    from safetensors import safe_open

    with safe_open(BUNDLED, "pt") as file:
        facts = json.loads(file.metadata()["zoo"]) | change
    facts = {key: value for key, value in facts.items() if value is not None}
    other = tmp_path / "other.safetensors"
    save_file(load_file(BUNDLED), other, {"zoo": json.dumps(facts)})
    edited((r"bytes: \d+", f"bytes: {other.stat().st_size}"), (r"sha256: \w+", f"sha256: {sha256(other.read_bytes())}"))
    with pytest.raises(IntegrityError, match=said):
        build_folder(NAME, tmp_path / "folder", checkpoint_path=other)
    assert not (tmp_path / "folder").exists()


def test_a_converted_file_is_fit_and_brings_its_source_along(edited, tmp_path):
    golden = Golden("reste_resnet20_cifar")
    save_file(golden.authors_state(), tmp_path / "authors.safetensors")
    file = tmp_path / "converted.safetensors"
    report = convert("reste_resnet20_cifar", tmp_path / "authors.safetensors", file)
    weights = f"weights: {{status: published, bytes: {file.stat().st_size}, sha256: {sha256(file.read_bytes())}}}"
    edited(("weights: {.*}", weights))
    folder = build_folder(NAME, tmp_path / "folder", checkpoint_path=file)
    facts = read_contents(folder.path / FILE).facts
    assert facts["source_sha256"] == report.source_sha256
    assert facts["parity"]["largest_difference"] <= facts["parity"]["allowed"]


def test_what_timm_has_no_place_for(edited, tmp_path):
    edited(("task: classify", "task: reid"))
    folder = build_folder(NAME, tmp_path / "folder", checkpoint_path=BUNDLED)
    config = json.loads((folder.path / "config.json").read_text())
    assert config["task"] == "reid"
    assert config["architecture"] == "reste_resnet20_cifar"
    facts = yaml.safe_load((folder.path / "README.md").read_text().split("---\n")[1])
    assert facts["library_name"] == "zoo"
    assert "timm" not in facts["tags"]


# upload and read back


def test_published_and_read_back(hub, environment, tmp_path):
    report = json.loads(well(zoo(environment, "publish", NAME, "--json")))
    repository = hub.repositories[REPOSITORY]
    assert report["uploaded"] == {"url": f"{hub.url}/{REPOSITORY}", "commit": repository.head, "changed": FILES}
    assert sorted(repository.files) == FILES
    assert repository.files[FILE] == BUNDLED.read_bytes()
    assert len(repository.commits) == 1, "all files or none"
    asked = hub.asked("^POST|^PUT")
    assert [request.partition("?")[0].split(sha256(BUNDLED.read_bytes()))[0] for request in asked] == [
        "POST /api/repos/create",
        f"POST /api/models/{REPOSITORY}/paths-info/main",
        "POST /api/validate-yaml",
        f"POST /api/models/{REPOSITORY}/preupload/main",
        f"POST /{REPOSITORY}.git/info/lfs/objects/batch",
        "PUT /upload/",
        f"POST /{REPOSITORY}.git/info/lfs/objects/verify",
        f"POST /api/models/{REPOSITORY}/commit/main",
        f"POST /api/models/{REPOSITORY}/paths-info/{repository.head}",
    ]
    assert not hub.asked("xet")
    pinned = f"hf-hub:{REPOSITORY}@{repository.head}"
    assert python(environment, PROGRAM, f"hf-hub:{REPOSITORY}", pinned).strip() == "same"
    assert len(hub.ranges()) == 1


def test_published_again_it_uploads_what_differs(hub, environment, folder):
    assert upload(environment, folder)["changed"] == FILES
    repository = hub.repositories[REPOSITORY]
    again = upload(environment, folder)
    assert again == {"url": f"{hub.url}/{REPOSITORY}", "commit": repository.head, "changed": []}
    assert len(repository.commits) == 1
    hub.put(REPOSITORY, {"README.md": b"---\nlicense: mit\n---\nsomebody edited this\n"})
    assert upload(environment, folder)["changed"] == ["README.md"]
    assert repository.commits[-1][1] == repository.commits[0][1]


def test_large_files_go_up_in_parts(hub, environment, folder):
    hub.part_size = 20_000
    assert upload(environment, folder)["changed"] == FILES
    assert hub.repositories[REPOSITORY].files[FILE] == BUNDLED.read_bytes()
    assert len(hub.asked("PUT .*part=")) == 3


def test_an_interrupted_upload_goes_on(hub, environment, folder):
    hub.fail("status", "POST .*/commit/", status=400)
    broken = upload(environment, folder)
    assert broken["error"] == "HubError"
    assert f"{REPOSITORY} could not be uploaded: the Hub answered 400" in broken["message"]
    assert hub.repositories[REPOSITORY].commits == []
    assert len(hub.asked("PUT")) == 1
    assert upload(environment, folder)["changed"] == FILES
    assert len(hub.asked("PUT")) == 1, "the weights had arrived and are not sent again"
    assert sorted(hub.repositories[REPOSITORY].files) == FILES


TROUBLE = [
    ("POST /api/repos/create", 403),
    ("POST .*/preupload/", 401),
    ("PUT", 403),
    ("POST .*/objects/verify", 404),
    ("POST .*/objects/batch", 413),
]


@pytest.mark.parametrize(("on", "status"), TROUBLE)
def test_a_hub_that_does_not_take_it(hub, environment, folder, on, status):
    hub.fail("status", on, 9, status=status)
    broken = upload(environment, folder)
    assert broken["error"] == "HubError"
    assert "could not be uploaded" in broken["message"]
    assert "\n" not in broken["message"]
    assert REPOSITORY not in hub.repositories or hub.repositories[REPOSITORY].commits == []
    hub.faults.clear()
    assert upload(environment, folder)["changed"] == FILES


def test_weights_that_the_hub_got_wrong(hub, environment, folder):
    hub.fail("corrupt", "POST .*/commit/")
    broken = upload(environment, folder)
    assert broken["error"] == "IntegrityError"
    assert "holds another model.safetensors" in broken["message"]


def test_without_rights_or_network(hub, environment, folder):
    stranger = upload(environment, folder, HF_TOKEN="hf_wrong")
    assert stranger["error"] == "HubError"
    assert "HF_TOKEN" in stranger["hint"]
    offline = upload(environment, folder, HF_HUB_OFFLINE="1")
    assert offline["error"] == "UsageError"
    assert "--dry-run" in offline["hint"]
    assert hub.repositories == {}


def test_the_endpoint_is_an_option_of_every_command_that_fetches(hub, environment, folder):
    upload(environment, folder)
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    path = well(zoo(environment, "pull", NAME, "--revision", "main", "--endpoint", f"{hub.url}/", **nowhere)).strip()
    assert Path(path).read_bytes() == BUNDLED.read_bytes()
    wrong = zoo(environment, "pull", NAME, "--endpoint", "nonsense")
    assert wrong.returncode == 2
    assert "address" in wrong.stderr
    for command in ("predict", "embed", "eval", "verify", "export", "publish", "mirror"):
        assert "--endpoint" in CliRunner().invoke(commands(), [command, "--help"], env={"COLUMNS": "200"}).stdout


# signature


@pytest.fixture
def keys(tmp_path):
    """A private and a public key, in PEM."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def verify(folder, public):
    """As SECURITY.md has it; returns what it says."""
    command = [sys.executable, "-m", "model_signing", "verify", "key", folder, "--signature", folder / "model.sig"]
    options = ["--public_key", public, "--allow_symlinks", "--ignore_unsigned_files"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_signed_folder_is_verified_without_a_network(hub, environment, keys, tmp_path):
    private, public = keys
    upload(environment, build_folder(NAME, tmp_path / "signed", key=private))
    assert "model.sig" in hub.repositories[REPOSITORY].files
    again = upload(environment, build_folder(NAME, tmp_path / "again", key=private))
    assert again["changed"] == [], "a signature is another one each time and no reason for a commit"
    mirror = tmp_path / "mirror"
    well(zoo(environment, "mirror", mirror))
    (folder,) = mirror.glob("models--*/snapshots/*")
    assert "Verification succeeded" in verify(folder, public)
    page = folder / "README.md"
    page.resolve().write_text(page.read_text() + "\n")
    said = verify(folder, public)
    assert "Verification failed" in said
    assert "README.md" in said


def test_keys_that_cannot_sign(keys, tmp_path):
    (tmp_path / "nonsense.pem").write_text("nonsense")
    for key in (tmp_path / "absent.pem", tmp_path / "nonsense.pem", keys[1]):
        with pytest.raises(UsageError, match="cannot sign"):
            build_folder(NAME, tmp_path / "folder", key=key)
        assert not (tmp_path / "folder").exists()


# mirrors


def test_a_folder_for_machines_without_a_network(hub, environment, folder, tmp_path):
    upload(environment, folder)
    mirror = tmp_path / "mirror"
    done = zoo(environment, "mirror", mirror, "reste*")
    place = Path(well(done).split()[1])
    assert sorted(path.name for path in place.iterdir()) == FILES
    asked = len(hub.ranges())
    well(zoo(environment, "mirror", mirror, "reste*"))
    assert len(hub.ranges()) == asked, "nothing is copied twice"
    offline = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(mirror)}
    offline.pop("HF_TOKEN")
    assert python(offline, PROGRAM, f"hf-hub:{REPOSITORY}").strip() == "same"
    path = well(zoo(offline, "pull", NAME, "--revision", "main")).strip()
    assert Path(path).is_relative_to(mirror)
    states = {file["place"]: file["state"] for file in json.loads(well(zoo(offline, "cache", "verify", "--json")))}
    assert states == {"bundled": "ok", "cache": "ok"}


def test_another_hub_gets_the_same_files_and_not_our_token(hub, environment, folder):
    upload(environment, folder)
    with running() as theirs:
        theirs.token = "mirrors_own"
        refused = zoo(environment, "mirror", theirs.url)
        assert refused.returncode == 1
        done = zoo(environment, "mirror", theirs.url, ZOO_MIRROR_TOKEN="mirrors_own")
        assert well(done) == f"{NAME}  {theirs.url}/{REPOSITORY}\n"
        assert theirs.repositories[REPOSITORY].files == hub.repositories[REPOSITORY].files
        assert f"Bearer {hub.token}" not in {token for *_, token in theirs.requests}
        head = theirs.repositories[REPOSITORY].head
        well(zoo(environment, "mirror", theirs.url, ZOO_MIRROR_TOKEN="mirrors_own"))
        assert theirs.repositories[REPOSITORY].head == head
        assert python({**environment, "HF_ENDPOINT": theirs.url}, PROGRAM, f"hf-hub:{REPOSITORY}").strip() == "same"


def test_a_mirror_takes_no_other_file_than_the_cards(hub, environment, folder, tmp_path):
    upload(environment, folder)
    hub.put(REPOSITORY, {FILE: BUNDLED.read_bytes()[::-1]})
    done = zoo(environment, "mirror", tmp_path / "mirror", "--json")
    assert done.returncode == 4
    (report,) = json.loads(done.stdout)
    assert report["place"] is None
    assert "sha256" in report["error"]


def test_a_mirror_asks_for_no_file_by_a_name_from_the_hub(hub, environment, folder, tmp_path):
    """What a repository lists besides is not looked at: a listing could name any path."""
    upload(environment, folder)
    hub.put(REPOSITORY, {"../../escaped": b"x", "/etc/escaped": b"x", "C:\\escaped": b"x", "sub/../../e": b"x"})
    well(zoo(environment, "mirror", tmp_path / "mirror"))
    assert not list(tmp_path.rglob("*escaped*"))
    assert not hub.asked("escaped")


def test_mirrors_that_make_no_sense(hub, environment, tmp_path):
    assert zoo(environment, "mirror", hub.url).returncode == 2
    assert zoo(environment, "mirror", tmp_path / "m", HF_HUB_OFFLINE="1").returncode == 2
    nothing = zoo(environment, "mirror", tmp_path / "m")
    assert nothing.returncode == 0
    assert "nothing to copy" in nothing.stderr


def test_the_packed_file_runs_from_a_folder_in_timm(folder):
    """The published form is packed; timm gets the same network from it through the network's own filter."""
    import timm

    assert any(key.endswith("weight_packed") for key in load_file(folder.path / FILE))
    model = timm.create_model(f"local-dir:{folder.path}", pretrained=True, features_only=True).eval()
    ours = zoo_package.create_model(NAME, pretrained=True, features_only=True).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        for a, b in zip(model(image), ours(image), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_every_task_has_its_word_on_the_hub():
    assert set(PIPELINES) == set(get_args(Task))
