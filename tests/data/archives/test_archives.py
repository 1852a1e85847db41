"""Readers of the field's datasets: every layout, and what is broken."""

import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deephash.data.archives import Reader
from deephash.data.archives.class_names import MIRFLICKR24, MIRFLICKR38, NUSWIDE21, NUSWIDE81, VOC
from deephash.data.archives.coco import Coco
from deephash.data.archives.csvfile import Csv
from deephash.data.archives.files import multi_hot
from deephash.data.archives.imagenet import ILSVRC
from deephash.data.archives.mirflickr import MirFlickr
from deephash.data.archives.nuswide import NusWide
from deephash.data.archives.voc import Voc
from deephash.data.catalogue import Catalogue
from deephash.data.splits.protocols import Listed, Official
from deephash.data.verification.data_warnings import warn_of_images
from deephash.errors import DataError
from tests.data.miniatures import (
    COCO80,
    WNIDS,
    Made,
    make_coco,
    make_csv,
    make_ilsvrc,
    make_mirflickr,
    make_nuswide,
    make_voc,
)


def check(reader: Reader, made: Made, classes) -> Catalogue:
    """A reader finds what was made, twice, and every place is an image."""
    result, again = reader.read(), reader.read()
    assert list(result.ids) == made.ids == list(again.ids)
    assert result.classes == tuple(classes)
    assert result.labels.dtype == bool
    assert np.array_equal(result.labels.toarray(), made.labels)
    assert np.array_equal(again.labels.toarray(), made.labels)
    assert list(result.places or result.ids) == made.places
    return result


def opened(root, catalogue):
    """The size of each image."""
    sizes = set()
    for place in catalogue.places or catalogue.ids:
        with Image.open(root / place) as image:
            sizes.add(image.size)
    return sizes


def line(file, number, text):
    """Put another text in a line of a file; None takes it out."""
    lines = file.read_text().splitlines()
    lines[number - 1 : number] = [] if text is None else [text]
    file.write_text("".join(f"{line}\n" for line in lines))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=40))
def test_multi_hot_is_a_set_of_pairs(pairs):
    dense = np.zeros((6, 4), bool)
    for row, column in pairs:
        dense[row, column] = True
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    assert np.array_equal(multi_hot(rows, columns, (6, 4)).toarray(), dense)


# ImageNet


@pytest.mark.parametrize("layout", ["folders", "kaggle", "devkit", "synsets", "names", "caffe"])
def test_ilsvrc(tmp_path, layout):
    made = make_ilsvrc(tmp_path, layout=layout)
    result = check(ILSVRC(tmp_path, WNIDS[::-1]), made, WNIDS)
    assert result.official_query.tolist() == ["val" in image_id for image_id in made.ids]
    assert opened(tmp_path, result) == {(32, 32)}
    split = Official(train=5).split(result)
    assert (len(split.train), len(split.queries), len(split.database)) == (30, 24, 72)


def test_all_layouts_of_ilsvrc_are_one_set_up_to_places(tmp_path):
    read = {}
    for layout in ("devkit", "caffe", "kaggle"):
        make_ilsvrc(tmp_path / layout, layout=layout)
        read[layout] = ILSVRC(tmp_path / layout, WNIDS).read()
    assert read["devkit"].ids == read["caffe"].ids == read["kaggle"].ids
    assert read["devkit"].places != read["kaggle"].places


def test_the_root_of_ilsvrc_may_lie_deeper(tmp_path):
    made = make_ilsvrc(tmp_path, layout="kaggle")
    labels = tmp_path / "LOC_val_solution.csv"
    for below in ("ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"):
        result = ILSVRC(tmp_path / below, WNIDS, labels).read()
        assert list(result.ids) == made.ids
    with pytest.raises(DataError, match=r"(?s)there is no label file.*labels=FILE"):
        ILSVRC(tmp_path / "ILSVRC", WNIDS).read()


def test_litter_in_ilsvrc_is_passed_over(tmp_path):
    made = make_ilsvrc(tmp_path)
    (tmp_path / "train" / WNIDS[0] / "._x.JPEG").write_text("litter")
    (tmp_path / "train" / WNIDS[0] / "x.tar").write_text("litter")
    (tmp_path / "val" / "README").write_text("litter")
    check(ILSVRC(tmp_path, WNIDS), made, WNIDS)


