"""Lists and their dialects, the files they name, the roles they give, and the real ones."""

import contextlib
import dataclasses
import json
import lzma
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deephash.config import build, checks, run_identity
from deephash.config.overrides import parse_all
from deephash.data.catalogue import select_classes
from deephash.data.datamodule import DataModule
from deephash.data.sources import list_parser
from deephash.data.sources.list_parser import Naming, parse_list, read_list
from deephash.data.sources.lists import Lists, list_sha1
from deephash.data.splits.protocols import Listed, describe_split, fingerprint
from deephash.data.splits.split_file import write_split
from deephash.data.transforms import Pipeline
from deephash.errors import DataError
from tests.commands import run
from tests.data.verification.test_inspection import MEASURED, REAL, SHARED
from tests.pages import composable, resolved, typed
from tests.paths import ROOT

NO_PREFIX = Naming()
FILE_NAME = "([^/]+)$"
FLICKR = r"(?:^|/)\d+_(\d+)[^/]*$"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPHASH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder, **lists):
    """Lists of `NAME=[(path, labels), ...]`, and the images they name, each of its own gray."""
    folder.mkdir(exist_ok=True)
    for role, lines in lists.items():
        text = "".join(f"{path} {labels}\n" for path, labels in lines)
        (folder / f"{role}.txt").write_text(text)
        for path, _ in lines:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            gray = int(re.search(r"\d+", file.stem)[0])
            Image.new("RGB", (9, 6), (gray, gray, gray)).save(file)
    return folder


@pytest.fixture
def small(tmp_path):
    """Five images of the database, two of them for training, and two queries; 5 has no label."""
    database = [
        (f"im/{k}.png", labels)
        for k, labels in ((3, "1 0 0"), (1, "1 1 0"), (5, "0 0 0"), (2, "0 1 1"), (4, "0 0 1"))
    ]
    return write(
        tmp_path / "data",
        database=database,
        train=[database[3], database[0]],
        test=[("im/9.png", "1 0 0"), ("im/8.png", "0 1 1")],
    )


def file_of(tmp_path, text, name="list.txt"):
    file = tmp_path / name
    data = text.encode()
    file.write_bytes(lzma.compress(data) if name.endswith(".xz") else data)
    return file


# one list


@pytest.mark.parametrize("name", ["list.txt", "list.txt.xz"])
@pytest.mark.parametrize(
    "text",
    [
        "a/x.jpg 1 0 0\nb.jpg 0 1 1\n",
        "a/x.jpg 1 0 0\r\n./b.jpg  0\t1 1",  # no end of the last line
        "\ufeffa/x.jpg 1 0 0\nb.jpg 0 1 1",
    ],
)
def test_a_list_is_read_packed_or_not(tmp_path, name, text):
    rows = read_list(file_of(tmp_path, text, name), None, NO_PREFIX)
    assert rows.ids == ["a/x.jpg", "b.jpg"]
    assert rows.labels.dtype == bool
    assert rows.labels.toarray().astype(int).tolist() == [[1, 0, 0], [0, 1, 1]]


def test_a_single_label_is_a_class_index(tmp_path):
    rows = read_list(file_of(tmp_path, "a.jpg 33\nb.jpg 0\n"), 100, NO_PREFIX)
    assert (
        rows.indexed and rows.labels.shape == (2, 100) and rows.labels.indices.tolist() == [33, 0]
    )


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("", "image/x.JPEG"),
        ("./", "image/x.JPEG"),
        ("./data/imagenet/", "image/x.JPEG"),
        ("/home/someone/dataset/imagenet/", "val_image/x.JPEG"),
    ],
)
def test_a_prefix_is_cut_off(tmp_path, prefix, path):
    naming = Naming(".*?/(?=(val_)?image/)")
    rows = read_list(file_of(tmp_path, f"{prefix}{path} 0 1\n"), None, naming)
    assert rows.ids == rows.places == [path]


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ("a 1 0\nb 1 0 1\n", None, "line 2: 3 labels; expected a path and 2 labels of 0 or 1"),
        ("a 1 0\nb 1\n", None, "line 2: 1 labels; expected a path and 2 labels"),
        ("a 1 0\nb\n", None, "line 2: 0 labels; expected a path and 2"),
        ("a 1 0\n\nb 1 0\n", None, "line 2: it is blank"),
        ("a 1 0\nb 1 2\n", None, "line 2: the label '2'; expected a path and 2"),
        ("a 1 0\nb 1 -1\n", None, "line 2: the label '-1'"),
        ("a 1 0\nb 10\n", None, "line 2: 1 labels"),
        ("a\nb\n", None, "line 1: 0 labels; expected a path and labels, 0 or 1 for each class, or"),
        ("a\nb\n", 4, "line 1: 0 labels; expected a path and 4 labels of 0 or 1, or in all lines"),
        ("a 1 0\n", 4, r"line 1: 2 labels.*dataset\.source\.class_names=null"),
        ("a 3\nb 4\n", 4, "line 2: the label '4'; expected a path and one class index from 0 to 3"),
        ("a 3\nb 1.0\n", None, r"line 2: the label '1\.0'; expected a path and one class index"),
        ("a 3\nb 0 1\n", 4, "line 2: 2 labels; expected a path and one class index from 0 to 3"),
        ("a 1 0\n./a 1 0\n", None, "line 2: a is in line 1 already"),
        ("/a 1 0\n", None, r"line 1: the path '/a' does not lead down.*strip_prefix"),
        ("b/../../a 1 0\n", None, "does not lead down"),
        (
            "/home/me/x/a/1.jpg 0\n",
            None,
            r"such as /home/me/x/, with dataset\.source\.strip_prefix",
        ),
        ("C:\\x\\a\\1.jpg 0\n", None, r"'C:/x/a/1\.jpg' does not lead down.*such as C:/x/,"),
        ("", None, "is empty"),
    ],
)
def test_a_malformed_line_is_reported_by_file_and_number(tmp_path, text, count, message):
    with pytest.raises(DataError, match=rf"list\.txt,? .*{message}"):
        read_list(file_of(tmp_path, text), count, NO_PREFIX)


