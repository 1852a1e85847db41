"""Decode image files of any mode to upright RGB of one size, through the cache or on access."""

import contextlib
import errno
import io
import logging
import math
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deephash.data.catalogue import Catalogue, ImageSet
from deephash.data.image_cache.builder import Unreadable
from deephash.data.image_cache.cache import load_pixels
from deephash.data.image_cache.entries import Content
from deephash.data.image_formats import (
    EXTENSIONS_OF,
    guess_content,
    guess_format,
    special_file,
    supported_formats,
)
from deephash.data.lazy_arrays import Undecoded, select_rows
from deephash.data.prefetch import default_workers
from deephash.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

SYSTEM_ERRORS = {errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE}
SYSTEM_ERRORS |= {errno.ENOMEM, errno.EPERM, errno.ESTALE, errno.ETIMEDOUT}
"""Errors of the system that do not mean that the file is damaged."""

MAX_RESIZED_PIXELS = 1 << 26  # of an intermediate image: that of a long strip would be larger
TILE = 4096  # side of the tiles in which large images are converted
DECODING_BUDGET = 1 << 28  # pixels of files that all threads together decode at a time
PILLOW_LIMIT = 178_956_970  # pixels of a file that Pillow accepts

FLOAT_RULE = 1  # version of the conversion of floats; in the cache key of files that may have some
FLOAT_ENDINGS = (".tif", ".tiff", ".pfm")

FRAMED = (".gif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif")
"""Endings of files that may hold several frames."""


def to_rgb(image: "Image") -> "Image":
    """Convert an image of any mode to upright RGB.

    The image is turned in place as its EXIF orientation says. Gray is repeated, a palette looked
    up, CMYK converted, transparency blended with white; 16 bits become 8 by division by 257. Floats
    are multiplied by 255 if all are from 0 to 1, otherwise they are taken as values from 0 to 255.
    Upright RGB is not copied.

    Args:
        image: open or in memory; of several frames, the current one is converted.

    Raises:
        ValueError: floats or 32-bit integers that no rule covers.
    """
    from PIL import Image

    _turn_upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    unit = _is_unit_range(image)
    if max(image.size) <= TILE:
        return _convert(image, unit)
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, TILE):  # in tiles: some modes need many bytes per pixel
        for left in range(0, image.width, TILE):
            box = (left, top, min(image.width, left + TILE), min(image.height, top + TILE))
            result.paste(_convert(image.crop(box), unit), box)
    return result


def _turn_upright(image: "Image") -> None:
    """Turn an image in place as its EXIF orientation says; ignore unreadable EXIF data."""
    from PIL import ImageOps

    image.load()  # raises errors of the pixels before those of the EXIF data are ignored
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged EXIF data
        log.debug("the EXIF data of an image are ignored: %r", error)


def _is_unit_range(image: "Image") -> bool:
    """Return whether an image holds floats from 0 to 1.

    Raises:
        ValueError: it holds floats or integers that no rule covers.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return False
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())  # NaN if any value is
    if image.mode != "F":
        if not (low >= 0 and high <= 65535):
            raise ValueError(
                f"its values are integers from {low:.0f} to {high:.0f}; they are read from 0 to "
                "65535: scale them and save them as 8 or 16 bits"
            )
        return False
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it holds NaN or infinite values")
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"its values are floats from {low:g} to {high:g}; floats are read from 0 to 1, or from "
            "0 to 255: scale them and save them as 8 or 16 bits"
        )
    return bool(high <= 1)


def _convert(image: "Image", unit: bool) -> "Image":
    """Convert an upright image, or a tile of one, to RGB; `unit`: its floats are from 0 to 1."""
    from PIL import Image

    is_16_bit = image.mode.startswith("I")  # I;16 and similar, or I
    if is_16_bit or unit:
        values = np.asarray(image)
        scaled = values.astype(np.float64) / 257 if is_16_bit else values * 255
        gray = np.round(scaled).clip(0, 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def frame_count(path: Path) -> int:
    """Return the number of frames or pages of an image file; 1 if that is not known."""
    from PIL import Image

    try:
        with Image.open(path, formats=supported_formats().names) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # of many kinds; unreadable files are reported elsewhere
        return 1


class PixelBudget:
    """Limit on the number of pixels that all threads together decode at a time.

    An image that is larger than the budget is decoded alone.
    """

    def __init__(self, pixels: int):
        self.pixels = pixels
        self._free = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def use(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels are free, and reserve them inside the context."""
        pixels = min(pixels, self.pixels)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


_budget = PixelBudget(DECODING_BUDGET)


