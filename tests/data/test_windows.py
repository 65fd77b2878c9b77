"""Windows of many videos: the same with any number of threads, bad files in their places, none left behind."""

import threading
import time

import numpy as np
import pytest

av = pytest.importorskip("av")

from tests.films import write_people, write_plain  # noqa: E402 - behind the skip
from zoo.data.windows import VIDEOS, Clip, batches_of_all, clips_of, clips_of_all  # noqa: E402
from zoo.errors import InputError  # noqa: E402
from zoo.registry.card import Input  # noqa: E402

INPUT = Input(size=(3, 32, 32), crop_pct=1.0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    paths = [str(write_people(folder / f"{seed}.mp4", seed, 3.0)) for seed in range(4)]
    (folder / "bad.mp4").write_text("no video")
    return [*paths[:2], str(folder / "bad.mp4"), *paths[2:]]


def test_a_window_has_the_frames_of_its_moments(videos):
    first, *rest = clips_of(videos[0], INPUT, 4, 1.0, 0.5)
    assert [round(clip.window.start, 3) for clip in (first, *rest)] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert first.pixels.shape == (4, 32, 32, 3)
    assert first.count == 4
    np.testing.assert_allclose(first.times, [0.125, 0.375, 0.625, 0.875], atol=0.126)  # a frame each eighth
    whole = list(clips_of(videos[0], INPUT, 4, float("inf"), float("inf")))
    assert len(whole) == 1
    assert whole[0].window.end == pytest.approx(3.0, abs=0.01)


def test_a_video_of_one_frame_fills_its_clip_with_it(tmp_path):
    (clip,) = clips_of(str(write_plain(tmp_path / "one.mp4", [0.0])), INPUT, 4, 10.0, 5.0)
    assert clip.count == 1
    assert (clip.pixels == clip.pixels[0]).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_nothing(videos, workers):
    alone = list(clips_of_all(videos, INPUT, 4, 1.0, 1.0, 0))
    together = list(clips_of_all(videos, INPUT, 4, 1.0, 1.0, workers))
    assert [number for number, _ in together] == [number for number, _ in alone]
    for (_, a), (_, b) in zip(alone, together, strict=True):
        assert type(a) is type(b)
        if isinstance(a, Clip):
            np.testing.assert_array_equal(a.pixels, b.pixels)
    faults = [(number, clip) for number, clip in alone if isinstance(clip, InputError)]
    assert [number for number, _ in faults] == [2]
    assert "bad.mp4" in faults[0][1].message


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_everything_in_order_and_no_more_than_their_size(videos, workers):
    alone = list(clips_of_all(videos, INPUT, 4, 1.0, 1.0, 0))
    batches = list(batches_of_all(videos, INPUT, 4, 1.0, 1.0, workers, 5))
    assert [number for batch in batches for number, _ in batch] == [number for number, _ in alone]
    sizes = [sum(isinstance(clip, Clip) for _, clip in batch) for batch in batches]
    assert sum(sizes) == 12
    assert max(sizes) <= 5
    if not workers:
        assert sizes == [5, 5, 2]


class Gated(list):
    """Paths of which the second is not told before the gate opens."""

    def __init__(self, paths):
        super().__init__(paths)
        self.gate = threading.Event()

    def __getitem__(self, number):
        if number == 1:
            self.gate.wait(30)
        return super().__getitem__(number)


def test_a_batch_does_not_wait_for_what_is_not_decoded(videos):
    paths = Gated(videos[:2])
    batches = batches_of_all(paths, INPUT, 4, 1.0, 1.0, 1, 99)
    first = next(batches)
    assert {number for number, _ in first} == {0}
    paths.gate.set()
    assert sum(isinstance(clip, Clip) for batch in (first, *batches) for _, clip in batch) == 6


def test_who_stops_taking_leaves_no_thread_behind(videos):
    clips = clips_of_all(videos * 5, INPUT, 4, 0.5, 0.25, 2)
    next(clips)
    clips.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")] == []


class Asked(list):
    """Paths that tell how many of them were asked for."""

    count = 0

    def __getitem__(self, number):
        self.count = max(self.count, number + 1)
        return super().__getitem__(number)


def test_short_videos_are_decoded_a_whole_batch_ahead(videos):
    paths = Asked(videos[:2] * 20)
    clips = clips_of_all(paths, INPUT, 4, float("inf"), float("inf"), 1)
    next(clips)
    latest = time.monotonic() + 30
    while paths.count < VIDEOS and time.monotonic() < latest:
        time.sleep(0.01)
    assert VIDEOS <= paths.count <= VIDEOS + 2  # and no further: one more is asked for when the first one was taken
    clips.close()


def test_a_cut_video_keeps_its_beginning(tmp_path):
    whole = write_people(tmp_path / "a.mkv", 0, 6.0)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    *clips, last = clips_of(str(cut), INPUT, 4, 1.0, 1.0)
    assert isinstance(last, InputError)
    assert "breaks off" in last.message
    assert clips
    assert all(isinstance(clip, Clip) for clip in clips)
