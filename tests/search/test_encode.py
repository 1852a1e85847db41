"""Encoding collections, and keeping stores up to date with them."""

import os
import zipfile

import numpy as np
import pytest

from deephash.errors import DataError, WriteError
from deephash.search import encode as module
from deephash.search.collection import Files, Item, open_collection
from deephash.search.encode import (
    UnreadableImage,
    encode_items,
    plan_update,
    read_unreadable,
    update_store,
    write_unreadable,
)
from deephash.search.store import CodeStore
from deephash.training.code_encoder import CodeEncoder
from tests.search.conftest import make_encoder
from tests.search.pictures import content, save


@pytest.fixture
def photos(tmp_path):
    for seed in range(11):
        save(tmp_path / "photos" / f"{seed:02}.png", seed)
    return tmp_path / "photos"


def open_store(tmp_path, encoder):
    return CodeStore.create(tmp_path / "store", encoder.nbit, encoder.describe())


def codes_of(store):
    snapshot = store.snapshot()
    return dict(zip(snapshot.ids, snapshot.codes.tolist(), strict=True))


@pytest.mark.parametrize("batch_size", [None, 1, 3, 11, 100])
def test_codes_are_those_of_the_encoder(photos, encoder, batch_size):
    collection, failed = open_collection(photos), []
    parts = list(encode_items(encoder, collection, collection.items, failed, batch_size, 2))
    names = [item.id for part in parts for item in part.items]
    assert names == sorted(path.name for path in photos.iterdir()) and failed == []
    expected = encoder.encode([photos / name for name in names])
    np.testing.assert_array_equal(np.concatenate([part.codes for part in parts]), expected)
    sizes = [len(part.items) for part in parts]
    assert max(sizes) <= (batch_size or encoder.batch_size) and sum(sizes) == 11


def test_an_archive_gives_the_codes_of_its_files(tmp_path, photos, encoder):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in photos.iterdir():
            archive.write(path, path.name)
    stores = []
    for name in ("photos", "photos.zip"):
        with CodeStore.create(tmp_path / f"of {name}", 20, encoder.describe()) as store:
            update_store(store, open_collection(tmp_path / name), encoder)
            stores.append(codes_of(store))
    assert stores[0] == stores[1] and len(stores[0]) == 11


def test_unreadable_images_are_named(photos, encoder, tmp_path):
    (photos / "empty.jpg").touch()
    (photos / "page.png").write_text("<html>")
    (photos / "cut.png").write_bytes(content(1)[:100])
    (photos / "broken.png").symlink_to(photos / "nowhere")
    with open_store(tmp_path, encoder) as store:
        update = update_store(store, open_collection(photos), encoder)
    assert update.added == update.total == 11
    causes = {one.id: one.cause for one in update.unreadable}
    assert set(causes) == {"empty.jpg", "page.png", "cut.png", "broken.png"}
    assert "an empty file" in causes["empty.jpg"] and "a web page" in causes["page.png"]
    assert "nowhere" in causes["broken.png"] and "truncated" in causes["cut.png"]
    assert str(update) == "11 images (11 added, 4 unreadable)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_tried_again(photos, encoder, tmp_path):
    (photos / "00.png").chmod(0)
    with open_store(tmp_path, encoder) as store:
        first = update_store(store, open_collection(photos), encoder)
        assert [one.id for one in first.unreadable] == ["00.png"]
        (photos / "00.png").chmod(0o644)
        assert update_store(store, open_collection(photos), encoder, first.unreadable).added == 1


@pytest.mark.parametrize("name", ["a\tb.png", "a\nb.png", b"a\xff.png"])
def test_names_that_no_list_can_hold_are_refused(photos, encoder, tmp_path, name):
    (photos / os.fsdecode(name)).write_bytes(content(1))
    with open_store(tmp_path, encoder) as store:
        (one,) = update_store(store, open_collection(photos), encoder).unreadable
        assert "rename it" in one.cause and len(store) == 11
    write_unreadable(tmp_path / "failed.tsv", [one])
    assert read_unreadable(tmp_path / "failed.tsv") == [one]


def test_a_collection_of_unreadable_images_only_is_an_error(tmp_path, encoder):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with open_store(tmp_path, encoder) as store:
        with pytest.raises(DataError, match=r"a.jpg cannot be read: .*an empty file"):
            update_store(store, open_collection(tmp_path / "photos"), encoder)
        (tmp_path / "photos" / "b.jpg").touch()
        with pytest.raises(DataError, match=r"none of the 2 images of .* the first is a.jpg"):
            update_store(store, open_collection(tmp_path / "photos"), encoder)