@pytest.mark.parametrize("digits", ["1000000000000", "9" * 5000])
def test_an_absurd_class_index_is_reported(tmp_path, digits):
    with pytest.raises(DataError, match=f"line 2: the label '{digits}'.*from 0 to 2147483647"):
        read_list(file_of(tmp_path, f"a.jpg 1\nb.jpg {digits}\n"), None, NO_PREFIX)


def test_blanks_that_are_not_ascii_belong_to_a_path(tmp_path):
    rows = read_list(file_of(tmp_path, "a\u3000b.jpg 1 0\nc\xa0\x85.jpg 0 1\n"), None, NO_PREFIX)
    assert rows.ids == ["a\u3000b.jpg", "c\xa0\x85.jpg"]


def test_a_packed_list_may_have_several_parts_and_must_be_whole(tmp_path, monkeypatch):
    file = tmp_path / "list.txt.xz"
    parts = [lzma.compress(text) for text in (b"a.jpg 1 0\nb.j", b"pg 0 1\n")]
    file.write_bytes(b"".join(parts))
    assert read_list(file, None, NO_PREFIX).ids == ["a.jpg", "b.jpg"]
    file.write_bytes(b"".join(parts)[:-9])
    with pytest.raises(DataError, match=r"cannot read the list .*list\.txt\.xz: it is cut off"):
        read_list(file, None, NO_PREFIX)
    monkeypatch.setattr(list_parser, "LARGEST", 1 << 16)
    file.write_bytes(lzma.compress(bytes(1 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 65,536 bytes"):
        read_list(file, None, NO_PREFIX)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["list.txt", "list.txt.xz"]), st.booleans())
def test_any_bytes_are_rows_or_reported(tmp_path_factory, data, name, packed):
    file = tmp_path_factory.mktemp("fuzz") / name
    file.write_bytes(lzma.compress(data) if packed else data)
    with contextlib.suppress(DataError):
        rows = read_list(file, None, NO_PREFIX)
        assert len(rows.ids) == len(set(rows.ids)) == rows.labels.shape[0] > 0


PIECES = st.sampled_from(["a", "b.jpg", "/", "..", "./", "0", "1", "7", " ", "\t", "\r", "\n", "\n",
                          " 1 0", " 0 1", "\ufeff", "\x00", "é", "\u3000"])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=40), st.sampled_from([None, 1, 2, 8]))
def test_every_line_is_a_row_or_a_fault(pieces, count):
    """A row equals a naive parse of its line; other lines are reported by their numbers."""
    text, faults = "".join(pieces), []
    rows = parse_list(text, count, NO_PREFIX, lambda line, message: faults.append(line))
    lines = (text if "\n" in text else text.replace("\r", "\n")).split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    assert sorted([*rows.lines, *faults]) == list(range(1, len(lines) + 1))
    for line, name, labels in zip(rows.lines, rows.ids, rows.labels.toarray(), strict=True):
        path = lines[line - 1].strip(" \t\r\f\v")
        given = re.split("[ \t\r\f\v]+", path)[1:]
        given = given[len(given) - (1 if rows.indexed else len(labels)) :]
        for label in reversed(given):  # what is before them is the path, which may have blanks
            path = path.removesuffix(label).rstrip(" \t\r\f\v")
        assert name == path.removeprefix("./") and not name.startswith("/")
        if rows.indexed:
            assert np.flatnonzero(labels).tolist() == [int(given[0])]
        else:
            assert labels.astype(int).astype(str).tolist() == given


