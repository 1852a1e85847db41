"""Image files to pixels: any mode to upright RGB, one size; through the cache or when asked for."""

import contextlib
import errno
import logging
import math
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from deephash.data.catalogue import Catalogue, ImageSet
from deephash.data.image_cache.builder import Unreadable
from deephash.data.image_cache.cache import cached as cached_pixels
from deephash.data.image_cache.entries import Content, threads
from deephash.data.image_formats import ENDINGS_OF, looks_like, readable, special_file
from deephash.data.lazy_arrays import Undecoded, take
from deephash.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

PASSING = (errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPERM,
           errno.ESTALE, errno.ETIMEDOUT)  # fmt: skip
"""Errors of the system that are no fault of the file."""


LARGEST = 1 << 26  # pixels of an intermediate image; more would come of a strip of few pixels
TILE = 4096  # side of what is converted at once
AT_ONCE = 1 << 28  # pixels of files that are decoded at a time, by all threads

LIMIT = 178_956_970  # pixels of a file, Pillow's own limit

UNIT = 1  # what this release makes of floats; part of the cache's key where files may hold them
FLOATS = (".tif", ".tiff", ".pfm")

FRAMED = (".gif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif")
"""Endings of files that may hold several frames."""


def to_rgb(image: "Image") -> "Image":
    """An image of any mode as upright RGB; the image itself is turned.

    It is turned as its EXIF orientation says. Gray is repeated, a palette looked up, CMYK
    converted; what is transparent lies on white; 16 bits become 8 by dividing by 257. Floats are
    multiplied by 255 if all are from 0 to 1, else they are taken as values from 0 to 255. What is
    upright RGB is not copied.

    Args:
        image: open or in memory; of several frames, the one that is current.

    Raises:
        ValueError: floats or 32-bit integers that no rule covers.
    """
    from PIL import Image

    _turn_upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    unit = _is_unit(image)
    if max(image.size) <= TILE:
        return _convert(image, unit)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, TILE):  # in parts: some modes need many bytes a pixel
        for left in range(0, image.width, TILE):
            box = (left, top, min(image.width, left + TILE), min(image.height, top + TILE))
            whole.paste(_convert(image.crop(box), unit), box)
    return whole


def _turn_upright(image: "Image") -> None:
    """Turn an image as its EXIF orientation says; notes that cannot be read are not used."""
    from PIL import ImageOps

    image.load()  # whatever is wrong with the pixels is raised here
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception as error:  # of many kinds, by what is broken in the notes
        log.debug("the EXIF notes of an image are not used: %r", error)


def _is_unit(image: "Image") -> bool:
    """Whether an image holds floats from 0 to 1.

    Raises:
        ValueError: it holds floats or integers that no rule covers.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return False
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())  # NaN if any is
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
    """An upright image, or a part of one, as RGB."""
    from PIL import Image

    if image.mode.startswith("I"):  # I;16 and its kin, or I: 16-bit gray
        wide = np.asarray(image).astype(np.float64)
        gray = np.round(wide / 257).clip(0, 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if unit:
        gray = np.round(np.asarray(image) * 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def frame_count(path: Path) -> int:
    """How many frames or pages an image file has; 1 where that cannot be told.

    Args:
        path: of the file.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=readable().names) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # of many kinds; what is unreadable is told elsewhere
        return 1


