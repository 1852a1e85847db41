"""Features in place of images: keys in the store, fixed views, and limits of memory."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deephash.data import feature_store, precomputed_features
from deephash.data.datamodule import DataModule
from deephash.data.feature_store import FeatureStore, feature_entries
from deephash.data.precomputed_features import precompute_features
from deephash.data.sources.basic import Digits
from deephash.data.splits.protocols import PerClass
from deephash.data.transforms import Normalize, Pipeline, RandomHorizontalFlip, RandomShift

WIDTH = 6
SHIFT = [{"_target_": "RandomShift", "pixels": 2}]
FLIP = [{"_target_": "RandomHorizontalFlip"}]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "MIN_SECONDS", 0.0)
    return FeatureStore(tmp_path / "cache", {"weights": "0123"})


class Network:
    """Features that depend on each pixel, and a count of the images seen."""

    def __init__(self):
        self.weight = torch.randn(192, WIDTH, generator=torch.Generator().manual_seed(0))
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return images.flatten(1) @ self.weight


def digits(views=("train",), seed=0, batch=64, **pipelines):
    made = {
        "weak": Pipeline([RandomShift(2)], SHIFT),
        "strong": Pipeline([RandomShift(2)], SHIFT),
        "flipped": Pipeline([RandomHorizontalFlip(0.5)], FLIP),
        **pipelines,
    }
    data = DataModule(
        "digits", Digits(), PerClass(queries=10, train=20), "per_class", Pipeline([], []),
        Pipeline([], []), batch_size=32, eval_batch_size=batch, views=list(views), seed=seed,
        more_transforms=made,
    )  # fmt: skip
    data.setup("cpu")
    return data


def served(data, store=None, train=True, draws=None):
    network = Network()
    features = precompute_features(data, network, WIDTH, train, store, draws)
    assert features.computed == network.seen
    return features


def test_features_are_those_of_the_images_with_and_without_the_store(store):
    data = digits()
    expected = [Network()(batch.flat()) for batch in data.train(0)]
    for location in (None, store, store):
        data = digits()
        features = served(data, location)
        assert features.count == 1797
        for batch, rows in zip(data.train(0), expected, strict=True):
            assert batch.images.shape == (32, 1, WIDTH)
            torch.testing.assert_close(batch.flat(), rows)
    assert features.computed == 0
    assert len(feature_entries(store.folder)) == 1


def test_what_images_are_is_in_the_key(store):
    served(digits(), store)
    darker = Pipeline([Normalize(mean=[0.5] * 3, std=[0.5] * 3)], [{"_target_": "Normalize"}])
    assert served(digits(["darker"], darker=darker), store).computed == 200  # those that train
    assert served(digits(batch=32), store).computed == 1797
    other = digits()
    object.__setattr__(other._images, "inputs", 255 - other.images.inputs)
    assert served(other, store).computed == 1797
    other = digits()
    object.__setattr__(other._images, "stamp", "files")
    assert served(other, store).computed == 1797
    assert served(digits(seed=3), store).computed == 0
    other = digits()
    other.name = "the same images under another name"
    assert served(other, store).computed == 0
    assert len(feature_entries(store.folder)) == 5


def test_a_pipeline_of_unknown_settings_is_not_kept(store):
    for _ in range(2):
        data = digits(["train"])
        data.test_transform.settings = None
        computed = served(data, store).computed
    assert computed == 1797  # and not those that train, whose pipeline is known


def test_quick_work_is_not_kept(store, monkeypatch):
    monkeypatch.setattr(feature_store, "MIN_SECONDS", 10.0)
    assert served(digits(), store).computed == 1797
    assert not store.folder.exists()


def test_more_than_fits_is_gathered_from_the_disk(store):
    expected = digits(["train", "flipped"])
    served(expected, draws=2)
    data = digits(["train", "flipped"])
    data.resident_limit_bytes = 1000
    served(data, store, draws=2)
    assert len(feature_entries(store.folder)) == 2
    for first, second in zip(expected.train(1), data.train(1), strict=True):
        assert torch.equal(first.images, second.images)
    assert precompute_features(digits(), Network(), WIDTH, True) is not None
    data = digits()
    data.resident_limit_bytes = 1000
    assert precompute_features(data, Network(), WIDTH, True) is None


def test_the_limit_is_that_of_all_features(tmp_path):
    """Of evaluation and of each random pipeline together; none of them exceeds it alone."""
    each = 4 * WIDTH * np.array([1797, 2 * 200, 2 * 200])
    for limit, fits in ((each.sum(), True), (each.sum() - 1, False)):
        data = digits(["weak", "strong"])
        data.resident_limit_bytes = int(limit)
        assert (precompute_features(data, Network(), WIDTH, True, draws=2) is not None) == fits


def test_why_features_are_not_served_is_logged_once(store, caplog):
    data = digits()
    data.resident_limit_bytes = 1000
    assert precompute_features(data, Network(), WIDTH, True) is None
    (record,) = caplog.records
    assert "take more than 0.000954 MiB" in record.message
    assert "they are not kept" in record.message
    caplog.clear()
    store.folder.write_text("a file")
    assert precompute_features(data, Network(), WIDTH, True, store) is None
    (record,) = caplog.records
    assert "they cannot be kept" in record.message
    caplog.clear()
    data.test_transform.settings = None  # has no key
    assert precompute_features(data, Network(), WIDTH, True, store) is None
    (record,) = caplog.records
    assert "they are not kept" in record.message


def test_pixels_are_read_once_for_each_set_of_rows(store, monkeypatch):
    seen = []
    plain = precomputed_features.digest_of_rows
    monkeypatch.setattr(
        precomputed_features,
        "digest_of_rows",
        lambda *given: seen.append(len(given[1])) or plain(*given),
    )
    served(digits(["weak", "strong"]), store, draws=2)
    assert sorted(seen) == [200, 1797]
    seen.clear()
    served(digits(["weak", "strong"]), draws=2)
    assert seen == []


# fixed views


def views_of(data, epoch=0):
    """For each place the views (V, D) that it had in an epoch."""
    return {
        int(place): batch.images[row]
        for batch in data.train(epoch)
        for row, place in enumerate(batch.index)
    }


def rows_of(data, name):
    """The n fixed views of each place: (n, N, D)."""
    return data.features.views[name].rows.view(data.features.draws, -1, WIDTH)


def test_views_are_drawn_anew_in_each_epoch_and_differ(store):
    data = digits(["weak", "weak", "test"])
    features = served(data, store, draws=4)
    assert features.count == 1797 + 4 * 200
    fixed = rows_of(data, "weak")
    seen = {}
    for epoch in range(12):
        for place, views in views_of(data, epoch).items():
            chosen = [int((fixed[:, place] == view).all(dim=1).nonzero()[0]) for view in views[:2]]
            same = torch.equal(fixed[chosen[0], place], fixed[chosen[1], place])
            assert chosen[0] != chosen[1] or same
            seen.setdefault(place, set()).update(chosen)
    counts = np.array([len(views) for views in seen.values()])
    assert counts.mean() > 3.5  # of 4; equal shifts count once
    plain = digits(["test"])
    served(plain)
    for place, views in views_of(data).items():
        assert torch.equal(
            views[2], plain.features.views["test"].rows[plain.features.views["test"].places[place]]
        )


def test_fixed_views_do_not_depend_on_the_seed_and_choices_do(store):
    first_run, second_run = digits(["weak"], seed=0), digits(["weak"], seed=1)
    served(first_run, store, draws=3)
    assert served(second_run, store, draws=3).computed == 0
    again = digits(["weak"], seed=0)
    served(again, draws=3)
    assert torch.equal(rows_of(again, "weak"), rows_of(first_run, "weak"))
    first, second, third = views_of(first_run), views_of(second_run), views_of(again)
    assert all(torch.equal(first[place], third[place]) for place in first)
    both = first.keys() & second.keys()
    assert not all(torch.equal(first[place], second[place]) for place in both)


@pytest.mark.parametrize("batch", [1, 100, 300, 5000])
def test_fixed_views_do_not_depend_on_the_size_of_a_batch(monkeypatch, batch):
    """To the last bit as images; features up to rounding."""
    monkeypatch.setattr(precomputed_features, "FIXED_VIEW_BLOCK", 128)
    actual = []
    for size in (64, batch):
        views = []
        data = digits(["weak"], batch=size)

        class Recording(Network):
            def __call__(self, images, views=views):
                views.append(images.clone())
                return super().__call__(images)

        precompute_features(data, Recording(), WIDTH, True, draws=2)
        assert max(len(view) for view in views) <= size
        actual.append((torch.cat(views)[1797:], rows_of(data, "weak")))
    assert torch.equal(actual[0][0], actual[1][0])
    torch.testing.assert_close(actual[0][1], actual[1][1])


def test_pipelines_of_two_names_have_draws_of_their_own(store):
    data = digits(["weak", "strong"])
    served(data, store, draws=2)
    weak, strong = rows_of(data, "weak"), rows_of(data, "strong")
    assert not torch.equal(weak, strong)
    assert not torch.equal(weak[0], weak[1])
    assert len(feature_entries(store.folder)) == 3


def test_each_fixed_view_is_one_that_the_pipeline_makes():
    data = digits(["flipped"])
    served(data, draws=2)
    plain = digits()
    pixels = torch.from_numpy(plain.images.inputs[plain.split.train]).float() / 255
    straight, mirrored = Network()(pixels), Network()(pixels.flip(-1))
    fixed = rows_of(data, "flipped")
    close = [(fixed - pixels).abs().amax(dim=2) < 1e-4 for pixels in (straight, mirrored)]
    assert (close[0] | close[1]).all()
    assert 0.4 < close[1].float().mean() < 0.6


def test_interrupted_fixed_views_go_on_with_the_same_draws(store, monkeypatch):
    monkeypatch.setattr("deephash.data.sources.feature_formats.FLUSH", 1)
    expected = digits(["weak"])
    served(expected, draws=3)

    class Interrupted(Network):
        def __call__(self, images):
            if self.seen > 1797 + 400:  # within the third view of three
                raise KeyboardInterrupt
            return super().__call__(images)

    with pytest.raises(KeyboardInterrupt):
        precompute_features(digits(["weak"]), Interrupted(), WIDTH, True, store, 3)
    data = digits(["weak"])
    computed = served(data, store, draws=3).computed
    assert 128 < computed < 200  # not from the beginning of a block on
    assert torch.equal(rows_of(expected, "weak"), rows_of(data, "weak"))


def test_notes_are_read_by_people(store):
    served(digits(), store)
    (entry,) = feature_entries(Path(store.folder))
    notes = (entry / "features.json").read_text()
    assert '"remarks": {"dataset": "digits"}' in " ".join(notes.split()).replace("{ ", "{").replace(
        " }", "}"
    )
