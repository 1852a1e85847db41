"""Features in the formats of the field: what is read, how roles meet, and what is refused."""

import pickle
import re
import sys
from fractions import Fraction
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy.io import savemat

from deephash.data.datamodule import DataModule
from deephash.data.lazy_arrays import Stacked
from deephash.data.sources import feature_formats
from deephash.data.sources.feature_formats import read_features, write_features
from deephash.data.sources.features import Features
from deephash.data.splits.protocols import Listed
from deephash.data.transforms import Pipeline
from deephash.errors import DataError

RNG = np.random.default_rng(0)
ROLES = {"database": 9, "test": 3, "train": 5}


def arrays(role, count):
    start = {"database": 0, "test": 100, "train": 200}[role]
    return {
        "features": np.arange(start, start + count, dtype=np.float32)[:, None] * np.ones(4, "f4"),
        "labels": np.arange(count) % 3,
        "ids": np.array([f"{role}{row}" for row in range(count)]),
    }


def as_npy(path, contents):
    np.save(path.with_suffix(".npy"), contents["features"])
    for name in set(contents) - {"features"}:
        np.save(path.with_name(f"{path.name}_{name}.npy"), contents[name])


def as_npz(path, contents):
    np.savez(path.with_suffix(".npz"), **contents)


def as_safetensors(path, contents):
    save_file({k: v for k, v in contents.items() if k != "ids"}, path.with_suffix(".safetensors"))


def as_hdf5(path, contents):
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, values in contents.items():
            file[name] = values.astype("S") if name == "ids" else values


def as_torch(path, contents, ending=".pt"):
    kept = {
        "codes": torch.from_numpy(contents["features"]),
        "labels": torch.from_numpy(contents["labels"]),
        "id": contents["ids"].tolist(),
    }
    torch.save(kept, path.with_suffix(ending))


def as_fire(path, contents):
    as_torch(path, contents, ".txt")


FORMATS = [as_npy, as_npz, as_safetensors, as_hdf5, as_torch, as_fire]


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_set(write, tmp_path):
    for role, count in ROLES.items():
        write(tmp_path / role, arrays(role, count))
    images = Features(tmp_path).load()
    assert images.inputs[:][:, 0].tolist() == [*range(9), 100, 101, 102, *range(200, 205)]
    assert images.inputs.dtype == np.float32 and not images.pictures
    assert images.labels.toarray().argmax(axis=1).tolist() == [
        row % 3 for count in ROLES.values() for row in range(count)
    ]
    split = Listed().split(images)
    assert split.queries.tolist() == [9, 10, 11] and split.train.tolist() == [12, 13, 14, 15, 16]
    if write is not as_safetensors:  # which holds no text
        assert images.ids[9:13] == ("test0", "test1", "test2", "train0")


def test_an_image_of_two_roles_is_one_row(tmp_path):
    contents = arrays("database", 9)
    as_npz(tmp_path / "database", contents)
    as_npz(tmp_path / "test", arrays("test", 3))
    rows = np.array([7, 2, 4])
    as_npz(tmp_path / "train", {name: values[rows] for name, values in contents.items()})
    images = Features(tmp_path).load()
    assert len(images) == 12 and images.lists["train"].tolist() == rows.tolist()


