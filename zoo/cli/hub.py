"""Weights for others: publish, mirror."""

from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.cli import out
from zoo.cli.app import app
from zoo.cli.options import Checkpoint, Debug, Endpoint, Json, Name, Quiet

PANEL = "Weights"


@app.command(rich_help_panel=PANEL)
def publish(
    name: Name,
    org: Annotated[
        str | None,
        typer.Option(metavar="ORG", help="Organisation on the Hub.", show_default="$ZOO_HUB_ORG"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build and check the folder; upload nothing.")] = False,
    checkpoint: Checkpoint = None,
    to: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder to build in, and to keep.")] = None,
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Private elliptic-curve key (PEM) to sign the folder with.")
    ] = None,
    endpoint: Endpoint = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Publish a checkpoint on the Hub: weights, timm's config.json and a page made from the card.

    The folder is loaded back through zoo and through timm before anything is sent.
    Refused: a card with nothing measured, without a licence, or with another file than the one at hand.
    After an interruption the same command goes on; after none it changes nothing.

    [bold]Examples[/]

    zoo publish reste_resnet20_cifar --dry-run --out folder
    zoo publish reste_resnet20_cifar --org my-organisation
    zoo publish reste_resnet20_cifar --sign key.pem --endpoint https://hub.example.org
    """
    import tempfile

    from zoo.publish import build_folder
    from zoo.publish import publish as upload

    if dry_run or to:
        folder = build_folder(name, to or Path(tempfile.mkdtemp()), org=org, checkpoint_path=checkpoint, key=sign)
        _report(folder.to_dict(), None if dry_run else upload(folder), json)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = build_folder(name, Path(scratch, "folder"), org=org, checkpoint_path=checkpoint, key=sign)
        _report(folder.to_dict() | {"folder": None}, upload(folder), json)


@app.command(rich_help_panel=PANEL)
def mirror(
    target: Annotated[
        str, typer.Argument(metavar="DIR|ENDPOINT", help="Folder, or address of a Hub.", show_default=False)
    ],
    pattern: Annotated[str, typer.Argument(help="Shell wildcards; quote them.")] = "*",
    endpoint: Endpoint = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Copy published checkpoints to a folder for machines without a network, or to another Hub.

    A folder is used by HF_HUB_CACHE=DIR HF_HUB_OFFLINE=1, a Hub by HF_ENDPOINT=ENDPOINT.
    Every file is checked against its card. A Hub is shown ZOO_MIRROR_TOKEN, never HF_TOKEN.

    [bold]Examples[/]

    zoo mirror /media/stick/zoo
    zoo mirror https://hub.example.org 'reste*'
    """
    from zoo.hub.mirror import mirror as copy
    from zoo.registry.names import list_names, load_card

    cards = [load_card(name) for name in list_names(pattern, pretrained=True)]
    cards = [card for card in cards if card.weights.status != "none"]
    failures, done = out.Failures(), []
    for copied in copy(cards, target):
        done.append(copied)
        if copied.error:
            failures.add(copied.error)
        elif not json:
            out.line(f"{copied.name}  {copied.place}")
    if json:
        out.data([copied.to_dict() for copied in done])
    if not done:
        out.say(f"nothing to copy: no model that matches {pattern!r} is on the Hub")
    code = failures.report(len(done))
    if code:
        raise typer.Exit(code)


def _report(folder: dict[str, Any], pushed: Any, json: bool) -> None:
    """What the repository holds, and whether it is there."""
    if json:
        uploaded = {"url": pushed.url, "commit": pushed.commit, "changed": pushed.changed} if pushed else None
        out.data({**folder, "uploaded": uploaded})
        return
    rows = [(file["name"], out.size(file["bytes"]), file["sha256"]) for file in folder["files"]]
    out.table(("file", "size", "sha256"), rows, right=("size",), spare=("sha256",))
    if pushed is None:
        out.say(f"these files, in {folder['folder']}, would become {folder['repository']}; nothing was uploaded")
    elif pushed.changed:
        out.say(f"{pushed.url} has them as of commit {pushed.commit[:12]}; uploaded: {', '.join(pushed.changed)}")
    else:
        out.say(f"{pushed.url} had them already, commit {pushed.commit[:12]}")
