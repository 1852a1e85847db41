"""Build an entry of the cache block by block, and resume an interrupted build."""

import contextlib
import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from deephash.data.image_cache.entries import (
    INDEX,
    MAX_INDEX_BYTES,
    PIXELS,
    Block,
    Content,
    UnreadableFile,
    block_numbers,
    block_rows,
    header,
    is_intact,
    row_offset,
)
from deephash.data.prefetch import prefetch
from deephash.errors import DataError, FileError, os_reason
from deephash.utils.files import DISK_FULL, parse_json, read_text, reserve, write_text
from deephash.utils.progress import bar

JOURNAL = "journal.jsonl"  # the finished blocks of an unfinished entry, one per line
ANNOUNCED_BYTES = 1 << 30  # of pixels whose size is printed before anything is decoded

Decode = Callable[[Path], np.ndarray]
"""Function from a file to its pixels, (3, S, S) uint8; raises `Unreadable`."""


class Unreadable(DataError):
    """An image file that cannot be decoded."""

    def __init__(self, path: Path, cause: str):
        super().__init__(
            f"cannot read the image {path} ({cause}): repair it, or leave it out with "
            "dataset.source.on_error=skip"
        )
        self.cause = cause


def build(
    folder: Path, content: Content, decode: Decode, strict: bool, workers: int | None = None
) -> None:
    """Build an entry in a folder, reusing the blocks of an earlier attempt.

    A block is written to its place in the pixel file and then recorded in the journal with its
    checksum. A recorded block is reused if its checksum and its files still match. If an exception
    is raised, the finished blocks are kept for the next attempt.

    The arguments are those of `image_cache.cache.load_pixels`; no other process may use `folder`.

    Raises:
        Unreadable: a file cannot be decoded, and `strict`.
        DataError: the disk is full, or the folder cannot be written.
    """
    count = len(content.files)
    with _converted_errors(folder, content), _open_pixels(folder, content) as descriptor:
        for temporary in folder.glob(".*.tmp"):  # of a write that was killed
            temporary.unlink(missing_ok=True)
        blocks = _reusable_blocks(folder, content, descriptor, workers)
        write_journal(folder, blocks.values())
        done = sum(len(block_rows(number, count)) for number in blocks)
        task = (
            f"decoding {count:,} images into the cache, {content.nbytes / 1e9:.1f} GB"
            f" at {folder.parent}"
        )

        def decode_block(number: int) -> Block:
            return _decode_block(number, content, decode, strict, descriptor)

        missing = [number for number in block_numbers(count) if number not in blocks]
        with (
            (folder / JOURNAL).open("a", encoding="utf-8") as journal,
            bar(task, count, done, content.nbytes > ANNOUNCED_BYTES) as progress,
            contextlib.closing(prefetch(decode_block, missing, workers)) as decoded,
        ):
            for block in decoded:
                blocks[block.number] = block
                print(json.dumps(block._asdict()), file=journal, flush=True)
                progress.advance(len(block_rows(block.number, count)))
        os.fsync(descriptor)
        index = content.index([blocks[number] for number in block_numbers(count)])
        # escaped to ASCII, because file names need not be valid Unicode
        write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")


def write_journal(folder: Path, blocks: Iterable[Block]) -> None:
    """Write a journal that records exactly these blocks as finished."""
    lines = [f"{json.dumps(block._asdict())}\n" for block in blocks]
    write_text(folder / JOURNAL, "".join(lines))


def _reusable_blocks(
    folder: Path, content: Content, descriptor: int, workers: int | None
) -> dict[int, Block]:
    """Return the blocks of an earlier attempt whose files and pixels have not changed."""
    journal = folder / JOURNAL
    recorded: dict[int, Block] = {}
    with contextlib.suppress(FileError):  # no journal, or a last line that was cut off
        for line in read_text(journal, "journal", MAX_INDEX_BYTES).split("\n"):
            block = Block.from_json(parse_json(journal, line, "journal", lenient=True), journal)
            recorded[block.number] = block
    candidates = [
        block
        for block in recorded.values()
        if block.number in block_numbers(len(content.files))
        and block.sources == content.sources(block.number)
    ]
    reusable = {}
    task = "checking images that were decoded before"
    with bar(task, len(candidates)) as progress:
        intact = prefetch(
            lambda block: is_intact(block, descriptor, content.shape), candidates, workers
        )
        for block, good in zip(candidates, intact, strict=True):
            if good:
                reusable[block.number] = block
            progress.advance()
    return reusable


def _decode_block(
    number: int, content: Content, decode: Decode, strict: bool, descriptor: int
) -> Block:
    """Decode a block and write it to its place."""
    rows = block_rows(number, len(content.files))
    pixels = np.zeros((len(rows), *content.shape[1:]), np.uint8)
    unreadable = []
    for row in rows:
        place = content.files[row][0]
        try:
            pixels[row - rows.start] = decode(content.root / place)
        except Unreadable as error:
            if strict:
                raise
            unreadable.append(UnreadableFile(row, place, error.cause))
    data = pixels.data.cast("B")
    rest, offset = data, row_offset(rows.start, content.shape)
    while rest:  # not through a memory map, where a full disk would be a fatal signal
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
    return Block(number, zlib.crc32(data), content.sources(number), unreadable)


@contextlib.contextmanager
def _open_pixels(folder: Path, content: Content) -> Iterator[int]:
    """Open the pixel file with its header, full length and disk space; yield its descriptor."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / PIXELS, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        size = row_offset(len(content.files), content.shape)
        missing = size - os.fstat(descriptor).st_blocks * 512
        if missing > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(descriptor, size)
        os.ftruncate(descriptor, size)
        os.pwrite(descriptor, header(content.shape), 0)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _converted_errors(folder: Path, content: Content) -> Iterator[None]:
    """Convert OSError to DataError; remove the unfinished entry if no block was completed."""
    try:
        yield
    except BaseException as error:
        journal = folder / JOURNAL
        has_blocks = journal.is_file() and journal.stat().st_size > 0
        if not has_blocks:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        if error.errno not in DISK_FULL:
            raise cannot_write(folder.parent, error) from error
        kept = f" The images decoded so far are kept in {folder}." if has_blocks else ""
        free = shutil.disk_usage(folder.parent).free
        raise DataError(
            f"the cache folder {folder.parent} has {free / 1e9:.1f} GB free and the decoded images"
            f" need {content.nbytes / 1e9:.1f} GB ({os_reason(error)}): set paths.cache=FOLDER, or"
            " the environment variable DEEPHASH_CACHE, to a folder on a larger disk; or decode"
            f" without a cache, dataset.source.cached=false.{kept}"
        ) from error


def cannot_write(folder: Path, error: OSError) -> DataError:
    """Return the error for a cache folder that cannot be written."""
    return DataError(
        f"cannot write to the cache folder {folder} ({os_reason(error)}): set paths.cache=FOLDER, "
        "or the environment variable DEEPHASH_CACHE, to a writable folder; or decode without a "
        "cache, dataset.source.cached=false"
    )
