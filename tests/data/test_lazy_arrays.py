"""Lazy arrays are indexed like arrays and read only the rows that are accessed."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deephash.data import lazy_arrays
from deephash.data.lazy_arrays import Selected, Undecoded, select_rows
from deephash.errors import DataError

COUNT = 12
ARRAY = np.arange(COUNT * 3 * 2 * 2, dtype=np.uint8).reshape(COUNT, 3, 2, 2)


def undecoded(calls=None):
    def decode(path):
        if calls is not None:
            calls.append(int(path.stem))
        return ARRAY[int(path.stem)]

    return Undecoded(Path("/images"), [f"{row}.png" for row in range(COUNT)], decode, 2, workers=2)


WAYS = {
    "undecoded": (undecoded(), ARRAY),
    "selected": (Selected(ARRAY, np.array([7, 2, 2, 11, 0])), ARRAY[[7, 2, 2, 11, 0]]),
    "selected of undecoded": (Selected(undecoded(), np.arange(1, 12, 2)), ARRAY[1::2]),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_looks_like_an_array(way):
    actual, array = WAYS[way]
    assert (actual.shape, actual.dtype, actual.nbytes) == (array.shape, array.dtype, array.nbytes)
    assert len(actual) == len(array)
    assert np.array_equal(np.asarray(actual), array) and np.array_equal(list(actual), array)
    assert np.array_equal(actual[-1], array[-1]) and actual[0].shape == (3, 2, 2)
    for wrong in (len(array), -len(array) - 1, [len(array)], (slice(None), 0)):
        with pytest.raises(IndexError):
            actual[wrong]


@pytest.mark.parametrize("way", WAYS)
@given(st.data())
def test_it_is_indexed_like_an_array(way, data):
    actual, array = WAYS[way]
    count = len(array)
    index = data.draw(
        st.slices(count)
        | st.integers(-count, count - 1)
        | st.lists(st.integers(-count, count - 1)).map(lambda rows: np.array(rows, np.int64))
        | st.lists(st.booleans(), min_size=count, max_size=count).map(np.array)
    )
    result = actual[index]
    assert np.array_equal(result, array[index]) and result.dtype == np.uint8
    assert isinstance(result, np.ndarray) and result.shape == array[index].shape


def test_only_requested_rows_are_decoded():
    calls = []
    actual = select_rows(undecoded(calls), np.arange(3, 9))
    assert calls == []
    actual[[1, 4]]
    assert sorted(calls) == [4, 7]


def test_an_unreadable_file_is_reported_on_access():
    def decode(path):
        raise DataError(f"cannot read {path}")

    actual = Undecoded(Path("/images"), ["a.png", "b/c.png"], decode, 2, workers=2)
    with pytest.raises(DataError, match=r"cannot read /images/b/c\.png"):
        actual[1:]


@given(rows=st.sets(st.integers(0, COUNT - 1)).map(lambda rows: np.array(sorted(rows), np.int64)))
def test_taking_rows(rows):
    for inputs in (ARRAY, undecoded(), Selected(ARRAY, np.arange(COUNT))):
        assert np.array_equal(select_rows(inputs, rows)[:], ARRAY[rows])


def test_rows_that_lie_together_are_a_view_and_many_others_are_not_copied(monkeypatch):
    assert np.shares_memory(select_rows(ARRAY, np.arange(2, 5)), ARRAY)
    copied = select_rows(ARRAY, np.array([2, 5]))
    assert isinstance(copied, np.ndarray) and not np.shares_memory(copied, ARRAY)
    monkeypatch.setattr(lazy_arrays, "MAX_COPY_BYTES", ARRAY[:2].nbytes - 1)
    looked_up = select_rows(ARRAY, np.array([2, 5]))
    assert looked_up.inputs is ARRAY and np.array_equal(looked_up[:], ARRAY[[2, 5]])
    assert select_rows(ARRAY, np.array([3])).shape == (1, 3, 2, 2)
