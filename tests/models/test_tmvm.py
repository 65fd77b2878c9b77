"""TMVM: its encoders against the public code they come from, its head by arithmetic, and what the method claims."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zoo
from tests.goldens import Golden, fill, normal
from zoo.convert import convert, rename
from zoo.data import zooclips
from zoo.errors import IntegrityError
from zoo.layers.space_time import SpaceTimeTransformer, fit_frames, inflate
from zoo.losses.tmvm import contrast, prototype_variance
from zoo.models.tmvm import PrototypeHead, match, tmvm_clip_vit_b32, tmvm_frozen_base, tmvm_lite, tmvm_tiny

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32 through a few layers that end in a norm
SMALL = {"img_size": 32, "patch_size": 8, "width": 48, "depth": 2, "num_heads": 4, "num_frames": 4, "embed_dim": 16}
SMALL_BERT = {"vocab_size": 200, "n_layers": 1, "n_heads": 4, "dim": 48, "hidden_dim": 96}


def state(case: Golden):
    return {name: fill(name, tuple(shape)) for name, shape in case.facts["keys"].items()}


@pytest.mark.parametrize(
    "name",
    [
        "tmvm_frozen_st_small",
        "tmvm_frozen_st_small_f2",
        pytest.param("tmvm_frozen_st_base", marks=pytest.mark.slow),
    ],
)
def test_the_space_time_transformer_is_the_public_one(name):
    case = Golden(name)
    model = SpaceTimeTransformer(**case.facts["config"]).eval()
    assert sum(p.numel() for p in model.parameters()) == case.facts["params"]
    model.load_state_dict({key.removeprefix("video_model."): value for key, value in state(case).items()})
    stages = {}
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, args, y, name=f"block{i}": stages.__setitem__(name, y))
    with torch.no_grad():
        tokens = model(case.input())
    wide = 10 if name.endswith("base") else 1  # twelve blocks of width 768 round more than two of 48
    tolerance = {key: wide * value for key, value in TOLERANCE.items()}
    assert "block0" in case.facts["stages"]
    for name, facts in case.facts["stages"].items():
        stage = stages.get(name, tokens)
        first = torch.tensor(facts["first64"])
        torch.testing.assert_close(stage.flatten()[:64], first, **tolerance)
        assert float(stage.mean()) == pytest.approx(facts["mean"], abs=1e-4 * facts["std"])
        assert float(stage.std(correction=0)) == pytest.approx(facts["std"], rel=1e-4)
    torch.testing.assert_close(tokens[:, 0], case.tensor("cls"), **tolerance)
    if "tokens" in case.arrays:
        torch.testing.assert_close(tokens, case.tensor("tokens"), **tolerance)


@pytest.mark.parametrize(("side", "patch", "frames", "most"), [(8, 4, 3, 3), (12, 4, 2, 5), (6, 3, 1, 2)])
def test_a_block_is_the_written_attention(side, patch, frames, most):
    """Query by query: the class token sees everything, a patch the class token and its own line."""
    torch.manual_seed(side)
    dim, heads, patches = 8, 2, (side // patch) ** 2
    model = SpaceTimeTransformer(side, patch, dim, 1, heads, most).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    video = normal(side, (1, frames, 3, side, side)).double()

    def attend(attention, x, sees):
        q, k, v = (part.view(-1, heads, dim // heads) for part in attention.qkv(x).chunk(3, 1))
        rows = []
        for i, keys in enumerate(sees):
            weight = torch.einsum("hd,nhd->hn", q[i], k[keys]) / (dim // heads) ** 0.5
            rows.append(torch.einsum("hn,nhd->hd", weight.softmax(1), v[keys]).flatten())
        return attention.proj(torch.stack(rows))

    where = model.pos_embed[0]
    cut = [model.patch_embed.proj(video[0, f : f + 1]).flatten(2)[0].T + where[1:] for f in range(frames)]
    cut = [patch + model.temporal_embed[0, f] for f, patch in enumerate(cut)]
    x = torch.cat([model.cls_token[0] + where[:1], *cut])
    everything = list(range(1 + frames * patches))
    place = [(f, n) for f in range(frames) for n in range(patches)]
    in_time = [everything] + [[0] + [1 + g * patches + n for g in range(frames)] for _, n in place]
    in_space = [everything] + [[0] + [1 + f * patches + m for m in range(patches)] for f, _ in place]
    (block,) = model.blocks
    with torch.no_grad():
        t = x + attend(block.timeattn, block.norm3(x), in_time)
        s = x + attend(block.attn, block.norm1(t), in_space)
        y = s + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(s))))
        torch.testing.assert_close(model(video)[0], model.norm(y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["clip_tiny", pytest.param("clip_vit_b32", marks=pytest.mark.slow)])
def test_untrained_masks_leave_clip_as_it_is(name):
    """One frame, no training: the similarities are those of OpenAI's code, for any number of prototypes."""
    case = Golden(name)
    config = {key: value for key, value in case.facts["config"].items() if key != "transformer_heads"}
    model = tmvm_clip_vit_b32(**config, num_frames=3).eval()
    theirs = state(case)
    ours = rename(theirs, model.authors_keys)
    model.load_state_dict(ours | model.complete(ours))
    assert sum(value.numel() for value in theirs.values()) == case.facts.get("params", 118081)
    with torch.no_grad():
        model.logit_scale.fill_(torch.tensor(1 / 0.07).log())
        images = normal(case.facts["input"]["image_seed"], case.facts["input"]["image_shape"])
        ids = case.tensor("tokens").long()
        vectors = model.encode_video(images[:, None]).vectors
        texts = model.encode_text(ids, ids > 0)
        still = model.encode_video(images[:, None].expand(-1, 3, -1, -1, -1)).vectors
    assert vectors.shape[1] == 4
    for k in range(4):
        torch.testing.assert_close(vectors[:, k], F.normalize(case.tensor("image"), dim=1), **TOLERANCE)
    torch.testing.assert_close(texts, F.normalize(case.tensor("text"), dim=1), **TOLERANCE)
    scores = model.scale * match(texts, vectors)[0]
    torch.testing.assert_close(scores.T, case.tensor("logits"), rtol=1e-4, atol=1e-3)  # scaled by 14
    torch.testing.assert_close(still, vectors, **TOLERANCE)  # a picture is a film in which nothing moves


