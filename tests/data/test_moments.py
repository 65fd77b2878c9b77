"""Frames by time: timelines of steady, uneven and broken videos, windows on them, moments in windows."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

av = pytest.importorskip("av")

from tests.films import write_plain, write_sound  # noqa: E402 - behind the skip
from zoo.data.moments import Window, cut_windows, frames_at, moments, read_timeline  # noqa: E402
from zoo.data.video import Frame, VideoReader  # noqa: E402
from zoo.errors import InputError  # noqa: E402


def number(frame: Frame) -> int:
    """Which frame of `write_plain` it is."""
    return round((float(frame.pixels.mean()) - 16) / 4)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_uneven_times_are_told_without_decoding_and_found_again(tmp_path, suffix):
    times = [0.0, 0.04, 0.5, 0.54, 2.0, 2.04, 2.5, 4.0]
    line = read_timeline(write_plain(tmp_path / f"a.{suffix}", times))
    assert line.times.tolist() == pytest.approx(times, abs=0.001)  # Matroska counts milliseconds
    assert line.places([0.0, 0.3, 0.5, 1.9, 3.0, 99.0]).tolist() == [0, 1, 2, 3, 6, 7]
    found = list(frames_at(line, [0, 3, 4, 7]))
    assert [number(frame) for frame in found] == [0, 3, 4, 7]
    assert [frame.time for frame in found] == pytest.approx([times[i] for i in (0, 3, 4, 7)], abs=0.001)


def test_any_choice_of_frames_equals_reading_all_of_them(tmp_path):
    path = tmp_path / "keys.mp4"
    with av.open(str(path), "w") as container:  # a key frame every five, two B-frames between others
        stream = container.add_stream("libx264", rate=25, options={"g": "5", "bf": "2", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(40):
            pixels = np.full((48, 64, 3), 16 + 4 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    line = read_timeline(path)
    assert len(line.times) == 40
    assert line.is_key.sum() == 8
    with VideoReader(path) as reader:
        everything = list(reader)
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 40):
        places = np.sort(rng.choice(40, count, replace=False)).tolist()
        for place, frame in zip(places, frames_at(line, places), strict=True):
            np.testing.assert_array_equal(frame.pixels, everything[place].pixels)
            assert frame.time == pytest.approx(everything[place].time)


@pytest.mark.parametrize(("size", "count"), [((48, 64), 1), ((47, 63), 3), ((48, 64), 2)])
def test_short_and_odd_videos(tmp_path, size, count):
    line = read_timeline(write_plain(tmp_path / "a.mp4", [i / 25 for i in range(count)], *size))
    assert line.end == pytest.approx(count / 25, abs=1e-3)
    assert len(list(frames_at(line, range(count)))) == count
    assert line.places(moments(Window(0, line.end), 8)).max() == count - 1


@pytest.mark.parametrize("turn", [90, -90])
def test_frames_are_upright(tmp_path, turn):
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(turn)
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (found,) = frames_at(read_timeline(path), [0])
    assert found.pixels.shape == (64, 48, 3)


def test_a_cut_file_gives_what_is_there_and_then_says_so(tmp_path):
    whole = write_plain(tmp_path / "a.mkv", [i / 25 for i in range(60)])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    line = read_timeline(cut)
    assert line.is_cut
    assert not read_timeline(whole).is_cut
    assert [number(frame) for frame in frames_at(line, [0, 5])] == [0, 5]


def test_what_comes_before_damage_is_read(tmp_path):
    whole = write_plain(tmp_path / "a.mkv", [i / 25 for i in range(60)])
    content = bytearray(whole.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    (tmp_path / "hurt.mkv").write_bytes(content)
    line = read_timeline(tmp_path / "hurt.mkv")
    assert line.is_cut
    first, last = frames_at(line, [0, len(line.times) - 1])
    assert number(first) == 0
    assert number(last) > 0


def test_a_file_without_an_end_is_refused(tmp_path):
    path = write_plain(tmp_path / "a.mkv", [0.0, 1.0, 8 * 86_400.0])
    with pytest.raises(InputError, match="more than a week"):
        read_timeline(path)


def test_a_video_that_is_gone_meanwhile(tmp_path):
    path = write_plain(tmp_path / "a.mp4", [0.0, 0.04])
    line = read_timeline(path)
    path.unlink()
    (error,) = frames_at(line, [0, 1])
    assert isinstance(error, InputError)


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    write_sound(tmp_path / "sound.mp4", av)
    for name, said in (("text", "no video"), ("empty", "no video"), ("none", "no file"), ("sound", "no picture")):
        with pytest.raises(InputError, match=said) as caught:
            read_timeline(tmp_path / f"{name}.mp4")
        assert "\n" not in caught.value.message
    with pytest.raises(InputError, match="no file"):
        read_timeline(tmp_path)


@given(length=st.floats(0.05, 100), window=st.floats(0.1, 30), share=st.floats(0.1, 1.0))
def test_windows_cover_a_video_and_stay_in_it(length, window, share):
    found = cut_windows(length, window, share * window)
    assert found[0].start == 0
    assert found[-1].end == pytest.approx(length)
    for before, after in itertools.pairwise(found):
        assert before.start < after.start <= before.end + 1e-9
    for part in found:
        assert 0 < part.end - part.start <= 1.5 * window + 1e-6
    assert all(part.end - part.start >= 0.5 * window - 1e-6 for part in found[1:])


def test_windows_of_a_whole_video_and_with_gaps():
    assert cut_windows(7.0, float("inf"), float("inf")) == [Window(0.0, 7.0)]
    assert cut_windows(10.0, 2.0, 4.0) == [Window(0.0, 2.0), Window(4.0, 6.0), Window(8.0, 10.0)]


@given(start=st.floats(0, 50), length=st.floats(0.1, 50), count=st.integers(1, 12), seed=st.integers(0, 99))
def test_moments_are_one_of_each_equal_part(start, length, count, seed):
    part = Window(start, start + length)
    edges = np.linspace(part.start, part.end, count + 1)
    for rng in (None, np.random.default_rng(seed)):
        found = moments(part, count, rng)
        assert (found >= edges[:-1] - 1e-9).all()
        assert (found <= edges[1:] + 1e-9).all()
    np.testing.assert_allclose(moments(part, count), (edges[:-1] + edges[1:]) / 2)
