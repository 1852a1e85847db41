"""Which images a folder, a list, a table, an archive or a file holds."""

import io
import os
import tarfile
import zipfile

import pytest

from deephash.errors import DataError
from deephash.search import collection as module
from deephash.search.collection import Files, open_collection
from tests.search.pictures import content, save


def ids(collection):
    return [item.id for item in collection.items]


def labels(collection):
    return [item.label for item in collection.items]


def contents(collection):
    """What reading gives, by id: the bytes, or the cause of a failure."""
    return {
        read.item.id: read.cause
        or (read.path.read_bytes() if read.content is None else read.content)
        for read in collection.read(collection.items)
    }


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for seed, name in enumerate(("b.PNG", "cats/tom.jpg", "cats/wild/lynx.webp", "dogs/é ü.gif")):
        save(folder / name, seed)
    (folder / "cats" / "notes.txt").write_text("no image")
    (folder / "raw.cr2").write_text("raw")
    save(folder / ".trash" / "c.png")
    save(folder / "cats.deephash" / "d.png")
    return folder


def test_a_folder_is_searched_with_its_subfolders(photos):
    found = open_collection(photos)
    assert ids(found) == ["b.PNG", "cats/tom.jpg", "cats/wild/lynx.webp", "dogs/é ü.gif"]
    assert found.passed_over == {".txt": 1, ".cr2": 1, ".trash/": 1, "cats.deephash/": 1}
    assert labels(found) == [None] * 4
    assert labels(open_collection(photos, labels="folders")) == [None, "cats", "wild", "dogs"]
    assert contents(found)["b.PNG"] == (photos / "b.PNG").read_bytes()
    assert found.file("cats/tom.jpg") == photos / "cats" / "tom.jpg"


def test_a_relative_folder_and_one_image(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert len(open_collection(".")) == 4 and open_collection(".").path == photos
    one = open_collection("cats/tom.jpg", labels="folders")
    assert (ids(one), labels(one), one.path) == (["tom.jpg"], ["cats"], photos / "cats/tom.jpg")


def test_a_signature_changes_with_the_file(photos):
    before = open_collection(photos).items
    save(photos / "b.PNG", 9, 20)
    os.utime(photos / "cats" / "tom.jpg", ns=(1, 1))
    after = open_collection(photos).items
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("text", "names", "marks"),
    [
        ("photos/b.PNG\n\n./photos/cats/tom.jpg\r\n", ["photos/b.PNG", "photos/cats/tom.jpg"],
         [None, None]),
        ("# all\nphotos/b.PNG 3\nphotos/dogs/é ü.gif a dog\n",
         ["photos/b.PNG", "photos/dogs/é ü.gif"], ["3", "a dog"]),
        ("photos/b.PNG 0 1 1\nphotos/cats/tom.jpg 0 0 0\n",
         ["photos/b.PNG", "photos/cats/tom.jpg"], [("1", "2"), None]),
        ("photos/b.PNG\tx y\n", ["photos/b.PNG"], ["x y"]),
    ],
)  # fmt: skip
def test_a_list_has_a_path_and_perhaps_a_label_on_each_line(photos, text, names, marks):
    file = photos.parent / "all.txt"
    file.write_text(text)
    found = open_collection(file)
    assert (ids(found), labels(found)) == (names, marks)
    assert all(isinstance(value, bytes) for value in contents(found).values())
    assert set(labels(open_collection(file, labels="none"))) == {None}


def test_a_list_may_have_another_root_absolute_paths_and_missing_files(photos):
    file = photos.parent / "lists" / "all.txt"
    file.parent.mkdir()
    absolute = (photos / "b.PNG").as_posix()
    lines = [absolute, "cats/tom.jpg", "cats/tom.jpg", "gone.jpg", "https://a.org/x.jpg"]
    file.write_text("\n".join(lines))
    found = open_collection(file, root=photos)
    assert ids(found) == [absolute, "cats/tom.jpg", "gone.jpg", "https://a.org/x.jpg"]
    assert found.passed_over == {module.REPEATED: 1}
    assert [bool(item.signature) for item in found.items] == [True, True, False, False]
    reads = {read.item.id: read for read in found.read(found.items)}
    assert "URL" in reads["https://a.org/x.jpg"].cause and reads["gone.jpg"].cause is None


