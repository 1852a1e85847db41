"""Search in a collection, compared with plain loops over all images."""

import contextlib
import itertools
import os
import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deephash
from deephash.errors import BusyError, ConfigError, DataError, WriteError
from deephash.search import image_index as module
from deephash.search.image_index import ImageIndex, group_codes, home_of, search_codes
from deephash.search.store import CodeStore
from tests.search.conftest import make_encoder
from tests.search.pictures import save


@pytest.fixture
def photos(tmp_path):
    for seed in range(8):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    return tmp_path / "photos"


def bits(code):
    return int.from_bytes(bytes(code), "big")


def distance(a, b):
    return (bits(a) ^ bits(b)).bit_count()


CODES = st.lists(st.binary(min_size=2, max_size=2).map(lambda code: bytes([code[0] & 7, 0])),
                 min_size=1, max_size=30)  # fmt: skip


@contextlib.contextmanager
def stored(tmp_path_factory, codes, removed=()):
    """A snapshot of codes, some of which were removed, and the remaining ones by id."""
    folder = tmp_path_factory.mktemp("store")
    ids = [f"image {row}" for row in range(len(codes))]
    array = np.array([list(code) for code in codes], np.uint8)
    with CodeStore.create(folder / "codes", 16, {}) as store:
        store.add(array, ids)
        store.remove([ids[row] for row in removed])
        kept = [row for row in range(len(codes)) if row not in set(removed)]
        yield store.snapshot(), {ids[row]: codes[row] for row in kept}
    shutil.rmtree(folder)


@settings(max_examples=40)
@given(codes=CODES, data=st.data())
def test_search_is_that_of_a_loop(codes, data, tmp_path_factory):
    removed = data.draw(st.sets(st.integers(0, len(codes) - 1), max_size=3))
    top = data.draw(st.one_of(st.none(), st.integers(1, 12)))
    radius = data.draw(st.one_of(st.none(), st.integers(0, 4)))
    queries = data.draw(st.lists(st.sampled_from(codes), min_size=1, max_size=3))
    with stored(tmp_path_factory, codes, removed) as (snapshot, kept):
        names = [None, *kept, "absent"]
        exclude = data.draw(st.lists(st.sampled_from(names), min_size=3, max_size=3))[
            : len(queries)
        ]
        array = np.array([list(query) for query in queries], np.uint8)
        answers = search_codes(snapshot, array, top, radius, exclude)
    assert len(answers) == len(queries)
    for query, own, answer in zip(queries, exclude, answers, strict=True):
        ranked = sorted(
            (distance(query, code), row, name)
            for row, (name, code) in enumerate(kept.items())
            if name != own
        )
        assert answer.hex == query.hex()
        if radius is not None:
            ranked = [one for one in ranked if one[0] <= radius]
            shown = ranked[:top]
            more = len(ranked) - len(shown)
        else:
            shown = ranked[: top or 10]
            more = sum(one[0] == shown[-1][0] for one in ranked[len(shown) :]) if shown else 0
        assert [(hit.distance, hit.id) for hit in answer.hits] == [
            (d, name) for d, _, name in shown
        ]
        assert answer.more == more


def groups_of_a_loop(kept, radius):
    """The connected components of the graph of near images."""
    groups = [{name} for name in kept]
    for a, b in itertools.combinations(kept, 2):
        if distance(kept[a], kept[b]) <= radius:
            one, other = (next(group for group in groups if name in group) for name in (a, b))
            if one is not other:
                groups.remove(other)
                one |= other
    return [group for group in groups if len(group) > 1]


@settings(max_examples=40)
@given(codes=CODES, data=st.data())
def test_groups_are_those_of_a_loop(codes, data, tmp_path_factory):
    removed = data.draw(st.sets(st.integers(0, len(codes) - 1), max_size=3))
    radius = data.draw(st.integers(0, 3))
    few = data.draw(st.booleans())
    with (
        stored(tmp_path_factory, codes, removed) as (snapshot, kept),
        pytest.MonkeyPatch.context() as patched,
    ):
        if few:  # pairs are merged in several steps
            patched.setattr(module, "_QUERIES", 2)
            patched.setattr(module, "_EDGES", 3)
        groups = group_codes(snapshot, radius)
    expected = groups_of_a_loop(kept, radius)
    assert sorted(sorted(hit.id for hit in group.hits) for group in groups) == sorted(
        map(sorted, expected)
    )
    keys = [(group.width, -len(group.hits)) for group in groups]
    assert keys == sorted(keys)
    for group in groups:
        first = kept[group.hits[0].id]
        assert [hit.distance for hit in group.hits] == [
            distance(first, kept[hit.id]) for hit in group.hits
        ]
        pairs = itertools.combinations(group.hits, 2)
        assert group.width == max(distance(kept[a.id], kept[b.id]) for a, b in pairs)