@pytest.mark.parametrize("name", ["list.txt", "list.txt.xz"])
def test_a_list_that_is_no_text_is_reported(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00 1 0")
    with pytest.raises(DataError, match=r"cannot read the list .*list\.txt"):
        read_list(tmp_path / name, None, NO_PREFIX)


# the lists of a set


def test_rows_roles_and_pixels(small):
    images = Lists(small, size=4).load()
    assert images.ids == tuple(f"im/{k}.png" for k in (3, 1, 5, 2, 4, 9, 8))
    assert images.inputs.shape == (7, 3, 4, 4)
    assert images.inputs[:, 0, 2, 2].tolist() == [3, 1, 5, 2, 4, 9, 8]
    assert {role: rows.tolist() for role, rows in images.lists.items()} == {
        "database": [0, 1, 2, 3, 4],
        "queries": [5, 6],
        "train": [3, 0],
    }
    labels = images.labels.toarray()
    assert labels[1].tolist() == [True, True, False] and not labels[2].any()
    assert images.classes == ("0", "1", "2") and images.multilabel


def test_each_file_is_decoded_once(small, monkeypatch):
    opened, really = [], Image.open

    def watched(path, **options):
        opened.append(path)
        return really(path, **options)

    monkeypatch.setattr(Image, "open", watched)
    for _ in range(2):
        Lists(small, size=4).load()
    assert len(opened) == len(set(opened)) == 7


def test_lists_may_lie_elsewhere_and_packed(small, tmp_path):
    before = Lists(small).load()
    folder = tmp_path / "lists"
    folder.mkdir()
    for name in ("train", "test", "database"):
        text = (small / f"{name}.txt").read_text().replace("im/", "./data/im/")
        file_of(folder, text, f"{name}.txt.xz")
        (small / f"{name}.txt").unlink()
    after = Lists(small, folder, strip_prefix=".*/(?=im/)").load()
    assert after.ids == before.ids
    prints = {fingerprint(images, Listed().split(images)) for images in (before, after)}
    assert len(prints) == 1


def test_files_are_found_where_they_are(small):
    """At their paths; with leading folders left out; anywhere, by their names."""
    before = Lists(small, size=4).load()
    assert before.places is None
    (small / "im" / "3.png").rename(small / "3.png")
    (small / "im" / "deep" / "er").mkdir(parents=True)
    (small / "im" / "8.png").rename(small / "im" / "deep" / "er" / "8.png")
    with pytest.raises(DataError, match=r"2 of 7 listed images(.|\n)*dataset\.source\.find=auto"):
        Lists(small, size=4, find="path").load()
    for find in ("auto", "id"):
        after = Lists(small, size=4, find=find).load()
        assert after.ids == before.ids and np.array_equal(after.inputs, before.inputs)
        assert after.places == (
            "3.png",
            *(f"im/{k}.png" for k in (1, 5, 2, 4, 9)),
            "im/deep/er/8.png",
        )
    (small / "other").mkdir()
    (small / "other" / "8.png").write_bytes(b"another")
    for find in ("auto", "id"):
        message = rf"find={find} finds two 8\.png.*: im/deep/er/8\.png and other/8\.png"
        with pytest.raises(DataError, match=message):
            Lists(small, find=find).load()
    write(small, test=[("elsewhere/3.png", "1 0 0")])
    with pytest.raises(
        DataError, match=r"find=id cannot distinguish im/3\.png and elsewhere/3\.png"
    ):
        Lists(small, find="id").load()


def test_missing_images_are_counted_and_the_first_named(small):
    for k in (3, 5, 2, 4, 9, 8):
        (small / "im" / f"{k}.png").unlink()
    with pytest.raises(DataError) as caught:
        Lists(small, origin="ask the library", find="path").load()
    message = str(caught.value)
    assert f"6 of 7 listed images are not below {small}:" in message
    assert re.findall(r"im/(\d)\.png", message) == ["3", "5", "2", "4", "9"]
    assert "and 1 more" in message and "library" not in message
    for word in ("dataset.root=FOLDER", "dataset.source.find=auto", "dataset.source.on_error=skip"):
        assert word in message
    (small / "im" / "1.png").unlink()
    for on_error in ("raise", "skip"):  # nothing at all is there
        with pytest.raises(DataError, match=r"7 of 7(.|\n)*ask the library"):
            Lists(small, origin="ask the library", on_error=on_error).load()


def test_missing_and_unreadable_images_are_skipped(small, caplog):
    (small / "im" / "1.png").unlink()
    (small / "im" / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 7"):
        Lists(small).load()
    for _ in range(2):  # decoded, then from the cache
        images = Lists(small, size=4, on_error="skip").load()
        assert images.skipped == ("im/1.png", "im/2.png")
        assert images.ids == tuple(f"im/{k}.png" for k in (3, 5, 4, 9, 8))
        assert images.inputs[:, 0, 0, 0].tolist() == [3, 5, 4, 9, 8]
        assert images.labels.toarray()[2].tolist() == [False, False, True]
        assert {role: rows.tolist() for role, rows in images.lists.items()} == {
            "database": [0, 1, 2],
            "queries": [3, 4],
            "train": [0],
        }
    assert "left out 1 missing of 7" in caplog.text and "left out 1 unreadable" in caplog.text


def test_missing_lists_are_reported_with_their_origin(small):
    (small / "train.txt").unlink()
    (small / "database.txt").unlink()
    with pytest.raises(DataError) as caught:
        Lists(small, origin="Lists: from here.\nImages: from there.").load()
    message = str(caught.value)
    assert message.startswith(f"no database.txt, train.txt in {small}, nor packed")
    for word in ("Images: from there.", "dataset.lists=FOLDER", f"{small}/<path>", "path 0 1 0"):
        assert word in message


def test_lists_that_disagree_are_reported(small):
    write(small, test=[("im/1.png", "1 1 0"), ("im/4.png", "1 0 1"), ("im/2.png", "0 0 0")])
    with pytest.raises(DataError, match=r"test\.txt gives 2 images other labels .*is im/4\.png"):
        Lists(small).load()
    write(small, test=[("im/9.png", "1 0 0 0")])
    with pytest.raises(DataError, match="differ in their number of labels"):
        Lists(small).load()


def test_indices_and_vectors_are_one_dataset(tmp_path):
    root = write(
        tmp_path / "data",
        database=[("1.png", "0 0 1"), ("2.png", "1 0 0")],
        train=[("1.png", "2")],
        test=[("3.png", "1")],
    )
    images = Lists(root, size=2, class_names=("a", "b", "c")).load()
    assert images.labels.argmax(axis=1).tolist() == [2, 0, 1] and not images.multilabel
    assert Lists(root, size=2).read().classes == ("0", "1", "2")


def test_class_indices_make_as_many_classes_as_there_can_be(tmp_path):
    for name, text in {"train": "a 7\n", "test": "b 50000\n", "database": "c 0\n"}.items():
        file_of(tmp_path, text, f"{name}.txt")
    message = r"test\.txt, line 1: the class index 50000 implies 50001 classes of 3 images"
    with pytest.raises(DataError, match=rf"{message}.*dataset\.source\.class_names=50001"):
        Lists(tmp_path).read()
    many = Lists(tmp_path, class_names=50001).read()
    assert many.labels.indices.tolist() == [0, 50000, 7] and len(many.classes) == 50001
    file_of(tmp_path, "b 9999\n", "test.txt")
    assert len(Lists(tmp_path).read().classes) == 10_000
    file_of(tmp_path, "b 0 1\n", "test.txt")
    with pytest.raises(DataError, match=r"number of labels: .*train\.txt has 8, another 2"):
        Lists(tmp_path).read()


def test_nothing_needs_to_train(small):
    (small / "train.txt").unlink()
    images = Lists(small, train=None).read()
    assert set(images.lists) == {"database", "queries"}
    assert len(Listed().split(images).train) == 0


def test_images_are_decoded_on_access(small, own_cache):
    whole = Lists(small, size=4).load()
    before = sorted(own_cache.rglob("*"))
    lazy = Lists(small, size=4, cached=False).load()
    assert np.array_equal(lazy.inputs[np.arange(7)], whole.inputs)
    assert sorted(own_cache.rglob("*")) == before


# identity: one set in every dialect


DIALECTS = {
    "bare": ("{name}", "one_hot"),
    "folder": ("./data/nus_wide/images/{name}", "one_hot"),
    "absolute": ("/home/someone/run/dataset/{name}", "index"),
    "up": ("../elsewhere/{name}", "index"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_set_has_one_fingerprint_in_every_dialect(tmp_path, dialect):
    """And its files are found, wherever the lists thought that they lay."""
    path, style = DIALECTS[dialect]
    root = tmp_path / "root"
    for k in range(6):
        file = root / "deep" / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 3), (k, k, k)).save(file)
    labels = [
        f"{k % 3}" if style == "index" else " ".join(str(int(c == k % 3)) for c in range(3))
        for k in range(6)
    ]
    lines = [f"{path.format(name=f'{k}.png')} {labels[k]}\n" for k in range(6)]
    for name, rows in {"database": (3, 1, 4, 0), "train": (0, 3), "test": (5, 2)}.items():
        file_of(tmp_path, "".join(lines[row] for row in rows), f"{name}.txt")
    images = Lists(root, tmp_path, identity=FILE_NAME, size=3).load()
    assert images.ids == tuple(f"{k}.png" for k in (3, 1, 4, 0, 5, 2))
    assert images.inputs[:, 0, 0, 0].tolist() == [3, 1, 4, 0, 5, 2]
    assert images.places == tuple(f"deep/{k}.png" for k in (3, 1, 4, 0, 5, 2))
    assert fingerprint(images, Listed().split(images)).startswith("98678923c5abc97f")


def test_both_worlds_of_nus_wide_are_one(tmp_path):
    """Lists of one naming, images of the other; tags beside them have the same ids."""
    worlds = {
        "a": "./data/images/{k:04d}_{flickr}.jpg",
        "b": "images/{k}_{flickr}_7f1a328add_m.jpg",
    }
    result = {}
    for world, path in worlds.items():
        for name, rows in {"database": range(6), "train": (0, 2), "test": (7, 6)}.items():
            lines = (f"{path.format(k=k, flickr=262727880 + k)} 1 {k % 2}\n" for k in rows)
            file_of(tmp_path, "".join(lines), f"{name}.txt")
        result[world] = Lists(tmp_path, identity=FLICKR).read()
    assert result["a"].ids == result["b"].ids and result["a"].ids[0] == "262727880"
    prints = {fingerprint(images, Listed().split(images)) for images in result.values()}
    assert len(prints) == 1
    (tmp_path / "Flickr").mkdir()
    (tmp_path / "tags").mkdir()
    for k in range(8):
        Image.new("RGB", (2, 2), (k, k, k)).save(tmp_path / f"Flickr/{k:04d}_{262727880 + k}.png")
        (tmp_path / f"tags/{k:04d}_{262727880 + k}.txt").write_text("sky")
    images = Lists(tmp_path, identity=FLICKR, size=2).load()
    assert images.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 7, 6]
    assert images.places[7] == "Flickr/0006_262727886.png"


def test_two_paths_with_one_id_are_reported_by_their_lines(tmp_path):
    file = file_of(tmp_path, "a/1.png 1 0\nb/2.png 1 0\nb/1.png 1 0\n")
    with pytest.raises(
        DataError, match=r"line 3: b/1\.png has the id 1\.png, as a/1\.png of line 1"
    ):
        read_list(file, None, Naming(None, FILE_NAME))
    assert len(read_list(file, None, NO_PREFIX).ids) == 3


def test_a_path_without_an_id_is_reported(tmp_path):
    file = file_of(tmp_path, "0571_262727880.jpg 1 0\nsky.jpg 1 0\n")
    with pytest.raises(
        DataError, match=r"line 2: the path 'sky\.jpg' has no id: dataset\.source\.id"
    ):
        read_list(file, None, Naming(None, FLICKR))


def test_the_advice_on_identity_can_be_typed(tmp_path, pages):
    with pytest.raises(DataError) as caught:
        read_list(file_of(tmp_path, "/home/x/a.jpg 1 0\n"), None, NO_PREFIX)
    (word,) = re.findall(r"'(dataset\.source\.identity=.*)'", str(caught.value))
    assert pages("dataset=imagenet100", word)["dataset"]["source"]["identity"] == FILE_NAME


# split files instead of lists


def packed(small, **change):
    """The split file of the small lists; what it is made of, and its path."""
    images = Lists(small).read()
    sums = {
        f"{name}.txt": list_sha1(small / f"{name}.txt") for name in ("train", "test", "database")
    }
    path = small / "lists.split.xz"
    origin = {"dataset": "own", "protocol": "lists", "lists": sums, **change}
    return images, path, write_split(path, images, Listed().split(images), **origin)


def test_a_split_file_is_read_instead_of_lists(small, tmp_path):
    images, path, printed = packed(small)
    for name in ("train", "test", "database"):
        (small / f"{name}.txt").unlink()
    with pytest.raises(DataError, match=r"no database\.txt, test\.txt, train\.txt"):
        Lists(small).read()
    for source in (Lists(small, split=path.name, size=4), Lists(small, lists=path, size=4)):
        again = source.load()
        assert again.ids == images.ids and again.classes == images.classes
        assert (again.labels != images.labels).nnz == 0
        assert fingerprint(again, Listed().split(again)) == printed
        assert again.inputs[:, 0, 2, 2].tolist() == [3, 1, 5, 2, 4, 9, 8]
    path.rename(tmp_path / "moved.split.xz")
    assert Lists(small, lists=tmp_path / "moved.split.xz").read().ids == images.ids


def test_lists_are_read_where_there_is_no_split_file(small):
    assert Lists(small, split="lists.split.xz").read().ids == Lists(small).read().ids


@pytest.mark.parametrize("name", ["train.txt", "train.txt.xz"])
def test_a_split_file_of_other_lists_is_refused(small, name):
    packed(small)
    source = Lists(small, split="lists.split.xz")
    text = (small / "train.txt").read_text()
    (small / "train.txt").unlink()
    file_of(small, text, name)
    assert len(source.read()) == 7
    file_of(small, text[::-1], name)
    message = "made from other lists.*deephash data prepare dataset=own"
    with pytest.raises(DataError, match=message):
        source.read()


def test_classes_of_a_split_file_are_those_of_the_dataset(small):
    _, path, _ = packed(small)
    assert Lists(small, lists=path, class_names=list("xyz")).read().classes == ("x", "y", "z")
    assert Lists(small, lists=path, class_names=3).read().classes == ("0", "1", "2")
    with pytest.raises(DataError, match=r"other classes \(0 and 2 more\) than .*\(x and 1 more\)"):
        Lists(small, lists=path, class_names=list("xy")).read()
    images = Lists(small, class_names=list("xyz")).read()
    write_split(path, images, Listed().split(images), dataset="own", protocol="lists")
    for names in (None, 3):
        assert Lists(small, lists=path, class_names=names).read().classes == ("x", "y", "z")
    with pytest.raises(DataError, match=r"other classes \(x and 2 more\)"):
        Lists(small, lists=path, class_names=list("abc")).read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"find": "hash"}, "find=hash is unknown"),
        ({"strip_prefix": "("}, r"strip_prefix=\( is no regular expression"),
        ({"identity": "("}, r"identity=\( is no regular expression"),
        ({"identity": "[^/]+$"}, r"identity=\[\^/\]\+\$ has no group: put brackets"),
        ({"class_names": -1}, "class_names=-1 must be at least 0"),
        ({"on_error": "skip", "cached": False}, "needs dataset.source.cached=true"),
        ({"fit": "stretch"}, "fit=stretch is unknown"),
        ({"size": 0}, "size=0 must be positive"),
        ({"on_error": "pass"}, "on_error=pass is unknown"),
    ],
)
def test_invalid_options_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        Lists("x", **change)


