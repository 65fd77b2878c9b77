"""SGIEL: person re-identification across visible and infrared cameras, without leaning on body shape.

J. Feng, A. Wu, W.-S. Zheng, "Shape-Erased Feature Learning for Visible-Infrared Person Re-Identification", CVPR 2023,
arXiv:2304.04205. The network as in the released code, less what that code stores and never reads.

A ResNet whose convolutions are shared by three streams, each with batch norms of its own: visible photographs, infrared
photographs, and, in training alone, body-shape maps. Each modality has a stem of its own, through which its maps go as
well. The last stage keeps its resolution; generalised-mean pooling and one batch norm a stream ("neck") give the
embedding.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.building import build
from zoo.layers.subspace import outside

__all__ = ["MODALITIES", "SGIEL", "Modality", "Photographs", "Shapes", "sgiel_pico", "sgiel_r50"]

Modality = Literal["visible", "infrared"]
MODALITIES: tuple[Modality, ...] = ("visible", "infrared")
STREAMS = (*MODALITIES, "shape")
STAGE_STRIDES = (1, 2, 2, 1)
GEM_POWER = 3.0

# authors' key -> ours, in this order; zoo.convert applies it. Their stems are whole ResNets of which only the stem is
# read, their trunk has a stem that is not read, and their third classifier is never used.
AUTHORS_KEYS = (
    (r"^(visible_module\.visible|thermal_module\.thermal)\.(?!conv1\.|bn1\.|bn1_shape\.)", None),
    (r"^base_resnet\.base\.(?!layer)", None),
    (r"^classifier_ir\.", None),
    (r"^visible_module\.visible\.", "stems.visible."),
    (r"^thermal_module\.thermal\.", "stems.infrared."),
    (r"^(stems\.\w+)\.conv1\.", r"\1.conv."),
    (r"^(stems\.\w+)\.bn1\.", r"\1.norms.photograph."),
    (r"^(stems\.\w+)\.bn1_shape\.", r"\1.norms.shape."),
    (r"^base_resnet\.base\.", ""),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.(bn\d)\.", r".\1.visible."),
    (r"\.(bn\d)_ir\.", r".\1.infrared."),
    (r"\.(bn\d)_shape\.", r".\1.shape."),
    (r"\.downsample\.1\.", ".shortcut.norms.visible."),
    (r"\.dsbn_ir\.", ".shortcut.norms.infrared."),
    (r"\.dsbn_shape\.", ".shortcut.norms.shape."),
    (r"^bottleneck\.", "neck.visible."),
    (r"^bottleneck_ir\.", "neck.infrared."),
    (r"^bottleneck_shape\.", "neck.shape."),
    (r"^projs\.0$", "projections.photograph"),
    (r"^projs\.1$", "projections.shape"),
)


class Photographs(NamedTuple):
    """What training sees of 2B photographs, the visible B first.

    Attributes:
        pooled: (2B, D) before the neck.
        features: (2B, D) behind it.
        logits: (2B, K) of the whole feature.
        code: (2B, d) estimate of the shape code.
        erased: (2B, D) feature outside the shape subspace.
        erased_logits: (2B, K) of that, by the same classifier.
    """

    pooled: Tensor
    features: Tensor
    logits: Tensor
    code: Tensor
    erased: Tensor
    erased_logits: Tensor


class Shapes(NamedTuple):
    """What training sees of the 2B shape maps of those photographs.

    Attributes:
        pooled: (2B, D) before the neck.
        features: (2B, D) behind it.
        code: (2B, d) the shape code.
        logits: (2B, K) of the code.
    """

    pooled: Tensor
    features: Tensor
    code: Tensor
    logits: Tensor


class StreamNorms(nn.ModuleDict):
    """One batch norm for each stream."""

    def __init__(self, chs: int) -> None:
        super().__init__({stream: nn.BatchNorm2d(chs) for stream in STREAMS})

    def forward(self, x: Tensor, stream: str) -> Tensor:
        return self[stream](x)


class Stem(nn.Module):
    """Convolution, norm, ReLU, and for large pictures a max-pool: one modality's photographs and their shape maps."""

    def __init__(self, in_chans: int, chs: int, small: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, chs, 3 if small else 7, 2, 1 if small else 3, bias=False)
        self.norms = nn.ModuleDict({kind: nn.BatchNorm2d(chs) for kind in ("photograph", "shape")})
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor, kind: str) -> Tensor:
        return self.pool(self.norms[kind](self.conv(x)).relu())


