"""``deephash data cache``: the entries of the cache, listed and removed."""

import numpy as np
import pytest
import torch

from deephash.data.feature_store import FeatureStore, feature_entries
from deephash.data.image_cache.cache import load_pixels
from deephash.data.image_cache.entries import Content
from deephash.data.sources.feature_formats import PART
from deephash.errors import ConfigError
from deephash.runs.cache_command import show_cache
from deephash.utils.locks import Lock


class Page:
    """The keys of the page that are read."""

    def __init__(self, folder, remove=None):
        self.paths = type("Paths", (), {"cache": str(folder)})
        self.remove = remove


NOTES = {"backbone": {"_target_": "deephash.models.backbones.Torchvision", "name": "resnet50"}}


@pytest.fixture
def folder(tmp_path):
    """A cache with the pixels of two images, features of three, and a part of others."""
    (tmp_path / "photos").mkdir()
    files = [(f"{name}.jpg", 1, 1) for name in "ab"]
    content = Content(tmp_path / "photos", files, {"fit": "test"}, 4)
    load_pixels(content, lambda path: np.zeros((3, 4, 4), np.uint8), folder=tmp_path / "cache")
    store = FeatureStore(tmp_path / "cache", NOTES)
    of = {"views": 3, "name": "strong"}
    remarks = {"dataset": "photos"}
    store.load(of, 3, 2, lambda start: iter([torch.ones(3, 2)]), always=True, remarks=remarks)

    def killed(start):
        yield torch.ones(16, 2)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("deephash.data.sources.feature_formats.FLUSH", 1)
        store.load({}, 20, 2, killed, always=True, remarks={"dataset": "others"})
    return tmp_path / "cache"


def test_entries_are_listed(folder, capsys):
    show_cache(Page(folder))
    shown = capsys.readouterr().out
    assert f"2 images of {folder.parent / 'photos'}, 4 px" in shown
    assert "3 x 2 features of photos by resnet50, 3 views under strong" in shown
    assert "20 x 2 features of others by resnet50, 16 done" in shown
    assert f"3 entries, 0.00 GB: {folder}" in shown
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(("remove", "left"), [("pixels", 2), ("features", 1), ("all", 0)])
def test_entries_are_removed(folder, remove, left, capsys):
    show_cache(Page(folder, remove))
    assert capsys.readouterr().out.count("  removed\n") == 3 - left
    assert len(list(folder.iterdir())) == left


def test_one_entry_is_removed_by_its_name(folder, capsys):
    name = next(entry.name for entry in feature_entries(folder) if (entry / PART).exists())
    show_cache(Page(folder, name))
    assert "by resnet50, 16 done  removed" in capsys.readouterr().out
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(ConfigError, match="no such entry"):
        show_cache(Page(folder, name))


def test_what_a_process_writes_stays(folder, capsys):
    entry = feature_entries(folder)[0]
    with Lock.acquire(entry.with_suffix(".lock")):
        show_cache(Page(folder, entry.name))
    assert "in use: not removed" in capsys.readouterr().out
    assert entry.is_dir()


def test_an_empty_cache(tmp_path, capsys):
    show_cache(Page(tmp_path / "none", "features"))
    assert capsys.readouterr().out.startswith("0 entries")
