"""Videos a frame at a time: upright RGB with timestamps in, H.264 out, sound copied.

Needs PyAV (`zoo[video]`). Memory does not grow with the length of a video.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from zoo import settings
from zoo.errors import InputError, one_line
from zoo.extras import need

__all__ = [
    "SLACK",
    "VIDEO_SUFFIXES",
    "Frame",
    "VideoReader",
    "VideoWriter",
    "av_library",
    "damaged",
    "frame_times",
    "is_video",
    "promised",
    "upright",
]

VIDEO_SUFFIXES = frozenset([".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"])
TICKS = 90_000  # time stamps a second in what is written
BT709, LIMITED, HD = 1, 1, 720  # codes of H.264's colour matrix and range; untagged videos this high are BT.709
UNTAGGED = 2
FOR_BROWSERS = (".mp4", ".m4v", ".mov")  # their index goes to the front, so that they play while they load
PLAYED = ("aac", "mp3", "ac3", "eac3", "alac", "opus")  # sound that those hold as it is
SLACK = 0.5  # seconds that a whole video's last frame may begin before the end that its file promises


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        pixels: (H, W, 3) uint8, upright.
        time: Seconds from the video's beginning.
    """

    pixels: NDArray[np.uint8]
    time: float


def is_video(name: str) -> bool:
    """Whether a name ends like a video's."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


class VideoReader:
    """The frames of a video file, decoded as they are asked for.

    Iterating gives `Frame`s; where the file turns out to be damaged, an `InputError` is given in place of the rest. Use
    it in a `with`.

    Args:
        path: A video file.

    Attributes:
        size: Width and height, upright.
        rate: Frames a second, on average.
        frames: How many there are, as the file says; 0 where it does not.

    Raises:
        InputError: It cannot be opened, has no picture, or PyAV is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        av = av_library()
        self.path = str(path)
        try:
            self._container = av.open(self.path)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file", hint="check the path") from None
        except (av.FFmpegError, OSError, ValueError) as error:
            raise damaged(self.path, error) from error
        try:
            if not self._container.streams.video:
                raise InputError(f"{path} has no picture", hint="give a video")
            self._stream = self._container.streams.video[0]
            self.rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
            self.frames: int = self._stream.frames
            self._frames = self._decoded()
            self._first = next(self._frames, None)  # tells the rotation
            if isinstance(self._first, InputError):
                raise self._first
            if self._first is None:
                raise InputError(f"{path} has no frame", hint="give a video with content")
            height, width = self._first.pixels.shape[:2]
            self.size = width, height
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame | InputError]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._frames

    def _decoded(self) -> Iterator[Frame | InputError]:
        stream = self._stream
        context = stream.codec_context
        if context is None:
            raise damaged(self.path, ValueError("unknown codec"))
        if context.width * context.height > settings.max_pixels():
            yield InputError(f"{self.path} has frames of more pixels than the limit", hint="raise ZOO_MAX_PIXELS")
            return
        start, last = None, -1.0
        try:
            for frame in self._container.decode(stream):
                time = float(frame.pts * frame.time_base) if frame.pts is not None else last + 1 / float(self.rate)
                start = time if start is None else start
                last = time
                yield Frame(upright(frame), time - start)
        except (av_library().FFmpegError, OSError, ValueError) as error:
            yield damaged(self.path, error)
            return
        if start is not None and last - start + SLACK < promised(self._container, stream):
            yield InputError(f"{self.path} breaks off after {last - start:.1f} s", hint="fetch it again")


