"""A grounding network that begins from published files of its parts, written as one file to train from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from zoo.build import create_model
from zoo.errors import InputError, IntegrityError, UsageError
from zoo.hub.checkpoint import facts_for, read_contents, write_whole
from zoo.models.stvgformer_start import PARTS, Start, start_from
from zoo.registry.names import resolve
from zoo.unpickle import read_pickle, unwrap

__all__ = ["begin"]


def begin(name: str, files: Mapping[str, Path], out: Path, **builder_args: Any) -> tuple[list[Start], list[str]]:
    """Write a network whose parts are those of published files, and whose rest is random.

    Args:
        name: Any spelling that `zoo.create_model` takes; of the task "ground".
        files: Kind of file ("mdetr", "roberta", "slowfast", "r3d18") to a pickle or safetensors file. Later ones come
            before earlier ones where both have a tensor.
        out: Where to, `.safetensors`.
        **builder_args: For the network.

    Returns:
        What became of each file's keys, and our keys that stay random.

    Raises:
        UsageError: Another network, no such kind, or no file.
        InputError, IntegrityError: A file cannot be read, or nothing in it has a place here.
    """
    card = resolve(name)
    if card.task != "ground":
        raise UsageError(f"{card.name} is made to {card.task}; it has no such parts", hint="zoo list --task ground")
    if not files or (strange := [kind for kind in files if kind not in PARTS]):
        raise UsageError(
            f"no files of {', '.join(strange) if files else 'any kind'}", hint=f"one of {', '.join(PARTS)}"
        )
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} is not called .safetensors", hint=f"--out {out.with_suffix('.safetensors')}")
    model = create_model(card.name, **builder_args)
    reports = []
    for kind, path in files.items():
        report = start_from(model, kind, _tensors(path))
        if not report.used:
            raise IntegrityError(
                f"{path} holds nothing of {kind} that {card.name} has", hint="check --part and the file"
            )
        reports.append(report)
    begun = set().union(*(report.begun for report in reports))
    args = {**card.builder_args, **builder_args}
    sources = {kind: path.name for kind, path in files.items()}
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    write_whole(out, save(state, facts_for(card.architecture, args, begun_from=sources)))
    return reports, [key for key in state if key not in begun]


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path} is no file that can be read", hint="check the path")
    if path.suffix != ".safetensors":
        return read_pickle(path)[0]
    read_contents(path)
    return unwrap(load_file(path))
