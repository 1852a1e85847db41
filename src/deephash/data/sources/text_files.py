"""Decoding of text files written by other programs."""

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
_SHEET = "Save the sheet as text, in the format called CSV UTF-8, and use that file."
_NOT_TEXT = (
    (b"PK\x03\x04", "it is an Excel workbook or another ZIP archive", _SHEET),
    (b"\xd0\xcf\x11\xe0", "it is a workbook of old Excel, or another Office document", _SHEET),
    (b"\x1f\x8b", "it is packed by gzip", "Unpack it with gunzip, and use the unpacked file."),
    (b"BZh", "it is packed by bzip2", "Unpack it with bunzip2, and use the unpacked file."),
    (b"PAR1", "it is a Parquet file", "Write it as CSV, with pandas: frame.to_csv(FILE)."),
    (b"SQLite format 3", "it is an SQLite database", "Export the table as CSV."),
    (b"%PDF", "it is a PDF", "Use a text file."),
)


def decode_text(
    path: Path, data: bytes, what: str, encoding: str | None = None, advice: str = ""
) -> str:
    """Decode a text file; line ends are not changed.

    Args:
        path: of the file, for messages.
        data: its bytes.
        what: kind of the file, for messages.
        encoding: its Python name, such as `cp1252`; None for UTF-8, or for UTF-16 or UTF-32 if
            a byte order mark or zero bytes indicate it.
        advice: what to do about a file in another encoding, a sentence.

    Raises:
        FileError: it is not text, or in another encoding; the message has the line.

    Example:
        >>> decode_text(Path("t.csv"), "né".encode("utf-16"), "table")
        'né'
    """
    for magic, reason, way in _NOT_TEXT:
        if data.startswith(magic):
            raise FileError(path, reason, what, way)
    chosen = encoding or _guess_encoding(data)
    try:
        text = data.decode(chosen)
    except LookupError:
        raise FileError(path, f"there is no encoding {encoding!r}", what, advice) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if chosen in ("utf-8", "utf-8-sig"):
            reason = f"line {line} is not UTF-8 (byte 0x{data[error.start]:02x})"
            if not any(0x80 <= byte < 0xA0 for byte in data) or _is_cp1252(data):
                reason += "; it may be Windows-1252, as spreadsheet programs write it"
        else:
            reason = f"line {line} is not {chosen}"
        raise FileError(path, reason, what, advice or "Save it as UTF-8.") from error
    except UnicodeError as error:
        raise FileError(path, str(error), what, advice or "Save it as UTF-8.") from error
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise FileError(path, f"line {line} has a zero byte: it is not text", what, advice)
    return text


def _guess_encoding(data: bytes) -> str:
    """Return the encoding indicated by a mark or by zero bytes between letters; else UTF-8."""
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
