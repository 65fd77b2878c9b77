"""ReSTE: binary networks trained with a rectified straight-through estimator.

X.-M. Wu, D. Zheng, Z. Liu, W.-S. Zheng, "Estimator Meets Equilibrium Perspective: A Rectified Straight Through
Estimator for Binary Neural Networks Training", ICCV 2023, arXiv:2308.06689. Networks as in the released code.

The order inside a block is convolution, ReLU, norm, and nothing follows the addition: the next convolution takes its
sign.
"""

from typing import Any, Literal, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.binary import BinaryConv2d, Estimator
from zoo.layers.building import build
from zoo.layers.classifier import StagedClassifier
from zoo.layers.packing import unpack

__all__ = [
    "ReSTEResNet",
    "ReSTEVGG",
    "reste_resnet18_cifar",
    "reste_resnet18_in1k",
    "reste_resnet20_bireal_cifar",
    "reste_resnet20_cifar",
    "reste_resnet34_in1k",
    "reste_vggsmall_cifar",
]

# authors' key -> ours, in this order; zoo.convert applies it. ResNets call the head's norm bn2, VGG numbers its layers.
RESNET_KEYS = ((r"^bn2\.", "head_norm."), (r"^linear\.", "fc."), (r"\.shortcut\.", ".downsample."))
VGG_KEYS = (
    (r"^(conv1|bn1)\.", r"stage1.\1."),
    (r"^((?:conv|bn)[23])\.", r"stage2.\1."),
    (r"^((?:conv|bn)[45])\.", r"stage3.\1."),
)

Network = TypeVar("Network", bound=StagedClassifier)


