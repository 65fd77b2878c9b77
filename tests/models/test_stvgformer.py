"""STVGFormer: its parts beside the peers' outputs, the whole by what must not change its answer."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import zoo
from tests.goldens import Golden, fill, normal
from zoo.build import skeleton
from zoo.layers.attention import sine_2d, sine_time
from zoo.layers.slowfast import SlowFast
from zoo.layers.text import roberta
from zoo.models.stvgformer import Encoded, STVGFormer
from zoo.models.stvgformer_blocks import (
    Collaboration,
    Decoder,
    DynamicLayer,
    Encoder,
    Resizer,
    TemporalHead,
    proposal_map,
    valid_spans,
)
from zoo.models.stvgformer_encoders import Words, read_words
from zoo.models.stvgformer_start import start_from

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order


def state_of(golden, prefix):
    """The golden's tensors below a prefix."""
    keys = golden.facts["keys"].items()
    return {key.removeprefix(prefix): fill(key, tuple(shape)) for key, shape in keys if key.startswith(prefix)}


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return zoo.create_model("stvgformer_tiny").eval()


@pytest.fixture(scope="module")
def films():
    return torch.rand(2, 6, 3, 40, 56, generator=torch.Generator().manual_seed(0))


def words(model, *sentences):
    return read_words(sentences or ("the person in red waves a hand", "the person in blue"), model.vocabulary)


# parts


@torch.inference_mode()
def test_the_static_stream_is_mdetrs():
    golden = Golden("stvg_mdetr_transformer")
    encoder, decoder = Encoder(6, 256, 8, 2048, 0.0).eval(), Decoder(6, 256, 8, 2048, 0.0, self_attn=True).eval()
    resizer = Resizer(768, 256, 0.0).eval()
    encoder.load_state_dict(state_of(golden, "transformer.encoder."))
    decoder.load_state_dict(state_of(golden, "transformer.decoder."))
    resizer.load_state_dict(state_of(golden, "transformer.resizer."))
    text = resizer(normal(41, [6, 2, 768]).transpose(0, 1))
    torch.testing.assert_close(text.transpose(0, 1), golden.tensor("resized"), **ROUNDING)
    outside = torch.zeros(2, 5, 7, dtype=torch.bool)
    outside[1, 4:], outside[1, :, 5:] = True, True
    silent = torch.zeros(2, 6, dtype=torch.bool)
    silent[1, 4:] = True
    position = torch.cat([sine_2d(outside, 256), torch.zeros(2, 6, 256)], 1)
    padding = torch.cat([outside.flatten(1), silent], 1)
    memory = torch.cat([normal(40, [2, 256, 5, 7]).flatten(2).transpose(1, 2), text], 1)
    for layer in encoder.layers:
        memory = layer(memory, position, padding)
    torch.testing.assert_close(memory.transpose(0, 1), golden.tensor("memory"), **ROUNDING)
    query, places = torch.zeros(2, 3, 256), (0.5 * normal(42, [3, 256])).expand(2, -1, -1)
    for layer in decoder.layers:
        query, looked = layer(query, places, memory, position, padding)
    torch.testing.assert_close(decoder.norm(query), golden.tensor("hs_last"), **ROUNDING)
    torch.testing.assert_close(looked.sum(-1), torch.ones(2, 3))


@pytest.mark.parametrize("name", ["stvg_slowfast_r50", "stvg_slowfast_r50_ava"])
@torch.inference_mode()
def test_slowfast_is_pytorchvideos(name):
    """Through the converter: the whole published file, whose head has no place here."""
    golden, holder = Golden(name), nn.Module()
    holder.video_encoder = network = SlowFast(dilated=name.endswith("ava")).eval()
    report = start_from(holder, "slowfast", state_of(golden, ""))
    assert report.begun == set(holder.state_dict())
    assert all(
        key.startswith(("blocks.5", "blocks.6", "detection_head", "model.detection_head")) for key, _ in report.unused
    )
    found = network(normal(golden.facts["input"]["seed"], golden.facts["input"]["fast_shape"]))
    expected = torch.cat([golden.tensor("slow_mean"), golden.tensor("fast_mean")], 1)
    torch.testing.assert_close(found, expected, **ROUNDING)


