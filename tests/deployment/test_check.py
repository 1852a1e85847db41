"""An exported encoder that gives other codes is found out."""

import numpy as np
import pytest
import torch

from deephash import retrieval
from deephash.deployment.check import BATCH, CodeDifferences, compare, compare_codes, in_batches
from deephash.errors import ExportError


def exactly(encoder, change=lambda z: z):
    def run(inputs):
        z = change(encoder.codes(torch.from_numpy(inputs)).copy())
        return retrieval.pack(z >= 0), z

    return run


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)


def test_the_encoder_agrees_with_itself(encoder, inputs):
    differences, codes = compare(exactly(encoder), encoder, [inputs])
    assert differences == CodeDifferences(40, 12, 0, 0, 0.0, None) and differences.share == 0
    np.testing.assert_array_equal(codes, encoder.encode(torch.from_numpy(inputs)))


def test_differences_are_counted(encoder, inputs):
    z = encoder.codes(torch.from_numpy(inputs))

    def change(z):
        z[3, [0, 5]] *= -1
        z[7, 11] *= -1
        return z

    differences, _ = compare(exactly(encoder, change), encoder, [inputs])
    assert (differences.differing_bits, differences.differing_codes) == (3, 2)
    flipped = np.abs(z[[3, 3, 7], [0, 5, 11]])
    assert differences.largest_z_difference == pytest.approx(2 * flipped.max())
    assert differences.largest_z_of_differing_bits == pytest.approx(flipped.max())
    assert differences.share == 3 / 480
    assert "3 of 480 bits and 2 of 40 codes differ" in str(differences)


@pytest.mark.parametrize("spoil", [lambda codes: codes ^ 1, lambda codes: codes[:, ::-1]])
def test_codes_that_are_not_the_signs_of_z_are_refused(encoder, inputs, spoil):
    def run(inputs):
        codes, z = exactly(encoder)(inputs)
        return spoil(codes), z

    with pytest.raises(ExportError, match="not the signs of its z"):
        compare(run, encoder, [inputs])


def test_nothing_to_compare_is_refused(encoder):
    with pytest.raises(ExportError, match="no image"):
        compare(exactly(encoder), encoder, [])


def test_stored_codes_are_compared_without_z():
    codes = np.array([[0b11110000], [0b00001111]], np.uint8)
    differences = compare_codes(codes, codes ^ 1, nbit=8)
    assert (differences.differing_bits, differences.largest_z_difference) == (2, None)
    assert compare_codes(codes, ~codes, nbit=8).differing_bits == 16


@pytest.mark.parametrize("count", [1, 2, BATCH, BATCH + 1, BATCH + 2, 3 * BATCH])
def test_batches_hold_each_image_once(count):
    batches = in_batches(np.arange(count))
    assert np.concatenate(batches).tolist() == list(range(count)) and len(batches[0]) == 1
    assert max(map(len, batches)) <= BATCH and min(map(len, batches)) > 0
