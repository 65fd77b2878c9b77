"""Text to video: retrieve index, search, eval, info."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Csv, Debug, Device, Json, Jsonl, Quiet, sentences_in
from zoo.cli.predict import PANEL
from zoo.errors import InputError, UsageError

if TYPE_CHECKING:
    from zoo.results.ranking import Hit, Ranking
    from zoo.tasks.retrieve_search import VideoSearch

retrieve = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find moments in videos by a sentence: index a folder once, then search it.",
)
app.add_typer(retrieve, name="retrieve", rich_help_panel=PANEL)

SPEED, OUTPUT = "Speed", "Output"

Index = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.", show_default=False)]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="A .safetensors file in place of the model's published weights."),
]
Vocabulary = Annotated[
    Path | None,
    typer.Option(
        "--vocabulary", metavar="FILE", help="vocab.txt of BERT or merges of CLIP, where no package brings it."
    ),
]
StoreAddress = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="A database that holds the index: http://host:19530, or FILE.db."),
]


@retrieve.command("index")
def index_(
    videos: Annotated[
        list[str],
        typer.Argument(metavar="VIDEO", help="Videos, folders (to the bottom), globs, or -.", show_default=False),
    ],
    to: Annotated[Path, typer.Option("--out", metavar="INDEX", help="Folder of the index.", show_default=False)],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="conse, or a checkpoint for retrieval: zoo list --task retrieve.")
    ] = "conse",
    weights: Weights = None,
    vocabulary: Vocabulary = None,
    window: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Length of a window.")] = 10.0,
    stride: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="From a window to the next one.")] = 5.0,
    whole: Annotated[bool, typer.Option("--whole", help="One window a video.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Also take out what the index has of files that are gone.")
    ] = False,
    store: StoreAddress = None,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Windows the network takes at once.",
            show_default="16 on a GPU, 4 elsewhere",
            rich_help_panel=SPEED,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Videos decoded side by side; 0 for none.", show_default="half the cores", rich_help_panel=SPEED
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Index videos by windows; the same command again adds what is new and goes on where it stopped.

    [bold]Examples[/]

    zoo retrieve index videos/ --out idx
    zoo retrieve index videos/ --out idx --update
    zoo retrieve index films/*.mp4 --out idx --model tmvm_clip_vit_b32 --weights tmvm_clip.safetensors --whole
    """
    from zoo.data.images import expand
    from zoo.data.video import VIDEO_SUFFIXES
    from zoo.tasks.decode import spare_cores
    from zoo.tasks.retrieve import index_videos
    from zoo.tasks.retrievers import open_retriever

    failures, paths = out.Failures(), []
    for source in expand(videos, suffixes=VIDEO_SUFFIXES):
        if isinstance(source, InputError):
            failures.add(InputError(source.message.replace("picture", "video"), hint=source.hint))
        else:
            paths.append(source)
    if not paths:
        raise typer.Exit(failures.report(failures.count))
    retriever = open_retriever(model, weights=weights, vocabulary=vocabulary, device=device)
    with out.progress("index", len(paths)) as step:
        done = index_videos(
            paths,
            to,
            retriever,
            window=float("inf") if whole else window,
            stride=float("inf") if whole else stride,
            batch=batch_size,
            workers=spare_cores() if workers is None else workers,
            update=update,
            address=store,
            report=step,
        )
    if json:
        out.data(done.to_dict())
    else:
        left = f", {done.removed} removed" if done.removed else ""
        out.line(f"{done.added} videos added with {done.windows} windows, {done.unchanged} unchanged{left}: {to}")
    for fault in done.failed:
        failures.add(fault)
    raise typer.Exit(failures.report(len(paths) + failures.count - len(done.failed)))


