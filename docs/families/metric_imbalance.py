"""Two stages for rare classes: distances first, then a balanced head."""

from made.svg import Drawing

COMMON = [(40, 60), (58, 84), (70, 54), (84, 78), (98, 60), (62, 110), (88, 104), (112, 90), (46, 96), (104, 118)]
RARE = [(140, 70), (158, 112)]


def draw() -> Drawing:
    """Classes mixed, classes apart, a boundary that does not favour the common one."""
    drawing = Drawing(760, 190, "Metric learning separates classes, then a balanced classifier draws the boundary")
    for i, title in enumerate(("before", "stage 1: pull alike together", "stage 2: a balanced head")):
        left = i * 255
        drawing.text(left + 110, 14, title)
        drawing.rect(left + 15, 30, 200, 145, fill="none")
        pull = 0.55 if i else 0.0
        for points, colour, centre in ((COMMON, "blue", (70, 85)), (RARE, "orange", (175, 105))):
            for x, y in points:
                drawing.circle(left + x + pull * (centre[0] - x), y + 10 + pull * (centre[1] - y), 5, fill=colour)
    drawing.line([(510 + 125, 38), (510 + 145, 168)], colour="ink", width=2)
    return drawing