@pytest.mark.parametrize(
    ("text", "options", "marks"),
    [
        ("path,label\nb.PNG,x\ncats/tom.jpg,\n", {}, ["x", None]),
        ("class;file\nx;b.PNG\n y ;cats/tom.jpg\n", {}, ["x", "y"]),
        ("what,where\nx,b.PNG\ny,cats/tom.jpg\n",
         {"path_column": "where", "label_column": "what"}, ["x", "y"]),
        ("file\nb.PNG\ncats/tom.jpg\n", {}, [None, None]),
    ],
)  # fmt: skip
def test_a_table_has_columns_of_paths_and_labels(photos, text, options, marks):
    file = photos / "all.csv"
    file.write_text(text)
    found = open_collection(file, **options)
    assert (ids(found), labels(found)) == (["b.PNG", "cats/tom.jpg"], marks)


MEMBERS = ["./b/1.png", "a/2.jpg", "readme.txt", "__MACOSX/a/._2.jpg", "../evil.png", "b/1.png"]


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def make_tar(path, members):
    with tarfile.open(path, f"w:{path.suffix[1:] if path.suffix != '.tar' else ''}") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["all.zip", "all.tar", "all.tar.gz", "all.tar.xz"])
def test_archives_are_read_without_unpacking(tmp_path, name):
    make = make_zip if name.endswith(".zip") else make_tar
    data = {name: content(seed, "a.png") for seed, name in enumerate(MEMBERS)}
    path = make(tmp_path / name, [(one, data[one]) for one in MEMBERS])
    found = open_collection(path, labels="folders")
    assert (ids(found), labels(found)) == (["a/2.jpg", "b/1.png"], ["a", "b"])
    assert sum(found.passed_over.values()) == 3 and found.passed_over[module.OUTSIDE] == 1
    assert found.file("a/2.jpg") is None
    assert contents(found) == {"a/2.jpg": data["a/2.jpg"], "b/1.png": data["b/1.png"]}  # the last
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["all.zip", "all.tar"])
def test_an_archive_that_changes_meanwhile(tmp_path, name):
    make = make_zip if name.endswith(".zip") else make_tar
    path = make(tmp_path / name, [("a.png", content(0)), ("b.png", content(1))])
    found = open_collection(path)
    make(path, [("b.png", content(1))])
    causes = contents(found)
    assert causes["a.png"] == module.CHANGED


def test_members_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MEMBER_BYTES", 100)
    for make, name in ((make_zip, "a.zip"), (make_tar, "a.tar")):
        found = open_collection(make(tmp_path / name, [("big.png", content(0))]))
        assert "at most 100" in contents(found)["big.png"]


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("nothing", None, {}, "does not exist"),
        ("a.pdf", "x", {}, "neither a folder, nor a list or archive"),
        ("a.zip", "no zip", {}, "a.zip cannot be read"),
        ("a.tar", "no tar", {}, "a.tar cannot be read"),
        ("a.csv", "one,two\n1,2\n", {}, "path_column=NAME"),
        ("a.csv", "path,kind\nx.jpg,2\n", {"label_column": "sort"}, "label_column=sort  is no"),
        ("a.csv", "path,kind\nx.jpg,2\n", {"path_column": "file"}, "path_column=path"),
        ("a.txt", "\n# none\n", {}, "holds no images"),
        ("a.txt", "a photo\0and more", {}, "zero byte"),
        ("a.png", "x", {"root": "."}, "root  is for lists"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, text, options, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        open_collection(tmp_path / name, **options)


def test_a_folder_without_images_says_what_it_ignored(tmp_path):
    (tmp_path / "a.psd").write_text("x")
    with pytest.raises(DataError, match=r"holds no images. Ignored: 1 .psd \(convert"):
        open_collection(tmp_path)


def test_an_unreadable_member_does_not_stop_the_others(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("a.png", content(0)), ("b.png", content(1))])
    data = bytearray(path.read_bytes())
    data[60] ^= 255  # within the first member
    path.write_bytes(data)
    values = contents(open_collection(path))
    assert "CRC" in values["a.png"] and values["b.png"] == content(1)
    assert isinstance(
        open_collection(tmp_path / "a.zip").with_items([]), type(open_collection(path))
    )
    assert not isinstance(open_collection(path), Files)
