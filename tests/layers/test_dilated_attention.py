"""Every implementation of dilated attention against the literal one, which unfolds a copy for each neighbour."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.goldens import Golden, normal
from tests.oracles.dilateformer import unfold_attention
from zoo.layers.dilated_attention import MultiDilatedAttention, choose_implementation, dilated_attention

ROOT = Path(__file__).parents[2]
ON_CPU = ("plain", "traced")
# float32 sums of some tens of products, in other orders
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def oracle(q: Tensor, k: Tensor, v: Tensor, heads: int, dilations: tuple[int, ...], kernel_size: int) -> Tensor:
    parts = zip(dilations, *(x.chunk(len(dilations), 1) for x in (q, k, v)), strict=True)
    y = [unfold_attention(*maps, heads // len(dilations), d, kernel_size) for d, *maps in parts]
    return torch.cat(y, -1).permute(0, 3, 1, 2)


def maps(seed: int, shape: tuple[int, ...], layout: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Leaves q, k, v: each by itself, channels-last, or slices of one map as the network makes them."""
    qkv = normal(seed, (shape[0], 3 * shape[1], *shape[2:])).to(dtype)
    if layout == "slices":
        qkv = qkv.contiguous(memory_format=torch.channels_last)
    parts = qkv.chunk(3, 1)
    if layout == "separate":
        parts = [x.contiguous() for x in parts]
    return tuple(x.detach().requires_grad_() for x in parts)


def with_gradients(function, inputs: tuple[Tensor, ...], *call: object) -> tuple[Tensor, ...]:
    out = function(*inputs, *call)
    weights = normal(7, out.shape).to(out.dtype)
    return (out, *torch.autograd.grad((out * weights).sum(), inputs))


CASES = Golden("dilateformer_attention_op")


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("case", CASES.facts["cases"], ids=lambda case: case["output"])
def test_one_dilation_is_the_authors(case, implementation):
    q, k, v = (normal(case["seeds"][name], case["shape_qkv_BCHW"]) for name in "qkv")
    y = dilated_attention(q, k, v, case["heads"], (case["dilation"],), case["kernel_size"], implementation)
    torch.testing.assert_close(y.permute(0, 2, 3, 1), CASES.tensor(case["output"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", ON_CPU)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    heads=st.integers(1, 2),
    head_width=st.integers(1, 5),
    dilations=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    kernel_size=st.sampled_from((1, 3, 5)),
    layout=st.sampled_from(("separate", "slices")),
)
def test_output_and_gradients_are_the_literal_ones(
    implementation, batch, height, width, heads, head_width, dilations, kernel_size, layout
):
    total = heads * len(dilations)
    inputs = maps(height, (batch, total * head_width, height, width), layout)
    call = total, tuple(dilations), kernel_size
    ours = with_gradients(dilated_attention, inputs, *call, implementation)
    for mine, truth in zip(ours, with_gradients(oracle, inputs, *call), strict=True):
        torch.testing.assert_close(mine, truth, **CLOSE)


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("layout", ["separate", "slices"])
def test_half_precision_is_float32_rounded_once(implementation, layout):
    inputs = maps(0, (2, 12, 7, 5), layout, torch.bfloat16)
    ours = with_gradients(dilated_attention, inputs, 6, (1, 2, 3), 3, implementation)
    precise = tuple(x.detach().float().requires_grad_() for x in inputs)
    for mine, truth in zip(ours, with_gradients(oracle, precise, 6, (1, 2, 3), 3), strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.float(), truth, rtol=2**-7, atol=2**-8)  # bfloat16 has 8 bits; gradients of 1


@pytest.mark.parametrize(("shape", "heads", "dilations"), [((1, 3, 3, 2), 3, (1, 2, 3)), ((2, 4, 1, 3), 2, (2,))])
def test_gradients_by_differences(shape, heads, dilations):
    inputs = maps(1, shape, "separate", torch.float64)

    def plain(*qkv: Tensor) -> Tensor:
        return dilated_attention(*qkv, heads, dilations, implementation="plain")

    assert torch.autograd.gradcheck(plain, inputs)
    assert torch.autograd.gradgradcheck(plain, inputs)


def test_inputs_are_left_alone():
    inputs = maps(2, (2, 6, 5, 4), "slices")
    before = [x.detach().clone() for x in inputs]
    with_gradients(dilated_attention, inputs, 3)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own doing
def test_it_is_a_proper_operator():
    for requires_grad in (False, True):
        inputs = [x.detach().requires_grad_(requires_grad) for x in maps(3, (1, 6, 4, 3), "separate")]
        torch.library.opcheck(torch.ops.zoo.dilated_attention.default, (*inputs, 3, [1, 2, 3], 3, "plain"))


def test_an_empty_batch_gives_an_empty_map():
    empty = torch.zeros(0, 6, 5, 4)
    assert dilated_attention(empty, empty, empty, 3).shape == (0, 6, 5, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"num_heads": 4}, "4 heads do not divide 6 channels"),
        ({"num_heads": 2}, "into 3 dilations"),
        ({"num_heads": 3, "kernel_size": 2}, "kernel_size is 2"),
        ({"num_heads": 3, "dilations": (0, 1, 2)}, r"\(0, 1, 2\)"),
    ],
)
def test_what_does_not_fit_is_named(call, words):
    x = torch.zeros(1, 6, 5, 4)
    with pytest.raises(ValueError, match=words):
        dilated_attention(x, x, x, **call)


