"""Two versions of a picture beside each other, and a page with a slider between them."""

import base64
import html
import io
from string import Template
from typing import TYPE_CHECKING

from zoo.viz.panels import FAINT, INK, PAPER, SMALL, TITLE
from zoo.viz.text import ellipsize, font

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["compare_page", "side_by_side"]

SIDE, GAP, MARGIN = 480, 8, 16  # pixels: largest side of a picture, between two, around
ZOOM, INSET = 4, 60  # the part below shows INSET rows of pixels, each ZOOM times as large

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  body { margin: 0; background: #16181d; color: #d8dce4; font: 15px/1.4 system-ui, sans-serif; }
  header { display: flex; gap: 1.5em; align-items: baseline; padding: .7em 1em; flex-wrap: wrap; }
  h1 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
  header span { color: #8f97a6; }
  label { margin-left: auto; color: #8f97a6; }
  main { overflow: auto; height: calc(100vh - 3.2em); display: flex; }
  #stage { position: relative; margin: auto; line-height: 0; touch-action: none; cursor: ew-resize; --at: 50%; }
  #stage img { display: block; width: auto; height: auto; max-width: 100vw; max-height: calc(100vh - 3.2em);
    user-select: none; }
  #stage.real img { max-width: none; max-height: none; image-rendering: pixelated; }
  #before { position: absolute; inset: 0; clip-path: inset(0 calc(100% - var(--at)) 0 0); }
  #bar { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px; background: #fff;
         box-shadow: 0 0 4px #000; }
  #bar:focus { outline: 2px solid #6aa7ff; }
  #bar::after { content: "\\2039 \\203A"; position: absolute; top: 50%; left: 50%; translate: -50% -50%; width: 2.2em;
    height: 2.2em; border-radius: 50%; background: #fff; color: #16181d; font: bold 15px/2.1em sans-serif;
    text-align: center; box-shadow: 0 0 4px #000; }
  .tag { position: absolute; top: .6em; padding: .3em .6em; border-radius: .3em; background: #000a; line-height: 1.2; }
</style>
<header>
  <h1>$title</h1><span>$note</span>
  <label><input type="checkbox" id="real"> real pixels</label>
</header>
<main>
  <div id="stage">
    <img src="$after" alt="after" width="$width" height="$height" draggable="false">
    <div id="before">
      <img src="$before" alt="before" width="$width" height="$height" draggable="false">
    </div>
    <span class="tag" style="left: .6em">before</span><span class="tag" style="right: .6em">after</span>
    <div id="bar" role="slider" tabindex="0" aria-label="before and after" aria-valuemin="0" aria-valuemax="100"
         aria-valuenow="50"></div>
  </div>
</main>
<script>
  const stage = document.getElementById("stage"), bar = document.getElementById("bar");
  let at = 50;
  function place(value) {
    at = Math.min(100, Math.max(0, value));
    stage.style.setProperty("--at", at + "%");
    bar.setAttribute("aria-valuenow", Math.round(at));
  }
  function follow(event) {
    const box = stage.getBoundingClientRect();
    place(100 * (event.clientX - box.left) / box.width);
  }
  stage.addEventListener("pointerdown", event => { stage.setPointerCapture(event.pointerId); follow(event); });
  stage.addEventListener("pointermove", event => { if (event.buttons) follow(event); });
  bar.addEventListener("keydown", event => {
    const step = { ArrowLeft: -2, ArrowRight: 2, Home: -100, End: 100 }[event.key];
    if (step) { place(at + step); event.preventDefault(); }
  });
  document.getElementById("real").addEventListener("change", event =>
    stage.classList.toggle("real", event.target.checked));
</script>
</html>
""")


def compare_page(before: "Image", after: "Image", *, title: str, note: str = "") -> str:
    """A page of its own, pictures inside, on which a bar is drawn across: before on its left, after on its right.

    Args:
        before: Any picture of a screen.
        after: The same size.
        title: Headline, such as the file's name.
        note: Small text beside it.

    Raises:
        ValueError: The sizes differ.
    """
    if before.size != after.size:
        raise ValueError(f"pictures of {before.size} and {after.size}")
    return PAGE.substitute(
        title=html.escape(title),
        note=html.escape(note),
        before=_address(before),
        after=_address(after),
        width=before.width,
        height=before.height,
    )


def _address(image: "Image") -> str:
    held = io.BytesIO()
    image.save(held, "PNG", compress_level=6)
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def side_by_side(before: "Image", after: "Image", *, title: str = "", note: str = "") -> "Image":
    """Both pictures in a row, and below each the same small part of it, enlarged.

    Args:
        before: Any picture.
        after: The same size.
        title: Line above them.
        note: Smaller line beside it.
    """
    from PIL import Image, ImageDraw

    scale = min(1.0, SIDE / max(before.size))
    size = max(1, round(before.width * scale)), max(1, round(before.height * scale))
    part = _busiest(before, max(INSET, size[0] // ZOOM), INSET)
    inset = ((part[2] - part[0]) * ZOOM, (part[3] - part[1]) * ZOOM)
    column = max(size[0], inset[0])
    top = MARGIN + (TITLE + 14 if title or note else 0)
    panel = Image.new("RGB", (2 * column + GAP + 2 * MARGIN, top + size[1] + GAP + inset[1] + MARGIN), PAPER)
    draw = ImageDraw.Draw(panel)
    if title or note:
        draw.text((MARGIN, MARGIN - 4), ellipsize(title, TITLE, column, keep_end=True), INK, font(TITLE))
        draw.text((MARGIN + column + GAP, MARGIN), ellipsize(note, SMALL, column), FAINT, font(SMALL))
    for i, image in enumerate((before, after)):
        x = MARGIN + i * (column + GAP)
        shown = _on_paper(image)
        panel.paste(shown.resize(size, Image.Resampling.LANCZOS), (x, top))
        panel.paste(shown.crop(part).resize(inset, Image.Resampling.NEAREST), (x, top + size[1] + GAP))
        frame = [x + part[0] * scale, top + part[1] * scale, x + part[2] * scale, top + part[3] * scale]
        draw.rectangle(frame, outline=PAPER, width=2)
    return panel


def _busiest(image: "Image", width: int, height: int) -> tuple[int, int, int, int]:
    """The part of a size with the most contrast from pixel to pixel: that is where a filter shows."""
    import numpy as np

    grey = np.asarray(image.convert("L"), dtype=np.float32)
    rows, columns = min(height, grey.shape[0]), min(width, grey.shape[1])
    activity = np.zeros_like(grey)
    activity[:, 1:] += np.abs(np.diff(grey, axis=1))
    activity[1:] += np.abs(np.diff(grey, axis=0))
    total = np.pad(activity.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(x), int(y), int(x) + columns, int(y) + rows


def _on_paper(image: "Image") -> "Image":
    """RGB, transparent parts white."""
    from PIL import Image

    if image.mode not in ("LA", "RGBA"):
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")
