"""PSLT against the authors' code: logits, stages, gradients, one block alone, pyramids at padded and odd sizes."""

import argparse

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import zoo
from tests.goldens import Golden, fill, golden_cases, normal
from zoo.convert import convert, rename
from zoo.errors import IntegrityError
from zoo.models.pslt import PSLT, Branch, LadderBlock, LadderStage, shift_mask

CLASSIFIERS = [Golden(name) for name in ("pslt_tiny", "pslt_base", "pslt_reduced_448", "pslt_reduced_grad")]
PYRAMIDS = [*golden_cases("pslt_features_*"), Golden("pslt_reduced_240x135")]
ARGUMENTS = ("embed_dim", "num_classes", "conv_depths", "depths", "num_heads")


def network(case: Golden) -> PSLT:
    """Our network with the authors' state, converted and loaded strictly; a backbone without norm and head."""
    args = {key: value for key, value in case.facts["config"].items() if key in ARGUMENTS}
    model = PSLT(**{"num_classes": 0, **args}).eval()
    if "logits" not in case.arrays:
        model.norm = nn.Identity()
    model.load_state_dict(rename(case.authors_state(), model.authors_keys))
    return model


def tolerance(case: Golden) -> dict[str, float]:
    return case.facts["tolerance"].get("logits") or case.facts["tolerance"]


def watched(model: PSLT, x: Tensor) -> dict[str, Tensor]:
    """Logits, and the maps that the goldens name, as (B, C, H, W)."""
    seen = {}
    block = model.stage2.blocks[0]
    modules = {"stem": model.stem, **{f"stage{i}": model.get_submodule(f"stage{i}") for i in range(4)}}
    modules |= {"entry_of_stage2": model.stage2.entry, "entry_of_stage3": model.stage3.entry, "stage2_block0": block}
    modules |= {f"stage2_block0_branch{i}": branch for i, branch in enumerate(block.branches)}
    for name, module in modules.items():
        module.register_forward_hook(lambda m, args, y, name=name: seen.__setitem__(name, y.detach()))
    seen["logits"] = model(x)
    return seen


def as_tokens(y: Tensor, shape: list[int]) -> Tensor:
    """A map in the order of the golden: (B, C, H, W), or tokens (B, H*W, C)."""
    if len(shape) == 4:
        return y
    is_map = y.shape[1] == shape[2]
    return (y.permute(0, 2, 3, 1) if is_map else y).flatten(1, 2)


@pytest.mark.parametrize("case", CLASSIFIERS, ids=str)
def test_logits_and_every_stage_are_the_authors(case):
    model = network(case)
    with torch.no_grad():
        seen = watched(model, case.input())
    torch.testing.assert_close(seen["logits"], case.tensor("logits"), **tolerance(case))
    for name, facts in case.facts["intermediates"].items():
        y = as_tokens(seen[name], facts["shape"])
        assert list(y.shape) == facts["shape"]
        truth = case.tensor(f"first64_{name}")
        # ten blocks without a norm between them amplify float32's roundings to 2e-4 on values up to 60
        torch.testing.assert_close(y.flatten()[:64], truth, rtol=1e-4, atol=1e-5 * float(y.abs().max()), msg=name)
        assert float(y.mean()) == pytest.approx(facts["mean"], abs=1e-5 * float(y.abs().max()))
        assert float(y.std()) == pytest.approx(facts["std"], rel=1e-3)


@pytest.mark.parametrize("case", [case for case in CLASSIFIERS if case.name != "pslt_reduced_grad"], ids=str)
def test_pooled_features_and_parameters_are_the_authors(case):
    model = network(case)
    assert sum(p.numel() for p in model.parameters()) == case.facts["parameters"]
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(case.input()), pre_logits=True)
    torch.testing.assert_close(pooled, case.tensor("pooled"), **tolerance(case))


