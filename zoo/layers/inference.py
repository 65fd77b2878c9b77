"""A network made ready for inference: batch norms folded into convolutions, maps laid out channels-last.

Every step keeps the function that the network computes; only roundings differ, by about 1e-5 of the largest output in
float32. Networks that take signs are left as they are, because there a rounding can flip one.
"""

import copy
from collections import Counter, OrderedDict
from functools import cache
from itertools import pairwise
from typing import TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FusedConv2d", "compile_blocks", "fold_neighbours", "folded", "optimize"]

CHUNK = 1 << 23  # bytes of a chain's widest map
WIDENING = 4  # how much wider than its input a chain's maps may be: that of inverted residuals
# What torch.compile itself calls for frozen weights; it has no public name.
ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
# activations that oneDNN does on the way out, in its words
FUSED: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


def optimize(model: nn.Module) -> nn.Module:
    """A copy of a network for inference: same outputs within rounding, in less time. It cannot be trained.

    In every plain `nn.Sequential`, a batch norm behind a convolution is folded into it, and one before a convolution
    (where the activation stands between, as in PSLT) into the next. 1x1 convolutions become matrix products on the CPU.
    Layers in use at two places, and norms without running statistics, stay. A network with 1-bit layers comes back
    unchanged but for its memory layout.

    Args:
        model: Any network, loaded; float32 gives the most exact fold, so fold first and cast afterwards.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    if any(hasattr(module, "act_bits") for module in model.modules()):
        return model
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for name, module in list(model.named_modules()):
        if type(module).forward is nn.Sequential.forward:
            _fold(cast(nn.Sequential, module), uses)
        elif type(module) is nn.Linear and module.weight.device.type == "cpu":
            model.set_submodule(name, Product(module))
    _chunk(model)
    return model.requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def fold_neighbours(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy for inference whose batch norms are folded into the convolutions that are registered right before them.

    Most networks register layers in the order they run, but nothing makes them. So the copy is run on `x`, and where it
    gives something else the network comes back as it was.

    Args:
        model: Evaluating.
        x: An input of it.
    """
    changed = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for parent in list(changed.modules()):
        for (name, conv), (behind, norm) in pairwise(list(parent.named_children())):
            if _is_conv(conv) and _is_norm_with_activation(norm) and norm.num_features == conv.out_channels:
                act = getattr(norm, "act", nn.Identity())
                setattr(parent, name, FusedConv2d(folded(conv, norm), act))
                setattr(parent, behind, nn.Identity() if type(act) in FUSED else act)
    expected, given = model(x), changed(x)
    allowed = 1e-4 * expected.abs().max().clamp(min=1)  # float32 sums in another order
    return changed if bool((given - expected).abs().max() <= allowed) else model


def compile_blocks(model: nn.Module) -> nn.Module:
    """The network behind torch.compile, block by block where it lists blocks, whole where it does not.

    Blocks of one shape share one program: PSLT's 13 blocks take two, which are ready in a tenth of the time.
    """
    _keep_parts_apart()
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    for name in outermost:
        for block in cast(nn.ModuleList, model.get_submodule(name)):
            block.compile()
    return model if outermost else cast(nn.Module, torch.compile(model))


@cache
def _keep_parts_apart() -> None:
    """Compiled whole, a batch leaves the caches and takes twice as long. Saying so loads the compiler."""
    apart = torch.compiler.disable(InChunks._in_parts)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    InChunks._in_parts = apart  # type: ignore[method-assign]


