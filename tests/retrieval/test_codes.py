import numpy as np
import pytest
import torch

from deephash.errors import DataError
from deephash.retrieval import binarize, codes, hamming, pack, unpack

NBITS = [1, 7, 8, 9, 12, 16, 20, 24, 32, 48, 64, 65, 100, 128, 256, 300]


def test_zero_is_a_one_and_so_is_minus_zero():
    """z >= 0 are the bits: 0.0 and -0.0 are both at least 0, and there is no third value."""
    bits = binarize(torch.tensor([[0.0, -0.0, 1e-30, -1e-30, float("inf"), float("-inf")]]))
    assert bits.dtype == np.bool_
    assert bits.tolist() == [[True, True, True, False, True, False]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int8])
def test_binarize_takes_any_signed_numbers(dtype):
    z = torch.tensor([[-1, 0, 2]]).to(dtype)
    assert binarize(z).tolist() == [[False, True, True]]


def test_binarize_takes_codes_that_still_learn():
    assert binarize(torch.tensor([[-0.5, 0.5]], requires_grad=True)).tolist() == [[False, True]]


def test_pack_by_hand():
    """Bits 1000 0001 1: the first byte is 128 + 1 = 129, the second 1 at its highest place, 128."""
    bits = np.array([[1, 0, 0, 0, 0, 0, 0, 1, 1]], dtype=bool)
    assert pack(bits).tolist() == [[129, 128]]


@pytest.mark.parametrize("nbit", NBITS)
def test_unpack_undoes_pack(nbit):
    bits = np.random.default_rng(nbit).random((5, nbit)) < 0.5
    packed = pack(torch.from_numpy(bits))
    assert packed.dtype == np.uint8
    assert packed.shape == (5, -(-nbit // 8))
    np.testing.assert_array_equal(unpack(packed, nbit), bits)


@pytest.mark.parametrize("nbit", NBITS)
def test_distance_is_the_inner_product_in_disguise(nbit):
    """Of K signs, d differ: the inner product is (K - d) - d, so d = (K - product) / 2."""
    rng = np.random.default_rng(nbit)
    a, b = binarize(rng.standard_normal((6, nbit))), binarize(rng.standard_normal((9, nbit)))
    signs_a, signs_b = 2 * a.astype(int) - 1, 2 * b.astype(int) - 1
    result = hamming(pack(a), torch.from_numpy(pack(b)))
    assert result.dtype == np.int16
    np.testing.assert_array_equal(result, (nbit - signs_a @ signs_b.T) / 2)


def test_distance_of_long_opposites_does_not_overflow_a_byte():
    """300 bits, all different, are 300 apart; a sum in 8 bits would be 44."""
    ones, zeros = np.ones((1, 300), dtype=bool), np.zeros((1, 300), dtype=bool)
    assert hamming(pack(ones), pack(zeros)).tolist() == [[300]]


def test_distances_do_not_depend_on_the_block(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 11, 3), dtype=np.uint8)
    whole = hamming(a, b)
    monkeypatch.setattr(codes, "_BLOCK", 25)  # two rows of 11 at once
    np.testing.assert_array_equal(hamming(a, b), whole)


def test_no_codes_have_no_distances():
    assert hamming(np.zeros((0, 2), np.uint8), np.zeros((3, 2), np.uint8)).shape == (0, 3)
    assert hamming(np.zeros((3, 2), np.uint8), np.zeros((0, 2), np.uint8)).shape == (3, 0)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_the_table_counts_like_numpy(monkeypatch, width):
    words = np.random.default_rng(0).integers(0, 256, (3, 8 * width), np.uint8).view(f"u{width}")
    by_hand = [[int(word).bit_count() for word in row] for row in words]
    assert codes.popcount(words).tolist() == by_hand
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert codes.popcount(words).tolist() == by_hand


def test_inputs_stay_as_they_were():
    z = torch.randn(4, 12)
    before, bits = z.clone(), binarize(z)
    packed = pack(bits)
    copies = bits.copy(), packed.copy()
    unpack(packed, 12), hamming(packed, packed)
    assert torch.equal(z, before)
    np.testing.assert_array_equal(bits, copies[0])
    np.testing.assert_array_equal(packed, copies[1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: binarize(torch.tensor([[1.0, float("nan")], [1, 1]])), "1 of 2 codes contain NaN"),
        (lambda: binarize(torch.zeros(3)), r"matrix \(N, K\)"),
        (lambda: binarize(torch.zeros(3, 0)), r"matrix \(N, K\)"),
        (lambda: binarize(np.ones((2, 2), bool)), "signed numbers, not bool"),
        (lambda: binarize(np.ones((2, 2), np.uint8)), "signed numbers, not uint8"),
        (lambda: pack(np.ones((2, 2))), "bool matrix"),
        (lambda: pack(np.ones(2, bool)), "bool matrix"),
        (lambda: unpack(np.zeros((1, 2), np.uint8), 17), "2 bytes per code, but 17 bits"),
        (lambda: unpack(np.zeros((1, 2), np.uint8), 8), "2 bytes per code, but 8 bits"),
        (lambda: unpack(np.ones((1, 2), np.uint8), 12), "beyond bit 12"),
        (lambda: unpack(np.zeros((1, 1), np.uint8), 0), "whole number"),
        (lambda: unpack(np.zeros((1, 1), np.uint8), 8.0), "whole number"),
        (lambda: unpack(np.zeros((1, 5000), np.uint8), 40000), "too long"),
        (lambda: hamming(np.zeros((1, 2), np.uint8), np.zeros((1, 3), np.uint8)), "2 bytes"),
        (lambda: hamming(np.zeros((1, 2)), np.zeros((1, 2), np.uint8)), "a_packed must be packed"),
        (lambda: hamming(np.zeros((1, 2), np.uint8), np.zeros(2, np.uint8)), "b_packed must be"),
        (lambda: hamming(*np.zeros((2, 1, 5000), np.uint8)), "too long"),
    ],
)
def test_what_cannot_be_codes_is_refused(call, says):
    with pytest.raises(DataError, match=says):
        call()