HEAD = Golden("tmvm_head_example")


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_head_and_the_losses_are_the_written_arithmetic(kind):
    config, (seed, shape) = HEAD.facts["config"], HEAD.facts["input"]["tokens"]
    head, project = PrototypeHead(config["D"], config["K"], kind), nn.Sequential(nn.Linear(config["D"], config["E"]))
    weights = state(HEAD)
    head.load_state_dict({key.removeprefix("prototype."): weights[key] for key in weights if "prototype" in key})
    project.load_state_dict({key.removeprefix("vid_proj."): weights[key] for key in weights if "vid_proj" in key})
    tokens = normal(seed, shape)
    texts = F.normalize(normal(seed + 1, (config["n_text"], config["E"])), dim=1)
    with torch.no_grad():
        pooled, masks = head(tokens[:, 1:], tokens[:, :1])
        z = F.normalize(project(pooled), dim=2)
        scores, winners = match(texts, z)
        torch.testing.assert_close(z, HEAD.tensor(f"{kind}_prototypes"), **TOLERANCE)
        torch.testing.assert_close(scores, HEAD.tensor(f"{kind}_sim"), **TOLERANCE)
        assert winners.tolist() == HEAD.tensor(f"{kind}_argmax").tolist()
        torch.testing.assert_close(masks.sum(1), torch.ones(config["B"], config["K"]))
        spread = [prototype_variance(config["E"] ** 0.5 * z, gamma) for gamma in (0.5, 1.0)]
        torch.testing.assert_close(torch.stack(spread), HEAD.tensor(f"{kind}_var"), **TOLERANCE)
        square = scores[: config["B"]]
        if kind == "softmax":
            expected = HEAD.facts["expected"]["nce_softmax"]
            assert float(contrast(square, 1 / 0.05)) == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = tmvm_tiny().eval()
    nn.init.normal_(model.prototype.mask.weight, std=0.5)  # masks that differ
    nn.init.normal_(model.video_model.temporal_embed, std=0.5)
    return model


