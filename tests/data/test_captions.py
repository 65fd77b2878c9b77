"""Videos with captions: lists of one's own, and published sets in the form of their annotation files."""

import json

import numpy as np
import pytest

pytest.importorskip("av")

from tests.films import write_people
from zoo.data.captions import caption_sets, load_described, protocol, read_pairs
from zoo.data.clip_sources import VideoClips, open_clips
from zoo.errors import InputError, UsageError
from zoo.registry.card import Input

INPUT = Input(size=(3, 32, 32), crop_pct=1.0)


def test_lines_of_a_video_become_one(tmp_path):
    lines = [
        {"video": "a.mp4", "captions": ["one", "two"]},
        {"video": "b.mp4", "caption": "three", "start": 1, "end": 2.5},
        {"video": "a.mp4", "caption": "four"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    first, second = read_pairs(tmp_path / "pairs.jsonl")
    assert first.captions == ("one", "two", "four")
    assert first.video == str(tmp_path / "a.mp4")
    assert (second.start, second.end) == (1.0, 2.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", ":1:"),
        ('{"video": "a.mp4"}', ":1: no 'caption'"),
        ('{"captions": ["x"]}', ":1: no 'video'"),
        ('{"video": 3, "captions": ["x"]}', ":1:"),
        ('{"video": "a.mp4", "captions": []}', "sentences"),
        ('{"video": "a.mp4", "captions": ["x", " "]}', "sentences"),
        ("[1]", ":1: no JSON object"),
        ("", "no lines"),
    ],
)
def test_a_list_that_is_none_is_named_with_its_line(tmp_path, text, said):
    (tmp_path / "pairs.jsonl").write_text(text)
    with pytest.raises(InputError, match=said):
        read_pairs(tmp_path / "pairs.jsonl")


@pytest.fixture
def sets(tmp_path):
    """Every published set in small, as its annotations are laid out."""
    folder = tmp_path / "msrvtt"
    folder.mkdir()
    videos = [("video0", "train"), ("video1", "train"), ("video2", "test"), ("video3", "validate")]
    sentences = [{"video_id": video, "caption": f"{video} {n}"} for video, _ in videos for n in range(2)]
    data = {"videos": [{"video_id": video, "split": split} for video, split in videos], "sentences": sentences}
    (folder / "MSRVTT_data.json").write_text(json.dumps(data))
    (folder / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\nvideo3\n")
    (folder / "MSRVTT_JSFUSION_test.csv").write_text('key,vid_key,video_id,sentence\nr0,m2,video2,"one, fixed"\n')
    (folder / "videos").mkdir()
    (folder / "videos" / "video2.mp4").touch()
    folder = tmp_path / "msvd"
    folder.mkdir()
    (folder / "test_list.txt").write_text("abc_1_2\n")
    (folder / "captions.txt").write_text("abc_1_2 a man sings\nother x\nabc_1_2 someone sings\n")
    folder = tmp_path / "didemo"
    folder.mkdir()
    rows = [{"video": "v.mov", "description": text} for text in ("first", "then ")]
    (folder / "test_data.json").write_text(json.dumps(rows))
    folder = tmp_path / "lsmdc"
    folder.mkdir()
    line = "0001_film_00.1-00.2\t0\t1\t0\t1\tSOMEONE runs."
    (folder / "LSMDC16_challenge_1000_publictect.csv").write_text(line + "\n")
    return tmp_path


def test_msr_vtt_and_its_splits(sets):
    (test,) = load_described("msrvtt", "test", sets)
    assert test.captions == ("one, fixed",)
    assert test.video.endswith("videos/video2.mp4")
    train = load_described("msrvtt", "train", sets)
    assert [item.captions for item in train] == [("video0 0", "video0 1"), ("video3 0", "video3 1")]
    assert [item.captions[0] for item in load_described("msrvtt", "train_7k", sets)] == ["video0 0", "video1 0"]
    assert [item.captions[0] for item in load_described("msrvtt", "test_full", sets)] == ["video2 0"]
    assert "JSFusion" in protocol("msrvtt", "test")


def test_the_other_sets(sets):
    assert load_described("msvd", "test", sets)[0].captions == ("a man sings", "someone sings")
    assert load_described("didemo", "test", sets)[0].captions == ("first then",)
    assert load_described("lsmdc", "test", sets)[0].captions == ("SOMEONE runs.",)
    for name in caption_sets():
        assert protocol(name, "test").startswith(("MSR-VTT 1k-A", "MSVD", "DiDeMo", "LSMDC"))


def test_what_is_missing_is_named(sets):
    with pytest.raises(UsageError, match="no part 'dev'"):
        load_described("msvd", "dev", sets)
    with pytest.raises(InputError, match="val_list"):
        load_described("msvd", "val", sets)
    with pytest.raises(InputError, match="neither"):
        load_described("nowhere", "test", sets)


@pytest.mark.parametrize(
    ("name", "split", "file", "content"),
    [
        ("msrvtt", "test_full", "MSRVTT_data.json", "{}"),
        ("msrvtt", "test", "MSRVTT_JSFUSION_test.csv", "a,b\n1,2\n"),
        ("didemo", "test", "test_data.json", '{"a": 1}'),
        ("didemo", "test", "test_data.json", '[{"video": "a.mp4", "description": null}]'),
    ],
)
def test_other_annotations_are_one_line(tmp_path, name, split, file, content):
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=f"holds other annotations than {name}'s"):
        load_described(name, split, tmp_path)


def test_a_line_ends_where_the_file_says(tmp_path):
    text = "a dog\u2028runs"  # a line to str.splitlines(), none to JSON
    (tmp_path / "test.jsonl").write_text(json.dumps({"video": "a.mp4", "caption": text}, ensure_ascii=False))
    assert read_pairs(tmp_path / "test.jsonl")[0].captions == (text,)


def test_videos_are_read_by_time_the_same_crop_for_all_frames(tmp_path):
    write_people(tmp_path / "a.mp4", 3, 2.0)
    lines = [
        {"video": "a.mp4", "caption": "somebody"},
        {"video": "a.mp4", "caption": "later", "start": 1.0},
        {"video": "a.mp4", "caption": "never", "start": 9.0},
        {"video": "a.mp4", "caption": "walks to the left", "end": 1.0},
        {"video": "a.mp4", "caption": "Right-handed, he walks.", "end": 1.5},
        {"video": "a.mp4", "caption": "He turns left.", "end": 1.8},
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = open_clips(tmp_path.name, "test", tmp_path.parent, INPUT, 4)
    assert isinstance(source, VideoClips)
    clip, count = source.read(0, None)
    assert clip.shape == (4, 32, 32, 3)
    assert count == 4
    late, _ = source.read(1, None)
    assert np.abs(clip[-1].astype(int) - late[-1]).mean() < np.abs(clip[0].astype(int) - late[-1]).mean()
    with pytest.raises(InputError, match="ends before"):
        source.read(2, None)
    seen = [source.read(0, np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0] != seen[2]).any()
    sky = [clip[0, 2, 2].astype(int) for clip in seen]
    for clip, corner in zip(seen, sky, strict=True):
        assert np.abs(clip[:, 2, 2].astype(int) - corner).max() < 30  # one crop: the corner stays sky
    flips = {
        row: [source._cut(source.described[row], np.random.default_rng(seed)).is_mirrored for seed in range(12)]
        for row in (0, 3, 4, 5)
    }
    assert 0 < sum(flips[0]) < 12
    assert not any(flips[3] + flips[4] + flips[5])  # their captions name a side
