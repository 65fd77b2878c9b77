"""From a name and inputs to results: one picture at once, or a stream of them in batches."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast, overload

import torch
from torch import Tensor, nn

from zoo.build import create_model, packed_parts
from zoo.data.images import Encoded, Item, Source
from zoo.data.transforms import Preprocess
from zoo.errors import InputError, IntegrityError, UsageError, ZooError
from zoo.hub.checkpoint import class_names
from zoo.hub.fetch import weights_path
from zoo.layers.binary import BinaryConv2d
from zoo.layers.inference import compile_blocks, optimize
from zoo.registry.card import Card
from zoo.registry.names import resolve
from zoo.tasks.decode import Decoded, cores, decode, decoded
from zoo.tasks.device import pick_device, pick_dtype

__all__ = ["Pipeline", "Task", "pipeline"]

R = TypeVar("R")


class Task(Protocol[R]):
    """What a task makes of a batch."""

    def answer(self, model: nn.Module, x: Tensor, pictures: list[Decoded]) -> list[R]:
        """Results of a batch (B, C, H, W), one a picture."""
        ...

    def refuse(self, picture: Decoded, error: ZooError) -> R:
        """The result that stands for an input without an answer."""
        ...


class Pipeline(Generic[R]):
    """A network with its preprocessing before it and its task behind it.

    Called with one picture (a path, an address, a Pillow picture, an array (H, W, C) of uint8) it returns the result
    and raises the `InputError` of a bad one. Called with an iterable of pictures it returns a generator of results, in
    order; a bad picture gives a result with `.error`.

    Args:
        card: The checkpoint's card.
        model: The network, on its device.
        task: What to make of its output.
        device: Where the network is.
        dtype: Its floating point type.
        batch_size: Pictures the network takes at once.
        workers: Processes that decode; None starts some once a stream is long enough to pay, 0 none.
        engine: What runs binary layers.
    """

    def __init__(
        self,
        card: Card,
        model: nn.Module,
        task: Task[R],
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        workers: int | None,
        engine: str,
    ) -> None:
        self.card = card
        self.model = model
        self.task = task
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self.workers = workers
        self.engine = engine
        self.preprocess = Preprocess(card.input)

    def __repr__(self) -> str:
        return f"Pipeline({self.card.name}, {self.card.task}, {self.device}, {str(self.dtype).removeprefix('torch.')})"

    @overload
    def __call__(self, inputs: Source, batch_size: int | None = None) -> R: ...
    @overload
    def __call__(self, inputs: Iterable[Item], batch_size: int | None = None) -> Iterator[R]: ...
    @overload
    def __call__(self, inputs: Any, batch_size: int | None = None) -> Any: ...
    def __call__(self, inputs: Any, batch_size: int | None = None) -> Any:
        if _is_one(inputs):
            picture = self.decode(inputs)
            if picture.error:
                raise picture.error
            return next(self.answers([picture]))
        if not isinstance(inputs, Iterable):
            raise InputError(
                f"a picture cannot be a {type(inputs).__name__}",
                hint="a path, an address, a Pillow picture or an array",
            )
        return self._stream(inputs, batch_size or self.batch_size)

    def _stream(self, inputs: Iterable[Item], batch_size: int) -> Iterator[R]:
        pictures = decoded(inputs, self.preprocess, self.workers, ahead=2 * batch_size, beside=_leave_cores)
        while batch := list(islice(pictures, batch_size)):
            yield from self.answers(batch)

    def decode(self, item: Item) -> Decoded:
        """One input as `answers` takes it, or what is wrong with it."""
        return decode(item, self.preprocess)

    def answers(self, batch: list[Decoded]) -> Iterator[R]:
        """Results of one batch in order, good and bad."""
        good = [picture for picture in batch if picture.pixels is not None]
        answers = iter(self._run(good) if good else ())
        for picture in batch:
            yield self.task.refuse(picture, picture.error) if picture.error else next(answers)

    @torch.inference_mode()
    def _run(self, pictures: list[Decoded]) -> list[R]:
        """The network on one batch; one that does not fit into the device's memory is halved."""
        try:
            x = self.preprocess.normalise(self._to_device(pictures)).to(self.dtype)
            return self.task.answer(self.model, x, pictures)
        except torch.OutOfMemoryError:
            if len(pictures) == 1:
                raise UsageError(
                    f"{self.card.name} does not fit into the memory of {self.device}",
                    hint="--device cpu, or --dtype bfloat16",
                ) from None
        half = len(pictures) // 2
        return self._run(pictures[:half]) + self._run(pictures[half:])

    def _to_device(self, pictures: list[Decoded]) -> Tensor:
        """(B, H, W, C) uint8 on the device."""
        _, height, width = self.card.input.size
        batch = torch.empty(
            (len(pictures), height, width, self.card.input.size[0]),
            dtype=torch.uint8,
            pin_memory=self.device.type == "cuda",
        )
        array = batch.numpy()
        for i, picture in enumerate(pictures):
            array[i] = picture.pixels
        return batch.to(self.device, non_blocking=True)