def _without(part):
    return lambda root: shutil.rmtree(root / part)


def _emptied(part):
    def change(root):
        shutil.rmtree(root / part)
        (root / part).mkdir()

    return change


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("folders", _without("train"), r"has no ILSVRC 2012; looked for\n.*train/<wnid>"),
        ("folders", _without(f"train/{WNIDS[1]}"), r"1 of 6 class folders.*train: n01537544\. Exp"),
        ("folders", _without(f"val/{WNIDS[1]}"), r"1 of 6 class folders.*val: n01537544"),
        ("folders", _emptied(f"train/{WNIDS[2]}"), r"n01560419 has no image; expected"),
        ("devkit", _emptied("val"), r"val has neither class folders.*unpack ILSVRC2012_img_val"),
        ("synsets", _without("val"), "has no ILSVRC 2012"),
    ],
)
def test_parts_of_ilsvrc_that_are_missing(tmp_path, layout, change, message):
    make_ilsvrc(tmp_path, layout=layout)
    change(tmp_path)
    with pytest.raises(DataError, match=f"(?s){message}"):
        ILSVRC(tmp_path, WNIDS).read()


GROUND_TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "imagenet_2012_validation_synset_labels.txt"


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("devkit", lambda r: line(r / GROUND_TRUTH, 28, None), "00000028.JPEG has no label.*27 im"),
        ("devkit", lambda r: line(r / GROUND_TRUTH, 3, "1001"), r"line 3: '1001' is no class"),
        ("devkit", lambda r: line(r / GROUND_TRUTH, 3, "1 2 3"), r"line 3: '1 2 3'; expected a cl"),
        (
            "devkit",
            lambda r: (r / GROUND_TRUTH).with_name("meta.mat").unlink(),
            "meta.mat with their ids",
        ),
        (
            "devkit",
            lambda r: (r / GROUND_TRUTH).with_name("meta.mat").write_bytes(b"broken" * 40),
            "cannot read .*meta.mat",
        ),
        ("synsets", lambda r: line(r / SYNSETS, 9, "cat"), r"line 9: 'cat' is no class"),
        ("synsets", lambda r: (r / SYNSETS).write_text("\n"), "labels.txt is empty"),
        ("synsets", lambda r: (r / SYNSETS).unlink(), r"there is no label file; looked in"),
        ("caffe", lambda r: (r / "synsets.txt").unlink(), "synsets.txt with their ids does not"),
        ("caffe", lambda r: line(r / "val.txt", 2, "x.JPEG 1000"), "line 2: '1000' is no class"),
        ("caffe", lambda r: line(r / "val.txt", 2, "x.JPEG"), "line 2: 'x.JPEG'; expected"),
        ("kaggle", lambda r: line(r / "LOC_val_solution.csv", 4, "a,b"), "line 4: expected IMAGE,"),
        ("kaggle", lambda r: line(r / "LOC_val_solution.csv", 2, None), "00000028.JPEG has no lab"),
    ],
)
def test_labels_of_ilsvrc_that_are_broken(tmp_path, layout, change, message):
    make_ilsvrc(tmp_path, layout=layout)
    change(tmp_path)
    with pytest.raises(DataError, match=f"(?s){message}"):
        ILSVRC(tmp_path, WNIDS).read()


def test_a_class_without_validation_images(tmp_path):
    make_ilsvrc(tmp_path, layout="names", wnids=WNIDS, others=("n13044778",))
    for row in (tmp_path / "val" / "val.txt").read_text().splitlines():
        name, wnid = row.split()
        if wnid == WNIDS[3]:
            (tmp_path / "val" / name).unlink()
    with pytest.raises(DataError, match=r"1 of 6 classes have no image.*n01629819"):
        ILSVRC(tmp_path, WNIDS).read()


def test_the_folders_of_hashnet_are_read_by_lists(tmp_path):
    (tmp_path / "val_image").mkdir()
    with pytest.raises(DataError, match=r"folders of HashNet.*dataset\.lists=FOLDER"):
        ILSVRC(tmp_path, WNIDS).read()


