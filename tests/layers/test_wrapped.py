"""A network inside what distributes or compiles it."""

import pytest
import torch
from torch import nn

from zoo.layers.wrapped import unwrapped


def test_it_is_found_however_it_is_wrapped():
    network = nn.Linear(2, 3)
    compiled = torch.compile(network, backend="eager")
    averaged = torch.optim.swa_utils.AveragedModel(compiled)  # holds it as `module`, as DistributedDataParallel does
    assert unwrapped(network, nn.Linear) is network
    assert unwrapped(compiled, nn.Linear) is network
    assert isinstance(unwrapped(averaged, nn.Linear), nn.Linear)
    with pytest.raises(TypeError, match="Linear is no Conv2d"):
        unwrapped(compiled, nn.Conv2d)
