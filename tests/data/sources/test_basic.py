"""Image folders, CIFAR's two layouts, unreadable files; with the cache and without."""

import logging
import os
import pickle
import shutil
import urllib.error

import numpy as np
import pytest
import torchvision
from PIL import Image

from deephash.data.decoding import Square
from deephash.data.sources.basic import Cifar, Digits, Folder
from deephash.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("DEEPHASH_CACHE", str(folder))
    return folder


def picture(path, color=(200, 30, 90), size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    picture(root / "dog" / "b.png", (0, 0, 255))
    picture(root / "dog" / "A.PNG", (255, 0, 0))
    picture(root / "cat" / "deep" / "er.bmp", (0, 255, 0))
    picture(root / "cat" / "z.webp", (9, 9, 9))
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    (root / "dog" / "._b.png").write_text("litter")
    return root


@pytest.fixture
def cifar(tmp_path):
    """Ten classes, two training images and one test image of each."""
    root = tmp_path / "cifar"
    for index, name in enumerate("jihgfedcba"):
        for part, numbers in (("train", (0, 1)), ("test", (0,))):
            for number in numbers:
                color = (index * 20, number * 100, 200 if part == "test" else 0)
                picture(root / part / name / f"{number:04d}.png", color, (32, 32))
    return root


def test_digits():
    images = Digits().load()
    assert images.inputs.shape == (1797, 3, 8, 8)
    assert images.inputs.max() == 255
    assert len(images.classes) == 10 and not images.multilabel
    assert images.ids[7] == "digits/000007" and images.official_query is None


def test_folder_order_and_pixels(folder):
    images = Folder(folder, size=8).load()
    assert images.ids == ("cat/deep/er.bmp", "cat/z.webp", "dog/A.PNG", "dog/b.png")
    assert images.classes == ("cat", "dog")
    assert images.labels.argmax(axis=1).tolist() == [0, 0, 1, 1]
    assert images.inputs[[0, 2, 3], :, 4, 4].tolist() == [[0, 255, 0], [255, 0, 0], [0, 0, 255]]


@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (33, 33), (16, 30)])
def test_folder_crop_and_squash_as_torchvision(tmp_path, shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(noise).save(tmp_path / "set" / name / "x.png")
    functional = torchvision.transforms.functional
    resized = functional.center_crop(functional.resize(Image.fromarray(noise), 16), 16)
    squashed = functional.resize(Image.fromarray(noise), (16, 16))
    for fit, expected in (("crop", resized), ("squash", squashed)):
        result = Folder(tmp_path / "set", size=16, fit=fit).load().inputs[0]
        assert np.array_equal(result, np.asarray(expected).transpose(2, 0, 1))


def test_folder_errors(tmp_path, folder):
    with pytest.raises(DataError, match="nowhere does not exist"):
        Folder(tmp_path / "nowhere").load()
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="it has none"):
        Folder(tmp_path / "bare").load()
    picture(tmp_path / "bare" / "one" / "x.png")
    with pytest.raises(DataError, match="at least two; it has only 'one'"):
        Folder(tmp_path / "bare").load()
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=r"class folder .*empty has no image"):
        Folder(folder).load()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Folder("x", fit="stretch"),
        lambda: Folder("x", on_error="ignore"),
        lambda: Folder("x", on_error="skip", cached=False),
        lambda: Cifar("cifar10", "x", on_error="skip", cached=False),
        lambda: Folder("x", size=0),
        lambda: Cifar("cifar11", "x"),
        lambda: Cifar("cifar10", "x", on_error="ignore"),
    ],
)
def test_unknown_settings_are_refused(make):
    with pytest.raises(DataError, match=r"dataset\.source"):
        make()


def cut_short(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 5])


@pytest.mark.parametrize(
    "damage",
    [cut_short, lambda path: path.write_text("no image"), lambda path: path.write_bytes(b"")],
    ids=["cut", "text", "empty"],
)
def test_unreadable_images(folder, damage, caplog):
    damage(folder / "dog" / "A.PNG")
    with pytest.raises(DataError, match=r"A\.PNG \(.+\).*dataset\.source\.on_error=skip"):
        Folder(folder, size=8).load()
    with caplog.at_level(logging.WARNING):
        images = Folder(folder, size=8, on_error="skip").load()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "left out 1 unreadable of 4" in caplog.text
    assert images.skipped == ("dog/A.PNG",)
    assert images.ids == ("cat/deep/er.bmp", "cat/z.webp", "dog/b.png")
    assert images.labels.argmax(axis=1).tolist() == [0, 0, 1]
    assert images.inputs[:, :, 4, 4].tolist()[2] == [0, 0, 255] and len(images.inputs) == 3
    # From the cache it is the same, and who does not skip is still told.
    assert Folder(folder, size=8, on_error="skip").load().skipped == images.skipped
    with pytest.raises(DataError, match=r"A\.PNG"):
        Folder(folder, size=8).load()


def test_gaps_are_closed_over_many_files(tmp_path):
    """300 gray images of value row % 256, every seventh broken."""
    for row in range(300):
        path = picture(tmp_path / "many" / f"c{row // 150}" / f"{row:03d}.png", (row % 256,) * 3)
        if row % 7 == 0:
            path.write_text("broken")
    images = Folder(tmp_path / "many", size=4, on_error="skip", workers=3).load()
    kept = [row for row in range(300) if row % 7]
    assert images.inputs[:, 0, 0, 0].tolist() == [row % 256 for row in kept]
    assert [int(name[3:6]) for name in images.ids] == kept
    assert len(images.skipped) == 43


