import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from zoo.errors import InputError
from zoo.results.classification import Classification, Embedding


def make(**changed):
    fields = {
        "source": "cat.png",
        "labels": ("cat", "dog"),
        "scores": np.array([0.75, 0.25], np.float32),
        "indices": np.array([3, 5]),
        "size": (32, 24),
    }
    return Classification(**{**fields, **changed})


def test_reads_as_a_sequence_of_ranks():
    result = make()
    assert len(result) == 2
    assert result[0] == ("cat", 0.75)
    assert list(result) == [("cat", 0.75), ("dog", 0.25)]
    assert repr(result) == "Classification(cat.png: cat 0.750, dog 0.250)"


def test_to_dict_is_plain_json():
    row = json.loads(json.dumps(make(probabilities=np.array([0.75, 0.25], np.float32)).to_dict()))
    assert row["predictions"][0] == {"label": "cat", "index": 3, "score": 0.75}
    assert row["size"] == [32, 24]
    assert row["error"] is None
    assert row["probabilities"] == [0.75, 0.25]


@pytest.mark.parametrize(
    "changed",
    [
        {"labels": ("cat",)},
        {"scores": np.array([0.25, 0.75], np.float32)},
        {"scores": np.array([np.nan, 0.1], np.float32)},
        {"scores": np.array([1.5, 0.1], np.float32)},
        {"labels": (), "scores": np.zeros(0, np.float32), "indices": np.zeros(0, np.int64)},
    ],
)
def test_nonsense_is_refused_at_birth(changed):
    with pytest.raises(ValueError, match=r"labels|scores|error"):
        make(**changed)


def test_an_error_is_a_result_too():
    result = Classification("gone.png", error=InputError("gone.png: no such file", hint="look again"))
    assert len(result) == 0
    assert result.to_dict()["error"] == {
        "kind": "InputError",
        "message": "gone.png: no such file",
        "hint": "look again",
    }
    assert "no such file" in repr(result)
    with pytest.raises(InputError, match="no such file"):
        result.draw()


def test_draw_reads_the_picture_again():
    red = Image.new("RGB", (32, 24), (200, 10, 10))
    drawn = make(picture=lambda: red).draw()
    assert (200, 10, 10) in {color for _, color in drawn.getcolors(2**20)}
    with pytest.raises(InputError, match="cannot be drawn"):
        make().draw()


def test_rich_shows_names_scores_and_note():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(make(note="first frame of 3"))
    console.file.close()
    text = console.export_text()
    assert "cat.png  first frame of 3" in text
    assert "75.0%" in text
    assert "dog" in text


def test_embedding():
    result = Embedding("a.png", np.array([3, 4], np.float32))
    assert len(result) == 2
    assert "norm 5.000" in repr(result)
    assert result.to_dict()["vector"] == [3.0, 4.0]
    with pytest.raises(ValueError, match="finite"):
        Embedding("a.png", np.array([np.inf], np.float32))
    with pytest.raises(ValueError, match="without features"):
        Embedding("a.png")
