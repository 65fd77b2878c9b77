import copy
import pickle
import platform

import pytest
import torch

from zoo.kernels import int8_conv


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN's integers on other processors were not tried")
def test_is_there():
    assert int8_conv.is_available()


@pytest.mark.skipif(not int8_conv.is_available(), reason="this torch lacks the operator")
@pytest.mark.parametrize("again", [copy.deepcopy, lambda conv: pickle.loads(pickle.dumps(conv))])
def test_a_copy_counts_the_same(again):
    weight = torch.ones(8, 4, 3, 3)
    weight[::2] = -1
    conv = int8_conv.SignConv(weight, torch.tensor(0.3), (1, 1), (1, 1))
    x = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(conv)(x), conv(x))


@pytest.mark.skipif(not int8_conv.is_available(), reason="this torch lacks the operator")
def test_sums_of_the_widest_layer_do_not_saturate():
    weight, x = torch.ones(8, 4608, 3, 3), torch.ones(1, 4608, 3, 3)
    assert int8_conv.SignConv(weight, torch.ones(1), (1, 1), (0, 0))(x).unique().item() == 9 * 4608
