"""The way down a Gaussian pyramid and the three filters a level on the way up."""

from made.svg import Drawing


def draw() -> Drawing:
    """Down the left side texture is lost; up the right side structure comes back."""
    drawing = Drawing(760, 230, "A Gaussian pyramid down, three joint bilateral filters a level up")
    for i, width in enumerate((150, 104, 60)):
        y = 24 + i * 68
        drawing.rect(110 - width / 2, y, width, 44, fill="blue", stroke="blue", opacity=0.15)
        for k in range(0, int(width) - 8, 6 * 2**i):  # texture, gone at the coarsest level
            if i < 2:
                drawing.line(
                    [(110 - width / 2 + 4 + k, y + 38), (110 - width / 2 + 8 + k, y + 6)], colour="soft", width=0.8
                )
        drawing.rect(660 - width / 2, y, width, 44, fill="green", stroke="green", opacity=0.15)
        if i < 2:
            drawing.arrow((110, y + 46), (110, y + 66))
            drawing.arrow((660, y + 66), (660, y + 46))
            for k, name in enumerate(("sharpen edges", "remove texture", "clean up")):
                drawing.box(216 + k * 118, y + 5, 108, 34, name)
                if k:
                    drawing.arrow((216 + k * 118 - 10, y + 22), (216 + k * 118, y + 22))
            drawing.arrow((188, y + 22), (214, y + 22))
            drawing.arrow((562, y + 22), (660 - width / 2 - 2, y + 22))
    drawing.arrow((142, 182), (628, 182), colour="ink")
    drawing.text(385, 170, "the coarsest level: structure without texture", colour="soft")
    drawing.text(110, 222, "smaller", colour="soft")
    drawing.text(660, 222, "larger again, without texture", colour="soft")
    return drawing
