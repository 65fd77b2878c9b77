"""Pickled checkpoints read in a process of its own, which has a limit of memory and of time and gives back tensors.

`torch.load(weights_only=True)` runs no code of the file, but a file can still ask for any amount of memory, and what
parses it is native code. So a child process does the parsing (`python -m zoo.unpickle SOURCE TARGET`) and hands its
tensors over as safetensors.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import IntegrityError, one_line

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["read_pickle", "unwrap"]

WRAPPERS = ("state_dict", "model", "net")  # where training scripts put the weights, the surer one first
TIMES = 4  # memory and tensors, in units of the file's size
SPARE = 64_000_000  # bytes besides, for the interpreter
SECONDS = 60  # of computing, and one more for every SPEED bytes
SPEED = 20_000_000
PATIENCE = 300  # seconds on the clock, besides
PLAIN = "only tensors and plain containers are read; save it again as torch.save(model.state_dict(), FILE)"


def read_pickle(source: Path, *, seconds: int = SECONDS) -> "tuple[dict[str, Tensor], list[tuple[str, str]]]":
    """Tensors of a pickled checkpoint by name, and what else is among them: name and type.

    Args:
        source: The file; it is not trusted.
        seconds: Computing time allowed, besides what its size adds.

    Raises:
        IntegrityError: It is no checkpoint, holds no weights, or wants too much memory or time.
    """
    from safetensors.torch import load_file

    allowed = seconds + source.stat().st_size // SPEED
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        target = Path(folder, "tensors.safetensors")
        answer = _run(source, target, allowed)
        if "holds" in answer:
            raise IntegrityError(f"{source} holds {answer['holds']}", hint="give a file with a state_dict")
        if "reason" in answer:
            raise IntegrityError(f"{source} cannot be read as plain weights: {answer['reason']}", hint=PLAIN)
        tensors = load_file(target)
        return {name: tensors[name] for name in answer["names"]}, [tuple(pair) for pair in answer["others"]]


def unwrap(content: object) -> dict[str, Any]:
    """The weights inside what training scripts save around them, by name.

    Raises:
        ValueError: There are none; says what is there in their place.
    """
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise ValueError("no weights by name")
    names = {key: key for key in content}
    while all(name.startswith("module.") for name in names.values()):  # what DataParallel adds, once a wrapping
        names = {key: name.removeprefix("module.") for key, name in names.items()}
    return {names[key]: value for key, value in content.items()}


def _run(source: Path, target: Path, seconds: int) -> dict[str, Any]:
    """What the child says: its names, or why there are none."""
    package = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "zoo.unpickle", str(source.absolute()), str(target), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    # the child counts its own computing time; on a busy machine it waits for much longer, and first for torch
    patience = PATIENCE + 20 * seconds
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        return {"reason": f"it took longer than {patience} seconds"}
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"reason": f"its reader was stopped, at {seconds} seconds or for a fault ({done.returncode})"}


def _child(source: Path, target: Path, seconds: int) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    size = source.stat().st_size
    _limit(size, seconds)
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *_figures()]):  # what scripts save beside weights
            content = unwrap(torch.load(source, map_location="cpu", weights_only=True))
    except ValueError as error:
        return {"holds": str(error)} if "by name" in str(error) else {"reason": _reason(error)}
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        return {"holds": "no tensors by name"}
    wanted = sum(value.numel() * value.element_size() for value in tensors.values())
    if wanted > TIMES * size:  # such as one number that is said to be a million
        return {"reason": f"its tensors have {wanted} bytes, it has {size}"}
    save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()}, target)
    others = [(name, type(value).__name__) for name, value in content.items() if name not in tensors]
    return {"names": list(tensors), "others": others}


def _figures() -> list[Any]:
    """What pickles of NumPy's arrays and numbers name: scripts save curves and scores so. Either has two addresses."""
    import numpy as np

    rebuilt = {"_reconstruct": np.zeros(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
    functions = [
        (function, f"numpy.{core}.multiarray.{name}")
        for name, function in rebuilt.items()
        for core in ("core", "_core")
    ]
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")]
    return [*functions, np.ndarray, np.dtype, *kinds]


def _limit(size: int, seconds: int) -> None:
    """No more memory than a multiple of the file from here on, and no more time; where the system can be told so."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    memory = pages * resource.getpagesize() + TIMES * size + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (TIMES * size + SPARE,) * 2)
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds,) * 2)


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return f"it wants more memory than {TIMES} times its size"
    return one_line(error)


def _main() -> None:
    source, target, seconds = sys.argv[1:]
    try:
        answer = _child(Path(source), Path(target), int(seconds))
    except Exception as error:  # a broken or hostile pickle raises whatever its bytes lead to
        answer = {"reason": _reason(error)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
