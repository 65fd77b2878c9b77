"""Indexes of videos: the same answers as in memory, growth, interruption, moments, explanations, other networks."""

import json
import multiprocessing
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

av = pytest.importorskip("av")

from tests.films import write_people, write_plain, write_sound  # noqa: E402 - behind the skip
from zoo.data.captions import Described  # noqa: E402
from zoo.data.clip_sources import DrawnClips, VideoClips  # noqa: E402
from zoo.data.video import VideoReader  # noqa: E402
from zoo.data.windows import clips_of  # noqa: E402
from zoo.data.zooclips import SPLITS, plan_clip  # noqa: E402
from zoo.errors import InputError, UsageError, WeightsUnavailable  # noqa: E402
from zoo.index.gallery import Gallery  # noqa: E402
from zoo.tasks.retrieve import clip_tensors, index_videos, peaks, place_of  # noqa: E402
from zoo.tasks.retrieve_eval import Exam, evaluate_retrieval, exam_of  # noqa: E402
from zoo.tasks.retrieve_search import VideoSearch, write_clip  # noqa: E402
from zoo.tasks.retrievers import open_retriever  # noqa: E402

SEEDS = SPLITS["test"][:6]


@pytest.fixture(scope="module")
def retriever():
    return open_retriever("tmvm_tiny", device="cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return [str(write_people(folder / f"{seed}.mp4", seed, 2.0, 8)) for seed in SEEDS]


@pytest.fixture(scope="module")
def index(tmp_path_factory, videos, retriever):
    folder = tmp_path_factory.mktemp("index") / "idx"
    done = index_videos(videos, folder, retriever, window=1.0, stride=0.5)
    assert (done.added, done.windows, done.unchanged, done.failed) == (6, 18, 0, [])
    return folder


def test_a_sentence_finds_its_video(tmp_path, videos, retriever):
    index_videos(videos, tmp_path / "idx", retriever, window=float("inf"), stride=float("inf"))
    search = VideoSearch(tmp_path / "idx", device="cpu")
    captions = [(text, video) for seed, video in zip(SEEDS, videos, strict=True) for text in plan_clip(seed).captions]
    found = search.texts([text for text, _ in captions], k=1)
    right = [Path(ranking[0].path) == Path(video) for ranking, (_, video) in zip(found, captions, strict=True)]
    assert np.mean(right) > 0.7  # of six videos; chance 1/6


def test_answers_are_those_of_a_search_in_memory(index, videos, retriever):
    text = "a person in red waves a hand"
    query = retriever.sentences([text]).vectors[0]
    scored = []
    for video in videos:
        clips = list(clips_of(video, retriever.input, retriever.frames, 1.0, 0.5))
        found = retriever.clips(*clip_tensors(clips))
        each = found.vectors.half().float() @ query  # (windows, K)
        for clip, scores, times in zip(clips, each, peaks(found.masks, clips), strict=True):
            k = int(scores.argmax())
            scored.append((float(scores[k]), video, clip.window.start, k, times[k]))
    scored.sort(reverse=True)
    (ranking,) = VideoSearch(index, device="cpu").texts([text], k=18, per_video=99)
    assert len(ranking) == ranking.searched == 18
    # batches of another size round otherwise, before float16
    assert [hit.score for hit in ranking] == pytest.approx([score for score, *_ in scored], abs=1e-3)
    best, (_, video, start, prototype, peak) = ranking[0], scored[0]
    assert (Path(best.path), best.start, best.prototype) == (Path(video), pytest.approx(start), prototype)
    assert best.peak == pytest.approx(peak)
    assert best.start <= best.peak <= best.end


def test_answers_of_one_video_and_scores_that_are_too_low(index):
    search, text = VideoSearch(index, device="cpu"), "a person in blue jumps up and down"
    one, two = search.texts([text], k=99)[0], search.texts([text], k=99, per_video=2)[0]
    assert len({hit.path for hit in one}) == len(one) == 6
    assert len(two) == 12
    limit = one[2].score
    assert len(search.texts([text], k=99, min_score=limit)[0]) == 3
    assert len(search.texts([text], k=2)[0]) == 2


def test_a_clip_finds_itself_first(index, videos):
    ranking = VideoSearch(index, device="cpu").like(videos[3], k=6)
    assert Path(ranking[0].path) == Path(videos[3])
    assert ranking.draw().width > 100
    assert ranking.picture().size == (64, 64)


def test_an_index_grows_forgets_and_follows_changes(tmp_path, videos, retriever):
    folder = tmp_path / "films"
    folder.mkdir()
    mine = [str(shutil.copy(video, folder)) for video in videos[:3]]
    index = tmp_path / "idx"
    options = {"window": 1.0, "stride": 1.0}
    assert index_videos(mine[:2], index, retriever, **options).added == 2
    again = index_videos(mine, index, retriever, **options)
    assert (again.added, again.unchanged) == (1, 2)
    shutil.copy(videos[4], mine[0])
    changed = index_videos(mine, index, retriever, **options)
    assert (changed.added, changed.unchanged) == (1, 2)
    Path(mine[1]).unlink()
    assert index_videos([mine[0], mine[2]], index, retriever, **options).removed == 0
    assert index_videos([mine[0], mine[2]], index, retriever, update=True, **options).removed == 1
    items = [item for _, item in Gallery.open(index).items()]
    assert sorted({place_of(item["path"], index).name for item in items}) == sorted(
        Path(m).name for m in (mine[0], mine[2])
    )
    assert len(items) == 4


def test_an_index_moves_with_its_videos(tmp_path, videos, retriever):
    before, after = tmp_path / "a", tmp_path / "b"
    before.mkdir()
    shutil.copy(videos[0], before / "x.mp4")
    index_videos([str(before / "x.mp4")], before / "idx", retriever)
    before.rename(after)
    (ranking,) = VideoSearch(after / "idx", device="cpu").texts(["a person in red"])
    assert Path(ranking[0].path) == after / "x.mp4"
    assert ranking[0].picture().size == (64, 64)


def test_an_interrupted_index_holds_whole_videos_and_goes_on(tmp_path, videos, retriever, monkeypatch):
    monkeypatch.setattr("zoo.tasks.retrieve.FLUSH_ITEMS", 1)
    seen = []

    def stop():
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_videos(videos, tmp_path / "idx", retriever, window=1.0, stride=1.0, report=stop)
    items = [item for _, item in Gallery.open(tmp_path / "idx").items()]
    assert {sum(item["path"] == other["path"] for other in items) for item in items} == {2}
    rest = index_videos(videos, tmp_path / "idx", retriever, window=1.0, stride=1.0)
    assert rest.unchanged >= 2
    assert rest.added + rest.unchanged == 6


def _index_alone(*arguments, **options):
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    index_videos(*arguments, **options)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="starts in an instant by a fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_an_index_that_is_killed_at_any_moment_ends_as_one_that_never_was(
    tmp_path, videos, retriever, index, monkeypatch
):
    monkeypatch.setattr("zoo.tasks.retrieve.FLUSH_ITEMS", 1)
    options = {"window": 1.0, "stride": 0.5, "workers": 0}
    start = time.monotonic()
    index_videos(videos, tmp_path / "other", retriever, **options)
    took = time.monotonic() - start
    rng = np.random.default_rng(0)
    for _ in range(6):
        arguments = (videos, tmp_path / "idx", retriever)
        writer = multiprocessing.get_context("fork").Process(target=_index_alone, args=arguments, kwargs=options)
        writer.start()
        writer.join(rng.uniform(0, took / 2))
        writer.kill()
        writer.join()
        if (tmp_path / "idx" / "gallery.json").exists():
            windows = Counter(item["path"] for _, item in Gallery.open(tmp_path / "idx").items())
            assert set(windows.values()) <= {3}  # whole videos
    index_videos(videos, tmp_path / "idx", retriever, **options)
    mine, theirs = Gallery.open(tmp_path / "idx"), Gallery.open(index)
    torch.testing.assert_close(mine.take(range(18)), theirs.take(range(18)), rtol=0, atol=2e-3)  # float16
    assert [item["sha1"] for _, item in mine.items()] == [item["sha1"] for _, item in theirs.items()]


