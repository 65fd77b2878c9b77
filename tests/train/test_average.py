"""The average of the weights against timm's, and its place-taking."""

import copy

import torch
from timm.utils import ModelEmaV3
from torch import nn

from zoo.train.average import Average


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))


def test_equals_timms():
    model = network()
    model(torch.rand(2, 3, 5, 5))
    average, timms = Average(model, 0.9), ModelEmaV3(model, 0.9, use_warmup=True)
    for step in range(1, 60):
        for value in model.parameters():
            value.data.add_(torch.randn_like(value))
        model(torch.rand(2, 3, 5, 5))  # moves batch norm's statistics too
        average.update(model, step)
        timms.update(model, step)
    for key, value in timms.module.state_dict().items():
        assert torch.equal(average.values[key], value), key


def test_takes_the_networks_place_and_gives_it_back():
    model = network()
    model(torch.rand(2, 3, 5, 5))
    average, before = Average(model, 0.9), copy.deepcopy(model.state_dict())
    for value in model.parameters():
        value.data.zero_()
    with average.applied(model):
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(value.any() for value in model.parameters())
