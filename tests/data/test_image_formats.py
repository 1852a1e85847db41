"""Which files are images, and what others seem to be."""

import os

import pytest

from deephash.data.image_formats import (
    EXTENSIONS_OF,
    IMAGES,
    conversion_hint,
    guess_format,
    supported_formats,
)


def test_common_formats_are_read_and_dangerous_ones_are_not():
    formats = supported_formats()
    for ending in (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif"):
        assert ending in formats.endings
    assert {".tiff", ".ppm", ".pgm", ".pbm", ".pnm"} <= {*formats.endings}
    assert not {"EPS", "PSD", "WMF", "FITS", "HDF5", "GRIB", "MPEG", "PCD"} & {*formats.names}


def test_unsupported_formats_are_reported_with_advice():
    missing = {*IMAGES} - {*supported_formats().endings}
    assert {".svg", ".nef", ".psd"} <= missing
    assert all(conversion_hint(ending) for ending in missing)
    assert conversion_hint(".txt") == ""
    assert conversion_hint(EXTENSIONS_OF["HEIF"][0]) == "pip install pillow-heif"


@pytest.mark.parametrize(
    ("data", "meaning"),
    [
        (b"", "an empty file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"%PDF-1.4", "PDF"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "pillow-heif"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "video"),
        (b"<?xml version='1.0'?>\n<svg width='1'/>", "SVG"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"nothing known", ""),
    ],
)
def test_what_a_file_looks_like(tmp_path, data, meaning):
    (tmp_path / "x.jpg").write_bytes(data)
    result = guess_format(tmp_path / "x.jpg")
    assert meaning in result if meaning else result == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of Unix")
def test_a_pipe_is_reported_without_being_read(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    assert guess_format(tmp_path / "x.jpg") == "a named pipe"