@torch.inference_mode()
def test_the_written_example():
    golden = Golden("stvg_blocks_example")
    layer, block, head = DynamicLayer(16, 4, 32, 0.0), Collaboration(16, 4, 0.0), TemporalHead(16, 12, 3, 2)
    for part, prefix in ((layer, "dynamic.layers.0."), (block, "collab.0."), (head, "temporal_head.")):
        part.load_state_dict(state_of(golden, prefix))
        part.eval()
    silent = torch.zeros(2, 5, dtype=torch.bool)
    silent[1, 3:] = True
    place, time = sine_2d(torch.zeros(1, 2, 3, dtype=torch.bool), 16), sine_time(4, 16)
    video, text = layer(normal(80, [2, 4, 6, 16]), normal(81, [2, 5, 16]), place, time, text_padding=silent)
    torch.testing.assert_close(video, golden.tensor("dyn_v"), **ROUNDING)
    torch.testing.assert_close(text, golden.tensor("dyn_l"), **ROUNDING)
    told = block.static_to_dynamic(video, normal(83, [2, 4, 6]).softmax(-1))
    torch.testing.assert_close(told, golden.tensor("collab_v"), **ROUNDING)
    query = block.dynamic_to_static(normal(82, [2, 4, 16]), video, time)
    torch.testing.assert_close(query, golden.tensor("collab_q"), **ROUNDING)
    scores, attention = head(told.mean(2))
    torch.testing.assert_close(scores.triu(), golden.tensor("score").triu(), **ROUNDING)
    torch.testing.assert_close(attention, golden.tensor("att"), **ROUNDING)
    torch.testing.assert_close(proposal_map(head.proj(told.mean(2))), golden.tensor("map2d"), **ROUNDING)


@torch.inference_mode()
def test_2d_tans_map():
    golden = Golden("stvg_2dtan_map")
    head = TemporalHead(16, 16, 5, 3, mask_norm=True).eval()
    head.convs.load_state_dict(state_of(golden, "map_layer.convs."))
    there = valid_spans(12, None, torch.device("cpu")).expand(2, -1, -1)
    torch.testing.assert_close(head.convolve(normal(50, [2, 16, 12, 12]), there), golden.tensor("y"), **ROUNDING)


def test_a_cell_of_the_map_is_the_mean_of_its_steps():
    features = torch.randn(2, 7, 3)
    spans = proposal_map(features)
    for i in range(7):
        for j in range(7):
            expected = features[:, i : j + 1].mean(1) if j >= i else torch.zeros(2, 3)
            torch.testing.assert_close(spans[:, :, i, j], expected, **ROUNDING)


# the whole


@torch.inference_mode()
def test_shapes_and_shares(tiny, films):
    found = tiny(films, words(tiny))
    assert found.boxes.shape == (2, 6, 4)
    assert found.scores.shape == (2, 6, 6)
    assert found.grid == (5, 7)
    assert all(0 < float(looked.sum(-1).max()) <= 1 + 1e-5 for looked in found.looked)
    assert 0 <= float(found.boxes.min()) <= float(found.boxes.max()) <= 1


@torch.inference_mode()
def test_chunks_give_the_same_answer(tiny, films):
    whole = tiny.ground(tiny.encode(films), words(tiny))
    parts = tiny.ground(tiny.encode(films, chunk=4), words(tiny), chunk=5)
    torch.testing.assert_close(parts.boxes, whole.boxes, **ROUNDING)
    torch.testing.assert_close(parts.scores, whole.scores, **ROUNDING)


@torch.inference_mode()
def test_one_video_at_a_time_gives_the_same_answer(tiny, films):
    together = tiny(films, words(tiny))
    for i, sentence in enumerate(("the person in red waves a hand", "the person in blue")):
        alone = tiny(films[i : i + 1], words(tiny, sentence))  # the shorter one without its padding
        torch.testing.assert_close(alone.boxes[0], together.boxes[i], **ROUNDING)
        torch.testing.assert_close(alone.scores[0], together.scores[i], **ROUNDING)


