"""Figures of a network on labelled people, by the published protocols: each picture is embedded once."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.reid_sets import (
    LAYOUTS,
    Portrait,
    Test,
    layout_of,
    market_test,
    regdb_test,
    sysu_test,
    table_test,
    vcm_test,
)
from zoo.errors import InputError, UsageError, ZooError
from zoo.metrics.reid import reid_scores
from zoo.metrics.rerank import memory_for, rerank
from zoo.metrics.verification import tpr_at_fpr
from zoo.results.classification import Embedding
from zoo.results.reid import Direction, ReidEvaluation
from zoo.tasks.pipeline import Pipeline
from zoo.tasks.reid import Reid

__all__ = ["PROTOCOLS", "Protocol", "evaluate_people"]

PROTOCOLS = ("sysu", "regdb", "vcm", "market")
TRIALS = {"sysu": 10, "regdb": 1, "vcm": 1, "market": 1}  # by default
MOST_TRIALS = 10

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Protocol:
    """What is asked of what.

    Attributes:
        name: "sysu", "regdb", "vcm" or "market"; None for what the data look like.
        mode: Of SYSU-MM01: "all" or "indoor".
        shots: Of SYSU-MM01: pictures of an identity a camera in the gallery, 1 or 10.
        trials: How many galleries, or of RegDB splits; None for the usual number.
        first_trial: Of RegDB: the first split, from 1. Each split has a network of its own.
        gallery_file: Of SYSU-MM01: the authors' `rand_perm_cam.mat`.
        frames: Of HITSZ-VCM: frames of a tracklet whose embeddings are averaged.
        rerank: Candidates of a query that are ranked again by k-reciprocal neighbours; 0 for none.
    """

    name: str | None = None
    mode: str = "all"
    shots: int = 1
    trials: int | None = None
    first_trial: int = 1
    gallery_file: Path | None = None
    frames: int = 6
    rerank: int = 0


@dataclass
class _Embedded:
    """Embeddings by path; what could not be embedded is missing.

    Attributes:
        failed: Gets what is wrong with those.
        vectors: Path to (D,) float32.
        tried: Paths of both.
    """

    failed: list[ZooError]
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)

    def add(self, pipe: Pipeline[Embedding], portraits: Iterable[Portrait], report: Callable[[], None]) -> None:
        """Embed what is not there yet, each picture through its own modality."""
        kinds = {path: one.modality for one in portraits for path in one.frames or (one.path,)}
        wanted = [path for path in kinds if path not in self.tried]
        self.tried.update(wanted)
        if isinstance(pipe.task, Reid):
            pipe.task = Reid("auto", pipe.task.mirror, pipe.task.feature, kinds.get)
        for result in pipe(wanted):
            if result.error:
                self.failed.append(result.error)
            else:
                self.vectors[result.source] = result.vector
            report()

    def of(self, portraits: Sequence[Portrait]) -> tuple[list[Portrait], Vectors]:
        """Those that are there, and their vectors (N, D); a tracklet's is the mean of its frames', of length 1."""
        kept, rows = [], []
        for one in portraits:
            found = [self.vectors[path] for path in one.frames or (one.path,) if path in self.vectors]
            if found:
                mean = np.mean(found, axis=0, dtype=np.float64)
                kept.append(one)
                rows.append(mean / np.linalg.norm(mean) if one.frames else mean)
        return kept, np.stack(rows) if rows else np.zeros((0, 0))


def evaluate_people(
    network: Callable[[Path | None], Pipeline[Embedding]],
    checkpoint: str | None,
    data: Path,
    protocol: Protocol,
    *,
    say: Callable[[str], None] = lambda text: None,
    report: Callable[[], None] = lambda: None,
) -> ReidEvaluation:
    """CMC, mAP and mINP of a network on a labelled set, and what a threshold on the similarity would do.

    Args:
        network: Makes a pipeline, as `reid_pipeline` does, of a file of weights; of None, with the published ones.
        checkpoint: The file; "{split}" in it stands for RegDB's split, each of which has a network of its own.
        data: The set's folder, or a table of labelled pictures.
        protocol: What is asked of what.
        say: Called with what a reader should know before the figures come.
        report: Called after each picture.

    Raises:
        UsageError: The data have no labels, or settings that the protocol does not know.
        InputError: The set is not what it should be, or no query has its identity in the gallery.
    """
    started = time.monotonic()
    name, tests = _tests(data, protocol)
    if name == "regdb" and len(tests) > 1 and "{split}" not in (checkpoint or ""):
        say("note: one network on several splits of RegDB: it may have learnt from the test identities of the others")
    if protocol.rerank:
        size = 1 + min(protocol.rerank, max(len(test.gallery) for test in tests))
        say(f"re-ranking {protocol.rerank} candidates of each query: {memory_for(size) / 1e6:.1f} MB at a time")
    trials: dict[str, list[dict[str, Any]]] = {}
    failed: list[ZooError] = []
    thresholds: list[dict[str, Any]] = []
    loaded: str | None = None
    for number, test in enumerate(tests, protocol.first_trial):
        path = checkpoint and checkpoint.replace("{split}", str(number))
        if number == protocol.first_trial or path != loaded:
            pipe, loaded = network(Path(path) if path else None), path
            embedded = _Embedded(failed)
        embedded.add(pipe, [*test.queries, *test.gallery], report)
        queries, q = embedded.of(test.queries)
        gallery, g = embedded.of(test.gallery)
        if not queries or not gallery:
            raise InputError(f"{data}: none of its pictures could be used", hint=_first(failed))
        for direction, a, b, ids in _ways(name, queries, gallery, q, g):
            trials.setdefault(direction, []).append(_scores(name, a, b, ids, protocol))
        if not thresholds:
            same = np.array([one.pid for one in queries])[:, None] == np.array([one.pid for one in gallery])
            if same.any() and not same.all():
                thresholds = [one.to_dict() for one in tpr_at_fpr((q @ g.T).ravel(), same.ravel())]
    return ReidEvaluation(
        model=pipe.card.name,
        dataset=str(data),
        protocol=name,
        directions=tuple(Direction(direction, tuple(scores)) for direction, scores in trials.items()),
        settings=_settings(name, protocol, pipe),
        thresholds=tuple(thresholds),
        failed=tuple(failed),
        seconds=time.monotonic() - started,
    )


def _tests(data: Path, protocol: Protocol) -> tuple[str, list[Test]]:
    """The protocol's name, and the queries and gallery of each trial."""
    if data.suffix.lower() == ".csv":
        return protocol.name or "regdb", [table_test(data)]
    name = protocol.name or layout_of(data)
    if name is None:
        raise UsageError(
            f"{data} has no labels: it has the layout of none of {', '.join(LAYOUTS.values())}",
            hint="give a table with the columns path, pid, cam, modality, role; zoo reid search needs no labels",
        )
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol {name!r}", hint=f"one of {', '.join(PROTOCOLS)}")
    count = TRIALS[name] if protocol.trials is None else protocol.trials
    if not 1 <= count <= MOST_TRIALS or protocol.shots < 1 or protocol.mode not in ("all", "indoor"):
        raise UsageError(
            f"{count} trials, {protocol.shots} shots, mode {protocol.mode!r}", hint="1 to 10 trials; all or indoor"
        )
    if name == "sysu":
        mode: Any = protocol.mode
        return name, [
            sysu_test(data, mode=mode, shots=protocol.shots, trial=trial, permutations=protocol.gallery_file)
            for trial in range(count)
        ]
    if name == "regdb":
        last = protocol.first_trial + count - 1
        if not 1 <= protocol.first_trial <= last <= MOST_TRIALS:
            raise UsageError(f"RegDB has no split {last}", hint="splits 1 to 10")
        return name, [regdb_test(data, trial=trial) for trial in range(protocol.first_trial, last + 1)]
    return name, [vcm_test(data, frames=protocol.frames) if name == "vcm" else market_test(data)]


