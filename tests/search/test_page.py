"""Pages of results: what is in them, and that names of files cannot do harm."""

import base64
import io
import re
import zipfile

import pytest
from PIL import Image

from deephash.errors import DataError
from deephash.search import page as module
from deephash.search.collection import open_collection
from deephash.search.image_index import ImageIndex
from deephash.search.page import (
    PageQuery,
    thumbnail,
    thumbnail_url,
    write_duplicates_page,
    write_search_page,
)
from tests.search.pictures import save

HOSTILE = "<img src=x onerror=alert(1)> \"&'#?%.png"


@pytest.fixture
def index(tmp_path, encoder):
    photos = tmp_path / "photos"
    for seed in range(4):
        save(photos / f"{seed}.png", seed, 300)
    save(photos / "a & b" / HOSTILE, 0, 300)
    index = ImageIndex(encoder, photos, labels="folders")
    index.update()
    return index


def queries(index, names, **options):
    collection = open_collection(index.images, labels="folders")
    items = {item.id: item for item in collection.items}
    answers = index.search([index.images / name for name in names], **options)
    return [
        PageQuery(name, collection, items[name], answer)
        for name, answer in zip(names, answers, strict=True)
    ]


def pictures(text):
    """The sizes of the pictures in a page."""
    return [
        Image.open(io.BytesIO(base64.b64decode(data))).size
        for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    ]


def test_the_page_of_a_search(index, tmp_path):
    name = f"a & b/{HOSTILE}"
    shown = queries(index, [name, "1.png"], top=5)
    text = write_search_page(tmp_path / "out.html", index, shown, None).read_text()
    assert pictures(text) == [(224, 224)] * 12
    assert "onerror" not in re.sub(r"&lt;img src=x onerror=alert\(1\)&gt;|%[^\"]*", "", text)
    assert 'href="photos/a%20%26%20b/%3Cimg%20src%3Dx' in text and "#?" not in "".join(
        re.findall(r'href="([^"]*)"', text)
    )
    assert "default-src 'none'" in text and "<script" not in text
    assert ", a &amp; b ✓" in text and "2 queries" in text
    assert text.count("<h2>") == 2 and shown[0].answer.hex in text


def test_links_lead_from_the_page_to_the_files(index, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    page = tmp_path / "deep" / "er" / "out.html"
    text = write_search_page(page, index, queries(index, ["1.png"], top=1), None).read_text()
    for link in set(re.findall(r'href="([^"]*)"', text)):
        assert link == "../../photos/1.png" and (page.parent / link).is_file()


def test_notes_on_what_is_left_out(index, tmp_path, monkeypatch):
    page = tmp_path / "out.html"
    none = queries(index, ["1.png"], radius=0, exclude=["1.png"], top=None)
    text = write_search_page(page, index, none, 0).read_text()
    assert "No image within distance 0." in text
    monkeypatch.setattr(module, "MOST_QUERIES", 2)
    monkeypatch.setattr(module, "MOST_HITS", 3)
    shown = queries(index, ["0.png", "1.png", "2.png"], top=None, radius=20)
    text = write_search_page(page, index, shown, 20).read_text()
    assert "1 more query is in search.json" in text and text.count("2 more images.") == 2
    assert len(pictures(text)) == 8


def test_images_of_an_archive_and_those_that_are_gone(tmp_path, index, encoder):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(index.images.glob("*.png")):
            archive.write(path, path.name)
    packed = ImageIndex(encoder, tmp_path / "photos.zip")
    packed.update()
    groups = packed.duplicates(radius=20)
    text = write_duplicates_page(tmp_path / "out.html", packed, groups, 20).read_text()
    assert len(pictures(text)) == 4 and "href" not in text
    (index.images / "2.png").unlink()
    shown = queries(index, ["1.png"], top=5)
    text = write_search_page(tmp_path / "out.html", index, shown, None).read_text()
    assert len(pictures(text)) == 5 and text.count("no picture") == 1


def test_the_page_of_near_images(index, tmp_path, monkeypatch):
    groups = index.duplicates(radius=0)
    text = write_duplicates_page(tmp_path / "out.html", index, groups, 0).read_text()
    assert "<b>1</b><span>group of 2 images" in text and "identical to 0.png" in text
    assert len(pictures(text)) == 2
    monkeypatch.setattr(module, "MOST_MEMBERS", 2)
    groups = index.duplicates(radius=20)
    text = write_duplicates_page(tmp_path / "out.html", index, groups, 20).read_text()
    assert "3 more images." in text and len(pictures(text)) == 2


def test_a_thumbnail_is_small_upright_and_without_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "a camera"
    Image.new("RGB", (1200, 300), "red").save(tmp_path / "a.jpg", exif=exif)
    small = Image.open(io.BytesIO(thumbnail(tmp_path / "a.jpg")))
    assert small.size == (56, 224) and not small.getexif()
    data = (tmp_path / "a.jpg").read_bytes()
    assert thumbnail(tmp_path / "other name", data) == thumbnail(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(data[:200])
    with pytest.raises(DataError):
        thumbnail(tmp_path / "b.jpg")
    assert thumbnail_url(tmp_path / "b.jpg") == thumbnail_url(tmp_path / "gone.jpg") == ""
