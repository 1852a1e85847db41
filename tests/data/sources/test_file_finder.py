"""Where the files of lists are looked for, and what is ambiguous."""

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.data.sources.file_finder import Tree, find_files
from deephash.errors import DataError

FLICKR = re.compile(r"(?:^|/)\d+_(\d+)[^/]*$")


def tree(root, *places):
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(place)
    return root


def find_ids(root, places, find="auto", identity=None, ids=None):
    files = find_files(root, ids or places, places, find, identity)
    for file in files:
        assert file is None or (file.size, file.mtime) == (
            (root / file.id).stat().st_size,
            (root / file.id).stat().st_mtime_ns,
        )
    return [None if file is None else file.id for file in files]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("train2014/a.jpg", "train2014/a.jpg"),
        ("./train2014//a.jpg", "train2014/a.jpg"),
        ("/home/x/dataset/coco/train2014/a.jpg", "train2014/a.jpg"),
        ("../../coco/train2014/a.jpg", "train2014/a.jpg"),
        ("train2014/../b.jpg", "b.jpg"),
        ("val2014/b.jpg", "b.jpg"),
        ("elsewhere/deep.jpg", "x/y/deep.jpg"),
        ("nowhere.jpg", None),
        ("train2014", None),
        ("train2014/", None),
        ("", None),
        ("a\x00b/c\x00.jpg", None),
    ],
)
def test_leading_folders_are_left_out_one_by_one(tmp_path, place, expected):
    tree(tmp_path, "train2014/a.jpg", "b.jpg", "x/y/deep.jpg")
    assert find_ids(tmp_path, [place]) == [expected]


def test_the_longest_path_wins(tmp_path):
    tree(tmp_path, "a/b/1.jpg", "b/1.jpg", "1.jpg")
    assert find_ids(tmp_path, ["x/a/b/1.jpg"]) == ["a/b/1.jpg"]
    (tmp_path / "a/b/1.jpg").unlink()
    assert find_ids(tmp_path, ["x/a/b/1.jpg"]) == ["b/1.jpg"]


@pytest.mark.parametrize("place", ["/a/1.jpg", "../a/1.jpg", "x/a/1.jpg"])
def test_a_path_is_taken_as_it_is(tmp_path, place):
    tree(tmp_path, "a/1.jpg", "2.jpg")
    assert find_ids(tmp_path / "a", [place, "1.jpg", "2.jpg"], "path") == [None, "1.jpg", None]


def test_files_are_known_by_ids(tmp_path):
    places = ["images/1_77_aa_m.jpg", "images/2_88_bb_m.jpg", "images/3_99_cc_m.jpg"]
    tree(tmp_path, "b/0001_77.jpg", "0002_88.JPG", "0002_88.txt", ".hidden/0003_99.jpg", "x.jpg")
    ids = ["77", "88", "99"]
    for find in ("auto", "id"):
        assert find_ids(tmp_path, places, find, FLICKR, ids) == [
            "b/0001_77.jpg",
            "0002_88.JPG",
            None,
        ]
    tree(tmp_path, "c/9_88.png")
    with pytest.raises(
        DataError, match=r"find=auto finds two 88 below .*: 0002_88\.JPG and c/9_88"
    ):
        find_ids(tmp_path, places, "auto", FLICKR, ids)
    tree(tmp_path, "images/2_88_bb_m.jpg")  # the path itself is clear
    assert find_ids(tmp_path, places, "auto", FLICKR, ids)[1] == "images/2_88_bb_m.jpg"


def test_endings_of_the_lists_count_as_images(tmp_path):
    tree(tmp_path, "1_77.tif", "1_77.txt")
    assert find_ids(tmp_path, ["1_77_m.jpg"], "id", FLICKR, ["77"]) == [None]
    assert find_ids(tmp_path, ["x/1_77_m.TIF"], "id", FLICKR, ["77"]) == ["1_77.tif"]