# roles


def test_listed_roles_and_their_order(small):
    images = Lists(small).read()
    split = Listed().split(images)
    assert [images.ids[row] for row in split.train] == ["im/2.png", "im/3.png"]
    assert split.database.tolist() == [0, 1, 2, 3, 4] and split.queries.tolist() == [5, 6]
    assert len(split.validation) == 0
    facts = describe_split(images, split, "own", "lists", 0)
    assert facts.overlaps == {"train_queries": 0, "queries_database": 0, "train_database": 2}


def test_the_rest_is_searched(small):
    """Whether the database's list names the queries or not, or there is none."""
    without = Listed("rest").split(Lists(small).read())
    assert without.database.tolist() == [0, 1, 2, 3, 4]
    lines = (small / "database.txt").read_text().splitlines(keepends=True)
    query_lines = (small / "test.txt").read_text()
    (small / "database.txt").write_text("".join([lines[0], query_lines, *lines[1:]]))
    images = Lists(small).read()
    split = Listed("rest").split(images)
    assert [images.ids[row] for row in split.database] == [f"im/{k}.png" for k in (3, 1, 5, 2, 4)]
    with pytest.raises(DataError, match="2 in the database"):
        Listed().split(images)
    kept = Listed(queries_in_database="keep").split(images)
    assert describe_split(images, kept, "own", "lists", 0).overlaps["queries_database"] == 2
    alone = Lists(small, database=None).read()
    split = Listed("rest").split(alone)
    assert [alone.ids[row] for row in split.database] == ["im/2.png", "im/3.png"]
    with pytest.raises(DataError, match=r"no list of the database.*database=rest"):
        Listed().split(alone)


