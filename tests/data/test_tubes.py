"""Files of grounding: each form read, hand-made cases counted, bad entries left out and named."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.tubes import (
    Annotation,
    challenge_dict,
    hcstvg_dict,
    mot_rows,
    read_annotations,
    read_mot,
    read_predictions,
    tube_line,
    vidstg_dict,
)
from zoo.errors import InputError
from zoo.metrics import FrameTube, grounding_scores

ENTRY = {"bbox": [[10, 20, 30, 40]] * 5, "st_time": 1.0, "ed_time": 9.9, "st_frame": 11, "img_num": 500}
V1 = {**ENTRY, "width": 640, "height": 360, "caption": "the man sits down"}
V2 = {**ENTRY, "img_size": [360, 640], "English": "the man sits down"}


def written(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("entry", [V1, V2], ids=["v1", "v2"])
def test_hcstvg(tmp_path, entry):
    (sample,) = read_annotations(written(tmp_path / "a.json", {"x.mp4": entry})).samples
    assert (sample.key, sample.sentence, sample.size, sample.rate) == ("x.mp4", "the man sits down", (640, 360), 25)
    assert (sample.tube.start, sample.tube.end, sample.tube.video_frames) == (
        10,
        15,
        500,
    )  # the boxes count, not ed_time
    assert sample.tube.boxes[0].tolist() == [10, 20, 40, 60]
    (shifted,) = read_annotations(tmp_path / "a.json", peer_compat=True).samples
    assert shifted.tube.start == 11


def test_bad_entries_are_left_out_and_named(tmp_path):
    content = {"good.mp4": V1, "none.mp4": {**V1, "bbox": []}, "cut.mp4": {"st_frame": 3}}
    found = read_annotations(written(tmp_path / "a.json", content))
    assert [sample.video for sample in found.samples] == ["good.mp4"]
    assert [line.partition(":")[0] for line in found.bad] == ["none.mp4", "cut.mp4"]


def test_vidstg(tmp_path):
    box = {"bbox": {"xmin": 1, "ymin": 2, "xmax": 11, "ymax": 22}}
    entry = {
        "vid": "7",
        "fps": 30,
        "width": 320,
        "height": 240,
        "used_segment": {"begin_fid": 100, "end_fid": 200},
        "temporal_gt": {"begin_fid": 120, "end_fid": 124},
        "questions": [{"description": "who runs?", "type": "child", "target_id": 0}],
        "captions": [{"description": "a child runs", "type": "child", "target_id": 0}],
    }
    tracks = {"7": {"0": {str(frame): box for frame in range(100, 200)}}}
    question, caption = read_annotations(
        written(tmp_path / "v.json", {"videos": [entry], "trajectories": tracks})
    ).samples
    assert (question.kind, caption.kind) == ("interrogative", "declarative")
    assert (caption.tube.start, caption.tube.end, caption.start) == (20, 24, 100)
    assert caption.tube.boxes[0].tolist() == [1, 2, 11, 22]


def test_predictions_make_a_round_trip(tmp_path):
    truths = read_annotations(written(tmp_path / "a.json", {"x.mp4": V1})).samples
    tube = FrameTube(8, 13, np.tile([10.0, 20.0, 40.0, 60.0], (5, 1)))
    document = challenge_dict({"x.mp4": tube})
    assert (document["x.mp4"]["st_frame"], document["x.mp4"]["ed_frame"]) == (8, 12)
    found = read_predictions(written(tmp_path / "p.json", document), truths)
    scores = grounding_scores(found, {truth.key: truth.tube for truth in truths}, "tubedetr")
    assert scores.m_tIoU == pytest.approx(3 / 7)  # frames 10, 11 and 12 of 8 to 14


def test_our_lines(tmp_path):
    boxes = [{"t": t, "xyxy": [0, 0, 10 * t, 10]} for t in (2.0, 2.5, 3.0)]
    line = {"video": "a.mp4", "query": "he runs", "start": 2.0, "end": 3.5, "boxes": boxes}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n\nno json\n")
    found = read_annotations(tmp_path / "a.jsonl")
    assert (found.samples[0].tube.start, found.samples[0].tube.end, found.samples[0].rate) == (4, 7, 2)
    assert found.bad[0].startswith("line 3")


def test_mot_counts_from_one():
    rows = mot_rows(np.array([4, 5]), np.array([[1.0, 2.0, 11.0, 22.0]] * 2), 3, 0.5)
    assert rows == [[5, 3, 1, 2, 10, 20, 0.5, -1, -1, -1], [6, 3, 1, 2, 10, 20, 0.5, -1, -1, -1]]


@given(start=st.integers(0, 40), length=st.integers(1, 12), rate=st.sampled_from([5.0, 12.5, 25.0, 30.0]))
def test_every_form_makes_a_round_trip(tmp_path_factory, start, length, rate):
    folder = tmp_path_factory.mktemp("tubes")
    corner = np.linspace([1.25, 2.5], [30, 40], length)
    boxes = np.concatenate([corner, corner + np.array([20, 30])], 1).round(2)
    tube = FrameTube(start, start + length, boxes, None, round(20 * rate))
    sample = Annotation("x.mp4", "x.mp4", 'she says "né"', tube, rate, (640, 360))
    (folder / "ours.jsonl").write_text(tube_line(sample) + "\n", encoding="utf-8")
    frames = np.arange(start, start + length)
    rows = [row for track in (1, 2) for row in mot_rows(frames, boxes, track, 0.5)]
    (folder / "mot.txt").write_text("".join(",".join(f"{x:g}" for x in row) + "\n" for row in rows))
    tracks = read_mot(folder / "mot.txt")
    assert set(tracks) == {1, 2}
    again = {
        "mot": tracks[2],
        "ours": read_annotations(folder / "ours.jsonl").samples[0].tube,
        "hcstvg": read_annotations(written(folder / "v2.json", hcstvg_dict([sample]))).samples[0].tube,
        "vidstg": read_annotations(written(folder / "v.json", vidstg_dict([sample]))).samples[0].tube,
        "challenge": read_predictions(written(folder / "p.json", challenge_dict({"x.mp4": tube})), [])["x.mp4"],
    }
    for found in again.values():
        assert (found.start, found.end) == (start, start + length)
        np.testing.assert_allclose(found.at(frames), boxes, atol=0.011)  # files keep two decimals of sides
    read = read_annotations(folder / "ours.jsonl").samples[0]
    assert (read.sentence, read.size) == (sample.sentence, sample.size)


def test_vidstg_comes_back_with_several_sentences_of_a_video(tmp_path):
    """A video has an entry for each of its relations; none may take another's place."""
    boxes = np.arange(8.0).reshape(2, 4)
    first = Annotation("v/0", "v", "who runs?", FrameTube(3, 5, boxes, None, 20), 25.0, (64, 48), "interrogative", 7)
    other = Annotation("v/1", "v", "she sits", FrameTube(8, 10, boxes + 9, None, 20), 25.0, (64, 48), start=7)
    found = read_annotations(written(tmp_path / "a.json", vidstg_dict([first, other])))
    assert not found.bad
    for sample, again in zip((first, other), found.samples, strict=True):
        for name in ("key", "video", "sentence", "rate", "size", "kind", "start"):
            assert getattr(again, name) == getattr(sample, name)
        assert (again.tube.start, again.tube.end, again.tube.video_frames) == (sample.tube.start, sample.tube.end, 20)
        np.testing.assert_allclose(again.tube.boxes, sample.tube.boxes)
    with pytest.raises(ValueError, match="not known"):
        vidstg_dict([replace(first, size=None)])