Way = tuple[str, Vectors, Vectors, tuple[NDArray[np.int64], ...]]


def _ways(
    protocol: str, queries: Sequence[Portrait], gallery: Sequence[Portrait], q: Vectors, g: Vectors
) -> Iterable[Way]:
    """Name, query vectors, gallery vectors and labels of each direction that a protocol reports."""
    qid, gid, qcam, gcam = (
        np.array([getattr(one, what) for one in side]) for what in ("pid", "camera") for side in (queries, gallery)
    )
    forth, back = (f"{a[0].modality} to {b[0].modality}" for a, b in ((queries, gallery), (gallery, queries)))
    yield forth, q, g, (qid, gid, qcam, gcam)
    if protocol in ("regdb", "vcm") and forth != back:
        yield back, g, q, (gid, qid, gcam, qcam)


def _scores(protocol: str, q: Vectors, g: Vectors, labels: tuple[Any, ...], settings: Protocol) -> dict[str, Any]:
    dist = rerank(q, g, top=settings.rerank) if settings.rerank else -(q @ g.T)
    qid, gid, qcam, gcam = labels
    try:
        return reid_scores(dist, qid, gid, qcam, gcam, protocol).to_dict()
    except ValueError as error:
        raise InputError(str(error), hint="queries and gallery share no identity; check the labels") from None


def _settings(name: str, protocol: Protocol, pipe: Pipeline[Embedding]) -> dict[str, Any]:
    task = pipe.task
    own: dict[str, Any] = {}
    if name == "sysu":
        rule = "rand_perm_cam.mat" if protocol.gallery_file else "seeded by trial"
        own = {"mode": protocol.mode, "shots": protocol.shots, "gallery": rule}
    if name == "regdb":
        own = {"first_split": protocol.first_trial}
    if name == "vcm":
        own = {"frames": protocol.frames, "fusion": "mean of embeddings"}
    if isinstance(task, Reid):
        own |= {"feature": task.feature, "mirror": task.mirror}
    return own | {"rerank": f"k-reciprocal on {protocol.rerank}" if protocol.rerank else False}


def _first(failed: Sequence[ZooError]) -> str:
    return failed[0].message if failed else "check the paths"
