"""Split files and lists written from splits: nothing is lost, and what was changed is refused."""

import contextlib
import hashlib
import json
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.data.catalogue import Catalogue
from deephash.data.sources.lists import Lists
from deephash.data.splits import split_file
from deephash.data.splits.base import Split
from deephash.data.splits.protocols import Listed, fingerprint
from deephash.data.splits.split_file import ENDING, read_split, write_lists, write_split
from deephash.errors import DataError
from tests.paths import ROOT

REAL = ROOT.parent / "shared" / "lists"
TOLD = {"dataset": "own", "protocol": "lists"}


def of(train, database, queries, exclude_self=False):
    rows = (np.array(role, np.int64) for role in (train, database, queries))
    return Split(*rows, validation=np.zeros(0, np.int64), exclude_self=exclude_self)


def small():
    """Four images of three classes; the third has no label, and the last no role."""
    labels = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
    images = Catalogue(ids=("b", "é/a.jpg", "c", "d"), labels=labels, classes=("x", "y", "z"))
    return images, of([1], [2, 1], [0])


def change(path, **values):
    """Replace entries of a split file by hand, its checksum as well if that is among them."""
    entries = json.loads(lzma.decompress(path.read_bytes()))
    entries |= values
    path.write_bytes(lzma.compress(json.dumps(entries).encode()))


def forge(path, **values):
    """Replace entries of a split file and make its checksum fit them."""
    entries = json.loads(lzma.decompress(path.read_bytes())) | values
    del entries["checksum"]
    change(path, **values, checksum=split_file._checksum(entries))


@pytest.fixture
def written(tmp_path):
    path = tmp_path / f"own{ENDING}"
    write_split(
        path,
        *small(),
        **TOLD,
        seed=3,
        origin={"recipe": "by hand", "n": [1, None]},
        lists={"train.txt": "ab"},
    )
    return path


def same(first, second):
    assert (first.ids, first.classes) == (second.ids, second.classes)
    assert (first.labels != second.labels).nnz == 0
    assert (first.places or first.ids) == (second.places or second.ids)


def test_a_split_file_holds_all_that_was_given(written):
    images, split = small()
    again, header = read_split(written)
    same(again, images)
    assert again.places is None and again.lists.keys() == {"train", "database", "queries"}
    for role, rows in again.lists.items():
        assert rows.tolist() == getattr(split, role).tolist()
    assert (header.dataset, header.protocol, header.seed) == ("own", "lists", 3)
    assert header.origin == {"recipe": "by hand", "n": [1, None]}
    assert header.lists == {"train.txt": "ab"} and header.exclude_self is False
    assert header.fingerprint == fingerprint(images, split)
    assert Listed(queries_in_database="refuse").split(again).queries.tolist() == [0]


def test_its_text_can_be_read_and_is_the_same_everywhere(written):
    """Down to the byte: the text, whatever packs it, has one sha256."""
    text = lzma.decompress(written.read_bytes()).decode("ascii")
    assert '"labels": [\n[0],\n[0, 2],\n[],\n[1]\n]' in text
    assert '"ids": [\n"b",\n"\\u00e9/a.jpg",\n"c",\n"d"\n]' in text
    assert '"roles": {\n"database": [2, 1],\n"queries": [0],\n"train": [1]\n}' in text
    result = hashlib.sha256(text.encode()).hexdigest()
    assert result.startswith("d63b3e5b22407c08")


def test_packing_does_not_depend_on_the_process(written, tmp_path):
    code = (
        "import sys, pathlib, numpy as np\n"
        "from deephash.data.catalogue import Catalogue\n"
        "from deephash.data.splits.base import Split\n"
        "from deephash.data.splits.split_file import write_split\n"
        "labels = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]], bool)\n"
        "ids, classes = ('b', '\u00e9/a.jpg', 'c', 'd'), ('x', 'y', 'z')\n"
        "split = Split(*(np.array(rows, np.int64) for rows in ([1], [2, 1], [0], [])))\n"
        "told = dict(lists={'train.txt': 'ab'}, origin={'n': [1, None], 'recipe': 'by hand'})\n"
        "write_split(pathlib.Path(sys.argv[1]), Catalogue(ids=ids, labels=labels, classes=classes),"
        " split, dataset='own', protocol='lists', seed=3, **told)\n"
    )
    there = tmp_path / f"there{ENDING}"
    subprocess.run(
        [sys.executable, "-c", code, there],
        env=os.environ | {"PYTHONHASHSEED": "17"},
        check=True,
    )
    assert there.read_bytes() == written.read_bytes()


