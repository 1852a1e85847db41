"""Text of lists and tables as people's programs write it: its encoding, or what else it is."""

import codecs
from pathlib import Path

from deephash.errors import FileError

SAMPLE = 1 << 14  # bytes from which an encoding is guessed

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHEET = "Save the sheet as text, in the format called CSV UTF-8, and give that file."
_NO_TEXT = (
    (b"PK\x03\x04", "it is an Excel workbook or another ZIP archive", _SHEET),
    (b"\xd0\xcf\x11\xe0", "it is a workbook of old Excel, or another Office document", _SHEET),
    (b"\x1f\x8b", "it is packed by gzip", "Unpack it with gunzip, and give the unpacked file."),
    (b"BZh", "it is packed by bzip2", "Unpack it with bunzip2, and give the unpacked file."),
    (b"PAR1", "it is a Parquet file", "Write it as CSV, with pandas: frame.to_csv(FILE)."),
    (b"SQLite format 3", "it is an SQLite database", "Export the table as CSV."),
    (b"%PDF", "it is a PDF", "Give a text file."),
)


def text_of_bytes(
    path: Path, data: bytes, what: str, encoding: str | None = None, advice: str = ""
) -> str:
    """Decode a text file of somebody's program.

    It is UTF-8, or UTF-16 or UTF-32 where a mark or its zeros say so. Line ends are left as they
    are.

    Args:
        path: of the file, for messages.
        data: its bytes.
        what: kind of the file, for messages.
        encoding: by its name in Python, such as `cp1252`; None to tell it from the bytes.
        advice: what to do about a file in another encoding, a sentence.

    Raises:
        FileError: it is no text, or in another encoding; the message says in which line.

    Example:
        >>> text_of_bytes(Path("t.csv"), "né".encode("utf-16"), "table")
        'né'
    """
    for magic, reason, way in _NO_TEXT:
        if data.startswith(magic):
            raise FileError(path, reason, what, way)
    chosen = encoding or _encoding(data)
    try:
        text = data.decode(chosen)
    except LookupError:
        raise FileError(path, f"there is no encoding {encoding!r}", what, advice) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if chosen in ("utf-8", "utf-8-sig"):
            reason = f"line {line} is not UTF-8 (byte 0x{data[error.start]:02x})"
            if not any(0x80 <= one < 0xA0 for one in data) or _is_cp1252(data):
                reason += "; it may be Windows-1252, as spreadsheet programs write it"
        else:
            reason = f"line {line} is not {chosen}"
        raise FileError(path, reason, what, advice or "Save it as UTF-8.") from error
    except UnicodeError as error:
        raise FileError(path, str(error), what, advice or "Save it as UTF-8.") from error
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise FileError(path, f"line {line} holds a zero byte: it is no text", what, advice)
    return text


def _encoding(data: bytes) -> str:
    """The encoding that a mark or zeros between the letters show; else UTF-8."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    sample = data[:SAMPLE]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = max(1, len(sample) // 2)
    if odd > 0.3 * half and even < 0.1 * half:
        return "utf-16-le"
    if even > 0.3 * half and odd < 0.1 * half:
        return "utf-16-be"
    return "utf-8"


def _is_cp1252(data: bytes) -> bool:
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True
