"""Images without labels: folders and lists that hold them, and how protocols divide them."""

import lzma
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_array

from deephash.data.archives.csvfile import Csv
from deephash.data.catalogue import Catalogue, no_labels, select_classes
from deephash.data.datamodule import DataModule
from deephash.data.sources.basic import Folder, Listing
from deephash.data.sources.features import Features
from deephash.data.sources.lists import Lists
from deephash.data.splits.multi_label import Drawn, Quota
from deephash.data.splits.protocols import (
    Listed,
    Official,
    PerClass,
    choose_protocol,
    describe_split,
    fingerprint,
)
from deephash.data.splits.split_file import read_split, write_lists, write_split
from deephash.data.transforms import Pipeline
from deephash.data.verification.data_warnings import warn_of_images
from deephash.data.verification.inspection import inspect_lists
from deephash.errors import DataError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPHASH_CACHE", str(tmp_path / "cache"))


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def photos(root, *folders, count=3):
    """So many pictures in each folder below the root."""
    for at, folder in enumerate(folders):
        for number in range(count):
            picture(root / folder / f"{number}.png", 100 * at + number)
    return root


def bare(count):
    return Catalogue(ids=tuple(map(str, range(count))), labels=no_labels(count), classes=())


def data(source, protocol):
    return DataModule(
        "set", source, protocol, "p", Pipeline([]), Pipeline([]), batch_size=2, labels=False
    )


class TestFolder:
    def test_images_without_folders_have_no_labels(self, tmp_path):
        images = Folder(photos(tmp_path / "set", ".", count=5), size=8).load()
        assert images.ids == tuple(f"{n}.png" for n in range(5))
        assert images.classes == () and images.labels.shape == (5, 0) and not images.labelled
        assert images.inputs.shape == (5, 3, 8, 8)
        assert images.official_query is None and images.parts == ()

    def test_files_passed_over_are_counted_once(self, tmp_path):
        root = photos(tmp_path / "set", ".")
        (root / "notes.txt").write_text("nothing")
        assert Folder(root, size=8).load().passed_over == {".txt": 1}

    def test_official_parts_without_folders_keep_their_roles(self, tmp_path):
        root = photos(tmp_path / "set", "train", "test", "val", count=2)
        images = Folder(root, size=8).load()
        assert images.classes == () and images.parts == ("train", "test", "val")
        split = Official(train=None).split(images)
        named = {
            role: [images.ids[row] for row in getattr(split, role)]
            for role in ("train", "database", "queries", "validation")
        }
        assert named["train"] == named["database"] == ["train/0.png", "train/1.png"]
        assert named["queries"] == ["test/0.png", "test/1.png"]
        assert named["validation"] == ["val/0.png", "val/1.png"]
        merged = Folder(root, size=8, parts="merge").load()
        assert len(Drawn(queries=2, train=None).split(merged).database) == 4

    @pytest.mark.parametrize("folders", [("cat", "dog"), ("a/b", "a/c"), ("only",)])
    def test_labels_false_reads_all_images_whatever_the_folders(self, tmp_path, folders):
        root = photos(tmp_path / "set", *folders, ".")
        images = Folder(root, size=8, labels=False).load()
        assert len(images) == 3 * (len(folders) + 1) and images.classes == ()
        assert f"{folders[0]}/0.png" in images.ids and "0.png" in images.ids

    def test_labels_true_wants_class_folders(self, tmp_path):
        root = photos(tmp_path / "set", ".")
        with pytest.raises(DataError, match=r"one folder per class.*dataset\.source\.labels=false"):
            Folder(root, labels=True).load()
        assert Folder(photos(tmp_path / "two", "cat", "dog"), size=8, labels=True).load().labelled

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            (("only",), r"it has only 'only'.*dataset\.source\.labels=false"),
            (("train", "test/a", "test/b"), r"no folder for each class.*labels=false"),
        ],
    )
    def test_what_is_probably_a_mistake_stays_one(self, tmp_path, folders, message):
        with pytest.raises(DataError, match=message):
            Folder(photos(tmp_path / "set", *folders)).load()

    def test_an_empty_folder_is_no_dataset(self, tmp_path):
        (tmp_path / "set").mkdir()
        with pytest.raises(DataError, match="one folder per class"):
            Folder(tmp_path / "set").load()
        with pytest.raises(DataError, match="has no image"):
            Folder(tmp_path / "set", labels=False).load()

    def test_unreadable_files_can_be_left_out(self, tmp_path):
        root = photos(tmp_path / "set", ".")
        (root / "1.png").write_bytes(b"no image")
        images = Folder(root, size=8, on_error="skip").load()
        assert images.ids == ("0.png", "2.png") and images.skipped == ("1.png",)


