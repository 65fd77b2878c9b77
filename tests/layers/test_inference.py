"""Networks made ready for inference give the same outputs: generated chains, whole networks, and what must stay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import zoo
from zoo.layers import inference
from zoo.layers.inference import BorderConv2d, InChunks, Pointwise, Product, compile_blocks, optimize


def stir(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms that have seen something, so that a wrong fold shows."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5, generator=random)
            module.running_var.uniform_(0.3, 2, generator=random)
            if module.affine:
                module.weight.data.normal_(1, 0.5, generator=random)  # some negative, some near 0
                module.bias.data.normal_(0, 0.5, generator=random)
    return model.eval()


def kinds(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules()}


def same(ours: Tensor, truth: Tensor) -> None:
    """Equal up to float32's roundings of sums in another order."""
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-5 * max(1.0, float(truth.abs().max())))


@st.composite
def chains(draw):
    """Convolutions, activations and norms in any order; channels fit."""
    torch.manual_seed(draw(st.integers(0, 99)))
    chs, layers = draw(st.sampled_from([2, 4, 6])), []
    for kind in draw(st.lists(st.sampled_from(["conv1", "conv3", "depth", "odd", "norm", "gelu", "relu"]), max_size=8)):
        wide = draw(st.sampled_from([2, 4, 6]))
        stride, bias = draw(st.sampled_from([1, 2])), draw(st.booleans())
        if kind == "conv1":
            layers.append(nn.Conv2d(chs, wide, 1, stride, bias=bias))
        elif kind == "conv3":
            layers.append(nn.Conv2d(chs, wide, 3, stride, 1, groups=draw(st.sampled_from([1, 2])), bias=bias))
        elif kind == "odd":  # padding of a kind that is not folded forwards
            layers.append(nn.Conv2d(chs, wide, 3, stride, 2, dilation=2, bias=bias))
        elif kind == "depth":
            wide = chs
            layers.append(nn.Conv2d(chs, chs, 3, stride, 1, groups=chs, bias=bias))
        else:
            wide = chs
            layers.append({"norm": nn.BatchNorm2d(chs, affine=bias), "gelu": nn.GELU(), "relu": nn.ReLU()}[kind])
        chs = wide
    side = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    first = next((layer for layer in layers if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)), None)
    channels = getattr(first, "in_channels", getattr(first, "num_features", 3))
    return nn.Sequential(*layers), torch.randn(draw(st.integers(1, 3)), channels, *side)


@given(chains())
@settings(max_examples=150)
def test_chains_of_any_order_keep_their_outputs(case):
    chain, x = case
    network = nn.Sequential(stir(chain))
    with torch.no_grad():
        same(optimize(network)(x.clone()), network(x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 7, 8])
def test_a_norm_before_a_padded_convolution_is_exact_along_the_border(side, stride):
    torch.manual_seed(side)
    network = stir(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, stride, 1))).double()
    folded = optimize(network)
    assert BorderConv2d in kinds(folded)
    assert nn.BatchNorm2d not in kinds(folded)
    x = torch.randn(2, 4, side, side + 1, dtype=torch.float64)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["pslt_pico", "pslt_tiny"])
def test_whole_networks_keep_their_outputs(name):
    torch.manual_seed(0)
    model = stir(zoo.create_model(name))
    folded = optimize(model)
    norms = [key for key, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == ["stem.8"]  # what stands behind it begins another chain
    assert {Product, Pointwise, BorderConv2d, InChunks} <= kinds(folded)
    x = torch.randn(3, *zoo.card(name).input.size)
    with torch.no_grad():
        same(folded(x), model(x))
        for ours, truth in zip(
            *(m.forward_intermediates(x, intermediates_only=True) for m in (folded, model)), strict=True
        ):
            same(ours, truth)


def test_the_original_is_untouched():
    model = stir(zoo.create_model("pslt_pico"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimize(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_signs_are_never_touched():
    model = stir(zoo.create_model("reste_resnet18_cifar"))  # its shortcuts are a convolution and a norm in a chain
    same_again = optimize(model)
    assert kinds(same_again) == kinds(model)
    x = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(same_again(x), model.to(memory_format=torch.channels_last)(x))


def test_layers_in_two_places_stay():
    torch.manual_seed(0)
    norm, conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, 1, 1)
    network = stir(nn.Sequential(nn.Sequential(conv, norm), nn.Sequential(norm, conv)))
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        same(optimize(network)(x), network(x))
    assert nn.BatchNorm2d in kinds(optimize(network))


def test_norms_without_statistics_stay():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert nn.BatchNorm2d in kinds(optimize(network))


def test_chains_that_compute_something_else_stay():
    class Twice(nn.Sequential):
        def forward(self, x):
            return super().forward(super().forward(x))

    torch.manual_seed(0)
    network = stir(Twice(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, 1, 1)))
    x = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        same(optimize(network)(x), network(x))


def test_without_onednn_the_answers_are_the_same(monkeypatch):
    torch.manual_seed(0)
    folded, x = optimize(stir(zoo.create_model("pslt_pico"))), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        fast = folded(x)
        monkeypatch.setattr(inference, "ONEDNN", False)
        same(fast, folded(x))


def test_gradients_flow_to_the_input():
    torch.manual_seed(0)
    model = stir(zoo.create_model("pslt_pico"))
    gradients = []
    for network in (model, optimize(model)):
        x = torch.ones(1, 3, 32, 32, requires_grad=True)
        network(x).square().sum().backward()
        gradients.append(x.grad)
    same(*gradients)


def test_a_batch_in_chunks_is_the_batch(monkeypatch):
    torch.manual_seed(0)
    folded, x = optimize(stir(zoo.create_model("pslt_pico"))), torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        whole = folded(x)
        monkeypatch.setattr(inference, "CHUNK", 1)  # one image at a time
        same(folded(x), whole)


def test_pipelines_run_folded(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = stir(zoo.create_model("pslt_pico"))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    pipe = zoo.pipeline("pslt_pico", checkpoint_path=tmp_path / "w.safetensors", device="cpu", probabilities=True)
    assert BorderConv2d in kinds(pipe.model)
    image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        truth = model(pipe.preprocess.normalise(image[None])).softmax(1)[0]
    same(torch.from_numpy(pipe(image.numpy()).probabilities), truth)


@pytest.mark.slow
def test_compiled_blocks_keep_their_outputs():
    torch.manual_seed(0)
    model, x = stir(zoo.create_model("pslt_pico")), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        same(compile_blocks(optimize(model))(x), model(x))
