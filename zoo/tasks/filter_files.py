"""Filtered pictures and videos as files: under their own names in a folder, whole or not at all."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath

import numpy as np
from PIL.Image import Image, Resampling

from zoo.data.images import Source
from zoo.data.rasters import Raster, suffix_for, write_raster
from zoo.data.video import Frame, VideoReader, VideoWriter, is_video
from zoo.errors import InputError, UsageError, ZooError
from zoo.hub.checkpoint import write_whole
from zoo.results.filtered import Filtered
from zoo.tasks.draw import output_folder, save_picture, stem_of
from zoo.tasks.filter import FilterPipeline, middle, name_of
from zoo.viz.compare import compare_page
from zoo.viz.panels import contact_sheet

__all__ = ["FilteredFiles"]

SIGMAS_S, SIGMAS_R = (3.0, 5.0, 8.0), (0.02, 0.05, 0.09)  # of a preview
PREVIEW = 360  # pixels a side of each of its pictures, from the middle of the source
VIDEOS = {".mp4": ".mp4", ".m4v": ".mp4", ".mov": ".mov"}  # what stays; .mkv, which takes any sound, is for the rest
PAGE = 2400  # pixels that a side of a picture on a page has at most


class FilteredFiles:
    """Filters files into a folder.

    Args:
        pipe: What to do with each.
        folder: Made if missing.
        overwrite: Replace files that are there already.
        inputs: Files and folders that were asked for, so that the folder is not one of theirs by mistake.

    Raises:
        UsageError: The folder is an input's and may not be overwritten, or cannot be written to.
    """

    def __init__(
        self, pipe: FilterPipeline, folder: Path, *, overwrite: bool = False, inputs: Iterable[Source] = ()
    ) -> None:
        self.pipe = pipe
        self.folder = folder
        self.overwrite = overwrite
        self._taken: Counter[str] = Counter()
        self._own: set[str] = set()  # names in the folder
        self._in_place = False  # what lies in the folder is input too
        for given in inputs:
            self._keep_apart(Path(given))
        output_folder(folder)

    def _keep_apart(self, given: Path) -> None:
        try:
            folder = given if given.is_dir() else given.parent
            is_own = folder.is_dir() and folder.resolve() == self.folder.resolve()
        except OSError:  # a name too long to be looked at; reading it says so
            return
        if is_own and not self.overwrite:
            raise UsageError(
                f"--out {self.folder} is the folder of the input {given}", hint="choose another, or add --overwrite"
            )
        self._in_place |= is_own

    def is_ours(self, source: object) -> bool:
        """Whether a path was written by this object: met again when the output lies inside an input folder."""
        if not isinstance(source, str) or Path(source).name not in self._own:
            return False
        parent = Path(source).parent  # the folder may go by another name there: a link, or one with .. in it
        return parent.is_dir() and parent.samefile(self.folder)

    def add(self, item: str | ZooError, *, compare: bool = False, step: Callable[[], None] = lambda: None) -> Filtered:
        """Filter one file; a bad one gives a result with `.error`.

        Args:
            item: A path, an address, or what is wrong in its place.
            compare: Also write a page to compare before and after.
            step: Called after each frame of a video.
        """
        try:
            if isinstance(item, ZooError):
                raise item
            result = self._video(item, step) if is_video(item) else self._picture(item)
            if compare and not result.error:
                self._page(result)
        except InputError as error:
            return Filtered(name_of(item), error=error)
        except OSError as error:
            fault = InputError(f"{item} was not written: {error.strerror or error}", hint="check the --out folder")
            return Filtered(name_of(item), error=fault)
        return result

    def _picture(self, source: str) -> Filtered:
        raster = self.pipe.read(source)
        kind = raster.kind if self.pipe.settings.apply is None else "picture"
        empty = np.empty((0, 0, 1), self.pipe.dtype(raster))
        path = self._free(source, suffix_for(replace(raster, pixels=empty, kind=kind), _suffix(source)))
        result = self.pipe.filtered(raster, source)
        assert result.pixels is not None  # it has no error
        write_raster(path, replace(raster, pixels=result.pixels, alpha=result.alpha, kind=kind))
        return replace(result, path=str(path))

    def _video(self, source: str, step: Callable[[], None]) -> Filtered:
        path = self._free(source, VIDEOS.get(_suffix(source).lower(), ".mkv"))
        count, damage, first = 0, None, None
        with VideoReader(source) as reader, VideoWriter(path, reader.size, reader.rate, sound_of=source) as writer:
            for frame in reader:
                if isinstance(frame, InputError):
                    damage = frame
                    break
                pixels = self.pipe.pixels(Raster(frame.pixels), source)
                writer.write(Frame(pixels, frame.time))
                first = first or (frame.pixels, pixels, self.pipe.facts(Raster(frame.pixels)))
                count += 1
                step()
        before, after, facts = first or (None, None, {})
        return Filtered(
            source, after, before, size=reader.size, parameters=facts, frames=count, path=str(path), error=damage
        )

    def preview(self, source: str | ZooError) -> Filtered:
        """A contact sheet of the picture's middle over a grid of parameters, in place of the filtered picture."""
        try:
            if isinstance(source, ZooError):
                raise source
            path = self._free(source, ".preview.png")
            raster = middle(self._first_frame(source) if is_video(source) else self.pipe.read(source), PREVIEW)
            save_picture(partial(_sheet, self.pipe, raster, source), path)
        except InputError as error:
            return Filtered(name_of(source), error=error)
        height, width = raster.pixels.shape[:2]
        return Filtered(source, raster.pixels, raster.pixels, size=(width, height), path=str(path))

    @staticmethod
    def _first_frame(source: str) -> Raster:
        with VideoReader(source) as reader:
            frame = next(iter(reader))
        if isinstance(frame, InputError):
            raise frame
        return Raster(frame.pixels)

    def _page(self, result: Filtered) -> None:
        """Beside the picture; shrunk where a browser would struggle."""
        before, after = result.before_image(), result.image()
        note = result.words()
        if max(before.size) > PAGE:
            before.thumbnail((PAGE, PAGE), Resampling.LANCZOS)
            after = after.resize(before.size, Resampling.LANCZOS)
            note += f", shown at {before.width} x {before.height}"
        path = self._free(PurePath(str(result.path)).name, ".compare.html")
        page = compare_page(before, after, title=PurePath(result.source).name, note=note)
        write_whole(path, page.encode(errors="backslashreplace"))

    def _free(self, source: str, suffix: str) -> Path:
        """Where a result goes: the source's name, with -2, -3 ... behind it where another result of this run has it.

        Raises:
            InputError: Something is there already.
        """
        stem = stem_of(source)
        name = ""
        while not name or name in self._own:  # by another stem: the second a.png would be called as a-2.png is
            self._taken[stem + suffix] += 1
            number = self._taken[stem + suffix]
            name = f"{stem}{f'-{number}' if number > 1 else ''}{suffix}"
        path = self.folder / name
        if path.exists() and not (self.overwrite and self._may_replace(path, source, suffix)):
            raise _there(path, self.overwrite)
        self._own.add(name)
        return path

    def _may_replace(self, path: Path, source: str, suffix: str) -> bool:
        """Whether what is there is no other input: among inputs, the result of a.bmp may meet an a.png of theirs."""
        is_result = suffix.count(".") == 1  # sheets and pages are called as no input is
        return not (self._in_place and is_result) or (Path(source).exists() and path.samefile(source))