@pytest.mark.parametrize("database", ["listed", "rest"])
def test_a_query_never_trains(small, database):
    write(small, train=[("im/3.png", "1 0 0"), ("im/9.png", "1 0 0")])
    with pytest.raises(DataError, match="1 queries are in train"):
        Listed(database, queries_in_database="keep").split(Lists(small).read())


def test_a_role_without_images_is_reported(small):
    images = Lists(small).read()
    with pytest.raises(DataError, match="no image is left for the role train"):
        Listed().split(
            dataclasses.replace(images, lists={**images.lists, "train": np.zeros(0, int)})
        )


def many(tmp_path, labels, train=10, queries=5):
    lines = [(f"{k}.png", labels(k)) for k in range(60)]
    text = {"train": lines[:train], "database": lines[:-queries], "test": lines[-queries:]}
    for name, pairs in text.items():
        file_of(tmp_path, "".join(f"{path} {given}\n" for path, given in pairs), f"{name}.txt")
    return Lists(tmp_path).read()


def test_validation_by_quota(tmp_path):
    """Every image has class 0, every third class 1, every fifth class 2: nine serve them."""
    images = many(tmp_path, lambda k: f"1 {int(k % 3 == 0)} {int(k % 5 == 0)}")
    split = Listed(validation=3).split(images)
    assert len(split.validation) == 9
    assert np.isin(split.validation, split.database).all()
    assert not np.isin(split.validation, [*split.train, *split.queries]).any()
    assert (images.labels[split.validation].sum(axis=0) >= 3).all()
    again, other = Listed(validation=3).split(images), Listed(validation=3, seed=1).split(images)
    assert split.validation.tolist() == again.validation.tolist() != other.validation.tolist()
    prints = {fingerprint(images, Listed(validation=n, seed=n).split(images)) for n in (0, 3)}
    assert len(prints) == 1
    with pytest.raises(DataError, match=r"class '2' gives only \d of 9 validation items"):
        Listed(validation=9).split(images)