@retrieve.command("search")
def search_(
    index: Index,
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="SENTENCE", help="What is to be seen.", show_default=False)
    ] = None,
    like: Annotated[
        Path | None, typer.Option(metavar="VIDEO", help="Search with a clip in place of a sentence.")
    ] = None,
    queries_file: Annotated[
        Path | None, typer.Option("--queries", metavar="FILE", help="Sentences, one a line.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Answers.")] = 5,
    min_score: Annotated[float | None, typer.Option(help="Leave out what is less similar.", show_default=False)] = None,
    per_video: Annotated[int, typer.Option(min=1, help="Answers of one video.")] = 1,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a page, with playable clips beside it.", rich_help_panel=OUTPUT),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the answers as one picture.", rich_help_panel=OUTPUT),
    ] = None,
    thumbs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write the frame that matched best, of each.", rich_help_panel=OUTPUT),
    ] = None,
    clips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each answer as an .mp4.", rich_help_panel=OUTPUT)
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Also write what the prototype that matched looked at.", rich_help_panel=OUTPUT
        ),
    ] = None,
    weights: Weights = None,
    vocabulary: Vocabulary = None,
    store: StoreAddress = None,
    json: Json = False,
    jsonl: Jsonl = False,
    csv: Csv = False,
    quiet: Quiet = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Search an index: videos, and the moments in them, best first. A score is a similarity, no probability.

    [bold]Examples[/]

    zoo retrieve search idx "a man opens a door"
    zoo retrieve search idx "a dog on a beach" -k 10 --html answers.html
    zoo retrieve search idx --like clip.mp4 --per-video 3 --json
    zoo retrieve search idx --queries sentences.txt --jsonl
    """
    form = out.form(json, jsonl, csv)
    sentences = [*(queries or []), *(sentences_in(queries_file) if queries_file else [])]
    if bool(sentences) == (like is not None):
        raise UsageError("one kind of query is needed", hint="a sentence, --queries FILE, or --like VIDEO")

    from zoo.hub.checkpoint import write_whole
    from zoo.results.ranking import page
    from zoo.tasks.draw import save_picture
    from zoo.tasks.retrieve_search import VideoSearch

    search = VideoSearch(index, weights=weights, vocabulary=vocabulary, device=device, address=store)
    options: dict[str, Any] = {"k": k, "min_score": min_score, "per_video": per_video}
    found = [search.like(str(like), **options)] if like else search.texts(sentences, **options)
    failures = out.Failures()
    extras = _Extras(search, thumbs, clips, explain, html)
    with out.Rows(form, _show, _flat) as rows:
        for number, ranking in enumerate(found):
            found[number] = extras.of(ranking, number)
            rows(found[number])
            if ranking.error:
                failures.add(ranking.error)
    if not any(map(len, found)):
        out.say(f"nothing found; zoo retrieve info {index} says what is in the index")
    for fault in extras.faults:
        out.say(f"{fault.message}")
    answered = [ranking for ranking in found if not ranking.error]
    if answered and html:
        write_whole(html, page(answered).encode(errors="backslashreplace"))
    if answered and sheet:
        save_picture(answered[0].draw, sheet)
    raise typer.Exit(failures.report(len(found)))


@retrieve.command("eval")
def eval_(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A list of pairs (.jsonl), a folder of lists, msrvtt, msvd, didemo, lsmdc or zooclips.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option(metavar="NAME", help="conse, or a checkpoint for retrieval.")] = "conse",
    split: Annotated[str, typer.Option(help="Part of the set.")] = "test",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder that holds sets.", show_default="$ZOO_DATA")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="multi: every caption is a query; 1ka: one caption a clip; paragraph: captions joined.",
            show_default="as the captions are",
        ),
    ] = None,
    dsl: Annotated[
        bool, typer.Option("--dsl", help="Weigh similarities by all queries at once; not comparable without.")
    ] = False,
    weights: Weights = None,
    vocabulary: Vocabulary = None,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Measure R@1, R@5, R@10, median and mean rank, both ways, and say by which protocol.

    A pair is a line {"video": "a.mp4", "captions": ["a dog runs"], "start": 0, "end": 10}.

    [bold]Examples[/]

    zoo retrieve eval pairs.jsonl
    zoo retrieve eval msrvtt --data ~/data --model tmvm_clip_vit_b32 --weights tmvm_clip.safetensors
    zoo retrieve eval zooclips --model tmvm_tiny
    """
    from zoo.tasks.retrieve_eval import evaluate_retrieval, exam_of
    from zoo.tasks.retrievers import open_retriever

    retriever = open_retriever(model, weights=weights, vocabulary=vocabulary, device=device)
    exam = exam_of(dataset, split, retriever, data, protocol)
    with out.progress("eval", len(exam.rows)) as step:
        result = evaluate_retrieval(retriever, exam, dual=dsl, report=step)
    if json:
        out.data(result.to_dict())
    else:
        out.rich(result)
    raise typer.Exit(out.Failures(result.failed).report(len(exam.rows)))


