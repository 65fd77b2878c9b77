"""A checkpoint as a repository: its folder built from the card, checked by loading it back, signed, uploaded."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import settings
from zoo.build import create_model
from zoo.errors import CardError, InputError, IntegrityError, UsageError, one_line
from zoo.extras import need
from zoo.hub.checkpoint import read_contents
from zoo.hub.fetch import FILE, mismatch, sha256_of, weights_path
from zoo.hub.push import SIGNATURE, Pushed, push
from zoo.hub.readme import pictures, readme
from zoo.registry.card import Card
from zoo.registry.names import card_path, resolve
from zoo.registry.timm_cfg import IN_TIMM

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Folder", "build_folder", "publish"]

NO_LICENCE = ("", "none", "unknown", "todo")


@dataclass(frozen=True)
class Folder:
    """What a repository will hold.

    Attributes:
        repository: `<org>/<name>`.
        path: The folder.
        files: Its files, sorted.
    """

    repository: str
    path: Path
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with each file's length and digest."""
        listed = [{"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in self.files]
        return {"repository": self.repository, "folder": str(self.path), "files": listed}


def build_folder(
    name: str, folder: Path, *, org: str | None = None, checkpoint_path: Path | None = None, key: Path | None = None
) -> Folder:
    """The folder of a checkpoint's repository, complete and checked; on a fault nothing is left of it.

    Args:
        name: The checkpoint.
        folder: Where to build it; must not hold anything yet.
        org: Organisation on the Hub; none for the one of the settings.
        checkpoint_path: The file; none for the bundled, cached or published one.
        key: PEM file of a private elliptic-curve key to sign the folder with.

    Raises:
        UsageError: The card is not fit to be published, or the folder is taken.
        InputError: The folder cannot be made.
        WeightsUnavailable: The file is nowhere to be had.
        IntegrityError: The file is not the card's, does not say what made it, or does not load.
    """
    card = resolve(name)
    faults = list(_unfit(card))
    if faults:
        raise CardError(f"{card.name} is not fit to be published: {'; '.join(faults)}", hint="mend its card")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already", hint="choose another --out, or remove it")
    source = checkpoint_path or weights_path(card)
    _check_file(card, source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}", hint="choose another --out") from None
    try:
        return _fill(card, folder, source, f"{org or settings.hub_org()}/{card.name}", key)
    except BaseException:
        shutil.rmtree(folder.resolve())  # a link to it stays
        raise


def publish(folder: Folder) -> Pushed:
    """Upload a folder; see `push`."""
    return push(folder.files, folder.repository, f"Publish {folder.repository}")


def _unfit(card: Card) -> Iterator[str]:
    """What keeps a card from being shown to others."""
    if card.license.strip().lower() in NO_LICENCE:
        yield "it names no licence"
    if card.weights.status not in ("bundled", "published"):
        yield "it names no file (weights: {status: published, bytes: ..., sha256: ...})"
    ours = [figure for figure in card.figures if figure.by == "zoo"]
    if not ours:
        yield "nothing of it was measured (no figure `by: zoo`)"
    for figure in ours:
        measured = math.isfinite(figure.value) and (figure.command or "").startswith("zoo ") and _is_day(figure.date)
        if not measured:
            yield f"{figure.metric} on {figure.dataset} was not measured (a number, a zoo command and a past day)"
    for picture in pictures(card):
        if not card_path(card.name).with_name(picture).is_file():
            yield f"its picture {picture} is not beside it"


def _is_day(text: str | None) -> bool:
    try:
        return date.fromisoformat(text or "") <= date.today()
    except ValueError:
        return False


def _check_file(card: Card, path: Path) -> None:
    """Refuse a file that is not the card's, or that does not say where it came from."""
    contents = read_contents(path)
    fault = mismatch(path, card)
    if fault:
        raise IntegrityError(f"{path} {fault}", hint="publish that file, or write this one's bytes and sha256 down")
    facts = contents.facts
    if str(facts.get("format", "")).startswith("taught-"):  # its tasks say what made it
        if facts.get("memory"):
            raise IntegrityError(f"{path} holds pictures that it was taught with", hint="zoo teach --no-memory")
        return
    made = {"recipe", "environment"} <= set(facts) or {"source", "source_sha256"} <= set(facts)
    if not made:
        raise IntegrityError(f"{path} does not say what made it", hint="zoo train and zoo convert write that down")
    args = {"in_chans": card.input.size[0], **card.builder_args}  # the channels may be left out in either
    wanted = {"architecture": card.architecture, "format": card.weights.format, "builder_args": args}
    said = {**facts, "builder_args": args | facts.get("builder_args", {})}
    for key, value in wanted.items():
        if said.get(key) != value:
            raise IntegrityError(
                f"{path} has the {key} {said.get(key)!r}, its card says {value!r}", hint="mend the card"
            )


def _fill(card: Card, folder: Path, source: Path, repository: str, key: Path | None) -> Folder:
    model = create_model(card.name, checkpoint_path=source).eval()
    _write_config(card, model, folder)
    shutil.copyfile(source, folder / FILE)
    (folder / "README.md").write_text(readme(card, repository), encoding="utf-8")
    for picture in pictures(card):
        shutil.copyfile(card_path(card.name).with_name(picture), folder / picture)
    if card.task in IN_TIMM:
        _check_in_timm(card, model, folder)
    if key:
        _sign(folder, key)
    return Folder(repository, folder, tuple(sorted(folder.iterdir())))


def _write_config(card: Card, model: "nn.Module", folder: Path) -> None:
    """config.json in timm's layout; for what timm has no place for, the part of it that remains."""
    if card.task in IN_TIMM:
        from timm.models import save_for_hf

        # its weights are replaced
        save_for_hf(model, str(folder), model_config={"label_names": _labels(card)}, safe_serialization=True)
    else:
        config = {"architecture": card.architecture, "task": card.task, "model_args": card.builder_args}
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _labels(card: Card) -> list[str]:
    from zoo.registry.labels import label_names

    return list(label_names(card.labels)) if card.labels else []


def _check_in_timm(card: Card, model: "nn.Module", folder: Path) -> None:
    """Refuse a folder from which timm does not make the very same network."""
    import timm
    import torch

    image = torch.rand(2, *card.input.size, generator=torch.Generator().manual_seed(0))
    try:
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        with torch.inference_mode():
            same = torch.equal(theirs(image), model(image))
        labels = vars(theirs)["pretrained_cfg"].get("label_names")
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(
            f"{card.name} does not come back through timm: {one_line(error)}", hint="see --debug"
        ) from error
    if not same or list(labels or []) != _labels(card):
        raise IntegrityError(f"{card.name} comes back through timm as another network", hint="see config.json")


def _sign(folder: Path, key: Path) -> None:
    """Write the signature of the folder's other files, as sigstore's model-signing does."""
    need("sign", "signing")
    from model_signing import signing

    try:
        config = signing.Config()  # type: ignore[no-untyped-call]
        config.use_elliptic_key_signer(private_key=key).sign(folder, folder / SIGNATURE)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"{key} cannot sign: {one_line(error)}", hint="give an unencrypted elliptic-curve key in PEM"
        ) from error