def test_labels_of_an_image_in_two_files(tmp_path):
    """Labels in only one file are used; different labels in two files are refused."""
    contents, rows = arrays("database", 9), np.array([7, 2, 4])
    taught = {name: values[rows] for name, values in contents.items()}
    as_npz(tmp_path / "database", {name: contents[name] for name in ("features", "ids")})
    as_npz(tmp_path / "test", {name: arrays("test", 3)[name] for name in ("features", "ids")})
    as_npz(tmp_path / "train", taught)
    images = Features(tmp_path).load()
    assert images.label_counts.tolist() == [0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    assert images.class_indices[rows].tolist() == taught["labels"].tolist()
    as_npz(
        tmp_path / "database",
        contents | {"labels": np.where(np.arange(9) == 2, 0, contents["labels"])},
    )
    with pytest.raises(DataError, match=r"train\.npz gives 1 images other labels .* database2"):
        Features(tmp_path).load()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([1, 2, 3, 1, 2]), [0, 1, 2, 0, 1]),  # counted from one
        (np.array([2, -1, 3, 1, 2]), [1, None, 2, 0, 1]),  # the second has none
        (np.eye(3, dtype=np.uint8)[[0, 1, 2, 0, 1]], [0, 1, 2, 0, 1]),
        (np.eye(3, dtype=np.float64)[[0, 1, 2, 0, 1]], [0, 1, 2, 0, 1]),
    ],
)
def test_labels_in_every_form(labels, expected, tmp_path):
    for role, count in ROLES.items():
        as_npz(tmp_path / role, {"features": arrays(role, count)["features"]})
    as_npz(tmp_path / "train", arrays("train", 5) | {"labels": labels})
    images = Features(tmp_path, first_class=1 if labels.ndim == 1 else 0).load()
    rows = images.labels[images.lists["train"]].toarray()
    assert [row.argmax() if row.any() else None for row in rows] == expected
    assert images.label_counts[images.lists["database"]].tolist() == [0] * 9


def test_landmarks_do_not_take_the_memory_of_a_dense_matrix(tmp_path):
    """81,313 classes of 20,000 images would be 1.6 GB of bools."""
    labels = RNG.integers(0, 81313, 20000)
    for role in ROLES:
        as_npz(tmp_path / role, {"features": np.zeros((20000, 1), np.float16), "labels": labels})
    images = Features(tmp_path, num_classes=81313).load()
    assert images.labels.shape == (60000, 81313) and images.labels.nnz == 60000
    assert images.inputs.dtype == np.float16


def as_pickle(path, contents):
    path.with_suffix(".pkl").write_bytes(pickle.dumps(contents | {"ids": contents["ids"].tolist()}))


def as_torch_arrays(path, contents):
    torch.save(contents, path.with_suffix(".pt"), pickle_protocol=4)


def as_old_torch(path, contents):
    torch.save(contents, path.with_suffix(".pth"), _use_new_zipfile_serialization=False)


def as_tuple(path, contents):
    torch.save(
        (contents["features"], contents["labels"].tolist(), contents["ids"]),
        path.with_suffix(".pt"),
    )


def as_lists(path, contents):
    torch.save(
        {
            "features": [torch.from_numpy(row) for row in contents["features"]],
            "labels": [torch.tensor(label) for label in contents["labels"].tolist()],
            "ids": contents["ids"].tolist(),
        },
        path.with_suffix(".pt"),
    )


def as_bare_tensors(path, contents):
    torch.save(torch.from_numpy(contents["features"]), path.with_suffix(".pt"))
    for name in ("labels", "ids"):
        torch.save(contents[name], path.with_name(f"{path.name}_{name}.pt"))


def as_dict_in_npy(path, contents):
    np.save(path.with_suffix(".npy"), contents, allow_pickle=True)


def as_objects_in_npz(path, contents):
    np.savez(
        path, **contents | {"ids": contents["ids"].astype(object), "args": np.array([{}], object)}
    )


def as_fortran_npy(path, contents):
    as_npy(path, contents | {"features": np.asfortranarray(contents["features"])})


def as_matlab(path, contents):
    savemat(
        path.with_suffix(".mat"), contents | {"labels": contents["labels"].astype(float)[:, None]}
    )


MORE = [as_pickle, as_torch_arrays, as_old_torch, as_tuple, as_lists, as_bare_tensors,
        as_dict_in_npy, as_objects_in_npz, as_fortran_npy, as_matlab]  # fmt: skip


@pytest.mark.parametrize("write", MORE)
def test_what_people_have_gives_the_same_set(write, tmp_path):
    (tmp_path / "a").mkdir()
    for role, count in ROLES.items():
        as_npz(tmp_path / role, arrays(role, count))
        write(tmp_path / "a" / role, arrays(role, count))
    unpacked, nested = Features(tmp_path).load(), Features(tmp_path / "a").load()
    if write is not as_matlab:  # which pads text to one length
        assert unpacked.ids == nested.ids
    assert np.array_equal(unpacked.inputs[:], nested.inputs[:])
    assert nested.inputs[:].dtype == np.float32
    assert (unpacked.labels != nested.labels).nnz == 0 and unpacked.classes == nested.classes


