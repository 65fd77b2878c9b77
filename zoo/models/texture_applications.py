"""Five applications of a structure-preserving smoother: those that the pyramid texture filter's paper names.

The paper's abstract lists them; how each is wired there, and with which constants, could not be read. Each function
follows an older, well known scheme and puts the texture filter in the place of its edge-preserving one. The constants
are ours.

Images are (B, C, H, W) float, C 3 or 1. `smooth` is the filter; `image` is gamma-encoded in [0, 1] unless said
otherwise, and so is what comes back.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["abstract", "enhance", "from_linear", "halftone", "lowlight", "to_linear", "tonemap"]

Smooth = Callable[[Tensor], Tensor]

LUMA = (0.299, 0.587, 0.114)  # of gamma-encoded RGB, BT.601
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear RGB, BT.709
INK = 60.0  # slope of the lines' tanh, on lightness in [0, 1]; with 2, which is often given, they hardly show
HALO = 0.3  # largest detail that `enhance` adds or takes away
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE = (0.95047, 1.0, 1.08883)  # D65
EPSILON, KAPPA = (6 / 29) ** 3, (29 / 3) ** 3  # of CIELAB


def enhance(image: Tensor, smooth: Smooth, *, strength: float = 2.0, luma: bool = False) -> Tensor:
    """Fine detail made stronger: what the filter takes away comes back `strength` times, softly limited against halos.

    Args:
        image: The picture.
        smooth: The filter.
        strength: 1 leaves the picture as it is; 1 to 6.
        luma: Work on the luma alone, which keeps the colours.
    """
    if luma and image.shape[1] == 3:
        grey = _weighted(image, LUMA)
        return (image + _more_detail(grey, smooth, strength) - grey).clamp(0, 1)
    return _more_detail(image, smooth, strength).clamp(0, 1)


def _more_detail(image: Tensor, smooth: Smooth, strength: float) -> Tensor:
    """The limit is on what is added, so that a strength of 1 changes nothing."""
    added = (strength - 1) * (image - smooth(image))
    return image + HALO * torch.tanh(added / HALO)


def abstract(
    image: Tensor, smooth: Smooth, *, strength: float = 8.0, lines: bool = True, quantise: bool = True
) -> Tensor:
    """A drawing: flat colours in few steps of lightness, dark lines along edges.

    H. Winnemoeller, S. Olsen, B. Gooch, "Real-time video abstraction", 2006.

    Args:
        image: The picture.
        smooth: The filter.
        strength: Steps of lightness between black and white.
        lines: Draw lines, from a difference of Gaussians.
        quantise: Reduce lightness to steps.
    """
    colours = smooth(image).clamp(0, 1)
    lab = _rgb_to_lab(colours.expand(-1, 3, -1, -1))
    lightness = lab[:, :1]
    steps = _soft_steps(lightness, 100 / strength) if quantise else lightness
    drawn = _lab_to_rgb(torch.cat([steps, lab[:, 1:]], 1)).clamp(0, 1)
    if lines:
        drawn = drawn * _lines(lightness / 100)
    return drawn[:, : image.shape[1]]


def _soft_steps(lightness: Tensor, step: float) -> Tensor:
    """The nearest step, reached by a tanh that is steeper where the lightness changes faster."""
    nearest = (lightness / step).round() * step
    dy, dx = torch.gradient(lightness, dim=(2, 3)) if min(lightness.shape[2:]) > 1 else (lightness * 0,) * 2
    sharpness = 0.3 + 0.7 * (torch.hypot(dx, dy) / 10).clamp(0, 1)  # 0.3 where flat, 1 from a gradient of 10 a pixel
    return nearest + step / 2 * torch.tanh(sharpness * (lightness - nearest))


def _lines(lightness: Tensor) -> Tensor:
    """1 away from edges, towards 0 on the dark side of an edge."""
    response = _blurred(lightness, 1.0) - 0.98 * _blurred(lightness, 1.6)
    return torch.where(response > 0, 1.0, 1 + torch.tanh(INK * response)).clamp(0, 1)


def tonemap(radiance: Tensor, smooth: Smooth, *, strength: float = 10.0, saturation: float = 0.8) -> Tensor:
    """A picture for the screen from linear light of any range; a factor on the input changes nothing.

    F. Durand, J. Dorsey, "Fast bilateral filtering for the display of high-dynamic-range images", 2002: the filtered
    logarithm of the luminance is compressed, the rest is kept.

    Args:
        radiance: Linear RGB or luminance, not negative.
        smooth: The filter.
        strength: Contrast that the filtered luminance ends with; 2 to 100.
        saturation: Exponent of the colour ratios.
    """
    one_by_one = [_shown(picture, smooth, strength, saturation) for picture in torch.split(radiance.clamp_min(0), 1)]
    return torch.cat(one_by_one)


def _shown(radiance: Tensor, smooth: Smooth, strength: float, saturation: float) -> Tensor:
    """The same of one picture, whose own range counts."""
    luminance = _weighted(radiance, LUMINANCE)
    positive = luminance[luminance > 0].double()
    if not positive.numel():
        return torch.zeros_like(radiance)
    # the 0.1 percentile; quantile() takes at most 2^24 numbers
    darkest = 0.1 * float(positive.kthvalue(max(1, round(0.001 * positive.numel()))).values)
    luminance = luminance.clamp_min(darkest)
    logarithm = luminance.log10()
    low, high = float(logarithm.min()), float(logarithm.max())
    span = max(high - low, 1e-6)
    base = smooth((logarithm - low) / span) * span + low  # sigma_r keeps its meaning on [0, 1]
    bottom, top = float(base.min()), float(base.max())
    gamma = min(1.0, math.log10(strength) / max(top - bottom, 1e-6))
    shown = 10 ** (gamma * (base - top) + logarithm - base)
    return from_linear(((radiance / luminance) ** saturation * shown).clamp(0, 1))


def halftone(image: Tensor, smooth: Smooth, *, strength: float = 1.0) -> Tensor:
    """A clean, flat, sharp-edged picture from a halftone.

    Not the most faithful one: by PSNR, a plain Gaussian blur does better.

    Args:
        image: Dots of ink, any colours.
        smooth: The filter.
        strength: Standard deviation in pixels of a blur before it: 1 for error diffusion, 2 for clustered dots.
    """
    return smooth(_blurred(image, strength) if strength > 0 else image).clamp(0, 1)


def lowlight(image: Tensor, smooth: Smooth, *, strength: float = 0.6) -> Tensor:
    """A dark picture made lighter: divided by a power of its smooth illumination, the largest channel.

    The scheme of Retinex, and of X. Guo, Y. Li, H. Ling, "LIME", 2017.

    Args:
        image: The picture.
        smooth: The filter.
        strength: 0 leaves the picture as it is, 1 takes all shading away.
    """
    illumination = smooth(image.amax(1, keepdim=True)).clamp(0.02, 1)
    return (image / illumination**strength).clamp(0, 1)


def to_linear(image: Tensor) -> Tensor:
    """Linear light of sRGB values."""
    return torch.where(image <= 0.04045, image / 12.92, ((image.clamp_min(0) + 0.055) / 1.055) ** 2.4)


def from_linear(image: Tensor) -> Tensor:
    """Values of sRGB from linear light in [0, 1]."""
    return torch.where(image <= 0.0031308, image * 12.92, 1.055 * image.clamp_min(1e-8) ** (1 / 2.4) - 0.055)


def _weighted(image: Tensor, weights: tuple[float, ...]) -> Tensor:
    """(B, 1, H, W): one channel from three; grey as it is."""
    if image.shape[1] == 1:
        return image
    return (image * torch.tensor(weights).to(image).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, edge pixels repeated."""
    radius = max(1, math.ceil(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).to(image) / sigma) ** 2)
    taps = (taps / taps.sum()).expand(image.shape[1], 1, -1)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    across = F.conv2d(padded, taps.unsqueeze(2), groups=image.shape[1])
    return F.conv2d(across, taps.unsqueeze(3), groups=image.shape[1])


def _rgb_to_lab(image: Tensor) -> Tensor:
    matrix = torch.tensor(TO_XYZ).to(image) / torch.tensor(WHITE).to(image).unsqueeze(1)
    x, y, z = torch.einsum("ij,bjhw->bihw", matrix, to_linear(image)).unbind(1)
    fx, fy, fz = (torch.where(v > EPSILON, v.clamp_min(EPSILON) ** (1 / 3), (KAPPA * v + 16) / 116) for v in (x, y, z))
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], 1)


def _lab_to_rgb(lab: Tensor) -> Tensor:
    lightness, a, b = lab.unbind(1)
    fy = (lightness + 16) / 116
    xyz = [torch.where(f**3 > EPSILON, f**3, (116 * f - 16) / KAPPA) for f in (fy + a / 500, fy, fy - b / 200)]
    matrix = torch.linalg.inv(torch.tensor(TO_XYZ).double()) * torch.tensor(WHITE).double()
    return from_linear(torch.einsum("ij,bjhw->bihw", matrix.to(lab), torch.stack(xyz, 1)).clamp(0, 1))