def test_a_bad_sentence_of_vidstg_costs_itself_only(tmp_path):
    boxes = np.ones((2, 4))
    content = vidstg_dict([Annotation("v/0", "v", "he runs", FrameTube(0, 2, boxes, None, 9), 25.0, (8, 8))])
    content["videos"][0]["captions"].append({"description": "he sits", "target_id": 7})
    content["videos"].append(1)
    found = read_annotations(written(tmp_path / "a.json", content))
    assert [sample.sentence for sample in found.samples] == ["he runs"]
    assert [line.partition(":")[0] for line in found.bad] == ["v/1", "entry 1"]


def test_infinities_and_nothing_cost_themselves_only(tmp_path):
    lines = ['{"video": "a", "query": "q", "boxes": [{"t": 1e400, "xyxy": [0, 0, 1, 1]}]}', '{"video": "b"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert [line.partition(":")[0] for line in read_annotations(tmp_path / "a.jsonl").bad] == ["line 1", "line 2"]
    videos = [{"vid": "v", "questions": None, "captions": 3}]
    (tmp_path / "a.json").write_text(json.dumps({"videos": videos, "trajectories": {}}))
    assert [line.partition(":")[0] for line in read_annotations(tmp_path / "a.json").bad] == ["v/0"]
    (tmp_path / "mot.txt").write_text("1,inf,0,0,1,1\n")
    with pytest.raises(InputError, match="line 1 is no row of MOT"):
        read_mot(tmp_path / "mot.txt")


def test_what_hcstvg_cannot_hold():
    tube = FrameTube(0, 1, np.zeros((1, 4)), None, 9)
    sample = Annotation("x.mp4", "x.mp4", "he runs", tube, 25.0, (8, 8))
    with pytest.raises(ValueError, match="two sentences"):
        hcstvg_dict([sample, sample])
    with pytest.raises(ValueError, match="not known"):
        hcstvg_dict([replace(sample, size=None)])


def test_a_row_that_is_none_of_mots(tmp_path):
    (tmp_path / "mot.txt").write_text("1,1,2,3,4,5,1,-1,-1,-1\n1,1,two\n")
    with pytest.raises(InputError, match="line 2"):
        read_mot(tmp_path / "mot.txt")


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "no JSON"), ("[1]", "no annotations"), (None, "no such file"), ('{"x": {"st_frame": 1}}', None)],
)
def test_files_that_are_none(tmp_path, content, said):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    if said is None:
        assert read_annotations(path).bad == ["x: no 'bbox'"]
        return
    with pytest.raises(InputError, match=said) as caught:
        read_annotations(path)
    assert "\n" not in caught.value.message


def test_a_prediction_without_a_box_for_a_frame(tmp_path):
    entry = {"st_frame": 1, "ed_frame": 3, "bbox": {"1": [0, 0, 1, 1], "3": [0, 0, 1, 1]}}
    with pytest.raises(InputError, match=r"x\.mp4: no '2'"):
        read_predictions(written(tmp_path / "p.json", {"x.mp4": entry}), [])
