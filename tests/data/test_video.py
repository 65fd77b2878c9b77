"""Videos made here, read back: order, times, turns, sound, damage."""

from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av")

from zoo.data.video import Frame, VideoReader, VideoWriter, is_video  # noqa: E402 - behind the skip
from zoo.errors import InputError  # noqa: E402

RATE = Fraction(25)


def pictures(count, height=48, width=64):
    """Frames whose brightness says which they are, a lighter corner at the top left."""
    for i in range(count):
        frame = np.full((height, width, 3), 16 + 4 * i, np.uint8)
        frame[: height // 3, : width // 3] = 250
        yield frame


def write(path, count=20, height=48, width=64, times=None):
    with VideoWriter(path, (width, height), RATE) as writer:
        for i, pixels in enumerate(pictures(count, height, width)):
            writer.write(Frame(pixels, i / 25 if times is None else times[i]))
    return path


def with_sound(path, seconds=1, codec="aac"):
    """A video with a tone, straight from PyAV."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream(codec, rate=8000, layout="mono")
        for frame in pictures(25 * seconds):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        tone = np.sin(np.arange(8000 * seconds) / 3).astype(np.float32)
        form, size = ("fltp", 1024) if codec == "aac" else ("s16", 1152)
        tone = tone if form == "fltp" else (10_000 * tone).astype(np.int16)
        for at in range(0, len(tone) - size + 1, size):
            part = av.AudioFrame.from_ndarray(tone[None, at : at + size], format=form, layout="mono")
            part.sample_rate, part.pts = 8000, at
            container.mux(sound.encode(part))
        container.mux(video.encode())
        container.mux(sound.encode())
    return path


def packets(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize("size", [(48, 64), (47, 63)], ids=str)
def test_frames_come_back_in_order(tmp_path, size):
    path = write(tmp_path / "a.mp4", 20, *size)
    with VideoReader(path) as reader:
        assert reader.size == (64, 48)  # odd sides are filled up
        assert reader.rate == RATE
        assert reader.frames == 20
        frames = list(reader)
    assert [round(frame.time * 25) for frame in frames] == list(range(20))
    for frame, sent in zip(frames, pictures(20, *size), strict=True):
        part = frame.pixels[: size[0], : size[1]].astype(int) - sent
        assert np.abs(part).mean() < 3  # H.264 at quality 18, and limited range: two grey levels


def test_uneven_times_are_kept(tmp_path):
    times = [0.0, 0.04, 0.5, 0.54, 2.0]
    with VideoReader(write(tmp_path / "a.mkv", 5, times=times)) as reader:
        found = [frame.time for frame in reader]
    assert found == pytest.approx(times, abs=0.001)  # Matroska counts milliseconds


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_frames_are_upright(tmp_path, turn):
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(turn)
        for frame in pictures(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    with VideoReader(path) as reader:
        (first, *_) = reader
    expected = np.rot90(next(pictures(1)), turn // 90)
    assert first.pixels.shape == expected.shape
    assert np.abs(first.pixels.astype(int) - expected).mean() < 3


def test_sound_is_copied(tmp_path):
    source, target = with_sound(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    with VideoReader(source) as reader, VideoWriter(target, reader.size, reader.rate, sound_of=source) as writer:
        for frame in reader:
            writer.write(frame)
    copied, original = packets(target), packets(source)
    assert len(copied) >= len(original) - 1
    assert copied == original[: len(copied)]


@pytest.mark.parametrize("kind", ["damaged", "unknown"])
def test_sound_that_cannot_be_decoded_costs_itself_only(tmp_path, kind):
    source, target = with_sound(tmp_path / "a.mp4", 2, "flac"), tmp_path / "b.mp4"
    content = bytearray(source.read_bytes())
    if kind == "unknown":
        at = content.index(b"fLaC")
        content[at : at + 4] = b"xLaC"
    else:
        with av.open(str(source)) as container:
            places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
        for at, size in places[2:]:
            content[at : at + size] = b"\xff" * size
    source.write_bytes(content)
    with VideoReader(source) as reader, VideoWriter(target, reader.size, reader.rate, sound_of=source) as writer:
        for frame in reader:
            writer.write(frame)
    with VideoReader(target) as reader:
        assert sum(isinstance(frame, Frame) for frame in reader) == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_broken_tail_is_an_error_in_its_place(tmp_path):
    whole = write(tmp_path / "a.mkv", 60)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with VideoReader(cut) as reader:
        *frames, last = reader
    assert isinstance(last, InputError)
    assert "breaks off" in last.message
    assert frames
    assert all(isinstance(frame, Frame) for frame in frames)


def test_files_that_are_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    whole = write(tmp_path / "whole.mp4")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:400])
    for name, said in (("text", "no video"), ("empty", "no video"), ("cut", "no video"), ("none", "no such file")):
        with pytest.raises(InputError, match=said) as caught:
            VideoReader(tmp_path / f"{name}.mp4")
        assert "\n" not in caught.value.message
    with av.open(str(tmp_path / "sound.mka"), "w") as container:
        container.add_stream("aac", rate=8000, layout="mono")
        container.start_encoding()
    with pytest.raises(InputError, match=r"no picture|damaged"):
        VideoReader(tmp_path / "sound.mka")


def test_a_video_that_failed_is_not_there(tmp_path):
    def fail():
        with VideoWriter(tmp_path / "a.mp4", (64, 48), RATE) as writer:
            writer.write(Frame(next(pictures(1)), 0.0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="cannot be written"):
        VideoWriter(tmp_path / "nowhere" / "a.mp4", (64, 48), RATE)


def test_names_of_videos():
    assert is_video("a/B.MP4")
    assert not is_video("a.mp4.png")
