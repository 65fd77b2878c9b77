import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform

import zoo
from zoo.data.images import expand
from zoo.errors import InputError, UnknownName, UsageError
from zoo.registry.labels import label_names
from zoo.results.classification import Embedding
from zoo.tasks.decode import cores
from zoo.tasks.device import pick_device, pick_dtype
from zoo.tasks.draw import Drawings
from zoo.tasks.feature_file import feature_file

ARCH = "reste_resnet20_cifar"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(zoo.create_model(ARCH).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty pictures and, between them, two that are none."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(20):
        side = 32 if i % 2 else 40
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(root / f"{i:02d}.png")
    (root / "03-bad.png").write_text("no picture")
    (root / "19-bad.png").touch()
    return root


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return zoo.pipeline(ARCH, device="cpu", checkpoint_path=checkpoint, topk=3)


def test_one_picture_equals_the_model_by_hand(pipe, checkpoint, folder):
    path = folder / "00.png"
    result = pipe(path)
    card = zoo.card(ARCH)
    transform = create_transform(
        input_size=card.input.size,
        interpolation=card.input.interpolation,
        mean=card.input.mean,
        std=card.input.std,
        crop_pct=card.input.crop_pct,
    )
    model = zoo.create_model(ARCH, checkpoint_path=checkpoint).eval()
    with torch.inference_mode():
        scores, indices = model(transform(Image.open(path))[None]).softmax(1)[0].topk(3)
    assert result.indices.tolist() == indices.tolist()
    np.testing.assert_allclose(result.scores, scores, rtol=1e-4)  # another memory layout, another order of sums
    assert result.labels == tuple(label_names("cifar10")[i] for i in indices)
    assert result.size == (40, 40)
    assert result.source == str(path)


def test_paths_pictures_and_arrays_agree(pipe, folder):
    image = Image.open(folder / "01.png")
    answers = [pipe(folder / "01.png"), pipe(str(folder / "01.png")), pipe(image), pipe(np.asarray(image))]
    for answer in answers[1:]:
        assert np.array_equal(answer.scores, answers[0].scores)
    assert len(list(pipe(np.stack([np.asarray(image)] * 2)))) == 2


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 0), (64, 0), (7, 2)])
def test_a_stream_answers_all_in_order(checkpoint, folder, batch_size, workers):
    pipe = zoo.pipeline(ARCH, device="cpu", checkpoint_path=checkpoint, workers=workers)
    results = list(pipe(expand([folder]), batch_size=batch_size))
    assert [Path(result.source).name for result in results] == sorted(path.name for path in folder.iterdir())
    assert [Path(r.source).name for r in results if r.error] == ["03-bad.png", "19-bad.png"]
    for result in results[:3]:
        np.testing.assert_allclose(result.scores, pipe(result.source).scores, rtol=1e-4)


def test_a_stream_is_read_only_as_far_as_needed(pipe, folder):
    taken = 0

    def endless():
        nonlocal taken
        for path in itertools.cycle([folder / "00.png"]):
            taken += 1
            yield path

    results = pipe(endless(), batch_size=4)
    next(results)
    results.close()
    assert taken == 4


def test_workers_start_only_when_there_is_enough_to_do(checkpoint, folder):
    pipe = zoo.pipeline(ARCH, device="cpu", checkpoint_path=checkpoint, workers=None)
    paths = [folder / f"{i % 3:02d}.png" for i in range(300)]
    results = list(pipe(paths))
    assert [result.source for result in results] == [str(path) for path in paths]


def test_a_bad_picture_raises_when_it_is_the_only_one(pipe, folder):
    with pytest.raises(InputError, match="is text"):
        pipe(folder / "03-bad.png")
    with pytest.raises(InputError, match="is a folder"):
        pipe(folder)
    with pytest.raises(InputError, match="cannot be a int"):
        pipe(3)


def test_answers_that_are_not_finite_are_errors(checkpoint, folder):
    pipe = zoo.pipeline(ARCH, device="cpu", checkpoint_path=checkpoint)
    pipe.model.fc.bias.fill_(torch.nan)
    (result,) = pipe([folder / "00.png"])
    assert "not finite" in result.error.message


def test_probabilities_and_topk_beyond_the_classes(checkpoint, folder):
    pipe = zoo.pipeline(ARCH, device="cpu", checkpoint_path=checkpoint, topk=99, probabilities=True)
    result = pipe(folder / "00.png")
    assert len(result) == 10
    assert result.probabilities.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(result.probabilities[result.indices], result.scores)


def test_result_draws_its_picture(pipe, folder):
    assert pipe(folder / "00.png").draw().width > 400


