"""The image cache: entries are built once, complete or absent, resumed, verified and repaired."""

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.data import cache_folder
from deephash.data.image_cache import builder, cache
from deephash.data.image_cache.builder import JOURNAL, Unreadable
from deephash.data.image_cache.cache import load_pixels, pixel_entries, reopen
from deephash.data.image_cache.entries import (
    BLOCK_ROWS,
    HEADER_BYTES,
    INDEX,
    PIXELS,
    Broken,
    Content,
    header,
    open_entry,
    read_index,
    verify_entry,
)
from deephash.errors import DataError
from deephash.utils import locks
from deephash.utils.locks import Lock

COUNT = 200  # files: three whole blocks and one of eight
ROOT = Path("/images")


def content(count=COUNT, size=2, changed=(), rule="plain", root=ROOT):
    """Content whose files are named by their row; `changed` rows have another modification time."""
    files = [(f"{row:03d}.png", 9, row + 1000 * (row in changed)) for row in range(count)]
    return Content(root, files, {"decode": rule}, size)


def pixels_of(row, size=2):
    return np.full((3, size, size), row % 251 + 1, np.uint8)


class Decode:
    """Decoder that makes pixels from the row in the name, logs its calls, and fails on demand."""

    def __init__(self, size=2, broken=(), stop_after=None):
        self.size, self.broken, self.stop_after = size, set(broken), stop_after
        self.calls = []

    def __call__(self, path):
        row = int(path.stem)
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append(row)
        if row in self.broken:
            raise Unreadable(path, "torn")
        return pixels_of(row, self.size)


def expected(count=COUNT, size=2, broken=()):
    rows = [pixels_of(row, size) * (row not in broken) for row in range(count)]
    return np.stack(rows)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refuse(path):
    raise AssertionError("decoded again")


# an entry


def test_an_entry_explains_itself(tmp_path):
    decode = Decode()
    pixels, faults = load_pixels(content(), decode, folder=tmp_path)
    assert np.array_equal(pixels, expected()) and not faults
    assert sorted(decode.calls) == list(range(COUNT))
    (entry,) = pixel_entries(tmp_path)
    assert list(tmp_path.iterdir()) == [entry] and names(entry) == [INDEX, PIXELS]
    assert np.array_equal(np.load(entry / PIXELS), expected())
    index = json.loads((entry / INDEX).read_text())
    assert index["root"] == str(ROOT) and index["rule"] == {"decode": "plain"}
    assert index["shape"] == [COUNT, 3, 2, 2]
    assert index["rows"] == [f"{row:03d}.png" for row in range(COUNT)]
    assert [block["number"] for block in index["blocks"]] == [0, 1, 2, 3]
    assert verify_entry(entry) == []


def test_it_is_opened_without_decoding(tmp_path):
    first, _ = load_pixels(content(), Decode(), folder=tmp_path)
    second, faults = load_pixels(content(), refuse, folder=tmp_path)
    assert np.array_equal(first, second) and list(faults) == []


def test_writing_to_the_array_spares_the_file(tmp_path):
    load_pixels(content(), Decode(), folder=tmp_path)[0][:] = 9
    assert np.array_equal(load_pixels(content(), refuse, folder=tmp_path)[0], expected())


@pytest.mark.parametrize(
    "other",
    [content(changed=[7]), content(rule="squash"), content(size=3), content(count=199)],
    ids=["time", "rule", "size", "count"],
)
def test_what_the_pixels_depend_on_is_another_entry(tmp_path, other):
    load_pixels(content(), Decode(), folder=tmp_path)
    decode = Decode(other.size)
    load_pixels(other, decode, folder=tmp_path)
    assert len(decode.calls) == len(other.files) and len(pixel_entries(tmp_path)) == 2


def test_files_that_have_moved_are_the_same_entry(tmp_path):
    load_pixels(content(), Decode(), folder=tmp_path)
    load_pixels(content(root=Path("/elsewhere")), refuse, folder=tmp_path)


