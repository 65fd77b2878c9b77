"""DilateFormer against the authors' code: logits, stages, gradients; every key of their checkpoints; bad input."""

import argparse

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import zoo
from tests.goldens import Golden, fill, normal
from tests.oracles.dilateformer import UnfoldDilateFormer
from zoo.convert import convert, rename
from zoo.errors import IntegrityError
from zoo.layers.dilated_attention import MultiDilatedAttention
from zoo.models.dilateformer import DilateFormer, GlobalAttention

CASES = [Golden(f"dilateformer_{name}") for name in ("tiny", "tiny_160_10c", "reduced", "reduced_odd")]
GRADIENTS = Golden("dilateformer_reduced_grad")
SMALL = {"embed_dim": 12, "depths": (1, 2, 1, 1), "num_classes": 5}
# the goldens' own: correct code is within 1e-6; LayerNorm's eps at 1e-5 is 2e-5 off, GELU by tanh 3e-4
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def arguments(case: Golden) -> dict[str, object]:
    return {key: value for key, value in case.facts["config"].items() if key != "img_size"}  # ours takes any size


def network(case: Golden) -> DilateFormer:
    model = DilateFormer(**arguments(case)).eval()
    model.load_state_dict(rename(case.authors_state(), model.authors_keys))
    return model


def our_name(model: DilateFormer, authors: str) -> str:
    return next(iter(rename({authors: torch.empty(0)}, model.authors_keys)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_and_every_stage_are_the_authors(case):
    model, seen = network(case), {}
    modules = {"patch_embed": model.stem, "stage0_block0_attn_NHWC": model.stages[0].blocks[0].attn}
    modules |= {f"stage{i}_blocks": stage for i, stage in enumerate(model.stages)}
    for name, module in modules.items():
        module.register_forward_hook(lambda m, args, y, name=name: seen.__setitem__(name, y))
    with torch.no_grad():
        features = model.forward_features(case.input())
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), case.tensor("pooled"), **TOLERANCE)
        torch.testing.assert_close(model.forward_head(features), case.tensor("logits"), **TOLERANCE)
    assert sum(p.numel() for p in model.parameters()) == case.facts["parameters"]
    assert len(case.facts["intermediates"]) == len(modules)
    for name, facts in case.facts["intermediates"].items():
        assert list(seen[name].shape) == facts["shape"]
        first = seen[name].contiguous().flatten()[:64]
        atol = 1e-5 * float(seen[name].abs().max())  # nothing norms the maps between blocks; they reach 20
        torch.testing.assert_close(first, case.tensor(f"first64_{name}"), rtol=1e-4, atol=atol, msg=name)
        assert float(seen[name].mean()) == pytest.approx(facts["mean"], abs=1e-5 * float(seen[name].abs().max()))
        assert float(seen[name].std()) == pytest.approx(facts["std"], rel=1e-4)


def test_gradients_are_the_authors():
    model, x = network(GRADIENTS), GRADIENTS.input().requires_grad_()
    logits = model(x)
    loss = (logits * normal(104, logits.shape)).sum()
    loss.backward()
    torch.testing.assert_close(logits, GRADIENTS.tensor("logits"), **TOLERANCE)
    torch.testing.assert_close(loss, GRADIENTS.tensor("loss"), **TOLERANCE)
    torch.testing.assert_close(x.grad.flatten()[:64], GRADIENTS.tensor("input_grad_first64"), rtol=1e-3, atol=1e-5)
    assert float(x.grad.norm()) == pytest.approx(GRADIENTS.facts["input_grad_norm"], rel=1e-4)
    assert len(GRADIENTS.facts["gradients"]) == len(list(model.parameters()))
    for name, facts in GRADIENTS.facts["gradients"].items():
        grad = model.get_parameter(our_name(model, name)).grad
        assert float(grad.norm()) == pytest.approx(facts["norm"], rel=1e-4), name
        # a sum of many terms that cancel: rounding grows with their size, not with the sum's
        assert float(grad.sum()) == pytest.approx(facts["sum"], rel=1e-3, abs=1e-4 * float(grad.abs().sum())), name
        truth = GRADIENTS.tensor(f"grad8_{name}")
        # the goldens' tolerance: sums over all pixels, added in another order
        torch.testing.assert_close(grad.flatten()[:8], truth, rtol=1e-3, atol=1e-4, msg=name)


