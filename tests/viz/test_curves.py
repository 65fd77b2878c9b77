"""Curves: one panel a series, points where they belong, nothing that breaks on odd numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.viz.curves import HEIGHT, LINE, WIDTH, curves

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


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="no series"):
        curves({})