def test_an_array_larger_than_the_memory_can_be_mapped(tmp_path):
    """The pixels of NUS-WIDE are, on many machines; the file here is sparse."""
    with contextlib.suppress(OSError):
        if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
            pytest.skip("this kernel reserves memory for every private mapping")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    large = content(count=1, size=int((8 * memory / 3) ** 0.5))
    with (tmp_path / PIXELS).open("wb") as file:
        file.write(header(large.shape))
        file.truncate(HEADER_BYTES + large.nbytes)
    block = builder.Block(0, 0, "", [])
    (tmp_path / INDEX).write_text(json.dumps(large.index([block])))
    pixels, _ = open_entry(tmp_path)
    assert pixels.nbytes == large.nbytes and pixels[0, 2, -1, -1] == 0
    pixels[0, 0, 0, 0] = 1


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (195834, 3, 256, 256)])
def test_the_header_is_numpys(tmp_path, shape):
    assert len(header(shape)) == HEADER_BYTES
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(header(shape))
        file.truncate(HEADER_BYTES + int(np.prod(shape)))
    assert np.load(tmp_path / "a.npy", mmap_mode="r").shape == shape


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path):
    with path.open("ab") as file:
        file.write(b"0")


def reformat(path):
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))


def drop_a_row(path):
    path.write_text(path.read_text().replace('  "007.png",\n', ""))


def drop_a_block(path):
    index = json.loads(path.read_text())
    del index["blocks"][2]
    path.write_text(json.dumps(index))


def other_shape(path):
    path.write_bytes(header((COUNT, 3, 4, 1)) + path.read_bytes()[HEADER_BYTES:])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (PIXELS, cut),
        (PIXELS, lengthen),
        (PIXELS, Path.unlink),
        (PIXELS, other_shape),
        (INDEX, lambda path: os.truncate(path, path.stat().st_size // 2)),
        (INDEX, Path.unlink),
        (INDEX, reformat),
        (INDEX, drop_a_row),
        (INDEX, drop_a_block),
        (INDEX, lambda path: path.write_text("[]")),
    ],
)
def test_an_entry_of_which_something_is_missing_is_built_anew(tmp_path, file, damage):
    load_pixels(content(), Decode(), folder=tmp_path)
    (entry,) = pixel_entries(tmp_path)
    damage(entry / file)
    with pytest.raises(Broken):
        verify_entry(entry)
    assert np.array_equal(load_pixels(content(), Decode(), folder=tmp_path)[0], expected())
    assert list(tmp_path.iterdir()) == [entry] and verify_entry(entry) == []


def test_names_that_are_no_unicode(tmp_path):
    files = [(os.fsdecode(b"\xff.png"), 1, 1), ("ü.png", 1, 1)]
    odd = Content(ROOT, files, {}, 2)
    load_pixels(odd, lambda path: pixels_of(3), folder=tmp_path)
    load_pixels(odd, refuse, folder=tmp_path)
    assert read_index(pixel_entries(tmp_path)[0]).rows == [name for name, *_ in files]


# files that cannot be read


def test_faults_are_noted_with_their_cause(tmp_path):
    broken = {0, 70, 199}
    for decode in (Decode(broken=broken), refuse):
        pixels, faults = load_pixels(content(), decode, strict=False, folder=tmp_path)
        assert np.array_equal(pixels, expected(broken=broken))
        assert [tuple(fault) for fault in faults] == [
            (row, f"{row:03d}.png", "torn") for row in sorted(broken)
        ]


def test_a_strict_build_ends_and_keeps_what_is_finished(tmp_path):
    for workers in (1, 4):
        with pytest.raises(Unreadable, match=r"/images/150\.png \(torn\)"):
            load_pixels(content(), Decode(broken=[150]), folder=tmp_path, workers=workers)
        assert pixel_entries(tmp_path) == []
        (part,) = tmp_path.iterdir()
        assert part.suffix == ".part" and names(part) == [JOURNAL, PIXELS]
    mended = Decode()
    pixels, _ = load_pixels(content(changed=[150]), mended, folder=tmp_path)
    assert np.array_equal(pixels, expected())
    assert set(mended.calls) <= set(range(2 * BLOCK_ROWS, COUNT))  # the blocks before it are used
    assert list(tmp_path.iterdir()) == pixel_entries(tmp_path)


