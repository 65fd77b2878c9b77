"""The estimator's power function and the slope that training really gets, both from the code that trains."""

import torch
from made.svg import Drawing

from zoo.layers.binary import CUT, binarize

POWERS = {1.0: "green", 1.7: "blue", 3.0: "orange"}
HALF, TALL = 150, 50  # pixels of 1.8 and of 1.2


def draw() -> Drawing:
    """Left the functions between identity and sign, right their slopes; signs go forward, slopes come back."""
    drawing = Drawing(760, 210, "Power functions between identity and sign, and their slopes, cut at 1.5")
    z = torch.linspace(-1.8, 1.8, 241)
    for centre, title in (
        (190, "forward: the sign; the estimator nears it"),
        (570, "backward: its slope, flat at 0, cut at 1.5"),
    ):
        drawing.text(centre, 14, title, colour="soft")
        drawing.line([(centre - HALF, 110), (centre + HALF, 110)], colour="line")
        drawing.line([(centre, 34), (centre, 186)], colour="line")
    drawing.line([(190 - HALF, 110 + TALL), (190, 110 + TALL)], colour="ink", width=2.5)
    drawing.line([(190, 110 - TALL), (190 + HALF, 110 - TALL)], colour="ink", width=2.5)
    for i, (power, colour) in enumerate(POWERS.items()):
        x = z.clone().requires_grad_()
        binarize(x, power).sum().backward()
        value = torch.sign(z) * z.abs() ** (1 / power)
        drawing.line(
            [(190 + HALF * a / 1.8, 110 - TALL * b) for a, b in zip(z.tolist(), value.tolist(), strict=True)],
            colour=colour,
        )
        slope = x.grad.tolist()
        drawing.line(
            [(570 + HALF * a / 1.8, 110 - 16 * b) for a, b in zip(z.tolist(), slope, strict=True)], colour=colour
        )
        drawing.text(300 + 80 * i, 202, f"power {power:g}", colour=colour)
    drawing.text(570 + HALF * CUT / 1.8, 124, f"{CUT:g}", colour="soft", size=11)
    return drawing