def _suffix(source: str) -> str:
    return PurePath(source.partition("?")[0]).suffix


def _there(path: Path, overwrite: bool) -> InputError:
    ways = "another --out keeps it" if overwrite else "--overwrite replaces it, another --out keeps it"
    return InputError(f"{path} is there already", hint=ways)


def _sheet(pipe: FilterPipeline, raster: Raster, source: str) -> Image:
    """Rows of one sigma_s, columns of one sigma_r, the source at the head of each row."""
    settings = pipe.settings
    spatial = SIGMAS_S if settings.sigma_s is None else (settings.sigma_s,)
    contrast = SIGMAS_R if settings.sigma_r is None else (settings.sigma_r,)
    images, captions = [], []
    for sigma_s in spatial:
        for sigma_r in (None, *contrast):
            if sigma_r is None:
                images.append(pipe.filtered(raster, source).before_image())
                captions.append(f"{PurePath(source).name}\nas it is")
                continue
            tried = FilterPipeline(
                replace(settings, sigma_s=sigma_s, sigma_r=sigma_r), device=str(pipe.device), backend=pipe.model.backend
            )
            images.append(tried.filtered(raster, source).image())
            captions.append(f"sigma_s {sigma_s:g}, sigma_r {sigma_r:g}\n{settings.apply or 'filter'}")
    return contact_sheet([image.convert("RGB") for image in images], captions, columns=len(contrast) + 1, side=PREVIEW)