@pytest.mark.parametrize("kind", ["f8", "f2", "i4", "i8", "?", "u1"])
@pytest.mark.parametrize("write", [as_npz, as_torch_arrays, as_npy, as_hdf5])
def test_every_plain_type_is_read(kind, write, tmp_path):
    values = (RNG.normal(size=(9, 4)) * 3).astype(kind)
    for role, count in ROLES.items():
        write(tmp_path / role, arrays(role, count) | {"features": values[:count]})
    inputs = Features(tmp_path).load().inputs
    assert inputs.dtype == (np.float16 if kind == "f2" else np.float32)
    assert np.array_equal(inputs[:9], values.astype(inputs.dtype))


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["a", "b", "c", "a", "b"]),
        np.array([b"a", b"b", b"c", b"a", b"b"]),
        ["a", "b", "c", "a", "b"],
        np.array(["a", "b", "c", "a", "b"], object),
    ],
)
def test_labels_may_be_names(labels, tmp_path):
    for role, count in ROLES.items():
        contents = arrays(role, count)
        torch.save(
            contents | {"labels": np.array(list("abc") * 3)[:count]}, tmp_path / f"{role}.pt"
        )
    torch.save(arrays("train", 5) | {"labels": labels}, tmp_path / "train.pt")
    images = Features(tmp_path).load()
    assert images.classes == ("a", "b", "c")
    assert images.labels[images.lists["train"]].indices.tolist() == [0, 1, 2, 0, 1]
    torch.save(arrays("train", 5), tmp_path / "train.pt")
    with pytest.raises(DataError, match=r"are names and those of .*are int64"):
        Features(tmp_path).load()


@pytest.mark.parametrize("shape", [(5, 1), (1, 5)])
def test_a_column_of_class_indices_is_no_multi_hot_row(shape, tmp_path):
    spoiled(tmp_path, labels=np.array([0, 1, 1, 0, 2]).reshape(shape))
    images = Features(tmp_path).load()
    assert images.labels[images.lists["train"]].indices.tolist() == [0, 1, 1, 0, 2]
    spoiled(tmp_path, labels=np.array([0, 1, 1, 0, 1]).reshape(shape))
    images = Features(tmp_path).load()
    assert images.labels[images.lists["train"]].indices.tolist() == [0, 1, 1, 0, 1]


def test_classes_counted_from_one_are_reported(tmp_path, caplog):
    for role, count in ROLES.items():
        contents = arrays(role, count)
        as_npz(tmp_path / role, contents | {"labels": contents["labels"] + 1})
    Features(tmp_path).load()
    assert "no image has the class 0" in caplog.text and "first_class=1" in caplog.text
    caplog.clear()
    Features(tmp_path, first_class=1).load()
    assert not caplog.text


