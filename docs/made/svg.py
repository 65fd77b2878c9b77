"""Drawing for the site: shapes as SVG text, in the page's own colours, light or dark."""

from collections.abc import Sequence
from html import escape

__all__ = ["Drawing"]

# name -> colour: the theme's where it has one, else a tone that reads on white and on black
COLOURS = {
    "ink": "var(--color-foreground-primary, #222)",
    "soft": "var(--color-foreground-muted, #777)",
    "line": "var(--color-background-border, #ccc)",
    "paper": "var(--color-background-secondary, #f4f4f4)",
    "page": "var(--color-background-primary, #fff)",
    "blue": "#3d7fd6",
    "orange": "#dd7f2b",
    "green": "#3a9a63",
    "red": "#cf4b53",
    "violet": "#8b68cc",
    "none": "none",
}
SIZE = 13  # pixels of text


class Drawing:
    """A picture in the making; every method draws one shape and returns nothing.

    Args:
        width: In pixels; on a page it shrinks to the room there is.
        height: In pixels.
        title: What a screen reader says.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width = width
        self.height = height
        self.title = title
        self.shapes: list[str] = []

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "paper",
        stroke: str = "line",
        opacity: float = 1.0,
        corner: float = 3,
    ) -> None:
        self.shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{corner:g}" '
            f'style="fill:{COLOURS[fill]};stroke:{COLOURS[stroke]};fill-opacity:{opacity:g}"/>'
        )

    def circle(
        self, x: float, y: float, radius: float, *, fill: str = "blue", stroke: str = "none", opacity: float = 1.0
    ) -> None:
        self.shapes.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" '
            f'style="fill:{COLOURS[fill]};stroke:{COLOURS[stroke]};fill-opacity:{opacity:g};stroke-width:2"/>'
        )

    def line(
        self, points: Sequence[tuple[float, float]], *, colour: str = "soft", width: float = 1.5, dashed: bool = False
    ) -> None:
        path = " ".join(f"{x:.4g},{y:.4g}" for x, y in points)
        dash = ";stroke-dasharray:4 4" if dashed else ""
        self.shapes.append(
            f'<polyline points="{path}" style="fill:none;stroke:{COLOURS[colour]};stroke-width:{width:g}{dash}"/>'
        )

    def arrow(self, start: tuple[float, float], end: tuple[float, float], *, colour: str = "soft") -> None:
        """A straight line with a head at its end."""
        (x0, y0), (x1, y1) = start, end
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        self.line([start, (x1 - 6 * ux, y1 - 6 * uy)], colour=colour)
        corners = [(x1, y1), (x1 - 8 * ux - 4 * uy, y1 - 8 * uy + 4 * ux), (x1 - 8 * ux + 4 * uy, y1 - 8 * uy - 4 * ux)]
        path = " ".join(f"{x:.4g},{y:.4g}" for x, y in corners)
        self.shapes.append(f'<polygon points="{path}" style="fill:{COLOURS[colour]}"/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "middle",
        colour: str = "ink",
        size: float = SIZE,
        bold: bool = False,
    ) -> None:
        """A line of text whose middle stands at y."""
        weight = ";font-weight:600" if bold else ""
        self.shapes.append(
            f'<text x="{x:g}" y="{y + size / 3:g}" text-anchor="{anchor}" '
            f'style="fill:{COLOURS[colour]};font-size:{size:g}px{weight}">{escape(text)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, text: str, *, fill: str = "paper") -> None:
        """A rectangle with a line of text in its middle."""
        tinted = fill != "paper"
        self.rect(x, y, width, height, fill=fill, stroke=fill if tinted else "line", opacity=0.18 if tinted else 1)
        self.text(x + width / 2, y + height / 2, text)

    def grid(
        self, x: float, y: float, side: float, count: int, filled: dict[tuple[int, int], str], *, opacity: float = 0.8
    ) -> None:
        """Squares in `count` rows and columns; `filled` gives (row, column) a colour."""
        for row in range(count):
            for column in range(count):
                colour = filled.get((row, column), "page")
                self.rect(
                    x + column * side,
                    y + row * side,
                    side,
                    side,
                    fill=colour,
                    opacity=opacity if (row, column) in filled else 1,
                    corner=0,
                )

    def link(self, address: str, hint: str) -> None:
        """The shape drawn last leads somewhere, and says `hint` under the pointer."""
        shape = self.shapes.pop()
        self.shapes.append(f'<a href="{escape(address)}"><title>{escape(hint)}</title>{shape}</a>')

    def __str__(self) -> str:
        """One element, without an empty line in it: Markdown would end it there."""
        return (
            f'<svg class="drawing" viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(self.title)}" style="max-width:{self.width:g}px" '
            f'xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif">{"".join(self.shapes)}</svg>'
        )
