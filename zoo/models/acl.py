"""ACL: a frozen extractor that meets new classes in tasks; each task brings small adapters and a head of its own.

Zhang, Huang, Zhang, Zou, Zheng and Wang, "Adapter Learning in Pretrained Feature Extractor for Continual Learning of
Diseases", MICCAI 2023, arXiv:2304.09042. A head has one output more than its task has classes: the last one, "others",
stands for the classes of all other tasks. The head that gives "others" the least share is believed.

Letters: B batch, T tasks, K_t classes of task t, C channels, D features. Classes are numbered in order of arrival.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.inference import FusedConv2d, fold_neighbours, folded

__all__ = [
    "ACL",
    "STAGES",
    "Adapter",
    "Choice",
    "acl_efficientnet_b0",
    "acl_mobilenet_v2",
    "acl_resnet18",
    "choose",
    "heads_loss",
    "newest_loss",
    "parts",
]

STAGES = {  # whose inputs the paper's code adapts; torchvision's names
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "mobilenet_v2": ("features.3", "features.5", "features.12", "features.15"),
    "efficientnet_b0": ("features.4", "features.5", "features.6", "features.8"),
}


class Adapter(nn.Module):
    """What is added to a stage's input: a 3x3 convolution without padding and one back, both behind norms, scaled.

    Args:
        channels: Of the stage's input, and between the two.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.deconv = nn.ConvTranspose2d(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.alpha = nn.Parameter(torch.full((1,), 0.02))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv(x)).relu()  # (B, C, H-2, W-2)
        return self.alpha * self.bn2(self.deconv(x)).relu()  # (B, C, H, W)


class Bank:
    """The adapters of one stage, of all tasks, for inference: two convolutions with a group a task.

    Norms are folded in. The transposed convolution is a convolution with its kernel turned around, and alpha, but for
    its sign, is part of it.

    Args:
        adapters: One a task.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        pairs = [(folded(a.conv, a.bn1), folded(_as_convolution(a.deconv), a.bn2), a.alpha.detach()) for a in adapters]
        whole = [torch.ones(1)] * len(adapters)
        self.tasks = len(adapters)
        self.first = _grouped([first for first, _, _ in pairs], 0, whole)
        self.second = _grouped([second for _, second, _ in pairs], 2, [alpha.abs() for _, _, alpha in pairs])
        self.signs = torch.stack([alpha.sign() for _, _, alpha in pairs]).view(1, -1, 1, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 1 or T, C, H, W) to (B T, C, H, W), tasks innermost: x and what is added to it."""
        own = x.expand(-1, self.tasks, -1, -1, -1)
        added = self.second(self.first(own.flatten(1, 2)))
        return torch.addcmul(own, added.view_as(own), self.signs).flatten(0, 1)


def _grouped(convs: Sequence[nn.Conv2d], padding: int, scales: Sequence[Tensor]) -> FusedConv2d:
    """One convolution with a group a task and a ReLU behind it, of one 3x3 convolution a task, each scaled."""
    tasks, channels = len(convs), convs[0].in_channels
    conv = nn.Conv2d(tasks * channels, tasks * channels, 3, padding=padding, groups=tasks)
    weights = [conv.weight * scale for conv, scale in zip(convs, scales, strict=True)]
    biases = [cast(Tensor, conv.bias) * scale for conv, scale in zip(convs, scales, strict=True)]
    conv.weight = nn.Parameter(torch.cat(weights).detach().contiguous(memory_format=torch.channels_last))
    conv.bias = nn.Parameter(torch.cat(biases).detach())
    return FusedConv2d(conv.requires_grad_(False), nn.ReLU())


def _as_convolution(deconv: nn.ConvTranspose2d) -> nn.Conv2d:
    """The convolution, with its input padded by two, that a transposed 3x3 convolution of stride 1 is."""
    conv = nn.Conv2d(deconv.in_channels, deconv.out_channels, 3, padding=2)
    conv.weight = nn.Parameter(deconv.weight.detach().transpose(0, 1).flip(2, 3).contiguous())
    conv.bias = nn.Parameter(cast(Tensor, deconv.bias).detach())
    return conv


