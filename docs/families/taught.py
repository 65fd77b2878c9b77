"""What is in a taught model's file, and what is not."""

from made.svg import Drawing


def draw() -> Drawing:
    """The extractor outside, referred to; inside lessons one after another, and the memory."""
    drawing = Drawing(760, 200, "A taught model: a reference to its extractor, lessons, and kept pictures")
    drawing.box(10, 60, 150, 60, "extractor")
    drawing.text(85, 136, "in the package", colour="soft")
    drawing.rect(230, 20, 520, 160, fill="page")
    drawing.text(244, 36, "MODEL.zoo", anchor="start", bold=True)
    drawing.box(244, 66, 110, 48, "its sha256")
    drawing.arrow((242, 90), (164, 90))
    for lesson, colour in enumerate(("blue", "orange", "green")):
        x = 372 + lesson * 82
        drawing.box(x, 54, 72, 34, "adapters", fill=colour)
        drawing.box(x, 94, 72, 34, "head", fill=colour)
        drawing.text(x + 36, 144, f"lesson {lesson + 1}", colour="soft")
    for row in range(3):
        for column in range(4):
            drawing.rect(626 + column * 28, 54 + row * 26, 22, 20, fill=("blue", "orange", "green")[row], opacity=0.5)
    drawing.text(682, 144, "kept pictures", colour="soft")
    drawing.text(490, 166, "names of classes, preprocessing, figures after each lesson", colour="soft")
    return drawing