def test_places_are_kept_where_they_are_no_ids(tmp_path):
    images, split = small()
    path = tmp_path / f"own{ENDING}"
    moved = Catalogue(
        ids=images.ids, labels=images.labels, classes=images.classes, places=("1", "2", "3", "4")
    )
    write_split(path, moved, split, **TOLD)
    assert read_split(path)[0].places == ("1", "2", "3", "4")


def test_nothing_needs_to_train_and_queries_may_be_hidden_from_themselves(tmp_path):
    images, _ = small()
    path = tmp_path / f"own{ENDING}"
    split = of([], [0, 1, 2], [1], exclude_self=True)
    printed = write_split(path, images, split, **TOLD)
    again, header = read_split(path)
    assert again.lists.keys() == {"database", "queries"}
    assert header.exclude_self and header.fingerprint == printed
    own = Listed(queries_in_database="exclude_self").split(again)
    assert fingerprint(again, own) == printed


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (of([], [0], []), "the role queries has no image"),
        (of([1], [], [0]), "the role database has no image"),
        (of([1], [2, 3, 2], [0]), "the role database has an image twice"),
    ],
)
def test_invalid_roles_are_refused(tmp_path, split, message):
    with pytest.raises(DataError, match=message):
        write_split(tmp_path / f"own{ENDING}", small()[0], split, **TOLD)
    with pytest.raises(DataError, match=message):
        write_lists(tmp_path / "lists", small()[0], split)
    assert list(tmp_path.iterdir()) == []


def test_another_name_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"named NAME\.split\.xz; this one is own\.json"):
        write_split(tmp_path / "own.json", *small(), **TOLD)


CHANGED = {
    "ids": ["b", "é/a.jpg", "c", "e"],  # one without a role, of which the fingerprint says nothing
    "labels": [[0], [0], [], [1]],
    "classes": ["x", "y", "w"],
    "places": ["1", "2", "3", "4"],
    "roles": {"train": [1], "database": [1, 2], "queries": [0]},
    "seed": 4,
    "lists": {},
    "origin": "elsewhere",
    "exclude_self": True,
    "fingerprint": "0" * 64,
    "checksum": "0" * 64,
    "more": 1,
}


@pytest.mark.parametrize("key", CHANGED)
def test_a_changed_file_is_refused(written, key):
    change(written, **{key: CHANGED[key]})
    with pytest.raises(
        DataError, match=r"was changed after it was written(.|\n)*deephash data prepare"
    ):
        read_split(written)


@pytest.mark.parametrize("key", ["labels", "roles", "exclude_self", "fingerprint"])
def test_a_forged_checksum_does_not_help(written, key):
    forge(written, **{key: CHANGED[key]})
    with pytest.raises(DataError, match=r"has the fingerprint .*, but its content has"):
        read_split(written)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ids": None}, "ids is nothing, not a list"),
        ({"seed": True}, "seed is true or false, not a whole number"),
        ({"exclude_self": 1}, "exclude_self is a whole number, not true or false"),
        ({"origin": 3}, "origin is a whole number, not a text or a mapping"),
        ({"ids": ["b", "b", "c", "d"]}, "two images have the same id: b"),
        ({"ids": ["b", "a", "c", 4]}, "ids are not all text"),
        ({"classes": [1, 2, 3]}, "classes are not all text"),
        ({"places": ["1"]}, "1 places for 4 images"),
        ({"lists": {"train.txt": 3}}, r"lists.train\.txt is a whole number, not a text"),
        ({"labels": [[0]]}, "4 ids and 1 rows of labels"),
        ({"labels": [[0], [0], [], 1]}, "4 ids and 4 rows"),
        ({"labels": [[0], [0], [], [3]]}, r"\[3\] are no labels of 3 classes"),
        ({"labels": [[0], [0], [], [-1]]}, r"\[-1\] are no labels"),
        ({"labels": [[0], [0], [], [True]]}, r"\[True\] are no labels"),
        ({"labels": [[0], [0, 0], [], [1]]}, r"\[0, 0\] are no labels"),
        ({"labels": [[0], [2, 0], [], [1]]}, r"\[2, 0\] are no labels"),
        ({"roles": {"train": [1], "database": [2]}}, "the roles are"),
        ({"roles": {"train": [1], "database": [4], "queries": [0]}}, "database has rows that do"),
        ({"roles": {"train": [1], "database": [10**30], "queries": [0]}}, "database has rows"),
        (
            {"roles": {"train": [1], "database": 2, "queries": [0]}},
            "roles.database is a whole",
        ),
        ({"roles": {"train": [1, 1], "database": [2], "queries": [0]}}, "train has an image twice"),
    ],
)
def test_malformed_entries_are_reported(written, values, message):
    forge(written, **values)
    with pytest.raises(DataError, match=rf"is malformed: .*{message}.*deephash data prepare"):
        read_split(written)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"format": 3}',
        b"[" * 100_000,
        b"\xff\xfe",
        b"1" * 9999,
        b"NaN",
    ],
)
def test_other_files_are_reported_as_no_split_file(tmp_path, data):
    for name, content in {"a.split": data, "b.split.xz": lzma.compress(data)}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} is no split file of deephash"):
            read_split(tmp_path / name)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the split file .*none\.split\.xz"):
        read_split(tmp_path / "none.split.xz")


