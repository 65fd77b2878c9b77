"""zoo ground, ground-eval and ground-start as a user meets them."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

pytest.importorskip("av")

from tests.tasks.test_ground import film, small
from zoo.cli.app import commands
from zoo.data.zooclips_ground import film_scene, plan_scene
from zoo.errors import InputError, IntegrityError, UnknownName, UsageError, WeightsUnavailable

ASKED = "the person in black walks to the left"


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return film(tmp_path_factory.mktemp("film") / "walk.mp4", film_scene(plan_scene(500_003, 40), 96).frames)


def run(*args):
    return CliRunner().invoke(commands(), [str(arg) for arg in args])


def ground(*args):
    return run("ground", *args, "--device", "cpu")


def test_people_and_programs(walk):
    human = ground(walk, ASKED, "-q", "the person in green juggles")
    assert human.exit_code == 0
    assert human.stdout.startswith(f"{ASKED}: ")
    assert "juggles" in human.stdout
    (tube,) = json.loads(ground(walk, ASKED, "--json").stdout)
    rows = list(csv.DictReader(io.StringIO(ground(walk, ASKED, "--csv").stdout)))
    assert len(rows) == len(tube["boxes"]) > 3
    assert float(rows[0]["left"]) == tube["boxes"][0]["xyxy"][0]


def test_a_video_is_drawn_and_scored(walk, tmp_path):
    drawn, tubes = tmp_path / "drawn.mp4", tmp_path / "tubes.jsonl"
    result = ground(walk, ASKED, "--out", drawn, "--save", tubes)
    assert result.exit_code == 0
    assert drawn.stat().st_size > 1000
    assert isinstance(ground(walk, ASKED, "--out", drawn).exception, UsageError)
    assert ground(walk, ASKED, "--out", drawn, "--force").exit_code == 0
    for words in (("ground", "eval"), ("ground-eval",)):
        scored = run(*words, tubes, tubes, "--json")
        assert json.loads(scored.stdout)["all"]["m_vIoU"] == pytest.approx(100)
    assert run("ground-eval", tubes, tubes).stdout.split()[:2] == ["samples", "m_vIoU"]


def test_nobody_there_costs_only_what_shows_somebody(walk, tmp_path):
    tubes, sheet = tmp_path / "tubes.jsonl", tmp_path / "sheet.png"
    clip = tmp_path / "clip.mp4"
    asked = ("-q", ASKED, walk, "--min-score", "1", "--crop-video", clip, "--contact-sheet", sheet, "--save", tubes)
    result = ground(*asked)
    assert result.exit_code == 1
    assert "not found" in result.stdout
    assert result.stderr.count("error: ") == 2
    assert f"written: {tubes}" in result.stderr  # -q is a sentence, and no order to be quiet
    assert [path.name for path in tmp_path.iterdir()] == ["tubes.jsonl"]


def test_sentences_from_a_file_and_one_that_is_empty(walk, tmp_path):
    (tmp_path / "q.txt").write_text(f"{ASKED}\n\n?!\n")
    result = ground(walk, "--queries", tmp_path / "q.txt", "--jsonl")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert "1 of 2 inputs failed" in result.stderr


def sound_alone(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return path


def test_bad_calls_and_bad_videos(walk, tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    cases = [
        ((walk,), UsageError, "no sentence"),
        ((walk, ASKED, "--model", "nobody"), UnknownName, "nobody"),
        ((walk, ASKED, "--model", "stvgformer_r101"), WeightsUnavailable, "no published weights"),
        ((walk, ASKED, "--model", "reste_resnet20_cifar"), UsageError, "cannot ground"),
        ((walk, ASKED, "--window", "5", "--stride", "9"), UsageError, "leave gaps"),
        ((walk, ASKED, "--save", tmp_path / "a.xyz"), UsageError, "no form"),
        ((walk, ASKED, "-q", "b", "--heatmap", tmp_path / "h.png"), UsageError, "one sentence"),
        ((tmp_path / "none.mp4", ASKED), InputError, "no such file"),
        ((tmp_path / "text.mp4", ASKED), InputError, "no video"),
        ((tmp_path / "empty.mp4", ASKED), InputError, "no video"),
        ((tmp_path, ASKED), InputError, "Is a directory"),
        ((sound_alone(tmp_path / "sound.mp4"), ASKED), InputError, "no picture"),
        (("/dev/zero", ASKED), InputError, "no video"),  # it never ends
        ((walk, ASKED, "--start", "2", "--end", "1"), InputError, "nothing from 2 s to 1 s"),
        ((walk, ASKED, "--min-score", "nan"), UsageError, "a score of nan"),
        (("eval", "a.json"), UsageError, "two files"),
    ]
    for args, kind, said in cases:
        error = ground(*args).exception
        assert type(error) is kind, (args, error)
        assert said in error.message
        assert "\n" not in error.message
    result = ground(walk, " ")
    assert result.exit_code == 1
    assert "has no word" in result.stderr


def test_a_network_is_begun_from_a_file(tmp_path):
    import zoo

    model = zoo.create_model("stvgformer_tiny")
    mdetr = {"bbox_embed.layers.2.bias": torch.full((4,), 7.0), "class_embed.weight": torch.zeros(3, 3)}
    save_file(mdetr, tmp_path / "mdetr.safetensors")
    out = tmp_path / "start.safetensors"
    result = run("ground-start", "stvgformer_tiny", "--part", f"mdetr={tmp_path / 'mdetr.safetensors'}", "--out", out)
    assert result.exit_code == 0
    assert "used     bbox_embed.layers.2.bias -> bbox_embed.layers.2.bias" in result.stdout
    assert "unused   class_embed.weight" in result.stdout
    assert "random   query_embed.weight" in result.stdout
    begun = zoo.create_model("stvgformer_tiny", checkpoint_path=out).state_dict()
    assert begun["bbox_embed.layers.2.bias"].tolist() == [7.0] * 4
    assert set(begun) == set(model.state_dict())
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    wrong = run("ground-start", "stvgformer_tiny", "--part", f"mdetr={tmp_path / 'other.safetensors'}", "--out", out)
    assert isinstance(wrong.exception, IntegrityError)
    assert isinstance(run("ground-start", "stvgformer_tiny", "--part", "x=y", "--out", out).exception, UsageError)


def test_a_small_random_film_gives_a_tube_or_says_none(tmp_path):
    path = film(tmp_path / "noise.mp4", small(count=12))
    (tube,) = json.loads(ground(path, "the person in red waves a hand", "--json").stdout)
    assert (tube["start"] is None) == (not tube["boxes"])
    assert np.isfinite([x for box in tube["boxes"] for x in box["xyxy"]]).all()
