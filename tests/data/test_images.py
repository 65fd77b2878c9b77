"""Every kind of picture that is read, and every kind of file that is refused."""

import io
import os
import struct
import threading
import time
import warnings
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data import urls
from zoo.data.images import expand, from_array, read_picture
from zoo.errors import InputError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def pixels(source):
    return np.asarray(read_picture(source).image)


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


# good input


def test_plain_rgb_is_untouched(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    assert np.array_equal(pixels(path), PIXELS)
    assert np.array_equal(pixels(path.read_bytes()), PIXELS)
    assert read_picture(path).note is None


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a.transpose(1, 0, 2)[::-1, ::-1]),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_orientation(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS), exif=exif)
    assert np.array_equal(pixels(path), turn(PIXELS))


def test_palette(tmp_path):
    image = Image.fromarray(PIXELS).quantize(7)
    path = save(tmp_path / "a.png", image)
    assert np.array_equal(pixels(path), np.asarray(image.convert("RGB")))


def test_palette_with_transparency_is_white_behind(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.putpixel((0, 0), 0)
    path = save(tmp_path / "a.png", image, transparency=0)
    assert pixels(path)[0, 0].tolist() == [255, 255, 255]
    assert pixels(path)[1, 1].tolist() == [200, 0, 0]


def test_grey_and_bilevel(tmp_path):
    grey = PIXELS[:, :, 0]
    assert np.array_equal(pixels(save(tmp_path / "a.png", Image.fromarray(grey))), np.dstack([grey] * 3))
    assert pixels(save(tmp_path / "b.png", Image.new("1", (5, 5), 1))).min() == 255


def test_cmyk(tmp_path):
    path = save(tmp_path / "a.tif", Image.new("CMYK", (8, 8), (255, 0, 0, 0)))
    assert pixels(path)[0, 0].tolist() == [0, 255, 255]


def test_cmyk_jpeg(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    assert np.abs(pixels(path).astype(int) - [255, 0, 0]).max() <= 4  # JPEG


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 256 * 128, 65535]], np.uint16).repeat(4, 0)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(values))
    assert pixels(path)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floats_are_scaled(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32).repeat(3, 0)))
    assert pixels(path)[0, :, 0].tolist() == [0, 128, 255]
    path = save(tmp_path / "b.tif", Image.fromarray(np.array([[-100, 0, 100]], np.int32).repeat(3, 0)))
    assert pixels(path)[0, :, 0].tolist() == [0, 128, 255]


def test_alpha_is_composited_on_white(tmp_path):
    image = Image.new("RGBA", (8, 8), (100, 0, 0, 0))
    image.paste((100, 0, 0, 255), (0, 0, 4, 8))
    image.putpixel((7, 7), (0, 0, 0, 128))
    found = pixels(save(tmp_path / "a.png", image))
    assert found[0, 0].tolist() == [100, 0, 0]
    assert found[0, 7].tolist() == [255, 255, 255]
    assert abs(int(found[7, 7, 0]) - 127) <= 1  # half of black on white, rounded either way


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_an_animation_the_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 16), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    picture = read_picture(path)
    assert picture.note == "first frame of 3"
    assert picture.image.getpixel((3, 3)) == (250, 0, 0)


def test_broken_exif_does_not_matter(tmp_path):
    path = save(tmp_path / "a.jpg", Image.fromarray(PIXELS), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow speaks of it, we do not care
        assert read_picture(path).image.size == (32, 24)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_arrays(shape):
    array = np.full(shape, 255, np.uint8)
    assert np.asarray(from_array(array, "x").image).shape == (4, 5, 3)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 5, 3), np.float32), np.zeros((3, 40, 50), np.uint8), np.zeros((0, 5), np.uint8)]
)
def test_other_arrays_are_refused(array):
    with pytest.raises(InputError, match="x is"):
        from_array(array, "x")


# bad input


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "save it as JPEG"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2mp41", "is a video"),
        (b"RIFF\x24\0\0\0AVI LIST\0", "is a video"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\1", "is a video"),
        (b"%PDF-1.7\n\0\xff", "is no picture"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, head, says):
    (tmp_path / "file.jpg").write_bytes(head + bytes(64))
    with pytest.raises(InputError, match=says):
        read_picture(str(tmp_path / "file.jpg"))


def refused(source, *words, hint=True):
    with pytest.raises(InputError) as caught:
        read_picture(source)
    message = caught.value.message
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert bool(caught.value.hint) == hint
    return caught.value


def test_missing_file_with_the_nearest_name(tmp_path):
    save(tmp_path / "picture.png", Image.new("RGB", (4, 4)))
    error = refused(tmp_path / "pictures.png", "pictures.png", "no such file")
    assert "picture.png?" in error.hint
    assert "no folder" in refused(tmp_path / "no" / "a.png", "no such file").hint


def test_folder_device_and_null_byte(tmp_path):
    refused(tmp_path, "is a folder")
    refused("/dev/zero", "no regular file")
    refused("a\0b.png", "cannot be opened")


def test_zero_bytes(tmp_path):
    (tmp_path / "a.jpg").touch()
    refused(tmp_path / "a.jpg", "a.jpg", "empty (0 bytes)")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello, this is no picture\n", "is text"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (bytes(range(256)) * 4, "no picture"),
    ],
)
def test_something_else_named_jpg(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    refused(tmp_path / "a.jpg", words)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "is damaged", "truncated")


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its 100 bytes hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [13_500, 50_000])  # above our limit, and above Pillow's as well
def test_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(side, side))
    error = refused(path, "178956970")
    assert "ZOO_MAX_PIXELS" in error.hint


