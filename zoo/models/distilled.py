"""A classifier that learns all of itself task by task, with one head that grows; and ResNet-32 for 32-pixel pictures.

Our formulation of the method described in the abstract of Chen et al., "Adaptively Integrated Knowledge Distillation
and Prediction Uncertainty for Continual Learning", arXiv:2301.07316; its losses lie in `zoo.losses.distillation`.
ResNet-32: He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.layers.building import build
from zoo.layers.classifier import StagedClassifier
from zoo.models.acl import Choice

__all__ = ["CifarResNet", "Distilled", "default_levels", "distill_resnet32_cifar"]

LEVELS = 4  # stages compared where nobody says otherwise


class Distilled(nn.Module):
    """A network without classifier, and one linear head over the classes of all tasks.

    Args:
        network: Images (B, C, H, W) to features (B, D); all of it learns.
        task_sizes: Classes of each task.
        levels: Modules whose outputs are compared with an older copy's.
        channels: Of those outputs.
        num_features: D.
    """

    def __init__(
        self,
        network: nn.Module,
        task_sizes: Sequence[int] = (),
        levels: Sequence[str] = (),
        channels: Sequence[int] = (),
        num_features: int = 64,
    ) -> None:
        super().__init__()
        self.network = network
        self.levels, self.channels, self.num_features = tuple(levels), tuple(channels), num_features
        self.sizes = tuple(task_sizes)
        self.head = _head(num_features, sum(task_sizes))

    @property
    def task_sizes(self) -> tuple[int, ...]:
        """Classes of each task."""
        return self.sizes

    def add_task(self, classes: int) -> None:
        """Let the head answer with further classes; what it says of the old ones stays."""
        old, known = self.head, sum(self.sizes)
        self.sizes = (*self.sizes, classes)
        self.head = _head(self.num_features, known + classes).to(old.weight)
        with torch.no_grad():
            self.head.weight[:known] = old.weight
            self.head.bias[:known] = old.bias

    def remove_task(self) -> None:
        """Refuse: every weight moved.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "distillation changes all of the network, so its last task cannot be taken away",
            hint="teach with --out to keep the file of before; adapters (the default method) can be undone",
        )

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Outputs of the compared modules, and (B, K) logits."""
        seen: list[Tensor] = []
        hooks = [
            self.network.get_submodule(name).register_forward_hook(lambda module, args, output: seen.append(output))
            for name in self.levels
        ]
        try:
            logits = self(x)
        finally:
            for hook in hooks:
                hook.remove()
        return seen, logits

    def describe(self, x: Tensor) -> Tensor:
        """(B, D) features by which pictures are picked to be kept."""
        return self.network(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K) logits of the classes of all tasks."""
        return self.head(self.network(x))

    def choose(self, x: Tensor) -> Choice:
        """The answers to (B, C, H, W) pictures."""
        shares = self(x).float().softmax(1)
        scores, classes = shares.max(1)
        sizes = torch.tensor(self.sizes, device=x.device)
        owner = torch.arange(len(sizes), device=x.device).repeat_interleave(sizes)
        own = shares.where(owner == owner[classes][:, None], 0)
        return Choice(classes, owner[classes], scores, own, shares)

    def over_time(self, x: Tensor) -> list[Choice | None]:
        """The answers as they were after each task; only those as they are, since every weight has moved since."""
        return [*[None] * (len(self.sizes) - 1), self.choose(x)]

    def optimized(self, x: Tensor) -> "Distilled":
        """Itself: one pass is all it takes."""
        return self

    @torch.no_grad()
    def align(self) -> float:
        """Scale the newest classes' weights to the mean length of the older ones'; returns the factor.

        Zhao et al., "Maintaining Discrimination and Fairness in Class Incremental Learning", arXiv:1911.07053.
        """
        lengths = self.head.weight.norm(dim=1)
        known = sum(self.sizes[:-1])
        factor = float(lengths[:known].mean() / lengths[known:].mean().clamp(min=1e-12))
        self.head.weight[known:] *= factor
        return factor


def _head(width: int, classes: int) -> nn.Linear:
    """A fresh linear layer. For no classes torch would warn that there is nothing to draw."""
    head = nn.Linear(width, max(classes, 1))
    if not classes:
        head.weight, head.bias, head.out_features = nn.Parameter(head.weight[:0]), nn.Parameter(head.bias[:0]), 0
    return head


def default_levels(network: nn.Module) -> tuple[str, ...]:
    """The last stages of a network's feature pyramid, four at most.

    Raises:
        UsageError: It does not say what they are.
    """
    names = dict(network.named_modules())
    info: Any = getattr(network, "feature_info", ())
    levels = [stage["module"] for stage in list(info) if stage["module"] in names]
    if not levels:
        raise UsageError(
            f"{type(network).__name__} does not say what its stages are",
            hint="take a convolutional network, such as lite0_extractor or distill_resnet32_cifar",
        )
    return tuple(levels[-LEVELS:])


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without weights, which takes every second pixel and pads channels."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        stride = 1 if width_in == width else 2
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.added = stride, width - width_in

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return (y + short).relu()


class CifarResNet(StagedClassifier):
    """ResNet for 32-pixel pictures: three stages of 16, 32 and 64 channels.

    Args:
        depth: 6 n + 2, n at least 1.
        num_classes: Outputs of the head; 0 returns pooled features.
        in_chans: Channels of the image.
    """

    def __init__(self, depth: int = 32, num_classes: int = 100, in_chans: int = 3) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth is {depth}; it is 6 n + 2, such as 20, 32 or 56")
        each = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_Block(16, 16) for _ in range(each)))
        self.layer2 = nn.Sequential(*(_Block(32 if k else 16, 32) for k in range(each)))
        self.layer3 = nn.Sequential(*(_Block(64 if k else 32, 64) for k in range(each)))
        self.feature_info = [{"num_chs": 16 * 2**k, "reduction": 2**k, "module": f"layer{k + 1}"} for k in range(3)]
        self.num_features = self.head_hidden_size = 64
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_stem(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)).relu()

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        return {"stem": r"^conv1|^bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def distill_resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32 for CIFAR, on which class-incremental learning is usually measured."""
    return build(
        CifarResNet,
        "distill_resnet32_cifar",
        pretrained,
        pretrained_filter_fn=lambda state, model: dict(state),
        feature_cfg={"out_indices": (0, 1, 2), "feature_cls": "getter"},
        **kwargs,
    )
