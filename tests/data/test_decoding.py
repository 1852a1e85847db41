"""Decoding of files of any kind to upright RGB of one size, and errors of damaged files."""

import contextlib
import errno
import io
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deephash.data import decoding
from deephash.data.decoding import Decoder, Exact, File, PixelBudget, Square, to_rgb
from deephash.data.image_cache.builder import Unreadable
from deephash.data.sources.basic import Folder
from deephash.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (2, 2), 70), (70, 70, 70)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), (10, 20, 30)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("LA", (2, 2), (0, 0)), (255, 255, 255)),
        (Image.new("RGB", (2, 2), (1, 200, 3)).convert("P"), (0, 204, 0)),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 255)), (0, 0, 0)),
        (Image.fromarray(np.full((2, 2), 257 * 99, np.uint16)), (99, 99, 99)),
    ],
    ids=["L", "1", "RGBA", "clear", "LA", "P", "CMYK", "I;16"],
)
def test_every_mode_becomes_rgb(image, expected):
    actual = to_rgb(image)
    assert actual.mode == "RGB"
    assert actual.getpixel((0, 0)) == expected


def test_orientation_is_applied(tmp_path):
    left_is_white = Image.new("RGB", (4, 2))
    left_is_white.paste((255, 255, 255), (0, 0, 2, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    left_is_white.save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as image:
        upright = to_rgb(image)
    assert upright.size == (2, 4)
    assert upright.getpixel((0, 0)) == (255, 255, 255) and upright.getpixel((0, 3)) == (0, 0, 0)


def decoded(path, size=8):
    return Decoder(Square(size, "squash")).decode(path)


def test_pixels_are_planes_of_rgb(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "x.png")
    pixels = Decoder(Square(9, "crop")).decode(tmp_path / "x.png")
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, NOISE[:, 2:11].transpose(2, 0, 1))


def save_cmyk(path):
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(path, "JPEG", quality=95)


def save_16_bit(path):
    Image.fromarray(np.full((20, 20), 257 * 99, np.uint16)).save(path, "PNG")


def save_clear_palette(path):
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(path, "PNG", transparency=0)
    image.paste(0, (0, 0, 20, 20))
    image.save(path.with_suffix(".clear"), "PNG", transparency=0)


def test_odd_files_are_read_as_what_they_show(tmp_path):
    """The extension may be wrong: ImageNet has a PNG called .JPEG."""
    path = tmp_path / "x.JPEG"
    save_cmyk(path)
    assert np.abs(decoded(path)[:, 4, 4].astype(int) - [255, 0, 0]).max() <= 3
    save_16_bit(path)
    assert decoded(path)[:, 4, 4].tolist() == [99, 99, 99]
    save_clear_palette(path)
    assert decoded(path)[:, 4, 4].tolist() == [10, 200, 30]
    assert decoded(tmp_path / "x.clear")[:, 4, 4].tolist() == [255, 255, 255]


def truncate(path):
    Image.fromarray(np.tile(NOISE, (20, 20, 1))).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (truncate, "truncated"),
        (lambda path: path.write_bytes(b""), "cannot identify image file"),
        (lambda path: path.write_text("<html>404</html>"), "cannot identify image file"),
        (lambda path: None, "No such file"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: path.symlink_to(path.name), "symbolic links"),
        (lambda path: path.mkdir(), "Is a directory"),
    ],
    ids=["truncated", "empty", "text", "missing", "dangling", "loop", "folder"],
)
def test_unreadable_files_are_reported_by_path_and_cause(tmp_path, damage, cause):
    path = tmp_path / "x.jpg"
    damage(path)
    with pytest.raises(Unreadable, match=cause) as caught:
        decoded(path)
    assert str(path) in str(caught.value) and "dataset.source.on_error=skip" in str(caught.value)
    assert cause in caught.value.cause


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "no"),
        OSError(errno.EIO, "no"),
        OSError(errno.ESTALE, "no"),
        MemoryError,
    ],
)
def test_a_failing_system_is_no_fault_of_the_file(tmp_path, monkeypatch, error):
    """Otherwise it would be missing from the cache permanently."""
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(NOISE).save(tmp_path / "set" / name / "x.png")

    def fail(path, **options):
        raise error

    monkeypatch.setenv("DEEPHASH_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", fail)
        with pytest.raises(DataError, match=r"the system fails to read the image .*x\.png"):
            Folder(tmp_path / "set", on_error="skip").load()
    assert len(Folder(tmp_path / "set", on_error="skip").load()) == 2


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b""]))
def test_whatever_stands_in_a_photos_notes_its_pixels_are_read(rest, start):
    file = io.BytesIO()
    Image.fromarray(NOISE[:9, :9]).save(file, "JPEG", exif=b"Exif\0\0" + start + rest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow may say that the notes are corrupt
        assert to_rgb(Image.open(file)).size == (9, 9)


@pytest.mark.parametrize("damage", range(24))
def test_whatever_is_broken_in_a_file_it_is_unreadable_or_read(tmp_path, damage):
    draw = np.random.default_rng(damage)
    kind = ("png", "jpeg", "webp", "bmp", "gif", "tiff")[damage % 6]
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, kind)
    data = bytearray(file.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(30):
            broken = bytearray(data)
            for place in draw.integers(0, len(data), draw.integers(1, 8)):
                broken[place] = draw.integers(0, 256)
            (tmp_path / "x").write_bytes(broken[: draw.integers(1, len(data) + 1)])
            with contextlib.suppress(Unreadable):
                assert decoded(tmp_path / "x").shape == (3, 8, 8)


def test_exact_takes_one_size(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png is 13 x 9; it should be 9 x 9") as caught:
        Decoder(Exact(9), on_error="skip").decode(tmp_path / "x.png")
    assert not isinstance(caught.value, Unreadable)


def test_skipping_needs_the_cache():
    with pytest.raises(DataError, match=r"on_error=skip needs dataset\.source\.cached=true"):
        Decoder(Exact(9), on_error="skip", cached=False)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
        ([0.0, 127.9, 255.0], [0, 127, 255]),
        ([0.0, 0.5, 2.0], [0, 0, 2]),
    ],
)
def test_floats_from_0_to_1_are_scaled_and_those_up_to_255_are_not(tmp_path, values, expected):
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as image:
        assert [pixel[0] for pixel in np.asarray(to_rgb(image))[0]] == expected


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (np.array([[0, np.nan]], np.float32), "NaN or infinite"),
        (np.array([[0, np.inf]], np.float32), "NaN or infinite"),
        (np.array([[-1, 1]], np.float32), "floats from -1 to 1"),
        (np.array([[0, 4095]], np.float32), "floats from 0 to 4095"),
        (np.array([[0, 70000]], np.int32), "integers from 0 to 70000"),
        (np.array([[-5, 7]], np.int32), "integers from -5 to 7"),
    ],
)
def test_values_that_no_rule_covers_are_refused(tmp_path, values, cause):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(Unreadable, match=cause):
        decoded(tmp_path / "x.tif")


