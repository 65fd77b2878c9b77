"""A clip as several prototypes; a sentence is compared with all, and the nearest one answers."""

from made.svg import Drawing

MASKS = {
    "blue": {(0, 0), (0, 1), (1, 0)},
    "orange": {(2, 2), (2, 3), (3, 2), (3, 3)},
    "green": {(1, 2), (1, 3), (0, 3)},
}


def draw() -> Drawing:
    """Tokens of a clip, three masks over them, three prototypes, one sentence."""
    drawing = Drawing(760, 210, "Masks over a clip's tokens make prototypes; a sentence takes the nearest")
    drawing.text(80, 14, "tokens of a clip")
    drawing.grid(30, 56, 25, 4, {})
    for i, (colour, cells) in enumerate(MASKS.items()):
        y = 28 + i * 60
        drawing.arrow((136, 106), (214, y + 22))
        drawing.grid(220, y, 12, 4, dict.fromkeys(cells, colour))
        drawing.arrow((274, y + 24), (326, y + 24))
        drawing.circle(342, y + 24, 11, fill=colour)
        drawing.line(
            [(358, y + 24), (548, 106)], colour=colour, width=3 if colour == "orange" else 1, dashed=colour != "orange"
        )
    drawing.text(244, 14, "masks")
    drawing.text(342, 14, "prototypes")
    drawing.box(552, 84, 190, 44, '"a dog on a beach"')
    drawing.text(646, 146, "the nearest prototype is the similarity", colour="soft", size=11)
    return drawing