def test_only_what_changed_is_encoded_again(photos, encoder, tmp_path, monkeypatch):
    encoded = []
    original = CodeEncoder.codes_of_pixels
    monkeypatch.setattr(
        CodeEncoder,
        "codes_of_pixels",
        lambda self, pixels: encoded.append(len(pixels)) or original(self, pixels),
    )
    with open_store(tmp_path, encoder) as store:
        assert update_store(store, open_collection(photos), encoder).added == sum(encoded) == 11
        assert str(update_store(store, open_collection(photos), encoder)) == "11 images"
        save(photos / "03.png", 50)
        os.utime(photos / "03.png", ns=(5, 5))
        (photos / "04.png").unlink()
        save(photos / "more" / "11.png", 51)
        update = update_store(store, open_collection(photos, labels="folders"), encoder)
        assert str(update) == "11 images (1 added, 1 changed, 1 removed)"
        assert sum(encoded) == 13
        update = update_store(store, open_collection(photos, labels="none"), encoder)
        assert str(update) == "11 images (1 relabelled)" and sum(encoded) == 13
        names = sorted(item.id for item in open_collection(photos).items)
        expected = encoder.encode([photos / name for name in names])
        assert codes_of(store) == dict(zip(names, expected.tolist(), strict=True))
        assert set(store.snapshot().labels) == {None}


def test_a_plan_is_that_of_a_plain_loop(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(module, "COMPARED", 7)
    rng = np.random.default_rng(0)

    def draw(count):
        names = [f"{number}.jpg" for number in rng.permutation(60)[:count]]
        return [
            Item(name, str(rng.integers(3) or ""), [None, "a", "b"][rng.integers(3)])
            for name in names
        ]

    for trial in range(20):
        stored, items = draw(rng.integers(60)), draw(rng.integers(1, 60))
        before = [UnreadableImage(it.id, "x", it.signature) for it in (*stored[:5], *items[:5])]
        with CodeStore.create(tmp_path / str(trial), 20, encoder.describe()) as store:
            ids, signatures, labels = zip(*stored, strict=True) if stored else ((), (), ())
            store.add(np.zeros((len(ids), 3), np.uint8), ids, signatures, labels)
            store.remove(ids[:2])
            plan = plan_update(store.snapshot(), Files(tmp_path, items, {}, tmp_path), before)
        known = {item.id: item for item in stored[2:]}
        failed = {one.id: one for one in before if one.signature}
        bad = {it.id for it in items if it.id in failed and failed[it.id].signature == it.signature}
        rest = [item for item in items if item.id not in bad]
        same = [it for it in rest if it.id in known and it.signature == known[it.id].signature]
        same = [item for item in same if item.signature]
        assert plan.todo == [item for item in rest if item not in same]
        assert plan.relabelled == [item for item in same if item.label != known[item.id].label]
        assert plan.gone == [name for name in known if name not in {item.id for item in rest}]
        assert plan.unreadable == [failed[item.id] for item in items if item.id in bad]
        assert plan.common == len(known.keys() & {item.id for item in items})


def test_an_image_that_becomes_unreadable_is_removed(photos, encoder, tmp_path):
    with open_store(tmp_path, encoder) as store:
        update_store(store, open_collection(photos), encoder)
        (photos / "05.png").write_text("no image")
        update = update_store(store, open_collection(photos), encoder)
        assert (update.removed, len(store), len(update.unreadable)) == (1, 10, 1)
        again = update_store(store, open_collection(photos), encoder, update.unreadable)
        assert again.unreadable == update.unreadable and again.removed == 0
        save(photos / "05.png", 5, 40)
        assert update_store(store, open_collection(photos), encoder, again.unreadable).added == 1


def test_what_was_encoded_before_an_interruption_is_kept(photos, encoder, tmp_path, monkeypatch):
    original, calls = CodeEncoder.codes_of_pixels, []

    def interrupted(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, pixels)

    monkeypatch.setattr(CodeEncoder, "codes_of_pixels", interrupted)
    with open_store(tmp_path, encoder) as store:
        with pytest.raises(KeyboardInterrupt):
            update_store(store, open_collection(photos), encoder)
        assert len(store) == 8
        assert update_store(store, open_collection(photos), encoder).added == 3


def test_codes_of_two_encoders_are_not_mixed(photos, encoder, tmp_path):
    other = make_encoder(seed=1)
    with open_store(tmp_path, encoder) as store:
        with pytest.raises(DataError, match=other.fingerprint):
            update_store(store, open_collection(photos), other)
        assert len(store) == 0


def test_an_encoder_of_features_is_refused(photos, encoder):
    features = CodeEncoder(encoder.network, None, 20, encoder.device)
    with pytest.raises(DataError, match="encodes features, not images"):
        list(encode_items(features, open_collection(photos), open_collection(photos).items, []))


def test_the_table_of_unreadable_images(tmp_path):
    path = tmp_path / "failed.tsv"
    failed = [UnreadableImage("a b.jpg", "it is cut off", "3:4"), UnreadableImage("c.jpg", "gone")]
    write_unreadable(path, failed)
    assert path.read_text().splitlines()[0] == "id\tcause\tsignature"
    assert read_unreadable(path) == failed
    write_unreadable(path, [])
    assert not path.exists() and read_unreadable(path) == []
    with pytest.raises(WriteError):
        write_unreadable(tmp_path / "no" / "failed.tsv", failed)


def test_codes_are_written_every_few_seconds(photos, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.0)
    sizes = []
    original = CodeStore.add
    monkeypatch.setattr(
        CodeStore,
        "add",
        lambda self, codes, *rest, **more: (
            sizes.append(len(codes)) or original(self, codes, *rest, **more)
        ),
    )
    with open_store(tmp_path, encoder) as store:
        update_store(store, open_collection(photos), encoder)
    assert sizes == [4, 4, 3]
