"""SGIEL against the authors' code: embeddings, stages, the training graph, one full step; conversion; streams."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from tests.goldens import FOLDER, Golden, fill, normal
from zoo.convert import convert, rename, survey
from zoo.models.sgiel import AUTHORS_KEYS, SGIEL, pool
from zoo.train.methods.sgiel import Method, Pair, total

EMBED, GRAPH, STEP = Golden("sgiel_embed"), Golden("sgiel_traingraph"), Golden("sgiel_trainstep")
KEYS = json.loads((FOLDER / "sgiel_state_dict_keys.json").read_text())["keys"]
INFERENCE = json.loads((FOLDER / "sgiel_inference_keys.json").read_text())["keys"]
SMALL = {"block": "basic", "depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16), "num_classes": 4, "small": True}


def authors_state(prefix: str = "") -> dict[str, Tensor]:
    return {name: fill(prefix + name, tuple(shape)) for name, shape in KEYS.items()}


def blank(name: str, shape: list[int]) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64 if name.endswith("num_batches_tracked") else torch.float32)


@pytest.fixture(scope="module")
def model():
    network = SGIEL()
    network.load_state_dict(rename(authors_state(), AUTHORS_KEYS))
    return network.eval()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return SGIEL(**SMALL)


def picture(case: dict) -> Tensor:
    if case["kind"] == "normal":
        return normal(case["seed"], case["shape"])
    side = int(case["kind"].removeprefix("block"))
    batch, chans, height, width = case["shape"]
    blocks = np.random.default_rng(case["seed"]).standard_normal((batch, chans, height // side, width // side))
    return torch.from_numpy(np.kron(blocks, np.ones((side, side))).astype(np.float32))


@pytest.mark.parametrize("case", EMBED.facts["cases"], ids=lambda case: case["name"])
def test_embeddings_and_stages_are_the_authors(model, case):
    x, modality, seen = picture(case), case["modality"], {}
    hooks = [model.stems[modality].register_forward_hook(lambda m, a, y: seen.__setitem__("stem", y))]
    for i in range(1, 5):
        last = list(model.get_submodule(f"layer{i}").children())[-1]
        hooks.append(last.register_forward_hook(lambda m, a, y, i=i: seen.__setitem__(f"layer{i}", y)))
    with torch.no_grad():
        features = model.forward_features(x, modality)
        for hook in hooks:
            hook.remove()
        found = {
            "gem": pool(features),
            "bnneck": model.forward_head(features, modality),
            "emb": model(x, modality),
            "emb_pool": model.embed(x, modality, mirror=False, feature="pool"),
            "emb_flip": model.embed(x, modality),
            "emb_pool_flip": model.embed(x, modality, feature="pool"),
        }
    for name, value in found.items():
        truth = EMBED.tensor(f"{case['name']}__{name}")
        # components of a unit vector in float32, and sums over other orders before it
        tolerance = 1e-6 if name.startswith("emb") else 1e-5 * float(truth.abs().max())
        torch.testing.assert_close(value, truth, rtol=0, atol=tolerance, msg=name)
    for name, facts in ((name, facts) for name, facts in case["stages"].items() if name in seen):
        assert list(seen[name].shape) == facts["shape"]
        truth = torch.tensor(facts["first64"])
        torch.testing.assert_close(seen[name].flatten()[:64], truth, rtol=1e-4, atol=1e-5 * float(seen[name].max()))


def maps(seed: int, shape: tuple[int, ...]) -> Tensor:
    one = np.random.default_rng(seed).random((shape[0], 1, *shape[2:])).astype(np.float32)
    return torch.from_numpy(one).expand(shape)


def test_the_training_graph_is_the_authors(model):
    inputs = GRAPH.facts["inputs"]
    shape = tuple(inputs["x1"]["shape"])
    with torch.no_grad():
        photographs = model.learn(*(normal(inputs[key]["seed"], shape) for key in ("x1", "x2")))
        shapes = model.learn_shapes(*(maps(inputs[key]["seed"], shape) for key in ("x1_shape", "x2_shape")))
    theirs = {
        "rgbir_bef": photographs.pooled,
        "rgbir_aft": photographs.features,
        "rgbir_logit": photographs.logits,
        "rgbir_logit2": photographs.erased_logits,
        "rgbir_zp": photographs.code,
        "rgbir_other": photographs.erased,
        "shape_bef": shapes.pooled,
        "shape_aft": shapes.features,
        "shape_logit": shapes.logits,
        "shape_zp": shapes.code,
    }
    for name, value in theirs.items():
        truth = GRAPH.tensor(name)
        torch.testing.assert_close(value, truth, rtol=1e-4, atol=1e-5 * float(truth.abs().max()), msg=name)


def test_a_full_step_of_training_is_the_authors():
    """Losses to 1e-4 and gradient norms to 1e-2: batch statistics of four pictures amplify roundings."""
    facts = STEP.facts
    pair = Pair(SGIEL())
    pair.student.load_state_dict(rename(authors_state(), AUTHORS_KEYS))
    pair.teacher.load_state_dict(rename(authors_state("ema."), AUTHORS_KEYS))
    pair.train()
    shape = (facts["P"] * facts["K"], 3, *facts["image_shape"])
    batch = [normal(facts["inputs"][key], shape) for key in ("x1", "x2")]
    batch += [maps(facts["inputs"][key], shape) for key in ("x1_shape", "x2_shape")]
    terms = Method().terms(pair, tuple(batch), torch.arange(facts["P"]).repeat_interleave(facts["K"]))
    loss = total(terms)
    names = {
        "identity": "loss_id",
        "erased": "loss_id2",
        "shape": "loss_id_shape",
        "triplet": "loss_tri",
        "mutual": "loss_kl",
        "complementary": "loss_kl2",
        "consistency": "loss_estimate",
        "orthogonality": "loss_ortho",
        "consistency_weight": "w1",
        "erased_weight": "w2",
    }
    assert {names[name] for name in terms} <= facts["values"].keys()
    for ours, theirs in names.items():
        assert float(terms[ours].detach()) == pytest.approx(facts["values"][theirs], rel=1e-4), ours
    assert float(loss.detach()) == pytest.approx(facts["values"]["total"], rel=1e-4)
    loss.backward()
    ours = dict(pair.student.named_parameters())
    for name, norm in facts["grad_norms"].items():
        (key,) = rename({name: torch.empty(0)}, AUTHORS_KEYS)
        assert float(ours[key].grad.norm()) == pytest.approx(norm, rel=1e-2), name
    whole = torch.nn.utils.clip_grad_norm_(ours.values(), 11.0)
    assert float(whole) == pytest.approx(facts["values"]["grad_norm_before_clip"], rel=1e-2)
    idle = [name for name, value in ours.items() if value.grad is None]
    assert sorted(idle) == [f"neck.{stream}.bias" for stream in ("infrared", "shape", "visible")]
    assert all(value.grad is None for value in pair.teacher.parameters())


def test_an_authors_checkpoint_is_converted_whole(tmp_path):
    """As their script saves it: the network among figures, some of them NumPy's."""
    source, out = tmp_path / "sysu.pth", tmp_path / "sysu.safetensors"
    state = {name: fill(name, tuple(shape)) if "bn2_ir" in name else blank(name, shape) for name, shape in KEYS.items()}
    torch.save({"net": state, "cmc": np.ones(20, np.float32), "mAP": np.float64(0.7), "epoch": 61}, source)
    report = convert("sgiel_r50", source, out)
    assert report.is_complete
    assert len(report.renamed) + len(report.kept) + len(report.dropped) == len(KEYS) == 2034
    assert len(INFERENCE) == 594
    dropped = {key for key, _ in report.dropped}
    assert not dropped & INFERENCE.keys()
    back = zoo.create_model("sgiel_r50", checkpoint_path=out)
    key = "base_resnet.base.layer3.2.bn2_ir.running_var"
    assert torch.equal(back.state_dict()["layer3.2.bn2.infrared.running_var"], state[key])