def test_an_index_finds_the_nearest_images_and_follows_the_folder(photos, encoder):
    index = ImageIndex(encoder, photos)
    with pytest.raises(DataError, match="update it"):
        index.search(photos / "0.png")
    assert str(index.update()) == "8 images (8 added)"
    assert index.home == photos.with_name("photos.deephash")
    assert index.folder == index.home / encoder.fingerprint[:12]
    answers = index.search([photos / "3.png", photos / "5.png"], top=3)
    assert [answer.hits[0][:2] for answer in answers] == [(0, "3.png"), (0, "5.png")]
    save(photos / "more" / "9.png", 9)
    (photos / "3.png").unlink()
    assert str(index.update()) == "8 images (1 added, 1 removed)"
    (answer,) = index.search(photos / "more" / "9.png", top=8)
    assert answer.hits[0][:2] == (0, "more/9.png")
    assert "3.png" not in [hit.id for hit in answer.hits]
    again = ImageIndex(encoder, photos)
    assert again.search(photos / "more" / "9.png", top=8)[0].hits == answer.hits
    assert sorted(path.name for path in photos.iterdir()) == [
        "0.png", "1.png", "2.png", "4.png", "5.png", "6.png", "7.png", "more"
    ]  # fmt: skip


def test_each_encoder_has_a_folder_of_its_own(photos, encoder):
    other = make_encoder(seed=1)
    for one in (encoder, other):
        ImageIndex(one, photos).update()
    names = {path.name for path in home_of(photos).iterdir()}
    assert names == {encoder.fingerprint[:12], other.fingerprint[:12]}


def test_an_up_to_date_index_is_not_written(photos, encoder):
    index = ImageIndex(encoder, photos)
    (photos / "cut.png").touch()
    first = index.update()
    assert [one.id for one in first.unreadable] == ["cut.png"]
    assert index.unreadable_file.is_file()
    before = {path: path.stat().st_mtime_ns for path in index.home.rglob("*")}
    with CodeStore.open(index.folder, write=True):  # another process may write
        before[index.folder] = index.folder.stat().st_mtime_ns
        again = index.update()
        during = {path: path.stat().st_mtime_ns for path in before}
    assert during == before and again.unreadable == first.unreadable and again.total == 8
    save(photos / "cut.png", 3)
    assert index.update().added == 1 and not index.unreadable_file.exists()


def test_one_process_updates_while_others_search(photos, encoder):
    index = ImageIndex(encoder, photos)
    index.update()
    save(photos / "9.png", 9)
    with CodeStore.open(index.folder, write=True):
        with pytest.raises(BusyError):
            index.update()
        assert len(index.search(photos / "9.png", top=9)[0].hits) == 8
    assert index.update().added == 1


def test_the_folder_of_other_images_is_refused(tmp_path, photos, encoder):
    ImageIndex(encoder, photos, folder=tmp_path / "index").update()
    save(tmp_path / "others" / "a.png", 40)
    other = ImageIndex(encoder, tmp_path / "others", folder=tmp_path / "index")
    with pytest.raises(DataError, match=r"holds other images, such as 0.png.*index=FOLDER"):
        other.update()
    with CodeStore.open(other.folder) as store:
        assert len(store) == 8
    shutil.move(photos, tmp_path / "moved")  # the same images elsewhere
    moved = ImageIndex(encoder, tmp_path / "moved", folder=tmp_path / "index")
    assert str(moved.update()) == "8 images"


def test_an_empty_folder_does_not_empty_the_index(photos, encoder):
    index = ImageIndex(encoder, photos)
    index.update()
    shutil.rmtree(photos)
    photos.mkdir()  # such as an unmounted disk
    with pytest.raises(DataError, match="holds no images"):
        index.update()
    assert len(index.snapshot()) == 8


def test_a_place_that_cannot_be_written(photos, encoder, tmp_path):
    (tmp_path / "photos.deephash").write_text("a file")
    with pytest.raises(WriteError, match=r"index=FOLDER"):
        ImageIndex(encoder, photos).update()
    with pytest.raises(DataError, match="index=FOLDER"):
        ImageIndex(encoder, os.sep)