@given(texts=st.integers(1, 4), clips=st.integers(1, 4), count=st.integers(1, 5), seed=st.integers(0, 99))
def test_matching_is_a_double_loop_and_the_order_of_prototypes_is_free(texts, clips, count, seed):
    t = F.normalize(normal(seed, (texts, 6)), dim=1)
    z = F.normalize(normal(seed + 1, (clips, count, 6)), dim=2)
    scores, winners = match(t, z)
    for i in range(texts):
        for j in range(clips):
            each = [float(t[i] @ z[j, k]) for k in range(count)]
            assert float(scores[i, j]) == pytest.approx(max(each), abs=1e-6)
            assert each[int(winners[i, j])] == pytest.approx(max(each), abs=1e-6)
    shuffled = z[:, torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    torch.testing.assert_close(match(t, shuffled)[0], scores, rtol=0, atol=1e-6)


def test_one_prototype_without_a_mask_is_the_single_vector():
    torch.manual_seed(0)
    model = tmvm_tiny(prototypes=1, mask_kind="none").eval()
    video = normal(0, (2, 4, 3, 64, 64))
    with torch.no_grad():
        vectors, masks = model.encode_video(video)
        single = F.normalize(model.vid_proj(model.video_model(video)[:, 0]), dim=1)
    torch.testing.assert_close(vectors[:, 0], single, rtol=0, atol=0)
    torch.testing.assert_close(masks, torch.full((2, 256, 1), 1 / 256))
    assert model.prototype.mask is None


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("family", ["tiny", "clip", "lite"])
def test_frames_that_only_fill_up_a_clip_change_nothing(family, kind):
    torch.manual_seed(0)
    model = small(family, mask_kind=kind).eval()
    nn.init.normal_(model.prototype.mask.weight, std=0.5)
    nn.init.normal_(model.video_model.temporal_embed, std=0.5)
    if model.prototype.beta is not None:
        nn.init.ones_(model.prototype.beta)
    side = 32 if family != "tiny" else 64
    video = normal(0, (3, 2, 3, side, side))
    padded = torch.cat((video, video[:, -1:].expand(-1, 2, -1, -1, -1)), 1)
    seen = torch.tensor([[True, True, False, False]] * 3)
    with torch.no_grad():
        short, long = model.encode_video(video), model.encode_video(padded, seen)
        alone = model.encode_video(video[:1])
        mixed = model.encode_video(padded, torch.tensor([[True] * 4, [True, True, False, False], [True] * 4]))
    torch.testing.assert_close(long.vectors, short.vectors, **TOLERANCE)
    torch.testing.assert_close(long.masks[:, : short.masks.shape[1]], short.masks, **TOLERANCE)
    assert float(long.masks[:, short.masks.shape[1] :].abs().max()) == 0
    torch.testing.assert_close(alone.vectors, short.vectors[:1], **TOLERANCE)
    torch.testing.assert_close(mixed.vectors[1], short.vectors[1], **TOLERANCE)
    assert not torch.allclose(mixed.vectors[0], short.vectors[0], atol=1e-4)


def small(family: str, **head):
    """A family at toy size."""
    if family == "tiny":
        return tmvm_tiny(**head)
    if family == "clip":
        sizes = {"image_resolution": 32, "vision_patch_size": 8, "vision_width": 64, "vision_layers": 1}
        words = {"context_length": 16, "vocab_size": 500, "transformer_width": 64, "transformer_layers": 1}
        return tmvm_clip_vit_b32(embed_dim=32, num_frames=4, **sizes, **words, **head)
    pytest.importorskip("transformers")
    if family == "frozen":
        return tmvm_frozen_base(**SMALL, text=SMALL_BERT, **head)
    bert = {"vocab_size": 99, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return tmvm_lite(
        backbone="test_efficientnet", width=32, num_frames=4, img_size=32, text=bert | {"intermediate_size": 48}, **head
    )


@pytest.mark.parametrize("family", ["tiny", "clip", "lite", "frozen"])
def test_every_family_trains_on_any_number_of_frames(family):
    torch.manual_seed(0)
    model = small(family)
    side = 64 if family == "tiny" else 32
    ids = torch.tensor([[2, 3, 4, 9], [5, 9, 0, 0], [6, 7, 9, 0]])
    for frames in (1, 3, 4):
        found = model(normal(0, (3, frames, 3, side, side)), ids, ids > 0)
        scores = found.similarity
        assert scores.shape == (3, 3)
        assert float(scores.detach().abs().max()) <= 1 + 1e-5
    (
        contrast(scores, model.scale) + prototype_variance(model.encode_video(normal(0, (2, 4, 3, side, side)))[0])
    ).backward()
    untouched = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert untouched <= {"text_model.pooler.dense.weight", "text_model.pooler.dense.bias"}
    with pytest.raises(ValueError, match="frames"):
        model(normal(0, (3, 5, 3, side, side)), ids, ids > 0)
    rows, columns = model.grid
    assert model.encode_video(normal(0, (1, 2, 3, side, side))).masks.shape == (1, 2 * rows * columns, 4)


def test_the_tiny_one_knows_every_word_of_the_drawn_people(tiny):
    said = {
        word
        for ground in zooclips.GROUNDS
        for action in zooclips.ACTIONS.values()
        for top in zooclips.TOPS
        for trousers in zooclips.TROUSERS
        for word in f"a person in {top} and {trousers} trousers {action} on {ground}".split()
    }
    assert said == set(tiny.words)
    assert len(set(tiny.words)) == len(tiny.words)


def test_an_inflated_image_transformer_starts_as_the_image_transformer():
    import timm

    torch.manual_seed(0)
    image = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=0
    ).eval()
    nn.init.normal_(image.pos_embed)
    model = SpaceTimeTransformer(32, 8, 48, 2, 4, 4)
    inflate(model, image.state_dict())
    x = normal(0, (2, 3, 32, 32))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x[:, None]), image.forward_features(x), **TOLERANCE)
    model(x[:, None]).square().sum().backward()
    assert float(model.blocks[0].timeattn.qkv.weight.grad.abs().sum()) > 0  # it can leave zero


