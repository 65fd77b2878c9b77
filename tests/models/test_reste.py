"""ReSTE against the authors' code: every sign and accumulator forwards, gradients, a training step, schedules."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from tests.goldens import Golden, fill, golden_cases, normal
from zoo.convert import rename
from zoo.layers.binary import BinaryConv2d, binarize, reste_power
from zoo.layers.packing import pack, unpack
from zoo.metrics.binary import estimating_error, gradient_stability
from zoo.models import reste

NETWORKS = golden_cases("reste_*_cifar") + golden_cases("reste_*_in1k")
REAL_ACTIVATIONS = golden_cases("reste_*_w1a32")[:2]  # the third is a training step
STEPS = golden_cases("reste_trainstep_*")


def network(case: Golden, state: dict[str, Tensor] | None = None) -> nn.Module:
    """Our network with the authors' state, converted and loaded strictly."""
    architecture = case.facts["model"]
    act_bits = 32 if case.facts["kind"] == "W1A32" else 1
    model = zoo.create_model(architecture, act_bits=act_bits).eval()
    model.load_state_dict(rename(state or case.authors_state(), type(model).authors_keys))
    return model


def our_name(model: nn.Module, authors: str) -> str:
    return next(iter(rename({f"{authors}.weight": torch.empty(0)}, type(model).authors_keys))).removesuffix(".weight")


