"""``codes.npz``, written and read."""

import numpy as np
import pytest

from deephash.errors import FileError
from deephash.retrieval import StoredCodes, StoredSide
from deephash.retrieval.codes_file import read_database
from deephash.utils.files import write_arrays


def side(count, name, **more):
    codes = np.arange(2 * count, dtype=np.uint8).reshape(count, 2) * 16
    labels = np.eye(3, dtype=bool)[np.arange(count) % 3]
    return StoredSide(codes, np.array([f"{name}{at}" for at in range(count)]), labels, **more)


@pytest.fixture
def file(tmp_path):
    StoredCodes("f" * 64, 12, side(2, "q"), side(5, "d")).write(tmp_path / "codes.npz")
    return tmp_path / "codes.npz"


def test_what_was_written_is_read(file):
    read = StoredCodes.read(file)
    assert (read.fingerprint, read.nbit) == ("f" * 64, 12)
    for mine, theirs in ((read.query, side(2, "q")), (read.database, side(5, "d"))):
        assert np.array_equal(mine.codes, theirs.codes) and np.array_equal(mine.ids, theirs.ids)
        assert np.array_equal(mine.labels, theirs.labels) and mine.undecided is None
    nbit, codes, ids = read_database(file)
    assert nbit == 12 and codes.shape == (5, 2) and ids[4] == "d4"


def test_undecided_bits_and_no_labels(tmp_path):
    sides = [
        StoredSide(stored.codes, stored.ids, None, stored.codes)
        for stored in (side(2, "q"), side(3, "d"))
    ]
    StoredCodes("f", 12, *sides).write(tmp_path / "codes.npz")
    read = StoredCodes.read(tmp_path / "codes.npz")
    assert read.query.labels is None and np.array_equal(read.query.undecided, read.query.codes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nbit": np.array(16.0)}, "nbit is float64 (), not a number of bits"),
        ({"nbit": np.array(40_000)}, "nbit is int64 (), not a number of bits"),
        ({"nbit": np.array(20)}, "query_codes has 2 bytes per code, but 20 bits are packed in 3"),
        ({"fingerprint": np.array([1])}, "fingerprint is int64 (1,), not a text"),
        ({"query_codes": np.zeros((2, 2))}, "query_codes must be packed codes, uint8"),
        ({"query_codes": np.full((2, 2), 255, np.uint8)}, "query_codes has bits set beyond bit 12"),
        ({"query_ids": np.array(["a"])}, "query_ids are <U1 (1,), and there are 2 codes"),
        ({"query_ids": np.zeros(2)}, "query_ids are float64 (2,), and there are 2 codes"),
        ({"database_labels": np.zeros((5, 3))}, "database_labels are float64 (5, 3), and there"),
        ({"database_labels": np.zeros((4, 3), bool)}, "database_labels are bool (4, 3), and there"),
        ({"database_labels": np.zeros((5, 4), bool)}, "labels of 3 classes for the queries and of"),
        ({"database_labels": None}, "only one of its two sides has labels"),
        (
            {"query_undecided": np.zeros((2, 2), np.uint8)},
            "only one of its two sides has undecided",
        ),
        ({"query_codes": None}, "it has no array query_codes; it has fingerprint, nbit, query_lab"),
    ],
)
def test_what_does_not_fit_is_refused(file, change, reason):
    arrays = dict(np.load(file)) | change
    write_arrays(file, {name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(FileError) as caught:
        StoredCodes.read(file)
    assert caught.value.reason.startswith(reason)
    assert f"cannot read the codes {file}" in str(caught.value)