def pipeline(
    name: str,
    *,
    task: str | None = None,
    device: str = "auto",
    checkpoint_path: str | Path | None = None,
    batch_size: int | None = None,
    workers: int | None = 0,
    dtype: str = "float32",
    compile: bool = False,
    topk: int = 5,
    probabilities: bool = False,
    explain: bool = False,
    engine: str | None = None,
) -> Pipeline[Any]:
    """A network that takes pictures and gives results.

    Args:
        name: Any spelling that `zoo.create_model` takes.
        task: "classify" or "embed"; by default what the card says.
        device: "auto" (CUDA, then MPS, then CPU) or a torch device.
        checkpoint_path: A safetensors file in place of the published weights.
        batch_size: Pictures the network takes at once; by default 256 on a GPU and 64 elsewhere.
        workers: Processes that decode. 0 decodes in this one; None starts some once a stream is long enough to pay. A
            script that starts processes keeps its own code under `if __name__ == "__main__":`.
        dtype: "float32", "float16" or "bfloat16".
        compile: Run the network through `torch.compile`; the first batch takes up to a minute longer.
        topk: Classes a result names.
        probabilities: Whether classifications hold the probabilities of all classes.
        explain: Whether classifications hold, and `draw()` shows, where in the picture the best class was found.
        engine: What runs binary layers: "auto", "float" or "packed".

    Raises:
        UnknownName: No such model.
        UsageError: No such device or type, or what the network is not made for.
        WeightsUnavailable: There are no weights.
        IntegrityError: The weights are not what they should be.
    """
    if name.endswith(".zoo"):
        if checkpoint_path is not None:
            raise UsageError(f"{name} has its weights in it", hint="leave the checkpoint out, or name that file")
        return _taught(Path(name), task, device, batch_size, workers, topk, probabilities, explain)
    card = resolve(name)
    if card.task == "teach":
        path = Path(checkpoint_path) if checkpoint_path else weights_path(card)
        return _taught(path, task, device, batch_size, workers, topk, probabilities, explain)
    place, kind = pick_device(device), pick_dtype(dtype)
    if topk < 1 or (batch_size is not None and batch_size < 1) or (workers is not None and workers < 0):
        raise UsageError("topk and batch_size start at 1, workers at 0", hint="leave them out for the defaults")
    what = task or card.task
    if card.task == what == "filter":
        from zoo.tasks.filter import filter_pipeline

        return cast(Any, filter_pipeline(device=device))  # called alike; it has no network to prepare pictures for
    if card.task == what == "ground":
        from zoo.tasks.ground import ground_pipeline

        return cast(Any, ground_pipeline(name, checkpoint_path=checkpoint_path, device=device, dtype=dtype))
    if card.task == what == "retrieve":
        raise UsageError(f"{card.name} searches an index of videos, which is made first", hint="zoo retrieve --help")
    fits = what in ("classify", "embed") or what == card.task == "reid"
    if not fits or card.task == "filter" or (what == "classify" and card.task != "classify"):
        raise UsageError(f"{card.name} is made to {card.task}; it cannot {what}", hint=f"zoo list --task {what}")
    if explain and what != "classify":
        raise UsageError("only classifications are explained", hint="leave explain out, or leave the task to the card")
    model, running = _network(card, checkpoint_path, place, kind, engine, compile)
    return Pipeline(
        card,
        model,
        _task(what, card, checkpoint_path, topk, probabilities, explain),
        device=place,
        dtype=kind,
        batch_size=batch_size or (256 if place.type == "cuda" else 64),
        workers=workers,
        engine=running,
    )


