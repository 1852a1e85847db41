"""Images of any kind become the pixels that the source of a run stores."""

import numpy as np
import pytest
import torch
from PIL import Image

from deephash.data.decoding import Decoder, Exact, Square
from deephash.data.preprocessing import Preprocessing, images_in
from deephash.data.sources.basic import Digits, Folder
from deephash.data.transforms import Normalize, Pipeline
from deephash.errors import DataError


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return pixels, tmp_path / "a.png"


def test_every_kind_of_image_gives_the_same_pixels(photo):
    pixels, path = photo
    preprocessing = Preprocessing(Decoder(Square(16, "crop")), Pipeline([]))
    wanted = Decoder(Square(16, "crop")).decode(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (path, str(path), Image.open(path), pixels, tensor):
        np.testing.assert_array_equal(preprocessing.pixels(image), wanted)


def test_the_transform_of_a_run_follows(photo):
    transform = Pipeline([Normalize([0.5] * 3, [0.5] * 3)])
    preprocessing = Preprocessing(Decoder(Square(8, "squash")), transform)
    batch = preprocessing([photo[1], photo[0]])
    assert batch.shape == (2, 3, 8, 8) and batch.dtype == torch.float32
    stored = torch.from_numpy(Decoder(Square(8, "squash")).decode(photo[1]).copy())[None]
    torch.testing.assert_close(batch[:1], transform(stored), rtol=0, atol=0)


def test_a_pil_image_is_rotated_by_its_exif_and_not_changed_in_place(tmp_path):
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    notes = Image.Exif()
    notes[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=notes)
    preprocessing = Preprocessing(Decoder(Square(4, "squash")), Pipeline([]))
    with Image.open(tmp_path / "a.png") as opened:
        red = preprocessing.pixels(opened)[0]
        assert red[3, 3] > red[0, 0] and opened.getexif()[0x0112] == 3


def test_a_source_that_stores_images_as_they_are_takes_others_too():
    exact = Preprocessing(Decoder(Exact(32)), Pipeline([]))
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(exact.pixels(pixels), pixels.transpose(2, 0, 1))
    assert exact.pixels(np.zeros((50, 70), np.uint8)).shape == (3, 32, 32)


def test_the_preprocessing_of_a_source(tmp_path):
    assert Preprocessing.of(Digits(), Pipeline([])).decoder.fit.size == 8
    source = Folder(tmp_path, size=24, fit="squash")
    fit = Preprocessing.of(source, Pipeline([])).decoder.fit
    assert (fit.size, fit.fit) == (24, "squash")
    assert Preprocessing.of(object(), Pipeline([])) is None


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.jpg", "there is no image nowhere.jpg"),
        (torch.zeros(3, 4, 4), r"floats from 0 to 1 as \(images \* 255\)"),
        (torch.zeros(4, 4, dtype=torch.uint8), "is not an image"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 \(H, W, 3\)"),
        (3, "int is not an image"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(DataError, match=message):
        Preprocessing(Decoder(Square(4, "crop")), Pipeline([])).pixels(image)


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"a\.jpg"):
        Preprocessing(Decoder(Square(4, "crop")), Pipeline([])).pixels(tmp_path / "a.jpg")


def test_one_image_a_batch_and_any_iterable():
    batch = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    assert len(list(images_in(batch))) == 3
    assert len(list(images_in(batch.permute(0, 2, 3, 1).numpy()))) == 3
    for single in ("a.png", batch[0], np.zeros((4, 4, 3), np.uint8), Image.new("L", (2, 2))):
        assert len(list(images_in(single))) == 1
    assert list(images_in(name for name in "ab")) == ["a", "b"]
    assert list(images_in(3)) == [3]  # refused where it is decoded
