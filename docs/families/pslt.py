"""The ladder: windows of three branches at their shifts, each branch handing its result to the next."""

from made.svg import Drawing

from zoo.models.pslt import DIRECTIONS

SIDE, COUNT, WINDOW = 9, 14, 7


def draw() -> Drawing:
    """Three maps cut into windows, shifted by 0, -3 and 3 pixels, and the arrows of the ladder."""
    drawing = Drawing(760, 220, "Three branches whose windows are shifted in turn")
    shift = (WINDOW - 1) // 2
    tones = {(0, 0): "blue", (0, 1): "orange", (1, 0): "green", (1, 1): "violet"}
    for i, direction in enumerate(DIRECTIONS):
        x, roll = 50 + i * 240, direction * shift
        cells = {
            (row, column): tones[(row - roll) % COUNT // WINDOW, (column - roll) % COUNT // WINDOW]
            for row in range(COUNT)
            for column in range(COUNT)
        }
        drawing.text(x + SIDE * COUNT / 2, 14, f"branch {i + 1}, shift {roll}")
        drawing.grid(x, 32, SIDE, COUNT, cells, opacity=0.35)
        if i:
            drawing.arrow((x - 108, 95), (x - 8, 95), colour="ink")
            drawing.text(x - 58, 82, "values", colour="soft", size=11)
    drawing.text(
        380, 190, "each branch attends inside its own windows; its output is the next one's values,", colour="soft"
    )
    drawing.text(
        380, 208, "so the last branch has seen beyond any window; a gate for each pixel joins the three", colour="soft"
    )
    return drawing