class Shortcut(nn.Module):
    """A strided 1x1 convolution and each stream's norm, where a block changes the shape."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, 1, stride, bias=False)
        self.norms = StreamNorms(out_chs)

    def forward(self, x: Tensor, stream: str) -> Tensor:
        return self.norms(self.conv(x), stream)


class Bottleneck(nn.Module):
    """1x1, strided 3x3 and 1x1 convolution, four times as wide behind as inside."""

    expansion = 4

    def __init__(self, in_chs: int, width: int, stride: int) -> None:
        super().__init__()
        out_chs = width * self.expansion
        self.conv1 = nn.Conv2d(in_chs, width, 1, bias=False)
        self.bn1 = StreamNorms(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = StreamNorms(width)
        self.conv3 = nn.Conv2d(width, out_chs, 1, bias=False)
        self.bn3 = StreamNorms(out_chs)
        self.shortcut = Shortcut(in_chs, out_chs, stride) if stride > 1 or in_chs != out_chs else None

    def forward(self, x: Tensor, stream: str) -> Tensor:
        skip = self.shortcut(x, stream) if self.shortcut else x
        x = self.bn1(self.conv1(x), stream).relu()
        x = self.bn2(self.conv2(x), stream).relu()
        return (self.bn3(self.conv3(x), stream) + skip).relu()


class Basic(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, in_chs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, width, 3, stride, 1, bias=False)
        self.bn1 = StreamNorms(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = StreamNorms(width)
        self.shortcut = Shortcut(in_chs, width, stride) if stride > 1 or in_chs != width else None

    def forward(self, x: Tensor, stream: str) -> Tensor:
        skip = self.shortcut(x, stream) if self.shortcut else x
        x = self.bn1(self.conv1(x), stream).relu()
        return (self.bn2(self.conv2(x), stream) + skip).relu()


class SGIEL(nn.Module):
    """The network of all three streams.

    `model(images, modality)` gives normalised embeddings, `model.embed(...)` the published ones, averaged with the
    mirror image. `model.learn(...)` and `model.learn_shapes(...)` are the forward pass of training.

    Args:
        block: "bottleneck" (ResNet-50) or "basic" (ResNet-18).
        depths: Blocks a stage.
        widths: Channels a stage; those inside bottlenecks.
        num_classes: Identities of the training set; 0 leaves the classifiers out.
        in_chans: Channels of a picture.
        small: Stem for small pictures, which halves them once rather than twice.
    """

    authors_keys = AUTHORS_KEYS

    def __init__(
        self,
        block: Literal["bottleneck", "basic"] = "bottleneck",
        depths: tuple[int, ...] = (3, 4, 6, 3),
        widths: tuple[int, ...] = (64, 128, 256, 512),
        num_classes: int = 395,
        in_chans: int = 3,
        *,
        small: bool = False,
    ) -> None:
        super().__init__()
        kind = Bottleneck if block == "bottleneck" else Basic
        chs = widths[0]
        self.stems = nn.ModuleDict({modality: Stem(in_chans, chs, small) for modality in MODALITIES})
        for i, (depth, width, stride) in enumerate(zip(depths, widths, STAGE_STRIDES, strict=True), 1):
            blocks = []
            for j in range(depth):
                blocks.append(kind(chs, width, stride if j == 0 else 1))
                chs = width * kind.expansion
            self.add_module(f"layer{i}", nn.ModuleList(blocks))
        self.num_features = chs
        self.neck = nn.ModuleDict({stream: nn.BatchNorm1d(chs) for stream in STREAMS})
        code = chs // 4
        self.projections = nn.ParameterDict(
            {kind: nn.Parameter(torch.empty(chs, code)) for kind in ("photograph", "shape")}
        )
        self._first_weights()
        self.reset_classifier(num_classes)

    def _first_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for stream in STREAMS:
            nn.init.normal_(self.neck.get_parameter(f"{stream}.weight"), 1.0, 0.01)
            # stays 0: embeddings are compared by their angle
            self.neck.get_parameter(f"{stream}.bias").requires_grad_(False)
        for projection in self.projections.values():
            nn.init.kaiming_normal_(projection, nonlinearity="linear")

    def reset_classifier(self, num_classes: int) -> None:
        """Fresh classifiers of the whole feature and of the shape code; 0 has none."""
        self.num_classes = num_classes
        code = self.projections["shape"].shape[1]
        self.classifier, self.classifier_shape = (_head(width, num_classes) for width in (self.num_features, code))

    def load_backbone(self, state: Mapping[str, Tensor]) -> None:
        """Start from a plain ResNet, such as timm's `resnet50.tv_in1k`: its names are torchvision's.

        The visible stream and both stems get all of it; the other streams' norms get its weights and biases, and keep
        statistics of their own.

        Raises:
            KeyError: A tensor is not there.
            RuntimeError: A tensor has another shape.
        """
        own = self.state_dict()
        copies = {key: state[source] for key in own if (source := _in_a_resnet(key))}
        self.load_state_dict({**own, **copies})

    def forward_features(self, x: Tensor, modality: str) -> Tensor:
        """(B, C, H, W) photographs of a modality to the last map, (B, D, H/16, W/16); behind a small stem H/8, W/8."""
        return self._trunk(self.stems[modality](x, "photograph"), modality)

    def _trunk(self, x: Tensor, stream: str) -> Tensor:
        for i in range(1, len(STAGE_STRIDES) + 1):
            for block in self.get_submodule(f"layer{i}").children():
                x = block(x, stream)
        return x

    def forward_head(self, x: Tensor, modality: str, pre_logits: bool = True) -> Tensor:
        """Last map to features behind the neck, (B, D), not normalised; or to the classifier's logits."""
        x = self.neck[modality](pool(x))
        return x if pre_logits else self.classifier(x)

    def forward(self, images: Tensor, modality: str = "visible") -> Tensor:
        """Embeddings of length 1.

        Args:
            images: (B, C, H, W) normalised pictures, all of one modality.
            modality: "visible" or "infrared".

        Raises:
            ValueError: Another modality.
        """
        if modality not in MODALITIES:
            raise ValueError(f"no modality {modality!r}; it is {' or '.join(MODALITIES)}")
        return F.normalize(self.forward_head(self.forward_features(images, modality), modality))

    def embed(
        self, images: Tensor, modality: str = "visible", *, mirror: bool = True, feature: Literal["fc", "pool"] = "fc"
    ) -> Tensor:
        """Embeddings as the paper's test compares them, by inner product.

        Args:
            images: (B, C, H, W) normalised pictures, all of one modality.
            modality: "visible" or "infrared".
            mirror: Average with the embedding of the mirrored picture. The mean is not normalised again.
            feature: "fc" is the published one, behind the neck; "pool" the one before it.

        Raises:
            ValueError: Another modality.
        """
        if mirror:
            both = [self.embed(x, modality, mirror=False, feature=feature) for x in (images, images.flip(-1))]
            return (both[0] + both[1]) / 2
        if feature == "pool":
            return F.normalize(pool(self.forward_features(images, modality)))
        return self(images, modality)

    def one_modality(self, modality: str) -> "OneModality":
        """The network for pictures of one modality, which need not be named any more: for other runtimes.

        Raises:
            ValueError: Another modality.
        """
        return OneModality(self, modality)

    def learn(self, visible: Tensor, infrared: Tensor) -> Photographs:
        """The forward pass of training through the photographs.

        Args:
            visible: (B, C, H, W).
            infrared: (B, C, H, W) of the same identities in the same order.
        """
        maps = [self.forward_features(visible, "visible"), self.forward_features(infrared, "infrared")]
        pooled = torch.cat([pool(x) for x in maps])
        rows = pooled.chunk(2)
        features = torch.cat([self.neck[stream](x) for stream, x in zip(MODALITIES, rows, strict=True)])
        erased = outside(features, self.projections["photograph"])
        return Photographs(
            pooled,
            features,
            self.classifier(features),
            features @ self.projections["photograph"],
            erased,
            self.classifier(erased),
        )

    def learn_shapes(self, visible: Tensor, infrared: Tensor) -> Shapes:
        """The forward pass of training through the shape maps of both modalities.

        Args:
            visible: (B, C, H, W) maps of visible photographs.
            infrared: (B, C, H, W) maps of infrared ones.
        """
        stems = [self.stems[modality](x, "shape") for modality, x in zip(MODALITIES, (visible, infrared), strict=True)]
        pooled = pool(self._trunk(torch.cat(stems), "shape"))
        features = self.neck["shape"](pooled)
        code = features @ self.projections["shape"]
        return Shapes(pooled, features, code, self.classifier_shape(code))


