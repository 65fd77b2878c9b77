"""Two streams over a film, what they tell each other, and the tube that comes out."""

from made.svg import Drawing


def draw() -> Drawing:
    """Static stream for where, dynamic stream for when, and the exchange between them."""
    drawing = Drawing(760, 210, "A static and a dynamic stream exchange what they found; out comes a tube")
    for i in range(5):
        drawing.rect(20 + i * 22, 60 + i * 6, 60, 60, fill="paper")
    drawing.text(90, 168, "film, and a sentence", colour="soft")
    drawing.arrow((176, 100), (226, 50))
    drawing.arrow((176, 120), (226, 160))
    drawing.box(230, 24, 170, 50, "static: how things look", fill="blue")
    drawing.box(230, 136, 170, 50, "dynamic: how they move", fill="orange")
    drawing.arrow((300, 76), (300, 132), colour="blue")
    drawing.arrow((330, 134), (330, 78), colour="orange")
    drawing.text(400, 105, "each guides the other", colour="soft", size=11)
    drawing.arrow((402, 49), (466, 49))
    drawing.arrow((402, 161), (466, 161))
    drawing.box(470, 24, 110, 50, "a box a frame")
    drawing.box(470, 136, 110, 50, "start and end")
    drawing.arrow((582, 49), (626, 84))
    drawing.arrow((582, 161), (626, 126))
    for i in range(4):
        drawing.rect(630 + i * 20, 78 + i * 6, 36, 46, fill="red", stroke="red", opacity=0.15)
    drawing.text(680, 168, "tube", colour="soft")
    return drawing