def test_validation_of_single_labels_is_so_many_of_each(tmp_path):
    images = many(tmp_path, lambda k: k % 4)
    split = Listed(validation=6).split(images)
    assert images.labels[split.validation].sum(axis=0).tolist() == [6] * 4


def test_validation_leaves_a_train_that_is_the_database(tmp_path):
    images = many(tmp_path, lambda k: k % 4, train=55)
    split = Listed(validation=6).split(images)
    assert len(split.train) == 31 and len(split.database) == 55
    assert sorted([*split.train, *split.validation]) == sorted(split.database)
    with pytest.raises(DataError, match="gives only 13 of 14"):
        Listed(validation=14).split(images)
    images = many(tmp_path, lambda k: k % 4, train=52, queries=8)
    with pytest.raises(DataError, match="leave nothing to train"):
        Listed(validation=13).split(images)


def test_listed_needs_lists(small):
    images = dataclasses.replace(Lists(small).read(), lists=None)
    with pytest.raises(DataError, match="has no lists"):
        Listed().split(images)
    with pytest.raises(DataError, match="database=all is unknown"):
        Listed("all")


def test_some_classes_keep_their_roles(tmp_path):
    images = many(tmp_path, lambda k: k % 4)
    split, chosen = Listed().split(images), select_classes(images, [3, 1])
    kept = Listed().split(chosen)
    for role in ("train", "database", "queries"):
        ids = [images.ids[row] for row in getattr(split, role) if row % 4 in (3, 1)]
        assert [chosen.ids[row] for row in getattr(kept, role)] == ids


def test_images_without_a_label_stay_and_do_not_train(small):
    write(small, train=[("im/3.png", "1 0 0"), ("im/5.png", "0 0 0"), ("im/2.png", "0 1 1")])
    data = DataModule(
        "own", Lists(small, size=4), Listed(), "lists", Pipeline([]), Pipeline([]), batch_size=2
    )
    data.setup("cpu")
    assert (data.facts.num_train, data.facts.num_train_unlabelled, data.steps) == (3, 1, 1)
    assert 1 not in next(data.train(0)).index


# the datasets


@pytest.fixture(scope="module")
def pages():
    with composable():
        yield lambda *words: resolved(["trainer.device=cpu", *words])


@pytest.mark.parametrize("dataset", ["imagenet100", "nuswide21"])
def test_a_dataset_of_lists_is_configured_like_the_others(dataset, pages):
    cfg, cifar = pages(f"dataset={dataset}"), pages("dataset=cifar10")
    assert set(cfg["dataset"]) >= {*cifar["dataset"], "lists"}
    assert set(cfg["dataset"]["schedule"]) == set(cifar["dataset"]["schedule"])
    assert checks.check_train(cfg) == [] and build.data_module(typed(cfg)).expected
    unchecked = pages(f"dataset={dataset}", "dataset.expected=null")
    assert build.data_module(typed(unchecked)).expected is None
    moved = pages(f"dataset={dataset}", "dataset.root=here", "dataset.lists=there")
    source = build.data_module(typed(moved)).source
    assert (source.root, source.lists) == (Path("here"), Path("there"))


