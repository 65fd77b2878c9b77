"""README's table of families, from the cards and the model files."""

from made.families import VERBS, families, size, words
from zoo.registry.card import Card

__all__ = ["family_table"]

USED = {
    "distilled": "teach --method distill",
    "metric_imbalance": "train metric_imbalance",
}  # not what their task says


def family_table() -> str:
    """Markdown rows: what is bundled, with our figure, before what is not."""
    rows = ["| family | bundled, and what we measured | what it is | with | not bundled |", "|---|---|---|---|---|"]
    for family, cards in families().items():
        name, idea, *_ = words(family, cards[0])
        verb = USED.get(family, VERBS.get(cards[0].task, cards[0].task))
        ready = [card for card in cards if card.weights.status != "unpublished"]
        cells = [
            name,
            ", ".join(map(_measured, ready)) or "-",
            idea[0].upper() + idea[1:].rstrip("."),
            f"`zoo {verb}`",
            ", ".join(_link(card, card.name.removeprefix(f"{family}_")) for card in cards if card not in ready) or "-",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _link(card: Card, text: str) -> str:
    return f"[`{text}`](cards/{card.name}.md)"


def _measured(card: Card) -> str:
    figure = card.figure()
    weights = size(card.weights.bytes) if card.weights.bytes else "no weights needed"
    said = f"{figure.metric} {figure.value:g} on {figure.dataset}" if figure else ""
    return ", ".join(filter(None, (f"{_link(card, card.name)}: {weights}", said)))
