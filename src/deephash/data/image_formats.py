"""Image formats that are read, the endings of their files, and what another file seems to be."""

import functools
import os
import stat
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

ARCHIVED = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Endings of the images in published archives."""

ENDINGS_OF = {
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
"""Formats by their names in Pillow. No other format is opened, whatever a file is called."""

NEEDED = {"HEIF": "pip install pillow-heif", "AVIF": 'pip install "pillow>=11.3"'}
"""What makes a format readable that is not."""

RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf")
CONVERTED = (*RAW, ".svg", ".psd", ".eps", ".pdf", ".tga", ".ico", ".jxl", ".exr", ".dcm")
"""Images that are not read: convert them."""

IMAGES = (*(one for endings in ENDINGS_OF.values() for one in endings), *CONVERTED)
"""All endings that stand for an image."""

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
    """What this installation reads."""

    names: tuple[str, ...]  # of the formats, as Pillow calls them
    endings: tuple[str, ...]  # of their files, in lower case


_lock = threading.Lock()


def readable() -> Formats:
    """Prepare Pillow, and HEIF images if its plugin is installed.

    Example:
        >>> ".tif" in readable().endings
        True
    """
    with _lock:  # of two threads that meet a new format, Pillow tells one wrong
        return _prepared()


@functools.cache
def _prepared() -> Formats:
    from PIL import Image, features

    Image.preinit()  # the common formats are tried first
    Image.init()
    # What is too large is refused, with the name of the file; Pillow's warning has none.
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
    names = tuple(name for name in ENDINGS_OF if name in Image.OPEN and name not in absent)
    return Formats(names, tuple(one for name in names for one in ENDINGS_OF[name]))


def advice(ending: str) -> str:
    """How files with an ending could be read; empty where they are no images.

    Args:
        ending: in lower case, with its dot.

    Example:
        >>> advice(".psd")
        'convert them to JPEG or PNG'
    """
    for name, endings in ENDINGS_OF.items():
        if ending in endings:
            return NEEDED.get(name, "update Pillow")
    return "convert them to JPEG or PNG" if ending in CONVERTED else ""


def looks_like(path: Path) -> str:
    """What a file that is no readable image seems to be; empty where nobody can tell.

    Args:
        path: of a file that could not be identified.
    """
    try:
        if special := special_file(os.stat(path).st_mode):
            return special
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return ""
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
    """What a file is that holds nothing to read: a pipe, a socket, a device; else empty.

    Args:
        mode: `st_mode` of the file.
    """
    kinds = {
        stat.S_ISFIFO: "a named pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((name for test, name in kinds.items() if test(mode)), "")