def test_what_is_expected_and_where_from_change_no_run(pages):
    words = ("dataset=imagenet100", "dataset.root=x", "dataset.lists=y", "dataset.expected=null")
    assert (
        run_identity.run_name(pages(*words), parse_all(words)) == "imagenet100/relahash/32bit/seed0"
    )
    plain = run_identity.identity_of(pages(*words[:3]))
    assert plain == run_identity.identity_of(pages(*words, "dataset.source.origin=elsewhere"))


@pytest.mark.parametrize("dataset", ["imagenet100", "nuswide21"])
@pytest.mark.parametrize("size", [32, 224])
def test_views_have_the_size_asked_for(dataset, size, pages):
    data = build.data_module(typed(pages(f"dataset={dataset}", f"dataset.size={size}")))
    side = pages(f"dataset={dataset}")["dataset"]["source"]["size"]
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    for view in (data.view_transforms[0][1], data.test_transform):
        assert view(pixels, torch.Generator().manual_seed(0)).shape == (2, 3, size, size)


def miniature(dataset, root):
    """126 images of which 100 train, and 21 queries, in the layout of a dataset."""
    if dataset == "imagenet100":
        folders = ("image", "val_image")
        columns = [[c == k % 100 for c in range(100)] for k in range(151)]
    else:
        folders = ("images", "images")
        columns = [[c in (k % 21, k % 5) for c in range(21)] for k in range(151)]
    lines = [
        (f"{folders[k >= 130]}/{k}_{k}.png", " ".join(str(int(label)) for label in columns[k]))
        for k in range(151)
    ]
    return write(root, train=lines[:100], test=lines[130:], database=lines[:126])


SMALL = ("dataset.size=16", "dataset.source.size=16", "trainer.batch_size=20")


@pytest.mark.parametrize("dataset", ["imagenet100", "nuswide21"])
def test_a_small_set_in_the_layout_of_a_dataset(dataset, tmp_path, pages):
    root = miniature(dataset, tmp_path / "data")
    cfg = pages(f"dataset={dataset}", f"dataset.root={root}", *SMALL)
    cfg["dataset"]["protocols"]["lists"]["validation"] = 0
    with pytest.raises(DataError, match=r"num_train should be 1\d+ and is 100(.|\n)*expected=null"):
        build.data_module(typed(cfg)).setup("cpu")
    data = build.data_module(typed(cfg | {"dataset": cfg["dataset"] | {"expected": None}}))
    data.setup("cpu")
    facts = data.facts
    assert (facts.num_train, facts.num_database, facts.num_queries) == (100, 126, 21)
    assert facts.multilabel == (dataset == "nuswide21")
    assert facts.classes[0] in ("n01514668", "sky")
    assert next(data.train(0)).images.shape == (20, 1, 3, 16, 16)


@pytest.mark.slow
def test_a_whole_run(tmp_path):
    """Trained, and measured again when images and lists have moved."""
    dataset = "nuswide21"
    root = miniature(dataset, tmp_path / "data")
    words = (f"dataset={dataset}", f"dataset.root={root}", "dataset.expected=null", *SMALL,
             "dataset.protocols.lists.validation=0", "dataset.top=50", "backbone=tiny",
             "trainer.epochs=1", "logger=quiet")  # fmt: skip
    run(tmp_path, *words)
    (report,) = (tmp_path / "outputs" / dataset / "relahash" / "32bit").glob("*/report.json")
    report_ = json.loads(report.read_text())
    assert report_["protocol"]["protocol"] == "lists" and report_["protocol"]["num_train"] == 100
    assert report_["metrics"]["conventions"]["top"] == 50
    root.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    for name in ("train.txt", "test.txt", "database.txt"):
        (tmp_path / "moved" / name).rename(tmp_path / "elsewhere" / name)
    words = (
        f'run="{report.parent}"',
        f"dataset.root={tmp_path / 'moved'}",
        f"dataset.lists={tmp_path / 'elsewhere'}",
        "figures=false",
    )
    output = run(tmp_path, *words, script="evaluate.py")
    assert f"{report_['metrics']['map']!r}: the same" in output


@pytest.mark.slow
def test_help_names_the_datasets_and_missing_data_fit_on_a_screen(tmp_path):
    (line,) = (
        line for line in run(tmp_path, "--help").splitlines() if line.startswith("dataset: ")
    )
    assert {"imagenet100", "nuswide21"} <= set(re.findall(r"\w+", line))
    output = run(tmp_path, "dataset=imagenet100", "trainer.device=cpu", code=1)
    for word in (
        "train.txt",
        "data/imagenet100/<path>",
        "HashNet",
        "image-net.org",
        "dataset.root=",
    ):
        assert word in output
    lines = output.replace(str(ROOT), "").splitlines()  # the script as it was typed
    assert len(lines) < 12 and max(map(len, lines)) <= 120


# the real lists


