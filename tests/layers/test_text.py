"""Text encoders against their library's own outputs, and ours by its properties."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Golden, fill
from zoo.layers.text import WordEncoder, bert, distilbert, roberta, sentence

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32 through up to 12 layers that end in a norm


def filled(case: Golden, build):
    """The encoder of a golden with the golden's weights."""
    pytest.importorskip("transformers")
    model = build(**case.facts.get("config", {})).eval()
    state = {name: fill(name, tuple(shape)) for name, shape in case.facts["keys"].items()}
    assert sum(value.numel() for value in state.values()) == case.facts["params"]
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize(
    ("name", "build"), [("text_distilbert_small", distilbert), ("text_roberta_small", roberta)], ids=str
)
def test_small_encoders_give_the_golden_outputs(name, build):
    case = Golden(name)
    model = filled(case, build)
    ids, mask = case.tensor("input_ids").long(), case.tensor("attention_mask").long()
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    seen = mask.bool()
    torch.testing.assert_close(hidden[seen], case.tensor("last_hidden")[seen], **TOLERANCE)
    torch.testing.assert_close(sentence(hidden, seen, "first"), case.tensor("cls"), **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "build"), [("text_distilbert_base", distilbert), ("text_roberta_base", roberta)], ids=str
)
def test_published_sizes_give_the_golden_outputs(name, build):
    case = Golden(name)
    model = filled(case, build)
    ids = case.tensor("input_ids").long()
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    torch.testing.assert_close(hidden, case.tensor("last_hidden"), rtol=1e-3, atol=1e-4)  # 768 wide, 12 layers


def test_a_bert_has_no_pooler():
    pytest.importorskip("transformers")
    model = bert(vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
    assert not [name for name in model.state_dict() if "pooler" in name]


def test_transformers_is_not_imported_with_the_layer():
    code = "import sys, zoo.layers.text; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(length=st.integers(1, 9), extra=st.integers(0, 6), seed=st.integers(0, 99))
def test_padding_changes_nothing(length, extra, seed):
    torch.manual_seed(0)
    model = WordEncoder(20, 16, depth=2, num_heads=2, max_tokens=15).eval()
    ids = torch.randint(1, 20, (2, length), generator=torch.Generator().manual_seed(seed))
    padded = torch.nn.functional.pad(ids, (0, extra))
    with torch.no_grad():
        short, long = model(ids, ids > 0), model(padded, padded > 0)
    torch.testing.assert_close(long[:, :length], short, rtol=1e-4, atol=1e-5)  # another order of sums
    for pool in ("first", "mean"):
        torch.testing.assert_close(
            sentence(long, padded > 0, pool), sentence(short, ids > 0, pool), rtol=1e-4, atol=1e-5
        )


def test_a_mean_leaves_padding_out_and_an_empty_text_is_zero():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert sentence(hidden, mask, "mean").tolist() == [[2.0, 4.0]]
    assert sentence(hidden, ~(mask | True), "mean").tolist() == [[0.0, 0.0]]