@contextmanager
def watch(model: nn.Module, names: list[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Input and output of modules, by name, of the forwards inside."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.__setitem__(name, (args[0].detach(), output.detach()))
        )
        for name in names
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def crc_of_signs(x: Tensor) -> int:
    return zlib.crc32(np.packbits((x > 0).numpy().ravel(), bitorder="little").tobytes())


def test_six_networks_and_two_with_real_activations_are_covered():
    assert {case.facts["model"] for case in NETWORKS} == set(reste.__all__) - {"ReSTEResNet", "ReSTEVGG"}
    assert [case.facts["kind"] for case in REAL_ACTIVATIONS] == ["W1A32", "W1A32"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_every_sign_and_accumulator_is_the_authors(case, dtype):
    model = network(case).to(dtype)
    layers = case.facts["binary_layers"]
    ours = {our_name(model, name): facts for name, facts in layers.items()}
    assert list(ours) == [name for name, module in model.named_modules() if isinstance(module, BinaryConv2d)]
    with torch.no_grad(), watch(model, list(ours)) as seen:
        logits = model(case.input().to(dtype))
    for name, facts in ours.items():
        conv, (x, y) = model.get_submodule(name), seen[name]
        assert crc_of_signs(x) == facts["sign_bits_crc32"], name
        accumulators = (y / conv.scale.detach()).round()
        assert zlib.crc32(accumulators.numpy().astype("<i4").tobytes()) == facts["acc_int32_crc32"], name
        assert float(conv.scale.detach()) == pytest.approx(facts["weight_scaler"], rel=1e-6)
    if dtype == torch.float64:
        torch.testing.assert_close(logits, case.tensor("logits"), rtol=1e-9, atol=1e-9)
    else:  # no sign is near zero for these inputs, so float32 only rounds
        torch.testing.assert_close(logits, case.tensor("logits_float32"), rtol=0, atol=1e-4)


def stages(model: nn.Module, case: Golden) -> dict[str, str]:
    """Authors' stage -> our module with the same output."""
    found = {name: our_name(model, name) for name in case.facts["stages"]}
    if isinstance(model, reste.ReSTEVGG):  # the authors' bn1 .. bn5 sit inside our stages
        found |= {
            f"bn{i}": f"stage{stage}.bn{i}" for stage, layers in ((1, (1,)), (2, (2, 3)), (3, (4, 5))) for i in layers
        }
    return found


@pytest.mark.parametrize("case", [*NETWORKS, *REAL_ACTIVATIONS], ids=str)
def test_every_stage_is_the_authors(case):
    model = network(case).double()
    names = stages(model, case)
    with torch.no_grad(), watch(model, list(names.values())) as seen:
        model(case.input().double())
    for authors, facts in case.facts["stages"].items():
        x = seen[names[authors]][1]
        assert list(x.shape) == facts["shape"]
        assert float(x.mean()) == pytest.approx(facts["mean"], rel=1e-9, abs=1e-9)
        assert float(x.std(correction=0)) == pytest.approx(facts["std"], rel=1e-4)  # whichever divisor was used
        torch.testing.assert_close(
            x.flatten()[:64], case.tensor(f"stage.{authors}.first64"), rtol=1e-9, atol=1e-9, msg=authors
        )


@pytest.mark.parametrize("case", REAL_ACTIVATIONS, ids=str)
def test_real_activations_match_the_authors(case):
    largest = case.facts["max_abs_logit"]
    model = network(case)
    with torch.no_grad():
        torch.testing.assert_close(model(case.input()), case.tensor("logits_float32"), rtol=0, atol=1e-5 * largest)
        exact = model.double()(case.input().double())
    torch.testing.assert_close(exact, case.tensor("logits"), rtol=0, atol=1e-10 * largest)


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_parameters_are_counted_as_the_authors_do(case):
    model = network(case)
    assert sum(p.numel() for p in model.parameters()) == case.facts["param_count"]
    binary = sum(m.weight.numel() for m in model.modules() if isinstance(m, BinaryConv2d))
    assert binary == case.facts["binary_weight_count"]


@pytest.mark.parametrize("case", NETWORKS[:2], ids=str)
def test_the_published_order_gives_the_same_forward(case):
    model = zoo.create_model(case.facts["model"], scale_in_weight=True).eval().double()
    model.load_state_dict(rename(case.authors_state(), type(model).authors_keys))
    with torch.no_grad():
        torch.testing.assert_close(model(case.input().double()), case.tensor("logits"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_packing_keeps_the_outputs(case):
    model = network(case)
    with torch.no_grad():
        before = model(case.input())
        model.load_state_dict(unpack(pack(model, dtype=torch.float32), model))
        torch.testing.assert_close(model(case.input()), before, rtol=0, atol=1e-4)  # the scale is rounded once more


# a comparison that cannot fail proves nothing: mistakes people make must move the logits
MISTAKES = {
    "a scale per channel": lambda conv, x: conv_of(x, conv) * conv.weight.abs().mean((1, 2, 3)).view(-1, 1, 1),
    "padding with -1": lambda conv, x: (
        F.conv2d(F.pad(x.sign(), (1, 1, 1, 1), value=-1), conv.weight.sign(), stride=conv.stride) * conv.scale
    ),
    "centred weights": lambda conv, x: (
        F.conv2d(
            x.sign(), (conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)).sign(), None, conv.stride, conv.padding
        )
        * conv.scale
    ),
}


def conv_of(x: Tensor, conv: BinaryConv2d) -> Tensor:
    return F.conv2d(x.sign(), conv.weight.sign(), None, conv.stride, conv.padding)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_goldens_notice(mistake):
    case = Golden("reste_resnet20_cifar")
    model = network(case)
    for module in model.modules():
        if isinstance(module, BinaryConv2d):
            module.forward = lambda x, conv=module: MISTAKES[mistake](conv, x)
    with torch.no_grad():
        assert float((model(case.input()) - case.tensor("logits_float32")).abs().max()) > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0])
def test_estimator_gradient_is_the_authors(power, dtype):
    case = Golden("reste_estimator_grad")
    x = case.tensor("x").to(dtype).requires_grad_()
    binarize(x, power).backward(case.tensor("upstream").to(dtype))
    truth = case.tensor(f"grad_o{power:g}_{str(dtype).removeprefix('torch.')}")
    rtol = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(x.grad, truth, rtol=rtol, atol=0)


def test_estimator_gradient_by_the_equation():
    def slope(z: float, o: float) -> float:  # section 3.2, cut at t = 1.5 and flat below m = 0.1
        if abs(z) <= 0.1:
            return 0.1 ** (1 / o) / 0.1
        return abs(z) ** ((1 - o) / o) / o if abs(z) <= 1.5 else 0.0

    z = torch.tensor([-2, -1.5, -1, -0.5, -0.11, -0.05, 0, 0.05, 0.11, 0.5, 1, 1.49, 1.51], dtype=torch.float64)
    for o in (1.0, 1.7, 3.0, 10.0):
        x = z.clone().requires_grad_()
        binarize(x, o).sum().backward()
        expected = torch.tensor([slope(float(v), o) for v in z], dtype=torch.float64)
        torch.testing.assert_close(x.grad, expected, rtol=1e-6, atol=0)  # exponents are float32


def test_plain_straight_through_cuts_at_one():
    x = torch.tensor([-1.01, -1.0, 0.0, 0.3, 1.0, 1.2], requires_grad=True)
    binarize(x, estimator="ste").backward(torch.arange(1.0, 7.0))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0]