def _head(width: int, num_classes: int) -> nn.Module:
    if not num_classes:
        return nn.Identity()
    head = nn.Linear(width, num_classes, bias=False)
    nn.init.normal_(head.weight, 0.0, 0.001)
    return head


class OneModality(nn.Module):
    """(B, C, H, W) pictures of one modality to embeddings of length 1.

    Args:
        network: Of both.
        modality: "visible" or "infrared".

    Raises:
        ValueError: Another modality.
    """

    def __init__(self, network: SGIEL, modality: str) -> None:
        if modality not in MODALITIES:
            raise ValueError(f"no modality {modality!r}; it is {' or '.join(MODALITIES)}")
        super().__init__()
        self.network = network
        self.modality = modality

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images, self.modality)


def pool(x: Tensor) -> Tensor:
    """Generalised mean over the pixels of a map that is nowhere negative: (B, D, H, W) to (B, D)."""
    return x.float().pow(GEM_POWER).mean((2, 3)).add(1e-12).pow(1 / GEM_POWER).to(x.dtype)


def _in_a_resnet(key: str) -> str | None:
    """Where a plain ResNet has what belongs in a tensor of ours; None where it has nothing or where ours is kept."""
    parts = key.split(".")
    if parts[0] == "stems":
        if parts[2] == "conv":
            return "conv1.weight"
        return None if parts[3] == "shape" and parts[4] not in ("weight", "bias") else f"bn1.{parts[4]}"
    if not parts[0].startswith("layer"):
        return None
    at = ".".join(parts[:2])
    if parts[2] == "shortcut":
        parts = [*parts[:2], "downsample.0" if parts[3] == "conv" else "downsample.1", *parts[4:]]
    if parts[3] == "weight":
        return f"{at}.{parts[2]}.weight"
    stream, what = parts[3:]
    return None if stream != "visible" and what not in ("weight", "bias") else f"{at}.{parts[2]}.{what}"


def _fitting(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A file's state without the classifiers of another number of identities, which timm takes for one head only."""
    expected = model.state_dict()
    heads = ("classifier.", "classifier_shape.")
    return {
        key: value
        for key, value in state.items()
        if not key.startswith(heads) or (key in expected and expected[key].shape == value.shape)
    }


def _build(variant: str, pretrained: bool, **kwargs: Any) -> SGIEL:
    return build(SGIEL, variant, pretrained, pretrained_filter_fn=_fitting, feature_cfg={}, **kwargs)


def sgiel_r50(pretrained: bool = False, **kwargs: Any) -> SGIEL:
    """The published network: ResNet-50, 2048 features, 288x144 pixels."""
    return _build("sgiel_r50", pretrained, **kwargs)


def sgiel_pico(pretrained: bool = False, **kwargs: Any) -> SGIEL:
    """Ours, for CPUs: ResNet-18 of a quarter of the width, 128 features, 96x48 pixels."""
    args = {"block": "basic", "depths": (2, 2, 2, 2), "widths": (16, 32, 64, 128), "small": True, **kwargs}
    return _build("sgiel_pico", pretrained, **args)
