"""Which places a query looks at, under each dilation of the first stages."""

import inspect

from made.svg import Drawing

from zoo.models.dilateformer import DilateFormer

DILATIONS = inspect.signature(DilateFormer).parameters["dilations"].default

SIDE, COUNT = 17, 9


def draw() -> Drawing:
    """One map a dilation: the query in the middle, its nine keys around it."""
    drawing = Drawing(760, 220, "Three by three windows at dilations one, two and three")
    for i, (dilation, colour) in enumerate(zip(DILATIONS, ("blue", "orange", "green", "violet"), strict=False)):
        x = 60 + i * 230
        middle = COUNT // 2
        keys = {(middle + dilation * a, middle + dilation * b): colour for a in (-1, 0, 1) for b in (-1, 0, 1)}
        drawing.text(x + SIDE * COUNT / 2, 14, f"heads with dilation {dilation}")
        drawing.grid(x, 30, SIDE, COUNT, keys | {(middle, middle): "red"})
    drawing.text(
        380, 206, "a query (red) and its nine keys; the heads of one layer see near and far at once", colour="soft"
    )
    return drawing