def test_files_of_which_some_are_normalised_are_reported(tmp_path, caplog):
    for role, count in ROLES.items():
        rows = RNG.normal(size=(count, 4))
        contents = arrays(role, count)
        as_npz(
            tmp_path / role, contents | {"features": rows / np.linalg.norm(rows, axis=1)[:, None]}
        )
    Features(tmp_path).load()
    assert not caplog.text
    as_npz(tmp_path / "train", arrays("train", 5))
    Features(tmp_path).load()
    assert re.search(r"test\.npz are normalised .*those of \S*train\.npz are not", caplog.text)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"features": torch.eye(4).to_sparse()}, "features is a sparse tensor"),
        ({"features": [torch.ones(4), torch.ones(3)]}, "a list with rows of 2 shapes"),
        ({"features": [None, torch.ones(3)]}, "a list with a NoneType"),
        ({"features": {"a": 1}}, "features is a dict of a"),
        ({"features": "a.npy"}, "features is a str"),
        ({"features": np.ones((5, 4)), "labels": Fraction(1)}, "labels is an object of fractions"),
        (torch.nn.Linear(2, 3), "contains a network, an object of torch.nn.modules.linear.Linear"),
        (torch.nn.Linear(2, 3).state_dict(), "looks like a state dict of 2 tensors"),
        ("text", "contains a str"),
        (Fraction(1), "contains an object of fractions.Fraction"),
        ({"features": torch.ones(4, 5), "labels": torch.ones(5)}, "They seem to be transposed"),
        ({"features": np.zeros((5, 4), "c8")}, "must be .n, D. floats, or integers or bools"),
        ({"features": np.zeros((5, 4)), "labels": list("01234")}, "numbers as text"),
        (
            {"features": np.zeros((5, 4)), "labels": np.array([0, 1, 2, 2**31 - 1, 0])},
            r"row 3 of .*train\.pt has the class 2147483647",
        ),
        ({"features": np.zeros((5, 4)), "labels": np.full(5, 2**64 - 1, "u8")}, "has the class"),
        ({"features": np.zeros((5, 4)), "labels": np.arange(5.0)}, r"labels\.astype\('int64'\)"),
    ],
)
def test_invalid_features_are_reported_in_our_own_message(saved, message, tmp_path):
    for role in ("database", "test"):
        contents = arrays(role, ROLES[role])
        if isinstance(saved, dict) and isinstance(saved.get("labels"), list):
            contents["labels"] = contents["labels"].astype(str)
        as_npz(tmp_path / role, contents)
    torch.save(saved, tmp_path / "train.pt")
    with pytest.raises(DataError, match=message) as error:
        Features(tmp_path).load()
    assert "weights_only" not in str(error.value) and "allow_pickle" not in str(error.value)
    assert "train.pt" in str(error.value) or "as text" in message


def test_transposed_arrays_are_reported(tmp_path):
    for role, count in ROLES.items():
        as_npz(tmp_path / role, {"features": arrays(role, count)["features"].T})
    with pytest.raises(DataError, match=r"(?s)several widths: \[3, 5, 9\].*save array\.T"):
        Features(tmp_path).load()


def test_matlab_of_another_version_is_reported(tmp_path):
    spoiled(tmp_path)
    (tmp_path / "train.npz").unlink()
    (tmp_path / "train.mat").write_bytes(b"MATLAB 7.3 MAT-file" + b" " * 600)
    with pytest.raises(DataError, match="-v7"):
        Features(tmp_path).load()


def spoiled(tmp_path, role="train", **change):
    for name, count in ROLES.items():
        as_npz(tmp_path / name, arrays(name, count) | (change if name == role else {}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((5, 7), "f4")}, r"several widths: \[4, 7\]"),
        ({"features": np.zeros((5, 4), complex)}, r"train\.npz must be \(n, D\) floats"),
        ({"features": np.zeros((5, 4), "m8[s]")}, r"train\.npz must be \(n, D\) floats"),
        ({"features": np.zeros(5, "f4")}, r"must be \(n, D\) floats"),
        ({"labels": np.arange(4)}, "5 features and 4 labels"),
        ({"labels": np.arange(5.0)}, r"labels of .*train\.npz must be class indices"),
        ({"labels": np.full((5, 3), 2)}, "must be 3 columns of 0 and 1"),
        ({"labels": np.array([0, 1, 2, 10**12, 0])}, "1000000000001 classes"),
        ({"ids": np.array(["a"] * 5)}, "has 4 ids twice"),
    ],
)
def test_arrays_that_do_not_fit(change, message, tmp_path):
    spoiled(tmp_path, **change)
    with pytest.raises(DataError, match=message):
        Features(tmp_path).load()


def test_classes_counted_from_the_wrong_number(tmp_path):
    spoiled(tmp_path)
    with pytest.raises(DataError, match=r"the class 0 and dataset\.source\.first_class=1"):
        Features(tmp_path, first_class=1).load()
    with pytest.raises(DataError, match=r"imply 3 classes and dataset\.source\.num_classes=2"):
        Features(tmp_path, num_classes=2).load()