def test_another_version_is_reported(written):
    change(written, version=2)
    with pytest.raises(DataError, match="has version 2 of the format, and this program reads 1"):
        read_split(written)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 500), st.booleans())
def test_damaged_bytes_are_reported(tmp_path_factory, data, at, inside):
    path = tmp_path_factory.mktemp("fuzz") / f"own{ENDING}"
    write_split(path, *small(), **TOLD)
    whole = path.read_bytes()
    text = lzma.decompress(whole)
    damaged = (
        (text if inside else whole)[:at] + data + (text if inside else whole)[at + len(data) :]
    )
    path.write_bytes(lzma.compress(damaged) if inside else damaged)
    if damaged == (text if inside else whole):
        read_split(path)
    else:
        with contextlib.suppress(DataError):  # white space may differ
            same(read_split(path)[0], small()[0])


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"cannot write .*own\.split\.xz: .*No space left"):
        write_split(tmp_path / f"own{ENDING}", *small(), **TOLD)
    with pytest.raises(DataError, match=r"cannot write .*train\.txt: .*No space left"):
        write_lists(tmp_path, *small())
    assert list(tmp_path.iterdir()) == []


# any split


CHARACTERS = st.characters(codec="utf-8") | st.sampled_from("é/\u3000\x85\xa0\u2028\\\"'#%,")
NAMES = st.lists(CHARACTERS, min_size=1, max_size=6).map("".join)


@st.composite
def splits(draw, names=NAMES, several=True):
    """Any catalogue and split: roles that overlap, images without labels, without roles."""
    ids = draw(st.lists(names, min_size=2, max_size=9, unique=True))
    count = draw(st.integers(2, 5))
    columns = st.sets(
        st.integers(0, count - 1), min_size=0 if several else 1, max_size=count if several else 1
    )
    labels = np.zeros((len(ids), count), bool)
    for row in labels:
        row[list(draw(columns))] = True
    rows = st.lists(st.integers(0, len(ids) - 1), min_size=1, unique=True)
    images = Catalogue(ids=tuple(ids), labels=labels, classes=tuple(map(str, range(count))))
    return images, of(draw(rows), draw(rows), draw(rows), draw(st.booleans()))


@settings(max_examples=60, deadline=None)
@given(splits())
def test_any_split_comes_back_from_its_file(tmp_path_factory, made):
    images, split = made
    path = tmp_path_factory.mktemp("split") / f"own{ENDING}"
    printed = write_split(path, images, split, **TOLD)
    again, header = read_split(path)
    same(again, images)
    assert all(again.lists[role].tolist() == getattr(split, role).tolist() for role in again.lists)
    assert printed == header.fingerprint == fingerprint(images, split)
    before = path.read_bytes()
    assert write_split(path, again, split, **TOLD) == printed and path.read_bytes() == before


def come_back(folder, images, split, style, prefix=""):
    """Write the lists of a split and compare what is read; return the error if it is refused."""
    try:
        write_lists(folder, images, split, style, prefix)
    except DataError as error:
        return str(error)
    names = images.classes if style == "index" else None
    again = Lists(folder, class_names=names, strip_prefix=re.escape(prefix)).read()
    for role in ("train", "database", "queries"):
        rows, before = again.lists[role], getattr(split, role)
        assert [again.ids[row] for row in rows] == [images.ids[row] for row in before]
        assert (again.labels[rows] != images.labels[before]).nnz == 0
    assert again.classes == images.classes
    return None


@pytest.mark.parametrize("prefix", ["", "./data/own/"])
@settings(max_examples=60, deadline=None)
@given(splits(), st.data())
def test_any_split_comes_back_from_lists_or_is_refused(tmp_path_factory, prefix, made, data):
    """Paths with blanks or backslashes, and such as do not lead down, cannot; all others can."""
    images, split = made
    single = bool((images.label_counts == 1).all())
    style = data.draw(st.sampled_from(["one_hot", "index"] if single else ["one_hot"]))
    rows = np.unique(np.concatenate([split.train, split.database, split.queries]))
    message = come_back(tmp_path_factory.mktemp("lists"), images, split, style, prefix)
    odd = [
        name
        for name in (images.ids[row] for row in rows)
        if set(name) & set(" \t\r\n\f\v\\\0")
        or name[0] == "/"
        or ".." in name.split("/")
        or name.startswith("./")
        or (name[0] == "\ufeff" and not prefix)
    ]
    assert (message is not None) == bool(odd)
    assert message is None or "HashNet's lists cannot contain" in message


