"""Pages of families and of checkpoints, from cards, module docstrings and `docs/families/<family>.{md,py}`."""

import importlib
import importlib.util
import re
from collections import defaultdict
from pathlib import Path

from made.commands import examples
from zoo.registry.card import Card, Figure
from zoo.registry.names import list_names, load_card

__all__ = ["checkpoint_page", "families", "family_page", "picture", "size", "words"]

TEXTS = Path(__file__).parent.parent / "families"
VERBS = {"classify": "predict", "embed": "embed"}  # of the other tasks the command has the task's name
STATES = {
    "bundled": "comes with the package",
    "published": "on the Hub",
    "unpublished": "not published yet",
    "none": "needs none",
}


def families() -> dict[str, list[Card]]:
    """Name of a family, which is its model file's, to its cards."""
    found = defaultdict(list)
    for name in list_names():
        card = load_card(name)
        found[card.builder.partition(":")[0].rpartition(".")[2]].append(card)
    return dict(sorted(found.items()))


def picture(family: str) -> str:
    """The family's idea as an SVG element; empty where nobody wrote a script that draws it."""
    script = TEXTS / f"{family}.py"
    if not script.exists():
        return ""
    spec = importlib.util.spec_from_file_location(f"draw_{family}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.draw())


def words(family: str, card: Card) -> tuple[str, str, str, str]:
    """Name, idea in a line, idea in a paragraph, and source, from the model file's docstring and docs/families."""
    said = importlib.import_module(card.builder.partition(":")[0]).__doc__ or card.summary
    line, *others = (" ".join(part.split()) for part in said.strip().split("\n\n"))
    name, _, idea = line.partition(": ")
    file = TEXTS / f"{family}.md"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if text.startswith("# "):
        name, _, text = text.removeprefix("# ").partition("\n\n")
    return name, idea or line, text, others[0] if others else ""


def family_page(family: str, cards: list[Card]) -> str:
    """Markdown: the idea, how to use it, results beside the paper's, limits."""
    name, idea, text, source = words(family, cards[0])
    main = _main(cards)
    parts = [
        f"# {name}",
        f"*{idea}*",
        f'<div class="wide">{picture(family)}</div>',
        text or main.body.partition("\n## ")[0],
        source,
        "## Models",
        _models(cards),
        "## Use",
        _use(main),
        "## Results",
        _results(cards),
        "## Limits",
        _limits(cards),
    ]
    listed = "\n".join(f"../cards/{card.name}" for card in cards)
    parts.append(f"```{{toctree}}\n:hidden:\n\n{listed}\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def checkpoint_page(card: Card) -> str:
    """Markdown: the card as a page, its front matter as tables."""
    facts = [
        ("Task", card.task),
        ("Weights", f"{STATES[card.weights.status]}{', ' + size(card.weights.bytes) if card.weights.bytes else ''}"),
        ("Parameters", f"{card.params:,}" if card.params else "none"),
        ("Multiply-adds", f"{card.gmacs:g} G an input" if card.gmacs else ""),
        ("Input", "x".join(map(str, card.input.size)) if card.params else "any size"),
        ("Licence", card.license),
        ("Other names", ", ".join(f"`{alias}`" for alias in card.aliases)),
        ("Paper", _paper(card)),
        ("Built by", f"`{card.builder}`"),
    ]
    family = card.builder.partition(":")[0].rpartition(".")[2]
    table = "\n".join(f"| {key} | {value} |" for key, value in facts if value)
    parts = [
        f"# {card.name}",
        card.summary,
        f"Family: [{family}](../families/{family}.md)",
        f"| | |\n|---|---|\n{table}",
        _results([card]) if card.figures else "",
        card.body,
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in card.limits) if card.limits else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def size(count: int | None) -> str:
    """Bytes for people, as the command line writes them."""
    from zoo.cli import out

    return out.size(count)


def _main(cards: list[Card]) -> Card:
    """The checkpoint to show: one whose weights can be had, else the first default one."""
    return next((card for card in cards if card.weights.available), next((c for c in cards if c.default), cards[0]))


def _paper(card: Card) -> str:
    if not card.paper:
        return ""
    where = f"[arXiv:{card.paper.arxiv}](https://arxiv.org/abs/{card.paper.arxiv})" if card.paper.arxiv else ""
    return ", ".join(filter(None, (card.paper.title, card.paper.venue or str(card.paper.year), where)))


def _models(cards: list[Card]) -> str:
    rows = [
        f"| [`{card.name}`](../cards/{card.name}.md) | {card.task} | {card.params or 0:,} | "
        f"{f'{card.gmacs:g}' if card.gmacs else ''} | {STATES[card.weights.status]} |"
        for card in cards
    ]
    return "| name | task | parameters | GMACs | weights |\n|---|---|--:|--:|---|\n" + "\n".join(rows)


def _use(card: Card) -> str:
    """Command line, Python, timm, torch.hub: only the ways that this card has."""
    name, has_weights = card.architecture, card.weights.available
    lines = [line for line in examples(VERBS.get(card.task, card.task)) if has_weights or card.weights.status == "none"]
    ours = [line for line in lines if name in line]
    shell = "\n".join([f"zoo info {name}", *(ours or lines)])
    code = re.search(r"```python\n(.*?)```", card.body, re.DOTALL)
    pretrained = ", pretrained=True" if card.weights.status in ("bundled", "published") else ""
    parts = [f"### On the command line\n\n```sh\n{shell}\n```"]
    if code:
        parts.append(f"### In Python\n\n```python\n{code[1]}```")
    if card.task == "classify":
        parts.append(
            "### With timm\n\n```python\nimport timm, zoo\n\n"
            f'model = timm.create_model("{name}"{pretrained}, num_classes=5)  # a new head, the rest as it was\n```'
        )
    parts.append(
        "### With torch.hub\n\nFrom a checkout of this repository, or with its address in place of the dot:\n\n"
        f'```python\nimport torch\n\nmodel = torch.hub.load(".", "{name}", source="local"{pretrained})\n```'
    )
    if not has_weights:
        parts.append(
            f"No weights of `{card.name}` are published. The authors' file becomes ours with "
            f"`zoo convert {name} AUTHORS.pth --out {name}.safetensors`, every key accounted for."
        )
    return "\n\n".join(parts)


def _results(cards: list[Card]) -> str:
    """A table with the paper's figure beside ours, each of ours with the command that measures it again."""
    rows = []
    for card in cards:
        pairs: dict[tuple[str, str, str], dict[str, Figure]] = {}
        for figure in card.figures:
            pairs.setdefault((figure.dataset, figure.split, figure.metric), {})[figure.by] = figure
        for (dataset, split, metric), by in pairs.items():
            ours, paper = by.get("zoo"), by.get("paper")
            notes = "; ".join(
                f"{who}: {figure.note}" for who, figure in (("ours", ours), ("paper", paper)) if figure and figure.note
            )
            rows.append(
                f"| [`{card.name}`](../cards/{card.name}.md) | {dataset} {split} | {metric} | "
                f"{f'{paper.value:g}' if paper else ''} | {f'**{ours.value:g}**' if ours else 'not measured'} | "
                f"{f'`{ours.command}`, {ours.date}, {ours.machine}' if ours else ''} | {notes} |"
            )
    if not rows:
        return "Nothing was measured yet, and the papers' tables have no figure for these networks."
    head = "| model | set | metric | the paper's | ours | measured by | notes |\n|---|---|---|--:|--:|---|---|\n"
    return head + "\n".join(rows)


def _limits(cards: list[Card]) -> str:
    """Each limit once, with the checkpoints that have it where not all do."""
    holders: dict[str, list[str]] = {}
    for card in cards:
        for limit in card.limits:
            holders.setdefault(limit, []).append(f"`{card.name}`")
    return "\n".join(
        f"- {limit}{'' if len(names) == len(cards) else ' (' + ', '.join(names) + ')'}"
        for limit, names in holders.items()
    )