def test_files_that_are_missing_or_broken(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"(?s)no features database in .*dataset\.root=FOLDER"):
        Features(tmp_path).load()
    spoiled(tmp_path)
    file = tmp_path / "train.npz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cannot read the features .*train\.npz"):
        Features(tmp_path).load()
    np.savez(file, vectors=np.zeros((5, 4)))
    with pytest.raises(DataError, match="has no features: its arrays are vectors"):
        Features(tmp_path).load()
    file.unlink()
    torch.save([1, 2], tmp_path / "train.pt")
    with pytest.raises(DataError, match="contains a list, not a dict"):
        Features(tmp_path).load()
    (tmp_path / "train.pt").unlink()
    as_hdf5(tmp_path / "train", arrays("train", 5))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"needs the package h5py.*\n.*pip install h5py"):
        Features(tmp_path).load()


def test_a_pickle_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return print, ("boom",)

    spoiled(tmp_path)
    (tmp_path / "train.npz").unlink()
    torch.save({"codes": Bomb()}, tmp_path / "train.pt")
    with pytest.raises(DataError, match="cannot read the features"):
        Features(tmp_path).load()
    np.savez(tmp_path / "train.npz", features=np.array([Bomb()], object))
    with pytest.raises(DataError, match="cannot read the features"):
        read_features(tmp_path, "train")


def test_stacked_rows_are_in_the_requested_order():
    parts = [
        np.arange(6, dtype=np.float16).reshape(3, 2),
        np.zeros((0, 2), np.float16),
        np.arange(6, 14, dtype=np.float16).reshape(4, 2),
    ]
    whole, stacked = np.concatenate(parts), Stacked(parts)
    assert (
        stacked.shape == (7, 2) and stacked.dtype == np.float16 and stacked.nbytes == whole.nbytes
    )
    for rows in ([6, 0, 6, 3], slice(None, None, -2), np.array([True, False] * 3 + [True]), 4, []):
        rows = np.array(rows, int) if isinstance(rows, list) else rows
        assert np.array_equal(stacked[rows], whole[rows])
    assert Stacked([parts[0], parts[2].astype(np.float64)]).dtype == np.float32


def test_a_kill_at_the_end_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    """Other features into the same folder; the process ends between the array and its notes."""
    from deephash.data.sources import feature_formats

    def blocks(value):
        return lambda done: iter([np.full((3, 2), value, "f4")])

    write_features(tmp_path, 3, 2, "float32", {"made": "a"}, blocks(1))
    write_json = feature_formats.write_json

    def killed(path, values):
        if path.parent == tmp_path:
            raise KeyboardInterrupt
        write_json(path, values)

    monkeypatch.setattr(feature_formats, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write_features(tmp_path, 3, 2, "float32", {"made": "b"}, blocks(2))
    monkeypatch.setattr(feature_formats, "write_json", write_json)
    write_features(tmp_path, 3, 2, "float32", {"made": "b"}, blocks(2))
    assert np.load(tmp_path / "features.npy").tolist() == [[2, 2]] * 3
    write_features(tmp_path, 3, 2, "float32", {"made": "b"}, lambda done: 1 / 0)  # left as it is


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=7))
    with pytest.raises(DataError, match=r"0\.0 GB free and the features need .*dtype=float16"):
        write_features(tmp_path / "f", 10, 4, "float32", {}, lambda done: iter(()))
    assert not (tmp_path / "f/features.npy").exists()


# not finite


def written(folder, role, row, value, dtype=np.float32):
    """Features of all roles, one of which holds a value that is not finite."""
    for name, count in ROLES.items():
        contents = arrays(name, count)
        contents["features"] = contents["features"].astype(dtype)
        if name == role:
            contents["features"][row, 2] = value
        as_npz(folder / name, contents)


