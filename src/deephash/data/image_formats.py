"""Supported image formats, their file extensions, and guesses of what other files are."""

import functools
import itertools
import os
import stat
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

ARCHIVED = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Extensions of the images in published archives."""

EXTENSIONS_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Extensions of the supported formats, by their names in Pillow."""

NEEDED = {"HEIF": "pip install pillow-heif", "AVIF": 'pip install "pillow>=11.3"'}
"""How to make an unsupported format readable."""

RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf")
CONVERTED = (*RAW, ".svg", ".psd", ".eps", ".pdf", ".tga", ".ico", ".jxl", ".exr", ".dcm")
"""Images that must be converted."""

IMAGES = (*itertools.chain.from_iterable(EXTENSIONS_OF.values()), *CONVERTED)
"""All extensions of images."""

_MAGIC = (
    (b"%!PS", "an EPS or PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or an Office document"),
    (b"\x1f\x8b", "a gzip file"),
    (b"version https://git-lfs", "a pointer of Git LFS: run `git lfs pull`"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
)
_MARKUP = ((b"<svg", "an SVG drawing"), (b"<!doctype html", "a web page"), (b"<html", "a web page"))


class Formats(NamedTuple):
    """The image formats of this installation."""

    names: tuple[str, ...]  # of the formats in Pillow
    endings: tuple[str, ...]  # extensions, in lower case


_lock = threading.Lock()


def supported_formats() -> Formats:
    """Prepare Pillow, and its HEIF plugin if installed, and return the supported formats.

    Example:
        >>> ".tif" in supported_formats().endings
        True
    """
    with _lock:  # Pillow misidentifies formats if two threads initialise them
        return _prepared()


@functools.cache
def _prepared() -> Formats:
    from PIL import Image, features

    Image.preinit()  # the common formats are tried first
    Image.init()
    # Images that are too large are refused elsewhere, with the name of the file.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    absent = set()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        absent.add("HEIF")
    else:
        register_heif_opener()
    if "AVIF" not in Image.OPEN or not features.check("avif"):
        absent.add("AVIF")
    if not features.check("jpg_2000"):
        absent.add("JPEG2000")
    names = tuple(name for name in EXTENSIONS_OF if name in Image.OPEN and name not in absent)
    return Formats(
        names, tuple(itertools.chain.from_iterable(EXTENSIONS_OF[name] for name in names))
    )


def conversion_hint(extension: str) -> str:
    """Return how to make files with an extension readable; empty if they are no images.

    Args:
        extension: in lower case, with its dot.

    Example:
        >>> conversion_hint(".psd")
        'convert them to JPEG or PNG'
    """
    for name, extensions in EXTENSIONS_OF.items():
        if extension in extensions:
            return NEEDED.get(name, "update Pillow")
    return "convert them to JPEG or PNG" if extension in CONVERTED else ""


def guess_format(path: Path) -> str:
    """Return what a file seems to be that could not be read as an image; empty if unknown."""
    try:
        if special := special_file(os.stat(path).st_mode):
            return special
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return ""
    return guess_content(head)


def guess_content(head: bytes) -> str:
    """Return what a file seems to be, by its first bytes; empty if unknown.

    Example:
        >>> guess_content(b"%PDF-1.7")
        'a PDF'
    """
    if not head:
        return "an empty file"
    for magic, meaning in _MAGIC:
        if head.startswith(magic):
            return meaning
    if head[4:8] == b"ftyp":
        if head[8:12] in (b"avif", b"avis"):
            return f"an AVIF image: {NEEDED['AVIF']}"
        if head[8:12] in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"heim", b"heis"):
            return f"an HEIC image: {NEEDED['HEIF']}"
        return "a video"
    lowered = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for tag, meaning in _MARKUP:
        if lowered.startswith(tag) or (lowered.startswith(b"<?xml") and tag in lowered):
            return meaning
    return ""


def special_file(mode: int) -> str:
    """Return the name of a pipe, a socket or a device by its `st_mode`; empty for other files."""
    kinds = {
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((name for test, name in kinds.items() if test(mode)), "")