def test_one_bad_file_costs_that_file(tmp_path, retriever):
    write_plain(tmp_path / "one.mp4", [0.0])
    write_plain(tmp_path / "odd.mp4", [0.0, 0.04, 0.08], 47, 63)
    whole = write_people(tmp_path / "long.mkv", 0, 6.0)
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty.mp4").touch()
    write_sound(tmp_path / "sound.mp4", av)
    paths = [str(path) for path in sorted(tmp_path.iterdir())] + [str(tmp_path / "none.mp4")]
    done = index_videos(paths, tmp_path / "idx", retriever, window=2.0, stride=2.0)
    assert done.added == 4  # the cut one up to where it breaks off
    assert len(done.failed) == 5
    assert all("\n" not in error.message for error in done.failed)
    assert json.dumps(done.to_dict())


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_threads_change_nothing(tmp_path, videos, retriever, index, workers):
    index_videos(videos, tmp_path / "idx", retriever, window=1.0, stride=0.5, batch=5, workers=workers)
    mine, theirs = Gallery.open(tmp_path / "idx"), Gallery.open(index)
    torch.testing.assert_close(mine.take(range(18)), theirs.take(range(18)), rtol=0, atol=2e-3)  # float16
    strip = [("start", "end", "peaks", "sha1")] * 2
    for (_, a), (_, b) in zip(mine.items(), theirs.items(), strict=True):
        assert [a[key] for key in strip[0]] == [b[key] for key in strip[1]]