@pytest.mark.parametrize("wnids", [["n1", "n01514668"], ["n01514668"], ["n01514668"] * 2])
def test_invalid_classes_of_ilsvrc(tmp_path, wnids):
    with pytest.raises(DataError, match="wnids"):
        ILSVRC(tmp_path, wnids)


# NUS-WIDE


def test_the_concepts_of_nuswide():
    assert list(NUSWIDE81) == sorted(NUSWIDE81) and len(NUSWIDE81) == 81
    order = "55 13 42 75 1 30 8 79 44 34 41 50 24 62 49 51 74 56 72 2 39"
    assert [NUSWIDE81.index(name) for name in NUSWIDE21] == [int(index) for index in order.split()]


@pytest.mark.parametrize("concepts", [21, 81])
@pytest.mark.parametrize("world", ["bucket", "running", "flickr"])
def test_nuswide(tmp_path, caplog, world, concepts):
    made = make_nuswide(tmp_path, world=world, concepts=concepts, twice=3)
    with caplog.at_level(logging.INFO):
        result = check(
            NusWide(tmp_path, concepts), made, NUSWIDE21 if concepts == 21 else NUSWIDE81
        )
    assert f"left out {240 - len(result)} of 240 images" in caplog.text
    assert "should be ordered by frequency" not in caplog.text
    assert opened(tmp_path, result) == {(32, 32)}
    assert sum(image_id.endswith("-2") for image_id in result.ids) > 0


def test_unlabelled_images_of_nuswide_may_stay(tmp_path):
    made = make_nuswide(tmp_path, count=60)
    result = NusWide(tmp_path, unlabelled="keep").read()
    assert (
        len(result) == 60
        and [image_id for image_id in result.ids if image_id in made.ids] == made.ids
    )
    assert (result.label_counts == 0).sum() == 60 - len(made.ids) > 0


def test_an_image_of_nuswide_that_is_nowhere_keeps_its_listed_place(tmp_path):
    for world in ("bucket", "flickr"):
        root = tmp_path / world
        made = make_nuswide(root, count=60, world=world)
        (root / made.places[5]).unlink()
        assert NusWide(root).read().places[5] == made.places[5]


def test_folders_of_nuswide_may_lie_elsewhere(tmp_path):
    made = make_nuswide(tmp_path / "all", count=60)
    root = tmp_path / "disk"
    root.mkdir()
    (tmp_path / "all" / "images").rename(root / "pictures")
    result = NusWide(
        root,
        labels=tmp_path / "all" / "Groundtruth" / "AllLabels",
        image_list=tmp_path / "all" / "ImageList" / "Imagelist.txt",
        images="pictures",
    ).read()
    assert list(result.ids) == made.ids
    assert result.places[0] == made.places[0].replace("images/", "pictures/")
    with pytest.raises(DataError, match=r"are not below dataset\.root"):
        NusWide(tmp_path / "all", images=root / "pictures").read()


def test_columns_of_nuswide_that_are_not_ordered_by_frequency(tmp_path, caplog):
    make_nuswide(tmp_path, count=60)
    folder = tmp_path / "Groundtruth" / "AllLabels"
    (folder / "Labels_mountain.txt").write_text("1\n" * 60)
    result = NusWide(tmp_path).read()
    assert "beach (" in caplog.text and "is before mountain (60)" in caplog.text
    assert result.classes == NUSWIDE21 and len(result) == 60


