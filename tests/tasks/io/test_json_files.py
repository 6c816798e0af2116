from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks import DataError
from tasks.io.json_files import read_object, read_value, shown


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
def test_reads_utf8_with_and_without_byte_order_mark(tmp_path: Path, prefix: bytes) -> None:
    path = tmp_path / "ä b.json"
    path.write_bytes(prefix + '{"é": 1}'.encode())
    assert read_object(path) == {"é": 1}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"a": 1,\n  "b" 2}', ["malformed JSON at line 2 column 7"]),
        ('{"a": [1, 2', ["malformed JSON at line 1 column 12", "cut off"]),
        ("", ["malformed JSON at line 1 column 1"]),
        ("[1]", ["holds a list", "must be an object"]),
        ("3", ["holds a number"]),
        ("null", ["holds null"]),
        ('"x"', ["holds a text"]),
        ("true", ["holds a truth value"]),
        ("[" * 100_000, ["nested too deep", "fetch it again"]),
        ('{"a": ' + "9" * 5000 + "}", ["number of thousands of digits"]),
        (r'{"a": ["\ud83d\ude00", "x\udc00"]}', [r"'x\udc00' holds half a surrogate pair", "correct it there"]),
    ],
)
def test_says_where_a_file_is_wrong(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "a b.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_object(path)
    assert str(error.value).startswith(f"{path}: ")
    assert all(part in str(error.value) for part in parts)
    assert "\n" not in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"problems\.json: missing file; .*--data-root"):
        read_object(tmp_path / "problems.json")


def test_a_file_too_large_for_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "problems.json"
    with path.open("wb") as file:
        file.truncate(10**10)  # a hole, which takes no space
    with pytest.raises(DataError, match=r"problems\.json: has 10,000,000,000 bytes, more than 200,000,000; no"):
        read_value(path)


def test_folder_instead_of_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_object(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(DataError, match=r"Permission denied.*check its permissions"):
        read_object(path)


def test_other_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 at byte 7"):
        read_object(path)


def test_whole_surrogate_pairs_are_characters(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(r'["\ud83d\ude00"]')
    assert read_value(tmp_path / "a.json") == ["😀"]


def test_values_are_shown_short() -> None:
    assert shown("x") == "'x'"
    deep: list[object] = []
    for _ in range(50_000):
        deep = [deep]
    assert len(shown(deep)) < 50
    assert len(shown("x" * 1000)) < 120
