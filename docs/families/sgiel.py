"""Two cameras, shared convolutions, and an embedding of which the body's shape is only a part."""

from made.svg import Drawing


def draw() -> Drawing:
    """From two photographs to an embedding split in two orthogonal parts."""
    drawing = Drawing(
        760, 200, "Visible and infrared pictures share a network whose embedding has a shape part and the rest"
    )
    for y, name, colour in ((20, "visible", "orange"), (112, "infrared", "violet")):
        drawing.box(20, y, 110, 64, name, fill=colour)
        drawing.box(170, y + 12, 90, 40, "own stem", fill=colour)
        drawing.arrow((132, y + 32), (168, y + 32))
        drawing.arrow((262, y + 32), (306, 98 if y < 90 else 102))
    drawing.box(308, 66, 150, 66, "shared stages")
    drawing.text(383, 148, "norms of each camera's own", colour="soft", size=11)
    drawing.arrow((460, 99), (506, 99))
    drawing.rect(510, 40, 40, 60, fill="soft", stroke="soft", opacity=0.2)
    drawing.rect(510, 100, 40, 64, fill="blue", stroke="blue", opacity=0.4)
    drawing.text(562, 70, "what the body's shape says", anchor="start", colour="soft")
    drawing.text(562, 124, "what is orthogonal to it:", anchor="start")
    drawing.text(562, 142, "it must tell people apart too", anchor="start")
    return drawing