def test_embeddings_of_frames_are_cut_continued_or_stretched():
    two = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    assert fit_frames(two, 1).tolist() == [[[1.0, 2.0]]]
    assert fit_frames(two, 3).tolist() == [[[1.0, 2.0], [3.0, 6.0], [0.0, 0.0]]]
    assert fit_frames(two, 3, "interpolate").tolist() == [[[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]]


def test_a_clip_checkpoint_is_converted_and_what_it_lacks_is_told(tmp_path):
    case = Golden("clip_tiny")
    config = {key: value for key, value in case.facts["config"].items() if key != "transformer_heads"}
    extra = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(16), "vocab_size": torch.tensor(500)}
    torch.save(state(case) | extra, tmp_path / "clip.pt")
    report = convert("tmvm_clip_vit_b32", tmp_path / "clip.pt", tmp_path / "clip.safetensors", **config)
    assert {name for name, _ in report.added} == {
        "prototype.mask.weight",
        "prototype.mask.bias",
        "prototype.beta",
        "video_model.temporal_embed",
    }
    assert "4 added untrained" in str(report)
    assert len(report.dropped) == 3
    model = zoo.create_model("tmvm_clip_vit_b32", checkpoint_path=tmp_path / "clip.safetensors").eval()
    images = normal(case.facts["input"]["image_seed"], case.facts["input"]["image_shape"])
    with torch.no_grad():
        vectors = model.encode_video(images[:, None]).vectors
    torch.testing.assert_close(vectors[:, 0], F.normalize(case.tensor("image"), dim=1), **TOLERANCE)


def test_a_frozen_checkpoint_of_other_frames_is_converted_whole_or_not_at_all(tmp_path):
    pytest.importorskip("transformers")
    theirs = tmvm_frozen_base(**{**SMALL, "num_frames": 2}, text=SMALL_BERT).state_dict()
    theirs = {f"module.{key}": value for key, value in theirs.items() if not key.startswith("prototype.")}
    torch.save({"state_dict": theirs}, tmp_path / "frozen.pth")
    arguments = {**SMALL, "text": SMALL_BERT}
    report = convert("tmvm_frozen_base", tmp_path / "frozen.pth", tmp_path / "frozen.safetensors", **arguments)
    assert [name for name, _ in report.added] == ["prototype.mask.weight", "prototype.mask.bias"] or {
        name for name, _ in report.added
    } == {"video_model.temporal_embed", "prototype.mask.weight", "prototype.mask.bias"}
    model = zoo.create_model("tmvm_frozen_base", checkpoint_path=tmp_path / "frozen.safetensors")
    embedding = theirs["module.video_model.temporal_embed"]
    torch.testing.assert_close(model.video_model.temporal_embed.data, fit_frames(embedding, 4))
    del theirs["module.vid_proj.0.weight"]
    torch.save({"state_dict": theirs}, tmp_path / "half.pth")
    with pytest.raises(IntegrityError, match=r"vid_proj\.0\.weight"):
        convert("tmvm_frozen_base", tmp_path / "half.pth", tmp_path / "half.safetensors", **arguments)


@pytest.mark.parametrize(
    ("args", "words"),
    [({"prototypes": 0}, "0 prototypes"), ({"mask_kind": "none"}, "4 prototypes"), ({"mask_kind": "x"}, "'x'")],
)
def test_heads_that_cannot_be_are_refused(args, words):
    with pytest.raises(ValueError, match=words):
        tmvm_tiny(**args)


@settings(max_examples=5)
@given(frames=st.integers(1, 4), seed=st.integers(0, 99))
def test_batch_mates_do_not_matter(tiny, frames, seed):
    video = normal(seed, (3, frames, 3, 64, 64))
    with torch.no_grad():
        together = tiny.encode_video(video).vectors
        alone = torch.cat([tiny.encode_video(clip[None]).vectors for clip in video])
    torch.testing.assert_close(together, alone, **TOLERANCE)


def test_order_of_frames_counts(tiny):
    video = normal(0, (1, 4, 3, 64, 64))
    with torch.no_grad():
        assert not torch.allclose(tiny.encode_video(video).vectors, tiny.encode_video(video.flip(1)).vectors, atol=1e-3)
