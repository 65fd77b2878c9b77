"""Curves: one panel a series, points where they belong, nothing that breaks on odd numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.viz.curves import COLOURS, HEIGHT, LINE, WIDTH, chart, curves

numbers = st.floats(-1e12, 1e12) | st.just(float("nan")) | st.just(float("inf"))


@given(values=st.lists(numbers, max_size=6), panels=st.integers(1, 5))
def test_any_numbers_give_a_picture_of_panels(values, panels):
    series = {f"figure {k}": list(enumerate(values)) for k in range(panels)}
    assert curves(series, across="epoch").size == (WIDTH * min(2, panels), HEIGHT * -(-panels // 2))


def test_a_falling_line_falls():
    pixels = np.asarray(curves({"loss": [(1, 3.0), (2, 2.0), (3, 1.0)]}))
    rows, columns = np.nonzero((pixels == LINE).all(2) & (np.arange(HEIGHT)[:, None] > 40))
    left, right = (rows[columns == edge].mean() for edge in (columns.min(), columns.max()))
    assert left + 100 < right


def test_lines_of_a_chart_share_their_axes():
    pixels = np.asarray(chart({"high": [(1, 90.0), (2, 80.0)], "low": [(1, 20.0), (2, 10.0)]}, title="accuracy"))
    high, low = (np.nonzero((pixels[60:, :560] == colour).all(2))[0].mean() for colour in COLOURS[:2])
    assert high + 100 < low


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="no series"):
        chart({"empty": [(0, float("nan"))]}, title="")
    with pytest.raises(ValueError, match="no series"):
        curves({})
