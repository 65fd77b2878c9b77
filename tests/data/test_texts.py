import pytest

from zoo.data.texts import read_json, read_lines, read_table, read_text
from zoo.errors import InputError, UsageError


def test_lines_and_tables(tmp_path):
    (tmp_path / "list.txt").write_text("  one \n\n two\n", encoding="utf-8")
    assert read_lines(tmp_path / "list.txt") == ["one", "two"]
    (tmp_path / "list.txt").write_bytes("one\u2028more\r\ntwo\x85".encode())
    assert read_lines(tmp_path / "list.txt") == ["one\u2028more", "two"]
    (tmp_path / "table.csv").write_bytes(b'path,label\r\n"a,\nb.png",cat\r\n')
    assert read_table(tmp_path / "table.csv", "a table") == [{"path": "a,\nb.png", "label": "cat"}]
    (tmp_path / "one.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "one.json") == {"a": [1]}


def test_the_mark_that_spreadsheets_put_first_is_no_text(tmp_path):
    (tmp_path / "table.csv").write_text("path\na.png\n", encoding="utf-8-sig")
    assert read_table(tmp_path / "table.csv", "a table") == [{"path": "a.png"}]
    (tmp_path / "one.json").write_text("[1]", encoding="utf-8-sig")
    assert read_json(tmp_path / "one.json") == [1]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"\xff\xfe\x00", "cannot be read: 'utf-8' codec"), (b"{", "is no JSON")],
)
def test_what_cannot_be_read_is_one_line(content, said, tmp_path):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        read_json(path, "fetch it again")
    assert refused.value.message.count(str(path)) == 1
    assert "\n" not in refused.value.message
    assert refused.value.hint == "fetch it again"


def test_an_option_s_file_is_a_matter_of_usage(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_text(tmp_path, "a text file", UsageError)