@settings(max_examples=6)
@given(height=st.integers(32, 75), width=st.integers(32, 75), channels=st.integers(1, 4), seed=st.integers(0, 99))
def test_any_size_equals_the_literal_network(height, width, channels, seed):
    oracle = UnfoldDilateFormer(12, (1, 2, 1, 1), num_classes=5, in_chans=channels).eval()
    oracle.load_state_dict({key: fill(f"{seed}{key}", value.shape) for key, value in oracle.state_dict().items()})
    model = DilateFormer(**SMALL, in_chans=channels).eval()
    model.load_state_dict(rename(oracle.state_dict(), model.authors_keys))
    x = normal(seed, (2, channels, height, width))
    with torch.no_grad():
        torch.testing.assert_close(model(x), oracle(x), **TOLERANCE)
        alone = torch.cat([model(x[:1]), model(x[1:])])
    torch.testing.assert_close(alone, oracle(x).detach(), **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "keys", "parts"),
    [
        ("dilateformer_t", 212, (65168, 63864, 252144, 1001952, 3994560, 93744, 374112, 1494720)),
        ("dilateformer_s", 310, (65168, 63864, 252144, 1001952, 3994560, 93744, 374112, 1494720)),
        ("dilateformer_b", 394, (78992, 112800, 446784, 1778304, 7095552, 166464, 664704, 2656512)),
    ],
)
def test_parts_are_as_large_as_published(name, keys, parts):
    with torch.device("meta"):
        model = zoo.create_model(name)
    modules = [model.stem, *(stage.blocks[0] for stage in model.stages), *(s.downsample for s in model.stages[1:])]
    assert tuple(sum(p.numel() for p in module.parameters()) for module in modules) == parts
    assert len(model.state_dict()) == keys


@pytest.mark.parametrize("name", ["dilateformer_t", "dilateformer_s", "dilateformer_b", "dilateformer_b.in1k_384"])
def test_multiply_adds_are_the_cards(name):
    from torch.utils.flop_counter import FlopCounterMode

    card = zoo.card(name)
    with torch.device("meta"):
        shape = {"b": {"embed_dim": 96, "depths": (4, 8, 10, 3)}, "s": {"depths": (3, 5, 8, 3)}, "t": {}}
        oracle = UnfoldDilateFormer(**shape[card.architecture[-1]])
        with FlopCounterMode(display=False) as counter:
            oracle(torch.empty(1, *card.input.size))
    assert counter.get_total_flops() / 2e9 == pytest.approx(card.gmacs, abs=1e-3)


