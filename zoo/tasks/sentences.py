"""Sentences to the numbers that a grounding network's text encoder takes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from zoo.data.tokens import tokenizer
from zoo.errors import InputError, WeightsUnavailable, one_line
from zoo.extras import need
from zoo.hub.remote import fetch_file
from zoo.models.stvgformer import STVGFormer
from zoo.models.stvgformer_encoders import Words, read_words

__all__ = ["Reader", "sentence_reader"]

Reader = Callable[[Sequence[str]], Words]

ROBERTA, FILE = "FacebookAI/roberta-base", "tokenizer.json"
LONGEST = {"roberta-base": 512, "minilm": 256, "word": 32}  # tokens


def sentence_reader(model: STVGFormer, file: Path | None = None) -> Reader:
    """What turns sentences, in lower case, into a network's words.

    Args:
        model: Whose.
        file: The tokenizer's: `tokenizer.json` of RoBERTa, `vocab.txt` of MiniLM; by default the Hub's, or that of an
            installed package. A vocabulary of words lies in the network itself.

    Raises:
        WeightsUnavailable: The file is nowhere to be had.
        UsageError: The library `tokenizers` is missing.
        InputError: The file is damaged.
    """
    if model.text == "word":
        return lambda sentences: _cut(read_words(sentences, model.vocabulary), LONGEST["word"])
    if model.text == "roberta-base":
        return _roberta(file or _fetch())
    pieces = tokenizer("bert", LONGEST["minilm"], file)

    def read(sentences: Sequence[str]) -> Words:
        found = pieces([sentence.lower() for sentence in sentences])
        return Words(found.ids, ~found.mask, [[] for _ in sentences])

    return read


def _roberta(path: Path) -> Reader:
    need("text", "this text encoder")
    from tokenizers import Tokenizer

    try:
        encoder = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{path} is no tokenizer: {one_line(error)}", hint=_where()) from None
    encoder.enable_truncation(LONGEST["roberta-base"])
    encoder.enable_padding(pad_id=encoder.token_to_id("<pad>") or 1, pad_token="<pad>")

    def read(sentences: Sequence[str]) -> Words:
        found = encoder.encode_batch([sentence.lower() for sentence in sentences])
        ids = torch.tensor([one.ids for one in found])
        padding = ~torch.tensor([one.attention_mask for one in found]).bool()
        return Words(ids, padding, [[] for _ in sentences])

    return read


def _fetch() -> Path:
    try:
        return fetch_file(ROBERTA, FILE)
    except WeightsUnavailable as error:
        raise WeightsUnavailable(f"RoBERTa's tokenizer is not here: {error.message}", hint=_where()) from None


def _where() -> str:
    return f"--tokenizer FILE, {FILE} of {ROBERTA}"


def _cut(words: Words, longest: int) -> Words:
    return Words(words.ids[:, :longest], words.padding[:, :longest], words.unknown)
