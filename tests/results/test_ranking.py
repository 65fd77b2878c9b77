import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from zoo.errors import InputError
from zoo.results.ranking import Hit, Ranking, page
from zoo.viz.ranking import COLOURS, Cell, Row, ranking_sheet


def picture(grey=128, size=(40, 80)):
    return lambda: Image.new("RGB", size, (grey, grey, grey))


def gone():
    raise InputError("gone.png: no such file")


def make(**changed):
    hits = (
        Hit(1, "a/1.png", 0.9, label="7", camera="1", modality="visible", is_right=True, picture=picture()),
        Hit(2, "a/2.png", 0.8, label="8", is_right=False, picture=picture()),
        Hit(3, "a/3.png", 0.8, picture=gone),
    )
    fields = {"query": "q/ask.png", "hits": hits, "label": "7", "searched": 1234, "picture": picture()}
    return Ranking(**{**fields, **changed})


def test_to_dict_is_plain_json_and_leaves_out_what_nobody_knows():
    row = json.loads(json.dumps(make().to_dict()))
    assert row["hits"][0] == {
        "rank": 1, "path": "a/1.png", "score": 0.9,
        "label": "7", "camera": "1", "modality": "visible", "is_right": True,
    }  # fmt: skip
    assert row["hits"][2] == {"rank": 3, "path": "a/3.png", "score": 0.8}
    assert (row["query"], row["searched"], row["error"]) == ("q/ask.png", 1234, None)
    clip = Hit(1, "c.mp4", 0.5, start=2.0, end=5.0, peak=3.0, prototype=1, more={"fps": 25})
    assert clip.to_dict() == {
        "rank": 1, "path": "c.mp4", "score": 0.5, "start": 2.0, "end": 5.0, "peak": 3.0, "prototype": 1, "fps": 25,
    }  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"hits": (Hit(1, "a", 0.1), Hit(2, "b", 0.2))},
        {"hits": (Hit(1, "a", float("nan")), Hit(2, "b", 0.2))},
        {"hits": (Hit(2, "a", 0.1),)},
        {"error": InputError("bad")},
    ],
)
def test_nonsense_is_refused_at_birth(changed):
    with pytest.raises(ValueError, match=r"scores|ranks|error"):
        make(**changed)


def test_frames_say_right_and_wrong_by_colour_and_by_sign():
    cells = tuple(Cell(picture()(), mark, ("line",)) for mark in ("right", "wrong", "unknown"))
    sheet = np.asarray(ranking_sheet(Row("title", Cell(picture()(), "query"), cells)))
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3)}
    assert set(COLOURS.values()) <= colours
    # a badge of the frame's colour with a white sign in it: more of the colour than a frame alone has, for two of them
    counts = {mark: (sheet == colour).all(2).sum() for mark, colour in COLOURS.items()}
    assert counts["right"] > counts["unknown"] + 300
    assert counts["wrong"] > counts["unknown"] + 300


def test_a_missing_picture_leaves_its_place():
    ranking = make()
    assert ranking.draw().width > 3 * 110
    text = ranking.html()
    assert text.count("<figure") == 4
    assert text.count("no picture") == 1
    assert 'aria-label="right"' in text
    assert 'aria-label="wrong"' in text


def test_a_page_of_clips_plays_them_and_escapes_names(tmp_path):
    clip = tmp_path / "a & b.mp4"
    asked = Ranking("a <dog>", (Hit(1, str(clip), 0.5, start=1.0, end=2.5, picture=picture(size=(160, 90))),))
    text = page([asked, Ranking("bad", error=InputError("nothing"))])
    assert "a &lt;dog&gt;" in text
    assert "<dog>" not in text
    assert f'src="{clip.as_uri()}#t=1.00,2.50"' in text
    assert text.count("<section") == 1
    late = Ranking("a dog", (Hit(1, str(clip), 0.5, start=59.97, end=3599.96),))
    assert "1:00.0 to 60:00.0" in page([late])
    with pytest.raises(InputError, match="nothing"):
        page([Ranking("bad", error=InputError("nothing"))])


def test_reads_as_a_sequence_and_prints():
    ranking = make()
    assert [hit.rank for hit in ranking] == [1, 2, 3]
    assert (len(ranking), ranking[0].path) == (3, "a/1.png")
    assert repr(ranking) == "Ranking(q/ask.png: 1.png 0.900, 2.png 0.800, 3.png 0.800)"
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(ranking)
    assert "✓" in console.export_text()
    bad = Ranking("q", error=InputError("no"))
    with pytest.raises(InputError, match="no"):
        bad.draw()
