"""The filter as people call it: arrays, tensors, pictures, folders, videos."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import zoo
from zoo.data.rasters import Raster, read_raster, write_raster
from zoo.errors import InputError, UsageError
from zoo.models.pyramid_texture import PyramidTextureFilter
from zoo.results.filtered import Filtered
from zoo.tasks.filter import filter_pipeline, texture_filter
from zoo.tasks.filter_files import FilteredFiles

FULL = {np.uint8: 255, np.uint16: 65535}


def image(seed, *shape, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    return (rng.uniform(0, 1, shape) * FULL.get(dtype, 1)).astype(dtype)


# arrays and tensors


@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    channels=st.sampled_from([None, 1, 2, 3, 4]),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float16, np.float32, np.float64]),
)
def test_arrays_come_back_as_they_came(size, channels, dtype):
    x = image(0, *size, *([] if channels is None else [channels]), dtype=dtype)
    before = x.copy()
    y = zoo.texture_filter(x)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    np.testing.assert_array_equal(x, before)
    if channels in (2, 4):
        np.testing.assert_array_equal(y[..., -1], x[..., -1])  # transparency
    colours = x if channels is None else x[..., : 1 if channels < 3 else 3]
    planes = torch.from_numpy(np.moveaxis(np.atleast_3d(colours), 2, 0) / np.float64(FULL.get(dtype, 1))).unsqueeze(0)
    exact = np.moveaxis(PyramidTextureFilter()(planes)[0].numpy(), 0, 2)
    found = np.atleast_3d(y)[..., : exact.shape[2]] / np.float64(FULL.get(dtype, 1))
    # float32 arithmetic, and half a step of the type
    step = 0.5 / FULL[dtype] if dtype in FULL else {np.float16: 2.0**-11}.get(dtype, 0)
    np.testing.assert_allclose(found, np.clip(exact, 0, 1) if dtype in FULL else exact, rtol=0, atol=1e-4 + step)


@given(
    shape=st.sampled_from([(9, 8), (1, 9, 8), (3, 9, 8), (4, 9, 8), (2, 3, 9, 8), (2, 1, 9, 8), (1, 2, 9, 8)]),
    dtype=st.sampled_from([torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_tensors_come_back_as_they_came(shape, dtype):
    x = torch.from_numpy(image(1, *shape, dtype=np.float64))
    x = (x * 255).to(torch.uint8) if dtype == torch.uint8 else x.to(dtype)
    y = texture_filter(x)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    if len(shape) > 2 and shape[-3] in (2, 4):
        assert torch.equal(y[..., -1, :, :], x[..., -1, :, :])


def test_a_tensor_and_an_array_give_the_same():
    x = image(2, 20, 24, 3)
    y = texture_filter(torch.from_numpy(x).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(y, texture_filter(x))


def test_views_and_read_only_arrays():
    x = image(3, 40, 44, 3)
    grey = image(3, 8, 9, dtype=np.float32)
    for array in (x, grey):
        array.setflags(write=False)
    assert texture_filter(grey).shape == (8, 9)
    np.testing.assert_array_equal(texture_filter(x[::-2, 3:][..., ::-1]), texture_filter(x[::-2, 3:][..., ::-1].copy()))


def test_tensors_keep_their_gradient():
    x = torch.rand(1, 3, 12, 12, requires_grad=True)
    texture_filter(x, sigma_s=1.0, levels=3).sum().backward()
    assert float(x.grad.sum()) == pytest.approx(x.numel(), rel=1e-4)  # filter(x + c) = filter(x) + c


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.zeros((0, 4)), "shape"),
        (np.zeros(4), "shape"),
        (np.zeros((4, 4, 5)), "shape"),
        (np.zeros((4, 4), dtype=np.int32), "int32"),
        (np.zeros((4, 4), dtype=bool), "bool"),
        (np.array([[0.0, np.nan], [np.inf, 1.0]]), r"not finite: 2, the first at \(0, 1\)"),
        (torch.zeros(0, 3, 4, 4), "shape"),
        (torch.zeros(5, 4, 4), "shape"),
        (torch.zeros(4, 4, dtype=torch.int64), "int64"),
        (torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), r"not finite: 1, the first at \(1, 1\)"),
    ],
    ids=str,
)
def test_images_that_are_none(bad, said):
    with pytest.raises(InputError, match=said) as caught:
        texture_filter(bad)
    assert caught.value.hint


@pytest.mark.parametrize(
    "wrong", [{"sigma_s": 0}, {"sigma_r": -1}, {"levels": 0}, {"scale": 2}, {"backend": "x"}], ids=str
)
def test_parameters_that_are_none(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        texture_filter(image(4, 4, 4), **wrong)


# pictures


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    Image.fromarray(image(5, 30, 40, 3)).save(root / "a.png")
    Image.fromarray(image(6, 30, 40, 3)).save(root / "b.jpg")
    (root / "c.png").write_text("no picture")
    return root


def test_a_pipeline_from_the_registry(folder):
    pipe = zoo.pipeline("pyramid_texture_filter", device="cpu")
    result = pipe(folder / "a.png")
    x = read_raster(folder / "a.png").pixels
    np.testing.assert_array_equal(result.pixels, texture_filter(x))
    np.testing.assert_array_equal(result.before, x)
    assert result.size == (40, 30)
    assert result.parameters["levels_used"] == 11
    good, bad, array, pillow = pipe([folder / "a.png", folder / "c.png", x, Image.fromarray(x).convert("RGBA")])
    assert isinstance(bad.error, InputError)
    np.testing.assert_array_equal(pillow.pixels, good.pixels)
    np.testing.assert_array_equal(array.pixels, good.pixels)
    with pytest.raises(InputError):
        pipe(folder / "c.png")
    with pytest.raises(InputError, match="a picture cannot be"):
        pipe(5)
    with pytest.raises(UsageError, match="made to filter"):
        zoo.pipeline("pyramid_texture_filter", task="embed")


@pytest.mark.parametrize("apply", ["enhance", "abstract", "tonemap", "halftone", "lowlight"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_applications_keep_depth_and_transparency(apply, dtype, channels):
    x = image(7, 12, 10, channels, dtype=dtype)
    result = filter_pipeline(apply=apply, device="cpu")(x)
    assert result.pixels.shape == (12, 10, 1 if channels < 3 else 3)
    assert result.pixels.dtype == dtype
    assert (result.alpha is not None) == (channels in (2, 4))


def test_linear_light(tmp_path):
    light = image(8, 20, 22, 3, dtype=np.float32) * 500
    write_raster(tmp_path / "a.hdr", Raster(light, kind="hdr"))
    plain = filter_pipeline(device="cpu", sigma_r=25.0)(tmp_path / "a.hdr")
    assert plain.is_linear
    assert plain.pixels.dtype == np.float32
    shown = filter_pipeline(device="cpu", apply="tonemap")(tmp_path / "a.hdr")
    assert shown.pixels.dtype == np.uint16
    assert not shown.is_linear
    pytest.importorskip("OpenEXR")
    write_raster(tmp_path / "b.exr", Raster(light, np.full((20, 22), 0.5, np.float32), kind="exr"))
    files = FilteredFiles(filter_pipeline(device="cpu", apply="tonemap"), tmp_path / "out")
    mapped = read_raster(files.add(str(tmp_path / "b.exr")).path)
    assert (mapped.alpha == 32768).all()
    assert mapped.pixels.dtype == np.uint16
    with pytest.raises(InputError, match="linear light"):
        filter_pipeline(device="cpu", apply="enhance")(tmp_path / "a.hdr")


def test_values_that_are_not_finite_can_be_clipped():
    x = image(9, 16, 16, 3, dtype=np.float32)
    x[2, 3, 1] = np.nan
    x[4] = np.inf
    with pytest.raises(InputError, match="not finite: 49"):
        filter_pipeline(device="cpu")(x)
    result = filter_pipeline(device="cpu", nan="clip")(x)
    assert np.isfinite(result.pixels).all()
    assert "clipped: 49" in result.note


def test_fast_says_how_near_it_is():
    result = filter_pipeline(device="cpu", fast=True)(image(10, 40, 40, 3) // 4 + 100)
    assert 20 < result.parameters["fast_psnr_db"] < 80
    assert "fast_psnr_db" not in filter_pipeline(device="cpu")(image(10, 8, 8, 3)).parameters


@pytest.mark.parametrize(
    "wrong",
    [
        {"apply": "dream"},
        {"strength": 2.0},
        {"apply": "enhance", "strength": -1.0},
        {"apply": "tonemap", "strength": 1.0},
        {"luma": True},
        {"apply": "enhance", "lines": False},
        {"nan": "ignore"},
        {"sigma_s": 0.0},
    ],
    ids=str,
)
def test_settings_that_contradict_themselves(wrong):
    with pytest.raises(UsageError) as caught:
        filter_pipeline(device="cpu", **wrong)
    assert caught.value.hint


def test_results_check_themselves():
    pixels = image(11, 4, 5, 3)
    with pytest.raises(ValueError, match="says its error"):
        Filtered("a")
    with pytest.raises(ValueError, match="pixels are"):
        Filtered("a", pixels[..., 0])
    with pytest.raises(ValueError, match="alpha"):
        Filtered("a", pixels, alpha=pixels)
    error = InputError("a: no such file", hint="look")
    assert Filtered("a", error=error).to_dict()["error"] == {
        "kind": "InputError",
        "message": "a: no such file",
        "hint": "look",
    }
    with pytest.raises(InputError):
        Filtered("a", error=error).draw()
    with pytest.raises(InputError, match="cannot be drawn"):
        Filtered("a", pixels).draw()


# files


def format_of(path):
    with Image.open(path) as opened:
        return opened.format


@pytest.fixture
def pipe():
    return filter_pipeline(device="cpu")


def test_files_keep_names_and_kinds(folder, pipe, tmp_path):
    files = FilteredFiles(pipe, tmp_path / "out")
    paths = [files.add(str(folder / name)).path for name in ("a.png", "b.jpg")]
    assert [path.rpartition("/")[2] for path in paths] == ["a.png", "b.jpg"]
    np.testing.assert_array_equal(read_raster(paths[0]).pixels, pipe(folder / "a.png").pixels)
    assert format_of(paths[1]) == "JPEG"
    bad = files.add(str(folder / "c.png"))
    assert bad.error
    Image.fromarray(image(12, 9, 9, dtype=np.float32)).save(folder / "d.tiff")
    grey = read_raster(files.add(str(folder / "d.tiff")).path)
    np.testing.assert_array_equal(grey.pixels, pipe(folder / "d.tiff").pixels)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.jpg", "d.tif"]


def test_one_name_from_two_folders(folder, pipe, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes((folder / "a.png").read_bytes())
    files = FilteredFiles(pipe, tmp_path / "out")
    paths = [files.add(str(root / "a.png")).path for root in (folder, other)]
    assert [path.rpartition("/")[2] for path in paths] == ["a.png", "a-2.png"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_result_takes_the_name_of_another(folder, pipe, tmp_path, overwrite):
    sources = [tmp_path / name for name in ("x/a.png", "y/a.png", "z/a-2.png", "z/a.jpg")]
    for source in sources:
        source.parent.mkdir(exist_ok=True)
        Image.fromarray(image(1, 9, 12, 3)).save(source)
    files = FilteredFiles(pipe, tmp_path / "out", overwrite=overwrite)
    results = [files.add(str(source), compare=True) for source in sources]
    assert not any(result.error for result in results)
    pages = {"a.compare.html", "a-2.compare.html", "a-2-2.compare.html", "a-3.compare.html"}
    pictures = {"a.png", "a-2.png", "a-2-2.png", "a.jpg"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == pages | pictures


def test_nothing_is_overwritten_unasked(folder, pipe, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("precious")
    refused = FilteredFiles(pipe, out).add(str(folder / "a.png"))
    assert "is there already" in refused.error.message
    assert (out / "a.png").read_text() == "precious"
    assert not FilteredFiles(pipe, out, overwrite=True).add(str(folder / "a.png")).error
    assert read_raster(out / "a.png").pixels.shape == (30, 40, 3)
    for source in (folder, folder / "a.png"):
        with pytest.raises(UsageError, match="is the folder of the input"):
            FilteredFiles(pipe, folder, inputs=[source])
    FilteredFiles(pipe, folder, inputs=[folder], overwrite=True)


def test_output_inside_the_input_is_not_filtered_again(folder, pipe):
    files = FilteredFiles(pipe, folder / "out", inputs=[folder])
    path = files.add(str(folder / "a.png")).path
    assert files.is_ours(path)
    assert not files.is_ours(str(folder / "a.png"))
    assert files.is_ours(str(folder / "out" / ".." / "out" / "a.png"))
    (folder.parent / "link").symlink_to(folder)
    assert files.is_ours(str(folder.parent / "link" / "out" / "a.png"))


def test_a_folder_that_cannot_be_made(pipe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made"):
        FilteredFiles(pipe, tmp_path / "file" / "out")


def test_preview_shows_a_grid(folder, pipe, tmp_path):
    files = FilteredFiles(pipe, tmp_path / "out")
    result = files.preview(str(folder / "a.png"))
    assert result.path.endswith("a.preview.png")
    everything = read_raster(result.path).pixels.shape
    fixed = FilteredFiles(filter_pipeline(device="cpu", sigma_s=4.0), tmp_path / "row").preview(str(folder / "a.png"))
    row = read_raster(fixed.path).pixels.shape
    assert row[1] == everything[1]
    assert row[0] < everything[0] / 2
    assert files.preview(str(folder / "c.png")).error


def test_video_is_filtered_frame_by_frame(tmp_path, pipe):
    pytest.importorskip("av")
    from fractions import Fraction

    from zoo.data.video import Frame, VideoReader, VideoWriter

    source = tmp_path / "a.mkv"
    frames = [image(20 + i, 32, 48, 3) for i in range(30)]
    with VideoWriter(source, (48, 32), Fraction(10)) as writer:
        for i, frame in enumerate(frames):
            writer.write(Frame(frame, i / 10))
    steps = []
    result = FilteredFiles(pipe, tmp_path / "out").add(str(source), step=lambda: steps.append(1), compare=True)
    assert result.frames == len(steps) == 30
    assert result.path.endswith("a.mkv")
    assert (tmp_path / "out" / "a.compare.html").exists()
    with VideoReader(source) as sent, VideoReader(result.path) as made:
        for one, other in zip(sent, made, strict=True):
            assert other.time == pytest.approx(one.time, abs=0.001)
            assert np.abs(other.pixels.astype(int) - texture_filter(one.pixels)).mean() < 4  # coded again
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    partial = FilteredFiles(pipe, tmp_path / "out").add(str(cut))
    assert "breaks off" in partial.error.message
    assert 0 < partial.frames < 30
    with VideoReader(partial.path) as made:
        assert sum(1 for _ in made) == partial.frames
