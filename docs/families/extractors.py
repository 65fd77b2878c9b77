"""A frozen extractor and the small parts that are learned on top of it, class by class."""

from made.svg import Drawing


def draw() -> Drawing:
    """Pictures to features, features to heads that come one after another."""
    drawing = Drawing(760, 170, "A frozen extractor with a head for each lesson")
    drawing.box(20, 58, 110, 50, "pictures")
    drawing.arrow((132, 83), (186, 83))
    drawing.box(190, 48, 170, 70, "frozen extractor", fill="blue")
    for i, name in enumerate(("first classes", "classes of later", "classes of today")):
        y = 12 + i * 50
        drawing.arrow((362, 83), (456, y + 20))
        drawing.box(460, y, 170, 40, name, fill=("green", "green", "orange")[i])
    drawing.text(645, 133, "learned now", anchor="start", colour="soft")
    return drawing