CONVOLUTIONS = Golden("reste_binconv_backward").facts["cases"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("index", range(len(CONVOLUTIONS)))
@pytest.mark.parametrize("scale_in_weight", [False, True], ids=["integer order", "published order"])
def test_binary_convolution_is_the_authors(index, dtype, scale_in_weight):
    golden, facts = Golden("reste_binconv_backward"), CONVOLUTIONS[index]
    conv = BinaryConv2d(
        facts["cin"],
        facts["cout"],
        facts["k"],
        facts["stride"],
        facts["pad"],
        act_bits=32 if facts["a32"] else 1,
        scale_in_weight=scale_in_weight,
    )
    conv.weight.data = fill("layer.weight", tuple(conv.weight.shape))
    conv = conv.to(dtype)
    x = normal(facts["seed"], [facts["n"], facts["cin"], facts["hw"], facts["hw"]]).to(dtype).requires_grad_()
    power = torch.tensor(facts["o"])
    if facts["oa"] == facts["o"]:
        conv.power.fill_(facts["o"])
        y = conv(x)
    else:  # one case sets the two powers apart, which our layer does not
        weight = binarize(conv.weight, power)
        y = F.conv2d(binarize(x, facts["oa"]), weight, None, conv.stride, conv.padding) * conv.scale
    y.backward(normal(facts["seed"] + 1, list(y.shape)).to(dtype))
    tolerance = {"rtol": 1e-6, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 0, "atol": 1e-5}
    suffix = str(dtype).removeprefix("torch.")
    for key, value in {"output": y, "grad_input": x.grad, "grad_weight": conv.weight.grad}.items():
        torch.testing.assert_close(value, golden.tensor(f"case{index}.{key}.{suffix}"), **tolerance, msg=key)


def training_step(case: Golden) -> tuple[nn.Module, Tensor, Tensor]:
    """The network in float64 behind one backward pass, with its logits and loss."""
    twin = Golden(case.facts["model"])  # the step's sidecar leaves the list of keys to the forward's
    model = network(case, twin.authors_state()).double().train()
    for module in model.modules():
        if isinstance(module, BinaryConv2d):
            module.power.fill_(case.facts["o"])
    logits = model(case.input().double())
    loss = F.cross_entropy(logits, torch.tensor(case.facts["labels"]))
    loss.backward()
    return model, logits.detach(), loss.detach()


@pytest.mark.parametrize("case", STEPS, ids=str)
def test_training_step_is_the_authors(case):
    model, logits, loss = training_step(case)
    torch.testing.assert_close(logits, case.tensor("logits_train_mode"), rtol=1e-6, atol=1e-9)
    assert float(loss) == pytest.approx(case.facts["loss_before_step"], rel=1e-9)

    ours = dict(model.named_parameters())
    authors = {name: our_parameter(model, name) for name in case.facts["grad_l2"]}
    assert sorted(authors.values()) == sorted(ours)
    for name, our in authors.items():
        grad = ours[our].grad
        if case.facts["grad_l2"][name] < 1e-9:  # analytically zero, rounding noise
            assert float(grad.norm()) < 1e-9, name
            continue
        assert float(grad.norm()) == pytest.approx(case.facts["grad_l2"][name], rel=1e-6), name
        assert float(grad.sum()) == pytest.approx(case.facts["grad_sum"][name], rel=1e-6, abs=1e-6 * float(grad.norm()))
        close(grad, case, f"grad.{name}.first16", float(grad.abs().max()))

    torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4).step()
    state = model.state_dict()
    for key in case.arrays:
        kind, _, rest = key.partition(".")
        if kind in ("param_after_step", "buffer_after_step"):
            name = our_parameter(model, rest.removesuffix(".first8"))
            close(state[name], case, key, float(state[name].abs().max()))
    with torch.no_grad():
        again = F.cross_entropy(model(case.input().double()), torch.tensor(case.facts["labels"]))
    assert float(again) == pytest.approx(case.facts["loss_of_second_forward_after_one_sgd_step"], rel=1e-6)


def our_parameter(model: nn.Module, authors: str) -> str:
    return next(iter(rename({authors: torch.empty(0)}, type(model).authors_keys)))


def close(value: Tensor, case: Golden, key: str, largest: float) -> None:
    truth = case.tensor(key)
    torch.testing.assert_close(value.flatten()[: len(truth)], truth, rtol=1e-6, atol=1e-8 * largest, msg=key)


@pytest.mark.parametrize("case", STEPS, ids=str)
def test_indicators_are_the_authors(case):
    model, _, _ = training_step(case)
    for end, truth in case.facts["indicator_estimating_error_before_step"].items():
        assert estimating_error(model, float(end[1:])) == pytest.approx(truth, rel=1e-6)
    assert gradient_stability(model) == pytest.approx(case.facts["indicator_gradient_stability"], rel=1e-6)


def test_gradient_stability_needs_gradients():
    with pytest.raises(ValueError, match="backward"):
        gradient_stability(zoo.create_model("reste_resnet20_cifar"))


SCHEDULES = {name: facts for name, facts in Golden("reste_schedules").facts.items() if isinstance(facts, dict)}


@pytest.mark.parametrize("name", SCHEDULES)
def test_power_schedule_is_the_authors(name):
    facts = SCHEDULES[name]
    for epoch, truth in facts["o"].items():
        power = reste_power(int(epoch), facts["epochs"], facts["o_end"])
        assert power == pytest.approx(truth, rel=1e-6)  # theirs is rounded to float32