@torch.inference_mode()
def test_padded_places_change_nothing(tiny):
    """At the grid: what an encoder makes of padded pixels next to true ones is its own affair."""
    video = tiny.encode(torch.rand(1, 5, 3, 32, 40))
    wide = torch.zeros(1, 6, 7, dtype=torch.bool)
    wide[:, 4:], wide[:, :, 5:] = True, True
    grown = {}
    for name in ("static", "dynamic"):
        noise = torch.randn(1, 5, 6, 7, 64)
        noise[:, :, :4, :5] = getattr(video, name).view(1, 5, 4, 5, 64)
        grown[name] = noise.flatten(2, 3)
    padded = type(video)(grown["static"], grown["dynamic"], (6, 7), wide)
    asked = words(tiny, "the person in red waves a hand")
    found, expected = tiny.ground(padded, asked), tiny.ground(video, asked)
    torch.testing.assert_close(found.boxes, expected.boxes, **ROUNDING)
    torch.testing.assert_close(found.scores, expected.scores, **ROUNDING)


@torch.inference_mode()
def test_padded_steps_change_nothing(tiny):
    video = tiny.encode(torch.rand(1, 5, 3, 32, 32))
    late = {name: torch.cat([getattr(video, name), torch.randn(1, 2, 16, 64)], 1) for name in ("static", "dynamic")}
    padding = torch.tensor([[False] * 5 + [True] * 2])
    longer = type(video)(late["static"], late["dynamic"], video.grid, video.padding, padding)
    asked = words(tiny, "the person in red waves a hand")
    found, expected = tiny.ground(longer, asked), tiny.ground(video, asked)
    torch.testing.assert_close(found.boxes[:, :5], expected.boxes, **ROUNDING)
    torch.testing.assert_close(found.scores[:, :5, :5].triu(), expected.scores.triu(), **ROUNDING)


@torch.inference_mode()
def test_frames_of_padding_are_never_seen(tiny, films):
    """From the pixels on: films of six and of four steps in one batch, whatever lies behind the shorter one."""
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    together = tiny(films, words(tiny), time_padding=padding)
    alone = tiny(films[1:, :4], words(tiny, "the person in blue"))
    torch.testing.assert_close(together.boxes[1:, :4], alone.boxes, **ROUNDING)
    torch.testing.assert_close(together.scores[1:, :4, :4].triu(), alone.scores.triu(), **ROUNDING)


@torch.inference_mode()
def test_pixels_of_padding_are_never_seen(tiny, films):
    padding = torch.zeros(2, 40, 56, dtype=torch.bool)
    padding[1, 24:], padding[1, :, 40:] = True, True
    other = torch.where(padding[:, None, None], torch.rand_like(films), films)
    found, expected = (tiny(pixels, words(tiny), padding=padding) for pixels in (other, films))
    torch.testing.assert_close(found.boxes, expected.boxes)
    torch.testing.assert_close(found.scores, expected.scores)


@torch.inference_mode()
def test_frames_are_apart_in_the_static_stream(films):
    model = zoo.create_model("stvgformer_tiny", d2s=False).eval()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    boxes = model(films, words(model)).boxes
    torch.testing.assert_close(model(films[:, order], words(model)).boxes, boxes[:, order], **ROUNDING)


@torch.inference_mode()
def test_switches_cut_the_streams_apart(tiny, films):
    answers = {}
    for s2d in (True, False):
        for d2s in (True, False):
            tiny.s2d, tiny.d2s = s2d, d2s
            answers[s2d, d2s] = tiny(films, words(tiny))
    tiny.s2d = tiny.d2s = True
    apart = answers[False, False]
    torch.testing.assert_close(answers[True, False].boxes, apart.boxes)
    torch.testing.assert_close(answers[False, True].scores, apart.scores)
    assert not torch.allclose(answers[True, False].scores, apart.scores)
    assert not torch.allclose(answers[False, True].boxes, apart.boxes)
    alone = tiny(films, words(tiny), static_only=True)
    assert alone.scores is None
    torch.testing.assert_close(alone.boxes, apart.boxes, **ROUNDING)


