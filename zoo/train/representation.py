"""A classifier taken apart into features and head, its first modules perhaps frozen, for trainings in two stages."""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UsageError

__all__ = ["SCALE", "Representation", "head_name", "linear_head"]

SCALE = 30.0  # of cosines, as in the LDAM paper


class Representation(nn.Module):
    """A classifier of ours or of timm's, with what its first stage needs besides.

    Where it is frozen up to a module, that module's input (a map of features) takes the place of the picture, so that
    what lies before it runs once for each picture instead of once for each epoch.

    Args:
        network: Follows timm's conventions: `forward_features`, `forward_head(pre_logits=True)`, `get_classifier`.
        frozen: First module that learns, such as "blocks.6" or "layer4"; empty to train all.
        metric: Loss of embeddings and labels, with what it learns itself.
        projection: Width of a small network between the features and the metric loss; 0 has none.
        is_cosine: Whether the head answers with scaled cosines, for margins.

    Raises:
        UsageError: The network has no linear head, or no such module.
    """

    def __init__(
        self,
        network: nn.Module,
        frozen: str = "",
        metric: nn.Module | None = None,
        projection: int = 0,
        is_cosine: bool = False,
    ) -> None:
        super().__init__()
        head = linear_head(network)
        width = head.in_features
        self.network = network
        self.frozen = frozen
        self.metric = metric
        self.projection = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, projection)) if projection else None
        )
        self.is_cosine = is_cosine
        self.in_chans = next(module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
        if frozen and frozen not in dict(network.named_modules()):
            raise UsageError(
                f"the network has no module {frozen!r}",
                hint=f"its parts are {', '.join(name for name, _ in network.named_children())}",
            )
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def trunk(self, images: Tensor) -> Tensor:
        """(B, C', H', W') what the first learning module is given; the pictures themselves if all learn."""
        if not self.frozen:
            return images
        caught: list[Tensor] = []
        module = self.network.get_submodule(self.frozen)
        handle = module.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            self.network.forward_features(images)  # type: ignore[operator]  # timm's convention
        finally:
            handle.remove()
        return caught[0]

    def features(self, x: Tensor) -> Tensor:
        """(B, D) pooled features of what `trunk` gave; pictures are taken through it first."""
        if self.frozen and x.shape[1] == self.in_chans:
            with torch.no_grad():
                x = self.trunk(x)
        tail = _cut(self.network, self.frozen.split(".")) if self.frozen else self.network
        return self._pooled(tail, x)

    def embed(self, features: Tensor) -> Tensor:
        """(B, E) what the metric loss compares."""
        return self.projection(features) if self.projection else features

    def classify(self, features: Tensor) -> Tensor:
        """(B, K) logits."""
        head = linear_head(self.network)
        if not self.is_cosine:
            return head(features)
        return SCALE * F.linear(F.normalize(features, dim=1), F.normalize(head.weight, dim=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits."""
        features = self.features(x)
        return features, self.classify(features)

    def train(self, mode: bool = True) -> "Representation":
        """As of any module, but what is frozen stays at rest, batch norms included."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def check(self, images: Tensor) -> None:
        """See that the frozen part and the rest, one after the other, are the network.

        Args:
            images: (B, C, H, W).

        Raises:
            UsageError: They are not: something reaches past the module, or is added on the way.
        """
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            whole = self._pooled(self.network, images)
            try:
                parts = self.features(self.trunk(images))
            except (RuntimeError, ValueError, TypeError):  # whatever the rest makes of maps that it did not expect
                parts = torch.full_like(whole, torch.nan)
        if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-3):  # float32 and bfloat16 convolutions differ by shape
            raise UsageError(
                f"the network does not run in a chain up to {self.frozen}",
                hint='train all of it: method_args.frozen=""',
            )

    @staticmethod
    def _pooled(network: nn.Module, x: Tensor) -> Tensor:
        return network.forward_head(network.forward_features(x), pre_logits=True)  # type: ignore[operator]  # timm's

    def _frozen_modules(self) -> Iterator[nn.Module]:
        """Modules before the first one that learns, in the order in which the network registers them."""
        module = self.network
        for name in self.frozen.split(".") if self.frozen else ():
            for other, child in module.named_children():
                if other == name:
                    break
                yield child
            module = module.get_submodule(name)


def linear_head(network: nn.Module) -> nn.Linear:
    """The linear layer that a classifier ends in.

    Raises:
        UsageError: It ends otherwise.
    """
    head = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise UsageError(
            f"{type(network).__name__} does not end in one linear layer with a bias",
            hint="choose a classifier, such as timm:resnet18",
        )
    return head


def head_name(network: nn.Module) -> str:
    """The name of `linear_head` among the network's modules."""
    head = linear_head(network)
    return next(name for name, module in network.named_modules() if module is head)


def _cut(module: nn.Module, path: list[str]) -> nn.Module:
    """The module without what comes before a path in it; all that is left is shared with the original."""
    first, *rest = path
    cut = copy.copy(module)
    children = dict(module._modules)
    for name in children:
        if name == first:
            break
        children[name] = nn.Identity()
    child = children[first]
    assert child is not None
    children[first] = _cut(child, rest) if rest else child
    cut.__dict__["_modules"] = children
    return cut
