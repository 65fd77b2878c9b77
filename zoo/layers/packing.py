"""The packed form of binary weights, `reste-packed-v1`: eight signs a byte beside one scale a layer.

`NAME.weight` of a binary convolution becomes two tensors::

    NAME.weight_packed   uint8 (OC, kh, kw, ceil(IC/8))   bit b (least significant first) of byte j is input channel
                                                          8j+b; 1 means +1, 0 means -1; bits beyond the last are 0
    NAME.weight_scale    float32 (1,)                     what the layer multiplies by, mean(|W|)

Every other tensor keeps its name; `num_batches_tracked` is left out. A file says `format: reste-packed-v1` in its
metadata.

Norms and scales stay float32 whatever the rest is stored in: rounding them moves sums across 0 and flips signs.
Packing is one way as far as training goes, for the latent weights are gone. What the network computes is kept
exactly: `unpack` gives back the same signs with magnitudes from which the layer computes the very same scale, and
`pack` of that gives the same bytes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.layers.binary import BinaryConv2d

__all__ = ["FORMAT", "pack", "pack_bits", "unpack", "unpack_bits"]

FORMAT = "reste-packed-v1"


def pack_bits(weight: Tensor) -> Tensor:
    """Signs of (OC, IC, kh, kw) weights as uint8 (OC, kh, kw, ceil(IC/8)); 1 stands for a positive weight."""
    bits = (weight > 0).permute(0, 2, 3, 1).to(torch.uint8)
    bits = nn.functional.pad(bits, (0, -bits.shape[-1] % 8))
    bits = bits.reshape(*bits.shape[:-1], -1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, in_channels: int) -> Tensor:
    """+1 and -1 as float32 (OC, IC, kh, kw), from what `pack_bits` gave.

    Raises:
        ValueError: The bytes do not hold that number of channels.
    """
    if packed.dtype != torch.uint8 or packed.ndim != 4 or packed.shape[-1] != -(-in_channels // 8):
        wanted = f"uint8 (OC, kh, kw, {-(-in_channels // 8)})"
        raise ValueError(
            f"packed weights are {packed.dtype} {tuple(packed.shape)}; {in_channels} channels need {wanted}"
        )
    if in_channels % 8 and (packed[..., -1] >> in_channels % 8).any():
        raise ValueError(f"packed weights have bits beyond channel {in_channels}")
    bits = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten(-2)[..., :in_channels].permute(0, 3, 1, 2).float().mul_(2).sub_(1).contiguous()


def pack(model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """State of a model with its binary convolutions packed.

    Args:
        model: With latent float weights in its `BinaryConv2d`.
        dtype: What other convolutions and the classifier are stored in. Norms and scales stay float32.

    Raises:
        ValueError: A binary weight is exactly 0 or not finite, or another tensor overflows `dtype`.
    """
    state = model.state_dict()
    exact = set()
    for name, module in model.named_modules():
        if isinstance(module, BinaryConv2d):
            weight = state.pop(f"{name}.weight")
            if not weight.isfinite().all() or (weight == 0).any():
                raise ValueError(f"{name}.weight holds zeros or non-finite values, which have no sign")
            state[f"{name}.weight_packed"] = pack_bits(weight)
            state[f"{name}.weight_scale"] = module.scale.detach().float().reshape(1)
            exact.add(f"{name}.weight_scale")
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            exact.update(f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))
    packed = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if value.is_floating_point():
            value = value.to(torch.float32 if name in exact else dtype)
            if not value.isfinite().all():
                raise ValueError(f"{name} holds non-finite values or does not fit {dtype}")
        packed[name] = value.contiguous()
    return packed


def unpack(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """State for `model.load_state_dict` from a packed one; a state that is not packed passes unchanged.

    Raises:
        ValueError: A packed tensor does not match the model, or a scale is not a positive number.
    """
    if not any(name.endswith(".weight_packed") for name in state):
        return dict(state)
    state = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, BinaryConv2d):
            state[f"{name}.weight"] = _latent(name, state, module)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            state.setdefault(f"{name}.num_batches_tracked", torch.zeros((), dtype=torch.int64))
    strange = sorted(name for name in state if name.endswith((".weight_packed", ".weight_scale")))
    if strange:
        raise ValueError(f"{strange[0]} belongs to no binary convolution of {type(model).__name__}")
    return state


def _latent(name: str, state: dict[str, Tensor], module: BinaryConv2d) -> Tensor:
    """Weights of one layer, taken out of a packed state."""
    packed, scale = state.pop(f"{name}.weight_packed", None), state.pop(f"{name}.weight_scale", None)
    if packed is None:
        raise ValueError(f"the packed state has no {name}.weight_packed; it belongs to another architecture")
    if scale is None or scale.numel() != 1 or not (scale > 0).all() or not scale.isfinite().all():
        raise ValueError(f"{name}.weight_scale is {scale}; one positive number is needed")
    if packed.ndim == 4 and (held := (packed.shape[0], module.in_channels, *packed.shape[1:3])) != module.weight.shape:
        # before it is unpacked, into 32 times as much
        raise ValueError(f"{name}.weight_packed holds {held}; the network wants {tuple(module.weight.shape)}")
    signs = unpack_bits(packed, module.in_channels)
    return signs * _magnitudes(scale.detach().float().reshape(()), signs.shape)


def _magnitudes(scale: Tensor, shape: torch.Size) -> Tensor:
    """Positive numbers near `scale` whose mean, as torch computes it in float32, is `scale`.

    Equal numbers would not do, since their float32 sum is rounded on the way. These are whole multiples of the last
    digit of the sum that is wanted, so every partial sum is exact, in whatever order and on however many threads it
    is taken.
    """
    count = shape.numel()
    near = scale * count
    sums = [torch.nextafter(near, torch.tensor(0.0)), near, torch.nextafter(near, torch.tensor(torch.inf))]
    total = next((s for s in sums if s / count == scale), near)
    unit = torch.nextafter(total, torch.tensor(torch.inf)) - total
    parts = int(total / unit)  # below 2^24
    some, more = divmod(parts, count)
    magnitudes = torch.full((count,), float(some))
    magnitudes[:more] += 1
    return (magnitudes * unit).view(shape)