def test_one_file_is_not_two_images(tmp_path):
    tree(tmp_path, "1.jpg")
    with pytest.raises(DataError, match=r"a/1\.jpg and b/1\.jpg both match 1\.jpg below"):
        find_ids(tmp_path, ["a/1.jpg", "b/1.jpg"])
    with pytest.raises(
        DataError,
        match=r"find=id cannot distinguish a/1\.jpg and b/1\.jpg, .* 1\.jpg",
    ):
        find_ids(tmp_path, ["a/1.jpg", "b/1.jpg"], "id")
    tree(tmp_path, "a/1.jpg", "b/1.jpg")
    assert find_ids(tmp_path, ["a/1.jpg", "b/1.jpg"]) == ["a/1.jpg", "b/1.jpg"]


def test_links_are_followed_and_each_folder_entered_once(tmp_path):
    tree(tmp_path, "root/a/1.jpg", "far/2.jpg")
    root = tmp_path / "root"
    (root / "b").symlink_to(root / "a")
    (root / "c").symlink_to(tmp_path / "far")
    (root / "a" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "4.jpg").symlink_to(root / "nowhere")
    assert list(Tree(root).walk()) == ["4.jpg", "self", "a/1.jpg", "c/2.jpg"]
    assert find_ids(root, ["x/1.jpg", "x/2.jpg", "b/1.jpg"], ids=["1", "2", "3"])[:2] == [
        "a/1.jpg",
        "c/2.jpg",
    ]
    assert find_ids(root, ["4.jpg"]) == [None]


def test_no_folder_is_listed_and_no_file_checked_twice(tmp_path, monkeypatch):
    tree(tmp_path, *(f"a/{k}.jpg" for k in range(50)), *(f"b/c/{k}.jpg" for k in range(50, 60)))
    listed, checked = [], []
    scandir, stat = os.scandir, os.stat
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))
    monkeypatch.setattr(os, "stat", lambda path, **kw: checked.append(path) or stat(path, **kw))
    find_files(tmp_path, *[[f"x/y/a/{k}.jpg" for k in range(60)]] * 2, "auto", None)
    folders = {"", "a", "b", "b/c", "x/y/a", "y/a"}
    assert sorted(listed) == sorted(os.path.join(tmp_path, folder) for folder in folders)
    files = [path for path in checked if path.endswith(".jpg")]
    assert len(files) == len(set(files)) == 60


def test_no_root_is_no_file(tmp_path):
    for find in ("auto", "path", "id"):
        assert find_ids(tmp_path / "none", ["1.jpg"], find) == [None]


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)


@settings(max_examples=60, deadline=None)
@given(st.sets(NAMES.map("{}.jpg".format), max_size=6), NAMES.map("{}.jpg".format))
def test_auto_is_the_first_end_of_the_path_that_is_a_file(tmp_path_factory, there, wanted):
    root = tree(tmp_path_factory.mktemp("tree"), *there)
    parts = wanted.split("/")
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    byname = [place for place in there if place.rpartition("/")[2] == parts[-1]]
    expected = next((end for end in ends if end in there), None)
    if expected is None and len(byname) > 1:
        with pytest.raises(DataError, match="finds two"):
            find_ids(root, [wanted])
    else:
        assert find_ids(root, [wanted]) == [expected or next(iter(byname), None)]


def test_a_name_without_ending_is_that_of_the_only_image_so_called(tmp_path):
    tree(tmp_path, "a/p1.jpg", "a/p2.PNG", "a/p2.txt", "a/p3.jpg", "a/p3.png", "p4.tif")
    assert find_ids(tmp_path, ["a/p1", "a/p2", "a/p3", "x/p4"]) == [
        "a/p1.jpg",
        "a/p2.PNG",
        None,
        "p4.tif",
    ]
    assert find_ids(tmp_path, ["a/p1.jp", "a/p1.png"]) == [None, None]


def test_system_folders_are_not_searched(tmp_path):
    tree(tmp_path, "deep/a.jpg", "@eaDir/a.jpg", "#recycle/a.jpg", "__MACOSX/a.jpg", ".git/a.jpg")
    assert find_ids(tmp_path, ["a.jpg"], find="id") == ["deep/a.jpg"]


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    assert find_ids(tmp_path, ["a.jpg"]) == [None]