class Exact:
    """Fit that accepts only images of size x size.

    Raises:
        DataError: on a call, the image has another size.
    """

    def __init__(self, size: int):
        self.size = size

    @property
    def settings(self) -> dict[str, object]:
        """Settings that the pixels depend on, for the key of the cache."""
        return {"decode": str(self.size)}

    def __call__(self, image: "Image", path: Path) -> "Image":
        size = self.size
        if image.size != (size, size):
            raise DataError(
                f"{path} is {image.width} x {image.height}; it should be {size} x {size}"
            )
        return image


class Square:
    """Fit that resizes images to size x size, bilinear with antialiasing.

    Args:
        size: side of the square in pixels.
        fit: `crop`: the shorter side becomes `size`, and the center square is kept. `squash`: both
            sides become `size`. With `crop`, the center square of a long strip is cut out first,
            because the resized strip would be very large.

    Raises:
        DataError: another `fit`, or a size below 1.
    """

    def __init__(self, size: int, fit: str):
        if fit not in ("crop", "squash"):
            raise DataError(f"dataset.source.fit={fit} is unknown: crop or squash")
        if size < 1:
            raise DataError(f"dataset.source.size={size} must be positive")
        self.size = size
        self.fit = fit

    @property
    def settings(self) -> dict[str, object]:
        """Settings that the pixels depend on, for the key of the cache."""
        return {"decode": self.fit, "size": self.size}

    def __call__(self, image: "Image", path: Path) -> "Image":
        from PIL.Image import Resampling

        size = self.size
        width, height = image.size
        if width == height == size:
            return image
        if self.fit == "squash":
            return image.resize((size, size), Resampling.BILINEAR)
        short = min(width, height)
        if (size * width // short) * (size * height // short) > MAX_RESIZED_PIXELS:
            left, top = (width - short) // 2, (height - short) // 2
            image = image.crop((left, top, left + short, top + short))
            return image.resize((size, size), Resampling.BILINEAR)
        width, height = int(size * width / short), int(size * height / short)
        image = image.resize((width, height), Resampling.BILINEAR)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return image.crop((left, top, left + size, top + size))


SMALL_FILE = 8192
"""Mean size of files, in bytes, below which more than two threads do not help."""


class File(NamedTuple):
    """An image file; all three values are part of the cache key."""

    id: str  # path relative to the root, with forward slashes
    size: int
    mtime: int  # ns


def are_small(sizes: Sequence[int]) -> bool:
    """Return whether image files are so small that decoding them is mostly Python.

    Args:
        sizes: of the files in bytes.
    """
    return sum(sizes) < SMALL_FILE * len(sizes)


def decoding_threads(sizes: Sequence[int]) -> int:
    """Return the default number of threads that decode files.

    One per usable core, at most 16. Small images spend most of their time in Python, whose lock
    makes many threads slower than two (docs/results.md, "On a GPU").

    Args:
        sizes: of the files in bytes.
    """
    most = default_workers()
    return min(2, most) if are_small(sizes) else most


class Decoder:
    """Decoding of the files of a source, and the cache of the result.

    Args:
        fit: brings an upright RGB image to one size: `Square`, or `Exact`.
        cache: folder for decoded pixels; None for the default one.
        on_error: `raise`, or `skip` to leave unreadable files out.
        workers: number of decoding threads; None for one per core, at most 16, or 2 for small
            files.
        cached: decode once into the cache; or on each access, without storing anything.

    Raises:
        DataError: another `on_error`, or `skip` without the cache.
    """

    def __init__(
        self,
        fit: Exact | Square,
        cache: str | Path | None = None,
        on_error: str = "raise",
        workers: int | None = None,
        cached: bool = True,
    ):
        if on_error not in ("raise", "skip"):
            raise DataError(f"dataset.source.on_error={on_error} is unknown: raise or skip")
        if on_error == "skip" and not cached:
            raise DataError(
                "dataset.source.on_error=skip needs dataset.source.cached=true: which files are "
                "unreadable is known when all have been decoded"
            )
        self.fit = fit
        self.cache = cache
        self.on_error = on_error
        self.workers = workers
        self.cached = cached

    def images(self, root: Path, files: Sequence[File], catalogue: Catalogue) -> ImageSet:
        """Return the images of a catalogue.

        Their inputs are (n, 3, size, size) uint8: from the cache, into which they are decoded if
        they are missing; or `Undecoded`. Unreadable files are recorded in the cache with their
        cause, so that a later run with `on_error="raise"` raises the same error.

        Args:
            root: folder of the files.
            files: the file of each row of the catalogue.
            catalogue: ids and labels.

        Raises:
            DataError: a file is unreadable and `on_error` is `raise`, or all files are; or the
                cache cannot be used. Without the cache, unreadable files raise on access.
        """
        content = self.content(root, files)
        workers = self.workers or decoding_threads([file.size for file in files])
        if not self.cached:
            places = [file.id for file in files]
            inputs = Undecoded(root, places, self.decode, self.fit.size, workers)
            return ImageSet.of(catalogue, inputs, content.entry)
        strict = self.on_error == "raise"
        pixels, unreadable = load_pixels(content, self.decode, strict, self.cache, workers)
        if not unreadable:
            return ImageSet.of(catalogue, pixels, content.entry)
        first = unreadable[0]
        if strict or len(unreadable) == len(files):
            raise Unreadable(root / first.place, first.cause)
        log.warning(
            "left out %d unreadable of %d images below %s, the first is %s (%s). A repaired file is"
            " decoded again if its modification time differs.",
            len(unreadable),
            len(files),
            root,
            first.place,
            first.cause,
        )
        kept = np.ones(len(files), bool)
        kept[[file.row for file in unreadable]] = False
        pixels = select_rows(pixels, np.flatnonzero(kept))
        return ImageSet.of(catalogue.keep(kept), pixels, content.entry)

    def content(self, root: Path, files: Sequence[File]) -> Content:
        """Return the content of the cache entry of these files."""
        import PIL

        rule = {**self.fit.settings, "pillow": PIL.__version__}
        if any(file[0].lower().endswith(FLOAT_ENDINGS) for file in files):
            rule["floats"] = FLOAT_RULE
        if any(file[0].lower().endswith(EXTENSIONS_OF["HEIF"]) for file in files):
            rule["heif"] = "HEIF" in supported_formats().names
        return Content(root.absolute(), files, rule, self.fit.size)

    def decode(self, path: Path, content: bytes | None = None) -> np.ndarray:
        """Return the pixels of a file, (3, size, size) uint8.

        Args:
            path: the file; with `content`, only a name for messages.
            content: the bytes of the file, such as of a member of an archive; None to read it.

        Raises:
            Unreadable: the file is damaged, missing, or not an image.
            DataError: it has a size that `fit` does not accept, or the system fails.
        """
        with opened(path, content) as image:
            return self.pixels(image, path)

    def pixels(self, image: "Image", path: Path) -> np.ndarray:
        """Return the pixels of an image that is open, (3, size, size) uint8.

        Args:
            image: see ``opened``.
            path: for messages.

        Raises:
            DataError: it has a size that `fit` does not accept. Other errors are those of Pillow.
        """
        upright = to_rgb(image)
        upright.load()
        return np.asarray(self.fit(upright, path)).transpose(2, 0, 1)


@contextlib.contextmanager
def opened(path: Path, content: bytes | None = None) -> Iterator["Image"]:
    """Open an image file; errors while it is read in the context are converted.

    Args:
        path: the file; with `content`, only a name for messages.
        content: the bytes of the file; None to read it.

    Raises:
        Unreadable: the file is damaged, missing, or not an image.
        DataError: the system fails.
    """
    from PIL import Image, UnidentifiedImageError

    formats = supported_formats()
    try:
        if content is None and (special := special_file(path.stat().st_mode)):
            raise OSError(f"it is {special}")
        with (
            Image.open(
                path if content is None else io.BytesIO(content), formats=formats.names
            ) as image,
            _budget.use(image.width * image.height),
        ):
            yield image
    except DataError:  # of the size of the image
        raise
    except Image.DecompressionBombError as error:
        declared = re.search(r"\d+", str(error))
        count = f"{int(declared[0]):,}" if declared else "too many"
        raise Unreadable(
            path,
            f"it declares {count} pixels, and at most {PILLOW_LIMIT:,} are read: shrink it",
        ) from error
    except Exception as error:  # of a dozen kinds, by format and damage
        cause = f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in SYSTEM_ERRORS:
            raise DataError(f"the system fails to read the image {path} ({cause})") from error
        if content is not None:
            if isinstance(error, UnidentifiedImageError):
                kind = guess_content(content[:512])
                cause = f"{type(error).__name__}: cannot identify the image"
                cause += f". It is {kind}" if kind else ""
            raise Unreadable(path, cause) from error
        if isinstance(error, UnidentifiedImageError) and (kind := guess_format(path)):
            cause += f". It is {kind}"
        if path.is_symlink() and not path.exists():
            cause += f". It is a link to {path.readlink()}"
        raise Unreadable(path, cause) from error
