"""What each of two processes does for test_processes.py: started by torchrun, with gloo, on the CPU.

two_processes.py OUT DATA
"""

import json
import sys
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from zoo.train.average import Average
from zoo.train.checkpoint import load_run, save_run
from zoo.train.loop import train
from zoo.train.recipe import Recipe


def sharded(out: Path) -> None:
    """A run whose weights and moments lie in halves on two processes: saved, loaded, averaged as a whole one."""
    from torch.distributed.fsdp import fully_shard

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 4, 5))

    def two_steps(model: nn.Module, optimizer: torch.optim.Optimizer, average: Average, first: int) -> None:
        for step in range(first, first + 2):
            torch.manual_seed(step)  # both processes see the same, so that a whole network can be compared
            nn.functional.cross_entropy(model(torch.rand(6, 3, 4, 4)), torch.randint(0, 5, (6,))).backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update(model, step)
            with average.applied(model), torch.no_grad():  # as a measurement in between, which must leave no trace
                model.eval()(torch.rand(6, 3, 4, 4))
            model.train()

    def fresh(in_halves: bool) -> tuple[nn.Module, torch.optim.Optimizer, Average]:
        model = network()
        if in_halves:
            fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
        return model, torch.optim.AdamW(model.parameters(), 1e-2, fused=True), Average(model, 0.9)

    for name, in_halves in (("whole", False), ("halves", True)):
        run = fresh(in_halves)
        two_steps(*run, 1)
        save_run(out / f"{name}.safetensors", *run, {"epoch": 1}, writes=dist.get_rank() == 0)
        dist.barrier()
        again = fresh(in_halves)
        load_run(out / f"{name}.safetensors", *again)
        for one in (run, again):
            two_steps(*one, 3)
        for key, value in run[0].state_dict().items():
            assert torch.equal(_local(value), _local(again[0].state_dict()[key])), (name, key)
        assert all(torch.equal(value, again[2].values[key]) for key, value in run[2].values.items()), name
    one, two = (load_file(out / f"{name}.safetensors") for name in ("whole", "halves"))
    for key in one:  # halves are summed in another order
        torch.testing.assert_close(one[key], two[key], rtol=1e-5, atol=1e-6)


def _local(value: torch.Tensor) -> torch.Tensor:
    return value.to_local() if hasattr(value, "to_local") else value


if __name__ == "__main__":
    out, data = Path(sys.argv[1]), Path(sys.argv[2])
    train(msgspec.json.decode((out / "recipe.json").read_bytes(), type=Recipe), out / "two", data=data, device="cpu")
    sharded(out)
    print(json.dumps({"rank": dist.get_rank(), "passed": True}))
    dist.destroy_process_group()
