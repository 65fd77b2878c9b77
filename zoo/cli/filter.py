"""Texture filtering of pictures and videos: filter."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Csv, Debug, Device, Json, Jsonl, Quiet
from zoo.cli.predict import PANEL
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.results.filtered import Filtered

INPUTS = "Pictures (.hdr and .exr too), videos, folders, globs, http(s) addresses, or - for a list on standard input."
STRENGTH = (
    "Of the application. enhance: how often the detail is there (2); abstract: steps of lightness (8); tonemap: "
    "contrast that is left (10); halftone: blur before it, in pixels (1, for clustered dots 2); lowlight: share of the "
    "shading that goes (0.6)."
)
PARAMETERS, EXTRA = "Filter", "Application"


@app.command("filter", rich_help_panel=PANEL)
def filter_(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help=INPUTS, show_default=False)],
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to; made if missing.", show_default=False)],
    sigma_s: Annotated[
        float | None,
        typer.Option(
            metavar="PIXELS",
            help="Scale of the texture that goes; 3 to 15.",
            show_default="5; halftone, abstract 3",
            rich_help_panel=PARAMETERS,
        ),
    ] = None,
    sigma_r: Annotated[
        float | None,
        typer.Option(
            metavar="CONTRAST",
            help="Contrast below which an edge is texture; 0.02 to 0.09.",
            show_default="0.05; halftone, abstract 0.03",
            rich_help_panel=PARAMETERS,
        ),
    ] = None,
    levels: Annotated[
        str,
        typer.Option(
            metavar="N|auto", help="Pyramid levels; auto for photographs above 800 pixels.", rich_help_panel=PARAMETERS
        ),
    ] = "11",
    scale: Annotated[float, typer.Option(help="From a level to the next.", rich_help_panel=PARAMETERS)] = 0.8,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Narrower windows: 1.1 to 1.5 times as fast, not exact; says how near.",
            rich_help_panel=PARAMETERS,
        ),
    ] = False,
    apply: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="enhance, abstract, tonemap, halftone or lowlight.", rich_help_panel=EXTRA),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(metavar="X", help=STRENGTH, show_default=False, rich_help_panel=EXTRA)
    ] = None,
    luma: Annotated[
        bool, typer.Option("--luma", help="enhance: leave the colours alone.", rich_help_panel=EXTRA)
    ] = False,
    lines: Annotated[bool, typer.Option(help="abstract: dark lines along edges.", rich_help_panel=EXTRA)] = True,
    quantise: Annotated[bool, typer.Option(help="abstract: steps of lightness.", rich_help_panel=EXTRA)] = True,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Only write a sheet of the picture's middle under several sigmas, to choose them by.",
            rich_help_panel="Output",
        ),
    ] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Also write a page with a slider from before to after.", rich_help_panel="Output"
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.", rich_help_panel="Output")
    ] = False,
    nan: Annotated[
        str,
        typer.Option(
            metavar="WAY", help="Values that are not finite: refuse, or clip to the largest.", rich_help_panel="Output"
        ),
    ] = "refuse",
    json: Json = False,
    jsonl: Jsonl = False,
    csv: Csv = False,
    quiet: Quiet = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Take texture away from pictures and videos and keep their structure, or use that for something.

    A picture keeps its depth, transparency and colour profile. JPEG, .hdr and .exr stay what they are, all else becomes
    PNG. Videos are filtered frame by frame, so they can flicker; they become H.264 in .mp4, .mov or .mkv.

    [bold]Examples[/]

    zoo filter photos/ --out smooth
    zoo filter mosaic.jpg --out smooth --preview
    zoo filter mosaic.jpg --out smooth --sigma-s 7 --sigma-r 0.09 --levels auto --compare
    zoo filter sunset.hdr --out shown --apply tonemap
    """
    form = out.form(json, jsonl, csv)

    from zoo.data.images import expand
    from zoo.data.rasters import RASTER_SUFFIXES
    from zoo.data.video import VIDEO_SUFFIXES
    from zoo.tasks.filter import filter_pipeline
    from zoo.tasks.filter_files import FilteredFiles

    pipe = filter_pipeline(
        apply=apply,
        strength=strength,
        sigma_s=sigma_s,
        sigma_r=sigma_r,
        levels=_levels(levels),
        scale=scale,
        luma=luma,
        lines=lines,
        quantise=quantise,
        nan=nan,
        fast=fast,
        device=device,
    )
    files = FilteredFiles(pipe, to, overwrite=overwrite, inputs=[name for name in inputs if name != "-"])
    failures, seen = out.Failures(), 0
    with out.Rows(form, _show, _flat) as rows, out.progress("filter", wanted=not out.is_terminal(sys.stdout)) as step:
        for source in expand(inputs, suffixes=RASTER_SUFFIXES | VIDEO_SUFFIXES):
            if files.is_ours(source):  # the output lies inside an input folder
                continue
            seen += 1
            result = files.preview(source) if preview else files.add(source, compare=compare, step=step)
            if result.error:
                failures.add(result.error)
            if form != "human" or not result.error:
                rows(result)
            step()
    raise typer.Exit(failures.report(seen))


def _levels(text: str) -> "int | str":
    if text != "auto" and not text.isdecimal():
        raise UsageError(f"--levels {text}", hint="a whole number from 1, or auto")
    return text if text == "auto" else int(text)


def _show(result: "Filtered") -> None:
    if out.is_terminal(sys.stdout):
        out.rich(result)
        return
    note = f"  ({result.note})" if result.note else ""
    out.line(f"{result.source} -> {result.path}{note}")
    if "fast_psnr_db" in result.parameters:
        out.line(
            f"  fast: {result.parameters['fast_psnr_db']} dB PSNR to the exact filter, in the middle of the picture"
        )


def _flat(result: "Filtered") -> list[Mapping[str, Any]]:
    """One CSV row."""
    width, height = result.size or ("", "")
    return [
        {
            "source": result.source,
            "path": result.path or "",
            "width": width,
            "height": height,
            "frames": result.frames or "",
            "fast_psnr_db": result.parameters.get("fast_psnr_db", ""),
            "error": result.error.message if result.error else "",
        }
    ]