def module(folder, **options):
    none = Pipeline([])
    return DataModule("own", Features(folder), Listed(), "listed", none, none, 2, **options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("role", "called"), [("train", "train"), ("test", "queries"), ("database", "database")]
)
def test_what_is_not_finite_is_refused_with_file_row_and_id(role, called, value, tmp_path):
    written(tmp_path, role, 1, value)
    data = module(tmp_path)
    place = re.escape(f"{role}1 ({called}): {value} in column 2 of {tmp_path / role}.npz, row 1")
    with pytest.raises(DataError, match=rf"1 of 17 features hold NaN or inf(.|\n)*{place}"):
        data.setup("cpu")


def test_a_row_of_no_role_is_not_looked_at(tmp_path):
    """Nothing trains in an evaluation, and images without a label do not, either."""
    written(tmp_path, "train", 1, np.nan)
    module(tmp_path).setup("cpu", trains=False)
    contents = dict(np.load(tmp_path / "train.npz"))
    contents["labels"][1] = -1
    np.savez(tmp_path / "train.npz", **contents)
    module(tmp_path).setup("cpu")


def test_a_double_beyond_single_precision_is_not_finite(tmp_path):
    written(tmp_path, "test", 2, 1e200, np.float64)
    with pytest.raises(DataError, match=r"test2 \(queries\): inf in column 2"):
        module(tmp_path).setup("cpu")


def test_a_row_is_that_of_its_file_where_files_share_images(tmp_path):
    contents, rows = arrays("database", 9), np.array([7, 2, 4])
    as_npz(tmp_path / "test", arrays("test", 3))
    as_npz(tmp_path / "database", contents)
    shared = {
        name: np.concatenate([values[rows], values[:2] if name != "ids" else ["x", "y"]])
        for name, values in contents.items()
    }
    shared["features"][4] = np.inf
    as_npz(tmp_path / "train", shared)
    with pytest.raises(DataError, match=r"y \(train\): inf in column 0 of .*train\.npz, row 4"):
        module(tmp_path).setup("cpu")


def test_chosen_classes_keep_their_origin(tmp_path, monkeypatch):
    monkeypatch.setattr("deephash.data.lazy_arrays.CHECK_BYTES", 1)  # one row at a time
    written(tmp_path, "database", 8, np.nan)
    with pytest.raises(DataError, match=r"database8 \(database\): nan .*database\.npz, row 8"):
        module(tmp_path, classes=["0", "2"]).setup("cpu")
    written(tmp_path, "database", 7, np.nan)  # of class 1
    module(tmp_path, classes=["0", "2"]).setup("cpu")


def test_features_to_be_written_are_finite(tmp_path):
    block = np.ones((3, 4), np.float32)
    block[1, 1] = 1e5

    def write(dtype):
        write_features(tmp_path / dtype, 3, 4, dtype, {}, lambda done: iter([block]))

    with pytest.raises(
        DataError, match=r"image 1 reach 1e\+05, more than the limit of float16 .*dtype=float32"
    ):
        write("float16")
    write("float32")
    block[2, 0] = np.nan
    with pytest.raises(DataError, match="NaN or infinite features for image 2"):
        write_features(tmp_path / "b", 3, 4, "float32", {}, lambda done: iter([block]))


def test_hdf5_texts_without_an_end_are_refused(tmp_path, monkeypatch):
    """In a damaged file the library may follow addresses in a circle."""
    with h5py.File(tmp_path / "train.h5", "w") as file:
        file["features"] = np.zeros((3, 2), np.float32)
        file["labels"] = np.arange(3)
        file["ids"] = ["a", "é", "c"]
    features = feature_formats.read_features(tmp_path, "train")
    assert features["ids"] == ["a", "é", "c"]
    monkeypatch.setattr(feature_formats, "TEXT_SECONDS", 0.5)
    monkeypatch.setattr(feature_formats, "_TEXTS", "while True: pass")
    with pytest.raises(DataError, match=r"train\.h5 is damaged: its ids could not be read within"):
        feature_formats.read_features(tmp_path, "train")
    monkeypatch.setattr(feature_formats, "_TEXTS", "raise OSError('no heap')")
    with pytest.raises(DataError, match="no heap"):
        feature_formats.read_features(tmp_path, "train")