@pytest.mark.parametrize("dataset", MEASURED)
def test_the_real_lists(dataset, pages):
    if not (REAL / dataset).is_dir():
        pytest.skip("the real lists are not here")
    node = pages(f"dataset={dataset}")["dataset"]["source"]
    options = {key: node[key] for key in ("class_names", "strip_prefix", "identity")}
    file = None if dataset == "nuswide21" else "database.txt"
    images = Lists(REAL / dataset, database=file, **options).read()
    for role, (*counted, _) in MEASURED[dataset].items():
        labels = images.labels[images.lists[role]].toarray()
        each = labels.sum(axis=0)
        result = (len(labels), labels.sum() / len(labels), int((~labels.any(axis=1)).sum()))
        assert (result[0], round(result[1], 3), result[2], each.min(), each.max()) == tuple(counted)
    protocol = Listed(
        "listed" if file else "rest", queries_in_database="keep" if dataset == "coco" else "refuse"
    )
    facts = describe_split(images, protocol.split(images), dataset, "lists", 0)
    if file is None:  # the rest is the database
        assert (*facts.overlaps.values(), len(images)) == (0, 0, 10500, 12600)
    else:
        assert (*facts.overlaps.values(), len(images)) == SHARED[dataset]
    prints = {facts.fingerprint[:16]}
    if dataset == "imagenet100":
        of = [images.ids[row] for row in images.lists["database"]]
        names = np.array([re.search(r"(n\d+)_\d+\.JPEG$", name)[1] for name in of])
        rows = images.labels[images.lists["database"]].toarray()
        assert (np.array(images.classes)[rows.argmax(axis=1)] == names).all()
        again = Lists(REAL / dataset, strip_prefix=".*?/(?=(val_)?image/)").read()
        prints.add(fingerprint(again, Listed().split(again))[:16])
        assert prints == {"be22fb62128bf621", "dd387d484acb352e"}


def test_paths_of_windows_have_the_same_ids(tmp_path):
    prints = []
    for name, prefix in (("a", "data/"), ("b", "D:\\data\\"), ("c", "photos\\")):
        folder = tmp_path / name
        folder.mkdir()
        for role, rows in (("train", "ab"), ("test", "c"), ("database", "abd")):
            text = "".join(f"{prefix}{row}.jpg 0 1\n" for row in rows)
            (folder / f"{role}.txt").write_text(text)
        catalogue = Lists(folder, identity="([^/]+)$").read()
        assert catalogue.ids[:3] == ("a.jpg", "b.jpg", "d.jpg")
        prints.append(fingerprint(catalogue, Listed().split(catalogue)))
    assert len(set(prints)) == 1


def parsed(text, count=None):
    faults = []
    rows = parse_list(text, count, NO_PREFIX, lambda line, message: faults.append(message))
    return rows, faults


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("my pic.jpg 3\nother.jpg 1\n", ["my pic.jpg", "other.jpg"]),
        ("other.jpg 1\na  b (1).JPG 0\n", ["other.jpg", "a  b (1).JPG"]),
        ("my dogs/pic 1.png 0 1 0\nb.png 1 0 0\n", ["my dogs/pic 1.png", "b.png"]),
        ("my pic\t0 1\nb c.d\t1\t0\n", ["my pic", "b c.d"]),
        ("my pic.tif\t2\nb.tif\t0\n", ["my pic.tif", "b.tif"]),
        ("a b.jpg 1\r\nc.jpg 0\r\n", ["a b.jpg", "c.jpg"]),
        ("a.jpg 1\rb.jpg 0\r", ["a.jpg", "b.jpg"]),
    ],
)
def test_paths_with_blanks_are_read_where_the_labels_leave_no_doubt(text, ids):
    rows, faults = parsed(text)
    assert rows.ids == ids and not faults
    assert rows.labels.sum() == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my pic 3\n", "stands before a tab"),
        ("a.jpg b.jpg 3\n", "stands before a tab"),
        ("my pic.jpg x\n", "stands before a tab"),
        ("path label\na.jpg 1\n", "no header"),
        ("# made by hand\na.jpg 1\n", "no comments"),
        ("a.jpg,0,1\n", "no commas; for a table with a header use dataset=csv"),
        ("a.jpg 0,1\n", "no commas"),
    ],
)
def test_other_formats_of_lines_are_reported_with_advice(text, message):
    _, faults = parsed(text)
    assert message in faults[0] and "expected a path" in faults[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_lists_in_unicode_of_any_width(tmp_path, encoding):
    (tmp_path / "l.txt").write_text("caf\u00e9/1.jpg 0\nth\u00e9/2.jpg 1\n", encoding=encoding)
    rows = read_list(tmp_path / "l.txt", None, NO_PREFIX)
    assert rows.ids == ["caf\u00e9/1.jpg", "th\u00e9/2.jpg"]


def test_lists_in_another_encoding_are_reported_by_line(tmp_path):
    (tmp_path / "l.txt").write_text("a.jpg 0\ncaf\u00e9.jpg 1\n", encoding="cp1252")
    with pytest.raises(DataError, match=r"line 2 is not UTF-8 .*Windows-1252"):
        read_list(tmp_path / "l.txt", None, NO_PREFIX)


def test_a_packed_list_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path):
    file = tmp_path / "list.txt.xz"
    squeezer = lzma.LZMACompressor(preset=0)
    line = b"a.jpg" + b" 0" * 500_000 + b"\n"
    data = b"".join([*(squeezer.compress(line) for _ in range(60)), squeezer.flush()])
    file.write_bytes(data)
    assert len(data) < 20_000  # of 60 MB
    with pytest.raises(DataError, match=r"it unpacks to more than 1,000 times its size"):
        read_list(file, None, NO_PREFIX)
