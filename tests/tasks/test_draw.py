"""Results as files: whole, named by what they came from, and one line where they cannot be written."""

import pytest
from PIL import Image

from zoo.errors import InputError, UsageError
from zoo.tasks.draw import output_folder, save_picture, stem_of

PICTURE = Image.new("RGB", (8, 4), "red")


def test_a_picture_is_written_as_its_name_says(tmp_path):
    for name, kind in (("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP")):
        save_picture(lambda: PICTURE, tmp_path / name)
        with Image.open(tmp_path / name) as written:
            assert (written.format, written.size) == (kind, PICTURE.size)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    for name in ("a.docx", "a.psd", "a"):
        with pytest.raises(UsageError, match="no kind of picture"):
            save_picture(lambda: pytest.fail("drawn for nothing"), tmp_path / name)
    with pytest.raises(InputError, match="wide"):
        save_picture(lambda: Image.new("RGB", (17000, 1)), tmp_path / "wide.webp")
    with pytest.raises(InputError, match="cannot be written"):
        save_picture(lambda: PICTURE, tmp_path / "none" / "a.png")
    (tmp_path / "old.png").write_bytes(b"old")

    def breaks():
        raise InputError("its source is gone")

    with pytest.raises(InputError, match="gone"):
        save_picture(breaks, tmp_path / "old.png")
    assert (tmp_path / "old.png").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_is_a_matter_of_usage(tmp_path):
    output_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made"):
        output_folder(tmp_path / "file" / "b")


@pytest.mark.parametrize(
    ("source", "stem"),
    [("x/cat.final.jpg", "cat.final"), ("https://a.b/c.png?d=e.f", "c"), ("<array>", "array"), ("...", "picture")],
)
def test_stems(source, stem):
    assert stem_of(source) == stem
