"""Published files that parts of STVGFormer begin from: their keys, and ours.

The paper begins from MDETR; its decoder's self-attention, of a hundred queries in one picture, begins the mixing of our
queries over time. What no pattern names is left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

__all__ = ["PARTS", "Start", "start_from"]

PARTS: dict[str, tuple[tuple[str, str], ...]] = {
    "mdetr": (
        (r"^(?:module\.)?((?:backbone\.0\.body|input_proj|bbox_embed|query_embed)\..*)", r"\1"),
        (r"^(?:module\.)?transformer\.text_encoder\.(.*)", r"text_encoder.\1"),
        (r"^(?:module\.)?transformer\.resizer\.(.*)", r"resizer.\1"),
        (r"^(?:module\.)?transformer\.decoder\.layers\.(\d+)\.self_attn\.(.*)", r"collab.\1.mix_attn.\2"),
        (r"^(?:module\.)?transformer\.decoder\.layers\.(\d+)\.norm1\.(.*)", r"collab.\1.norm_q2.\2"),
        (r"^(?:module\.)?transformer\.((?:encoder|decoder)\..*)", r"static.\1"),
    ),
    "roberta": ((r"^(?:roberta\.)?((?:embeddings|encoder|pooler)\..*)", r"text_encoder.\1"),),
    "slowfast": ((r"^(?:model\.)?(blocks\.[0-4]\..*)", r"video_encoder.\1"),),
    "r3d18": ((r"^((?:stem|layer[1-4])\..*)", r"video_encoder.\1"),),
}


@dataclass(frozen=True)
class Start:
    """What a file began.

    Attributes:
        part: Which kind of file.
        used: Its key and ours.
        unused: Its keys that have no place here, and why.
    """

    part: str
    used: list[tuple[str, str]] = field(default_factory=list)
    unused: list[tuple[str, str]] = field(default_factory=list)

    @property
    def begun(self) -> set[str]:
        """Our keys."""
        return {ours for _, ours in self.used}

    def __str__(self) -> str:
        return f"{self.part}: {len(self.used)} tensors used, {len(self.unused)} not"


def start_from(model: nn.Module, part: str, state: Mapping[str, Tensor]) -> Start:
    """Fill a part of a network with a published file's tensors.

    Args:
        model: An `STVGFormer`.
        part: A key of `PARTS`.
        state: The file's tensors.
    """
    own = model.state_dict(keep_vars=True)
    report = Start(part)
    for key, value in state.items():
        ours = _renamed(key, part)
        if ours is None or ours not in own:
            report.unused.append((key, "no such part here"))
            continue
        if ours == "query_embed.weight":
            value = value[:1]  # of MDETR's hundred
        if value.shape != own[ours].shape:
            report.unused.append((key, f"{tuple(value.shape)} for {tuple(own[ours].shape)}"))
            continue
        own[ours].data.copy_(value)
        report.used.append((key, ours))
    return report


def _renamed(key: str, part: str) -> str | None:
    for pattern, ours in PARTS[part]:
        if re.match(pattern, key):
            return re.sub(pattern, ours, key)
    return None