def promised(container: Any, stream: Any) -> float:
    """Seconds that an open file says it has; 0 where it does not say them of the pictures."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))  # Matroska
    if tag:
        return 3600 * float(tag[1]) + 60 * float(tag[2]) + float(tag[3])
    alone = len(container.streams) == 1
    return float(container.duration or 0) / 1e6 if alone else 0.0


def frame_times(path: str | Path) -> NDArray[np.float64]:
    """When each frame of a video is shown: (F,) seconds from its first one, rising; nothing is decoded for it.

    Raises:
        InputError: It cannot be opened, has no picture, or PyAV is not installed.
    """
    with VideoReader(path) as reader:
        rate = float(reader.rate)
    av = av_library()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            ticks = [packet.pts if packet.pts is not None else packet.dts for packet in packets]
            scale = float(stream.time_base)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise damaged(str(path), error) from error
    if not ticks:
        raise InputError(f"{path} has no picture", hint="give a video")
    if None in ticks:  # a stream that does not say; its average rate has to do
        return np.arange(len(ticks)) / rate
    times = np.sort(np.array(ticks, np.float64)) * scale
    return times - times[0]


def upright(frame: Any) -> NDArray[np.uint8]:
    """The RGB pixels of a frame of PyAV, turned as the file asks."""
    matrix = "ITU709" if frame.colorspace == UNTAGGED and frame.height >= HD else None
    pixels = frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


class VideoWriter:
    """An H.264 file (yuv420p, BT.709) that grows a frame at a time; sides that are odd are filled up to even ones.

    The file appears under its name when the writer is closed without an error. Use it in a `with`.

    Args:
        path: .mp4, .mov or .mkv.
        size: Width and height of the frames.
        rate: Frames a second, for players that ask.
        sound_of: A video whose first sound track is copied, as far as its frames reach; to AAC, where .mp4 or .mov does
            not take it as it is. What is damaged of it is left out.
        preset: x264's word for how long it looks for a smaller file.

    Raises:
        InputError: It cannot be written.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        rate: Fraction,
        *,
        sound_of: str | Path | None = None,
        preset: str = "medium",
    ) -> None:
        av = av_library()
        self.path = path
        self._part = path.with_name(f"{path.stem}.part{path.suffix}")
        self._sound = None
        self._packets: Iterator[Any] = iter(())
        for_browsers = {"movflags": "+faststart"} if path.suffix.lower() in FOR_BROWSERS else {}
        try:
            self._container = av.open(str(self._part), "w", container_options=for_browsers)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._fault(error) from None
        self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": preset})
        self._stream.width, self._stream.height = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        try:
            if sound_of is not None:
                self._open_sound(av, str(sound_of))
            self._container.start_encoding()
        except (av.FFmpegError, OSError) as error:
            self._close()
            raise self._fault(error) from None

    def _open_sound(self, av: Any, path: str) -> None:
        self._sound = source = av.open(path)
        sound = next(iter(source.streams.audio), None)
        if sound is None or sound.codec_context is None:  # none, or of a kind that FFmpeg does not know
            return
        if self.path.suffix.lower() not in FOR_BROWSERS or sound.codec_context.name in PLAYED:
            self._packets = self._copied(source, self._container.add_stream_from_template(sound))
        else:
            self._packets = self._encoded_again(source, self._container.add_stream("aac", rate=sound.rate))

    @staticmethod
    def _read(source: Any) -> Iterator[Any]:
        """Packets of the sound, up to where it is damaged."""
        try:
            yield from source.demux(source.streams.audio[0])
        except (av_library().FFmpegError, OSError):
            return

    @classmethod
    def _copied(cls, source: Any, stream: Any) -> Iterator[Any]:
        for packet in cls._read(source):
            if packet.dts is not None:
                packet.stream = stream
                yield packet

    @classmethod
    def _encoded_again(cls, source: Any, stream: Any) -> Iterator[Any]:
        for packet in cls._read(source):
            try:
                frames = packet.decode()
            except (av_library().FFmpegError, OSError):
                continue
            for frame in frames:
                yield from stream.encode(frame)
        yield from stream.encode(None)

    def write(self, frame: Frame) -> None:
        """Append a frame; times rise.

        Raises:
            InputError: It cannot be written.
        """
        av = av_library()
        height, width = frame.pixels.shape[:2]
        even = np.pad(frame.pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(even, format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
        picture.pts, picture.time_base = round(frame.time * TICKS), Fraction(1, TICKS)
        try:
            self._container.mux(self._stream.encode(picture))
            self._copy_sound(frame.time)
        except (av.FFmpegError, OSError) as error:
            raise self._fault(error) from None

    def _copy_sound(self, until: float) -> None:
        for packet in self._packets:
            time = float(packet.dts * packet.time_base)
            self._container.mux(packet)
            if time > until:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode())
                self._container.close()
                self._part.replace(self.path)
        except (av_library().FFmpegError, OSError) as error:
            raise self._fault(error) from None
        finally:
            self._close()

    def _close(self) -> None:
        """Let go of all files; one that is not whole is removed."""
        with suppress(av_library().FFmpegError, OSError):
            self._container.close()
        self._part.unlink(missing_ok=True)
        if self._sound is not None:
            self._sound.close()

    def _fault(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or one_line(error)
        return InputError(f"{self.path} cannot be written: {reason}", hint="check the folder")


def damaged(path: str, error: Exception) -> InputError:
    """What FFmpeg said of a file, in one line."""
    reason = getattr(error, "strerror", None) or one_line(error)
    return InputError(f"{path} is no video, or damaged: {reason}", hint="fetch or save it again")


def av_library() -> Any:
    """PyAV.

    Raises:
        InputError: It is not installed.
    """
    need("video", "a video", InputError)
    import av

    return av
