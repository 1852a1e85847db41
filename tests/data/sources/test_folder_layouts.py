"""Folders of classes as people have them: more endings, links, system folders, official parts."""

import logging
import os
import socket

import numpy as np
import pytest
from PIL import Image

from deephash.data.datamodule import DataModule
from deephash.data.sources.basic import Folder
from deephash.data.splits.protocols import Official, PerClass, describe_split
from deephash.data.transforms import Pipeline
from deephash.data.verification.data_warnings import warn_of_images
from deephash.errors import DataError

SAVED_AS = {".jpe": "JPEG", ".jfif": "JPEG", ".pnm": "PPM", ".pgm": "PPM", ".tif": "TIFF"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPHASH_CACHE", str(tmp_path / "cache"))


def picture(path, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    ending = path.suffix.lower()
    Image.fromarray(noise).save(path, SAVED_AS.get(ending))
    return path


def photos(root, parts=("cat", "dog"), count=3):
    for at, part in enumerate(parts):
        for number in range(count):
            picture(root / part / f"{number}.png", 100 * at + number)
    return root


def test_all_endings_are_read_and_others_counted(tmp_path):
    root = photos(tmp_path / "set")
    more = (".jpe", ".JFIF", ".gif", ".tif", ".TIFF", ".ppm", ".pgm", ".pnm", ".webp", ".BMP")
    for ending in more:
        picture(root / "cat" / f"x{ending}")
    for name in ("a.svg", "b.svg", "c.NEF", "notes.txt", "README"):
        (root / "dog" / name).write_bytes(b"nothing")
    images = Folder(root, size=8).load()
    assert len(images) == 6 + len(more)
    assert images.passed_over == {".svg": 2, ".nef": 1, ".txt": 1, "no ending": 1}
    assert "2 .svg (convert them to JPEG or PNG), 1 .nef" in warn_of_images(images)[0].what


def test_heic_is_counted_with_what_to_install(tmp_path, monkeypatch):
    from deephash.data.image_formats import Formats
    from deephash.data.sources import basic

    monkeypatch.setattr(basic, "supported_formats", lambda: Formats(("PNG",), (".png",)))
    root = photos(tmp_path / "set")
    (root / "cat" / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    images = Folder(root, size=8).load()
    assert images.passed_over == {".heic": 1}
    assert "1 .heic (pip install pillow-heif)" in warn_of_images(images)[0].what


def test_endings_can_be_chosen(tmp_path):
    root = photos(tmp_path / "set")
    picture(root / "cat" / "x.gif")
    assert len(Folder(root, size=8, endings=["PNG"]).load()) == 6
    for wrong in ([], [1], ["."]):
        with pytest.raises(DataError, match=r"dataset\.source\.endings"):
            Folder(root, endings=wrong)


def test_system_folders_and_files_are_passed_over_and_counted(tmp_path):
    root = photos(tmp_path / "set")
    folders = ["cat/@eaDir/0.png", "cat/__MACOSX", "#recycle/cat", ".thumbnails", "lost+found"]
    folders += ["dog/$RECYCLE.BIN", "System Volume Information", ".ipynb_checkpoints"]
    for folder in folders:
        picture(root / folder / "thumb.png")
    (root / "cat" / "._0.png").write_bytes(b"x")
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    images = Folder(root, size=8).load()
    assert images.classes == ("cat", "dog") and len(images) == 6
    assert images.passed_over == {
        "@eaDir/": 1, "__MACOSX/": 1, "#recycle/": 1, ".thumbnails/": 1, "lost+found/": 1,
        "$RECYCLE.BIN/": 1, "System Volume Information/": 1, ".ipynb_checkpoints/": 1,
        "hidden files": 2, "Thumbs.db": 1,
    }  # fmt: skip


def test_links_are_followed_once_and_never_in_a_circle(tmp_path):
    root = photos(tmp_path / "set")
    photos(tmp_path / "elsewhere", ("more",))
    (root / "cat" / "more").symlink_to("../../elsewhere/more")
    (root / "cat" / "again").symlink_to("../../elsewhere/more")
    (root / "cat" / "circle").symlink_to(".")
    (root / "cat" / "root").symlink_to("..")
    (root / "cat" / "above").symlink_to("../..")
    (root / "cat" / "other").symlink_to("../dog")
    (tmp_path / "elsewhere" / "more" / "back").symlink_to(root)
    images = Folder(root, size=8).load()
    assert images.ids == (
        *(f"cat/{n}.png" for n in range(3)),
        *(f"cat/again/{n}.png" for n in range(3)),
        *(f"dog/{n}.png" for n in range(3)),
    )
    assert images.passed_over == {"links to folders read already": 6}


def test_links_that_lead_nowhere_are_named(tmp_path):
    root = photos(tmp_path / "set")
    (root / "dog" / "disk").symlink_to("/nowhere/at/all")
    images = Folder(root, size=8).load()
    assert images.passed_over == {"broken links": 1}
    assert images.remarks == ("broken links: dog/disk",)
    (root / "dog" / "gone.png").symlink_to("/nowhere/x.png")
    with pytest.raises(DataError, match=r"gone\.png .*It is a link to /nowhere/x\.png"):
        Folder(root, size=8).load()


def test_two_classes_that_are_one_folder_are_refused(tmp_path):
    root = photos(tmp_path / "set")
    (root / "lion").symlink_to("cat")
    with pytest.raises(DataError, match=r"cat and lion .* are the same, by a link"):
        Folder(root, size=8).load()


def test_pipes_and_sockets_named_as_images_do_not_block(tmp_path, monkeypatch):
    root = photos(tmp_path / "set")
    os.mkfifo(root / "cat" / "pipe.jpg")
    monkeypatch.chdir(root / "cat")  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s.jpg")
        images = Folder(root, size=8).load()
    assert len(images) == 6 and images.passed_over == {"pipes, sockets and devices": 2}


def test_official_parts_are_roles(tmp_path):
    root = tmp_path / "set"
    for part, count in (("train", 4), ("test", 2), ("val", 1)):
        photos(root / part, count=count)
    images = Folder(root, size=8).load()
    assert images.classes == ("cat", "dog") and images.parts == ("train", "test", "val")
    split = Official(train=None).split(images)
    ids = np.array(images.ids)
    assert all(name.startswith("test/") for name in ids[split.queries])
    assert all(name.startswith("train/") for name in ids[split.database])
    assert ids[split.validation].tolist() == ["val/cat/0.png", "val/dog/0.png"]
    assert [len(rows) for rows in (split.train, split.database, split.queries)] == [8, 8, 4]
    facts = describe_split(images, split, "own", "official", 0)
    assert facts.num_validation == 2 and facts.num_queries == 4
    with pytest.raises(DataError, match="official validation part"):
        Official(train=None, validation=1).split(images)


def test_val_contains_the_queries_without_test(tmp_path):
    for part, count in (("Training", 4), ("Validation", 2)):
        photos(tmp_path / "set" / part, count=count)
    images = Folder(tmp_path / "set", size=8).load()
    split = Official(train=2).split(images)
    assert [len(rows) for rows in (split.train, split.database, split.queries)] == [4, 8, 4]
    assert len(split.validation) == 0


def test_official_parts_are_not_merged_by_accident(tmp_path):
    for part in ("train", "test"):
        photos(tmp_path / "set" / part, count=4)
    with pytest.raises(DataError, match=r"dataset\.protocol=official .*parts=merge"):
        PerClass(queries=1, train=1).split(Folder(tmp_path / "set", size=8).load())
    merged = Folder(tmp_path / "set", size=8, parts="merge").load()
    assert len(PerClass(queries=1, train=1).split(merged).queries) == 2
    classes = Folder(tmp_path / "set", size=8, parts="classes").load()
    assert classes.classes == ("test", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("images", "labels"), "images and labels: these look like images and their annotations"),
        (("Images", "masks"), "annotations"),
        (("train", "query", "gallery"), "look like roles"),
        (("train/a", "train/b", "test/a", "test/b", "extra"), "Move the other folders away"),
        (("train/a", "train/b", "test/a", "test/c"), "must have the same class folders.* b, c"),
        (("train", "test/a", "test/b"), "has no folder for each class"),
        (("train/a", "test/a"), "at least two"),
        (("data/a", "data/b"), r"dataset\.root=.*data"),
    ],
)
def test_layouts_without_classes_are_refused_with_advice(tmp_path, folders, message):
    for folder in folders:
        picture(tmp_path / "set" / folder / "0.png")
    with pytest.raises(DataError, match=message):
        Folder(tmp_path / "set", size=8).load()


def test_images_beside_the_classes_are_reported(tmp_path):
    root = photos(tmp_path / "set")
    picture(root / "loose.png")
    images = Folder(root, size=8).load()
    assert images.passed_over == {"images in no class folder": 1}
    assert "1 images are beside the class folders" in images.remarks[0]
    for name in ("a", "b"):
        picture(tmp_path / "flat" / f"{name}.png")
    with pytest.raises(DataError, match=r"it has none, and 2 images beside.*dataset=csv"):
        Folder(tmp_path / "flat", labels=True).load()


def test_classes_two_folders_deep_are_reported(tmp_path):
    photos(tmp_path / "set", ("pets/cat", "pets/dog", "farm/cow", "farm/pig"))
    images = Folder(tmp_path / "set", size=8).load()
    assert images.classes == ("farm", "pets")
    assert "two folders deep, such as in farm/{cow, pig}" in images.remarks[0]
    picture(tmp_path / "set" / "pets" / "x.png")
    assert Folder(tmp_path / "set", size=8).load().remarks == ()


def test_an_empty_class_is_refused_with_what_lies_there(tmp_path):
    root = photos(tmp_path / "set")
    (root / "eel").mkdir()
    (root / "eel" / "x.psd").write_bytes(b"8BPS")
    with pytest.raises(DataError, match=r"eel has no image.*1 \.psd \(convert them"):
        Folder(root, size=8).load()


@pytest.mark.parametrize(
    "names", [("cat", "Cat"), ("cat", "cat "), ("caf\u00e9", "cafe\u0301"), ("1", "01")]
)
def test_classes_of_two_spellings_are_reported(tmp_path, names):
    images = Folder(photos(tmp_path / "set", names), size=8).load()
    assert len(images.classes) == 2
    (doubt,) = warn_of_images(images)
    assert doubt.level == "warning" and "several spellings" in doubt.what
    assert all(repr(name) in doubt.examples[0] for name in images.classes)


def test_a_folder_for_each_image_is_reported(tmp_path):
    images = Folder(photos(tmp_path / "set", [f"p{n:02d}" for n in range(25)], 1), size=8).load()
    assert "25 classes of 25 images" in warn_of_images(images)[0].what


def test_training_tells_it_once_and_the_facts_keep_it(tmp_path, caplog):
    root = photos(tmp_path / "set", count=4)
    (root / "cat" / "x.psd").write_bytes(b"8BPS")
    views = Pipeline([])
    data = DataModule(
        "own",
        Folder(root, size=8),
        PerClass(queries=1, train=2),
        "per_class",
        views,
        views,
        batch_size=2,
    )
    with caplog.at_level(logging.WARNING):
        data.setup("cpu")
        data.setup("cpu")
    assert [record.message for record in caplog.records] == [
        "ignored: 1 .psd (convert them to JPEG or PNG)"
    ]
    assert data.facts.as_dict()["passed_over"] == {".psd": 1}
