"""The losses of STVGFormer: boxes on annotated frames, and the span among all spans.

Z. Lin, C. Tan, J.-F. Hu, Z. Jin, T. Ye, W.-S. Zheng, "Collaborative Static and Dynamic Vision-Language Streams for
Spatio-Temporal Video Grounding", CVPR 2023, section 3.5. Boxes are (cx, cy, w, h) as shares of the picture's sides.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "absence_loss",
    "attentive_loss",
    "box_giou",
    "box_losses",
    "guided_attention_loss",
    "span_ious",
    "span_loss",
    "steps_inside",
]


def box_losses(boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distance, summed over the four numbers, and 1 - GIoU, each a mean over the boxes; 0 where there are none.

    Args:
        boxes: (K, 4), of the annotated frames.
        truth: (K, 4).
    """
    count = max(1, len(boxes))
    return (boxes - truth).abs().sum() / count, (1 - box_giou(boxes, truth)).sum() / count


def box_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalised IoU of pairs (..., 4): (...) in [-1, 1].

    H. Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.
    """
    low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    low_2, high_2 = others[..., :2] - others[..., 2:] / 2, others[..., :2] + others[..., 2:] / 2
    shared = (torch.minimum(high, high_2) - torch.maximum(low, low_2)).clamp(min=0).prod(-1)
    union = (high - low).prod(-1) + (high_2 - low_2).prod(-1) - shared
    hull = (torch.maximum(high, high_2) - torch.minimum(low, low_2)).prod(-1)
    tiny = torch.finfo(boxes.dtype).tiny  # two boxes of no size share nothing
    return shared / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def span_ious(start: Tensor, end: Tensor, duration: Tensor, steps: int) -> Tensor:
    """IoU in time of every proposal with the truth: (B, T, T).

    Cell i, j stands for the time from i/T to (j + 1)/T of the duration; below the diagonal it is 0.

    Args:
        start: (B,) seconds.
        end: (B,) seconds.
        duration: (B,) seconds.
        steps: T.
    """
    edges = torch.arange(steps + 1, device=start.device) / steps * duration[:, None]  # (B, T + 1)
    first, last = edges[:, :-1, None], edges[:, None, 1:]
    start, end = start[:, None, None], end[:, None, None]
    shared = (torch.minimum(last, end) - torch.maximum(first, start)).clamp(min=0)
    union = (last - first) + (end - start) - shared
    return (shared / union.clamp(min=1e-12)).triu()


def steps_inside(start: Tensor, end: Tensor, duration: Tensor, steps: int) -> Tensor:
    """(B, T), True for steps whose centre lies in the true span; arguments as in `span_ious`."""
    centre = (torch.arange(steps, device=start.device) + 0.5) / steps * duration[:, None]
    return (centre >= start[:, None]) & (centre < end[:, None])


def span_loss(scores: Tensor, ious: Tensor, valid: Tensor, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Binary cross-entropy between the scores of all spans and their IoU with the truth.

    Args:
        scores: (B, T, T) logits.
        ious: (B, T, T) in [0, 1].
        valid: (B, T, T), True on cells that are spans.
        low: IoU that counts as 0; 2D-TAN rescales, the paper does not.
        high: IoU that counts as 1.
    """
    target = ((ious - low) / (high - low)).clamp(0, 1)
    return F.binary_cross_entropy_with_logits(scores[valid], target[valid])


def attentive_loss(attention: Tensor, inside: Tensor, padding: Tensor | None = None) -> Tensor:
    """How little attention lies on steps inside the true span; a video without one counts 0.

    Y. Yuan, T. Mei, W. Zhu, "To Find Where You Talk", AAAI 2019.

    Args:
        attention: (B, T) logits.
        inside: (B, T), True where a step's centre lies in the span.
        padding: (B, T).
    """
    if padding is not None:
        attention = attention.masked_fill(padding, -torch.inf)
    share = attention.log_softmax(1).masked_fill(~inside, 0)
    return -(share.sum(1) / inside.sum(1).clamp(min=1)).mean()


def guided_attention_loss(attention: Tensor, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """How little attention lies in the true box grown by half a cell; ours, to learn from little.

    Args:
        attention: (K, H W) shares of annotated frames.
        boxes: (K, 4) of those frames.
        grid: H and W.
    """
    if not len(attention):
        return attention.sum()
    height, width = grid
    rows = (torch.arange(height, device=boxes.device) + 0.5) / height
    columns = (torch.arange(width, device=boxes.device) + 0.5) / width
    centre_x, centre_y, wide, high = (boxes[:, i, None] for i in range(4))
    in_row = (rows - centre_y).abs() <= high / 2 + 0.5 / height
    in_column = (columns - centre_x).abs() <= wide / 2 + 0.5 / width
    inside = (in_row[:, :, None] & in_column[:, None, :]).flatten(1)
    return -(attention * inside).sum(1).clamp(min=1e-6).log().mean()


def absence_loss(absence: Tensor, marked: Tensor) -> Tensor:
    """Binary cross-entropy of whether anybody is there; ours, as in the paper somebody always is.

    Steps outside the span of a film in which somebody is meant count nothing.

    Args:
        absence: (B, T) shares of the attention that lie on words.
        marked: (B, T), True on annotated steps; none in a film in which nobody is meant.
    """
    nobody = ~marked.any(1, keepdim=True)
    share = torch.where(nobody, absence, 1 - absence).clamp(min=1e-9)
    counted = marked | nobody
    return -share.log().masked_fill(~counted, 0).sum() / counted.sum()