def test_only_files_that_may_hold_floats_have_another_key(tmp_path):
    decoder = Decoder(Square(8, "crop"))
    plain = decoder.content(tmp_path, [File("a.png", 1, 1), File("b.jpg", 1, 1)])
    assert set(plain.rule) == {"decode", "size", "pillow"}
    assert decoder.content(tmp_path, [File("a.TIF", 1, 1)]).rule["floats"] == 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "F", "1"])
def test_large_images_are_converted_in_parts_to_the_same_pixels(monkeypatch, mode):
    noise = np.random.default_rng(1).integers(0, 256, (23, 31, 4), dtype=np.uint8)
    if mode in ("I;16", "F"):
        kind = np.uint16 if mode == "I;16" else np.float32
        image = Image.fromarray(noise[..., 0].astype(kind))
    else:
        image = Image.fromarray(noise).convert("RGB").convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    whole = np.asarray(to_rgb(image.copy()))
    monkeypatch.setattr(decoding, "TILE", 7)
    assert np.array_equal(np.asarray(to_rgb(image.copy())), whole)


@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_extreme_shapes_need_no_large_image_on_the_way(tmp_path, monkeypatch, shape, fit):
    """60,000 x 1 made an image of 256 x 15,360,000."""
    made, really = [], Image.Image.resize

    def watched(image, size, *rest, **options):
        made.append(size[0] * size[1])
        return really(image, size, *rest, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    Image.new("RGB", shape, (10, 20, 30)).save(tmp_path / "x.png")
    pixels = Decoder(Square(256, fit)).decode(tmp_path / "x.png")
    assert pixels.shape == (3, 256, 256) and pixels[:, 9, 9].tolist() == [10, 20, 30]
    assert max(made) <= 1 << 20


def huge_png(path, width, height):
    """A PNG that declares a size and has no pixels to go with it."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_a_declared_size_that_costs_gigabytes_is_refused(tmp_path):
    huge_png(tmp_path / "x.png", 50_000, 40_000)
    with pytest.raises(Unreadable, match=r"x\.png \(it declares 2,000,000,000 pixels, and at most"):
        decoded(tmp_path / "x.png")


def test_images_in_work_share_a_budget_of_pixels():
    budget, order = PixelBudget(10), []
    with budget.use(6):
        late = threading.Thread(target=lambda: [budget.use(50).__enter__(), order.append("late")])
        late.start()
        with budget.use(4):
            order.append("early")
        order.append("first")
    late.join()
    assert order == ["early", "first", "late"]


@pytest.mark.parametrize("name", ["x.eps", "x.jpg", "x.png"])
def test_the_content_decides_and_ghostscript_is_not_started(tmp_path, monkeypatch, name):
    from PIL import EpsImagePlugin

    def fail(*rest, **options):
        raise AssertionError("Ghostscript")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", fail)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / name).write_bytes(eps)
    with pytest.raises(Unreadable, match="It is an EPS or PostScript file"):
        decoded(tmp_path / name)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(Unreadable, match="it is a named pipe"):
        decoded(tmp_path / "x.jpg")


@pytest.mark.parametrize("ending", [".gif", ".tif", ".webp", ".png"])
def test_of_several_frames_the_first_is_read(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if ending == ".webp" else {}
    frames[0].save(tmp_path / f"x{ending}", save_all=True, append_images=frames[1:], **options)
    assert decoded(tmp_path / f"x{ending}")[:, 4, 4].tolist() == [255, 0, 0]


def test_content_is_decoded_like_its_file(tmp_path):
    gradient = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
    gradient.save(tmp_path / "x.jpg", quality=90)
    content = (tmp_path / "x.jpg").read_bytes()
    decoder = Decoder(Square(16, "crop"))
    pixels = decoder.decode(tmp_path / "of an archive.jpg", content)
    np.testing.assert_array_equal(pixels, decoder.decode(tmp_path / "x.jpg"))
    for broken, cause in (
        (b"", "an empty file"),
        (b"%PDF-1.7", "a PDF"),
        (content[:300], "Truncated"),
    ):
        with pytest.raises(Unreadable) as raised:
            decoder.decode(tmp_path / "of an archive.jpg", broken)
        assert cause in raised.value.cause and "BytesIO" not in raised.value.cause


def test_small_files_are_decoded_by_two_threads(monkeypatch):
    monkeypatch.setattr(decoding, "default_workers", lambda: 16)
    assert decoding.decoding_threads([1000] * 3) == 2
    assert decoding.decoding_threads([1000, 100_000]) == 16
    monkeypatch.setattr(decoding, "default_workers", lambda: 1)
    assert decoding.decoding_threads([1000]) == 1