class BorderConv2d(nn.Module):
    """A 3x3 convolution, padded by one, of `x + shift` where the padding stays 0 rather than becoming `shift`.

    The shift's part is a constant inside the map, and joins the bias; along the borders, where taps lie on the padding,
    it is less.

    Args:
        conv: The convolution.
        taps: (O, 3, 3) what the shift adds through each tap.
    """

    def __init__(self, conv: nn.Conv2d, taps: Tensor) -> None:
        super().__init__()
        self.conv = _with(conv, conv.weight, taps.sum((1, 2)) + _bias(conv))
        self.stride = conv.stride
        edges = torch.stack([taps[:, 0].sum(1), taps[:, 2].sum(1), taps[:, :, 0].sum(1), taps[:, :, 2].sum(1)])
        self.register_buffer("edges", edges.to(conv.weight))  # (4, O): top, bottom, left, right
        self.register_buffer("corners", taps[:, ::2, ::2].permute(1, 2, 0).to(conv.weight))  # (2, 2, O)

    edges: Tensor
    corners: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        rows, columns = (self._borders(x.shape[axis], y.shape[axis], self.stride[axis - 2]) for axis in (2, 3))
        for row in rows:
            y[:, :, row] -= self.edges[-row, :, None]
        for column in columns:
            y[:, :, :, column] -= self.edges[2 - column, :, None]
        for row in rows:
            for column in columns:  # taken away twice
                y[:, :, row, column] += self.corners[-row, -column]
        return y

    @staticmethod
    def _borders(side: int, outputs: int, stride: int) -> tuple[int, ...]:
        """Indices of the outputs that lie on the padding: 0 always does, -1 when its last tap is beyond the map."""
        return (0, -1) if (outputs - 1) * stride + 1 >= side else (0,)


class Product(nn.Linear):
    """A linear layer through oneDNN, which on many CPUs is twice as quick as the library that torch takes by itself.

    Args:
        linear: Gives weights and bias.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


class Pointwise(nn.Module):
    """A 1x1 convolution, and perhaps the GELU behind it, as one matrix product on channels-last maps.

    Args:
        conv: 1x1, of stride 1, without groups or padding.
        gelu: Whether an exact GELU follows.
    """

    def __init__(self, conv: nn.Conv2d, gelu: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().flatten(1).contiguous())
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach())
        self.gelu = gelu

    def forward(self, x: Tensor) -> Tensor:
        return product(x.permute(0, 2, 3, 1), self.weight, self.bias, self.gelu).permute(0, 3, 1, 2)


class FusedConv2d(nn.Module):
    """A convolution and the activation behind it in one pass of oneDNN, which keeps the weights as it likes them.

    torch lays weights out anew at every call, which costs small maps as much as the convolution. Depthwise ones, where
    torch's own kernels are the quicker, and other devices take the plain way.

    Args:
        conv: The convolution.
        act: What is behind it; left to the caller unless `FUSED` has it.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.act = act if type(act) in FUSED else nn.Identity()
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        is_plain = conv.groups == conv.in_channels > 1 or x.device.type != "cpu" or x.dtype != torch.float32
        if is_plain or not ONEDNN or torch.is_grad_enabled():
            return self.act(conv(x))
        where = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        if self.kept is None:
            self.kept = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *where, list(x.shape))
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise(x, self.kept, conv.bias, *where, *FUSED[type(self.act)], "")


class InPlaceGELU(nn.Module):
    """Exact GELU that overwrites its input, which only it reads."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.gelu_(x)


class InChunks(nn.Sequential):
    """A chain of layers that takes a batch a few images at a time, so that its widest maps stay near the caches."""

    def forward(self, x: Tensor) -> Tensor:
        widest = WIDENING * x.element_size() * x.shape[1] * x.shape[2] * x.shape[3]
        step = max(1, CHUNK // max(1, widest))
        if x.device.type != "cpu" or len(x) <= step:
            return self._whole(x)
        return self._in_parts(x, step)

    def _whole(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x

    def _in_parts(self, x: Tensor, step: int) -> Tensor:
        return torch.cat([self._whole(part) for part in torch.split(x, step)])


def product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """`F.linear` for inference, and perhaps the exact GELU of it."""
    is_learning = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu" and not is_learning:
        if torch.compiler.is_dynamo_compiling():
            return _compiled_product(x, weight, bias, gelu)
        if not torch.compiler.is_compiling():  # an exported network is for other runtimes
            return _onednn(x, weight, bias, gelu)
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none")


@torch.library.custom_op("zoo::product", mutates_args=())
def _compiled_product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """The product as torch.compile may call it, which refuses oneDNN's where weights are not frozen."""
    return _onednn(x, weight, bias, gelu)


@_compiled_product.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    return x.new_empty((*x.shape[:-1], len(weight)))


