"""The gallery: every checkpoint as a tile that a visitor can filter, and accuracy against cost."""

import functools
import math
import tomllib
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

from made.families import STATES, families, picture, size
from made.svg import Drawing
from zoo.registry.card import Card, Figure

__all__ = ["gallery_page", "plots"]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 300, 56, 20, 34, 46
COSTS = {"gmacs": "multiply-adds of one input, G", "ms": "CPU time of one input, ms"}
SPEEDS = Path(__file__).parent.parent.parent / "benchmarks" / "speed.toml"


def gallery_page() -> str:
    """Markdown with the filters, the plots and the tiles; without JavaScript all tiles are shown."""
    cards = [card for group in families().values() for card in group]
    tasks = "".join(f"<option>{task}</option>" for task in sorted({card.task for card in cards}))
    controls = (
        '<form class="filters" id="filters" onsubmit="return false">'
        '<label>Name <input id="filter-text" type="search" placeholder="resnet20"></label>'
        f'<label>Task <select id="filter-task"><option value="">any</option>{tasks}</select></label>'
        '<label>Parameters <select id="filter-params"><option value="">any</option>'
        '<option value="1">under 1 M</option><option value="10">under 10 M</option>'
        '<option value="50">under 50 M</option></select></label>'
        '<label>Cost of an input <select id="filter-gmacs"><option value="">any</option>'
        '<option value="0.1">under 0.1 GMACs</option><option value="1">under 1 GMACs</option>'
        '<option value="5">under 5 GMACs</option></select></label>'
        '<label>Time of an input <select id="filter-ms"><option value="">any</option>'
        '<option value="3">under 3 ms</option><option value="30">under 30 ms</option>'
        '<option value="300">under 300 ms</option></select></label>'
        '<label><input id="filter-ready" type="checkbox"> weights to be had</label>'
        '<span id="filter-count" role="status"></span></form>'
    )
    tiles = "".join(_tile(family, card) for family, group in families().items() for card in group)
    return "\n\n".join(
        [
            "# Models",
            "Every checkpoint there is a card for. Times are CPU time of one thread at batch 1, measured by "
            f"`{_speeds()['command']}` on {_speeds()['machine']}. `zoo bench NAME...` times networks on yours.",
            controls,
            f'<div class="tiles">{tiles}</div>',
            "## Accuracy against cost",
            "A full dot is a figure of ours, with its command on the checkpoint's page; a ring is the paper's.",
            f'<div class="plots">{"".join(map(str, plots(cards)))}</div>',
        ]
    )


def plots(cards: list[Card]) -> list[Drawing]:
    """A plot for each set and metric with two points or more, against each cost that two of them have."""
    groups: dict[tuple[str, str], list[tuple[Card, Figure]]] = defaultdict(list)
    for card in cards:
        for by in ("paper", "zoo"):
            figure = card.figure(by)
            if figure:
                groups[figure.dataset, figure.metric].append((card, figure))
    drawings = []
    for (dataset, metric), points in sorted(groups.items()):
        for cost, label in COSTS.items():
            known = [(_cost(card, cost), card, figure) for card, figure in points if _cost(card, cost)]
            if len(known) > 1:
                drawings.append(_plot(f"{metric}, {dataset}", label, known))
    return drawings


@functools.cache
def _speeds() -> dict[str, Any]:
    return tomllib.loads(SPEEDS.read_text(encoding="utf-8"))


def _cost(card: Card, of: str) -> float:
    """0 where nobody counted or timed it."""
    return (card.gmacs if of == "gmacs" else _speeds()["networks"].get(card.name, {}).get("ms")) or 0


def _plot(title: str, label: str, points: list[tuple[float, Card, Figure]]) -> Drawing:
    drawing = Drawing(WIDTH, HEIGHT, f"{title} against {label}")
    costs = [math.log10(cost) for cost, _, _ in points]
    values = [figure.value for _, _, figure in points]
    left, right = min(costs) - 0.15, max(costs) + 0.15
    low, high = min(values), max(values)
    low, high = low - 0.1 * (high - low or 1), high + 0.1 * (high - low or 1)

    def place(cost: float, value: float) -> tuple[float, float]:
        x = LEFT + (math.log10(cost) - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return x, TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    drawing.text(LEFT, 16, title, anchor="start", bold=True)
    drawing.rect(LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM, fill="none", corner=0)
    for value in _ticks(low, high):
        y = place(points[0][0], value)[1]
        drawing.line([(LEFT, y), (WIDTH - RIGHT, y)], colour="line", width=1)
        drawing.text(LEFT - 8, y, f"{value:g}", anchor="end", colour="soft", size=11)
    for cost in _costs(left, right):
        x = place(cost, low)[0]
        drawing.line([(x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 4)], colour="line")
        drawing.text(x, HEIGHT - BOTTOM + 15, f"{cost:g}", colour="soft", size=11)
    drawing.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, label, colour="soft", size=12)
    for cost, card, figure in points:
        x, y = place(cost, figure.value)
        ours = figure.by == "zoo"
        drawing.circle(x, y, 6, fill="blue" if ours else "page", stroke="blue")
        who = "ours" if ours else "the paper's"
        drawing.link(f"cards/{card.name}.html", f"{card.name}: {figure.metric} {figure.value:g}, {who}")
    return drawing


def _ticks(low: float, high: float) -> list[float]:
    """Round values between two others, some four."""
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step = next(step * times for times in (1, 2, 5, 10) if (high - low) / (step * times) < 6)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _costs(left: float, right: float) -> list[float]:
    """1, 2, 5 and their tens between two powers of ten; every one where there are few, else the tens alone."""
    tens = range(math.floor(left), math.ceil(right) + 1)
    fine = [m * 10.0**ten for ten in tens for m in (1, 2, 5) if left <= math.log10(m * 10.0**ten) <= right]
    return fine if len(fine) <= 7 else [cost for cost in fine if math.log10(cost).is_integer()]


def _tile(family: str, card: Card) -> str:
    facts = {
        "name": " ".join((card.name, family, *card.aliases)),
        "task": card.task,
        "params": (card.params or 0) / 1e6,
        **{cost: _cost(card, cost) for cost in COSTS},
        "ready": int(card.weights.available),
    }
    data = " ".join(f'data-{key}="{escape(str(value))}"' for key, value in facts.items())
    ours, paper = card.figure(), card.figure("paper")
    figures = " · ".join(
        f"{figure.metric} <b>{figure.value:g}</b> {who} ({figure.dataset})"
        for who, figure in (("ours", ours), ("paper's", paper))
        if figure
    )
    cost = f"{card.params / 1e6:.2f} M parameters" if card.params else "no weights"
    cost += f", {card.gmacs:g} GMACs" if card.gmacs else ""
    cost += f", {_cost(card, 'ms'):g} ms" if _cost(card, "ms") else ""
    state = STATES[card.weights.status] + (f", {size(card.weights.bytes)}" if card.weights.bytes else "")
    return (
        f'<a class="tile" href="cards/{card.name}.html" {data}>'
        f'<span class="tile-picture">{picture(family)}</span>'
        f'<b class="tile-name">{card.name}</b><span>{escape(card.summary)}</span>'
        f'<span class="tile-facts"><i class="task">{card.task}</i> {cost}</span>'
        f'<span class="tile-facts">{figures}</span>'
        f'<span class="tile-facts state-{card.weights.status}">weights: {state}</span></a>'
    )
