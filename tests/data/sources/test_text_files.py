"""Encodings of tables and lists, and files that are no text."""

from pathlib import Path

import pytest

from deephash.data.sources.text_files import decode_text
from deephash.errors import FileError

FILE = Path("t.csv")
TEXT = "path,label\na.jpg,caf\u00e9\n"


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"],
)
def test_unicode_of_any_width_is_read(encoding):
    assert decode_text(FILE, TEXT.encode(encoding), "table") == TEXT


def test_an_encoding_can_be_named():
    assert decode_text(FILE, TEXT.encode("cp1252"), "table", "cp1252") == TEXT
    with pytest.raises(FileError, match="no encoding 'klingon'"):
        decode_text(FILE, b"a", "table", "klingon")
    with pytest.raises(FileError, match="line 2 is not ascii"):
        decode_text(FILE, TEXT.encode(), "table", "ascii")


def test_another_encoding_is_reported_by_line_and_likely_name():
    with pytest.raises(FileError, match=r"line 2 is not UTF-8 \(byte 0xe9\); .*Windows-1252") as it:
        decode_text(FILE, TEXT.encode("cp1252"), "table")
    assert "Save it as UTF-8." in str(it.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04\x14\0", "Excel workbook.*\n.*CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "old Excel"),
        (b"\x1f\x8b\x08", "gunzip"),
        (b"PAR1", "Parquet"),
        (b"path,label\na.jpg,\0\n", "line 2 has a zero byte"),
    ],
)
def test_binary_files_are_named_with_advice(data, message):
    with pytest.raises(FileError, match=f"(?s){message}"):
        decode_text(FILE, data, "table")


def test_half_a_character_of_two_bytes_is_reported():
    with pytest.raises(FileError, match="not utf-16"):
        decode_text(FILE, TEXT.encode("utf-16")[:-1], "table")
