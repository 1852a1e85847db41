"""A store of codes in a folder: append-only, crash-safe and memory-mapped.

>>> codes = np.array([[0], [1], [3]], dtype=np.uint8)
>>> with CodeStore.create("photos.codes", nbit=8, encoder={"fingerprint": "5e1f"}) as store:
...     store.add(codes, ["a.jpg", "b.jpg", "c.jpg"], labels=["cat", None, "dog"])
...     removed = store.remove(["b.jpg"])
>>> store = CodeStore.open("photos.codes")
>>> store.index().search(codes[:1], k=2)[1].tolist()
[['a.jpg', 'c.jpg']]

One process at a time may write; any number of processes, and of threads of the writing one, may
read at the same time. ``add``, ``remove`` and ``compact`` return when their result is on the disk;
a process that is killed before leaves the state before the call, or that after it.
The format is described in ``store_files``.
"""

import contextlib
import json
import os
import re
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from deephash.errors import BusyError, DataError, FileError, WriteError
from deephash.retrieval import Index
from deephash.retrieval.codes import Array, ArrayLike, as_packed
from deephash.search import store_files
from deephash.search.store_files import COLUMNS, ITEM, Commit, Generation, Label, Places
from deephash.utils.files import make_folder, write_json, writing
from deephash.utils.locks import Lock, holder

LOCK = "writer.lock"
"""The file that the writing process locks."""

VERIFIED = 1 << 25
"""Stores of at most so many bytes are verified whenever they are opened."""

_ROWS = 1 << 16  # rows copied by compaction at once, and per commit of its result
_OLD = re.compile(r"(codes|items|texts)-\d+\.bin|commits-\d+\.log")
_WASTE = 10_000  # removed rows, or commits, up to which a store is not compacted by itself
_LOOKS = 5  # attempts to open a store that is compacted meanwhile


class _State(NamedTuple):
    """The content of a store after a commit. Replaced as a whole, so threads need no lock."""

    files: Generation
    commit: Commit  # the last one
    removed: Places  # rows, ascending
    labels: tuple[Label, ...]


class StoreVersion(NamedTuple):
    """Identifies the content of a store after a commit."""

    generation: int
    commit: int
    rows: int
    removed: int
    checksums: tuple[int, int, int]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Self:
        """Return the version that was written as a list of JSON.

        Raises:
            ValueError, TypeError: the values are no version.
        """
        generation, commit, rows, removed, checksums = values
        codes, items, texts = checksums
        return cls(generation, commit, rows, removed, (codes, items, texts))


class Changes(NamedTuple):
    """Differences between an earlier version of a store and a snapshot.

    Attributes:
        removed: ids that do not exist; also some that were removed before that version.
        added: places of items that are new, or replace one of the same id, ascending.
        appended: whether all earlier items still have their earlier places.
    """

    removed: list[str]
    added: Places
    appended: bool


