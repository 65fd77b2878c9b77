"""zoo retrieve as a user types it: answers, files beside them, exit codes."""

import csv
import io
import json

import pytest

pytest.importorskip("av")

from typer.testing import CliRunner

from tests.films import write_people
from zoo.cli.app import commands
from zoo.data.zooclips import SPLITS
from zoo.errors import UsageError, WeightsUnavailable


def run(*arguments):
    return CliRunner().invoke(commands(), ["retrieve", *map(str, arguments)])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieve")
    (folder / "videos").mkdir()
    for seed in SPLITS["test"][:3]:
        write_people(folder / "videos" / f"{seed}.mp4", seed, 2.0)
    (folder / "videos" / "bad.mp4").write_text("no video")
    (folder / "videos" / "named \udcff.mp4").write_text("in bytes that are no text")
    options = ("--model", "tmvm_tiny", "--window", 1, "--stride", 1, "--device", "cpu")
    result = run("index", folder / "videos", "--out", folder / "idx", *options)
    assert result.exit_code == 1  # the bad ones
    assert "3 videos added with 6 windows" in result.stdout
    assert "bad.mp4" in result.stderr
    assert "the name is not UTF-8" in result.stderr
    return folder / "idx"


def test_answers_in_every_form(index):
    text = "a person in red waves a hand"
    human = run("search", index, text)
    assert human.exit_code == 0
    assert human.stdout.splitlines()[0] == text
    assert len(human.stdout.splitlines()) == 4
    (found,) = json.loads(run("search", index, text, "-k", 2, "--json").stdout)
    assert [hit["rank"] for hit in found["hits"]] == [1, 2]
    assert set(found["hits"][0]) >= {"path", "start", "end", "peak", "score", "prototype"}
    lines = run("search", index, text, "a person in blue", "--jsonl").stdout.splitlines()
    assert len(lines) == 2
    rows = list(csv.DictReader(io.StringIO(run("search", index, text, "--csv").stdout)))
    assert len(rows) == 3


def test_pages_pictures_clips_and_explanations(index, tmp_path):
    outputs = ("--html", tmp_path / "a.html", "--sheet", tmp_path / "s.png", "--thumbs", tmp_path / "t")
    result = run(
        "search",
        index,
        "a person in red",
        "-k",
        2,
        *outputs,
        "--clips",
        tmp_path / "c",
        "--explain",
        tmp_path / "e",
        "--json",
    )
    assert result.exit_code == 0, result.output
    page = (tmp_path / "a.html").read_text()
    assert page.count("<video") == 2
    assert 'src="a_clips/01_01.mp4' in page
    for folder, suffix in (("a_clips", "mp4"), ("t", "jpg"), ("c", "mp4"), ("e", "jpg")):
        assert [path.name for path in sorted((tmp_path / folder).iterdir())] == [f"01_01.{suffix}", f"01_02.{suffix}"]
    (found,) = json.loads(result.stdout)
    assert found["hits"][0]["thumb"].endswith("01_01.jpg")


def test_queries_from_a_file_and_a_clip(index, tmp_path):
    (tmp_path / "queries.txt").write_text("a person in red\n\na person in blue\n")
    found = json.loads(run("search", index, "--queries", tmp_path / "queries.txt", "--json").stdout)
    assert [ranking["query"] for ranking in found] == ["a person in red", "a person in blue"]
    clip = next((index.parent / "videos").glob("9*.mp4"))
    (found,) = json.loads(run("search", index, "--like", clip, "--json").stdout)
    assert found["hits"][0]["path"] == str(clip)


def test_an_empty_query_among_others_costs_that_query(index):
    result = run("search", index, "a person in red", " ", "--jsonl")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert "empty" in result.stderr
    assert run("search", index, "").exit_code == 2


def test_an_index_of_other_weights_ends_with_3(index, tmp_path):
    from safetensors.torch import load_file, save_file

    from zoo import settings

    state = load_file(settings.bundled_weights() / "tmvm_tiny.zooclips.safetensors")
    state["vid_proj.0.bias"] += 1
    save_file(state, tmp_path / "other.safetensors")
    result = run("search", index, "a person", "--weights", tmp_path / "other.safetensors")
    assert isinstance(result.exception, WeightsUnavailable)  # the command's main makes 3 of it


def test_calls_that_cannot_work(index, tmp_path):
    for arguments in (("search", index), ("search", index, "a", "--like", "b.mp4"), ("search", tmp_path, "a")):
        assert isinstance(run(*arguments).exception, UsageError), arguments
    empty = tmp_path / "empty"
    empty.mkdir()
    result = run("index", empty, "--out", tmp_path / "idx", "--model", "tmvm_tiny")
    assert result.exit_code == 1
    assert "no video in this folder" in result.stderr


def test_a_newer_format_is_told(index, tmp_path):
    import shutil

    shutil.copytree(index, tmp_path / "idx")
    manifest = tmp_path / "idx" / "gallery.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    result = run("search", tmp_path / "idx", "a person")
    assert "format 99" in str(result.exception)


def test_what_is_in_an_index(index):
    facts = json.loads(run("info", index, "--json").stdout)
    assert (facts["model"], facts["videos"], facts["items"], facts["per_item"]) == ("tmvm_tiny.zooclips", 3, 6, 4)
    assert "tmvm_tiny" in run("info", index).stdout


def test_figures_with_their_protocol():
    result = run("eval", "zooclips", "--model", "tmvm_tiny", "--json", "--device", "cpu")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["text_to_video"]["r1"] == pytest.approx(
        45.4, abs=1.1
    )  # two of 194 queries; another CPU rounds otherwise
    assert "200 clips" in found["protocol"]