def test_classes_follow_from_the_file_and_a_missing_tensor_is_named(tmp_path):
    state = {name: blank(name, shape) for name, shape in KEYS.items()}
    state |= {name: torch.zeros(206, *shape[1:]) for name, shape in KEYS.items() if name.startswith("classifier")}
    del state["projs.1"]
    torch.save(state, tmp_path / "regdb.pth")
    report = survey("sgiel_r50", tmp_path / "regdb.pth")
    assert report.builder_args["num_classes"] == 206
    assert report.faults == {"missing": ["projections.shape"]}


def test_embeddings_have_length_one_and_need_no_batch_mates(small):
    small.eval()
    x = normal(0, (3, 3, 48, 24))
    with torch.no_grad():
        for modality in ("visible", "infrared"):
            together = small(x, modality)
            torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
            torch.testing.assert_close(torch.cat([small(one[None], modality) for one in x]), together)
        assert not torch.allclose(small(x, "visible"), small(x, "infrared"), atol=1e-3)
        mirrored = small.embed(x.flip(-1), "visible")
        torch.testing.assert_close(small.embed(x, "visible"), mirrored)
    with pytest.raises(ValueError, match="thermal"):
        small(x, "thermal")


def test_streams_keep_their_statistics_apart(small):
    small.train()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    small.forward_features(normal(0, (4, 3, 48, 24)), "infrared")
    moved = {name for name, value in small.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(".infrared." in name for name in moved)


def test_blank_shape_maps_are_learnt_from_without_harm(small):
    pair = Pair(small).train()
    photographs = [normal(seed, (4, 3, 48, 24)) for seed in (0, 1)]
    for blank in (torch.zeros(4, 3, 48, 24), torch.ones(4, 3, 48, 24)):
        loss = total(Method().terms(pair, (*photographs, blank, blank), torch.tensor([0, 0, 1, 1])))
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in pair.parameters())


