"""Before and after: the panel, and the page in a real browser."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from zoo.viz.compare import compare_page, side_by_side

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.parametrize("size", [(1, 1), (300, 2), (2, 300), (900, 500)], ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_panels_of_all_shapes(size, mode):
    before, after = Image.new(mode, size, "white"), Image.new(mode, size)
    panel = side_by_side(before, after, title="a name", note="a note")
    assert panel.mode == "RGB"
    colours = np.asarray(panel)
    assert (colours == 0).all(2).any() or mode == "RGBA"  # nothing of RGBA is opaque


def test_the_enlarged_part_is_where_something_happens():
    rng = np.random.default_rng(0)
    calm = np.full((300, 400, 3), 128, np.uint8)
    calm[200:260, 100:220] = rng.integers(0, 256, (60, 120, 3))
    panel = np.asarray(side_by_side(Image.fromarray(calm), Image.fromarray(calm)))
    below = panel[16 + 300 + 8 : -16, 16 : 16 + 400].astype(int)
    assert below.std() > 40


def test_names_are_no_markup():
    image = Image.new("RGB", (4, 4))
    page = compare_page(image, image, title="<script>alert(1)</script>", note='a "b" & $c')
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
    assert "a &quot;b&quot; &amp; $c" in page
    with pytest.raises(ValueError, match="pictures of"):
        compare_page(image, Image.new("RGB", (5, 4)), title="")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_in_a_browser(tmp_path):
    """Red before, blue after: half and half when it opens, and all red after the End key."""
    red, blue = Image.new("RGB", (400, 300), (200, 0, 0)), Image.new("RGB", (400, 300), (0, 0, 200))
    page = compare_page(red, blue, title="colours")
    assert shares(tmp_path, page) == pytest.approx((0.5, 0.5), abs=0.1)
    press = 'document.getElementById("bar").dispatchEvent(new KeyboardEvent("keydown", {key: "End"}));</script>'
    assert shares(tmp_path, page.replace("</script>", press)) == pytest.approx((1.0, 0.0), abs=0.1)


def shares(folder, page):
    """Of the screen's coloured pixels, how many are red and how many blue."""
    (folder / "page.html").write_text(page)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [CHROMIUM, *flags.split(), "--disable-component-update", "--disable-sync", "--window-size=600,500"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--screenshot={folder / 'shot.png'}"]
    subprocess.run([*command, (folder / "page.html").as_uri()], check=True, capture_output=True, timeout=120)
    shot = np.asarray(Image.open(folder / "shot.png").convert("RGB")).astype(int)
    red, blue = (shot[..., 0] - shot[..., 2] > 100).sum(), (shot[..., 2] - shot[..., 0] > 100).sum()
    return red / (red + blue), blue / (red + blue)
