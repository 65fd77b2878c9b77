"""Re-identification: pictures of people, visible or infrared, to embeddings that are compared across the two."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.data.reid_sets import clue
from zoo.errors import InputError, UsageError, ZooError
from zoo.hub.fetch import sha256_of
from zoo.index.facts import Facts
from zoo.registry.names import list_names, load_card, resolve
from zoo.results.classification import Embedding
from zoo.tasks.decode import Decoded
from zoo.tasks.pipeline import Pipeline, pipeline

__all__ = ["COLOURED", "MODALITIES", "Reid", "default_model", "reid_facts", "reid_pipeline"]

MODALITIES = ("visible", "infrared")
COLOURED = "colours in an infrared picture"
GREY = 2.0  # red from green plus green from blue, of 255, up to which a picture has no colours: JPEG rounds a little


@dataclass(frozen=True)
class Reid:
    """The embedding of each picture, through its modality's part of the network.

    Args:
        modality: "visible" or "infrared" for all pictures, or "auto": as `told` says, else as the folder's name says,
            else infrared for a picture without colours.
        mirror: Average with the mirrored picture's embedding, as the paper's test does.
        feature: "fc", the published embedding, or "pool", the one before the neck.
        told: What is known of a source's modality; None for nothing.
    """

    modality: str = "auto"
    mirror: bool = True
    feature: str = "fc"
    told: Callable[[str], str | None] = lambda source: None

    def answer(self, model: nn.Module, x: Tensor, pictures: list[Decoded]) -> list[Embedding]:
        network: Any = model
        if x.device.type == "cpu":
            x = x.contiguous()  # a tenth faster: the first convolution takes three planes better than three channels
        kinds = [self._modality(picture) for picture in pictures]
        vectors: NDArray[np.float32] | None = None
        for modality in sorted(set(kinds)):
            rows = [i for i, kind in enumerate(kinds) if kind == modality]
            part = x if len(rows) == len(x) else x[torch.tensor(rows, device=x.device)]
            found = network.embed(part, modality, mirror=self.mirror, feature=self.feature).float().cpu().numpy()
            if vectors is None:
                vectors = np.empty((len(x), found.shape[1]), np.float32)
            vectors[rows] = found
        if vectors is None:
            return []
        whole: list[bool] = np.isfinite(vectors.sum(1)).tolist()
        return [
            Embedding(picture.source, vector, picture.size, _note(picture, kind), modality=kind)
            if sound
            else self.refuse(
                picture, InputError(f"{picture.source}: the features are not finite", hint="try --dtype float32")
            )
            for picture, vector, kind, sound in zip(pictures, vectors, kinds, whole, strict=True)
        ]

    def refuse(self, picture: Decoded, error: ZooError) -> Embedding:
        return Embedding(picture.source, size=picture.size, note=picture.note, error=error)

    def _modality(self, picture: Decoded) -> str:
        if self.modality != "auto":
            return self.modality
        known = self.told(picture.source) or clue(picture.source).modality
        return known or ("visible" if _has_colours(picture) else "infrared")


def _note(picture: Decoded, modality: str) -> str | None:
    """What decoding said, and a warning where colours go through the infrared part, which never saw any."""
    said = [picture.note] if picture.note else []
    if modality == "infrared" and _has_colours(picture):
        said.append(COLOURED)
    return "; ".join(said) or None


def _has_colours(picture: Decoded) -> bool:
    """Whether the channels differ."""
    pixels = picture.pixels
    if pixels is None or pixels.shape[2] == 1:
        return False
    part = pixels[::2, ::2].astype(np.int16)  # a quarter of it will do
    return 2 * float(np.abs(part[:, :, 1:] - part[:, :, :-1]).mean()) > GREY


def reid_pipeline(
    name: str,
    *,
    modality: str = "auto",
    mirror: bool = True,
    feature: str = "fc",
    told: Callable[[str], str | None] = lambda source: None,
    **options: Any,
) -> Pipeline[Embedding]:
    """A network that takes pictures of people and gives embeddings.

    Args:
        name: Checkpoint.
        modality: "auto", "visible" or "infrared".
        mirror: See `Reid`.
        feature: "fc" or "pool".
        told: See `Reid`.
        **options: For `zoo.pipeline`: device, checkpoint_path, batch_size, workers, dtype, compile.

    Raises:
        UsageError: Not a network for re-identification, or no such modality or feature.
        UnknownName: No such model.
        WeightsUnavailable: There are no weights.
        IntegrityError: The weights are not what they should be.
    """
    if resolve(name).task != "reid":
        raise UsageError(f"{resolve(name).name} does not re-identify people", hint="zoo list --task reid")
    if modality not in ("auto", *MODALITIES) or feature not in ("fc", "pool"):
        raise UsageError(f"modality {modality!r}, feature {feature!r}", hint="auto, visible or infrared; fc or pool")
    pipe: Pipeline[Embedding] = pipeline(name, **options)
    pipe.task = Reid(modality, mirror, feature, told)
    return pipe


def default_model() -> str:
    """The checkpoint that comes with zoo.

    Raises:
        UsageError: None does.
    """
    bundled = [name for name in list_names(task="reid") if load_card(name).weights.status == "bundled"]
    if not bundled:
        raise UsageError(
            "no network for re-identification comes with zoo", hint="--model NAME; see zoo list --task reid"
        )
    return bundled[0]


def reid_facts(pipe: Pipeline[Embedding], checkpoint_path: Path | None = None) -> Facts:
    """What a gallery of this pipeline's embeddings is made with.

    Args:
        pipe: From `reid_pipeline`.
        checkpoint_path: The file that was loaded in place of the published weights.
    """
    task = pipe.task
    if not isinstance(task, Reid):
        raise TypeError(f"a pipeline for {task} makes no gallery of people")
    weights = sha256_of(checkpoint_path) if checkpoint_path else pipe.card.weights.sha256
    steps = msgspec.json.encode({"input": pipe.card.input, "steps": 1})  # steps: raise when decoding changes values
    return Facts(
        task="reid",
        model=pipe.card.name,
        weights=weights or "",
        preprocessing=hashlib.sha256(steps).hexdigest(),
        dim=int(pipe.model.num_features),  # type: ignore[arg-type]  # nn.Module declares every attribute a tensor
        settings={"mirror": task.mirror, "feature": task.feature},
    )