def test_many_removed_images_are_compacted(photos, encoder):
    index = ImageIndex(encoder, photos)
    index.update()
    for name in "01234":
        (photos / f"{name}.png").unlink()
    index.update()
    assert (index.folder / "codes-2.bin").stat().st_size == 3 * 3
    assert index.search(photos / "7.png", top=1)[0].hits[0].id == "7.png"


def test_duplicates_name_identical_files(photos, encoder):
    shutil.copy(photos / "0.png", photos / "copy of 0.png")
    shutil.copy(photos / "0.png", photos / "another.png")
    from PIL import Image

    Image.open(photos / "1.png").save(photos / "1.bmp")
    index = ImageIndex(encoder, photos)
    index.update()
    first, second = index.duplicates(radius=0)
    assert [hit.id for hit in first.hits] == ["0.png", "another.png", "copy of 0.png"]
    assert first.copies == {"another.png": "0.png", "copy of 0.png": "0.png"}
    assert {hit.id for hit in second.hits} == {"1.png", "1.bmp"} and second.copies == {}
    assert first.width == second.width == 0


def test_labels_are_found_with_the_images(photos, encoder):
    save(photos / "cats" / "tom.png", 30)
    index = ImageIndex(encoder, photos, labels="folders")
    index.update()
    assert index.search(photos / "cats" / "tom.png", top=1)[0].hits == [(0, "cats/tom.png", "cats")]


def test_it_is_part_of_the_package():
    assert deephash.ImageIndex is ImageIndex and "ImageIndex" in dir(deephash)


def labels_of(index):
    snapshot = index.snapshot()
    return snapshot.labels_at(np.arange(len(snapshot)))


def test_labels_are_those_of_the_last_update_that_named_them(tmp_path, encoder):
    for seed in range(4):
        save(tmp_path / "photos" / f"{seed % 2}" / f"{seed}.png", seed)
    photos, other = tmp_path / "photos", make_encoder(seed=1)
    index = ImageIndex(encoder, photos)
    index.update()
    assert labels_of(index) == [None] * 4 and not (index.home / module.LABELS).exists()
    ImageIndex(encoder, photos, labels="folders").update()
    for made in (ImageIndex(encoder, photos), ImageIndex(other, photos)):
        made.update()
        assert made.labels == "folders" and sorted(labels_of(made)) == ["0", "0", "1", "1"]
    assert ImageIndex(encoder, photos).update().relabelled == 0
    assert ImageIndex(encoder, photos, labels="none").update().relabelled == 4
    save(photos / "1" / "new.png", 9)
    index.update()  # another object, with the labels of its beginning
    assert set(labels_of(ImageIndex(encoder, photos))) == {None}


def test_the_column_of_labels_is_kept(tmp_path, encoder):
    save(tmp_path / "a.png")
    (tmp_path / "table.csv").write_text("path,label,author\na.png,cat,eva\n")
    for options, expected in (
        ({}, "cat"),
        ({"label_column": "author"}, "eva"),
        ({}, "eva"),
        ({"labels": "auto"}, "cat"),
        ({}, "cat"),
    ):
        index = ImageIndex(encoder, tmp_path / "table.csv", **options)
        index.update()
        assert labels_of(index) == [expected]


@pytest.mark.parametrize("text", ["{", '{"labels": "folder"}', '{"label_column": 3}', "[]"])
def test_a_damaged_file_of_labels_is_named(photos, encoder, text):
    home_of(photos).mkdir()
    (home_of(photos) / module.LABELS).write_text(text)
    with pytest.raises(DataError, match=r"labels\.json: .*\n  Remove it, and repeat"):
        ImageIndex(encoder, photos)
    ImageIndex(encoder, photos, labels="auto")


def test_unknown_labels_are_refused_before_the_run_is_loaded(photos):
    match = "labels  'folder' is not one of auto, folders, none. Did you mean labels=folders?"
    for call in (
        lambda: ImageIndex("no run", photos, labels="folder"),
        lambda: deephash.encode("no run", photos, labels="folder"),
    ):
        with pytest.raises(ConfigError, match=re.escape(match)):
            call()


def test_images_that_were_read_already_are_not_read_again(photos, encoder, monkeypatch):
    collection = module.open_collection(photos)
    index = ImageIndex(encoder, photos, collection=collection)
    with monkeypatch.context() as patched:
        patched.setattr(module, "open_collection", None)
        assert index.update().added == 8
    save(photos / "new.png", 9)
    assert index.update().added == 1