LABELS = "Groundtruth/AllLabels/Labels_{}.txt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: line(r / LABELS.format("lake"), 7, None), r"lake.txt has 59 lines.*60 images"),
        (lambda r: line(r / LABELS.format("lake"), 7, "-1130179"), r"line 7: '-1130179' is no lab"),
        (lambda r: line(r / LABELS.format("lake"), 7, "1 0"), r"line 7: '1 0' is no label"),
        (lambda r: line(r / LABELS.format("lake"), 7, "101"), r"line 7: '101' is no label"),
        (lambda r: line(r / LABELS.format("lake"), 7, "1 0\n"), r"line 7: '1 0' is no label"),
        (lambda r: (r / LABELS.format("lake")).write_text("\n"), "line 1: '' is no label"),
        (lambda r: line(r / LABELS.format("lake"), 7, ""), r"line 7: '' is no label"),
        (lambda r: (r / LABELS.format("lake")).unlink(), r"cannot read .*Labels_lake.txt"),
        (_without("Groundtruth/AllLabels"), "no label files.*TrainTestLabels, which exists"),
        (_without("Groundtruth"), r"no label files.*looked for\n.*\.labels=PATH$"),
        (_without("ImageList"), r"no image list of NUS-WIDE.*ImageList/Imagelist.txt"),
        (_without("images"), "no folder of the images of NUS-WIDE"),
        (
            lambda r: line(r / "ImageList" / "Imagelist.txt", 3, "actor\\12.jpg"),
            r"Imagelist.txt, line 3: .*expected FOLDER",
        ),
        (
            lambda r: line(r / "ImageList" / "Imagelist.txt", 3, None),
            r"Labels_sky.txt has 60 lines and .*names 59 images",
        ),
    ],
)
def test_files_of_nuswide_that_are_broken(tmp_path, change, message):
    make_nuswide(tmp_path, count=60)
    change(tmp_path)
    with pytest.raises(DataError, match=f"(?s){message}"):
        NusWide(tmp_path).read()


# COCO


@pytest.mark.parametrize("layout", ["parts", "images", "flat"])
def test_coco(tmp_path, caplog, layout):
    made = make_coco(tmp_path, layout=layout)
    with caplog.at_level(logging.INFO):
        result = check(Coco(tmp_path), made, sorted(COCO80))
    assert "left out 18 of 180 images of COCO" in caplog.text
    assert opened(tmp_path, result) == {(32, 32)}


def test_the_columns_of_coco():
    """As HashNet's lists have them, by their most frequent columns."""
    columns = sorted(COCO80)
    known = {49: "person", 22: "chair", 18: "car", 27: "dining table", 26: "cup"}
    assert {column: columns[column] for column in known} == known


def test_folders_of_coco_may_lie_elsewhere(tmp_path):
    made = make_coco(tmp_path / "all")
    (tmp_path / "all" / "annotations").rename(tmp_path / "notes")
    (tmp_path / "all" / "pictures").mkdir()
    for part in ("train2014", "val2014"):
        (tmp_path / "all" / part).rename(tmp_path / "all" / "pictures" / part)
    with pytest.raises(DataError, match=r"(?s)no annotation file.*looked for\n.*annotations=PATH"):
        Coco(tmp_path / "all", images="pictures").read()
    result = Coco(tmp_path / "all", tmp_path / "notes", "pictures").read()
    assert list(result.places) == [f"pictures/{place}" for place in made.places]


def annotations(root, change, part="train2014"):
    file = root / "annotations" / f"instances_{part}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][4].update(category_id=12), "object of category 12 in image"),
        (lambda c: c["annotations"][4].update(image_id=-1), "but does not list the image"),
        (lambda c: c["annotations"][4].pop("image_id"), "is no annotation file of COCO's objects"),
        (
            lambda c: [annotation.pop("category_id") for annotation in c["annotations"]],
            "no annotation file of",
        ),
        (lambda c: c.pop("images"), r"no annotation file of COCO's objects \(KeyError: 'images'"),
        (lambda c: c["categories"].pop(0), "but does not list the category"),
        (lambda c: c["categories"][0].update(name="human"), r"differ in their categories, first"),
    ],
)
def test_annotations_of_coco_that_are_broken(tmp_path, change, message):
    make_coco(tmp_path, 40, 10)
    annotations(tmp_path, change)
    with pytest.raises(DataError, match=message):
        Coco(tmp_path).read()