def test_a_strict_build_ends_soon(tmp_path):
    calls = []

    def decode(path):
        calls.append(path)
        time.sleep(0.0005)
        raise Unreadable(path, "torn")

    with pytest.raises(Unreadable, match=r"000\.png"):
        load_pixels(content(COUNT * 10), decode, folder=tmp_path, workers=2)
    assert len(calls) < COUNT


@pytest.mark.parametrize("error", [AssertionError, KeyboardInterrupt])
def test_a_build_that_finished_nothing_leaves_nothing(tmp_path, error):
    def fail(path):
        raise error

    with pytest.raises(error):
        load_pixels(content(), fail, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


# resuming


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, COUNT), max_size=4),
    st.sampled_from(["nothing", "flip a pixel", "tear the journal", "lose the journal", "change"]),
)
def test_however_often_it_was_interrupted(tmp_path_factory, stops, damage):
    folder = tmp_path_factory.mktemp("cache")
    try:
        for stop in stops:
            before = finished(folder)
            decode = Decode(stop_after=stop)
            with contextlib.suppress(KeyboardInterrupt):
                load_pixels(content(), decode, folder=folder, workers=2)
            assert not {row // BLOCK_ROWS for row in decode.calls} & before
        before = finished(folder)
        changed = [3] if damage == "change" else []
        if before and damage != "nothing":
            (part,) = folder.glob("*.part")
            if damage == "flip a pixel":
                flip(part / PIXELS, min(before) * BLOCK_ROWS)
                before = before - {min(before)}
            elif damage == "tear the journal":
                os.truncate(part / JOURNAL, (part / JOURNAL).stat().st_size - 5)
                before = {json.loads(line)["number"] for line in journal(part)[:-1]}
            elif damage == "lose the journal":
                (part / JOURNAL).unlink()
                before = set()
            else:
                before = before - {0}
        decode = Decode()
        pixels, _ = load_pixels(content(changed=changed), decode, folder=folder)
        assert not {row // BLOCK_ROWS for row in decode.calls} & before
        assert np.array_equal(pixels, expected())
        assert all(verify_entry(entry) == [] for entry in pixel_entries(folder))
        assert not list(folder.glob("*.part"))
    finally:
        shutil.rmtree(folder)


def test_a_block_of_which_a_file_has_changed_is_decoded_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        load_pixels(content(), Decode(stop_after=150), folder=tmp_path, workers=1)
    calls = []

    def decode(path):
        calls.append(int(path.stem))
        return pixels_of(77 if path.stem == "003" else calls[-1])

    pixels, _ = load_pixels(content(changed=[3]), decode, folder=tmp_path)
    assert (pixels[3] == 78).all() and np.array_equal(pixels[4:], expected()[4:])
    assert sorted({row // BLOCK_ROWS for row in calls}) == [0, 2, 3]


def test_what_follows_a_torn_line_of_the_journal_counts(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        load_pixels(content(), Decode(stop_after=70), folder=tmp_path, workers=1)
    (part,) = tmp_path.glob("*.part")
    with (part / JOURNAL).open("a") as file:
        file.write('{"number": 1, "crc')
    for stop, count in ((70, 2), (70, 3), (8, 4)):
        with contextlib.suppress(KeyboardInterrupt):
            load_pixels(content(), Decode(stop_after=stop), folder=tmp_path, workers=1)
        assert len(finished(tmp_path)) == (count if count < 4 else 0)
    assert np.array_equal(load_pixels(content(), refuse, folder=tmp_path)[0], expected())


def journal(part):
    return (part / JOURNAL).read_text().splitlines()


def finished(folder):
    """Return the blocks that the journal of a part records."""
    for part in folder.glob("*.part"):
        with contextlib.suppress(FileNotFoundError):
            return {json.loads(line)["number"] for line in journal(part)}
    return set()


def flip(file, row, size=2):
    with file.open("r+b") as opened:
        opened.seek(HEADER_BYTES + row * 3 * size * size)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))


WORKER = """
import sys, time
from pathlib import Path
import numpy as np
from deephash.data.image_cache.cache import load_pixels
from deephash.data.image_cache.entries import Content

calls, folder = map(Path, sys.argv[1:])

def decode(path):
    with calls.open("a") as file:
        print(path.stem, file=file)
    BODY
    return np.full((3, 2, 2), int(path.stem) % 251 + 1, np.uint8)

files = [(f"{row:03d}.png", 9, row) for row in range(200)]
content = Content(Path("/images"), files, {"decode": "plain"}, 2)
pixels, _ = load_pixels(content, decode, True, folder, 2)
print(int(pixels.astype(int).sum()))
"""


def start(tmp_path, body):
    """Start a process that builds the entry of `content()` in tmp_path/cache and logs its calls."""
    command = [sys.executable, "-c", WORKER.replace("BODY", body)]
    return subprocess.Popen(
        [*command, tmp_path / "calls", tmp_path / "cache"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs, such as tests may be, have it ignored and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def until(done, seconds=300):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def test_a_killed_builder_is_gone_on_from(tmp_path):
    folder = tmp_path / "cache"
    # The last block never ends; those before it are finished and noted.
    builder = start(tmp_path, "while int(path.stem) >= 192: time.sleep(1)")
    try:
        until(lambda: finished(folder) == {0, 1, 2})
    finally:
        builder.kill()
        builder.communicate()
    assert pixel_entries(folder) == [] and [path.suffix for path in sorted(folder.iterdir())] == [
        ".lock",
        ".part",
    ]
    decode = Decode()
    pixels, _ = load_pixels(content(), decode, folder=folder)
    assert np.array_equal(pixels, expected())
    assert sorted(decode.calls) == list(range(192, COUNT))
    assert list(folder.iterdir()) == pixel_entries(folder)


def test_of_two_processes_one_builds_and_one_waits(tmp_path):
    go = tmp_path / "go"
    both = [
        start(tmp_path, f"while not Path({str(go)!r}).exists(): time.sleep(0.01)") for _ in range(2)
    ]
    ready, _, _ = select.select([process.stderr for process in both], [], [], 300)
    line = ready[0].readline()  # of the one that waits; the other builds until `go` is there
    (builder,) = [process.pid for process in both if process.stderr is not ready[0]]
    go.touch()
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert [int(out) for out, _ in outputs] == [int(expected().sum())] * 2
    calls = (tmp_path / "calls").read_text().split()
    assert sorted(map(int, calls)) == list(range(COUNT))
    assert line.startswith(f"waiting for process {builder} on ")
    assert [error for _, error in outputs] == ["", ""]  # and no other message
    assert list((tmp_path / "cache").iterdir()) == pixel_entries(tmp_path / "cache")


def test_many_threads_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "POLL", 0.01)
    decode = Decode()
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda _: load_pixels(content(), decode, folder=tmp_path)[0], range(16))
    assert all(np.array_equal(pixels, expected()) for pixels in made)
    assert sorted(decode.calls) == list(range(COUNT))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_lock_is_held_by_one_though_its_file_goes_and_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "POLL", 0)
    inside, most = [], []

    def enter(number):
        for _ in range(60):
            with Lock.wait(tmp_path / "lock", "which counts"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.0003)
                inside.remove(number)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) == 360
    assert list(tmp_path.iterdir()) == []


def test_where_files_cannot_be_locked_each_builds_its_own(tmp_path, monkeypatch):
    def unlockable(*args):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", unlockable)
    with pytest.raises(KeyboardInterrupt):
        load_pixels(content(), Decode(stop_after=150), folder=tmp_path, workers=1)
    assert list(tmp_path.iterdir()) == []
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda _: load_pixels(content(), Decode(), folder=tmp_path)[0], range(4))
    assert all(np.array_equal(pixels, expected()) for pixels in made)
    assert len(pixel_entries(tmp_path)) == len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    load_pixels(content(), refuse, folder=tmp_path)
    assert pixel_entries(tmp_path)[0].stat().st_mode & 0o055  # readable by who shares the cache


