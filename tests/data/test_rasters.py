"""Pictures at their own depth: what comes back, what is kept, what is refused."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from zoo.data.radiance import read_radiance, write_radiance
from zoo.data.rasters import Raster, read_raster, suffix_for, write_raster
from zoo.errors import InputError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def values(seed, *shape, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.uniform(0, 1, shape).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def saved(image, form="PNG", **options):
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    alpha=st.booleans(),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    profile=st.sampled_from([None, SRGB]),
)
def test_png_keeps_everything(tmp_path_factory, height, width, channels, alpha, dtype, profile):
    path = tmp_path_factory.mktemp("png") / "a.png"
    written = Raster(
        values(0, height, width, channels, dtype=dtype),
        values(1, height, width, dtype=dtype) if alpha else None,
        profile,
    )
    write_raster(path, written)
    read = read_raster(path)
    np.testing.assert_array_equal(read.pixels, written.pixels)
    assert read.pixels.dtype == dtype
    assert read.profile == profile
    assert (read.alpha is None) == (written.alpha is None)
    if alpha:
        np.testing.assert_array_equal(read.alpha, written.alpha)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("alpha", [False, True])
def test_exr_keeps_everything(tmp_path, alpha):
    pytest.importorskip("OpenEXR")
    for channels in (1, 3):
        pixels = values(2, 5, 7, channels, dtype=np.float32) * 1000 - 1
        written = Raster(pixels, values(3, 5, 7, dtype=np.float32) if alpha else None, kind="exr")
        write_raster(tmp_path / "a.exr", written)
        read = read_raster(tmp_path / "a.exr")
        np.testing.assert_array_equal(read.pixels, pixels)
        assert (read.alpha is not None) == alpha
        assert read.is_linear


@given(height=st.integers(1, 5), width=st.integers(1, 40), exponent=st.integers(-20, 20))
def test_radiance_keeps_eight_bits_of_each_value(height, width, exponent):
    pixels = values(4, height, width, 3, dtype=np.float32) * np.float32(2.0**exponent)
    held = io.BytesIO()
    write_radiance(held, pixels)
    held.seek(0)
    error = np.abs(read_radiance(held, "it") - pixels)
    assert (error <= pixels.max(2, keepdims=True) / 128).all()  # the last of 8 bits under the largest one's exponent


def coded(pixels):
    """A Radiance file coded in runs, by hand: every channel of a row in one of two ways."""
    height, width = pixels.shape[:2]
    body = b""
    for row in pixels:
        body += bytes([2, 2, width >> 8, width & 255])
        for channel in row.T:
            at = 0
            while at < width:
                run = next((i for i in range(1, width - at) if channel[at + i] != channel[at]), width - at)
                run = min(run, 127)
                body += bytes([128 + run, channel[at]]) if run > 2 else bytes([1, channel[at]])
                at += run if run > 2 else 1
    return b"#?RADIANCE\n# made here\nFORMAT=32-bit_rle_rgbe\n\n" + f"-Y {height} +X {width}\n".encode() + body


def test_radiance_in_runs():
    packed = np.repeat(values(5, 4, 10, 4), 30, axis=1)
    packed[:, 100:, :3] = 7
    read = read_raster(coded(packed)).pixels
    expected = packed[..., :3] * np.exp2(packed[..., 3:].astype(np.float64) - 136)
    np.testing.assert_allclose(read, np.where(packed[..., 3:] > 0, expected, 0), rtol=1e-6)


def test_radiance_oldest_runs_and_turned_rows():
    head = b"#?RGBE\n\n"
    pixel, again = bytes([10, 20, 30, 129]), bytes([1, 1, 1, 3])
    read = read_raster(head + b"-Y 1 +X 5\n" + pixel + again + bytes([50, 0, 0, 129])).pixels
    np.testing.assert_allclose(read[0, :, 0] * 128, [10, 10, 10, 10, 50])
    rows = b"".join(bytes([i, 0, 0, 136]) for i in range(1, 7))
    for size, expected in (
        (b"-Y 2 +X 3\n", [[1, 2, 3], [4, 5, 6]]),
        (b"+Y 2 +X 3\n", [[4, 5, 6], [1, 2, 3]]),
        (b"-Y 2 -X 3\n", [[3, 2, 1], [6, 5, 4]]),
        (b"+X 2 -Y 3\n", [[1, 4], [2, 5], [3, 6]]),
    ):
        assert read_raster(head + size + rows).pixels[..., 0].tolist() == expected


def test_colour_spaces_become_grey_or_rgb(tmp_path):
    rgb = Image.fromarray(values(6, 8, 9, 3))
    grey = rgb.convert("L")
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    for data, channels, has_alpha in (
        (saved(grey), 1, False),
        (saved(rgb.convert("1")), 1, False),
        (saved(grey.convert("LA")), 1, True),
        (saved(rgb.convert("RGBA")), 3, True),
        (saved(palette), 3, False),
        (saved(palette, transparency=0), 3, True),
        (saved(rgb.convert("CMYK"), "TIFF"), 3, False),
        (saved(rgb.convert("CMYK"), "JPEG"), 3, False),
        (saved(rgb.convert("YCbCr"), "TIFF"), 3, False),
        (saved(rgb, "GIF"), 3, False),
    ):
        read = read_raster(data)
        assert read.pixels.shape == (8, 9, channels)
        assert (read.alpha is not None) == has_alpha
    assert np.abs(read_raster(saved(rgb.convert("CMYK"), "TIFF")).pixels.astype(int) - np.asarray(rgb)).max() <= 1


def test_float_grey_and_integers_of_32_bits():
    deep = values(7, 4, 4, dtype=np.float32)
    np.testing.assert_array_equal(read_raster(saved(Image.fromarray(deep), "TIFF")).pixels[..., 0], deep)
    with pytest.raises(InputError, match="32-bit integers"):
        read_raster(saved(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_colours_and_transparency(orientation):
    whole = values(8, 3, 5, 4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(whole), exif=exif)
    from PIL import ImageOps

    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    read = read_raster(data)
    np.testing.assert_array_equal(np.dstack([read.pixels, read.alpha]), upright)


def test_a_profile_that_no_longer_fits_is_left_out():
    rgb = Image.fromarray(values(9, 6, 6, 3))
    assert read_raster(saved(rgb, "JPEG", icc_profile=SRGB)).profile == SRGB
    assert read_raster(saved(rgb.convert("CMYK"), "TIFF", icc_profile=SRGB)).profile is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"#?RADIANCE\n", "header"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_xyze\n\n-Y 1 +X 1\nabcd", "XYZ"),
        (b"#?RADIANCE\n\nlarge\n", "picture size"),
        (b"#?RADIANCE\n\n-Y 4 +X 4\nabcd", "within its pixels"),
        (b"#?RADIANCE\n\n-Y 4 +X 9\n" + bytes([2, 2, 0, 9, 255, 0]), "within its pixels"),
        (b"#?RADIANCE\n\n-Y 99999 +X 99999\n", "limit"),
        (b"#?RADIANCE\n\n-Y 0 +X 4\n", "0 pixels"),
        (b"\x76\x2f\x31\x01 and nothing", "damaged"),
        (b"words", "text"),
    ],
    ids=str,
)
def test_files_that_are_none(data, said):
    if data.startswith(b"\x76"):
        pytest.importorskip("OpenEXR")
    with pytest.raises(InputError, match=said) as caught:
        read_raster(data, name="it")
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_cut_picture():
    data = saved(Image.fromarray(values(10, 64, 64, 3)))
    with pytest.raises(InputError, match="damaged"):
        read_raster(data[: len(data) // 2])


def test_file_types():
    rgb, deep = values(11, 2, 2, 3), values(12, 2, 2, 3, dtype=np.uint16)
    assert suffix_for(Raster(rgb), ".JPG") == ".JPG"
    assert suffix_for(Raster(rgb, rgb[..., 0]), ".jpg") == ".png"
    assert suffix_for(Raster(deep), ".jpg") == ".png"
    assert suffix_for(Raster(rgb), ".webp") == ".png"
    assert suffix_for(Raster(values(0, 2, 2, 3, dtype=np.float32), kind="hdr"), ".pic") == ".hdr"


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        write_raster(tmp_path / "nowhere" / "a.png", Raster(values(13, 2, 2, 3)))
    with pytest.raises(TypeError):
        write_raster(tmp_path / "a.png", Raster(values(13, 2, 2, 3, dtype=np.float32)))
    assert list(tmp_path.iterdir()) == []
