"""Attention beside torch's own, and the codes of places and times beside the peers' that they follow."""

import torch
from torch import nn

from tests.goldens import Golden
from zoo.layers.attention import Attention, sine_2d, sine_time


def both():
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4).eval(), nn.MultiheadAttention(16, 4, batch_first=True).eval()
    nn.init.normal_(ours.in_proj_bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_it_is_torchs_attention():
    ours, theirs = both()
    query, key, value = torch.randn(2, 3, 16), torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    expected, weights = theirs(query, key, value, key_padding_mask=padding)
    found, looked = ours.with_weights(query, key, value, padding)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(looked, weights)
    torch.testing.assert_close(
        ours(query, key, value, padding), expected, rtol=1e-4, atol=1e-5
    )  # sums in another order


def test_a_place_is_the_same_wherever_padding_begins():
    alone = sine_2d(torch.zeros(1, 3, 4, dtype=torch.bool), 32).view(1, 3, 4, 32)
    padding = torch.ones(1, 5, 7, dtype=torch.bool)
    padding[:, :3, :4] = False
    torch.testing.assert_close(sine_2d(padding, 32).view(1, 5, 7, 32)[:, :3, :4], alone)


def test_codes_are_the_peers():
    mdetr, tubedetr = Golden("stvg_mdetr_transformer"), Golden("stvg_time_embedding_sine")
    expected = mdetr.tensor("pos").flatten(2).transpose(1, 2)
    torch.testing.assert_close(sine_2d(torch.zeros(1, 5, 7, dtype=torch.bool), 256), expected)
    # powers of the temperature rounded once more or less, times steps of up to 23
    torch.testing.assert_close(sine_time(24, 64), tubedetr.tensor("te"), rtol=0, atol=3e-6)