def test_files_of_coco_that_are_broken(tmp_path):
    make_coco(tmp_path, 20, 10)
    file = tmp_path / "annotations" / "instances_val2014.json"
    whole = file.read_text()
    for content in (whole[: len(whole) // 2], "[]", "null", "{}", ""):
        file.write_text(content)
        with pytest.raises(DataError, match=r"instances_val2014\.json is no annotation file"):
            Coco(tmp_path).read()
    file.unlink()
    with pytest.raises(DataError, match=r"cannot read .*instances_val2014\.json"):
        Coco(tmp_path).read()
    file.write_text(whole)
    shutil.rmtree(tmp_path / "val2014")
    with pytest.raises(DataError, match="no folder of the images of val2014"):
        Coco(tmp_path).read()


# MIRFlickr


@pytest.mark.parametrize("columns", [24, 38])
@pytest.mark.parametrize("layout", ["archive", "flat", "images"])
def test_mirflickr(tmp_path, layout, columns):
    made = make_mirflickr(tmp_path, columns=columns, layout=layout)
    result = check(
        MirFlickr(tmp_path, columns), made, MIRFLICKR24 if columns == 24 else MIRFLICKR38
    )
    assert opened(tmp_path, result) == {(32, 32)}
    assert (result.label_counts == 0).any()


def test_the_columns_of_mirflickr():
    assert list(MIRFLICKR38) == sorted(MIRFLICKR38) and len(MIRFLICKR38) == 38
    assert tuple(name for name in MIRFLICKR38 if not name.endswith("_r1")) == MIRFLICKR24
    assert len(MIRFLICKR24) == 24


def test_an_image_of_mirflickr_that_only_the_annotations_know(tmp_path):
    made = make_mirflickr(tmp_path, count=60)
    row = int(np.flatnonzero(made.labels.any(axis=1))[-1])
    (tmp_path / made.places[row]).unlink()
    check(MirFlickr(tmp_path), made, MIRFLICKR24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "baby.txt").unlink(), "cannot read .*baby.txt"),
        (lambda f: (f / "baby.txt").write_text(""), "baby.txt is empty"),
        (lambda f: (f / "baby.txt").write_text("3\nim4\n"), "line 2: 'im4' is not the number"),
        (lambda f: (f / "baby.txt").write_text("0\n"), "line 1: '0' is not the number"),
        (shutil.rmtree, "no annotations of MIRFlickr"),
        (lambda f: shutil.rmtree(f.parent / "mirflickr"), r"no im1\.jpg, im2\.jpg \.\.\. in mir"),
    ],
)
def test_files_of_mirflickr_that_are_broken(tmp_path, change, message):
    make_mirflickr(tmp_path, count=40)
    change(tmp_path / "mirflickr25k_annotations_v080")
    with pytest.raises(DataError, match=message):
        MirFlickr(tmp_path).read()


# VOC


@pytest.mark.parametrize("layout", ["devkit", "folder", "parts"])
def test_voc(tmp_path, layout):
    made = make_voc(tmp_path, layout=layout)
    result = check(Voc(tmp_path), made, VOC)
    assert opened(tmp_path, result) == {(32, 32)}
    if layout == "devkit":
        assert list(Voc(tmp_path / "VOCdevkit").read().ids) == made.ids


def test_difficult_objects_of_voc_are_no_labels(tmp_path):
    make_voc(tmp_path, layout="folder")
    text = (tmp_path / "ImageSets" / "Main" / "person_trainval.txt").read_text()
    signs = [row.split()[1] for row in text.splitlines()]
    person = VOC.index("person")
    assert person == 14 and signs.count("0") > 0
    assert Voc(tmp_path).read().labels.sum(axis=0)[person] == signs.count("1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: line(f, 3, "2008_000001 2"), r"cow_trainval.txt, line 3: .*expected an image"),
        (lambda f: line(f, 3, "2008_000001"), r"line 3: .*expected an image and"),
        (lambda f: line(f, 3, "2008_000000 -1"), "line 3: 2008_000000 is repeated"),
        (lambda f: line(f, 3, None), "aeroplane and cow have different images"),
        (lambda f: f.with_name("cow_train.txt").unlink() or f.unlink(), "cannot read .*cow_train"),
        (lambda f: shutil.rmtree(f.parent), "no image sets of VOC 2012"),
    ],
)
def test_files_of_voc_that_are_broken(tmp_path, change, message):
    make_voc(tmp_path, count=40, layout="folder")
    change(tmp_path / "ImageSets" / "Main" / "cow_trainval.txt")
    with pytest.raises(DataError, match=message):
        Voc(tmp_path).read()


# tables


OPTIONS = {"label": {}, "labels": {"separator": " "}, "columns": {"label": None}}