def test_abandoned_parts_are_removed(tmp_path):
    old, new, locked = (content(rule=rule) for rule in ("old", "new", "locked"))
    for entry in (old, new, locked):
        with pytest.raises(KeyboardInterrupt):
            load_pixels(entry, Decode(stop_after=150), folder=tmp_path, workers=1)
    week_ago = time.time() - cache_folder.STALE_SECONDS - 60
    for entry in (old, locked):
        for path in [tmp_path / entry.part, *(tmp_path / entry.part).iterdir()]:
            os.utime(path, (week_ago, week_ago))
    with Lock.wait((tmp_path / locked.part).with_suffix(".lock"), "which decodes"):
        load_pixels(content(), Decode(), folder=tmp_path)
    assert sorted(tmp_path.glob("*.part")) == sorted([tmp_path / new.part, tmp_path / locked.part])
    assert not list(tmp_path.glob("*.lock"))


# checksums


def test_a_changed_pixel_is_found_and_its_block_decoded_again(tmp_path):
    load_pixels(content(), Decode(), folder=tmp_path)
    (entry,) = pixel_entries(tmp_path)
    flip(entry / PIXELS, 70)
    flip(entry / PIXELS, 199)
    damages = verify_entry(entry, workers=2)
    assert [damage.number for damage in damages] == [1, 3]
    assert damages[1].places == [f"{row:03d}.png" for row in range(192, 200)]
    reopen(entry)
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part" and names(part) == [JOURNAL, PIXELS]
    decode = Decode()
    pixels, _ = load_pixels(content(), decode, folder=tmp_path)
    assert np.array_equal(pixels, expected())
    assert {row // BLOCK_ROWS for row in decode.calls} == {1, 3}
    assert verify_entry(entry) == [] and names(entry) == [INDEX, PIXELS]


def test_what_has_changed_is_decoded_again_before_it_is_used(tmp_path, caplog):
    load_pixels(content(), Decode(), folder=tmp_path)
    (entry,) = pixel_entries(tmp_path)
    for row in (70, 199):
        flip(entry / PIXELS, row)
    decode = Decode()
    pixels, _ = load_pixels(content(), decode, folder=tmp_path)
    assert np.array_equal(pixels, expected())
    assert {row // BLOCK_ROWS for row in decode.calls} == {1, 3}
    (record,) = {record.getMessage() for record in caplog.records}
    assert f"{entry / PIXELS} is damaged: 72 images have changed" in record
    assert names(tmp_path) == [entry.name] and verify_entry(entry) == []


@pytest.mark.parametrize("row", [0, 63, 64, 199])
def test_a_large_entry_is_checked_as_it_is_read(tmp_path, monkeypatch, row):
    monkeypatch.setattr(cache, "VERIFY_BYTES", 100)
    load_pixels(content(), Decode(), folder=tmp_path)
    (entry,) = pixel_entries(tmp_path)
    pixels, _ = load_pixels(content(), refuse, folder=tmp_path)
    assert pixels.shape == expected().shape and len(pixels) == COUNT
    assert np.array_equal(pixels[:], expected()) and np.array_equal(pixels[7], expected()[7])
    flip(entry / PIXELS, row)
    pixels, _ = load_pixels(content(), refuse, folder=tmp_path)
    other = (row + 70) % COUNT
    assert np.array_equal(pixels[np.array([other, other])], expected()[[other, other]])
    with pytest.raises(DataError, match=r"(?s)pixels\.npy is damaged.* dataset=NAME images=true"):
        pixels[np.array([other, row])]
    reopen(entry)
    pixels, _ = load_pixels(content(), Decode(), folder=tmp_path)
    assert np.array_equal(pixels[:], expected())


# unusable folders and full disks


def test_a_folder_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=r"cannot write.*paths\.cache=FOLDER.*DEEPHASH_CACHE"):
            load_pixels(content(), Decode(), folder=folder)


def test_an_entry_that_may_not_be_read_is_reported(tmp_path):
    load_pixels(content(), Decode(), folder=tmp_path)
    (entry,) = pixel_entries(tmp_path)
    for name in (PIXELS, INDEX):  # root may read everything: a folder in its place may nobody
        (entry / name).unlink()
        (entry / name).mkdir()
        with pytest.raises(DataError, match=rf"cannot read the cache entry {entry}.*{name}"):
            load_pixels(content(), refuse, folder=tmp_path)


FULL = (
    r"has \d+\.\d GB free and the decoded images need 0\.\d GB.*paths\.cache=FOLDER.*DEEPHASH_CACHE"
    r".*dataset\.source\.cached=false"
)


def test_a_disk_that_is_too_small_is_reported_before_anything_is_decoded(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 5})
    monkeypatch.setattr(builder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=FULL):
        load_pixels(content(), refuse, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reserves", [True, False])
def test_a_disk_that_fills_up_meanwhile_is_reported(tmp_path, monkeypatch, reserves):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    def unable(*args):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", full if reserves else unable)
    really, written = os.pwrite, []

    def pwrite(file, data, at):
        written.append(at)
        return (
            full() if at >= HEADER_BYTES + 128 * 12 else really(file, data[:100], at)
        )  # in pieces

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(DataError, match=FULL) as caught:
        load_pixels(content(), Decode(), folder=tmp_path, workers=1)
    if reserves:
        assert written == [] and list(tmp_path.iterdir()) == []
        return
    assert finished(tmp_path) == {0, 1}
    (part,) = tmp_path.glob("*.part")
    assert f"kept in {part}" in str(caught.value)
    monkeypatch.undo()
    decode = Decode()
    assert np.array_equal(load_pixels(content(), decode, folder=tmp_path)[0], expected())
    assert min(decode.calls) == 128


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of 1 MB, if this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a filesystem")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_filesystem(small_disk):
    large = content(size=100)  # 6 MB
    with pytest.raises(DataError, match=FULL):
        load_pixels(large, refuse, folder=small_disk)
    assert list(small_disk.iterdir()) == []


def test_a_small_filesystem_that_reports_a_large_size(small_disk, monkeypatch):
    usage = type("Usage", (), {"free": 1 << 40})
    monkeypatch.setattr(builder.shutil, "disk_usage", lambda path: usage)
    large = content(size=100)
    with pytest.raises(DataError, match="No space left on device"):
        load_pixels(large, refuse, folder=small_disk)
    assert list(small_disk.iterdir()) == []

    def unable(*args):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    with pytest.raises(DataError, match="No space left on device"):
        load_pixels(large, Decode(size=100), folder=small_disk)
    assert pixel_entries(small_disk) == []


def test_a_limit_on_the_size_of_files(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"\(File too large\).*paths\.cache=FOLDER"):
            load_pixels(content(size=100), refuse, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_the_size_is_reported_before_a_large_one_is_built(tmp_path, monkeypatch, capfd):
    messages = []

    def decode(path):
        messages.append(capfd.readouterr().err)
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "ANNOUNCED_BYTES", 1000)
    with pytest.raises(KeyboardInterrupt):
        load_pixels(content(), decode, folder=tmp_path, workers=1)
    assert messages[0] == f"decoding 200 images into the cache, 0.0 GB at {tmp_path}\n"


def test_sigint_is_an_interruption_like_others(tmp_path):
    folder = tmp_path / "cache"
    builder = start(tmp_path, "time.sleep(0.005)")
    try:
        until(lambda: finished(folder))
        builder.send_signal(signal.SIGINT)
        builder.communicate(timeout=30)
    finally:
        builder.kill()
    assert pixel_entries(folder) == [] and not list(folder.glob("*.lock"))
    assert finished(folder)


def test_what_a_kill_at_the_end_leaves_is_removed_by_the_next_reader(tmp_path):
    load_pixels(content(), Decode(), folder=tmp_path)
    (entry,) = pixel_entries(tmp_path)
    (entry / JOURNAL).write_text("")
    (tmp_path / content().part).with_suffix(".lock").write_text("process 1 on elsewhere")
    load_pixels(content(), refuse, folder=tmp_path)
    assert names(tmp_path) == [entry.name] and names(entry) == [INDEX, PIXELS]
