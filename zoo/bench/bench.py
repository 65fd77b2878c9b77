"""How fast networks are, side by side: ours and timm's, in turns, so that whatever else a machine does meets them all.

A network may run several times over: on more devices, in more types, by more engines.

Networks run as the pipeline runs them: ours optimised or from packed bits, timm's laid out channels-last, evaluating.
Time does not depend on the values of weights, so none are fetched.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any, cast

import torch
from torch import nn

from zoo.build import create_model
from zoo.errors import UnknownName, UsageError, one_line
from zoo.extras import need
from zoo.layers.binary import BinaryConv2d
from zoo.layers.engine import prepare
from zoo.layers.inference import optimize
from zoo.registry.names import resolve
from zoo.tasks.device import pick_device, pick_dtype

__all__ = ["Contender", "Timing", "bench", "contenders"]

RUNTIMES = ("onnxruntime", "openvino")
ENGINES = ("auto", "float", "packed", "compiled", *RUNTIMES)
WARM_UP = 2  # calls that are not counted: caches fill, algorithms are chosen
SHORTEST = 0.05  # seconds of a measurement; shorter calls are repeated, or the clock would be what is measured


@dataclass(frozen=True)
class Contender:
    """A network ready to run.

    Attributes:
        name: As it was asked for.
        model: On its device.
        device: Where that is.
        dtype: Floating point type of its pictures.
        size: (C, H, W) of its input.
        params: Its parameters.
        engine: What runs it.
    """

    name: str
    model: Callable[[torch.Tensor], Any]
    device: torch.device
    dtype: torch.dtype
    size: tuple[int, int, int]
    params: int
    engine: str


@dataclass(frozen=True)
class Timing:
    """One network at one batch size.

    Attributes:
        name: Network.
        batch_size: Pictures a call.
        size: (C, H, W) of a picture.
        params: Parameters.
        engine: What ran it.
        device: Where.
        dtype: Floating point type of its pictures.
        milliseconds: Median time of a call.
        spread: Quarter and three-quarter points of that time.
        rate: Pictures a second, at the median.
        speedup: Over the first network, median of the rounds' ratios.
        memory: Bytes on a GPU at the peak, weights included; None elsewhere.
    """

    name: str
    batch_size: int
    size: tuple[int, int, int]
    params: int
    engine: str
    device: str
    dtype: str
    milliseconds: float
    spread: tuple[float, float]
    rate: float
    speedup: float
    memory: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "size": list(self.size), "spread": list(self.spread)}


def contenders(
    names: Sequence[str],
    *,
    devices: Sequence[str] = ("auto",),
    dtypes: Sequence[str] = ("float32",),
    engines: Sequence[str | None] = (None,),
    side: int | None = None,
) -> list[Contender]:
    """Networks of ours and of timm, ready to run: each on every device, in every type, by every engine.

    Args:
        names: Any spelling of ours, or timm's names.
        devices: "auto" or torch devices.
        dtypes: "float32", "float16" or "bfloat16".
        engines: None for what the pipeline takes; "auto", "float" or "packed" for binary layers; "compiled" by
            `torch.compile`; "onnxruntime" or "openvino", which run in float32 on the CPU and are left out elsewhere.
        side: Height and width of the pictures, in place of each network's own.

    Raises:
        UnknownName: Neither a model of ours nor of timm.
        UsageError: No such device, type or engine, a size that a network cannot take, or nothing is left to run.
    """
    strange = [engine for engine in engines if engine not in (None, *ENGINES)]
    if strange:
        raise UsageError(f"no engine {strange[0]!r}", hint=", ".join(ENGINES))
    found = [
        _contender(name, pick_device(device), pick_dtype(dtype), side, engine or "auto")
        for name, device, dtype, engine in product(names, devices, dtypes, engines)
        if engine not in RUNTIMES or (pick_device(device).type, dtype) == ("cpu", "float32")
    ]
    if not found:
        raise UsageError(f"{', '.join(RUNTIMES)} run on the CPU in float32", hint="--device cpu --dtype float32")
    for one in found:
        _try(one)
    return found


def bench(
    networks: Sequence[Contender],
    batch_sizes: Sequence[int] = (1, 8),
    *,
    rounds: int = 10,
    step: Callable[[], None] = lambda: None,
) -> Iterator[Timing]:
    """Timings, batch size by batch size, in the order of the networks.

    Args:
        networks: From `contenders`.
        batch_sizes: Pictures a call.
        rounds: Times that each network has its turn.
        step: Called after each turn.
    """
    for batch_size in batch_sizes:
        pictures = {id(one): _pictures(one, batch_size) for one in networks}
        repeats, memory = {}, {}
        for one in networks:
            repeats[id(one)], memory[id(one)] = _warm_up(one.model, pictures[id(one)])
        times: dict[int, list[float]] = {id(one): [] for one in networks}
        for _ in range(rounds):
            for one in networks:
                times[id(one)].append(_seconds(one.model, pictures[id(one)], repeats[id(one)]))
                step()
        first = times[id(networks[0])]
        for one in networks:
            took = times[id(one)]
            quarters = quantiles(took, n=4) if rounds > 1 else took * 3
            yield Timing(
                name=one.name,
                batch_size=batch_size,
                size=one.size,
                params=one.params,
                engine=one.engine,
                device=str(one.device),
                dtype=str(one.dtype).removeprefix("torch."),
                milliseconds=1e3 * median(took),
                spread=(1e3 * quarters[0], 1e3 * quarters[2]),
                rate=batch_size / median(took),
                speedup=median(a / b for a, b in zip(first, took, strict=True)),
                memory=memory[id(one)],
            )


def _contender(name: str, device: torch.device, dtype: torch.dtype, side: int | None, engine: str) -> Contender:
    model, size = _network(name)
    size = (size[0], side or size[1], side or size[2])
    params = sum(parameter.numel() for parameter in model.parameters())
    model = model.to(device).eval().requires_grad_(False)
    if engine in RUNTIMES:
        return Contender(name, _exported(model, size, engine), device, dtype, size, params, engine)
    running = "float"
    if any(isinstance(module, BinaryConv2d) for module in model.modules()):
        wanted = "float" if engine == "compiled" else engine
        model, why = prepare(model.to(dtype).to(memory_format=torch.channels_last), wanted, device=device)
        running = why.partition(":")[0]
    else:
        model = optimize(model).to(dtype) if _is_ours(name) else model.to(dtype).to(memory_format=torch.channels_last)
    if engine == "compiled":
        model, running = cast(nn.Module, torch.compile(model)), "compiled"
    return Contender(name, model, device, dtype, size, params, running)


def _exported(model: nn.Module, size: tuple[int, int, int], runtime: str) -> Callable[[torch.Tensor], Any]:
    """A network in another runtime, from the file that `zoo export` writes.

    Raises:
        UsageError: The runtime is not installed.
    """
    from zoo.export.check import open_exported
    from zoo.export.export import to_onnx, to_openvino, trace

    need("export", runtime)
    if runtime == "openvino":
        need("openvino", runtime)
    program, _ = trace(model, size)
    data = to_onnx(program, {"task": "classify"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("net.onnx" if runtime == "onnxruntime" else "net.xml")
        if runtime == "onnxruntime":
            path.write_bytes(data)
        else:
            to_openvino(data, {}, path)
        run = open_exported(path)
    return lambda x: run(x.contiguous())


def _network(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network of a name and the size of its input."""
    if _is_ours(name):
        return create_model(name), resolve(name).input.size
    import timm

    model = timm.create_model(name)
    return model, cast(dict[str, Any], model.pretrained_cfg)["input_size"]


