"""STVGFormer's training: boxes from every layer, spans from the last; the static stream alone before both.

Lin et al., "Collaborative Static and Dynamic Vision-Language Streams for Spatio-Temporal Video Grounding", CVPR 2023.
The first stage stands in for the weights of MDETR, with which the paper begins; it and the guided attention are ours.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.losses.stvgformer import (
    absence_loss,
    attentive_loss,
    box_losses,
    guided_attention_loss,
    span_ious,
    span_loss,
    steps_inside,
)
from zoo.models.stvgformer import Grounding
from zoo.models.stvgformer_blocks import valid_spans
from zoo.train import methods

if TYPE_CHECKING:
    from zoo.train.course import Course, Place
    from zoo.train.grounding import Films
    from zoo.train.recipe import Recipe

__all__ = ["Method"]

L1, GIOU, SPAN, ATTENTIVE = 5.0, 2.0, 5.0, 1.0  # weights of the paper


@dataclass(frozen=True)
class Method(methods.Method):
    """The paper's losses and, where asked for, what lets a small network learn from little.

    Args:
        static_epochs: Epochs at the beginning in which the static stream alone learns from single frames.
        static_batch: Frames a step in them.
        guide: Weight of the attention that should lie in the true box; the paper has none.
        absent: Share of the films that are asked for somebody who is not there, so that low scores mean something; the
            paper has none.
        nobody: Weight of the loss on what those films attend to, see `absence_loss`, for networks that take attention
            on words for absence; the paper has none. These four are of drawn scenes; what follows is of real videos.
        features: Folder for what the clip encoder sees, made once; computed anew in every step if empty.
        scales: Short sides of the frames, as shares of the network's; one is drawn for each film.
        cut: Share of the films whose frames are cut out around all boxes.
        trim: Share of the films that are shortened around the span.
        tokenizer: File of the text encoder's tokenizer; the Hub's if empty.
        rates: Regular expression for the beginning of parameters' names to their share of the learning rate; 0 leaves
            them as they are. The longest that fits counts.
    """

    static_epochs: int = 0
    static_batch: int = 48
    guide: float = 0.0
    absent: float = 0.0
    nobody: float = 0.0
    features: str = ""
    scales: tuple[float, ...] = (1.0,)
    cut: float = 0.0
    trim: float = 0.0
    tokenizer: str = ""
    rates: dict[str, float] = field(default_factory=dict)

    def course(self, recipe: "Recipe", place: "Place") -> "Course":
        from zoo.train.films import FilmCourse
        from zoo.train.grounding import NAME, SceneCourse

        return (SceneCourse if recipe.data.name == NAME else FilmCourse)(recipe, self, place)

    def groups(self, model: nn.Module) -> nn.Module | list[dict[str, Any]]:
        if not self.rates:
            return model
        by_rate: dict[float, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            fitting = [pattern for pattern in self.rates if re.match(pattern, name)]
            rate = self.rates[max(fitting, key=len)] if fitting else 1.0
            if rate == 0:
                parameter.requires_grad_(False)
            else:
                by_rate.setdefault(rate, []).append(parameter)
        return [{"params": parameters, "lr_scale": rate} for rate, parameters in by_rate.items()]

    def grounding_loss(self, found: Grounding, truth: "Films") -> Tensor:
        marked = truth.marked
        total = found.boxes.new_zeros(())
        for boxes in [*found.earlier_boxes, found.boxes]:
            distance, apart = box_losses(boxes[marked], truth.boxes[marked])
            total = total + L1 * distance + GIOU * apart
        if self.guide:
            guided = [
                guided_attention_loss(where.float()[marked], truth.boxes[marked], found.grid) for where in found.looked
            ]
            total = total + self.guide * torch.stack(guided).mean()
        if self.nobody and found.absence is not None:
            total = total + self.nobody * absence_loss(found.absence.float(), marked)
        if found.scores is not None and found.attention is not None:
            start, end, duration = truth.spans.unbind(1)
            steps = found.scores.shape[1]
            valid = valid_spans(steps, None, marked.device).expand(len(marked), -1, -1)
            ious = span_ious(start, end, duration, steps)
            total = total + SPAN * span_loss(found.scores.float(), ious, valid)
            inside = steps_inside(start, end, duration, steps)
            total = total + ATTENTIVE * attentive_loss(found.attention.float(), inside)
        return total
