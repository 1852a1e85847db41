"""An entry of the cache in the making: block by block, gone on from after a kill."""

import contextlib
import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from deephash.data.image_cache.entries import (
    INDEX,
    LARGEST,
    PIXELS,
    Block,
    Content,
    Fault,
    header,
    is_sound,
    numbers,
    place_of,
    pooled,
    rows_of,
)
from deephash.errors import DataError, FileError, os_reason
from deephash.utils.files import parse_json, read_text, write_text
from deephash.utils.progress import bar

JOURNAL = "journal.jsonl"
"""What is finished of an entry in the making, one block a line."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

LARGE = 1 << 30  # bytes of pixels from which on the size is told before anything is decoded

Decode = Callable[[Path], np.ndarray]
"""The pixels of a file, (3, S, S) uint8; raises `Unreadable`."""


class Unreadable(DataError):
    """An image file that cannot be decoded."""

    def __init__(self, path: Path, cause: str):
        super().__init__(
            f"cannot read the image {path} ({cause}): mend it, or leave it out with "
            "dataset.source.on_error=skip"
        )
        self.cause = cause


def build(
    folder: Path, content: Content, decode: Decode, strict: bool, workers: int | None = None
) -> None:
    """Make `folder` a whole entry, using what it holds of an earlier attempt.

    A block is written to its place, then noted in the journal with its checksum; a noted block is
    used again if its checksum and its files still fit. When something is raised, the finished
    blocks stay for the next attempt.

    Args:
        folder: a part, of which the caller is the only user. It is made if it is not there.
        content: of the entry.
        decode: makes pixels of a file.
        strict: raise what `decode` raises; or note the file as a fault, its row zero.
        workers: decoding threads; None for one per core, at most 16.

    Raises:
        Unreadable: a file cannot be decoded, and `strict`.
        DataError: the disk is full, or the folder cannot be written.
    """
    count = len(content.files)
    with _told(folder, content), _reserved(folder, content) as file:
        for left in folder.glob(".*.tmp"):  # of a write that was killed
            left.unlink(missing_ok=True)
        done = _resumed(folder, content, file, workers)
        kept = sum(len(rows_of(number, count)) for number in done)
        what = f"decoding {count:,} images into the cache, {content.nbytes / 1e9:.1f} GB"
        with (
            (folder / JOURNAL).open("a", encoding="utf-8") as journal,
            bar(f"{what} at {folder.parent}", count, kept, content.nbytes > LARGE) as shown,
            pooled(workers) as pool,
        ):
            wanted = [number for number in numbers(count) if number not in done]
            for block in pool.map(lambda one: _block(one, content, decode, strict, file), wanted):
                done[block.number] = block
                print(json.dumps(block.as_json()), file=journal, flush=True)
                shown.advance(len(rows_of(block.number, count)))
        os.fsync(file)
        index = content.index([done[number] for number in numbers(count)])
        # Escaped: a file's name need not be Unicode.
        write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")


def note(folder: Path, blocks: Sequence[Block]) -> None:
    """Say in the journal of a part that these blocks are finished, and no others."""
    write_text(folder / JOURNAL, "".join(f"{json.dumps(one.as_json())}\n" for one in blocks))


def _resumed(folder: Path, content: Content, file: int, workers: int | None) -> dict[int, Block]:
    """The blocks of an earlier attempt that can be used; the journal is left with these alone."""
    noted = [
        block
        for block in _noted(folder / JOURNAL).values()
        if block.number in numbers(len(content.files))
        and block.sources == content.sources(block.number)
    ]
    what = "checking what was decoded before"
    with bar(what, len(noted)) as shown, pooled(workers) as pool:
        found = []
        sound = pool.map(lambda block: is_sound(block, file, content.shape), noted)
        for block, good in zip(noted, sound, strict=True):
            found += [block] if good else []
            shown.advance()
    note(folder, found)
    return {block.number: block for block in found}


def _noted(journal: Path) -> dict[int, Block]:
    """The blocks that a journal names, by number; its last line may be cut short."""
    found: dict[int, Block] = {}
    with contextlib.suppress(FileError, ValueError):
        for line in read_text(journal, "journal", LARGEST).split("\n"):
            block = Block.of(parse_json(journal, line, "journal", lenient=True))
            found[block.number] = block
    return found


def _block(number: int, content: Content, decode: Decode, strict: bool, file: int) -> Block:
    """Decode a block and write it to its place."""
    rows = rows_of(number, len(content.files))
    pixels = np.zeros((len(rows), *content.shape[1:]), np.uint8)
    faults = []
    for row in rows:
        place = content.files[row][0]
        try:
            pixels[row - rows.start] = decode(content.root / place)
        except Unreadable as error:
            if strict:
                raise
            faults.append(Fault(row, place, error.cause))
    data = pixels.data.cast("B")
    rest, at = data, place_of(rows.start, content.shape)
    while rest:  # not through a map: a full disk is an error then, and no signal that kills
        written = os.pwrite(file, rest, at)
        rest, at = rest[written:], at + written
    return Block(number, zlib.crc32(data), content.sources(number), faults)


@contextlib.contextmanager
def _reserved(folder: Path, content: Content) -> Iterator[int]:
    """The descriptor of the file of pixels, which has its full length and its space on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / PIXELS, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        size = place_of(len(content.files), content.shape)
        missing = size - os.fstat(file).st_blocks * 512
        if missing > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            os.posix_fallocate(file, 0, size)
        except (AttributeError, OSError) as error:  # not on macOS, and not on every filesystem
            if getattr(error, "errno", None) in FULL:
                raise
        os.ftruncate(file, size)
        os.pwrite(file, header(content.shape), 0)
        yield file
    finally:
        os.close(file)


@contextlib.contextmanager
def _told(folder: Path, content: Content) -> Iterator[None]:
    """Errors of the disk in words; a part in which nothing is finished is removed."""
    try:
        yield
    except BaseException as error:
        if not _has_blocks(folder):
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        full = error.errno in FULL
        told = _too_small(folder, content, error) if full else cannot_write(folder.parent, error)
        raise told from error


def _has_blocks(folder: Path) -> bool:
    """Whether anything is finished in a part."""
    with contextlib.suppress(OSError):
        return (folder / JOURNAL).stat().st_size > 0
    return False


def cannot_write(folder: Path, error: OSError) -> DataError:
    """What to say of a cache folder that cannot be used."""
    return DataError(
        f"cannot write to the cache folder {folder} ({os_reason(error)}): set paths.cache=FOLDER, "
        "or the environment variable DEEPHASH_CACHE, to one that can be written; or decode without "
        "a cache, dataset.source.cached=false"
    )


def _too_small(folder: Path, content: Content, error: OSError) -> DataError:
    kept = f" What was decoded so far is kept in {folder}." if _has_blocks(folder) else ""
    free = shutil.disk_usage(folder.parent).free
    return DataError(
        f"the cache folder {folder.parent} has {free / 1e9:.1f} GB free and the decoded images "
        f"need {content.nbytes / 1e9:.1f} GB ({os_reason(error)}): set paths.cache=FOLDER, or the "
        "environment variable DEEPHASH_CACHE, to a folder on a larger disk; or decode without a "
        f"cache, dataset.source.cached=false.{kept}"
    )