@torch.inference_mode()
def test_a_span_counts_for_as_much_as_somebody_was_there(tiny, films):
    found = tiny(films, words(tiny))
    places = found.looked[-1].sum(-1)
    torch.testing.assert_close(found.absence, 1 - places, atol=1e-5, rtol=0)
    chances = found.chances()
    for i in range(films.shape[1]):
        for j in range(i, films.shape[1]):
            there = places[:, i : j + 1].mean(1)
            torch.testing.assert_close(chances[:, i, j], found.scores[:, i, j].sigmoid() * there, **ROUNDING)
    untaught = replace(found, absence=None)
    torch.testing.assert_close(untaught.chances(), found.scores.sigmoid())
    with pytest.raises(ValueError, match="static stream alone"):
        tiny(films, words(tiny), static_only=True).chances()
    plain = zoo.create_model("stvgformer_tiny", absence=False).eval()
    assert plain(films, words(plain)).absence is None


def test_recomputing_gives_the_same_gradients(films):
    model = zoo.create_model("stvgformer_tiny").train()
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        found = model(films, words(model))
        (found.boxes.sum() + found.scores.triu().sum()).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, **ROUNDING)


def test_words_that_are_not_known_are_named(tiny):
    found = words(tiny, "The person in RED, juggles!", "a hand")
    assert found.unknown == [["juggles"], []]
    assert found.padding.sum(1).tolist() == [0, 3]
    assert found.ids[0, 4] == 1


def test_the_papers_network_has_the_papers_parts():
    pytest.importorskip("transformers")
    card = zoo.card("stvgformer_r101")
    model = skeleton(card, card.builder_args)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert sizes["video_encoder"] == 33_644_488
    assert sum(p.numel() for p in model.dynamic.layers[0].parameters()) == 3_421_184
    assert sum(p.numel() for p in model.collab[0].parameters()) == 593_664
    keys = set(model.state_dict())
    for key in (
        "backbone.0.body.layer4.2.conv3.weight",
        "text_encoder.encoder.layer.11.output.dense.weight",
        "static.encoder.layers.5.self_attn.in_proj_weight",
        "static.decoder.layers.0.cross_attn_image.out_proj.bias",
        "video_encoder.blocks.4.multipathway_blocks.0.res_blocks.2.branch2.conv_c.weight",
        "temporal_head.convs.3.weight",
    ):
        assert key in keys


def test_clips_are_asked_for_where_they_are_needed():
    """SlowFast sees 32 frames around each step; half the resolution of the map goes to the frames' grid."""
    torch.manual_seed(0)
    small = {"dim": 16, "heads": 2, "depth": 1, "hidden": 32, "map_dim": 8, "map_depth": 1}
    model = STVGFormer("convs", "slowfast", "word", ("red",), **small).eval()
    with torch.inference_mode():
        frames, clips = torch.rand(1, 2, 3, 32, 32), torch.rand(1, 2, 3, 32, 32, 32)
        found = model(frames, words(model, "red"), clips)
        cached = model.encode_clips(frames, clips)
        again = model(frames, words(model, "red"), clip_features=cached)
        assert found.boxes.shape == (1, 2, 4)
        torch.testing.assert_close(again.boxes, found.boxes)
        with pytest.raises(ValueError, match="takes clips"):
            model.encode(frames)
    assert not any(module.training for module in model.train().video_encoder.modules())


def test_unknown_encoders_are_named():
    for kinds, said in (
        (("vgg", "convs", "word"), "image"),
        (("convs", "c3d", "word"), "video"),
        (("convs", "convs", "gpt"), "text"),
    ):
        with pytest.raises(ValueError, match=f"no {said} encoder"):
            STVGFormer(*kinds, ("red",))


# published files


