"""People across visible and infrared cameras: reid index, search, remove, info, eval, synth, check-data."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import BatchSize, Checkpoint, Csv, Debug, Device, Dtype, Json, Jsonl, Quiet, Workers
from zoo.errors import InputError, UsageError

if TYPE_CHECKING:
    from zoo.data.reid_sets import Clue
    from zoo.index.store import Store
    from zoo.results.classification import Embedding
    from zoo.results.ranking import Ranking
    from zoo.tasks.pipeline import Pipeline
    from zoo.tasks.reid_gallery import Search

reid = typer.Typer(
    help="Find people again, across visible and infrared cameras.",
    no_args_is_help=True,
    epilog="Start with [bold]zoo reid index FOLDER --gallery people[/], then [bold]zoo reid search PICTURE --gallery "
    "people[/].",
)
app.add_typer(reid, name="reid", rich_help_panel="Use a model")

INPUTS = "Files, folders, globs, http(s) addresses, or - for a list on standard input."
GalleryName = Annotated[
    str, typer.Option("--gallery", metavar="DIR", help="The gallery: a folder, or its name in --store.")
]
Store_ = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URI",
        help="A Milvus database in place of a folder: http://host:19530, or FILE.db for Milvus Lite.",
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="Network.", show_default="the gallery's, else zoo's own")
]
Modality = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="visible, infrared, or auto: by the table, the folder's name, else infrared where there are no colours.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(metavar="CSV", help="What is known: a table with the columns path, and any of pid, cam, modality."),
]
Mirror = Annotated[bool, typer.Option(help="Average with the mirrored picture, as published.")]
Feature = Annotated[str, typer.Option(metavar="KIND", help="fc, as published, or pool, before the neck.")]


@reid.command()
def index(
    gallery: GalleryName,
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT", help=INPUTS, show_default=False)] = None,
    model: Model = None,
    checkpoint: Checkpoint = None,
    modality: Modality = "auto",
    labels: Labels = None,
    store: Store_ = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Also build an approximate index, and state its recall.")
    ] = False,
    mirror: Mirror = True,
    feature: Feature = "fc",
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = None,
    debug: Debug = False,
) -> None:
    """Put pictures of people into a gallery; no labels and no naming rules are needed.

    Unchanged pictures are passed over, changed ones replaced. After an interruption the same command goes on, and the
    gallery can be searched at any moment. Bad files are listed at the end, and the exit code is 1.

    [bold]Examples[/]

    zoo reid index crops/ --gallery people
    zoo reid index night/ --gallery people --modality infrared
    zoo reid index crops/ --gallery people --store http://milvus:19530
    """
    from zoo.data.images import expand
    from zoo.data.reid_sets import read_labels
    from zoo.index.store import open_or_create
    from zoo.tasks.reid import reid_facts
    from zoo.tasks.reid_gallery import Indexing

    if not inputs and not approximate:
        raise UsageError("no pictures", hint="zoo reid index FOLDER --gallery DIR")
    if approximate and store:
        raise UsageError("--approximate and --store together", hint="the database has indexes of its own")
    known = read_labels(labels) if labels else {}
    code = 0
    if inputs:
        there = _facts_of(gallery, store)
        pipe = _pipe(
            model or (there or {}).get("model"),
            there and there["settings"],
            known,
            modality=modality,
            checkpoint_path=checkpoint,
            mirror=mirror,
            feature=feature,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            workers=workers,
        )
        place = open_or_create(gallery, reid_facts(pipe, checkpoint), store)
        adding = Indexing(pipe, place, known)
        failures, warnings = out.Failures(), _Warnings()
        seen = {"visible": 0, "infrared": 0}
        with out.progress("index") as step:
            for result in adding.run(expand(inputs)):
                if result.error:
                    failures.add(result.error)
                else:
                    seen[result.modality or "visible"] += 1
                    warnings.add(result.source, result.note)
                step()
        code = failures.report(sum(seen.values()) + failures.count + adding.unchanged)
        warnings.report()
        out.say(
            f"{adding.added:,} added ({seen['visible']:,} visible, {seen['infrared']:,} infrared), "
            f"{adding.unchanged:,} unchanged; {len(place):,} in {place.name}"
        )
    if approximate:
        from zoo.index.approximate import build_approximate
        from zoo.index.gallery import Gallery

        built = build_approximate(Gallery.open(Path(gallery)))
        out.say(f"approximate index: finds {100 * built.recall:.1f}% of the ten nearest on a sample")
    raise typer.Exit(code)


@reid.command()
def search(
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help=INPUTS, show_default=False)],
    gallery: GalleryName,
    topk: Annotated[int, typer.Option(min=1, help="Answers to each query.")] = 10,
    model: Model = None,
    checkpoint: Checkpoint = None,
    modality: Modality = "auto",
    labels: Labels = None,
    store: Store_ = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="S", help="Leave out what is less similar; zoo reid eval helps to choose.")
    ] = None,
    approximate: Annotated[bool, typer.Option("--approximate", help="Search the approximate index.")] = False,
    json: Json = False,
    jsonl: Jsonl = False,
    csv: Csv = False,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write a contact sheet (PNG) a query here.", rich_help_panel="Output"),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write one page with all answers.", rich_help_panel="Output"),
    ] = None,
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = None,
    debug: Debug = False,
) -> None:
    """Rank a gallery by how alike its people are to the person in a picture.

    The answers are similarities, no identities: the first may be somebody else. On the sheets a green frame with a tick
    is right, a red one with a cross is wrong, a grey one is not known; right and wrong need labels on both sides.

    [bold]Examples[/]

    zoo reid search night.jpg --gallery people
    zoo reid search queries/ --gallery people --topk 20 --sheet sheets --html answers.html
    zoo reid search night.jpg --gallery people --threshold 0.6 --json
    """
    form = out.form(json, jsonl, csv)
    if approximate and store:
        raise UsageError("--approximate and --store together", hint="the database has indexes of its own")

    from zoo.data.images import expand
    from zoo.data.reid_sets import read_labels
    from zoo.hub.checkpoint import write_whole
    from zoo.index.store import open_store
    from zoo.results.ranking import page
    from zoo.tasks.draw import Drawings
    from zoo.tasks.reid import reid_facts
    from zoo.tasks.reid_gallery import search_people

    place = open_store(gallery, store)
    known = read_labels(labels) if labels else {}
    pipe = _pipe(
        model or place.facts.model,
        place.facts.settings,
        known,
        modality=modality,
        checkpoint_path=checkpoint,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
    )
    place.facts.require(reid_facts(pipe, checkpoint), place.name)
    sheets = Drawings(sheet) if sheet else None
    failures, warnings, answered, seen = out.Failures(), _Warnings(), [], 0
    see = not out.is_terminal(sys.stdout)
    found = search_people(
        pipe, place, expand(queries), topk, threshold=threshold, labels=known, search=_nearly(place, approximate)
    )
    with out.Rows(form, _show, _flat) as rows, out.progress("search", wanted=see) as step:
        for ranking in found:
            seen += 1
            fault = ranking.error or (sheets.add(ranking) if sheets else None)
            if fault:
                failures.add(fault)
            else:
                warnings.add(ranking.query, ranking.note)
            if html and not ranking.error:
                answered.append(ranking)
            if form != "human" or not ranking.error:
                rows(ranking)
            step()
    if html and answered:
        write_whole(html, page(answered).encode(errors="backslashreplace"))
        out.say(f"{len(answered)} queries in {html}")
    warnings.report()
    raise typer.Exit(failures.report(seen))


@reid.command()
def remove(
    gallery: GalleryName,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", help="Paths of pictures, or globs over them.", show_default=False),
    ] = None,
    store: Store_ = None,
    vanished: Annotated[bool, typer.Option("--vanished", help="Also those whose file is no longer there.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Give the room of removed pictures back to the disk.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Take pictures out of a gallery; the files stay.

    [bold]Examples[/]

    zoo reid remove 'crops/monday/*' --gallery people
    zoo reid remove --vanished --compact --gallery people
    """
    from zoo.index.gallery import Gallery
    from zoo.index.store import open_store
    from zoo.tasks import reid_gallery

    if not inputs and not vanished and not compact:
        raise UsageError("nothing to remove", hint="give paths or globs, --vanished or --compact")
    place = open_store(gallery, store)
    gone = reid_gallery.matching(place, inputs or [])
    if inputs and not gone:
        raise InputError(
            f"{place.name} has none of {', '.join(inputs[:3])}", hint="zoo reid info --items lists what it has"
        )
    gone += reid_gallery.vanished(place) if vanished else []
    place.remove(sorted(set(gone)))
    if compact and isinstance(place, Gallery):
        place.compact()
    out.say(f"{len(set(gone)):,} removed; {len(place):,} in {place.name}")


