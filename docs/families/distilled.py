"""The old network teaches the new one what it knew, while new classes teach it the rest."""

from made.svg import Drawing


def draw() -> Drawing:
    """Old and new network side by side, over new pictures and kept ones."""
    drawing = Drawing(760, 180, "Knowledge distilled from the old network into the new one")
    drawing.box(20, 20, 170, 50, "pictures of new classes")
    drawing.box(20, 110, 170, 50, "some kept of old ones")
    for y in (45, 135):
        drawing.arrow((192, y), (276, 45))
        drawing.arrow((192, y), (276, 135))
    drawing.box(280, 20, 170, 50, "old network, frozen", fill="soft")
    drawing.box(280, 110, 170, 50, "new network", fill="blue")
    drawing.arrow((365, 72), (365, 106), colour="green")
    drawing.text(462, 90, "what it believed of old classes", anchor="start", colour="green")
    drawing.arrow((452, 135), (556, 135))
    drawing.box(560, 110, 180, 50, "old and new classes")
    return drawing