@pytest.mark.parametrize("style", ["label", "labels", "columns"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_csv(tmp_path, style, delimiter):
    made = make_csv(tmp_path, style=style, delimiter=delimiter)
    result = check(
        Csv(tmp_path, "images.csv", role="role", **OPTIONS[style]), made, ("cat", "dog", "owl")
    )
    assert opened(tmp_path, result) == {(32, 32)}
    split = Listed().split(result)
    assert split.queries.tolist() == list(range(0, 90, 7))
    assert sorted([*split.queries, *split.database]) == list(range(90))
    assert split.train.tolist() == [row for row in range(90) if row % 7 in (1, 2)]


def table(root, *lines, **options):
    (root / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Csv(root, "t.csv", **options).read()


def test_a_table_as_a_spreadsheet_writes_it(tmp_path):
    (tmp_path / "t.csv").write_bytes(
        b'\xef\xbb\xbfpath;label;note\r\n"a;1.jpg";cat;"two\r\nlines"\r\n./b.jpg; dog ;\r\n\r\n'
        + f"{tmp_path}/c.jpg;cat;".encode()
    )
    result = Csv(tmp_path, tmp_path / "t.csv").read()
    assert result.ids == ("a;1.jpg", "b.jpg", "c.jpg") and result.classes == ("cat", "dog")
    assert result.labels.toarray().argmax(axis=1).tolist() == [0, 1, 0]
    assert result.lists is None and result.places is None


def test_classes_of_numbers_are_ordered_by_value(tmp_path):
    result = table(tmp_path, "path,label", *(f"{label}.jpg,{label}" for label in (10, 2, -1, 0)))
    assert result.classes == ("-1", "0", "2", "10")
    result = table(tmp_path, "path,label", "a.jpg,10", "b.jpg,2", "c.jpg,x")
    assert result.classes == ("10", "2", "x")


def test_classes_may_be_given(tmp_path):
    rows = ("path,label", "a.jpg,cat", "b.jpg,owl")
    assert table(tmp_path, *rows, class_names=["owl", "elk", "cat"]).classes[1] == "elk"
    with pytest.raises(DataError, match=r"line 3: the label 'owl' is none of .*class_names: cat, "):
        table(tmp_path, *rows, class_names=["cat", "elk"])


def test_several_labels_or_none(tmp_path):
    result = table(tmp_path, "path,label", "a.jpg,x|y|x", "b.jpg,", "c.jpg, y |", separator="|")
    assert result.labels.toarray().tolist() == [[True, True], [False, False], [False, True]]


def test_columns_may_be_selected_and_values_may_be_text(tmp_path):
    rows = ("path,id,cat,dog", "a.jpg,17,1.0,False", "b.jpg,18,0,TRUE")
    result = table(tmp_path, *rows, label=None, columns=["dog", "cat"])
    assert result.classes == ("dog", "cat")
    assert result.labels.toarray().tolist() == [[False, True], [True, False]]
    with pytest.raises(DataError, match=r"t.csv, line 2: '17' in column 'id' is no label"):
        table(tmp_path, *rows, label=None)


def test_roles_of_a_table(tmp_path):
    rows = ("path\tlabel\trole", "a.jpg\tx\ttest", "b.jpg\ty\tTrain; database", "c.jpg\tx\t")
    result = table(tmp_path, *rows, role="role")
    lists = {role: rows.tolist() for role, rows in result.lists.items()}
    assert lists == {"train": [1], "queries": [0], "database": [1]}
    result = table(tmp_path, "path,label,role", "a.jpg,x,query", "b.jpg,y,train", role="role")
    assert "database" not in result.lists
    assert Listed(database="rest").split(result).database.tolist() == [1]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (("name,label", "a.jpg,x"), {}, r"no column 'path' in its first line, .*write a header"),
        (
            ("path,class", "a.jpg,x"),
            {},
            r"no column 'label'; its header: path, class\. Set ",
        ),
        (("path,label", "a.jpg,x"), {"role": "part"}, r"no column 'part'.*\.role=NAME"),
        (("path,label",), {}, "a header but no images"),
        (("path,label,label", "a.jpg,x,y"), {}, "two columns 'label'"),
        (("path,label", "a.jpg,x", "b.jpg"), {}, r"t.csv, line 3: 1 cells, and the header has 2"),
        (("path,label", "a.jpg,x", "a.jpg,y"), {}, "line 3: a.jpg is in line 2 already"),
        (("path,label", "a.jpg,"), {}, r"line 2: no label\. .*separator"),
        (("path,label", "../a.jpg,x"), {}, r"line 2: the path '../a.jpg' does not lead down"),
        (("path,label", "/else/a.jpg,x"), {}, "line 2: the path '/else/a.jpg' does not"),
        (("path,label", ",x"), {}, "line 2: the path '' does not"),
        (("path,label,role", "a.jpg,x,val"), {"role": "role"}, "line 2: the role 'val' is unknown"),
        (("path,label", '"a.jpg,x'), {}, "line 2: unexpected end of data"),
        (("path,label", "a.jpg,x"), {"label": None, "columns": ["owl"]}, r"no column 'owl'.*colu"),
    ],
)
def test_tables_that_are_broken(tmp_path, rows, options, message):
    with pytest.raises(DataError, match=message):
        table(tmp_path, *rows, **options)


def test_a_table_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the table .*t.csv.*file=FILE"):
        Csv(tmp_path, "t.csv").read()
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff\xfe,x\n")
    with pytest.raises(DataError, match="cannot read the table"):
        Csv(tmp_path, "t.csv").read()


def test_empty_rows_and_columns_of_a_spreadsheet_are_passed_over(tmp_path):
    result = table(tmp_path, "path,label,,", "a.jpg,x,,", "b.jpg,y,note,", "c.jpg,x", ",,,", ",")
    assert result.ids == ("a.jpg", "b.jpg", "c.jpg") and result.classes == ("x", "y")
    result = table(tmp_path, "path,label", "a.jpg,x,,", "b.jpg,y")
    assert result.ids == ("a.jpg", "b.jpg")
    result = table(tmp_path, ",path,cat,Unnamed: 3", "0,a.jpg,1,7", "1,b.jpg,0,8", label=None)
    assert result.classes == ("cat",)
    result = table(tmp_path, "path,label,note,note", "a.jpg,x,1,2")  # twice, and not used
    assert result.classes == ("x",)


def test_paths_may_be_those_seen_from_the_table(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "t.csv").write_text("path,label\n../img/a.jpg,x\n../b.jpg,y\n")
    assert Csv(tmp_path, "tables/t.csv").read().ids == ("img/a.jpg", "b.jpg")
    (tmp_path / "tables" / "t.csv").write_text("path,label\n../../a.jpg,x\n")
    with pytest.raises(DataError, match="does not lead down"):
        Csv(tmp_path, "tables/t.csv").read()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "tables" / "t.csv").write_text("path,label\n../a.jpg,x\n")
    with pytest.raises(DataError, match=f"dataset.root={tmp_path} .*file={tmp_path}/tables/t.csv"):
        Csv(tmp_path / "tables", "t.csv").read()


