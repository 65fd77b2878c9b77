"""zoo reid, as a person types it."""

import csv
import io
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.data import people_trees
from zoo.cli import out
from zoo.cli.app import commands
from zoo.errors import ZooError

COMMANDS = ("index", "search", "remove", "info", "eval", "synth", "check-data")


def run(*args):
    """The command's result; a ZooError as main() would report it."""
    out.quiet = False
    result = CliRunner().invoke(commands(), ["reid", *map(str, args)])
    if isinstance(result.exception, ZooError):
        result.exit_code = result.exception.exit_code
    elif result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fault(result):
    assert isinstance(result.exception, ZooError), result.output
    return f"{result.exception.message} | {result.exception.hint}"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return people_trees.sysu(tmp_path_factory.mktemp("people"), count=2)


@pytest.fixture(scope="module")
def gallery(people, tmp_path_factory):
    folder = tmp_path_factory.mktemp("galleries") / "people"
    assert run("index", people / "cam1", people / "cam2", "--gallery", folder).exit_code == 0
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"zoo reid {command}" in result.stdout, "no example"


def test_index_says_what_it_did_and_passes_over_what_is_there(people, gallery):
    again = run("index", people / "cam1", "--gallery", gallery)
    assert "0 added (0 visible, 0 infrared), 8 unchanged; 16 in" in again.stderr


def test_search_as_table_json_csv_sheet_and_page(people, gallery, tmp_path):
    query = people / "cam3/0001/0001.jpg"
    result = run(
        "search", query, "--gallery", gallery, "--topk", 3, "--sheet", tmp_path / "s", "--html", tmp_path / "a.html"
    )
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 4
    with Image.open(tmp_path / "s/0001.png") as sheet:
        assert sheet.width > 400
    assert (tmp_path / "a.html").read_text().count("<figure") == 4
    (row,) = json.loads(run("search", query, "--gallery", gallery, "--topk", 2, "--json").stdout)
    assert [hit["rank"] for hit in row["hits"]] == [1, 2]
    assert row["modality"] == "infrared"
    rows = list(csv.DictReader(io.StringIO(run("search", query, "--gallery", gallery, "--csv").stdout)))
    assert len(rows) == 10
    assert rows[0]["path"] == row["hits"][0]["path"]


def test_search_warns_of_the_same_modality_once(people, gallery):
    result = run("search", people / "cam4", "--gallery", gallery, "--topk", 1)
    assert result.stderr.count("not trained to compare") == 1
    assert ": 8, such as" in result.stderr


def test_a_bad_query_among_good_ones(people, gallery, tmp_path):
    (tmp_path / "bad.png").write_text("hello")
    result = run("search", people / "cam3/0001/0001.jpg", tmp_path / "bad.png", "--gallery", gallery)
    assert result.exit_code == 1
    assert "1 of 2 inputs failed" in result.stderr


def test_another_networks_gallery(gallery, people):
    result = run(
        "search", people / "cam3/0001/0001.jpg", "--gallery", gallery, "--model", "sgiel_r50", "--checkpoint", "x"
    )
    assert result.exit_code in (2, 3)
    facts = json.loads((gallery / "gallery.json").read_text())
    facts["facts"]["weights"] = "0" * 64
    (gallery.parent / "other").mkdir()
    (gallery.parent / "other" / "gallery.json").write_text(json.dumps({**facts, "shards": []}))
    refused = run("search", people / "cam3/0001/0001.jpg", "--gallery", gallery.parent / "other")
    assert refused.exit_code == 2
    assert "other weights of sgiel_pico.people: 000000000000" in fault(refused)


def test_a_name_that_a_gallery_cannot_hold_costs_itself_only(tmp_path):
    places = tmp_path / "in"
    places.mkdir()
    for name in ("a.png", "b\udcff.png", "c.png"):
        Image.new("RGB", (32, 64), "red").save(places / name)
    result = run("index", places, "--gallery", tmp_path / "g")
    assert result.exit_code == 1
    assert "the name is not UTF-8" in result.stderr
    assert len(run("info", "--gallery", tmp_path / "g", "--items").stdout.splitlines()) == 2