class PadShortcut(nn.Module):
    """Every second pixel, zero channels around: the parameter-free shortcut ("option A" of He et al. 2016)."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_chs - in_chs) // 2
        self.after = out_chs - in_chs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """Two binary 3x3 convolutions with one skip around both, or (Bi-Real) one around each."""

    def __init__(self, in_chs: int, chs: int, stride: int, shortcut: str, two_skips: bool, **conv: Any) -> None:
        super().__init__()
        self.two_skips = two_skips
        self.conv1 = BinaryConv2d(in_chs, chs, 3, stride, 1, **conv)
        self.bn1 = nn.BatchNorm2d(chs)
        self.conv2 = BinaryConv2d(chs, chs, 3, 1, 1, **conv)
        self.bn2 = nn.BatchNorm2d(chs)
        if stride == 1 and in_chs == chs:
            self.downsample: nn.Module = nn.Identity()
        elif shortcut == "pad":
            self.downsample = PadShortcut(in_chs, chs, stride)
        else:
            self.downsample = nn.Sequential(nn.Conv2d(in_chs, chs, 1, stride, bias=False), nn.BatchNorm2d(chs))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.downsample(x)
        x = self.bn1(self.conv1(x).relu())
        if self.two_skips:
            x = x + skip
            skip = x
        return self.bn2(self.conv2(x).relu()) + skip


class ReSTEResNet(StagedClassifier):
    """ResNet whose 3x3 convolutions inside blocks are binary; stem, 1x1 shortcuts, norms and head stay real.

    Args:
        depths: Blocks a stage.
        widths: Channels a stage.
        num_classes: Outputs of the head; 0 returns pooled features.
        in_chans: Channels of the image.
        stem: "cifar" keeps the resolution, "imagenet" divides it by 4.
        shortcut: Where the shape changes, a 1x1 convolution ("conv") or padding without parameters ("pad").
        two_skips: One skip around each convolution (Bi-Real) in place of one around both.
        init: Kaiming-normal weights for "all" layers, for the "conv" layers, or torch's defaults ("none").
        act_bits: 1 takes the sign of what binary convolutions see, 32 leaves it real.
        estimator: Gradient of the sign: "reste", or "ste" for plain straight-through.
        scale_in_weight: The published order of multiplication, see `BinaryConv2d`.
    """

    authors_keys = RESNET_KEYS

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        stem: Literal["cifar", "imagenet"] = "cifar",
        shortcut: Literal["conv", "pad"] = "conv",
        two_skips: bool = False,
        init: Literal["all", "conv", "none"] = "none",
        act_bits: int = 1,
        estimator: Estimator = "reste",
        scale_in_weight: bool = False,
    ) -> None:
        super().__init__()
        conv: dict[str, Any] = {"act_bits": act_bits, "estimator": estimator, "scale_in_weight": scale_in_weight}
        chs = widths[0]
        if stem == "cifar":
            self.conv1 = nn.Conv2d(in_chans, chs, 3, 1, 1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
            reduction = 1
        else:
            self.conv1 = nn.Conv2d(in_chans, chs, 7, 2, 3, bias=False)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            reduction = 4
        self.bn1 = nn.BatchNorm2d(chs)
        self.feature_info = []
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(Block(chs, width, stride, shortcut, two_skips, **conv))
                reduction *= stride
                chs = width
            name = f"layer{i + 1}"
            self.add_module(name, nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": chs, "reduction": reduction, "module": name})
        self.num_features = self.head_hidden_size = chs
        self.head_norm = nn.BatchNorm1d(chs)
        self.reset_classifier(num_classes)
        for module in self.modules():
            if (init == "all" and isinstance(module, nn.Conv2d | nn.Linear)) or (
                init == "conv" and isinstance(module, nn.Conv2d)
            ):
                nn.init.kaiming_normal_(module.weight)

    def forward_stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.bn1(self.conv1(x).relu()))

    def pool(self, x: Tensor) -> Tensor:
        return self.head_norm(x.mean((2, 3)))  # the global mean equals the published fixed windows at their input sizes

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        return {"stem": r"^conv1|^bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


class VGGStage(nn.Module):
    """Convolutions, each followed by ReLU and norm, and a 2x2 max-pool at the end."""

    def __init__(self, numbers: tuple[int, ...], widths: tuple[int, ...], **conv: Any) -> None:
        super().__init__()
        self.numbers = numbers  # of the layers in the whole network; the authors' keys carry them
        for number, in_chs, chs in zip(numbers, widths, widths[1:], strict=False):
            self.add_module(f"conv{number}", BinaryConv2d(in_chs, chs, 3, 1, 1, **conv))
            self.add_module(f"bn{number}", nn.BatchNorm2d(chs))

    def forward(self, x: Tensor) -> Tensor:
        for number in self.numbers:
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x).relu())
        return F.max_pool2d(x, 2)


class ReSTEVGG(StagedClassifier):
    """VGG-Small: a real first convolution, five binary ones, one linear layer. The classifier takes 32x32 images.

    Args:
        num_classes: Outputs of the head; 0 returns the flattened last map.
        in_chans: Channels of the image.
        act_bits: 1 takes the sign of what binary convolutions see, 32 leaves it real.
        estimator: Gradient of the sign: "reste", or "ste" for plain straight-through.
        scale_in_weight: The published order of multiplication, see `BinaryConv2d`.
    """

    authors_keys = VGG_KEYS

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        *,
        act_bits: int = 1,
        estimator: Estimator = "reste",
        scale_in_weight: bool = False,
    ) -> None:
        super().__init__()
        conv: dict[str, Any] = {"act_bits": act_bits, "estimator": estimator, "scale_in_weight": scale_in_weight}
        self.conv0 = nn.Conv2d(in_chans, 128, 3, 1, 1, bias=False)
        self.bn0 = nn.BatchNorm2d(128)
        self.stage1 = VGGStage((1,), (128, 128), **conv)
        self.stage2 = VGGStage((2, 3), (128, 256, 256), **conv)
        self.stage3 = VGGStage((4, 5), (256, 512, 512), **conv)
        self.feature_info = [
            {"num_chs": 128 * 2**i, "reduction": 2 ** (i + 1), "module": f"stage{i + 1}"} for i in range(3)
        ]
        self.num_features = 512
        self.head_hidden_size = 512 * 4 * 4
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, (2 / (9 * module.out_channels)) ** 0.5)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, 0, 0.01)
            nn.init.zeros_(self.fc.bias)

    def forward_stem(self, x: Tensor) -> Tensor:
        return self.bn0(self.conv0(x).relu())

    def pool(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (4, 4):
            raise ValueError(
                f"the last map is {x.shape[-2]}x{x.shape[-1]}; VGG-Small classifies images of 32x32 pixels"
            )
        return x.flatten(1)

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        return {"stem": r"^conv0|^bn0", "blocks": r"^stage(\d+)" if coarse else r"^stage\d+\.(?:conv|bn)(\d+)"}


def _build(variant: str, pretrained: bool, network: type[Network], **kwargs: Any) -> Network:
    return build(
        network,
        variant,
        pretrained,
        pretrained_filter_fn=unpack,
        feature_cfg={"out_indices": (-3, -2, -1), "feature_cls": "getter"},
        **kwargs,
    )


def reste_resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> ReSTEResNet:
    """ResNet-20 for CIFAR, one skip a block, parameter-free shortcuts."""
    args = {"depths": (3, 3, 3), "widths": (16, 32, 64), "shortcut": "pad", "init": "all", **kwargs}
    return _build("reste_resnet20_cifar", pretrained, ReSTEResNet, **args)


def reste_resnet20_bireal_cifar(pretrained: bool = False, **kwargs: Any) -> ReSTEResNet:
    """ResNet-20 for CIFAR with a skip around each convolution."""
    args = {"depths": (3, 3, 3), "widths": (16, 32, 64), "shortcut": "pad", "two_skips": True, "init": "all", **kwargs}
    return _build("reste_resnet20_bireal_cifar", pretrained, ReSTEResNet, **args)


def reste_resnet18_cifar(pretrained: bool = False, **kwargs: Any) -> ReSTEResNet:
    """ResNet-18 for CIFAR, one skip a block."""
    args = {"depths": (2, 2, 2, 2), "widths": (64, 128, 256, 512), **kwargs}
    return _build("reste_resnet18_cifar", pretrained, ReSTEResNet, **args)


def reste_vggsmall_cifar(pretrained: bool = False, **kwargs: Any) -> ReSTEVGG:
    """VGG-Small for CIFAR."""
    return _build("reste_vggsmall_cifar", pretrained, ReSTEVGG, **kwargs)


def _imagenet(variant: str, pretrained: bool, depths: tuple[int, ...], **kwargs: Any) -> ReSTEResNet:
    args = {"widths": (64, 128, 256, 512), "stem": "imagenet", "two_skips": True, "init": "conv", "num_classes": 1000}
    return _build(variant, pretrained, ReSTEResNet, depths=depths, **{**args, **kwargs})


def reste_resnet18_in1k(pretrained: bool = False, **kwargs: Any) -> ReSTEResNet:
    """ResNet-18 for ImageNet with a skip around each convolution."""
    return _imagenet("reste_resnet18_in1k", pretrained, (2, 2, 2, 2), **kwargs)


def reste_resnet34_in1k(pretrained: bool = False, **kwargs: Any) -> ReSTEResNet:
    """ResNet-34 for ImageNet with a skip around each convolution."""
    return _imagenet("reste_resnet34_in1k", pretrained, (3, 4, 6, 3), **kwargs)