def test_the_limit_is_a_setting(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    monkeypatch.setenv("ZOO_MAX_PIXELS", str(PIXELS.size // 3 - 1))
    refused(path, "32 x 24 pixels", "767")
    monkeypatch.setenv("ZOO_MAX_PIXELS", str(PIXELS.size // 3))
    assert read_picture(path).image.size == (32, 24)


def test_absurd_aspect(tmp_path):
    refused(save(tmp_path / "a.png", Image.new("L", (1010, 10))), "1010 x 10", "1:100")
    assert read_picture(save(tmp_path / "b.png", Image.new("L", (1000, 10)))).image.size == (1000, 10)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_unreadable(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    path.chmod(0)
    me = os.geteuid()
    if me == 0:  # root reads everything: be somebody else for a moment
        os.seteuid(65534)
    try:
        refused(path, "may not be read")
    finally:
        os.seteuid(me)


# what arguments stand for


@pytest.fixture
def tree(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "sub/c.webp", "sub/deep/d.png", ".hidden.png", "[odd].png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(found, root):
    return [os.path.relpath(path, root) for path in found]


def test_a_folder_is_searched_to_the_bottom_in_order(tree):
    assert names(expand([tree]), tree) == ["[odd].png", "a.JPG", "b.png", "sub/c.webp", "sub/deep/d.png"]


def test_globs_files_and_lists(tree):
    assert names(expand([f"{tree}/*.png"]), tree) == ["[odd].png", "b.png"]
    assert names(expand([f"{tree}/**/*.png"]), tree) == ["[odd].png", "b.png", "sub/deep/d.png"]
    assert names(expand([f"{tree}/[odd].png"]), tree) == ["[odd].png"]  # it exists, so it is no pattern
    listed = io.StringIO(f"{tree}/b.png\n\nhttp://example.org/x.png\r\n{tree}/sub\n")
    found = list(expand(["-"], stdin=listed))
    assert found[1] == "http://example.org/x.png"
    assert names([found[0], *found[2:]], tree) == ["b.png", "sub/c.webp", "sub/deep/d.png"]


def test_nothing_found_is_an_error_among_the_rest(tree):
    (tree / "empty").mkdir()
    found = list(expand([tree / "empty", f"{tree}/*.gif", tree / "b.png"]))
    assert isinstance(found[0], InputError)
    assert "no picture in this folder" in found[0].message
    assert "nothing matches" in found[1].message
    assert found[2] == str(tree / "b.png")


def test_expansion_is_lazy(tree):
    def endless():
        while True:
            yield tree / "b.png"

    found = expand(endless())
    assert [next(found) for _ in range(3)] == [str(tree / "b.png")] * 3


# addresses


class Handler(BaseHTTPRequestHandler):
    png = b""

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/ok.png":
            self.answer(self.png)
        elif path == "/page":
            self.answer(b"<html><body>no picture</body></html>", "text/html")
        elif path == "/file":
            self.redirect("file:///etc/passwd")
        elif path == "/ftp":
            self.redirect("ftp://example.org/a.png")
        elif path == "/round":
            self.redirect("/round?" + self.path.partition("?")[2] + "x")
        elif path == "/moved":
            self.redirect("/ok.png")
        elif path == "/endless":
            self.send_response(200)
            self.end_headers()
            self.trickle(b"x" * 65536, 0)
        elif path == "/slow":
            self.send_response(200)
            self.end_headers()
            self.trickle(b"x", 0.05)
        elif path == "/silent":
            time.sleep(2)
        elif path == "/large":
            self.send_response(200)
            self.send_header("Content-Length", str(10**12))
            self.end_headers()
        elif path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.png)))
            self.end_headers()
            self.wfile.write(self.png[:50])
        else:
            self.send_error(404)

    def answer(self, body, kind="image/png"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, to):
        self.send_response(302)
        self.send_header("Location", to)
        self.end_headers()

    def trickle(self, piece, pause):
        try:
            for _ in range(100_000):
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(pause)
        except OSError:
            return  # the reader has had enough

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    Handler.png = stream.getvalue()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        web.daemon_threads = True
        web.block_on_close = False
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def test_an_address_is_read(server):
    assert np.array_equal(pixels(f"{server}/ok.png"), PIXELS)
    assert np.array_equal(pixels(f"{server}/moved"), PIXELS)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("gone.png", "404"),
        ("page", "web page"),
        ("file", "away from http"),
        ("ftp", "redirects to ftp://example.org/a.png"),
        ("round", "redirects more than 5 times"),
        ("large", "more than 64 MiB"),
        ("short", "broke off after 50"),
    ],
)
def test_bad_answers(server, path, words):
    refused(f"{server}/{path}", words)


def test_endless_body_meets_the_size_limit(server):
    with pytest.raises(InputError, match="more than 1 MiB"):
        urls.fetch(f"{server}/endless", max_bytes=2**20)


def test_slow_body_meets_the_time_limit(server):
    start = time.monotonic()
    with pytest.raises(InputError, match=r"not there after 0\.5 s"):
        urls.fetch(f"{server}/slow", seconds=0.5)
    assert time.monotonic() - start < 5


def test_silence_meets_its_limit(server):
    with pytest.raises(InputError, match="no answer"):
        urls.fetch(f"{server}/silent", silence=0.2)


def test_no_server_and_bad_addresses():
    refused("http://127.0.0.1:1/a.png", "127.0.0.1:1")
    refused("http://127.0.0.1:port/a.png", "127.0.0.1:port")
    assert not urls.is_url("file:///etc/passwd")
    assert not urls.is_url("ftp://example.org/a.png")