def test_other_weights_preprocessing_or_windows_are_refused(tmp_path, videos, index, retriever):
    from safetensors.torch import load_file, save_file

    from zoo import settings

    state = load_file(settings.bundled_weights() / "tmvm_tiny.zooclips.safetensors")
    state["vid_proj.0.bias"] += 1
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsUnavailable, match="other weights") as caught:
        VideoSearch(index, weights=tmp_path / "other.safetensors", device="cpu")
    assert caught.value.exit_code == 3
    with pytest.raises(UsageError, match="settings"):
        index_videos(videos, index, retriever, window=3.0)
    with pytest.raises(UsageError, match="no gallery"):
        VideoSearch(tmp_path / "nowhere", device="cpu")


def test_queries_that_cannot_be_used_are_told(index, retriever):
    empty, strange, long, partly = VideoSearch(index, device="cpu").texts(
        ["  ", "xylophone 人", "a person in red " * 20, "a person in red on the moon"]
    )
    assert isinstance(empty.error, UsageError)
    assert isinstance(strange.error, InputError)
    assert "longer than 32" in long.note
    assert "%" in partly.note
    assert len(partly) == 5


def test_a_retriever_is_for_retrieval_and_has_weights():
    with pytest.raises(UsageError, match="classify"):
        open_retriever("reste_resnet20_cifar", device="cpu")
    with pytest.raises(WeightsUnavailable) as caught:
        open_retriever("tmvm_clip_vit_b32", device="cpu")
    assert "--weights" in caught.value.hint
    with pytest.raises(WeightsUnavailable, match="no file"):
        open_retriever("tmvm_tiny", weights=Path("nowhere.safetensors"), device="cpu")


def test_an_explanation_and_a_clip_of_a_hit(index, tmp_path):
    search = VideoSearch(index, device="cpu")
    hit = search.texts(["a person in green spins around"], k=1)[0][0]
    picture = search.explain(hit)
    assert picture.size == (64, 64)
    assert np.asarray(picture).std() > 0
    write_clip(hit, tmp_path / "clip.mp4")
    with VideoReader(tmp_path / "clip.mp4") as reader:
        frames = list(reader)
    assert len(frames) == 8
    assert frames[-1].time == pytest.approx(7 / 8, abs=0.01)
    gone = replace(hit, path=str(tmp_path / "gone.mp4"))
    with pytest.raises(InputError, match="no file"):
        search.explain(gone)
    with pytest.raises(InputError, match="no file"):
        write_clip(gone, tmp_path / "other.mp4")


def test_the_starter_finds_drawn_people_and_shuffled_captions_are_chance(retriever):
    exam = Exam.of(DrawnClips(SPLITS["test"][:60], 4, 64), protocol="sixty clips")
    found = evaluate_retrieval(retriever, exam)
    assert found.scores.text_to_video.r1 > 40
    assert sum(found.usage) == pytest.approx(1)
    assert json.dumps(found.to_dict())
    order = np.random.default_rng(0).permutation(len(exam.owner))
    shuffled = evaluate_retrieval(retriever, replace(exam, owner=tuple(np.array(exam.owner)[order].tolist())))
    assert shuffled.scores.text_to_video.mnr == pytest.approx(30.5, abs=6)  # three standard errors of 60 clips' mean


def test_protocols_say_what_they_count(tmp_path, videos, retriever):
    lines = [
        {"video": video, "captions": list(plan_clip(seed).captions)} for seed, video in zip(SEEDS, videos, strict=True)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    multi = exam_of(str(path), "test", retriever)
    assert len(multi.queries) == sum(len(line["captions"]) for line in lines)
    assert "every caption is a query" in multi.protocol
    joined = exam_of(str(path), "test", retriever, rules="paragraph")
    assert len(joined.queries) == 6
    with pytest.raises(UsageError, match="more than one caption"):
        exam_of(str(path), "test", retriever, rules="1ka")
    with pytest.raises(UsageError, match="no protocol"):
        exam_of(str(path), "test", retriever, rules="2ka")
    found = evaluate_retrieval(retriever, multi)
    assert found.scores.text_to_video.mnr < 2.5
    dual = evaluate_retrieval(retriever, multi, dual=True)
    assert dual.is_dual
    assert "dual" in json.dumps(dual.to_dict())


def test_clips_that_cannot_be_read_count_and_are_told(tmp_path, videos, retriever):
    described = (
        Described(videos[0], ("a person in red",)),
        Described(str(tmp_path / "none.mp4"), ("a person in blue",)),
    )
    found = evaluate_retrieval(retriever, Exam.of(VideoClips(described, retriever.input, 4)))
    assert len(found.failed) == 1
    assert found.scores.text_to_video.queries == 2
    with pytest.raises(InputError, match="no file"):
        evaluate_retrieval(retriever, Exam.of(VideoClips(described[1:], retriever.input, 4)))
