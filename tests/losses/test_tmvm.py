"""The retrieval losses against the goldens and against plain loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.goldens import Golden, normal
from zoo.losses.tmvm import contrast, prototype_variance

NORM_SOFTMAX = Golden("tmvm_normsoftmax_loss")


@pytest.mark.parametrize("case", ["0", "1"])
@pytest.mark.parametrize("tau", ["0.05", "0.07", "1.0"])
def test_contrast_is_the_published_loss(case, tau):
    x = NORM_SOFTMAX.tensor(f"x{case}")
    expected = NORM_SOFTMAX.facts["expected"][case][f"tau{tau}"]
    assert float(contrast(x, 1 / float(tau))) == pytest.approx(expected, rel=1e-5)  # float32 sums
    assert float(contrast(x, 1 / float(tau), reduction="mean")) == pytest.approx(expected / 2, rel=1e-5)


@given(count=st.integers(1, 7), seed=st.integers(0, 99))
def test_contrast_is_a_double_loop(count, seed):
    s = normal(seed, (count, count)).double()
    rows = sum(math.log(sum(math.exp(4 * (s[i, j] - s[i, i])) for j in range(count))) for i in range(count))
    columns = sum(math.log(sum(math.exp(4 * (s[j, i] - s[i, i])) for j in range(count))) for i in range(count))
    assert float(contrast(s, 4.0)) == pytest.approx((rows + columns) / count, rel=1e-4, abs=1e-5)  # in float32


@given(batch=st.integers(1, 3), count=st.integers(2, 5), dim=st.integers(1, 6), seed=st.integers(0, 99))
def test_variance_is_a_double_loop(batch, count, dim, seed):
    z = normal(seed, (batch, count, dim)).double()
    total = 0.0
    for b in range(batch):
        for e in range(dim):
            values = [float(z[b, k, e]) for k in range(count)]
            mean = sum(values) / count
            spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) + 1e-4)
            total += max(0.0, 1.5 - spread)
    assert float(prototype_variance(z, gamma=1.5)) == pytest.approx(total / batch / dim, rel=1e-4, abs=1e-5)


def test_prototypes_that_coincide_are_pushed_apart():
    z = torch.ones(1, 3, 4) + 0.01 * normal(0, (1, 3, 4))
    z.requires_grad_()
    loss = prototype_variance(z)
    loss.backward()
    assert float(prototype_variance((z - 0.1 * z.grad).detach())) < float(loss.detach())
    assert float(prototype_variance(100 * normal(0, (1, 3, 4)))) == 0