@settings(max_examples=20, deadline=None)
@given(splits(st.sampled_from([f"a/{k}.jpg" for k in range(20)]), several=False))
def test_single_labels_come_back_in_both_styles(tmp_path_factory, made):
    for style in ("one_hot", "index"):
        folder = tmp_path_factory.mktemp("lists")
        assert come_back(folder, *made, style, "/home/x/data/") is None
        assert come_back(folder, *made, style) is None  # written over


def test_lists_name_files_by_their_places(tmp_path):
    """Ids come back by an identity."""
    images, split = small()
    places = ("im/0_70.jpg", "im/1_71.jpg", "im/2_72.jpg", "im/3_73.jpg")
    ids = ("70", "71", "72", "73")
    images = Catalogue(ids=ids, labels=images.labels, classes=images.classes, places=places)
    write_lists(tmp_path, images, split)
    assert (tmp_path / "database.txt").read_text() == "im/2_72.jpg 0 0 0\nim/1_71.jpg 1 0 1\n"
    again = Lists(tmp_path, identity=r"_(\d+)\.jpg$").read()
    assert fingerprint(again, Listed().split(again)) == fingerprint(images, split)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("my image.jpg", "has a blank"),
        ("a\nb.jpg", "has a blank"),
        ("\udcff.jpg", "is not UTF-8"),
        ("a\0b.jpg", "has a zero byte"),
        ("/a.jpg", "does not lead down from a folder"),
        ("\ufeffa.jpg", "begins with a byte order mark"),
        ("a\\b.jpg", "has a backslash, as Windows paths do"),
    ],
)
def test_a_path_that_cannot_stand_in_a_list_is_reported(tmp_path, name, fault):
    images, split = small()
    ids = (name, *images.ids[1:])
    images = Catalogue(ids=ids, labels=images.labels, classes=images.classes)
    with pytest.raises(DataError, match=f"{fault}, which HashNet's lists cannot contain"):
        write_lists(tmp_path / "lists", images, split)
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / f"own{ENDING}"
    write_split(path, images, split, **TOLD)
    assert read_split(path)[0].ids[0] == name


def test_styles_that_do_not_fit_are_reported(tmp_path):
    images, split = small()
    with pytest.raises(DataError, match=r"style=index needs one label per image; 1 of 1"):
        write_lists(tmp_path, images, of([1], [2, 1], [0]), "index")
    with pytest.raises(DataError, match="style=onehot is unknown: one_hot or index"):
        write_lists(tmp_path, images, split, "onehot")
    catalogue = Catalogue(ids=("a", "b"), labels=np.ones((2, 1), bool), classes=("x",))
    with pytest.raises(DataError, match="would be read as class indices: use style=index"):
        write_lists(tmp_path, catalogue, of([0], [0], [1]))
    assert come_back(tmp_path, catalogue, of([0], [0], [1]), "index") is None


def test_a_list_of_nothing_is_not_written_and_none_is_left_over(tmp_path):
    images, _ = small()
    write_lists(tmp_path, images, of([], [1], [0]))
    assert {file.name for file in tmp_path.iterdir()} == {"test.txt", "database.txt"}
    (tmp_path / "train.txt").write_text("d 0 1 0\n")
    with pytest.raises(DataError, match=r"nothing trains in this split: remove .*train\.txt"):
        write_lists(tmp_path, images, of([], [1], [0]))


# the real lists


def test_the_lists_of_imagenet100_come_back(tmp_path):
    if not (REAL / "imagenet100").is_dir():
        pytest.skip("the real lists are not here")
    prefix = "./data/imagenet/"
    images = Lists(REAL / "imagenet100", strip_prefix=re.escape(prefix)).read()
    split = Listed().split(images)
    path = tmp_path / f"imagenet100{ENDING}"
    printed = write_split(path, images, split, dataset="imagenet100", protocol="lists")
    assert printed.startswith("dd387d484acb352e") and path.stat().st_size < 400_000
    again, _ = read_split(path)
    same(again, images)
    write_lists(tmp_path, again, split, prefix=prefix)
    for name in ("train", "test", "database"):
        packed = (REAL / "imagenet100" / f"{name}.txt.xz").read_bytes()
        assert (tmp_path / f"{name}.txt").read_bytes() == lzma.decompress(packed)