def _fold(chain: nn.Sequential, uses: Counter[int]) -> None:
    """Fold the norms of one chain; layers that another place uses too stay as they are."""
    layers = [layer if uses[id(layer)] == 1 else nn.Identity() for layer in chain]  # a stand-in takes part in nothing
    for i, (conv, norm) in enumerate(pairwise(layers)):  # first backwards, so that a convolution can do both
        if _is_conv(conv) and _is_norm(norm):
            chain[i], chain[i + 1] = layers[i], layers[i + 1] = folded(conv, norm), nn.Identity()
    for i, (norm, conv) in enumerate(pairwise(layers)):
        if _is_norm(norm) and _is_conv(conv) and (merged := _before(norm, conv)):
            chain[i], chain[i + 1] = layers[i], layers[i + 1] = nn.Identity(), merged
    for i, layer in enumerate(layers):
        has_gelu = i + 1 < len(layers) and _is_exact_gelu(layers[i + 1])
        if _is_pointwise(layer):
            chain[i] = Pointwise(layer, has_gelu)
        if has_gelu and isinstance(layer, nn.Conv2d | BorderConv2d):
            chain[i + 1] = nn.Identity() if isinstance(chain[i], Pointwise) else InPlaceGELU()


def _chunk(module: nn.Module) -> None:
    """Let the outermost chains that hold convolutions take their batches in chunks."""
    for name, child in module.named_children():
        if type(child).forward is nn.Sequential.forward and any(isinstance(m, nn.Conv2d) for m in child.modules()):
            setattr(module, name, InChunks(OrderedDict(child.named_children())))
        else:
            _chunk(child)


def _is_norm(layer: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return type(layer) is nn.BatchNorm2d and layer.running_mean is not None and layer.running_var is not None


def _is_norm_with_activation(layer: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """A batch norm of torch, or timm's, which applies an activation itself."""
    kinds = ("BatchNorm2d", "BatchNormAct2d")  # by name: importing timm takes seconds
    return isinstance(layer, nn.BatchNorm2d) and type(layer).__name__ in kinds and layer.running_var is not None


def _is_conv(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros"


def _is_exact_gelu(layer: nn.Module) -> bool:
    return isinstance(layer, nn.GELU) and layer.approximate == "none"


def _is_pointwise(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    plain = _is_conv(layer) and layer.kernel_size == layer.stride == (1, 1) and layer.groups == 1
    return plain and layer.padding == (0, 0) and layer.weight.device.type == "cpu"


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The convolution with the norm behind it."""
    scale, shift = _affine(norm)
    return _with(conv, _exact(conv.weight) * scale.view(-1, 1, 1, 1), _bias(conv) * scale + shift)


def _before(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Module | None:
    """The convolution with the norm before it; None where its padding is of another kind than is known here."""
    scale, shift = _affine(norm)
    shape = (conv.groups, 1, -1, 1, 1)
    weight = _exact(conv.weight).view(conv.groups, -1, *conv.weight.shape[1:])
    scaled = _with(conv, (weight * scale.view(shape)).flatten(0, 1), _bias(conv))
    if conv.padding == (0, 0):
        return _with(scaled, scaled.weight, _bias(conv) + (weight * shift.view(shape)).sum((2, 3, 4)).flatten())
    if (conv.kernel_size, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1)):
        return BorderConv2d(scaled, (weight * shift.view(shape)).sum(2).flatten(0, 1))
    return None


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(C,) scale and shift of an evaluating norm, in float64."""
    mean, var = _exact(cast(Tensor, norm.running_mean)), _exact(cast(Tensor, norm.running_var))
    scale = (var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * _exact(norm.weight)
    shift = -mean * scale
    return scale, shift + _exact(norm.bias) if norm.affine else shift


def _bias(conv: nn.Conv2d) -> Tensor:
    """(O,) in float64, 0 where there is none."""
    if conv.bias is None:
        return torch.zeros(conv.out_channels, dtype=torch.float64)
    return _exact(conv.bias)


def _exact(x: Tensor) -> Tensor:
    """In float64, on the CPU: not every device has it."""
    return x.detach().to("cpu", torch.float64)


def _with(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The same convolution with other values."""
    changed = copy.copy(conv)
    changed._parameters = {
        "weight": nn.Parameter(weight.to(conv.weight)),
        "bias": nn.Parameter(bias.to(conv.weight)),
    }
    return changed