def test_eager_takes_the_plain_form():
    assert choose_implementation(torch.zeros(1)) == "plain"


class TestTraced:
    """Under compilers and in exported files."""

    layer = MultiDilatedAttention(12, 6).eval()
    x = normal(4, (2, 7, 5, 12))

    def test_export_writes_ordinary_operators(self):
        program = torch.export.export(self.layer, (self.x,))
        assert not [node for node in program.graph.nodes if "zoo" in str(node.target)]
        torch.testing.assert_close(program.module()(self.x), self.layer(self.x), **CLOSE)

    @pytest.mark.slow
    def test_compiled_inference_is_fused(self):
        with torch.no_grad():
            torch.testing.assert_close(torch.compile(self.layer, fullgraph=True)(self.x), self.layer(self.x), **CLOSE)

    def test_a_training_graph_holds_the_operator(self):
        """Through the compiler's front end alone: its back end takes a minute."""
        compiled = torch.compile(self.layer, fullgraph=True, backend="aot_eager")
        ours, theirs = self.x.clone().requires_grad_(), self.x.clone().requires_grad_()
        compiled(ours).square().sum().backward()
        self.layer(theirs).square().sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, **CLOSE)


INTERPRETED = """
import torch
from tests.layers.test_dilated_attention import CLOSE, maps, oracle, with_gradients
from zoo.layers.dilated_attention import dilated_attention

for shape, heads, dilations, kernel_size in (
    ((2, 9, 7, 5), 3, (1, 2, 3), 3), ((1, 4, 2, 3), 2, (4,), 3), ((1, 20, 3, 4), 2, (1, 2), 5)
):
    for layout in ("separate", "slices"):
        inputs, call = maps(5, shape, layout), (heads, dilations, kernel_size)
        ours = with_gradients(dilated_attention, inputs, *call, "triton")
        for mine, truth in zip(ours, with_gradients(oracle, inputs, *call), strict=True):
            torch.testing.assert_close(mine, truth, **CLOSE)
halves = maps(5, (1, 6, 5, 4), "slices", torch.bfloat16)
ours = with_gradients(dilated_attention, halves, 3, (1, 2, 3), 3, "triton")
truth = with_gradients(dilated_attention, halves, 3, (1, 2, 3), 3, "plain")
for mine, other in zip(ours, truth, strict=True):  # the interpreter cuts bits off where a GPU rounds
    torch.testing.assert_close(mine, other, rtol=2**-6, atol=2**-7)
empty = torch.zeros(0, 6, 5, 4)
assert dilated_attention(empty, empty, empty, 3, implementation="triton").shape == (0, 6, 5, 4)
print("equal")
"""


def test_the_triton_kernels_are_right_in_triton_s_interpreter():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["triton", "plain", "traced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 72, 56, 56), (1, 72, 27, 21), (3, 96, 5, 2)])
def test_on_a_gpu(implementation, dtype, shape):
    inputs = tuple(x.detach().cuda().requires_grad_() for x in maps(6, shape, "slices", dtype))
    ours = with_gradients(dilated_attention, inputs, 3, (1, 2, 3), 3, implementation)
    precise = tuple(x.detach().double().requires_grad_() for x in inputs)
    close = CLOSE if dtype == torch.float32 else {"rtol": 2**-6, "atol": 2**-6}  # few bits, rounded once
    for mine, truth in zip(ours, with_gradients(oracle, precise, 3, (1, 2, 3), 3), strict=True):
        torch.testing.assert_close(mine.double(), truth, **close)


@pytest.mark.gpu
def test_a_gpu_takes_the_fused_kernels():
    assert choose_implementation(torch.zeros(1, device="cuda")) == "triton"


@pytest.mark.gpu
def test_compiled_on_a_gpu():
    layer, x = MultiDilatedAttention(12, 6).cuda(), normal(4, (2, 7, 5, 12)).cuda()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["_forward", "_backward_queries", "_backward_keys"])
def test_the_triton_kernels_compile_to_machine_code_of_a_gpu(name, dtype):
    """For an A100, which need not be here; whether it is right is for the tests above and below."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from zoo.kernels import dilated_triton

    kernel = getattr(dilated_triton, name)
    constants = {"D": 24, "PADDED_D": 32, "K": 3, "BLOCK": 64, "BITS_": 8}
    types = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(constants, "constexpr") | {"scale": "fp32"}
    types |= dict.fromkeys(("q", "k", "v", "out", "gradient", "dq", "dk", "dv"), f"*{dtype}")
    types |= dict.fromkeys(("log_sums", "means"), "*fp32")
    source = ASTSource(
        fn=kernel,
        signature={key: types[key] for key in kernel.arg_names},
        constexprs={(kernel.arg_names.index(key),): value for key, value in constants.items()},
    )
    assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]