@reid.command()
def info(
    gallery: GalleryName,
    store: Store_ = None,
    items: Annotated[bool, typer.Option("--items", help="List its pictures, one a line.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what a gallery holds and what made it.

    [bold]Examples[/]

    zoo reid info --gallery people
    zoo reid info --gallery people --items | wc -l
    """
    from zoo.index.store import open_store

    place = open_store(gallery, store)
    if items:
        for _, item in place.items():
            out.line(item["path"])
        return
    known = place.info()
    if json:
        out.data(known)
        return
    out.line(out.style(place.name, "bold"))
    for key, value in known.items():
        if key == "settings":
            value = ", ".join(f"{name} {setting}" for name, setting in value.items())
        out.fact(key, out.size(value) if key == "bytes" else f"{value:,}" if isinstance(value, int) else str(value))
    if known.get("removed", 0) > known["items"]:
        out.say("more than half of its room is taken by removed pictures: zoo reid remove --compact gives it back")


@reid.command("eval")
def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="A set's folder, or a table: path, pid, cam, modality, role.", show_default=False
        ),
    ],
    model: Model = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="A .safetensors file in place of the published weights; {split} stands for RegDB's split.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="sysu, regdb, vcm or market.", show_default="what the folder looks like"),
    ] = None,
    mode: Annotated[str, typer.Option(metavar="MODE", help="sysu: all or indoor search.")] = "all",
    shots: Annotated[int, typer.Option(min=1, help="sysu: pictures of an identity a camera, 1 or 10.")] = 1,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Galleries, or RegDB's splits.", show_default="sysu 10, else 1")
    ] = None,
    split: Annotated[int, typer.Option(min=1, help="regdb: the first split; each has a network of its own.")] = 1,
    gallery_file: Annotated[
        Path | None,
        typer.Option(
            metavar="MAT", help="sysu: the authors' rand_perm_cam.mat.", show_default="galleries drawn by seed"
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="vcm: frames of a tracklet.")] = 6,
    rerank: Annotated[
        int, typer.Option(min=0, metavar="N", help="Rank N candidates again by k-reciprocal neighbours.")
    ] = 0,
    mirror: Mirror = True,
    feature: Feature = "fc",
    json: Json = False,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the table as Markdown.", rich_help_panel="Output")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the CMC curves (PNG).", rich_help_panel="Output")
    ] = None,
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = None,
    workers: Workers = None,
    debug: Debug = False,
) -> None:
    """Measure CMC, mAP and mINP by a published protocol, and what a threshold on the similarity would do.

    [bold]Examples[/]

    zoo reid eval data/SYSU-MM01 --model sgiel_r50 --checkpoint mine.safetensors
    zoo reid eval data/SYSU-MM01 --mode indoor --shots 10 --gallery-file rand_perm_cam.mat
    zoo reid eval data/RegDB --trials 10 --checkpoint 'split{split}.safetensors' --markdown regdb.md
    zoo reid eval pairs.csv --protocol market
    """
    from zoo.hub.checkpoint import write_whole
    from zoo.tasks.draw import save_picture
    from zoo.tasks.reid_evaluate import Protocol, evaluate_people

    wanted = Protocol(protocol, mode, shots, trials, split, gallery_file, frames, rerank)

    def pipe(path: Path | None) -> "Pipeline[Embedding]":
        return _pipe(
            model,
            None,
            {},
            checkpoint_path=path,
            mirror=mirror,
            feature=feature,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            workers=workers,
        )

    with out.progress("embed") as step:
        result = evaluate_people(pipe, checkpoint, data, wanted, say=out.say, report=step)
    if json:
        out.data(result.to_dict())
    elif out.is_terminal(sys.stdout):
        out.rich(result)
    else:
        out.line(result.markdown().rstrip())
    if markdown:
        write_whole(markdown, result.markdown().encode(errors="backslashreplace"))
    if plot:
        save_picture(result.draw, plot)
    raise typer.Exit(out.Failures(result.failed).report(max(2, len(result.failed))))


@reid.command()
def synth(
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to; made if missing.", show_default=False)],
    preset: Annotated[str, typer.Option(metavar="NAME", help="tiny, small or std.")] = "small",
    layout: Annotated[str, typer.Option(metavar="NAME", help="sysu, regdb or vcm.")] = "sysu",
    renderer: Annotated[str, typer.Option(metavar="NAME", help="What infrared is: thermal, nir or mixed.")] = "thermal",
    seed: Annotated[int, typer.Option(min=0, help="Of people, places and shots.")] = 1,
    json: Json = False,
    quiet: Quiet = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw; 0 for none.", rich_help_panel="Speed")] = 0,
    debug: Debug = False,
) -> None:
    """Draw a set of people before visible and infrared cameras, with labels, splits and shape maps.

    Figures on drawn people say nothing about real ones.

    [bold]Examples[/]

    zoo reid synth --out people --preset tiny
    zoo reid synth --out regdb --layout regdb --renderer nir --workers 4
    """
    from zoo.data.people_sets import write_people

    kinds: Any = {"layout": layout, "renderer": renderer}
    with out.progress("draw") as step:
        facts = write_people(to, preset, seed=seed, workers=workers, progress=lambda done, total: step(), **kinds)
    if json:
        out.data(facts)
        return
    people = sum(facts["identities"].values())
    out.say(f"{facts['pictures']:,} pictures of {people} people in {to / facts['photographs']}")


@reid.command("check-data")
def check_data(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A set's folder.", show_default=False)],
    layout: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="sysu, regdb, vcm or market.", show_default="what the folder looks like"),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check a set's folders, lists and counts before hours are spent on it; exit code 1 if something is missing.

    [bold]Examples[/]

    zoo reid check-data data/SYSU-MM01
    zoo reid check-data data/ --layout regdb
    """
    from zoo.data.reid_check import check_set

    kind, findings = check_set(data, layout)
    if json:
        out.data({"layout": kind, "findings": [finding.to_dict() for finding in findings]})
    else:
        out.table(
            ("", "what", "found", "expected"),
            [
                (
                    "FAULT" if one.is_fault else "",
                    one.what,
                    _number(one.found),
                    "" if one.expected is None else _number(one.expected),
                )
                for one in findings
            ],
            right=("found", "expected") if all(isinstance(one.found, int) for one in findings) else (),
        )
    faults = sum(finding.is_fault for finding in findings)
    out.say(f"{data}: {faults} of {len(findings)} checks failed" if faults else f"{data}: a whole {kind} set")
    raise typer.Exit(1 if faults else 0)


class _Warnings:
    """Remarks that many results share: each said once, with how many and an example."""

    def __init__(self) -> None:
        self.said: dict[str, list[str]] = {}

    def add(self, source: str, note: str | None) -> None:
        for remark in (note or "").split("; "):
            if remark and not remark.startswith("first frame"):
                self.said.setdefault(remark, []).append(source)

    def report(self) -> None:
        for remark, sources in self.said.items():
            out.say(f"{out.style('note:', 'yellow', stream=sys.stderr)} {remark}: {len(sources)}, such as {sources[0]}")


def _facts_of(gallery: str, store: str | None) -> dict[str, Any] | None:
    """What a gallery that is there was made with."""
    from zoo.index.store import open_store

    if store is None:
        from zoo.index.gallery import Gallery

        return Gallery.open(Path(gallery)).info() if Gallery.is_at(Path(gallery)) else None
    try:
        return open_store(gallery, store).info()
    except UsageError:
        return None


def _pipe(
    model: str | None, settings: Mapping[str, Any] | None, labels: "Mapping[str, Clue]", **options: Any
) -> "Pipeline[Embedding]":
    """The network; a gallery's settings come before the options."""
    from zoo.tasks.reid import default_model, reid_pipeline

    def told(path: str) -> str | None:
        known = labels.get(path)
        return known.modality if known else None

    return reid_pipeline(model or default_model(), told=told, **{**options, **(settings or {})})


def _nearly(place: "Store", approximate: bool) -> "Search | None":
    from zoo.index.gallery import Gallery

    if not approximate or not isinstance(place, Gallery):
        return None
    from zoo.index.approximate import open_approximate

    graph = open_approximate(place)
    out.say(f"approximate: finds {100 * graph.recall:.1f}% of the ten nearest on a sample")
    return graph.search


def _show(ranking: "Ranking") -> None:
    if out.is_terminal(sys.stdout):
        out.rich(ranking)
        return
    out.line(ranking.query)
    for hit in ranking:
        sign = {True: "right", False: "wrong", None: ""}[hit.is_right]
        about = "  ".join(text for text in (sign, hit.label and f"id {hit.label}", hit.modality) if text)
        out.line(f"  {hit.rank:3}  {hit.score:.4f}  {hit.path}  {about}")


def _flat(ranking: "Ranking") -> list[Mapping[str, Any]]:
    """CSV rows: one an answer, or one that says the error."""
    heads = ("rank", "path", "score", "label", "camera", "modality", "is_right")
    if ranking.error or not ranking.hits:
        fault = ranking.error.message if ranking.error else ""
        return [{"query": ranking.query, **dict.fromkeys(heads, ""), "error": fault}]
    rows = [hit.to_dict() for hit in ranking]
    return [{"query": ranking.query, **{head: row.get(head, "") for head in heads}, "error": ""} for row in rows]


def _number(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value
