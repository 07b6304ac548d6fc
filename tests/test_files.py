"""The reader of JSON files: values come, and whatever is wrong is one error that names the file."""

import pytest

from labclip.files import read_json, read_json_object


def test_values_come_as_they_are(tmp_path):
    (tmp_path / "a.json").write_text('{"é": [1, 2.5, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == read_json_object(str(tmp_path / "a.json")) == {"é": [1, 2.5, None]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
    with pytest.raises(ValueError, match="a pipe or a device"):
        read_json("/dev/zero")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'{"a": 1,\n "b" 2}', r"is not JSON: Expecting ':' delimiter: line 2 column 6 \(char 14\). Fetch it again.$"),
        (b'"\xff"', "is not JSON: .*position 1"),
        (b"[" * 100_000, "is not JSON: .*recursion"),
        (b"[]", "holds a list, not an object. Fetch it again.$"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, content, match):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        read_json_object(path, remedy="Fetch it again.")
    assert str(caught.value).startswith(str(path))