class TestLists:
    def write(self, root, **lists):
        photos(root, ".", count=8)
        for name, lines in lists.items():
            (root / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        return root

    def test_lists_of_paths_alone_have_no_labels(self, tmp_path):
        root = self.write(
            tmp_path, train=["0.png", "1.png"], test=["2.png"], database=["0.png", "1.png", "3.png"]
        )
        images = Lists(root, size=8).load()
        assert images.classes == () and images.labels.shape == (4, 0)
        assert {role: rows.tolist() for role, rows in images.lists.items()} == {
            "database": [0, 1, 2],
            "queries": [3],
            "train": [0, 1],
        }
        assert describe_split(images, Listed().split(images), "set", "lists", 0).num_classes == 0

    def test_paths_may_hold_blanks_and_the_list_may_be_packed(self, tmp_path):
        root = self.write(tmp_path, test=["2.png"], database=["1.png"])
        picture(root / "my own" / "a b.png", 50)
        with lzma.open(root / "train.txt.xz", "wt") as file:
            file.write("  my own/a b.png \r\n0.png\r\n")
        assert Lists(root, size=8).read().ids == ("1.png", "2.png", "my own/a b.png", "0.png")

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["0.png 1", "1.png"], "line 2: 0 labels; expected a path and one class index"),
            (["0.png", "1.png 1"], "line 1: 0 labels"),
            (["0.png 0 1", "1.png"], "line 2: 0 labels; expected a path and 2 labels"),
            (["0.png", "", "1.png"], "line 2: it is blank"),
            (["0.png,1", "1.png,0"], "no commas"),
            (["000001", "000002"], "line 1: 0 labels"),
        ],
    )
    def test_a_list_with_a_broken_line_does_not_become_unlabelled(self, tmp_path, lines, message):
        root = self.write(tmp_path, train=lines, test=["2.png"], database=["3.png"])
        with pytest.raises(DataError, match=message):
            Lists(root).read()

    def test_class_names_0_takes_any_path(self, tmp_path):
        root = self.write(tmp_path, train=["000001"], test=["000002"], database=["3.png"])
        for none in (0, []):
            images = Lists(root, class_names=none).read()
            assert images.classes == () and images.ids == ("3.png", "000002", "000001")
        (root / "train.txt").write_text("0.png 3\n")
        with pytest.raises(DataError, match=r"line 1: '0\.png 3'; expected a path and no labels"):
            Lists(root, class_names=0).read()
        with pytest.raises(DataError, match="must be at least 0"):
            Lists(root, class_names=-1)

    def test_known_classes_want_labels(self, tmp_path):
        root = self.write(tmp_path, train=["0.png"], test=["2.png"], database=["3.png"])
        with pytest.raises(DataError, match="0 labels; expected a path and 2 labels"):
            Lists(root, class_names=["cat", "dog"]).read()

    def test_the_training_list_alone_may_have_none(self, tmp_path):
        root = self.write(
            tmp_path, train=["0.png", "3.png"], test=["2.png 0"], database=["3.png 1", "4.png 0"]
        )
        images = Lists(root).read()
        assert images.classes == ("0", "1")
        labels = dict(zip(images.ids, images.labels.toarray().tolist(), strict=True))
        assert labels["0.png"] == [False, False]
        assert labels["3.png"] == [False, True]  # as the database's list says
        facts = describe_split(images, Listed().split(images), "set", "lists", 0)
        assert (facts.num_train, facts.num_train_unlabelled) == (2, 1)

    @pytest.mark.parametrize("without", ["test", "database"])
    def test_queries_and_database_have_labels_both_or_neither(self, tmp_path, without):
        lists = {"train": ["0.png 0"], "test": ["2.png 0"], "database": ["3.png 1"]}
        lists[without] = [line.split()[0] for line in lists[without]]
        root = self.write(tmp_path, **lists)
        with pytest.raises(DataError, match=f"{without}.txt has paths only, and .* has labels"):
            Lists(root).read()
        result = inspect_lists(Lists(root), files=False).findings
        wrong = [finding.what for finding in result if finding.level == "error"]
        assert any("in both lists, or in neither" in message for message in wrong), result

    def test_inspection_counts_and_reports_them(self, tmp_path):
        root = self.write(tmp_path, train=["0.png"], test=["2.png"], database=["0.png"])
        result = inspect_lists(Lists(root))
        images = Lists(root, size=8).load()
        assert result.fingerprint == fingerprint(images, Listed().split(images))
        assert [role.unlabelled for role in result.lists] == [1, 1, 1]
        assert not any(finding.level == "error" for finding in result.findings)
        assert [finding.what for finding in result.findings if "paths only" in finding.what]
        assert "train" in "\n".join(result.lines())

    def test_a_split_without_labels_goes_to_files_and_back(self, tmp_path):
        images = Folder(photos(tmp_path / "set", ".", count=6), size=8).load()
        split = Drawn(queries=2, train=3).split(images)
        printed = fingerprint(images, split)
        write_split(tmp_path / "a.split.xz", images, split, dataset="set", protocol="drawn")
        catalogue, header = read_split(tmp_path / "a.split.xz")
        assert catalogue.classes == () and header.fingerprint == printed
        read = Lists(tmp_path / "set", lists=tmp_path / "a.split.xz", size=8).load()
        assert fingerprint(read, Listed().split(read)) == printed
        with pytest.raises(DataError, match=r"other classes \(none\) than .* \(a and 1 more\)"):
            Lists(tmp_path, lists=tmp_path / "a.split.xz", class_names=["a", "b"]).read()
        write_lists(tmp_path / "lists", images, split)
        listed = Lists(tmp_path / "set", lists=tmp_path / "lists", size=8).load()
        assert fingerprint(listed, Listed().split(listed)) == printed
        with pytest.raises(DataError, match="style=index needs one label"):
            write_lists(tmp_path / "lists", images, split, style="index")


