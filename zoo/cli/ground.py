"""Finding who a sentence speaks of in a video: ground, ground-eval, ground-start."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import (
    Checkpoint,
    Csv,
    Debug,
    Device,
    Dtype,
    Endpoint,
    Json,
    Jsonl,
    Name,
    Quiet,
    be_quiet,
    sentences_in,
)
from zoo.cli.predict import PANEL
from zoo.errors import InputError, UsageError

if TYPE_CHECKING:
    from zoo.results.tube import Tube
    from zoo.tasks.ground_score import FileScores

LOOK, OUTPUT = "How the video is looked at", "Output"
EVAL, SCENES = "eval", "zooclips_ground"


def _option(panel: str, text: str, *names: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel, **more)


@app.command(rich_help_panel=PANEL)
def ground(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A video file.", show_default=False)],
    sentences: Annotated[
        list[str] | None, typer.Argument(metavar="SENTENCE", help="Who is looked for.", show_default=False)
    ] = None,
    queries: Annotated[
        list[str] | None, typer.Option("-q", "--query", metavar="SENTENCE", help="Another; the video is read once.")
    ] = None,
    query_file: Annotated[Path | None, typer.Option("--queries", metavar="FILE", help="Sentences, one a line.")] = None,
    name: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Model.", show_default="one that comes with zoo")
    ] = "stvgformer_tiny",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", "--weights", metavar="FILE", help="A .safetensors file in place of the published weights."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The text encoder's tokenizer.", show_default="the Hub's")
    ] = None,
    topn: Annotated[int, typer.Option(min=1, help="Spans to name.")] = 1,
    min_score: Annotated[float, typer.Option(metavar="X", help="Say that nobody is there below this score.")] = 0.3,
    start: Annotated[float, _option(LOOK, "Where to begin.", metavar="SECONDS")] = 0.0,
    end: Annotated[float | None, _option(LOOK, "Where to stop.", metavar="SECONDS")] = None,
    frames: Annotated[int | None, _option(LOOK, "Moments a window is sampled at.", show_default="the model's")] = None,
    size: Annotated[
        int | None, _option(LOOK, "Short side that frames are shrunk to.", metavar="PIXELS", show_default="the model's")
    ] = None,
    window: Annotated[float, _option(LOOK, "Length of a window.", metavar="SECONDS")] = 20.0,
    stride: Annotated[
        float | None, _option(LOOK, "From a window to the next.", metavar="SECONDS", show_default="half a window")
    ] = None,
    chunk: Annotated[int, _option(LOOK, "Frames encoded at once: less memory, the same answer.", min=1)] = 8,
    to: Annotated[
        Path | None,
        _option(
            OUTPUT, "Write the video with the tubes drawn in (H.264, sound kept).", "--out", "--render", metavar="FILE"
        ),
    ] = None,
    crop: Annotated[
        Path | None, _option(OUTPUT, "Write the span cut out around who is meant.", "--crop-video", metavar="FILE")
    ] = None,
    sheet: Annotated[
        Path | None, _option(OUTPUT, "Write a sheet of frames with their boxes.", "--contact-sheet", metavar="FILE")
    ] = None,
    heat: Annotated[
        Path | None, _option(OUTPUT, "Write a sheet of where the network looked.", "--heatmap", metavar="FILE")
    ] = None,
    save: Annotated[Path | None, _option(OUTPUT, "Write the tubes to a file.", "--save", metavar="FILE")] = None,
    form_of_file: Annotated[
        str | None,
        _option(
            OUTPUT,
            "Of that file: json, jsonl, csv, challenge or mot.",
            "--format",
            metavar="FORM",
            show_default="its suffix",
        ),
    ] = None,
    export: Annotated[
        str | None, _option(OUTPUT, "Write frames and boxes to train a detector: yolo or coco.", metavar="FORM")
    ] = None,
    export_to: Annotated[Path | None, _option(OUTPUT, "Where to.", "--export-dir", metavar="DIR")] = None,
    convention: Annotated[
        str | None, _option(OUTPUT, "Of zoo ground eval: every_frame, challenge or tubedetr.", metavar="NAME")
    ] = None,
    force: Annotated[bool, _option(OUTPUT, "Replace files that are there.", "--force")] = False,
    json: Json = False,
    jsonl: Jsonl = False,
    csv: Csv = False,
    quiet: Annotated[bool, _option(OUTPUT, "Say nothing but data and errors.", "--quiet", callback=be_quiet)] = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    endpoint: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Find who a sentence speaks of in a video: from when to when, and where in each frame.

    Times are the video's own, boxes are in its pixels. `zoo ground eval` scores files of tubes, see zoo ground-eval.

    [bold]Examples[/]

    zoo ground walk.mp4 "the person in red waves a hand" --out drawn.mp4
    zoo ground walk.mp4 "the person in red jumps up and down" -q "the person in blue spins around" --jsonl
    zoo ground walk.mp4 --queries sentences.txt --save tubes.jsonl --contact-sheet sheet.png
    zoo ground eval tubes.jsonl truth.jsonl
    """
    if video == EVAL and not Path(EVAL).exists():
        if not sentences or len(sentences) != 2:
            raise UsageError("two files are scored", hint="zoo ground eval PREDICTIONS TRUTHS")
        _evaluate(Path(sentences[0]), Path(sentences[1]), convention or "every_frame", False, json)
        return
    form = out.form(json, jsonl, csv)
    asked = [*(sentences or []), *(queries or []), *(sentences_in(query_file) if query_file else [])]
    if not asked:
        raise UsageError("no sentence", hint=f'zoo ground {video} "the person in red waves a hand"')
    if (export is None) != (export_to is None):
        raise UsageError("--export and --export-dir go together", hint="--export yolo --export-dir DIR")
    if len(asked) > 1 and (crop or sheet or heat):
        raise UsageError("--crop-video, --contact-sheet and --heatmap show one sentence", hint="ask for one at a time")

    from zoo.tasks import ground_files
    from zoo.tasks.draw import save_picture
    from zoo.tasks.ground import ground_pipeline

    ground_files.check_kinds([to, crop], [sheet, heat], save, form_of_file)
    ground_files.check_free([to, crop, sheet, heat, save], force=force)
    pipe = ground_pipeline(
        name,
        checkpoint_path=checkpoint,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        frames=frames,
        size=size,
        window=window,
        stride=stride or window / 2,
        chunk=chunk,
        topn=topn,
        min_score=min_score,
    )
    with out.progress("windows") as step:
        seen = pipe.encode(video, start=start, end=end, step=step)
    tubes = pipe(seen, asked)
    failures = out.Failures()
    with out.Rows(form, _show, _flat) as rows:
        for tube in tubes:
            if tube.error:
                failures.add(tube.error)
            if form != "human" or not tube.error:
                rows(tube)
    good = [tube for tube in tubes if not tube.error]

    def render(path: Path) -> None:
        with out.progress("frames", len(seen.times)) as step:
            ground_files.render(good, path, step=step)

    code = failures.report(len(tubes))
    outputs: tuple[tuple[Path | None, Callable[[Path], Any]], ...] = (
        (to, render),
        (crop, lambda path: ground_files.crop_video(good[0], path)),
        (sheet, lambda path: save_picture(good[0].draw, path)),
        (heat, lambda path: save_picture(good[0].draw_heat, path)),
        (save, lambda path: ground_files.save_tubes(good, path, form_of_file)),
        (export_to, lambda path: ground_files.export_frames(good, path, str(export), force=force)),
    )
    for path, write in outputs if good else ():
        try:
            if path:
                write(path)
                out.say(f"written: {path}")
        except InputError as error:  # which leaves the other files
            out.error(error)
            code = error.exit_code
    raise typer.Exit(code)