def test_gradients_are_the_authors():
    case = Golden("pslt_reduced_grad")
    model, x = network(case), case.input().requires_grad_()
    logits = model(x)
    loss = (logits * normal(103, list(logits.shape))).sum()
    loss.backward()
    torch.testing.assert_close(loss, case.tensor("loss"), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad.flatten()[:64], case.tensor("input_grad_first64"), rtol=1e-3, atol=1e-7)
    assert float(x.grad.norm()) == pytest.approx(case.facts["input_grad_norm"], rel=1e-4)
    ours = dict(model.named_parameters())
    named = {name: next(iter(rename({name: torch.empty(0)}, model.authors_keys))) for name in case.facts["gradients"]}
    assert sorted(named.values()) == sorted(ours)
    for name, facts in case.facts["gradients"].items():
        grad = ours[named[name]].grad
        assert float(grad.norm()) == pytest.approx(facts["norm"], rel=1e-3, abs=1e-6), name
        assert float(grad.sum()) == pytest.approx(facts["sum"], rel=1e-3, abs=1e-3 * facts["norm"] + 1e-6), name


BLOCKS = Golden("pslt_lsa_block").facts["cases"]


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_one_block_is_the_authors(index):
    golden, facts = Golden("pslt_lsa_block"), BLOCKS[index]
    batch, _, chs = facts["shape_B_HW_C"]
    height, width = facts["height"], facts["width"]
    block = LadderBlock(chs, facts["heads_per_branch"]).eval()
    theirs = {f"layers.0.blocks.0.{name}": fill(name, tuple(shape)) for name, shape, *_ in facts["state_dict"]}
    ours = rename(theirs, PSLT(12, depths=(1, 1)).authors_keys)
    block.load_state_dict({name.removeprefix("stage2.blocks.0."): value for name, value in ours.items()})
    x = normal(facts["seed"], facts["shape_B_HW_C"]).view(batch, height, width, chs)
    stage = LadderStage(nn.Identity(), [block], 7, shift=True)
    with torch.no_grad():
        y = stage(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(y.flatten(1, 2), golden.tensor(facts["output"]), **golden.facts["tolerance"])


@pytest.mark.parametrize("case", PYRAMIDS, ids=str)
def test_pyramids_at_padded_and_odd_sizes_are_the_authors(case):
    model = network(case)
    with torch.no_grad():
        logits, maps = model(case.input()), model.forward_intermediates(case.input(), intermediates_only=True)
    for i, y in enumerate(maps):
        assert list(y.shape) == case.facts["intermediates"][f"feature{i}"]["shape"]
        torch.testing.assert_close(y.flatten()[:64], case.tensor(f"first64_feature{i}"), **tolerance(case))
        torch.testing.assert_close(y.mean((2, 3)), case.tensor(f"channel_mean_{i}"), **tolerance(case))
    for name, y in (("feature3", maps[3]), ("logits", logits)):
        if name in case.arrays:
            torch.testing.assert_close(y, case.tensor(name), **tolerance(case))


@pytest.mark.parametrize("number", [1, -1])
def test_a_mask_keeps_apart_what_the_roll_has_brought_together(number):
    height, width, side, roll = 14, 21, 7, 3 * number
    place = torch.arange(height * width).view(height, width).roll((roll, roll), (0, 1))
    windows = place.view(2, side, 3, side).transpose(1, 2).reshape(6, side * side)
    rows, columns = windows // width, windows % width
    # within a window, pixels that were neighbours before the roll are less than a window apart
    near = ((rows[:, :, None] - rows[:, None]).abs() < side) & ((columns[:, :, None] - columns[:, None]).abs() < side)
    assert torch.equal(shift_mask(height, width, side, roll) == 0, near)


SMALL = {"embed_dim": 6, "conv_depths": (1, 1), "depths": (1, 1), "num_heads": (1, 2), "num_classes": 3}


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return PSLT(**SMALL).eval()


@given(height=st.integers(32, 130), width=st.integers(32, 130), batch=st.integers(1, 3))
@settings(max_examples=15)
def test_any_size_works_and_batch_mates_do_not_matter(small, height, width, batch):
    x = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height))
    with torch.no_grad():
        together = small(x)
        alone = torch.cat([small(image[None]) for image in x])
        maps = small.forward_intermediates(x, intermediates_only=True)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)  # another order of sums
    for y, info in zip(maps, small.feature_info, strict=True):
        assert y.shape == (batch, info["num_chs"], *(-(-side // info["reduction"]) for side in (height, width)))


def test_nothing_is_remembered_from_one_size_to_the_next(small):
    images = {side: normal(side, (1, 3, side, side)) for side in (320, 224)}
    with torch.no_grad():
        first, _, again = (small(images[side]) for side in (320, 224, 320))
    assert torch.equal(first, again)


def test_a_person_for_reidentification(small):
    with torch.no_grad():
        assert [tuple(y.shape[2:]) for y in small.forward_intermediates(torch.rand(1, 3, 256, 128))[1]] == [
            (64, 32),
            (32, 16),
            (16, 8),
            (8, 4),
        ]


@pytest.mark.parametrize(
    ("x", "kind", "words"),
    [
        (torch.rand(1, 3, 31, 64), ValueError, "total stride, 32"),
        (torch.rand(0, 3, 64, 64), ValueError, "batch is empty"),
        (torch.rand(1, 1, 64, 64), ValueError, "in_chans=1"),
        (torch.rand(3, 64, 64), ValueError, r"\(B, 3, H, W\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), TypeError, "uint8"),
    ],
)
def test_bad_images_are_refused_in_words(small, x, kind, words):
    with pytest.raises(kind, match=words):
        small(x)


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="embed_dim is 20"):
        PSLT(20)
    with pytest.raises(ValueError, match=r"divide the branches' widths, \[32, 64\]"):
        PSLT(12, num_heads=(5, 8))


def test_drop_path_grows_over_all_blocks_and_leaves_evaluation_alone(small):
    model = PSLT(**{**SMALL, "depths": (3, 2)}, drop_path_rate=0.4)
    rates = [m.drop_path.drop_prob for m in model.modules() if isinstance(m, Branch)]
    assert rates == pytest.approx([rate for rate in (0, 0.1, 0.2, 0.3, 0.4) for _ in range(3)])
    branch = Branch(6, 1, 7, is_first=True, own_values=True, drop_path_rate=0.25).train()
    torch.manual_seed(0)
    kept = branch.drop_path(torch.ones(4000, 1, 1, 1))
    assert sorted(kept.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert float(kept.mean()) == pytest.approx(1, abs=0.05)  # six standard errors


def test_half_precision_and_checkpointing_train():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = PSLT(**SMALL, drop_path_rate=0.0).train()
        model.set_grad_checkpointing(checkpointing)
        with torch.autocast("cpu", torch.bfloat16):
            model(x).float().square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        gradients.append(model.stem[0].weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_pyramid_in_timm_leaves_out_what_it_does_not_use():
    import timm

    pyramid = timm.create_model("pslt_tiny", features_only=True, out_indices=(0, 2))
    assert pyramid.feature_info.channels() == [48, 192]
    assert pyramid.feature_info.reduction() == [4, 16]
    parts = (8_220, 57_432, 216_240, 153_120, 1_466_360)  # stem to stage 2
    assert sum(p.numel() for p in pyramid.parameters()) == sum(parts)
    with torch.no_grad():
        assert [tuple(y.shape) for y in pyramid.eval()(torch.rand(1, 3, 64, 96))] == [(1, 48, 16, 24), (1, 192, 4, 6)]


def test_intermediates_and_heads_are_timms(small):
    x = normal(0, (2, 3, 64, 96))
    with torch.no_grad():
        last, maps = small.forward_intermediates(x, indices=[1, 3])
        torch.testing.assert_close(last, small.forward_features(x))
        (normed,) = small.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        torch.testing.assert_close(normed, last)
        (early,) = small.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(early, maps[0])
        features = small.forward_head(last, pre_logits=True)
        assert features.shape == (2, small.num_features)
        torch.testing.assert_close(small.get_classifier()(features), small(x))
    with pytest.raises(ValueError, match="NCHW"):
        small.forward_intermediates(x, output_fmt="NLC")


def test_layer_decay_and_weight_decay_know_every_parameter(small):
    from timm.models import group_parameters

    names = {name for name, _ in small.named_parameters()}
    groups = group_parameters(small, small.group_matcher(), reverse=True)
    order = {name: groups[name] for name in names}
    assert order["stem.0.weight"] < order["stage0.0.se.fc1.bias"] < order["stage1.0.conv.0.weight"]
    assert order["stage2.entry.se.fc1.weight"] < order["stage2.blocks.0.pointconv.weight"]
    assert order["stage2.blocks.0.pointconv.weight"] < order["stage3.entry.reduction.weight"] < order["norm.weight"]
    assert len(small.no_weight_decay()) == 6
    assert small.no_weight_decay() <= names


def authors_checkpoint(case: Golden, path):
    """What their script saves: the weights among much else, and what a FLOP counter left in them."""
    model = case.authors_state()
    model |= {name: torch.zeros(shape) for name, shape, _ in case.facts["authors_extra_buffers_not_filled"]}
    model |= {"total_ops": torch.zeros(1, dtype=torch.float64), "stem.total_params": torch.zeros(1)}
    rest = {"epoch": 449, "args": argparse.Namespace(lr=5e-4), "model_ema": {"x": torch.zeros(1)}}
    torch.save({"model": model, **rest}, path)
    return path


def test_an_authors_checkpoint_is_converted_whole(tmp_path):
    case = Golden("pslt_reduced_448")
    source, out = authors_checkpoint(case, tmp_path / "pslt.pth"), tmp_path / "pslt.safetensors"
    sizes = {key: case.facts["config"][key] for key in ("embed_dim", "conv_depths", "depths")}
    report = convert("pslt_tiny", source, out, **sizes)
    assert report.is_complete
    assert len(report.renamed) + len(report.kept) == len(case.facts["state_dict"])
    assert len(report.dropped) == len(case.facts["authors_extra_buffers_not_filled"]) + 2
    model = zoo.create_model("pslt_tiny", checkpoint_path=out).eval()  # classes and sizes follow from the file
    with torch.no_grad():
        torch.testing.assert_close(model(case.input()), case.tensor("logits"), **tolerance(case))


def test_a_checkpoint_of_another_size_is_refused_with_keys_and_shapes(tmp_path):
    source = authors_checkpoint(Golden("pslt_reduced_448"), tmp_path / "pslt.pth")
    with pytest.raises(IntegrityError, match=r"stem\.0\.weight \(6, 3, 3, 3\) for \(12, 3, 3, 3\)") as caught:
        convert("pslt_tiny", source, tmp_path / "out.safetensors")
    assert "missing" in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def pixels_seen(*, part: int | None = None, kernels: bool = False, shift: bool = True, ladder: bool = True) -> int:
    """Pixels of a 28x28 map that move output pixel (15, 15) of a block, or of one of its branches."""
    torch.manual_seed(0)
    block = LadderBlock(12, 1, ladder=ladder).eval()
    for name, parameter in block.named_parameters():
        if parameter.ndim > 1 and "table" not in name:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    if not kernels:  # the centre tap alone: otherwise 3x3 kernels carry information over window borders
        for branch in block.branches:
            taps = branch.mlp[3].weight.data
            taps[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    outputs = []
    if part is not None:
        block.branches[part].register_forward_hook(lambda m, args, y: outputs.append(y))
    stage = LadderStage(nn.Identity(), [block], 7, shift=shift).double()
    x = normal(0, (1, 12, 28, 28)).double().requires_grad_()
    y = stage(x).permute(0, 2, 3, 1)
    (grad,) = torch.autograd.grad((outputs or [y])[0][0, 15, 15].sum(), x)
    return int((grad != 0).any(1).sum())


def test_the_ladder_and_the_shift_widen_what_is_seen():
    assert [pixels_seen(part=i) for i in range(3)] == [49, 196, 441]
    assert pixels_seen() == 441
    assert pixels_seen(shift=False) == 49
    assert pixels_seen(ladder=False) == 95
    assert pixels_seen(shift=False, ladder=False) == 49
    assert pixels_seen(shift=False, kernels=True) == 784  # kernels cross the borders, the ladder passes it on


@pytest.mark.parametrize(("chs", "heads", "share"), [(288, 4, 0.323), (576, 8, 0.319)])
def test_a_block_costs_a_third_of_a_window_block(chs, heads, share):
    ours = sum(p.numel() for p in LadderBlock(chs, heads).parameters())
    window_block = 4 * chs + (4 * chs * chs + 4 * chs) + 169 * 3 * heads + (8 * chs * chs + 5 * chs)
    assert ours / window_block == pytest.approx(share, abs=0.0005)


@pytest.mark.parametrize("ablation", ["shift", "ladder", "gate"])
def test_ablations_change_what_they_say(ablation):
    models = []
    for args in ({}, {ablation: False}):
        torch.manual_seed(0)
        models.append(PSLT(**SMALL, **args).eval())
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert (counts[0] == counts[1]) == (ablation == "shift")
    x = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        assert not torch.allclose(*(model.forward_features(x) for model in models))