class Budget:
    """Lets threads decode large images as long as all of them together have so many pixels.

    One that is larger than the budget is decoded alone.
    """

    def __init__(self, pixels: int):
        self.pixels = pixels
        self._free = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def use(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels are free, and take them for as long as the context lasts."""
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


_budget = Budget(AT_ONCE)


class Fit(Protocol):
    """Brings an upright RGB image to size x size."""

    size: int

    @property
    def settings(self) -> dict[str, object]: ...
    def __call__(self, image: "Image", path: Path) -> "Image": ...


class Exact:
    """Accepts images of size x size alone.

    Raises:
        DataError: on a call, the image has another size.
    """

    def __init__(self, size: int):
        self.size = size

    @property
    def settings(self) -> dict[str, object]:
        """What its pixels depend on, for the key of the cache."""
        return {"decode": str(self.size)}

    def __call__(self, image: "Image", path: Path) -> "Image":
        size = self.size
        if image.size != (size, size):
            raise DataError(
                f"{path} is {image.width} x {image.height}; it should be {size} x {size}"
            )
        return image


class Square:
    """Brings an image to size x size, bilinear with antialiasing.

    Args:
        size: side of the square, in pixels.
        fit: `crop`, the shorter side becomes `size` and the middle square is kept; or `squash`,
            both sides become `size`. Of a long strip, which would become very large on the way, the
            middle square is taken first.

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
        """What its pixels depend on, for the key of the cache."""
        return {"decode": self.fit, "size": self.size}

    def __call__(self, image: "Image", path: Path) -> "Image":
        from PIL.Image import Resampling

        size = self.size
        width, height = image.size
        if self.fit == "squash":
            return image.resize((size, size), Resampling.BILINEAR)
        short = min(width, height)
        if (size * width // short) * (size * height // short) > LARGEST:
            left, top = (width - short) // 2, (height - short) // 2
            image = image.crop((left, top, left + short, top + short))
            return image.resize((size, size), Resampling.BILINEAR)
        width, height = int(size * width / short), int(size * height / short)
        image = image.resize((width, height), Resampling.BILINEAR)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return image.crop((left, top, left + size, top + size))


class File(NamedTuple):
    """An image file as it lies on the disk; the cache knows it by all three."""

    id: str  # path relative to the root, with forward slashes
    size: int
    mtime: int  # ns


class Decoder:
    """How a source turns its files into pixels, and where they are kept.

    Args:
        fit: brings an upright RGB image to one size: `Square`, or `Exact`.
        cache: folder for decoded pixels; None for the default one.
        on_error: `raise`, or `skip` to leave unreadable files out.
        workers: decoding threads; None for one per core, at most 16.
        cached: decode once into the cache; or whenever an image is asked for, and keep nothing.

    Raises:
        DataError: another `on_error`, or `skip` without the cache.
    """

    def __init__(
        self,
        fit: "Fit",
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
        self.workers = workers or threads()
        self.cached = cached

    def images(self, root: Path, files: Sequence[File], catalogue: Catalogue) -> ImageSet:
        """The images of a catalogue, whose files are given row by row.

        Their inputs are (n, 3, size, size) uint8: from the cache, which they are decoded into if
        they are not there; or `Undecoded`. Unreadable files are noted in the cache with their
        cause, so that a later run which does not skip them is told the same as if it had decoded
        them itself.

        Raises:
            DataError: a file is unreadable and `on_error` is `raise`, or all are; or the cache
                cannot be used. Without the cache, a file is unreadable when it is asked for.
        """
        content = self.content(root, files)
        if not self.cached:
            places = [file.id for file in files]
            inputs = Undecoded(root, places, self.decode, self.fit.size, self.workers)
            return ImageSet.of(catalogue, inputs, content.entry)
        strict = self.on_error == "raise"
        pixels, faults = cached_pixels(content, self.decode, strict, self.cache, self.workers)
        if not faults:
            return ImageSet.of(catalogue, pixels, content.entry)
        if strict or len(faults) == len(files):
            raise Unreadable(root / faults[0].place, faults[0].cause)
        log.warning(
            "left out %d unreadable of %d images below %s, the first is %s (%s). A mended file is "
            "read again when its time of change differs.",
            len(faults),
            len(files),
            root,
            faults[0].place,
            faults[0].cause,
        )
        kept = np.ones(len(files), bool)
        kept[[fault.row for fault in faults]] = False
        pixels = take(pixels, np.flatnonzero(kept))
        return ImageSet.of(catalogue.keep(kept), pixels, content.entry)

    def content(self, root: Path, files: Sequence[File]) -> Content:
        """What the cache knows the pixels of these files by."""
        import PIL

        rule = {**self.fit.settings, "pillow": PIL.__version__}
        if any(place.lower().endswith(FLOATS) for place, *_ in files):
            rule["floats"] = UNIT
        if any(place.lower().endswith(ENDINGS_OF["HEIF"]) for place, *_ in files):
            rule["heif"] = "HEIF" in readable().names
        return Content(root.absolute(), files, rule, self.fit.size)

    def decode(self, path: Path) -> np.ndarray:
        """The pixels of a file, (3, size, size) uint8.

        Raises:
            Unreadable: by what it holds, or because it is not there or may not be read.
            DataError: it has a size that does not fit, or the system fails.
        """
        from PIL import Image, UnidentifiedImageError

        formats = readable()
        try:
            if special := special_file(os.stat(path).st_mode):
                raise OSError(f"it is {special}")
            with (
                Image.open(path, formats=formats.names) as image,
                _budget.use(image.width * image.height),
            ):
                upright = to_rgb(image)
                upright.load()
                return self._fitted(upright, path)
        except DataError:  # of a size that does not fit
            raise
        except Image.DecompressionBombError as error:
            declared = re.search(r"\d+", str(error))
            count = f"{int(declared[0]):,}" if declared else "too many"
            raise Unreadable(
                path, f"it declares {count} pixels, and at most {LIMIT:,} are read: shrink it"
            ) from error
        except Exception as error:  # of a dozen kinds, by format and by what is broken
            cause = f"{type(error).__name__}: {error}"
            if isinstance(error, MemoryError) or getattr(error, "errno", None) in PASSING:
                raise DataError(f"the system fails to read the image {path} ({cause})") from error
            if isinstance(error, UnidentifiedImageError) and (kind := looks_like(path)):
                cause += f". It is {kind}"
            if os.path.islink(path) and not os.path.exists(path):
                cause += f". It is a link to {os.readlink(path)}"
            raise Unreadable(path, cause) from error

    def _fitted(self, upright: "Image", path: Path) -> np.ndarray:
        return np.asarray(self.fit(upright, path)).transpose(2, 0, 1)
