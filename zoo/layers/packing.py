"""The packed form of binary weights, `reste-packed-v1`: eight signs a byte beside one scale a layer.

`NAME.weight` of a binary convolution becomes `NAME.weight_packed`, uint8 (OC, kh, kw, ceil(IC/8)), and `NAME.weight_scale`,
float32 (1,). Bit b (least significant first) of byte j is input channel 8j+b; 1 means +1, 0 means -1; bits beyond the last
channel are 0. Every other tensor keeps its name.
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
    bits = nn.functional.pad(bits, (0, -bits.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (bits << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, in_channels: int) -> Tensor:
    """+1 and -1 as float32 (OC, IC, kh, kw), from what `pack_bits` gave.

    Raises:
        ValueError: The bytes do not hold that number of channels.
    """
    if packed.dtype != torch.uint8 or packed.ndim != 4 or packed.shape[-1] != -(-in_channels // 8):
        raise ValueError(
            f"packed weights are {packed.dtype} {tuple(packed.shape)}; {in_channels} channels need uint8 (OC, kh, kw, {-(-in_channels // 8)})"
        )
    bits = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten(-2)[..., :in_channels].permute(0, 3, 1, 2).float().mul_(2).sub_(1).contiguous()


def pack(model: nn.Module, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """State of a model with its binary convolutions packed and its other floats stored as `dtype`.

    Packing is one way: the latent weights are gone, the signs and the scale stay exact.

    Raises:
        ValueError: A binary weight is exactly 0 or not finite, or another tensor overflows `dtype`.
    """
    state = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, BinaryConv2d):
            weight = state.pop(f"{name}.weight")
            if not weight.isfinite().all() or (weight == 0).any():
                raise ValueError(f"{name}.weight holds zeros or non-finite values, which have no sign")
            state[f"{name}.weight_packed"] = pack_bits(weight)
            state[f"{name}.weight_scale"] = weight.double().abs().mean().float().reshape(1)
    packed = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        if value.is_floating_point() and not name.endswith("weight_scale"):
            value = value.to(dtype)
            if not value.isfinite().all():
                raise ValueError(f"{name} does not fit {dtype}")
        packed[name] = value.contiguous()
    return packed


def unpack(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """State for `model.load_state_dict` from a packed one; a state that is not packed passes unchanged.

    The weights come back as +scale and -scale, so that their signs and mean magnitude are those stored.

    Raises:
        ValueError: A packed tensor does not match the model, or a scale is not a positive number.
    """
    if not any(name.endswith(".weight_packed") for name in state):
        return dict(state)
    state = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, BinaryConv2d) and f"{name}.weight_packed" in state:
            scale = state.pop(f"{name}.weight_scale", None)
            if scale is None or scale.numel() != 1 or not (scale > 0).all() or not scale.isfinite().all():
                raise ValueError(f"{name}.weight_scale is {scale}; one positive number is needed")
            state[f"{name}.weight"] = unpack_bits(state.pop(f"{name}.weight_packed"), module.in_channels) * scale.float()
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            state.setdefault(f"{name}.num_batches_tracked", torch.zeros((), dtype=torch.int64))
    return state