class TestProtocols:
    def test_drawn_is_seeded_and_counts(self):
        images = bare(20)
        first, again, other = (Drawn(4, 10, seed=seed).split(images) for seed in (1, 1, 2))
        assert (
            fingerprint(images, first) == fingerprint(images, again) != fingerprint(images, other)
        )
        facts = describe_split(images, first, "set", "drawn", 1)
        assert (facts.num_queries, facts.num_train, facts.num_database) == (4, 10, 16)
        assert (facts.num_classes, facts.classes, facts.multilabel) == (0, (), False)
        assert facts.num_train_unlabelled == 10 and facts.per_class == {}
        assert not np.isin(first.queries, first.database).any()

    def test_without_labels_it_is_another_split_than_with(self):
        images = bare(6)
        labels = csr_array(np.eye(6, 2, dtype=bool))
        labelled = Catalogue(ids=images.ids, labels=labels, classes=("a", "b"))
        split = Drawn(2, None).split(images)
        assert fingerprint(images, split) != fingerprint(labelled, split)

    @pytest.mark.parametrize("protocol", [PerClass(1, None), Quota(1, 1)])
    def test_those_that_count_by_class_name_one_that_does_not(self, protocol):
        with pytest.raises(DataError, match=r"have no labels.*dataset\.protocol=drawn"):
            protocol.split(bare(9))

    @pytest.mark.parametrize(
        ("protocol", "message"),
        [
            (Official(train=3), r"train=3 is a number of images per class.* null"),
            (Official(train=None, validation=2), r"validation=2 .* set it to 0"),
        ],
    )
    def test_counts_per_class_are_refused(self, tmp_path, protocol, message):
        images = Folder(photos(tmp_path / "set", "train", "test"), size=8).load()
        with pytest.raises(DataError, match=message):
            protocol.split(images)

    def test_listed_validation_by_class_is_refused(self):
        lists = {"database": np.arange(4), "queries": np.array([4]), "train": np.arange(4)}
        images = Catalogue(ids=tuple("abcde"), labels=no_labels(5), classes=(), lists=lists)
        with pytest.raises(DataError, match=r"validation=2 selects images by class.* set it to 0"):
            Listed(validation=2).split(images)

    def test_official_parts_are_not_merged_by_a_draw(self, tmp_path):
        images = Folder(photos(tmp_path / "set", "train", "test"), size=8).load()
        with pytest.raises(DataError, match="come in official parts"):
            Drawn(2, None).split(images)

    def test_the_protocol_of_images_without_labels(self):
        general, other = ("per_class", PerClass(1, None)), ("drawn", Drawn(2, None))
        assert choose_protocol(bare(9), general, other) is other
        assert choose_protocol(bare(9), general, None) is general
        labelled = Catalogue(ids=("a", "b"), labels=np.eye(2, dtype=bool), classes=("x", "y"))
        assert choose_protocol(labelled, general, other) is general
        parts = replace(bare(9), parts=("train", "test"))
        assert choose_protocol(parts, general, other) is general

    def test_dropping_the_unlabelled_leaves_nothing(self):
        with pytest.raises(DataError, match="unlabelled=drop leaves no image"):
            Drawn(2, None, unlabelled="drop").split(bare(9))

    def test_no_classes_to_select(self):
        with pytest.raises(DataError, match=r"these have none: set dataset\.classes=null"):
            select_classes(bare(4), [0, 1])


