"""The house as a picture: rooms and their order from the layer contract, arrows from the imports that exist."""

import tomllib
from collections import Counter
from pathlib import Path

import grimp

from made.svg import Drawing

__all__ = ["architecture_page", "house", "layers"]

ROOT = Path(__file__).parent.parent.parent
WIDTH, ROOM, GAP, EDGE = 760, 40, 22, 20


def layers() -> list[list[str]]:
    """Rooms of each layer, the highest first, as pyproject.toml has them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contract = tomllib.load(file)["tool"]["importlinter"]["contracts"][0]
    return [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]


def imports() -> Counter[tuple[str, str]]:
    """How many files of a room import another room."""
    graph = grimp.build_graph("zoo", cache_dir=None)
    found: Counter[tuple[str, str]] = Counter()
    for importer in graph.modules:
        above = importer.split(".")[1:2]
        rooms = {module.split(".")[1] for module in graph.find_modules_directly_imported_by(importer) if "." in module}
        for below in rooms - set(above):
            if above:
                found[above[0], below] += 1
    return found


def house() -> Drawing:
    """Layers from top to bottom; a room under the pointer shows what it imports."""
    rows = layers()
    drawing = Drawing(
        WIDTH, len(rows) * (ROOM + GAP) + GAP, "The rooms of the package; each imports only those below it"
    )
    centres: dict[str, tuple[float, float]] = {}
    for i, rooms in enumerate(rows):
        width = (WIDTH - 2 * EDGE - 12 * (len(rooms) - 1)) / len(rooms)
        for j, room in enumerate(rooms):
            centres[room] = (EDGE + j * (width + 12) + width / 2, GAP + i * (ROOM + GAP) + ROOM / 2)
    edges = imports()
    most = max(edges.values())
    for (above, below), count in sorted(edges.items()):
        if above in centres and below in centres:
            (x0, y0), (x1, y1) = centres[above], centres[below]
            drawing.line([(x0, y0 + ROOM / 2), (x1, y1 - ROOM / 2)], colour="soft", width=0.6 + 2.4 * count / most)
            drawing.shapes[-1] = drawing.shapes[-1].replace("<polyline", f'<polyline class="from-{above}"')
    for rooms in rows:
        width = (WIDTH - 2 * EDGE - 12 * (len(rooms) - 1)) / len(rooms)
        for room in rooms:
            x, y = centres[room]
            drawing.rect(x - width / 2, y - ROOM / 2, width, ROOM)
            drawing.text(x, y, room, bold=True)
            shapes = drawing.shapes.pop(-2) + drawing.shapes.pop()
            hint = f"{room} imports {', '.join(sorted(b for a, b in edges if a == room)) or 'nothing'}"
            drawing.shapes.append(f'<g data-room="{room}"><title>{hint}</title>{shapes}</g>')
    return drawing


def architecture_page() -> str:
    """Markdown: the picture, and every file with the first line of its docstring."""
    parts = [
        "# The house",
        "Dependencies point down only; `lint-imports` refuses a change that breaks this. A line is an import that "
        "exists, thick where many files have it. Point at a room to see its own.",
        f'<div class="house wide">{house()}</div>',
    ]
    for room in [room for rooms in layers() for room in rooms if room != "__main__"]:
        parts.append(f"## {room}\n\nSee the [reference](api/{room}.md).\n\n" + "\n".join(_files(room)))
    return "\n\n".join(parts) + "\n"


def _files(room: str) -> list[str]:
    import ast

    folder = ROOT / "zoo" / room
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    lines = []
    for file in files:
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        if said:
            lines.append(f"- `{file.relative_to(ROOT)}`: {' '.join(said.partition(chr(10) * 2)[0].split())}")
    return lines
