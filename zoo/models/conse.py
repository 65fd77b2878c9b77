"""ConSE for clips: what a classifier sees in them, as a mean of the names of its classes.

M. Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", arXiv:1312.5650, section 3, over
the mean of a clip's frames. B clips of F frames, n places of the last map a frame, E dimensions of a sentence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.tmvm import Prototypes

__all__ = ["TEMPLATE", "Conse"]

TEMPLATE = "a photo of a {}"


class Conse(nn.Module):
    """A classifier of timm's and a sentence's vector for each of its classes.

    Args:
        classifier: With `forward_features` and `forward_head`.
        names: (C, E), unit vectors of the sentences about the classes.
        grid: Height and width of the classifier's last map.
        top: Classes that count.
    """

    def __init__(self, classifier: nn.Module, names: Tensor, grid: tuple[int, int], top: int = 10) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("names", names)
        self.grid, self.top = grid, top

    def encode_video(self, video: Tensor, seen: Tensor | None = None) -> Prototypes:
        """One vector a clip; the mask says how much each place of each frame shows the classes that count.

        Args:
            video: (B, F, 3, H, W), normalised.
            seen: (B, F), false for frames that only fill up a clip.
        """
        batch, frames = video.shape[:2]
        network = self.classifier
        maps = network.forward_features(video.flatten(0, 1))  # type: ignore[operator]  # timm's convention
        each = network.forward_head(maps).softmax(1).unflatten(0, (batch, frames))  # type: ignore[operator]
        counts = torch.ones(batch, frames, device=video.device) if seen is None else seen.float()
        chance = (each * counts.unsqueeze(2)).sum(1) / counts.sum(1, keepdim=True)  # (B, C)
        best = chance.topk(self.top, 1)
        names = self.get_buffer("names")[best.indices]  # (B, top, E)
        vector = F.normalize((best.values.unsqueeze(2) * names).sum(1, keepdim=True), dim=2)
        places = maps.flatten(2).transpose(1, 2).flatten(0, 1)[..., None, None]  # each place as a picture of its own
        here = network.forward_head(places).softmax(1).unflatten(0, (batch, -1))  # type: ignore[operator]
        mask = here.gather(2, best.indices[:, None].expand(-1, here.shape[1], -1)) @ best.values.unsqueeze(2)
        mask = mask * counts.repeat_interleave(here.shape[1] // frames, 1).unsqueeze(2)
        return Prototypes(vector, mask / mask.sum(1, keepdim=True))
