import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.viz.panels import PAPER, contact_sheet, enlarge, label_panel
from zoo.viz.text import ellipsize, text_width


@given(st.integers(1, 700), st.integers(1, 700))
@settings(deadline=None, max_examples=25)
def test_enlarge_stays_within_its_limits_and_keeps_the_shape(width, height):
    picture = enlarge(Image.new("RGB", (width, height)), 256, 640)
    assert max(picture.size) <= 640
    assert max(picture.size) >= min(256, 640)
    assert abs(picture.width / picture.height - width / height) <= 0.5 * max(width / height, 1) + 1


def test_small_pictures_grow_by_whole_pixels():
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 0, 0))
    picture = enlarge(image, 256, 640)
    assert picture.size == (256, 128)
    assert picture.getpixel((127, 64)) == (0, 0, 0)
    assert picture.getpixel((128, 64)) == (255, 0, 0)


@pytest.mark.parametrize("size", [(32, 32), (600, 450), (640, 200), (1, 30), (3000, 4000)])
def test_the_whole_picture_is_on_the_panel(size):
    panel = label_panel(Image.new("RGB", size, (1, 2, 3)), ["cat"], [0.5], title="x.png", note="first frame of 2")
    shown = sum(count for count, color in panel.getcolors(2**24) if color == (1, 2, 3))
    assert shown == enlarge(Image.new("RGB", size)).width * enlarge(Image.new("RGB", size)).height


def test_bars_grow_with_the_score():
    def blue(score):
        panel = label_panel(Image.new("RGB", (32, 32)), ["cat"], [score])
        return sum(count for count, (r, _, b) in panel.getcolors(2**24) if b - r > 100)

    assert 0 == blue(0.0) < blue(0.1) < blue(0.5) < blue(1.0)


def test_long_names_are_cut_and_stay_on_the_panel():
    short = label_panel(Image.new("RGB", (32, 32)), ["cat"], [0.5], title="a.png")
    long = label_panel(Image.new("RGB", (32, 32)), ["cat " * 200], [0.5], title="a/" * 500)
    assert long.size == short.size
    for x in range(long.width - 19, long.width):  # the margin
        assert all(long.getpixel((x, y)) == PAPER for y in range(long.height))


@given(
    st.text(st.characters(codec="latin-1", exclude_categories=["C"]), max_size=60), st.integers(30, 300), st.booleans()
)
@settings(deadline=None, max_examples=40)
def test_ellipsized_text_fits(text, width, keep_end):
    cut = ellipsize(text, 16, width, keep_end=keep_end)
    assert text_width(cut, 16) <= width
    assert cut == text or "…" in cut


def test_contact_sheet_shows_every_picture():
    colors = [(10 * i + 5, 0, 77) for i in range(7)]
    sheet = contact_sheet([Image.new("RGB", (32, 20), color) for color in colors], ["name\n10 %"] * 7, columns=3)
    assert set(colors) <= {color for _, color in sheet.getcolors(2**24)}
    with pytest.raises(ValueError, match="captions"):
        contact_sheet([], [])