@app.command("ground-eval", rich_help_panel=PANEL)
def ground_eval(
    predictions: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTIONS", help="The challenge's JSON, or our .jsonl; or a model.", show_default=False
        ),
    ],
    truths: Annotated[
        str,
        typer.Argument(
            metavar="TRUTHS",
            help=f"HC-STVG or VidSTG JSON, or our .jsonl; for a model a set's folder, or {SCENES}, which is drawn.",
            show_default=False,
        ),
    ],
    convention: Annotated[
        str, typer.Option(metavar="NAME", help="How frames are counted: every_frame, challenge or tubedetr.")
    ] = "every_frame",
    peer_compat: Annotated[
        bool, typer.Option("--peer-compat", help="Count HC-STVG's frames from 0, one off, as published loaders do.")
    ] = False,
    split: Annotated[str, typer.Option(help="Part of the set that a model is asked about.")] = "test",
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder that holds sets.", show_default="$ZOO_DATA")
    ] = None,
    checkpoint: Checkpoint = None,
    json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    debug: Debug = False,
) -> None:
    """Score tubes against the true ones: m_vIoU, vIoU@0.3, vIoU@0.5, m_tIoU, m_sIoU, in per cent.

    [bold]Examples[/]

    zoo ground-eval predictions.json val_v2.json --convention tubedetr
    zoo ground-eval tubes.jsonl truth.jsonl --json
    zoo ground-eval stvgformer_tiny zooclips_ground
    zoo ground-eval stvgformer_r101 hcstvg_v2 --split val --data ~/data --checkpoint mine.safetensors
    """
    if Path(predictions).suffix in (".json", ".jsonl"):
        _evaluate(Path(predictions), Path(truths), convention, peer_compat, json)
        return
    from zoo.tasks.ground_score import score_model

    with out.progress("videos") as step:
        result = score_model(
            predictions,
            truths,
            split,
            root=data,
            convention=convention,
            step=step,
            checkpoint_path=checkpoint,
            device=device,
            dtype=dtype,
        )
    _print_scores(result, json)


