"""What a network asks of the images it is given."""

from torch import Tensor

__all__ = ["check_images"]


def check_images(x: Tensor, channels: int, stride: int) -> None:
    """Refuse what a convolutional network cannot take, in words rather than from inside a kernel.

    Args:
        x: Should be (B, channels, H, W), floating point.
        channels: Of the network's first convolution.
        stride: Total stride of the network, in pixels; no side may be shorter.

    Raises:
        TypeError: Integers.
        ValueError: Another shape, an empty batch, another number of channels, or a side below the stride.
    """
    if not x.is_floating_point():
        raise TypeError(f"images are {x.dtype}; divide by 255 and normalise, as zoo.pipeline does")
    if x.ndim != 4:
        raise ValueError(f"images are {tuple(x.shape)}; (B, {channels}, H, W) is needed")
    if x.shape[0] == 0:
        raise ValueError(f"images are {tuple(x.shape)}: the batch is empty")
    if x.shape[1] != channels:
        raise ValueError(
            f"images have {x.shape[1]} channels; the network takes {channels}, build it with in_chans={x.shape[1]}"
        )
    if min(x.shape[-2:]) < stride:
        raise ValueError(
            f"images are {x.shape[-2]}x{x.shape[-1]} pixels; no side may be shorter than the total stride, {stride}"
        )
