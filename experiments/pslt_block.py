"""What one ladder block sees, and what it costs, without training: seconds.

    python experiments/pslt_block.py

Receptive field: a block on a 28x28 map; the pixels whose input moves output pixel (15, 15), which lies inside a window
of each of the three partitions. "Attention alone" sets the depthwise kernels of the feed-forwards to their centre tap,
because 3x3 kernels carry information over window borders by themselves. Cost: parameters and multiply-adds (every
matrix product) of the block at PSLT's shapes against a window block of full width with a feed-forward of ratio 4.
"""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zoo.models.pslt import LadderBlock, LadderStage, WindowAttention

SIDE, PIXEL = 28, 15
FORMS = {
    "full block": {},
    "progressive shift off": {"shift": False},
    "ladder off": {"ladder": False},
    "both off": {"shift": False, "ladder": False},
}


class WindowBlock(nn.Module):
    """Window attention and a feed-forward of ratio 4, both of full width."""

    def __init__(self, chs: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(chs), nn.LayerNorm(chs)
        self.attn = WindowAttention(chs, num_heads, 7, own_values=True)
        self.mlp = nn.Sequential(nn.Linear(chs, 4 * chs), nn.GELU(), nn.Linear(4 * chs, chs))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), None, None)
        return x + self.mlp(self.norm2(x))


def stage(chs: int, num_heads: int, shift: bool = True, ladder: bool = True) -> LadderStage:
    torch.manual_seed(0)
    block = LadderBlock(chs, num_heads, ladder=ladder).eval()
    for name, parameter in block.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5 if "table" not in name else 0.02)
    return LadderStage(nn.Identity(), [block], 7, shift=shift)


def centre_taps(module: nn.Module) -> None:
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups > 1:
            conv.weight.data *= torch.zeros(3, 3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(1.0))


def seen(network: nn.Module, chs: int, part: int | None = None) -> Tensor:
    """(H, W) whether a pixel moves the output pixel, or that of one branch."""
    outputs: list[Tensor] = []
    if part is not None:
        network.blocks[0].branches[part].register_forward_hook(lambda module, args, y: outputs.append(y))
    x = torch.randn(1, chs, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    y = network(x).permute(0, 2, 3, 1)
    (grad,) = torch.autograd.grad((outputs or [y])[0][0, PIXEL, PIXEL].sum(), x)
    return grad[0].abs().sum(0) > 0


def cost(network: nn.Module, x: Tensor) -> tuple[int, float]:
    """Parameters, and millions of multiply-adds."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network(x)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 2e6


def main() -> None:
    print("| block | attention alone | with the 3x3 kernels |\n|---|---|---|")
    for form, args in FORMS.items():
        alone, whole = stage(48, 2, **args).double(), stage(48, 2, **args).double()
        centre_taps(alone)
        print(f"| {form} | {int(seen(alone, 48).sum())} | {int(seen(whole, 48).sum())} |")
        if not args:
            for part in range(3):
                alone = stage(48, 2).double()
                centre_taps(alone)
                print(f"| its branch {part} | {int(seen(alone, 48, part).sum())} | |")
    print("\n| shape | parameters | of a window block | M multiply-adds | of a window block |\n|---|---|---|---|---|")
    for name, chs, heads, side in (("base, stage 2", 288, 4, 14), ("base, stage 3", 576, 8, 7)):
        ours = cost(stage(chs, heads), torch.rand(1, chs, side, side))
        theirs = cost(WindowBlock(chs, 3 * heads), torch.rand(1, side, side, chs))
        print(f"| {name} | {ours[0]:,} | {ours[0] / theirs[0]:.3f} | {ours[1]:.1f} | {ours[1] / theirs[1]:.3f} |")


if __name__ == "__main__":
    main()