def test_a_decoded_folder_is_not_decoded_again(folder, own_cache, monkeypatch):
    first = Folder(folder, size=8).load()
    monkeypatch.setattr(Square, "__call__", None)  # would fail if it were called
    second = Folder(folder, size=8).load()
    assert np.array_equal(first.inputs, second.inputs)
    assert len(list(own_cache.iterdir())) == 1


def test_a_changed_file_or_setting_is_another_entry(folder, own_cache):
    Folder(folder, size=8).load()
    Folder(folder, size=9).load()
    Folder(folder, size=8, fit="squash").load()
    path = folder / "dog" / "b.png"
    picture(path, (7, 7, 7))
    os.utime(path, ns=(1, 1))
    assert Folder(folder, size=8).load().inputs[3, :, 0, 0].tolist() == [7, 7, 7]
    assert len(list(own_cache.iterdir())) == 4


def test_without_the_cache_files_are_decoded_on_access(folder, cifar, own_cache):
    for make in (lambda **kw: Folder(folder, 8, **kw), lambda **kw: Cifar("cifar10", cifar, **kw)):
        images, direct = make().load(), make(cached=False).load()
        assert direct.ids == images.ids and not isinstance(direct.inputs, np.ndarray)
        assert direct.inputs.shape == images.inputs.shape and direct.inputs.dtype == np.uint8
        assert np.array_equal(direct.inputs[:], images.inputs)
    shutil.rmtree(own_cache)
    (folder / "dog" / "A.PNG").write_text("no image")
    direct = Folder(folder, 8, cached=False).load()
    assert np.array_equal(direct.inputs[[3, 0]][:, :, 4, 4], [[0, 0, 255], [0, 255, 0]])
    with pytest.raises(DataError, match=r"cannot read the image .*A\.PNG"):
        direct.inputs[1:3]
    assert not own_cache.exists()


def test_when_all_are_unreadable_none_is_left_out(folder):
    for path in ("dog/A.PNG", "dog/b.png", "cat/z.webp", "cat/deep/er.bmp"):
        (folder / path).write_text("no image")
    for _ in range(2):
        with pytest.raises(DataError, match=r"cannot read the image .*er\.bmp"):
            Folder(folder, on_error="skip").load()


def test_an_unreadable_image_leaves_no_entry(folder, own_cache):
    (folder / "dog" / "A.PNG").write_text("no image")
    with pytest.raises(DataError, match=r"A\.PNG"):
        Folder(folder, size=8).load()
    assert list(own_cache.iterdir()) == []


def test_cifar_class_folders(cifar):
    images = Cifar("cifar10", cifar).load()
    assert images.inputs.shape == (30, 3, 32, 32)
    assert images.classes == tuple("abcdefghij")
    assert images.ids[:3] == ("train/a/0000.png", "train/a/0001.png", "train/b/0000.png")
    assert images.ids[20] == "test/a/0000.png"
    assert images.official_query.tolist() == [False] * 20 + [True] * 10
    assert images.labels[20:].argmax(axis=1).tolist() == list(range(10))
    assert images.inputs[1, :, 0, 0].tolist() == [180, 100, 0]


def test_cifar_skips_in_every_part(cifar):
    (cifar / "train" / "b" / "0001.png").write_text("broken")
    images = Cifar("cifar10", cifar, on_error="skip").load()
    assert images.skipped == ("train/b/0001.png",)
    assert len(images) == 29 and images.official_query.sum() == 10


def test_cifar_class_folder_errors(cifar):
    with pytest.raises(DataError, match=r"same 100 class folders .* have 10 and 10"):
        Cifar("cifar100", cifar).load()
    picture(cifar / "test" / "c" / "0001.png", size=(33, 32))
    with pytest.raises(DataError, match=r"c/0001\.png is 33 x 32"):
        Cifar("cifar10", cifar, on_error="skip").load()


def test_cifar_archive(tmp_path, monkeypatch):
    """The authors' layout, two images a batch; the check of the true files is stubbed."""
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    for number, name in enumerate(names):
        data = np.full((2, 3072), number, np.uint8)
        data[:, :1024] = 99  # the red plane comes first
        (base / name).write_bytes(pickle.dumps({"data": data, "labels": [number, 9]}))
    classes = [f"class{index}" for index in range(10)]
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}))
    module = torchvision.datasets.cifar
    monkeypatch.setattr(module, "check_integrity", lambda *args: True)
    images = Cifar("cifar10", tmp_path, download=False).load()
    assert images.inputs[:, :, 5, 5].tolist()[2:4] == [[99, 1, 1]] * 2
    assert images.ids[0] == "train/000000" and images.ids[-1] == "test/000001"
    assert images.labels.argmax(axis=1).tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert images.official_query.tolist() == [False] * 10 + [True] * 2
    assert images.inputs.flags.c_contiguous


def test_cifar_without_network_states_the_alternatives(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", offline)
    with pytest.raises(DataError) as caught:
        Cifar("cifar10", tmp_path / "none").load()
    message = str(caught.value)
    for part in (
        "the download failed",
        "no route",
        "cifar-10-batches-py",
        "train/<class>",
        "dataset.root=FOLDER",
        "machine with a network",
    ):
        assert part in message
    with pytest.raises(DataError, match="downloads are disabled"):
        Cifar("cifar10", tmp_path / "none", download=False).load()


def test_an_archive_is_not_the_folder_of_cifar(tmp_path):
    file = tmp_path / "cifar10-jpeg.tar.xz"
    file.write_bytes(b"")
    with pytest.raises(DataError, match=r"cifar10-jpeg.tar.xz is a file.\n  Unpack it"):
        Cifar("cifar10", file, download=True).load()