def _taught(
    path: Path,
    task: str | None,
    device: str,
    batch_size: int | None,
    workers: int | None,
    topk: int,
    probabilities: bool,
    explain: bool,
) -> Pipeline[Any]:
    """The pipeline of a taught model's file."""
    from zoo.tasks.teachable import taught_pipeline

    if task not in (None, "classify"):
        raise UsageError(f"{path} was taught to classify; it cannot {task}", hint="zoo predict")
    if explain:
        raise UsageError(f"{path} was taught, and taught models are not explained", hint="leave explain out")
    if topk < 1 or (batch_size is not None and batch_size < 1):
        raise UsageError("topk and batch_size start at 1", hint="leave them out for the defaults")
    return taught_pipeline(
        path, device=device, batch_size=batch_size, workers=workers, topk=topk, probabilities=probabilities
    )


def _task(
    what: str, card: Card, checkpoint_path: str | Path | None, topk: int, probabilities: bool, explain: bool
) -> Task[Any]:
    if what == "classify":
        from zoo.tasks.classify import Classify

        view = Preprocess(card.input) if explain else None
        return Classify(class_names(card, checkpoint_path), topk, probabilities, view)
    if card.task == "reid":
        from zoo.tasks.reid import Reid

        return Reid()
    from zoo.tasks.embed import Embed

    return Embed()


def _network(
    card: Card,
    checkpoint_path: str | Path | None,
    device: torch.device,
    dtype: torch.dtype,
    engine: str | None,
    compile: bool,
) -> tuple[nn.Module, str]:
    """The network ready for inference, and what runs it: the engine's name, a colon and why it was chosen."""
    if engine not in (None, "auto", "float", "packed"):
        raise UsageError(f"no engine {engine!r}", hint="auto, float or packed")
    wanted = "float" if compile else engine or "auto"
    if device.type == "cpu" and dtype == torch.float32 and wanted != "float":
        parts = packed_parts(card.name, checkpoint_path=checkpoint_path)
        if parts and (chosen := _from_bits(card, *parts, wanted)):
            return chosen
    model = create_model(card.name, pretrained=checkpoint_path is None, checkpoint_path=checkpoint_path)
    model = model.to(device).eval().requires_grad_(False)
    if any(isinstance(module, BinaryConv2d) for module in model.modules()):
        from zoo.layers.engine import prepare

        model = model.to(dtype).to(memory_format=torch.channels_last)
        model, running = prepare(model, wanted, device=device)
    else:
        model = optimize(model).to(dtype)  # folded in float32
        running = "float: the network has no binary layers"
    return compile_blocks(model) if compile else model, running


def _from_bits(card: Card, skeleton: nn.Module, state: dict[str, Tensor], engine: str) -> tuple[nn.Module, str] | None:
    """The packed network straight from a packed file; None where the packed engine does not run it."""
    from zoo.layers.engine import choose_engine, to_packed

    name, reason = choose_engine(skeleton, engine)
    if not name.startswith("packed"):
        return None
    bad = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    try:
        if bad:
            raise ValueError(f"{', '.join(bad[:3])} not finite")
        return to_packed(skeleton, state), f"{name}: {reason}"
    except ValueError as error:
        raise IntegrityError(
            f"the weights do not fit {card.name}: {error}", hint="convert or fetch the file again"
        ) from error


@contextmanager
def _leave_cores(workers: int) -> Iterator[None]:
    """Fewer threads for the network while processes decode: where both want a core, both wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, max(1, cores() - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_one(inputs: Any) -> bool:
    """Whether inputs are one picture rather than many."""
    if isinstance(inputs, str | os.PathLike | Encoded) or hasattr(inputs, "getexif"):
        return True
    return hasattr(inputs, "__array__") and getattr(inputs, "ndim", 0) <= 3