def test_embedding_is_what_the_head_sees(pipe, checkpoint, folder):
    embed = zoo.pipeline(ARCH, task="embed", device="cpu", checkpoint_path=checkpoint)
    result = embed(folder / "00.png")
    assert result.vector.shape == (64,)
    scores = pipe.model.fc(torch.from_numpy(result.vector)).softmax(0).topk(3).values
    np.testing.assert_allclose(scores, pipe(folder / "00.png").scores, rtol=1e-4)


def test_bad_calls():
    with pytest.raises(UnknownName):
        zoo.pipeline("no_such_model")
    with pytest.raises(UsageError, match="nonsense"):
        pick_device("nonsense")
    with pytest.raises(UsageError, match="cuda:99"):
        pick_device("cuda:99")
    with pytest.raises(UsageError, match="int8"):
        pick_dtype("int8")
    with pytest.raises(UsageError, match="index of videos"):
        zoo.pipeline("tmvm_tiny")
    with pytest.raises(UsageError, match="cannot reid"):
        zoo.pipeline(ARCH, task="reid")
    with pytest.raises(UsageError, match="taught models are not explained"):
        zoo.pipeline("acl_lite0.ham10000", explain=True)
    with pytest.raises(UsageError, match=r"a\.zoo has its weights in it"):
        zoo.pipeline("a.zoo", checkpoint_path="b.safetensors")


# features on disk


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npy", ".jsonl"])
def test_features_come_back(tmp_path, checkpoint, folder, suffix):
    embed = zoo.pipeline(ARCH, task="embed", device="cpu", checkpoint_path=checkpoint)
    rows = [row for row in embed(expand([folder])) if not row.error]
    path = tmp_path / f"f{suffix}"
    path.write_text("what was there before")
    with feature_file(path) as write:
        for row in rows:
            write(row)
    sources, vectors = READERS[suffix](path)
    assert sources == [row.source for row in rows]
    np.testing.assert_array_equal(np.array(vectors, np.float32), np.stack([row.vector for row in rows]))
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, "f.sources.txt"}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npy", ".jsonl"])
def test_names_that_are_no_text_are_written(tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    with feature_file(path) as write:
        for source in ("a.png", "b\udcff.png"):
            write(Embedding(source, np.ones(3, np.float32)))
    if suffix == ".parquet":
        assert read_parquet(path)[0] == ["a.png", r"b\xff.png"]
    else:
        names = path.with_suffix(".sources.txt") if suffix == ".npy" else path
        assert b"b\xff.png" in names.read_bytes()


def read_csv(path):
    rows = list(csv.reader(path.read_text().splitlines()))[1:]
    return [row[0] for row in rows], [list(map(float, row[1:])) for row in rows]


def read_jsonl(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["source"] for row in rows], [row["vector"] for row in rows]


def read_parquet(path):
    table = pyarrow.parquet.read_table(path)
    return table["source"].to_pylist(), table["vector"].to_pylist()


READERS = {
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".npy": lambda path: (path.with_suffix(".sources.txt").read_text().splitlines(), np.load(path)),
}


def test_an_interrupted_feature_file_leaves_what_was_there(tmp_path, checkpoint, folder):
    embed = zoo.pipeline(ARCH, task="embed", device="cpu", checkpoint_path=checkpoint)
    path = tmp_path / "f.npy"
    path.write_text("before")
    row = embed(folder / "00.png")
    with pytest.raises(KeyboardInterrupt):
        write_and_stop(path, row)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def write_and_stop(path, row):
    with feature_file(path) as write:
        write(row)
        raise KeyboardInterrupt


def test_feature_files_that_cannot_be(tmp_path):
    for name, words in (("f.xyz", "no format .xyz"), ("f", "without a suffix"), ("no/f.csv", "cannot be written")):
        with pytest.raises(UsageError, match=words), feature_file(tmp_path / name):
            pass


def test_drawings_get_names_of_their_own(tmp_path, pipe, folder):
    (tmp_path / "00.png").write_text("mine")
    drawings = Drawings(tmp_path)
    result = pipe(folder / "00.png")
    assert drawings.add(result) is None
    assert drawings.add(result) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00-2.png", "00-3.png", "00.png"]
    assert (tmp_path / "00.png").read_text() == "mine"
    with Image.open(tmp_path / "00-3.png") as drawn:
        assert drawn.width > 400


def test_the_network_leaves_cores_to_the_processes_that_decode(checkpoint, folder):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(cores())
        pipe = zoo.pipeline(ARCH, device="cpu", checkpoint_path=checkpoint, workers=1)
        stream = pipe(sorted(folder.glob("*.png")), batch_size=2)
        next(stream)
        assert torch.get_num_threads() == max(1, cores() - 1)
        stream.close()
        assert torch.get_num_threads() == cores()
    finally:
        torch.set_num_threads(before)