def _is_ours(name: str) -> bool:
    """Whether a name means a network of ours; timm's are the others.

    Raises:
        UnknownName: It is neither's.
    """
    try:
        resolve(name)
    except UnknownName as error:
        import timm

        if not timm.is_model(name):
            raise UnknownName(f"{error.message}, here or in timm", hint=error.hint) from None
        return False
    return True


@torch.inference_mode()
def _try(one: Contender) -> None:
    """One call.

    Raises:
        UsageError: The network does not take pictures of this size or type.
    """
    try:
        one.model(_pictures(one, 1))
    except (RuntimeError, ValueError, AssertionError) as error:
        size = "x".join(map(str, one.size[1:]))
        raise UsageError(
            f"{one.name} does not run on {size} pixels in {one.dtype}: {one_line(error)}", hint="--size, --dtype"
        ) from error


def _pictures(one: Contender, batch_size: int) -> torch.Tensor:
    pictures = torch.rand((batch_size, *one.size), generator=torch.Generator().manual_seed(0))
    return pictures.to(one.device, one.dtype).contiguous(memory_format=torch.channels_last)


def _warm_up(model: Callable[[torch.Tensor], Any], pictures: torch.Tensor) -> tuple[int, int | None]:
    """Calls in a measurement, and bytes on a GPU at the peak."""
    on_gpu = pictures.is_cuda
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(pictures.device)
    for _ in range(WARM_UP):
        seconds = _seconds(model, pictures, 1)
    return max(1, round(SHORTEST / seconds)), torch.cuda.max_memory_allocated(pictures.device) if on_gpu else None


@torch.inference_mode()
def _seconds(model: Callable[[torch.Tensor], Any], pictures: torch.Tensor, calls: int) -> float:
    """Wall clock of a call."""
    start = time.perf_counter()
    for _ in range(calls):
        model(pictures)
    if pictures.is_cuda:
        torch.cuda.synchronize(pictures.device)
    return (time.perf_counter() - start) / calls