def _evaluate(predictions: Path, truths: Path, convention: str, peer_compat: bool, json: bool) -> None:
    from zoo.tasks.ground_score import score_files

    _print_scores(score_files(predictions, truths, convention, peer_compat=peer_compat), json)


def _print_scores(result: "FileScores", json: bool) -> None:
    for line in result.bad:
        out.say(f"left out: {line}")
    if json:
        out.data(result.figures)
        return
    columns = ("samples", "m_vIoU", "vIoU@0.3", "vIoU@0.5", "m_tIoU", "m_sIoU", "missing")
    rows = [
        (kind, *(f"{row[name]:.2f}" if "IoU" in name else f"{row[name]:g}" for name in columns))
        for kind, row in result.figures.items()
    ]
    out.table(("", *columns), rows, right=columns)


def _show(tube: "Tube") -> None:
    if out.is_terminal(sys.stdout):
        out.rich(tube)
        return
    span = tube.span
    where = f"{span.start:.2f} s to {span.end:.2f} s  score {span.score:.2f}" if span else "not found"
    out.line(f"{tube.query}: {where}")
    for other in tube.alternatives:
        out.line(f"  or {other.start:.2f} s to {other.end:.2f} s  score {other.score:.2f}")
    if tube.note:
        out.line(f"  {tube.note}")


def _flat(tube: "Tube") -> list[Mapping[str, Any]]:
    """CSV rows, one a box; one without a box for what was not found."""
    heads = {"query": tube.query, "error": tube.error.message if tube.error else ""}
    sides = ("left", "top", "right", "bottom")
    if not len(tube):
        return [{**heads, "frame": "", "t": "", **dict.fromkeys(sides, ""), "interpolated": ""}]
    columns = zip(
        tube.frames.tolist(), tube.times.tolist(), tube.boxes.tolist(), tube.interpolated.tolist(), strict=True
    )
    return [
        {**heads, "frame": frame, "t": f"{time:.4f}"}
        | {side: f"{x:.2f}" for side, x in zip(sides, box, strict=True)}
        | {"interpolated": int(between)}
        for frame, time, box, between in columns
    ]


@app.command("ground-start", rich_help_panel="Weights")
def ground_start(
    name: Name,
    parts: Annotated[
        list[str],
        typer.Option("--part", metavar="KIND=FILE", help="mdetr, roberta, slowfast or r3d18, and a published file."),
    ],
    to: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .safetensors file to write.")],
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Begin a grounding network from published files of its parts, for training; the rest is random.

    [bold]Examples[/]

    zoo ground-start stvgformer_r101 --part mdetr=mdetr.pth --part slowfast=slowfast.pyth --out start.safetensors
    """
    from zoo.tasks.ground_start import begin

    files = {}
    for text in parts:
        kind, equals, path = text.partition("=")
        if not equals:
            raise UsageError(f"--part {text}: no KIND=FILE", hint="--part mdetr=mdetr.pth")
        files[kind] = Path(path)
    reports, missing = begin(name, files, to)
    if json:
        out.data({"parts": [vars(report) for report in reports], "missing": missing})
        return
    for report in reports:
        for theirs, ours in report.used:
            out.line(f"used     {theirs} -> {ours}")
        for theirs, why in report.unused:
            out.line(f"unused   {theirs}  {why}")
        out.say(str(report))
    for key in missing:
        out.line(f"random   {key}")
    out.say(f"{len(missing)} tensors stay random; written to {to}")
