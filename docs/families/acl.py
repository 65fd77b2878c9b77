"""One picture through three tasks: shared stages, each task's adapters, heads with an output for all others."""

from made.svg import Drawing

TASKS = (
    ("blue", "task 1", (0.10, 0.05, 0.85)),
    ("orange", "task 2", (0.62, 0.30, 0.08)),
    ("green", "task 3", (0.2, 0.1, 0.7)),
)


def draw() -> Drawing:
    """Rows are tasks; the bars are what each head says, the last one for others, and the least of those is believed."""
    drawing = Drawing(760, 250, "A frozen extractor with adapters and a head for each of three tasks")
    drawing.box(10, 98, 70, 44, "picture")
    drawing.arrow((82, 120), (108, 120))
    drawing.box(110, 98, 100, 44, "first stages")
    drawing.text(160, 158, "shared", colour="soft")
    for row, (colour, name, shares) in enumerate(TASKS):
        y = 24 + row * 74
        drawing.arrow((212, 120), (246, y + 22))
        for column in range(2):
            x = 248 + column * 150
            drawing.box(x, y + 8, 30, 28, "+", fill=colour)
            drawing.arrow((x + 31, y + 22), (x + 44, y + 22))
            drawing.box(x + 46, y, 84, 44, "stage")
            drawing.arrow((x + 131, y + 22), (x + 148, y + 22))
        drawing.rect(548, y, 96, 44, fill=colour, stroke=colour, opacity=0.12)
        for bar, share in enumerate(shares):
            last = bar == len(shares) - 1
            height = max(2, 38 * share)
            drawing.rect(558 + bar * 28, y + 42 - height, 20, height, fill="soft" if last else colour, corner=1)
        drawing.text(654, y + 14, name, anchor="start")
        if shares[-1] == min(other[-1] for _, _, other in TASKS):
            drawing.text(654, y + 32, "believed", anchor="start", colour=colour, bold=True)
    drawing.text(263, 236, "adapter", colour="soft")
    drawing.text(336, 236, "frozen", colour="soft")
    drawing.text(596, 236, "head: its classes, then others (grey)", colour="soft")
    return drawing