class ACL(nn.Module):
    """An extractor with the adapters and heads of the tasks learned so far.

    Evaluating, it runs every task; training, everything but the newest task's adapters stays in evaluation mode.

    Args:
        backbone: The extractor, without classifier: images to (B, D). It is frozen.
        stages: Names of its modules whose inputs are adapted, in the order they run; each takes (B, C, H, W).
        channels: C of each.
        num_features: D.
        task_sizes: Classes of the tasks it is made with.
    """

    def __init__(
        self,
        backbone: nn.Module,
        stages: Sequence[str],
        channels: Sequence[int],
        num_features: int,
        task_sizes: Iterable[int] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.stages = tuple(stages)
        self.channels = tuple(channels)
        self.num_features = num_features
        self.adapters = nn.ModuleList()
        self.heads = nn.ModuleList()
        self.past = nn.ModuleList()
        self.banks: list[Bank] = []  # of a copy for inference: each stage's adapters, all tasks in one
        for size in task_sizes:
            self.add_task(size)
        self.eval()

    def optimized(self, x: Tensor) -> "ACL":
        """A copy for inference: norms folded, maps channels-last, all tasks' adapters of a stage at once.

        It gives the same within rounding, and can be neither trained nor changed.

        Args:
            x: A picture (1, C, H, W), on which it is tried.
        """
        copied = copy.deepcopy(self).eval().requires_grad_(False)
        copied.backbone = fold_neighbours(self.backbone, x)
        tasks = self._tasks()
        copied.banks = [Bank([cast(Adapter, adapters[i]) for adapters in tasks]) for i in range(len(self.stages))]
        return copied

    @property
    def task_sizes(self) -> tuple[int, ...]:
        """K_t of every task."""
        return tuple(head.out_features - 1 for head in self.heads)  # type: ignore[operator,misc]  # all are linear

    @property
    def authors_keys(self) -> list[tuple[str, str | None]]:
        """The released code's keys, renamed; its auxiliary head is of no use after training."""
        named = [
            (rf"^{stage.replace('.', '_')}_adapters\.(\d+)\.", rf"adapters.\1.{i}.")
            for i, stage in enumerate(self.stages)
        ]
        rest = [(r"^feature_extractor\.", "backbone."), (r"\.convTransposed\.", ".deconv."), (r"^seperate_fc", "heads")]
        return [*named, *rest, (r"^aux_fc\.", None)]

    @staticmethod
    def inferred_args(state: dict[str, Tensor]) -> dict[str, Any]:
        """Builder arguments that a state's heads show."""
        heads = {int(key.split(".")[1]): len(value) - 1 for key, value in state.items() if key.startswith("heads.")}
        return {"task_sizes": [heads[t] for t in sorted(heads)]} if heads else {}

    def add_task(self, classes: int) -> None:
        """Adapters and a head for so many new classes; the adapters start as the last task's, which freeze."""
        newest = nn.ModuleList(map(Adapter, self.channels))
        if len(self.adapters):
            newest.load_state_dict(self.adapters[-1].state_dict())
            self.adapters.requires_grad_(False)
        self.adapters.append(newest)
        self.heads.append(nn.Linear(self.num_features, classes + 1))

    def keep_heads(self) -> None:
        """Lay the heads aside as they stand; for `over_time` and `remove_task`."""
        self.past.append(copy.deepcopy(self.heads).requires_grad_(False))

    def remove_task(self) -> None:
        """Forget the newest task. The others' heads are again what they were before it, where that was kept."""
        del self.adapters[-1], self.heads[-1]
        if len(self.past) == len(self.heads) > 0:
            self.heads = cast(nn.ModuleList, self.past[-1].requires_grad_(True))
            del self.past[-1]

    def choose(self, x: Tensor) -> "Choice":
        """The answers to (B, C, H, W) pictures."""
        return choose(self.heads_of(self.features(x)), self.task_sizes)

    def over_time(self, x: Tensor) -> "list[Choice | None]":
        """The answers as they were after each task, the last ones as they are; None where heads were not kept."""
        features = self.features(x)
        past = [cast(nn.ModuleList, heads) for heads in self.past]
        kept = past if len(past) == len(self.heads) - 1 else [None] * (len(self.heads) - 1)
        found: list[Choice | None] = []
        for tasks, heads in enumerate([*kept, self.heads], 1):
            logits = [head(features[:, t]) for t, head in enumerate(heads)] if heads is not None else []
            found.append(choose(torch.cat(logits, 1), self.task_sizes[:tasks]) if logits else None)
        return found

    def train(self, mode: bool = True) -> "ACL":
        super().train(False)
        if mode and len(self.adapters):
            self.adapters[-1].train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, sum of K_t + 1): the heads side by side, each its classes, then others."""
        return self.heads_of(self.features(x))

    def heads_of(self, features: Tensor) -> Tensor:
        """The same from (B, T, D) features of every task."""
        return torch.cat([head(features[:, t]) for t, head in enumerate(self.heads)], 1)

    def features(self, x: Tensor) -> Tensor:
        """(B, T, D) features through every task's adapters. Up to the first adapted stage tasks share the work."""
        tasks = len(self.adapters)
        banks = self.banks
        if banks:
            found = self._run(x, lambda i, x: banks[i](x.unflatten(0, (-1, 1 if i == 0 else tasks))))  # type: ignore[no-untyped-call]
            return found.reshape(-1, tasks, found.shape[1])

        def adapt(i: int, x: Tensor) -> Tensor:
            own = x.reshape(-1, 1 if i == 0 else tasks, *x.shape[1:])  # (B, T, C, H, W), tasks innermost
            added = [adapters[i](own[:, t if i else 0]) for t, adapters in enumerate(self._tasks())]
            return (own + torch.stack(added, 1)).flatten(0, 1)

        features = self._run(x, adapt)
        return features.reshape(-1, tasks, features.shape[1])

    def newest_features(self, x: Tensor) -> Tensor:
        """(B, D) features through the newest task's adapters."""
        newest = self._tasks()[-1]
        return self._run(x, lambda i, x: x + newest[i](x))

    def describe(self, x: Tensor) -> Tensor:
        """(B, D) features by which pictures are picked to be kept: the newest task's."""
        return self.newest_features(x)

    def plain_features(self, x: Tensor) -> Tensor:
        """(B, D) features of the extractor as it came."""
        return self.backbone(x)

    def before_adapters(self, x: Tensor) -> Tensor:
        """(B, C, H, W) the first adapted stage's input: what all tasks and all of training share."""
        try:
            self._run(x, _stop)
        except _Reached as reached:
            return reached.x
        raise AssertionError("the first adapted stage was not reached")

    def newest_features_from(self, shared: Tensor, like: Tensor) -> Tensor:
        """`newest_features` from what `before_adapters` gave.

        Args:
            shared: (B, C, H, W) the first adapted stage's input.
            like: (1, C, H, W) any picture of the size it came from; the stages before run on it, and are overruled.
        """
        newest = self._tasks()[-1]
        return self._run(like, lambda i, x: shared + newest[0](shared) if i == 0 else x + newest[i](x))

    def _tasks(self) -> list[nn.ModuleList]:
        return list(self.adapters)  # type: ignore[arg-type]  # a list of lists

    def _run(self, x: Tensor, adapt: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The extractor with `adapt(i, input)` in place of stage i's input."""

        def hook(i: int) -> Callable[..., tuple[Any, ...]]:
            return lambda module, args: (adapt(i, args[0]), *args[1:])

        hooks = [
            self.backbone.get_submodule(name).register_forward_pre_hook(hook(i)) for i, name in enumerate(self.stages)
        ]
        try:
            return self.backbone(x)
        finally:
            for handle in hooks:
                handle.remove()


class _Reached(Exception):
    """Ends a run at the first adapted stage."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


def _stop(i: int, x: Tensor) -> Tensor:
    raise _Reached(x)


class Choice(NamedTuple):
    """What the heads of a batch say.

    Attributes:
        classes: (B,) int64, the answers.
        tasks: (B,) int64, the heads that were believed.
        scores: (B,) in [0, 1], how sure it is that the picture shows a class learned so far.
        own: (B, K) shares that the believed head gives its classes; 0 for the classes of other tasks.
        probabilities: (B, K) over all classes, summing to 1.
    """

    classes: Tensor
    tasks: Tensor
    scores: Tensor
    own: Tensor
    probabilities: Tensor


def parts(logits: Tensor, task_sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """(B, K_t + 1) of each head, from (B, sum of K_t + 1).

    Raises:
        ValueError: The width is not that of these tasks.
    """
    widths = [size + 1 for size in task_sizes]
    if logits.shape[1] != sum(widths):
        raise ValueError(f"{logits.shape[1]} logits, {sum(widths)} for tasks of {list(task_sizes)}")
    return torch.split(logits, widths, 1)


def choose(logits: Tensor, task_sizes: Sequence[int]) -> Choice:
    """The best class of the head that gives "others" the least; the first one of equals.

    A class's probability is the head's, without "others", weighted by how little that head gives to "others": ours.

    Args:
        logits: (B, sum of K_t + 1).
        task_sizes: K_t of every task.
    """
    heads = parts(logits.float(), task_sizes)
    shares = [head.softmax(1) for head in heads]
    others = torch.stack([share[:, -1] for share in shares], 1)  # (B, T)
    least, tasks = others.min(1)
    owner = torch.arange(len(task_sizes), device=logits.device).repeat_interleave(
        torch.tensor(task_sizes, device=logits.device)
    )
    own = torch.cat([share[:, :-1] for share in shares], 1).where(owner == tasks[:, None], 0)
    best = torch.cat([head[:, :-1] for head in heads], 1).where(owner == tasks[:, None], -torch.inf)
    among = torch.cat([head[:, :-1].softmax(1) for head in heads], 1)  # others left out
    known = (1 - others)[:, owner] * among
    total = known.sum(1, keepdim=True)
    even = torch.full_like(known, 1 / known.shape[1])  # every head is wholly sure of others
    return Choice(best.argmax(1), tasks, 1 - least, own, torch.where(total > 0, known / total, even))


def newest_loss(logits: Tensor, labels: Tensor, first: int) -> Tensor:
    """Stage 1: cross-entropy of the newest task's auxiliary head.

    Args:
        logits: (B, K + 1).
        labels: (B,) classes; those before `first` are "others".
        first: The newest task's first class.
    """
    return F.cross_entropy(logits, torch.where(labels >= first, labels - first, logits.shape[1] - 1))


def heads_loss(logits: Tensor, labels: Tensor, task_sizes: Sequence[int]) -> Tensor:
    """Stage 2: the sum of the heads' cross-entropies; a head without a picture of its own classes is left out.

    Args:
        logits: (B, sum of K_t + 1).
        labels: (B,) classes.
        task_sizes: K_t of every task.
    """
    total, first = logits.new_zeros(()), 0
    for part, size in zip(parts(logits, task_sizes), task_sizes, strict=True):
        own = labels - first
        is_mine = (own >= 0) & (own < size)
        loss = F.cross_entropy(part, torch.where(is_mine, own, size))
        total = total + torch.where(is_mine.any(), loss, 0)
        first += size
    return total


def _torchvision(
    name: str,
    channels: Sequence[int],
    num_features: int,
    pretrained: bool,
    pretrained_cfg: Mapping[str, Any] | None = None,
    task_sizes: Sequence[int] = (10,) * 10,
    num_classes: int | None = None,
    in_chans: int | None = None,
) -> ACL:
    """ACL on a network of torchvision, from our converted file where it is pretrained.

    Raises:
        ValueError: Other channels than three; pictures are RGB.
    """
    import torchvision

    if in_chans not in (None, 3):
        raise ValueError(f"in_chans is {in_chans}; torchvision's extractors take 3")
    backbone = getattr(torchvision.models, name)(weights=None)
    setattr(backbone, "fc" if hasattr(backbone, "fc") else "classifier", nn.Identity())
    model = ACL(backbone, STAGES[name], channels, num_features, task_sizes)
    if pretrained and pretrained_cfg:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(pretrained_cfg["file"]))
    return model


def acl_resnet18(pretrained: bool = False, **kwargs: Any) -> ACL:
    """ResNet-18 with adapters before its four stages: 1,625,092 parameters a task."""
    return _torchvision("resnet18", (64, 64, 128, 256), 512, pretrained, **kwargs)


def acl_mobilenet_v2(pretrained: bool = False, **kwargs: Any) -> ACL:
    """MobileNetV2 with four adapters: 657,364 parameters a task."""
    return _torchvision("mobilenet_v2", (24, 32, 96, 160), 1280, pretrained, **kwargs)


def acl_efficientnet_b0(pretrained: bool = False, **kwargs: Any) -> ACL:
    """EfficientNet-B0 with four adapters: 2,216,308 parameters a task."""
    return _torchvision("efficientnet_b0", (40, 80, 112, 320), 1280, pretrained, **kwargs)