def test_a_plain_resnet_starts_every_stream():
    from torchvision.models import resnet50

    torch.manual_seed(0)
    plain = {key: torch.randn_like(value.float()) for key, value in resnet50().state_dict().items()}
    model = SGIEL(num_classes=3)
    model.load_backbone(plain)
    ours = model.state_dict()
    for stream in ("visible", "infrared", "shape"):
        assert torch.equal(ours[f"layer2.0.shortcut.norms.{stream}.weight"], plain["layer2.0.downsample.1.weight"])
        assert torch.equal(ours[f"layer4.2.bn3.{stream}.bias"], plain["layer4.2.bn3.bias"])
    assert torch.equal(ours["layer1.0.bn1.visible.running_mean"], plain["layer1.0.bn1.running_mean"])
    assert not ours["layer1.0.bn1.infrared.running_mean"].any()
    assert torch.equal(ours["layer1.0.shortcut.conv.weight"], plain["layer1.0.downsample.0.weight"])
    for modality in ("visible", "infrared"):
        assert torch.equal(ours[f"stems.{modality}.conv.weight"], plain["conv1.weight"])
        assert torch.equal(ours[f"stems.{modality}.norms.photograph.running_var"], plain["bn1.running_var"])
        assert torch.equal(ours[f"stems.{modality}.norms.shape.weight"], plain["bn1.weight"])
    used = {key for key in plain if not key.startswith("fc.")}
    assert len(used) == 318


def test_a_checkpoint_for_other_identities_keeps_the_trunk(tmp_path):
    from safetensors.torch import save_file

    made = zoo.create_model("sgiel_pico", num_classes=5)
    save_file(made.state_dict(), tmp_path / "five.safetensors")
    other = zoo.create_model("sgiel_pico", checkpoint_path=tmp_path / "five.safetensors", num_classes=3)
    assert other.classifier.weight.shape[0] == other.classifier_shape.weight.shape[0] == 3
    for name, value in other.state_dict().items():
        assert name.startswith("classifier") or torch.equal(value, made.state_dict()[name]), name