@retrieve.command("info")
def info_(
    index: Index, store: StoreAddress = None, json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Say what is in an index and what made it.

    [bold]Examples[/]

    zoo retrieve info idx
    zoo retrieve info idx --json
    """
    from zoo.index.store import open_store

    gallery = open_store(str(index), store)
    facts = gallery.info()
    facts["videos"] = len({item["path"] for _, item in gallery.items()})
    if json:
        out.data(facts)
        return
    for key, value in facts.items():
        out.fact(key, out.size(value) if key == "bytes" else str(value))


class _Extras:
    """Files beside the answers: thumbnails, clips, explanations; what fails is said and leaves the answer.

    Args:
        search: What was asked.
        thumbs: Folder for pictures.
        clips: Folder for clips.
        explain: Folder for explanations.
        html: The page, whose clips go beside it.
    """

    def __init__(
        self,
        search: "VideoSearch",
        thumbs: Path | None,
        clips: Path | None,
        explain: Path | None,
        html: Path | None,
    ) -> None:
        self.search = search
        self.thumbs, self.clips, self.explain, self.html = thumbs, clips, explain, html
        self.faults: list[InputError] = []
        from zoo.tasks.draw import output_folder

        beside = html.with_name(f"{html.stem}_clips") if html else None
        for folder in (thumbs, clips, explain, beside):
            if folder:
                output_folder(folder)
        self.beside = beside

    def of(self, ranking: "Ranking", number: int) -> "Ranking":
        """The ranking with what was written for its hits."""
        return replace(ranking, hits=tuple(self._one(hit, f"{number + 1:02d}_{hit.rank:02d}") for hit in ranking.hits))

    def _one(self, hit: "Hit", name: str) -> "Hit":
        from zoo.tasks.draw import save_picture
        from zoo.tasks.retrieve_search import write_clip

        more, media = dict(hit.more), None
        try:
            if self.thumbs and hit.picture:
                save_picture(hit.picture, self.thumbs / f"{name}.jpg", quality=90)
                more["thumb"] = str(self.thumbs / f"{name}.jpg")
            if self.explain:
                save_picture(partial(self.search.explain, hit), self.explain / f"{name}.jpg", quality=90)
                more["explained"] = str(self.explain / f"{name}.jpg")
            if self.clips:
                write_clip(hit, self.clips / f"{name}.mp4")
                more["clip"] = str(self.clips / f"{name}.mp4")
            if self.beside:
                write_clip(hit, self.beside / f"{name}.mp4")
                media = f"{self.beside.name}/{name}.mp4"
        except InputError as error:
            self.faults.append(error)
        return replace(hit, more=more, media=media)


def _show(ranking: "Ranking") -> None:
    if ranking.error:
        return
    if out.is_terminal(sys.stdout):
        out.rich(ranking)
        return
    note = f"  ({ranking.note})" if ranking.note else ""
    out.line(f"{ranking.query}{note}")
    for hit in ranking:
        out.line(
            f"  {hit.rank:2d}  {hit.score:.3f}  {hit.start:8.1f} - {hit.end:.1f} s  peak {hit.peak:.1f} s  {hit.path}"
        )


def _flat(ranking: "Ranking") -> list[Mapping[str, Any]]:
    """A CSV row a hit."""
    rows: list[Mapping[str, Any]] = [
        {
            "query": ranking.query,
            "rank": hit.rank,
            "score": round(hit.score, 6),
            "path": hit.path,
            "start": hit.start,
            "end": hit.end,
            "peak": hit.peak,
            "prototype": hit.prototype,
            "error": "",
        }
        for hit in ranking
    ]
    blank = dict.fromkeys(("query", "rank", "score", "path", "start", "end", "peak", "prototype", "error"), "")
    failed = {**blank, "query": ranking.query, "error": ranking.error.message if ranking.error else ""}
    return rows or [failed]
