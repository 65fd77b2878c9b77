"""The page of a checkpoint's repository, made from its card: metadata that the Hub reads, then text."""

import re
from typing import TYPE_CHECKING

from zoo.registry.card import Card, Figure
from zoo.registry.timm_cfg import IN_TIMM

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

__all__ = ["pictures", "readme"]

PIPELINES = {  # our tasks in the Hub's words
    "classify": "image-classification",
    "embed": "image-feature-extraction",
    "reid": "image-feature-extraction",
    "retrieve": "feature-extraction",
    "ground": "object-detection",
    "filter": "image-to-image",
    "teach": "image-classification",
}
METRICS = {"top1": ("accuracy", "Top-1 accuracy"), "top5": ("accuracy", "Top-5 accuracy")}


def readme(card: Card, repository: str) -> str:
    """README.md of a checkpoint's repository.

    The model index holds what we measured, and nothing else; the paper's figures stand in a table beside ours.

    Args:
        card: The checkpoint.
        repository: `<org>/<name>` that it will lie in.
    """
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(
        model_name=card.name,
        license=card.license,
        library_name="timm" if card.task in IN_TIMM else "zoo",
        pipeline_tag=PIPELINES[card.task],
        tags=["zoo", card.architecture, *(["timm"] if card.task in IN_TIMM else []), *_arxiv(card)],
        datasets=list(card.origin.data) if card.origin and card.origin.data else None,
        eval_results=[_result(card, figure) for figure in card.figures if figure.by == "zoo"],
    )
    sections = [f"# {card.name}", card.summary, _use(card, repository), card.body, _figures(card), _facts(card)]
    return f"---\n{metadata.to_yaml()}\n---\n" + "\n\n".join(filter(None, sections)) + "\n"


def pictures(card: Card) -> list[str]:
    """Names of the pictures beside the card that its text shows."""
    return re.findall(r"!\[[^\]]*\]\(([\w.-]+\.(?:png|jpg))\)", card.body)


def _result(card: Card, figure: Figure) -> "EvalResult":
    from huggingface_hub import EvalResult

    kind, title = METRICS.get(figure.metric, (figure.metric, figure.metric))
    return EvalResult(
        task_type=PIPELINES[card.task],
        dataset_type=figure.dataset,
        dataset_name=figure.dataset,
        dataset_split=figure.split,
        metric_type=kind,
        metric_name=title,
        metric_value=figure.value,
    )


def _arxiv(card: Card) -> list[str]:
    return [f"arxiv:{card.paper.arxiv}"] if card.paper and card.paper.arxiv else []


def _use(card: Card, repository: str) -> str:
    lines = ["import zoo", "", f'pipe = zoo.pipeline("{card.name}")']
    if card.task in IN_TIMM:
        lines = [
            "import timm, zoo  # zoo registers the architecture",
            "",
            f'model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()',
            f'pipe = zoo.pipeline("{card.name}")  # the same, with preprocessing and labels; checks the sha256',
        ]
    return "\n".join(["## From the Hub", "```python", *lines, "```"])


def _figures(card: Card) -> str:
    if not card.figures:
        return ""
    rows = [
        (figure.metric, f"{figure.value:g}", f"{figure.dataset} {figure.split}", _by(figure), figure.note or "")
        for figure in card.figures
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["## Figures", "", "| metric | value | on | by | note |", "|---|---|---|---|---|", *lines])


def _by(figure: Figure) -> str:
    if figure.by == "paper":
        return "the paper"
    return f"us, {figure.date}: `{figure.command}`" + (f", {figure.machine}" if figure.machine else "")


def _facts(card: Card) -> str:
    lines = [*(f"- Limit: {limit}" for limit in card.limits)]
    if card.paper:
        address = f", https://arxiv.org/abs/{card.paper.arxiv}" if card.paper.arxiv else ""
        lines.append(f"- Paper: {card.paper.title} ({card.paper.venue or card.paper.year}{address})")
    if card.origin:
        made = {"recipe": card.origin.recipe, "commit": card.origin.commit, "source": card.origin.url}
        known = ", ".join(f"{key} {value}" for key, value in made.items() if value)
        lines.append(f"- Weights: by {card.origin.by}{': ' + known if known else ''}")
    lines.append(f"- File: {card.weights.bytes} bytes, sha256 `{card.weights.sha256}`, format {card.weights.format}")
    return "\n".join(["## Facts", "", *lines])