class TestDataModule:
    def test_labels_are_rows_of_no_columns(self, tmp_path, caplog):
        module = data(Folder(photos(tmp_path / "set", ".", count=7), size=8), Drawn(2, None))
        module.setup("cpu")
        assert module.labels(module.split.queries).shape == (2, 0)
        assert module.targets(module.split.queries).shape == (2, 0)
        assert not module.has_labels
        assert "none of the 7 images has a label" in caplog.text

    def test_they_are_refused_before_an_image_is_opened(self, tmp_path):
        root = tmp_path / "set"
        root.mkdir()
        for name in ("train", "test", "database"):
            (root / f"{name}.png").write_bytes(b"no image")
            (root / f"{name}.txt").write_text(f"{name}.png\n")
        message = (
            r"of the 3 images of dataset set has a label, and method=x reads labels\.\n  Type y"
        )
        for source, protocol in ((Folder(root), Drawn(1, None)), (Lists(root), Listed())):
            with pytest.raises(DataError, match=message):
                data(source, protocol).require_labels("method=x reads labels", "Type y.")

    def test_a_catalogue_is_read_once(self, tmp_path):
        source = Folder(photos(tmp_path / "set", "cat", "dog"), size=8)
        known, read = source.catalogue(), []
        source.catalogue = lambda: read.append(1) or known
        assert isinstance(source, Listing)
        module = data(source, PerClass(1, None))
        module.require_labels("method=x reads labels", "")
        module.setup("cpu")
        assert read == [1] and len(module.images) == 6

    @pytest.mark.parametrize("at_once", [True, False])
    def test_so_are_labelled_images_of_which_none_that_trains_has_a_label(self, tmp_path, at_once):
        root = photos(tmp_path / "set", ".")
        (root / "train.txt").write_text("0.png\n")
        (root / "test.txt").write_text("1.png 0\n")
        (root / "database.txt").write_text("2.png 0\n")
        module = DataModule(
            "set", Lists(root, size=8), Listed(), "p", Pipeline([]), Pipeline([]), batch_size=1
        )
        with pytest.raises(DataError, match=r"none of the 1 training images .* reads labels"):
            if at_once:
                module.require_labels("method=x reads labels", "")
            module.setup("cpu")
        module.setup("cpu", trains=False)  # it can still be measured on

    def test_a_protocol_refuses_them_before_an_image_is_opened(self, tmp_path, monkeypatch):
        root = photos(tmp_path / "set", ".")
        monkeypatch.setattr(Folder, "load", lambda *_: pytest.fail("images were opened"))
        with pytest.raises(DataError, match="PerClass counts images by class"):
            data(Folder(root), PerClass(1, None)).setup("cpu")

    def test_features_without_labels_are_refused_on_setup(self, tmp_path):
        for name in ("train", "test", "database"):
            np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(4, 3)))
        source = Features(tmp_path)
        assert source.load().classes == ()
        module = data(source, Listed())
        module.require_labels("method=x reads labels", "")
        with pytest.raises(DataError, match="none of the 12 images"):
            module.setup("cpu")


def test_a_table_without_labels(tmp_path):
    (tmp_path / "t.csv").write_text("path,note\na.png,1\nb.png,x\n")
    images = Csv(tmp_path, "t.csv", label=None, columns=[]).read()
    assert images.ids == ("a.png", "b.png") and images.classes == ()
    assert images.labels.shape == (2, 0)
    with pytest.raises(DataError, match=r"no column 'label'.*without labels .*label=null '"):
        Csv(tmp_path, "t.csv").read()


def test_warnings_report_missing_labels():
    (result,) = warn_of_images(bare(3))
    assert (result.level, result.what) == ("note", "none of the 3 images has a label")