def test_remove_and_info(people, tmp_path):
    folder = tmp_path / "g"
    run("index", people / "cam1", "--gallery", folder)
    assert run("remove", people / "cam1/0001/*", "--gallery", folder, "--compact").exit_code == 0
    known = json.loads(run("info", "--gallery", folder, "--json").stdout)
    assert (known["items"], known["removed"], known["model"]) == (6, 0, "sgiel_pico.people")
    assert len(run("info", "--gallery", folder, "--items").stdout.splitlines()) == 6
    assert "has none of" in fault(run("remove", "nothing.png", "--gallery", folder))
    assert "items      6" in run("info", "--gallery", folder).stdout


def test_brackets_in_a_path_are_no_pattern(tmp_path, monkeypatch):
    folder, places = tmp_path / "g", tmp_path / "[set]"
    places.mkdir()
    for shade, name in enumerate(("a[1].png", "a1.png", "b.png", "c.png")):
        Image.new("RGB", (32, 64), (60 * shade, 0, 90)).save(places / name)
    run("index", places, "--gallery", folder)
    monkeypatch.chdir(places)
    assert run("remove", "a[1].png", "--gallery", folder).exit_code == 0
    left = run("info", "--gallery", folder, "--items").stdout.splitlines()
    assert [path.rpartition("/")[2] for path in left] == ["a1.png", "b.png", "c.png"]
    assert run("remove", "[ab]*.png", "--gallery", folder).exit_code == 0
    assert run("info", "--gallery", folder, "--items").stdout.splitlines() == [str(places / "c.png")]


def test_approximate(people, tmp_path):
    pytest.importorskip("usearch")
    folder = tmp_path / "g"
    assert "no approximate index" in fault(
        run("search", people / "cam3", "--gallery", _made(people, folder), "--approximate")
    )
    assert "of the ten nearest" in run("index", "--gallery", folder, "--approximate").stderr
    near = run("search", people / "cam3/0001", "--gallery", folder, "--approximate")
    assert near.stdout == run("search", people / "cam3/0001", "--gallery", folder).stdout


def _made(people, folder):
    run("index", people / "cam1", "--gallery", folder)
    return folder


def test_the_same_commands_against_a_database(people, tmp_path):
    pytest.importorskip("milvus_lite")
    store = ("--gallery", "people", "--store", tmp_path / "people.db")
    assert run("index", people / "cam1", *store).exit_code == 0
    assert "8 unchanged" in run("index", people / "cam1", *store).stderr
    found = run("search", people / "cam3/0001/0001.jpg", *store, "--topk", 3)
    expected = run("search", people / "cam3/0001/0001.jpg", "--gallery", _made(people, tmp_path / "g"), "--topk", 3)
    assert found.stdout == expected.stdout
    assert "1 removed; 7 in people at" in run("remove", people / "cam1/0001/0001.jpg", *store).stderr


def test_eval_as_table_json_and_files(people, tmp_path):
    result = run("eval", people, "--trials", 2, "--markdown", tmp_path / "e.md", "--plot", tmp_path / "e.png")
    assert result.exit_code == 0
    assert "infrared to visible" in result.stdout
    assert "R-1" in (tmp_path / "e.md").read_text()
    assert json.loads(run("eval", people, "--trials", 1, "--json").stdout)["directions"][0]["mean"]["rank20"] == 100.0
    (tmp_path / "x").mkdir()
    assert "has no labels" in fault(run("eval", tmp_path / "x"))


def test_check_data(people, tmp_path):
    whole = run("check-data", people)
    assert (whole.exit_code, "a whole sysu set" in whole.stderr) == (0, True)
    missing = run("check-data", tmp_path, "--layout", "regdb", "--json")
    assert missing.exit_code == 1
    assert json.loads(missing.stdout)["findings"][0]["is_fault"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("index", "--gallery", "g"), "no pictures"),
        (("search", "x.png", "--gallery", "nowhere"), "there is no gallery"),
        (("search", "x.png", "--gallery", "g", "--store", "somewhere"), "no address of a database"),
        (("remove", "--gallery", "g"), "nothing to remove"),
        (("index", "x.png", "--gallery", "g", "--modality", "xray"), "modality 'xray'"),
        (("index", "x.png", "--gallery", "g", "--model", "reste_resnet20_cifar"), "does not re-identify"),
        (("synth", "--out", "s", "--preset", "huge"), "no preset"),
    ],
)
def test_calls_that_cannot_work(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert result.exit_code == 2
    assert message in fault(result)
