import numpy as np
import pytest
from PIL import Image

from zoo.viz.heat import UNSEEN, heat_overlay

GREY = Image.new("RGB", (90, 60), (100, 100, 100))


def test_no_heat_leaves_a_grey_picture():
    assert heat_overlay(GREY, np.zeros((7, 7), np.float32)).getcolors() == [(90 * 60, (100, 100, 100))]


def test_the_heat_is_where_it_was_found():
    heat = np.zeros((6, 9), np.float32)
    heat[1, 7] = 1  # of 6 rows and 9 columns: a cell of ten pixels
    pixels = np.asarray(heat_overlay(GREY, heat)).astype(int)
    change = np.abs(pixels - 100).sum(2)
    row, column = np.unravel_index(change.argmax(), change.shape)
    assert (row // 10, column // 10) == (1, 7)
    assert change[:, :50].max() == 0


@pytest.mark.parametrize("size", [(90, 60), (1, 1), (500, 33)])
def test_what_lies_outside_the_box_is_dark(size):
    image = Image.new("RGB", size, (100, 100, 100))
    out = heat_overlay(image, np.zeros((2, 2), np.float32), (0.25, 0, 0.75, 1))
    pixels = np.asarray(out)[:, :, 0]
    assert out.size == size
    if size[0] > 4:
        assert set(pixels[:, : size[0] // 4].ravel()) == {round(100 * UNSEEN)}
        assert set(pixels[:, size[0] // 4 + 1 : 3 * size[0] // 4].ravel()) == {100}