@torch.inference_mode()
def test_mdetrs_file_begins_what_it_should():
    small = {"dim": 256, "heads": 8, "depth": 6, "hidden": 2048, "map_dim": 8, "map_depth": 1}
    model = STVGFormer("convs", "convs", "word", ("red",), **small)
    golden = Golden("stvg_mdetr_transformer")
    theirs = {key: fill(key, tuple(shape)) for key, shape in golden.facts["keys"].items()}
    theirs |= {"query_embed.weight": normal(1, [100, 256]), "class_embed.weight": normal(2, [256, 256])}
    report = start_from(model, "mdetr", theirs)
    unused = dict(report.unused)
    assert set(unused) == {"class_embed.weight", "transformer.resizer.fc.weight"}  # the words here have another width
    ours = model.state_dict()
    torch.testing.assert_close(ours["query_embed.weight"], theirs["query_embed.weight"][:1])
    for key, mdetrs in (
        ("static.encoder.layers.3.linear1.weight", "transformer.encoder.layers.3.linear1.weight"),
        ("static.decoder.layers.5.norm4.bias", "transformer.decoder.layers.5.norm4.bias"),
        ("collab.2.mix_attn.in_proj_weight", "transformer.decoder.layers.2.self_attn.in_proj_weight"),
        ("collab.2.norm_q2.weight", "transformer.decoder.layers.2.norm1.weight"),
    ):
        torch.testing.assert_close(ours[key], theirs[mdetrs])
    assert not any(key.startswith(("dynamic.", "temporal_head.", "video_")) for key in report.begun)
    model.eval()
    words = Words(torch.zeros(2, 6, dtype=torch.long), torch.tensor([[False] * 6, [False] * 4 + [True] * 2]), [])
    outside = torch.zeros(2, 5, 7, dtype=torch.bool)
    outside[1, 4:], outside[1, :, 5:] = True, True
    places = normal(40, [2, 256, 5, 7]).flatten(2).transpose(1, 2)[:, None]
    seen, text = Encoded(places, None, (5, 7), outside), golden.tensor("resized").transpose(0, 1)
    for chunk in (None, 1):
        memory, *_ = model._static_memory(seen, text, words.padding, sine_2d(outside, 256), chunk)
        torch.testing.assert_close(memory.transpose(0, 1), golden.tensor("memory"), **ROUNDING)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_slowfasts_file_begins_the_clip_encoder(prefix):
    small = {"dim": 16, "heads": 2, "depth": 1, "hidden": 32, "map_dim": 8, "map_depth": 1}
    model = STVGFormer("convs", "slowfast", "word", ("red",), **small)
    theirs = {f"{prefix}{key}": torch.full_like(value, 0.5) for key, value in model.video_encoder.state_dict().items()}
    report = start_from(model, "slowfast", theirs | {"blocks.6.proj.weight": torch.zeros(400, 2304)})
    assert len(report.used) == len(theirs)
    assert [key for key, _ in report.unused] == ["blocks.6.proj.weight"]
    assert all(bool((value == 0.5).all()) for value in model.video_encoder.parameters())


@pytest.mark.parametrize(
    ("part", "prefix"), [("roberta", ""), ("roberta", "roberta."), ("mdetr", "transformer.text_encoder.")]
)
@torch.inference_mode()
def test_robertas_file_begins_the_text_encoder(part, prefix):
    pytest.importorskip("transformers")
    golden, model = Golden("text_roberta_small"), nn.Module()
    model.text_encoder = roberta(**golden.facts["config"]).eval()
    theirs = {f"{prefix}{key}": value for key, value in state_of(golden, "").items()}
    report = start_from(model, part, theirs | {"lm_head.bias": torch.ones(3)})
    assert [key for key, _ in report.unused] == ["lm_head.bias"]
    ids, there = golden.tensor("input_ids").long(), golden.tensor("attention_mask").bool()
    found = model.text_encoder(ids, there.long()).last_hidden_state
    torch.testing.assert_close(found[there], golden.tensor("last_hidden")[there], **ROUNDING)


def test_words_move_between_devices(tiny):
    assert isinstance(words(tiny).to(torch.device("cpu")), Words)