def test_multiply_adds_of_pico_are_the_cards():
    model, total = zoo.create_model("dilateformer_pico").eval(), 0

    def count(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += y[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += y[0].numel() * module.in_features
        elif isinstance(module, MultiDilatedAttention):  # its projection of queries runs as a product
            total += y[0].numel() * (3 * module.proj.in_features + 2 * module.kernel_size**2)
        elif isinstance(module, GlobalAttention):
            total += y[0].numel() * 2 * y.shape[1] * y.shape[2]

    for module in model.modules():
        module.register_forward_hook(count)
    model(torch.zeros(1, 3, 32, 32))
    assert total / 1e9 == pytest.approx(zoo.card("dilateformer_pico").gmacs, abs=1e-4)


@pytest.fixture
def authors(tmp_path):
    """A checkpoint as the authors' training script leaves it."""
    case, path = Golden("dilateformer_tiny_160_10c"), tmp_path / "authors.pth"
    state = case.authors_state()
    average = {key: torch.zeros_like(value) for key, value in state.items()}
    around = {"optimizer": {"state": {}}, "lr_scheduler": {}, "scaler": {}, "epoch": 299, "max_accuracy": 82.1}
    torch.save(
        {"model": state, "model_ema": average, "args": argparse.Namespace(model="dilateformer_tiny"), **around}, path
    )
    return path


def test_from_the_authors_file_to_the_authors_logits(authors, tmp_path):
    case, out = Golden("dilateformer_tiny_160_10c"), tmp_path / "ours.safetensors"
    report = convert("dilateformer_tiny", authors, out)
    assert report.is_complete
    assert not report.dropped
    assert len(report.renamed) + len(report.kept) == len(case.facts["state_dict"])
    assert report.builder_args["num_classes"] == 10
    model = zoo.create_model("dilateformer_t", checkpoint_path=out).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(case.input()), case.tensor("logits"), **TOLERANCE)


def test_a_checkpoint_of_another_size_is_refused_with_keys_shapes_and_a_way_out(authors, tmp_path):
    out = tmp_path / "ours.safetensors"
    with pytest.raises(
        IntegrityError, match=r"missing \(stages\.0\.blocks\.2.*of another shape \(.*\(72,.* for \(96,"
    ) as caught:
        convert("dilateformer_b", authors, out)
    assert not out.exists()
    assert (
        "--set embed_dim=72 --set depths=[2,2,6,2], in place of embed_dim=96, depths=[4, 8, 10, 3]" in caught.value.hint
    )
    report = convert("dilateformer_s", authors, out, depths=[2, 2, 6, 2])
    assert report.is_complete
    assert [len(s.blocks) for s in zoo.create_model("dilateformer_s", checkpoint_path=out).stages] == [2, 2, 6, 2]


@pytest.mark.parametrize("how", ["float32", "bfloat16", "autocast", "autocast, checkpointed"])
def test_it_trains(how):
    """The authors' network does not, in float32: it overwrites what the backward pass needs."""
    torch.manual_seed(0)
    model, x, y = DilateFormer(**SMALL), torch.rand(4, 3, 40, 33), torch.tensor([0, 1, 2, 3])
    if how == "bfloat16":
        model, x = model.bfloat16(), x.bfloat16()
    model.set_grad_checkpointing("checkpointed" in how)
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.05), []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in how):
            loss = F.cross_entropy(model(x).float(), y)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_drop_path_drops_whole_samples_in_training_only():
    torch.manual_seed(0)
    block = DilateFormer(**SMALL, drop_path_rate=0.5).stages[3].blocks[0]
    assert block.drop_path.drop_prob == 0.5
    x = torch.ones(400, 2, 2, 3)
    dropped = block.train().drop_path(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped.flatten(1).amax(1) == dropped.flatten(1).amin(1)).all()
    assert 0.4 < float((dropped == 0).float().mean()) < 0.6
    assert torch.equal(block.eval().drop_path(x), x)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), TypeError, "torch.uint8"),
        (torch.zeros(1, 3, 31, 64), ValueError, "31x64"),
        (torch.zeros(0, 3, 64, 64), ValueError, "empty"),
        (torch.zeros(1, 1, 64, 64), ValueError, "in_chans=1"),
        (torch.zeros(3, 64, 64), ValueError, r"\(3, 64, 64\)"),
    ],
)
def test_bad_input_is_named(x, error, words):
    with pytest.raises(error, match=words):
        DilateFormer(**SMALL)(x)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"num_heads": (4, 6, 12, 24)}, "4 heads"),
        ({"num_heads": (3, 6, 7, 24)}, "7 heads"),
        ({"depths": (1, 1)}, "2, 4 and 4 stages"),
        ({"kernel_size": 4}, "kernel_size is 4"),
        ({"stem_strides": (1, 2)}, "2 stem_strides for 3"),
    ],
)
def test_bad_arguments_are_named(args, words):
    with pytest.raises(ValueError, match=words):
        DilateFormer(embed_dim=12, **args)


@pytest.mark.parametrize("dilated", [(True,) * 4, (False,) * 4, (True, False, False, False)])
def test_the_papers_ablations_can_be_built(dilated):
    model = DilateFormer(**SMALL, dilated=dilated, dilations=(1,), kernel_size=5).eval()
    assert model(torch.rand(1, 3, 33, 47)).shape == (1, 5)