class Snapshot:
    """The content of a store at one moment; later changes of the store do not affect it.

    Places are positions from 0 to N - 1, in the order in which the items were added.
    """

    def __init__(self, nbit: int, encoder: Mapping[str, Any], state: _State) -> None:
        self.nbit, self.encoder, self._state = nbit, encoder, state
        files, commit = state.files, state.commit
        width = -(-nbit // 8)
        self._codes = files.map("codes", commit.rows * width).reshape(-1, width)
        self._items, self._texts = _items_and_texts(state)

    def __len__(self) -> int:
        return self._state.commit.rows - len(self._state.removed)

    @cached_property
    def codes(self) -> npt.NDArray[np.uint8]:
        """The packed codes (N, ceil(K / 8)), memory-mapped; a copy if items were removed."""
        return self._codes if self._rows is None else self._codes[self._rows]

    @cached_property
    def ids(self) -> list[str]:
        """The ids of all items; ``ids_at`` reads only some."""
        return self._texts.ids(self._at(None))

    @cached_property
    def labels(self) -> list[Label]:
        """The label of each item: text, a tuple of texts, or None."""
        return self.labels_at(np.arange(len(self)))

    @property
    def label_values(self) -> tuple[Label, ...]:
        """The labels that exist, in the order of their numbers."""
        return self._state.labels

    @property
    def label_numbers(self) -> npt.NDArray[np.int32]:
        """The number of the label of each item, (N,); -1 for none."""
        numbers: npt.NDArray[np.int32] = self._items["label"][self._at(None)].astype(np.int32)
        return numbers

    def ids_at(self, places: ArrayLike) -> Array:
        """Return the ids at places, as an array of objects of the same shape."""
        rows = self._at(places)
        return _objects(self._texts.ids(rows.ravel()), rows.shape)

    def labels_at(self, places: ArrayLike) -> list[Label]:
        """Return the labels at places (n,)."""
        return _labels_of(self._state, self._items["label"][self._at(places)].tolist())

    def signatures_at(self, places: ArrayLike) -> list[str]:
        """Return the signatures at places (n,); empty where none was given."""
        return self._texts.signatures(self._at(places))

    def find(self, ids: Sequence[str]) -> Places:
        """Return the places of ids, (n,); -1 for an id that is not in the store."""
        encoded = store_files.encode_texts(ids)
        rows = _live_rows(self._state, encoded)
        places = rows - np.searchsorted(self._state.removed, rows)
        return np.where(rows < 0, -1, places)

    @property
    def version(self) -> StoreVersion:
        """The version of the store, as ``changes_since`` takes it."""
        commit, removed = self._state.commit, self._state.removed
        number = self._state.files.number
        return StoreVersion(number, commit.number, commit.rows, len(removed), commit.checksums)

    def changes_since(self, version: StoreVersion) -> Changes | None:
        """Compare this content with an earlier version.

        Returns:
            None if it is no earlier version of this store, or from before a compaction.
        """
        rows, removed = version.rows, self._state.removed
        if version == self.version:
            return Changes([], np.empty(0, dtype=np.int64), True)
        if version.generation != self._state.files.number or rows > self._state.commit.rows:
            return None
        if version.commit >= self._state.commit.number:
            return None
        columns = (self._codes[:rows], self._items[:rows])
        if version.checksums[:2] != tuple(zlib.crc32(column.tobytes()) for column in columns):
            return None
        earlier = removed[: np.searchsorted(removed, rows)]
        gone: list[str] = []
        if len(earlier) != version.removed:
            ids = list(dict.fromkeys(self._texts.ids(earlier)))
            gone = [name for name, place in zip(ids, self.find(ids), strict=True) if place < 0]
        added = np.arange(rows - len(earlier), len(self))
        return Changes(gone, added, len(earlier) == version.removed)

    def index(self) -> Index:
        """Return an exact index over the codes; nothing is copied."""

        def read_ids(rows: Places) -> Array:
            ids = self._texts.ids(rows.ravel())
            return np.array(ids, dtype=np.str_).reshape(rows.shape)

        return Index.over(self._codes, self.nbit, read_ids, self._state.removed)

    @cached_property
    def _rows(self) -> Places | None:
        """The rows of the items; None if no item was removed."""
        removed = self._state.removed
        return np.delete(np.arange(len(self._codes)), removed) if len(removed) else None

    def _at(self, places: ArrayLike | None) -> Places:
        """Return the rows at places, or all of them."""
        if places is None:
            return np.arange(len(self._codes)) if self._rows is None else self._rows
        rows = np.asarray(places, dtype=np.int64)
        return rows if self._rows is None else self._rows[rows]


class CodeStore:
    """Packed codes with ids, signatures and labels in a folder. See ``create`` and ``open``.

    Attributes:
        folder: of the store.
        nbit: K.
        encoder: the description of the encoder that computed the codes.
    """

    def __init__(self, folder: Path, lock: Lock | None) -> None:
        self.folder = folder
        self.nbit = 0
        self.encoder: dict[str, Any] = {}
        self._lock = lock
        self._mutex = threading.RLock()  # of changes
        self._state: _State
        self._uncertain = False  # a commit was interrupted
        self._failed = False  # the disk failed during a commit
        self._closed = False

    @classmethod
    def create(cls, folder: str | os.PathLike[str], nbit: int, encoder: Mapping[str, Any]) -> Self:
        """Create an empty store, and open it for writing.

        Args:
            folder: is made if it does not exist.
            nbit: K.
            encoder: describes the encoder, as ``CodeEncoder.describe()``: values of JSON.

        Raises:
            DataError: there is a store already, or ``nbit`` or ``encoder`` cannot be stored.
            BusyError: another process is creating it.
            WriteError: the folder cannot be written.
        """
        folder = Path(folder)
        nbit = Index(nbit).nbit
        try:
            described = json.loads(json.dumps(dict(encoder), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise DataError(f"the encoder's description cannot be stored: {error}") from error
        make_folder(folder)
        store = cls(folder, _acquire(folder))
        try:
            if (folder / store_files.MANIFEST).exists():
                raise DataError(
                    f"{folder} is a {store_files.WHAT} already\n  Open it, or remove the folder."
                )
            store.nbit, store.encoder = nbit, described
            files = Generation(folder, 1, "w")
            commit = _write_commit(files, None, 0, 0, np.empty(0, np.int64), [], (0, 0, 0))
            store._publish(_State(files, commit, commit.removed, ()))
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], write: bool = False, verify: bool | None = None
    ) -> Self:
        """Open a store.

        Lengths and the log of commits are always checked. A writer also removes what a killed
        process has left behind.

        Args:
            folder: of the store.
            write: whether to change it; locks it for other writers, not for readers.
            verify: whether to read everything and compare the checksums; None: if it is small.

        Raises:
            FileError: it does not exist, is of a later version, or is damaged.
            BusyError: ``write``, and another process may write.
            WriteError: ``write``, and the folder cannot be written.
        """
        folder = Path(folder)
        store_files.read_manifest(folder)
        store = cls(folder, _acquire(folder) if write else None)
        try:
            store._load()
            if write:
                store._clean()
            state = store._state
            size = sum(_lengths(store.nbit, state.commit))
            if verify or (verify is None and size <= VERIFIED):
                store.verify()
        except BaseException:
            store.close()
            raise
        return store

    def __len__(self) -> int:
        """Return the number of items."""
        return self._state.commit.rows - len(self._state.removed)

    def __repr__(self) -> str:
        return f"CodeStore({str(self.folder)!r}, nbit={self.nbit}, {len(self):,} items)"

    def check_encoder(self, encoder: Mapping[str, Any]) -> None:
        """Raise ``DataError`` if the codes were computed by another encoder."""
        ours, other = self.encoder.get("fingerprint"), encoder.get("fingerprint")
        if ours != other:
            raise DataError(
                f"the codes in {self.folder} were computed by the encoder {ours}, and cannot be "
                f"compared with codes of {other}\n  Use another folder for this encoder."
            )

    def add(
        self,
        codes: ArrayLike,
        ids: Sequence[str],
        signatures: Sequence[str] | None = None,
        labels: Sequence[Label | Sequence[str]] | None = None,
    ) -> None:
        """Add items, all or none; an item of the same id is replaced.

        Args:
            codes: (n, ceil(K / 8)) uint8, or (n, K) bool or signed numbers.
            ids: (n,) different texts that are not empty.
            signatures: (n,) texts that tell whether the source of an item was changed.
            labels: (n,) texts, sequences of texts, or None.

        Raises:
            DataError: codes, ids, signatures or labels are malformed, or an id is repeated.
            WriteError: the disk is full or fails; nothing was added.
        """
        packed = as_packed(codes, self.nbit, "codes")
        ids = list(ids)
        given = {"ids": ids, "signatures": signatures, "labels": labels}
        for name, values in given.items():
            if values is not None and len(values) != len(packed):
                raise DataError(f"there are {len(packed)} codes, but {len(values)} {name}")
        encoded = store_files.encode_texts(ids, signatures)
        if len(set(ids)) < len(ids):
            raise DataError(f"ids must be unique, but {len(ids) - len(set(ids))} are repeated")
        if not ids:
            return
        with self._changing() as state:
            numbers, new = _label_numbers(labels, state.labels, len(ids))
            live = _live_rows(state, encoded)
            items = np.empty(len(ids), dtype=ITEM)
            items["end"] = encoded.end + state.commit.text_bytes
            items["hash"], items["id_bytes"] = encoded.hash, encoded.length
            items["label"] = numbers
            columns = (packed.tobytes(), items.tobytes(), encoded.blob)
            self._commit(state, columns, np.sort(live[live >= 0]), new)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove the items of ids; ids that do not exist are ignored.

        Returns:
            The number of removed items.

        Raises:
            WriteError: the disk is full or fails; nothing was removed.
        """
        encoded = store_files.encode_texts(list(ids))
        with self._changing() as state:
            live = _live_rows(state, encoded)
            removed = np.unique(live[live >= 0])
            if len(removed):
                self._commit(state, (b"", b"", b""), removed, [])
        return len(removed)

    def snapshot(self) -> Snapshot:
        """Return the content at this moment; see ``reload`` for changes by other processes."""
        self._check_open()
        return Snapshot(self.nbit, self.encoder, self._state)

    def index(self) -> Index:
        """Return an exact index over the codes at this moment; nothing is copied."""
        return self.snapshot().index()

    def reload(self) -> bool:
        """Read what another process has committed, and return whether there was anything.

        Raises:
            FileError: the store was removed, or is damaged.
        """
        self._check_open()
        if self._lock is not None:
            return False
        with self._mutex:
            state = self._state
            manifest = store_files.read_manifest(self.folder)
            if manifest["generation"] != state.files.number:
                self._load()
                return True
            self._state = self._read_log(state)
            return self._state.commit.number != state.commit.number

    def verify(self) -> None:
        """Read all files and compare the checksums.

        Raises:
            FileError: a byte was changed; the message names the file and the part of it.
        """
        state = self._state
        log = state.files.read("commits", 0, state.commit.end)
        commits = list(store_files.decode_commits(log, 0, state.files.path("commits"), None))
        for column, name in enumerate(COLUMNS):
            checksum, at = 0, 0
            for commit in commits:
                end = _lengths(self.nbit, commit)[column]
                state.files.check_length(name, end)
                start = at
                while at < end:
                    part = state.files.read(name, at, min(end, at + (1 << 22)))
                    checksum = zlib.crc32(part, checksum)
                    at += len(part)
                if checksum != commit.checksums[column]:
                    reason = f"a byte from {start:,} to {end - 1:,} was changed"
                    raise store_files.damaged(state.files.path(name), reason)

    def compact(self) -> None:
        """Rewrite the files without removed items. Readers keep what they have opened.

        Raises:
            FileError: the store is damaged; new files would hide that.
            WriteError: the disk is full or fails; the store is unchanged.
        """
        with self._changing() as state:
            self.verify()
            snapshot = Snapshot(self.nbit, self.encoder, state)
            rows = snapshot._at(None)
            with writing(self.folder):
                files = Generation(self.folder, state.files.number + 1, "w")
            try:
                copied = _State(files, *_copy(state, rows, files, self.nbit))
            except BaseException:
                files.remove()
                raise
            self._publish(copied)
            self._clean()

    def close(self) -> None:
        """Close the files and release the lock. Snapshots stay valid.

        A writer compacts a store of which most is removed items, or which has many small commits.
        """
        with self._mutex:
            if self._closed:
                return
            if self._lock is not None and self._is_wasteful():
                with contextlib.suppress(WriteError, FileError):  # it is used as it is
                    self.compact()
            self._closed = True
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _is_wasteful(self) -> bool:
        """Return whether the store should be compacted."""
        if not hasattr(self, "_state") or self._failed:
            return False
        commit, removed = self._state.commit, len(self._state.removed)
        return removed > max(_WASTE, len(self)) or commit.number > max(_WASTE, commit.rows // 16)

    def _check_open(self) -> None:
        if self._closed:
            raise DataError(f"the {store_files.WHAT} {self.folder} was closed")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_State]:
        """Give the current state to a method that changes it, one thread at a time."""
        self._check_open()
        if self._lock is None:
            raise DataError(f"{self.folder} was opened for reading: CodeStore.open(.., write=True)")
        with self._mutex:
            self._check_open()
            if self._failed:
                reason = "the disk failed before"
                raise WriteError(self.folder, reason, "Close the store, and open it again.")
            if self._uncertain:
                self._state = self._read_log(self._state)
                self._uncertain = False
            yield self._state

    def _commit(
        self,
        state: _State,
        columns: Sequence[bytes],
        removed: Places,
        labels: Sequence[Label],
    ) -> None:
        """Append to the columns and commit; all is on the disk when it returns."""
        commit, files = state.commit, state.files
        lengths = _lengths(self.nbit, commit)
        for name, offset, data in zip(COLUMNS, lengths, columns, strict=True):
            if len(data):
                files.write(name, offset, data)
        for name, data in zip(COLUMNS, columns, strict=True):
            if len(data):
                files.sync(name)
        rows = commit.rows + len(columns[1]) // ITEM.itemsize
        text_bytes = commit.text_bytes + len(columns[2])
        a, b, c = (zlib.crc32(x, y) for x, y in zip(columns, commit.checksums, strict=True))
        self._uncertain = True  # until the commit is known to be there or not
        try:
            new = _write_commit(files, commit, rows, text_bytes, removed, labels, (a, b, c))
        except OSError:
            try:
                files.truncate("commits", commit.end)
                files.sync("commits")
                self._uncertain = False
            except OSError:
                self._failed = True
            raise
        self._state = _State(files, new, _merged(state.removed, removed), (*state.labels, *labels))
        self._uncertain = False

    def _publish(self, state: _State) -> None:
        """Make a generation whose files are on the disk the current one."""
        store_files.sync_folder(self.folder)
        values = store_files.manifest(self.nbit, self.encoder, state.files.number)
        try:
            write_json(self.folder / store_files.MANIFEST, values)
        finally:  # an interrupt may come after the file was replaced
            with contextlib.suppress(FileError):
                if store_files.read_manifest(self.folder) == values:
                    self._state = state
        store_files.sync_folder(self.folder)

    def _load(self) -> None:
        """Open the current generation and read its log."""
        for look in range(_LOOKS):
            values = store_files.read_manifest(self.folder)
            mode = "r" if self._lock is None else "r+"
            try:
                files = Generation(self.folder, values["generation"], mode)
                break
            except FileNotFoundError as error:  # compacted meanwhile
                if look == _LOOKS - 1:
                    raise store_files.damaged(Path(error.filename), "it is missing") from error
        self.nbit, self.encoder = Index(values["nbit"]).nbit, values["encoder"]
        self._state = self._read_log(_State(files, _NO_COMMIT, _NO_COMMIT.removed, ()))

    def _read_log(self, state: _State) -> _State:
        """Return the state after the commits that follow."""
        files, last = state.files, state.commit
        log, path = files.read("commits", last.end), files.path("commits")
        removed, labels = [state.removed], list(state.labels)
        before = None if last is _NO_COMMIT else last
        for commit in store_files.decode_commits(log, last.end, path, before):
            removed.append(commit.removed)
            labels += commit.labels
            last = commit
        if last is _NO_COMMIT:
            raise store_files.damaged(path, "it holds no commit")
        for name, length in zip(COLUMNS, _lengths(self.nbit, last), strict=True):
            files.check_length(name, length)
        all_removed = np.sort(np.concatenate(removed)) if len(removed) > 1 else state.removed
        if (np.diff(all_removed) == 0).any():
            raise store_files.damaged(path, "a row is removed twice")
        return _State(files, last, all_removed, tuple(labels))

    def _clean(self) -> None:
        """Remove what belongs to no commit, and the files of other generations."""
        state = self._state
        lengths = (*_lengths(self.nbit, state.commit), state.commit.end)
        for name, length in zip((*COLUMNS, "commits"), lengths, strict=True):
            state.files.truncate(name, length)
        kept = {state.files.path(name).name for name in (*COLUMNS, "commits")}
        for path in self.folder.iterdir():
            old = _OLD.fullmatch(path.name) and path.name not in kept
            if old or path.name.startswith(f".{store_files.MANIFEST}."):
                with contextlib.suppress(OSError):
                    path.unlink()


_NO_COMMIT = Commit(-1, 0, 0, np.empty(0, dtype=np.int64), [], (0, 0, 0), 0)


def _acquire(folder: Path) -> Lock:
    """Lock a store for writing.

    Raises:
        BusyError: another process holds the lock.
    """
    lock = Lock.acquire(folder / LOCK)
    if lock is None:
        who = holder(folder / LOCK) or "another process"
        raise BusyError(
            f"{folder} is being changed by {who}\n  Wait until it has finished, or stop it. "
            "Reading is possible meanwhile."
        )
    return lock


def _lengths(nbit: int, commit: Commit) -> tuple[int, int, int]:
    """Return the bytes of each of ``COLUMNS`` after a commit."""
    return commit.rows * -(-nbit // 8), commit.rows * ITEM.itemsize, commit.text_bytes


def _write_commit(
    files: Generation,
    last: Commit | None,
    rows: int,
    text_bytes: int,
    removed: Places,
    labels: Sequence[Label],
    checksums: tuple[int, int, int],
) -> Commit:
    """Append a record to the log, and wait until it is on the disk."""
    number, offset = (0, 0) if last is None else (last.number + 1, last.end)
    record = store_files.encode_commit(number, rows, text_bytes, removed, labels, checksums)
    files.write("commits", offset, record)
    files.sync("commits")
    return Commit(number, rows, text_bytes, removed, list(labels), checksums, offset + len(record))


def _items_and_texts(state: _State) -> tuple[Array, store_files.Texts]:
    """Return the mapped items (N,) and their texts."""
    items = state.files.map("items", state.commit.rows * ITEM.itemsize).view(ITEM)
    texts = state.files.map("texts", state.commit.text_bytes)
    return items, store_files.Texts(items, texts, state.files.path("texts"))


def _live_rows(state: _State, encoded: store_files.Encoded) -> Places:
    """Return the row of each id that was not removed, (n,); -1 for ids that do not exist."""
    result = np.full(len(encoded.hash), -1, dtype=np.int64)
    items, texts = _items_and_texts(state)
    lookup, removed = state.files.lookup, state.removed
    lookup.extend(items["hash"])
    positions, rows = lookup.candidates(encoded.hash)
    known = rows < len(items)  # it may have rows that were added later
    positions, rows = positions[known], rows[known]
    if len(removed):
        at = np.minimum(np.searchsorted(removed, rows), len(removed) - 1)
        live = removed[at] != rows
        positions, rows = positions[live], rows[live]
    equal = texts.have(rows, encoded, positions)
    result[positions[equal]] = rows[equal]
    return result


def _merged(removed: Places, more: Places) -> Places:
    """Return rows in ascending order."""
    return np.insert(removed, np.searchsorted(removed, more), more) if len(more) else removed


def _label_numbers(
    labels: Sequence[Label | Sequence[str]] | None, known: Sequence[Label], count: int
) -> tuple[npt.NDArray[np.int32], list[Label]]:
    """Return the number of the label of each item, and the labels that are new.

    Raises:
        DataError: a label is neither text nor texts nor None.
    """
    if labels is None:
        return np.full(count, -1, dtype=np.int32), []
    values = [one if one is None or isinstance(one, str) else tuple(one) for one in labels]
    number_of: dict[Label, int] = {label: number for number, label in enumerate(known)}
    for label in dict.fromkeys(values):
        if isinstance(label, tuple) and not all(isinstance(name, str) for name in label):
            raise DataError(f"a label is text, texts or None, not {label!r}")
        if label is not None:
            number_of.setdefault(label, len(number_of))
    new = list(number_of)[len(known) :]
    number_of[None] = -1
    return np.fromiter(map(number_of.__getitem__, values), dtype=np.int32, count=count), new


def _labels_of(state: _State, numbers: Iterable[int]) -> list[Label]:
    """Return the labels of numbers; None for -1."""
    known = (*state.labels, None)
    try:
        return [known[number] for number in numbers]
    except IndexError:
        path = state.files.path("items")
        raise store_files.damaged(path, "a number of a label is too large") from None


def _copy(
    state: _State, rows: Places, files: Generation, nbit: int
) -> tuple[Commit, Places, tuple[Label, ...]]:
    """Copy rows to a new generation, and return its last commit, removed rows and labels."""
    source, width = state.files, -(-nbit // 8)
    codes = source.map("codes", state.commit.rows * width).reshape(-1, width)
    items, texts = _items_and_texts(state)
    blob = source.map("texts", state.commit.text_bytes)
    commit = _write_commit(files, None, 0, 0, _NO_COMMIT.removed, (), (0, 0, 0))
    records = b""
    numbers = items["label"][rows]
    used = np.unique(numbers[numbers >= 0])
    labels = _labels_of(state, used.tolist())
    for first in range(0, len(rows), _ROWS):
        part = rows[first : first + _ROWS]
        start, _, end = texts.spans(part)
        copied = items[part]
        copied["end"] = commit.text_bytes + np.cumsum(end - start)
        known = copied["label"] >= 0
        copied["label"][known] = np.searchsorted(used, copied["label"][known])
        columns = (codes[part].tobytes(), copied.tobytes(), _pieces(blob, start, end))
        for name, offset, data in zip(COLUMNS, _lengths(nbit, commit), columns, strict=True):
            files.write(name, offset, data)
        a, b, c = (zlib.crc32(x, y) for x, y in zip(columns, commit.checksums, strict=True))
        new = [] if first else labels
        number, total = commit.number + 1, commit.rows + len(part)
        text_bytes = commit.text_bytes + len(columns[2])
        record = store_files.encode_commit(
            number, total, text_bytes, _NO_COMMIT.removed, new, (a, b, c)
        )
        records += record
        end_ = commit.end + len(record)
        commit = Commit(number, total, text_bytes, _NO_COMMIT.removed, new, (a, b, c), end_)
    files.write("commits", commit.end - len(records), records)
    for name in (*COLUMNS, "commits"):
        files.sync(name)
    return commit, _NO_COMMIT.removed, tuple(labels)


def _pieces(blob: Array, start: Places, end: Places) -> bytes:
    """Return the concatenation of parts of a text."""
    if len(start) and (start[1:] == end[:-1]).all():
        return blob[int(start[0]) : int(end[-1])].tobytes()
    length = end - start
    first = np.cumsum(length) - length
    at = np.arange(int(length.sum())) + np.repeat(start - first, length)
    pieces: bytes = blob[at].tobytes()
    return pieces


def _objects(values: list[str], shape: tuple[int, ...]) -> Array:
    """Return values as an array of objects."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)