def test_paths_of_windows_and_of_homes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    rows = (r"img\a.jpg,x", f"~/{tmp_path.name}/b.jpg,y", r".\c.jpg,x")
    assert table(tmp_path, "path,label", *rows).ids == ("img/a.jpg", "b.jpg", "c.jpg")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("path,label", "https://x.org/a.jpg,x"), "line 2: .* is a URL: download the images"),
        (("path,label", r"C:\img\a.jpg,x"), "line 2: the path 'C:/img/a.jpg' does not lead down"),
        (("filename,class", "a.jpg,x"), r"write a header, or set .*\.path=filename"),
        (("path,Category", "a.jpg,x"), r"no column 'label'; .*\.label=Category"),
        (("path,label", "a.jpg,cats, dogs"), "line 2: 3 cells.*in quotation marks"),
        (
            ("path,label", 'a.jpg,"x', "b.jpg,y"),
            "quotation mark in line 2 or after it is not closed",
        ),
        (("path,label", 'a.jpg,"' + "x" * 200_000, "b.jpg,y"), "field limit.*line 2"),
        (
            ("path,label", "a.jpg,x", "a.jpg,y"),
            r"already\. If an image has a line for each .*separ",
        ),
    ],
)
def test_other_formats_of_tables_are_reported_with_advice(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        table(tmp_path, *rows)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_tables_of_other_encodings(tmp_path, encoding):
    rows = "path;label\ra.jpg;caf\u00e9\rb.jpg;th\u00e9\r"
    (tmp_path / "t.csv").write_bytes(rows.encode(encoding))
    assert Csv(tmp_path, "t.csv").read().classes == ("caf\u00e9", "th\u00e9")


def test_a_table_in_an_old_encoding_needs_its_name(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\na.jpg,caf\u00e9\n", encoding="cp1252")
    with pytest.raises(DataError, match=r"line 2 .*Windows-1252[\s\S]*\.encoding=cp1252"):
        Csv(tmp_path, "t.csv").read()
    assert Csv(tmp_path, "t.csv", encoding="cp1252").read().classes == ("caf\u00e9",)


def test_a_workbook_called_csv_is_reported(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(DataError, match="Excel workbook"):
        Csv(tmp_path, "t.csv").read()


def test_a_column_of_roles_that_is_not_used_is_reported(tmp_path):
    result = table(tmp_path, "path,label,Split", "a.jpg,x,train", "b.jpg,y,test", "c.jpg,y,val")
    assert "dataset.catalog.role=Split dataset.protocol=roles" in result.remarks[0]
    assert table(tmp_path, "path,label,fold", "a.jpg,x,1", "b.jpg,y,2").remarks == ()


@pytest.mark.parametrize(
    ("labels", "example"),
    [
        (("1", "1.0", "2"), "'1' = '1.0'"),
        (("Cat", "cat", "dog"), "'Cat' = 'cat'"),
        (("a|b", "a", "b"), "'a|b'"),
        (("a;b", "b;c", "b"), "'a;b'"),
        (tuple(f"p{n}.jpg" for n in range(30)), "p0.jpg"),
    ],
)
def test_suspicious_labels_are_reported(tmp_path, labels, example):
    result = table(tmp_path, "path,label", *(f"{n}.jpg,{label}" for n, label in enumerate(labels)))
    (doubt,) = warn_of_images(result)
    assert doubt.level == "warning" and example in " ".join(doubt.examples)


def test_sound_labels_raise_no_doubts(tmp_path):
    rows = [f"{n}.jpg,{n % 12}" for n in range(60)]
    assert warn_of_images(table(tmp_path, "path,label", *rows)) == []
    assert (
        warn_of_images(table(tmp_path, "path,label", "a.jpg,and/or", "b.jpg,x|y", "c.jpg,a-b"))
        == []
    )


# all of them


@pytest.mark.parametrize(
    "make",
    [
        lambda root: ILSVRC(root, WNIDS),
        NusWide,
        Coco,
        MirFlickr,
        Voc,
        lambda root: Csv(root, "images.csv"),
    ],
)
def test_roots_that_are_no_folders_or_empty(tmp_path, make):
    with pytest.raises(DataError, match=r"does not exist: set dataset\.root=FOLDER"):
        make(tmp_path / "none").read()
    with pytest.raises(DataError, match=r"dataset\.root=FOLDER|file=FILE"):
        make(tmp_path).read()


@pytest.mark.parametrize(
    "make",
    [
        lambda root: NusWide(root, 20),
        lambda root: NusWide(root, unlabelled="maybe"),
        lambda root: MirFlickr(root, 25),
        lambda root: Csv(root, "t.csv", columns=["a"]),
        lambda root: Csv(root, "t.csv", label=None, separator=" "),
        lambda root: Csv(root, "t.csv", label=None, class_names=["a"]),
        lambda root: Csv(root, "t.csv", separator=""),
    ],
)
def test_invalid_options_name_their_key(tmp_path, make):
    with pytest.raises(DataError, match=r"dataset\.catalog\."):
        make(tmp_path)


def test_a_home_may_be_written_short(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = make_voc(tmp_path / "voc", count=30)
    assert list(Voc("~/voc").read().ids) == made.ids


def test_what_is_read_can_be_kept_in_part(tmp_path):
    make_coco(tmp_path, 30, 10)
    result = Coco(tmp_path).read()
    kept = np.arange(len(result)) % 2 == 0
    assert result.keep(kept).places == tuple(result.places[::2])
    assert dataclasses.replace(result, places=None).places is None
