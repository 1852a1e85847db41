import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.errors import DataError
from deephash.retrieval import (
    binarize,
    bit_correlation,
    bit_statistics,
    code_quality,
    distance_histograms,
    orthogonality,
    quantization_error,
    separability,
)

HADAMARD = np.array([[1]])
for _ in range(4):
    HADAMARD = np.block([[HADAMARD, HADAMARD], [HADAMARD, -HADAMARD]])  # 16 rows of 16


def random_bits(seed, size, nbit):
    return np.random.default_rng(seed).random((size, nbit)) < 0.5


def multi_hot(seed, size, classes, share=0.3):
    """Some rows are empty, some classes perhaps too, many rows alike."""
    return (np.random.default_rng(seed).random((size, classes)) < share).astype(np.float32)


def signs(bits):
    return 2 * np.asarray(bits).astype(int) - 1


def as_hot(labels):
    labels = np.asarray(labels)
    return np.eye(labels.max() + 1)[labels] if labels.ndim == 1 else labels


def naive_pairs(bits, labels):
    """Distances of similar and of dissimilar pairs, by two loops and the definition."""
    hot, intra, inter = as_hot(labels), [], []
    for i, j in combinations(range(len(bits)), 2):
        (intra if (hot[i] * hot[j]).sum() > 0 else inter).append(int((bits[i] != bits[j]).sum()))
    return intra, inter


def naive_macro(bits, labels):
    """Class by class: pairs within it, and pairs of one of its items with any dissimilar one."""
    hot, means = as_hot(labels), []
    for c in range(hot.shape[1]):
        members = np.flatnonzero(hot[:, c])
        near = [(bits[i] != bits[j]).sum() for i, j in combinations(members, 2)]
        far = [
            (bits[i] != bits[j]).sum()
            for i in members
            for j in range(len(bits))
            if (hot[i] * hot[j]).sum() == 0
        ]
        if near and far:
            means.append((np.mean(far), np.mean(near)))
    return np.mean(means, axis=0), hot.shape[1] - len(means)


def naive_orthogonality(bits, labels):
    hot = as_hot(labels)
    centers = []
    for c in range(hot.shape[1]):
        members = [i for i in range(len(bits)) if hot[i, c]]
        if members:
            centers.append(
                [
                    1 if sum(signs(bits)[i, k] for i in members) >= 0 else -1
                    for k in range(bits.shape[1])
                ]
            )
    matrix = np.array(centers)
    value = np.linalg.norm(matrix @ matrix.T / bits.shape[1] - np.eye(len(matrix)))
    return value, len(matrix), hot.shape[1] - len(matrix)


LABELS = {
    "indices": np.random.default_rng(3).integers(1, 6, 40),  # class 0 is empty
    "one-hot": np.eye(7)[np.random.default_rng(4).integers(0, 6, 40)],  # class 6 is empty
    "some unlabelled": np.eye(4)[np.random.default_rng(5).integers(0, 4, 40)][:, :3],
    "multi-hot": multi_hot(6, 40, 5),
    "many classes": multi_hot(7, 40, 70, 0.02),
    "a group each": multi_hot(8, 40, 9, 0.5),
}
labelled = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)


# Quantisation error


def test_quantization_error_by_definition(monkeypatch):
    """Eqs. 19 to 21 row by row, over blocks that do not fit the rows evenly."""
    z = np.random.default_rng(0).standard_normal((23, 12)) * 2
    z[4, :5], z[7] = 0, 0
    monkeypatch.setattr(code_quality, "_BLOCK", 5 * 12)
    lengths, angles = [], []
    for row in z:
        h = np.where(row >= 0, 1, -1)
        lengths.append(np.linalg.norm(row - h))
        if row.any():
            cosine = row @ h / (np.linalg.norm(row) * np.linalg.norm(h))
            angles.append(math.degrees(math.acos(cosine)))
    result = quantization_error(z)
    assert result.l2 == pytest.approx(np.mean(lengths))
    assert result.squared_l2 == pytest.approx(np.mean(np.square(lengths)))
    assert result.degrees == pytest.approx(np.mean(angles))
    assert result.zero_codes == 1


def test_quantization_error_of_noise():
    """E(|z| - 1)^2 = 2 - 2 sqrt(2 / pi) = 0.4042 per bit for normal z; the cosine is near 0.798."""
    result = quantization_error(np.random.default_rng(0).standard_normal((50_000, 64)))
    assert result.squared_l2 == pytest.approx(64 * (2 - 2 * math.sqrt(2 / math.pi)), rel=5e-3)
    assert result.squared_l2 == pytest.approx(25.87, abs=0.1)
    assert result.l2 == pytest.approx(5.07, abs=0.01)
    assert result.degrees == pytest.approx(36.7, abs=0.1)


@given(st.integers(1, 9), st.integers(1, 70), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_quantization_error_is_a_matter_of_two_norms(size, nbit, seed):
    """||z - h||^2 = ||z||^2 + K - 2 ||z||_1, and cos = ||z||_1 / (sqrt(K) ||z||)."""
    z = np.random.default_rng(seed).standard_normal((size, nbit))
    sums, norms = np.abs(z).sum(axis=1), np.linalg.norm(z, axis=1)
    result = quantization_error(z)
    assert result.squared_l2 == pytest.approx((norms**2 + nbit - 2 * sums).mean(), abs=1e-9)
    cosine = np.clip(sums / (math.sqrt(nbit) * norms), -1, 1)
    assert result.degrees == pytest.approx(np.degrees(np.arccos(cosine)).mean(), abs=1e-5)


def test_bits_have_no_quantization_error_and_length_makes_no_angle():
    h = signs(random_bits(0, 5, 9)).astype(np.float32)
    assert quantization_error(h) == (0, 0, 0, 0)
    for scale in (1e-30, 3, 1e30):
        assert quantization_error(np.float32(scale) * h).degrees == 0


def test_angles_are_averaged_not_cosines():
    """(1, 1) is at 0 degrees from its bits, (1, 0) at 45: 22.5, not acos of the mean cosine."""
    assert quantization_error(np.array([[2.0, 2.0], [1.0, 0.0]])).degrees == pytest.approx(22.5)


def test_zero_vectors_have_a_distance_and_no_angle():
    """0 is as far from (1, 1, 1, 1) as that is long."""
    assert quantization_error(torch.zeros(3, 4)) == (2, 4, None, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8])
def test_quantization_error_takes_any_signed_numbers(dtype):
    """(-128, 1) is 127 from (-1, 1); the smallest int8 has no absolute value among its kind."""
    result = quantization_error(torch.tensor([[-128, 1]]).to(dtype))
    assert result[:2] == (127, 127**2)


@pytest.mark.parametrize(
    ("z", "says"),
    [
        (np.zeros((0, 4)), "no codes"),
        (np.zeros(4), "must be a matrix"),
        (np.array([[1, np.nan]]), "1 of 1 codes contain NaN"),
        (np.array([[1, -np.inf]]), "infinite"),
        (np.ones((2, 2), dtype=bool), "signed numbers"),
    ],
)
def test_codes_without_an_error_are_refused(z, says):
    with pytest.raises(DataError, match=says):
        quantization_error(z)


# Orthogonality


@labelled
@pytest.mark.parametrize("nbit", [1, 8, 13, 64])
def test_orthogonality_by_definition(labels, nbit):
    bits = random_bits(nbit, 40, nbit)
    result = orthogonality(bits, labels)
    value, classes, empty = naive_orthogonality(bits, labels)
    assert result.value == pytest.approx(value)
    assert (result.classes, result.empty_classes) == (classes, empty)


def test_a_centre_that_is_torn_is_a_one():
    """Class 0 holds 10 and 01: its mean is 0, its centre 11. Class 1 is 11 too: 1 apart, twice."""
    bits = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)
    assert orthogonality(bits, np.array([0, 0, 1])).value == pytest.approx(math.sqrt(2))


def test_orthogonality_of_hadamard_rows_and_of_their_likes():
    """Orthogonal centres: 0. C equal ones: sqrt(C (C - 1)). A whole cube's: the lower bound."""
    rows = HADAMARD > 0
    assert orthogonality(np.repeat(rows, 3, axis=0), np.repeat(np.arange(16), 3)).value == 0
    assert orthogonality(rows[[2] * 5], np.arange(5)).value == pytest.approx(math.sqrt(20))
    both = np.concatenate([rows, ~rows])  # 32 centres of 16 bits, as far apart as can be
    result = orthogonality(both, np.arange(32)).value
    assert result == pytest.approx(math.sqrt(32**2 / 16 - 32))


def test_orthogonality_of_random_centres():
    """C = 100, K = 64: about sqrt(C (C - 1) / K) = 12.44, never below sqrt(C^2 / K - C) = 7.5."""
    result = [orthogonality(random_bits(seed, 100, 64), np.arange(100)).value for seed in range(20)]
    assert np.mean(result) == pytest.approx(math.sqrt(100 * 99 / 64), rel=0.01)
    assert min(result) >= 7.5


def test_orthogonality_does_not_depend_on_which_side_the_transpose_stands():
    """||H^T H / K - I||^2 = ||H H^T / K - I||^2 + K - C."""
    bits = random_bits(0, 9, 20)
    h = signs(bits)
    columns = np.linalg.norm(h.T @ h / 20 - np.eye(20))
    assert orthogonality(bits, np.arange(9)).value == pytest.approx(
        math.sqrt(columns**2 - (20 - 9))
    )


def test_bit_correlation_by_definition(monkeypatch):
    monkeypatch.setattr(code_quality, "_BLOCK", 7 * 13)
    h = signs(random_bits(0, 40, 13))
    total = 0.0
    for k in range(13):
        for other in range(13):
            total += (sum(row[k] * row[other] for row in h) / 40 - (k == other)) ** 2
    assert bit_correlation(h > 0) == pytest.approx(math.sqrt(total))


def test_bit_correlation_of_columns_that_know_nothing_or_all_of_each_other():
    assert bit_correlation(torch.from_numpy(HADAMARD > 0)) == 0
    assert bit_correlation(np.ones((5, 4), dtype=bool)) == pytest.approx(math.sqrt(4 * 3))


# Separability and histograms


@labelled
@pytest.mark.parametrize("nbit", [1, 13, 64, 70, 260])
def test_separability_and_histograms_by_definition(labels, nbit, monkeypatch):
    """Two loops over all pairs; blocks smaller than groups, and distances counted two by two."""
    monkeypatch.setattr(code_quality, "_BLOCK", 49)
    monkeypatch.setattr(code_quality, "_QUERIES", 8)
    bits = random_bits(nbit, 40, nbit)
    intra, inter = naive_pairs(bits, labels)
    result = separability(bits, labels)
    assert result.intra == pytest.approx(np.mean(intra))
    assert result.inter == pytest.approx(np.mean(inter))
    assert result.value == pytest.approx(np.mean(inter) - np.mean(intra))
    assert result[3:] == (len(inter), len(intra), 0)

    hist = distance_histograms(bits, labels)
    assert hist.exact
    assert (hist.intra_pairs, hist.inter_pairs) == (len(intra), len(inter))
    np.testing.assert_allclose(hist.intra, np.bincount(intra, minlength=nbit + 1) / len(intra))
    np.testing.assert_allclose(hist.inter, np.bincount(inter, minlength=nbit + 1) / len(inter))
    assert hist.intra.sum() == pytest.approx(1) == hist.inter.sum()
    assert hist.separability == pytest.approx(result.value)


@labelled
def test_macro_separability_by_definition(labels):
    bits = random_bits(1, 40, 20)
    (inter, intra), left_out = naive_macro(bits, labels)
    result = separability(bits, labels, average="macro")
    assert result.inter == pytest.approx(inter)
    assert result.intra == pytest.approx(intra)
    assert result.value == pytest.approx(inter - intra)
    assert result[3:5] == separability(bits, labels)[3:5]
    assert result.classes_left_out == left_out


def test_separability_of_hadamard_rows():
    """Within a class 0, between classes K / 2: the histograms have one bin each."""
    bits, labels = np.repeat(HADAMARD > 0, 4, axis=0), np.repeat(np.arange(16), 4)
    assert separability(bits, labels)[:3] == (8, 8, 0)
    assert separability(bits, labels, average="macro")[:3] == (8, 8, 0)
    hist = distance_histograms(bits, labels)
    assert (hist.intra[0], hist.inter[8], hist.separability) == (1, 1, 8)


def test_micro_counts_pairs_and_macro_classes():
    """Class 0: 3 pairs at 0. Class 1: one pair at 2. Micro 2 / 4, macro (0 + 2) / 2."""
    bits = np.array([[0, 0], [0, 0], [0, 0], [0, 0], [1, 1]], dtype=bool)
    labels = np.array([0, 0, 0, 1, 1])
    assert separability(bits, labels).intra == 0.5
    assert separability(bits, labels, average="macro").intra == 1


def test_the_unlabelled_are_far_from_everyone():
    """Items 0 and 1 share label 0; 2 and 3 have none, so they do not share that either."""
    bits, labels = random_bits(0, 4, 8), np.array([[1, 0], [1, 0], [0, 0], [0, 0]])
    result = separability(bits, labels)
    assert (result.intra_pairs, result.inter_pairs) == (1, 5)
    assert result.intra == (bits[0] != bits[1]).sum()


def test_forms_of_labels_and_order_of_items_do_not_matter():
    rng = np.random.default_rng(0)
    bits, labels = random_bits(0, 50, 24), rng.integers(0, 4, 50)
    order = rng.permutation(50)
    hot = np.eye(4)[labels]
    forms = [
        (bits[order], labels[order]),
        (torch.from_numpy(bits), torch.from_numpy(labels)),
        (bits, hot.astype(bool)),
        (bits, torch.from_numpy(hot).bfloat16()),
        (bits[order], hot[order].astype(np.uint8)),
        (bits, np.concatenate([hot, hot], axis=1)),  # two labels each, which say the same
    ]
    for form in forms:
        assert separability(*form) == separability(bits, labels)
        expected, result = distance_histograms(bits, labels), distance_histograms(*form)
        np.testing.assert_array_equal(result.intra, expected.intra)
        np.testing.assert_array_equal(result.inter, expected.inter)
    for form in forms[:-1]:
        assert orthogonality(*form) == orthogonality(bits, labels)


@given(st.integers(2, 30), st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_histograms_and_closed_form_agree(size, nbit, classes, seed):
    bits, labels = random_bits(seed, size, nbit), multi_hot(seed, size, classes)
    intra, inter = naive_pairs(bits, labels)
    if not intra or not inter:
        for measure in (separability, distance_histograms):
            with pytest.raises(DataError, match=f"no int{'er' if intra else 'ra'}-class distance"):
                measure(bits, labels)
        return
    hist, result = distance_histograms(bits, labels), separability(bits, labels)
    assert hist.separability == pytest.approx(result.value)
    assert (hist.intra_pairs, hist.inter_pairs) == (result.intra_pairs, result.inter_pairs)


def test_blocks_of_full_size():
    """3,000 items: groups over more than one block, distances counted two by two as by default."""
    bits, labels = random_bits(0, 3000, 16), np.random.default_rng(1).integers(0, 2, 3000)
    h = signs(bits)
    distance = (16 - h @ h.T) // 2
    alike = labels[:, None] == labels[None]
    above = np.triu(np.ones((3000, 3000), dtype=bool), 1)
    hist = distance_histograms(bits, labels)
    for part, pairs, chosen in (
        (hist.intra, hist.intra_pairs, alike & above),
        (hist.inter, hist.inter_pairs, ~alike & above),
    ):
        counts = np.bincount(distance[chosen], minlength=17)
        np.testing.assert_array_equal(np.rint(part * pairs), counts)


def test_all_distances_of_long_opposites():
    """255 bits fill a byte, 256 overflow it: all zeros against all ones."""
    for nbit in (255, 256):
        bits = np.repeat(np.array([[True], [False]]), nbit, axis=1)[[0] * 100 + [1] * 100]
        hist = distance_histograms(bits, np.repeat([0, 1], 100))
        assert (hist.intra[0], hist.inter[nbit]) == (1, 1)


@labelled
def test_a_sample_is_near_and_follows_its_seed(labels):
    bits = random_bits(0, 40, 12)
    exact = distance_histograms(bits, labels)
    sampled = [
        distance_histograms(bits, labels, exact_up_to=39, sample=200_000, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert (sampled[0].exact, sampled[0].seed) == (False, 1)
    np.testing.assert_array_equal(sampled[0].inter, sampled[1].inter)
    assert (sampled[0].inter != sampled[2].inter).any()
    np.testing.assert_allclose(sampled[0].inter, exact.inter, atol=0.01)
    np.testing.assert_allclose(sampled[0].intra, exact.intra, atol=0.02)
    share = exact.inter_pairs / (exact.inter_pairs + exact.intra_pairs)
    assert sampled[0].inter_pairs / 200_000 == pytest.approx(share, abs=0.01)
    single = labels.ndim == 1 or labels.sum(axis=1).max() <= 1
    drawn = 200_000 if single else 200_000 - sampled[0].inter_pairs
    assert sampled[0].intra_pairs == drawn


def test_a_sample_comes_in_batches(monkeypatch):
    """Two draws differ always, and every unordered pair is as likely: 0-1, 0-2, 1-2."""
    monkeypatch.setattr(code_quality, "_DRAWN", 1000)
    bits = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1]], dtype=bool)
    hist = distance_histograms(bits, np.array([0, 0, 1]), exact_up_to=2, sample=30_500)
    assert hist.intra.tolist() == [0, 1, 0, 0]
    assert hist.intra_pairs == 30_500
    np.testing.assert_allclose(hist.inter, [0, 0, 0.5, 0.5], atol=0.02)


# Bit statistics


def test_bit_statistics_by_definition():
    bits = random_bits(0, 37, 70)
    bits[:, 3], bits[:, 9], bits[20:] = True, False, bits[0]
    result = bit_statistics(bits)
    shares = [sum(bool(row[k]) for row in bits) / 37 for k in range(70)]
    entropies = [
        0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p) for p in shares
    ]
    np.testing.assert_allclose(result.ones, shares)
    np.testing.assert_allclose(result.entropies, entropies)
    assert result.balance == pytest.approx(np.mean(shares))
    assert result.imbalance == pytest.approx(np.mean([abs(p - 0.5) for p in shares]))
    assert result.entropy == pytest.approx(np.mean(entropies))
    assert result.dead_bits == sum(p in (0, 1) for p in shares)
    assert result.distinct_codes == len({tuple(row) for row in bits})


def test_bits_at_their_best_and_at_their_worst():
    """All codes of 3 bits, and one code eight times."""
    cube = np.unpackbits(np.arange(8, dtype=np.uint8)[:, None], axis=1)[:, 5:].astype(bool)
    best, worst = bit_statistics(torch.from_numpy(cube)), bit_statistics(cube[[5] * 8])
    assert best[:5] == (0.5, 0, 1, 0, 8)
    assert worst[:5] == (pytest.approx(2 / 3), 0.5, 0, 3, 1)


@pytest.mark.parametrize("nbit", [1, 8, 12, 64, 65, 130])
def test_distinct_codes_of_any_length(nbit):
    bits = np.random.default_rng(nbit).random((200, nbit)) < 0.02
    assert bit_statistics(bits).distinct_codes == len({tuple(row) for row in bits})


# All of them


def test_inputs_stay_as_they_were():
    z = np.random.default_rng(0).standard_normal((30, 12))
    bits, labels, hot = binarize(z), np.arange(30) % 4, multi_hot(1, 30, 3)
    arrays = [z, bits, labels, hot]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    quantization_error(z)
    bit_statistics(bits)
    bit_correlation(bits)
    for targets in (labels, hot):
        orthogonality(bits, targets)
        separability(bits, targets, average="macro")
        distance_histograms(bits, targets)
        distance_histograms(bits, targets, exact_up_to=0, sample=50)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


BITS = np.zeros((3, 8), dtype=bool)


@pytest.mark.parametrize("measure", [orthogonality, separability, distance_histograms])
@pytest.mark.parametrize(
    ("bits", "labels", "says"),
    [
        (np.zeros((3, 8)), np.arange(3), "bool matrix"),
        (np.zeros((3, 1), np.uint8), np.arange(3), "bool matrix"),
        (np.zeros(3, bool), np.arange(3), "bool matrix"),
        (np.zeros((0, 8), bool), np.zeros(0, int), "no codes"),
        (BITS, np.arange(4), r"labels must be \(3, C\)"),
        (BITS, np.zeros((3, 0)), "no classes"),
        (BITS, np.array([0, -1, 1]), "class -1"),
        (BITS, np.array([0.0, 1.0, 1.0]), "integers"),
        (BITS, np.array([[0.5, 1], [0, 1], [0, 1]]), "0 or 1, but contain 0.5"),
        (BITS, np.array([[np.nan, 1], [0, 1], [0, 1]]), "labels contain NaN"),
        (BITS, np.zeros((3, 2)), "no item has a label|no two items share a label"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, bits, labels, says):
    with pytest.raises(DataError, match=says):
        measure(bits, labels)


@pytest.mark.parametrize("measure", [separability, distance_histograms])
def test_without_a_pair_of_either_kind_nothing_is_separated(measure):
    with pytest.raises(DataError, match="1 code makes no pair"):
        measure(BITS[:1], np.arange(1))
    with pytest.raises(DataError, match="no intra-class distance"):
        measure(BITS, np.arange(3))
    with pytest.raises(DataError, match="no inter-class distance"):
        measure(BITS, np.array([1, 1, 1]))


def test_a_sample_that_misses_a_kind_is_refused():
    """One similar pair among 4950, both of whose items also have a second label."""
    labels = np.eye(100)
    labels[0, 1] = 1
    with pytest.raises(DataError, match="no two items share a label among 3 drawn"):
        distance_histograms(np.zeros((100, 8), bool), labels, exact_up_to=99, sample=3)


def test_macro_leaves_out_classes_without_both_kinds():
    """{0}, {1}, {0, 1}: both classes have a pair, and items far from each other. Then {2} has none.

    Where there is a similar and a dissimilar pair, a class has both: either an item of the similar
    pair is far from one of the others, or it shares a class with one, who is far from the other.
    """
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    assert separability(random_bits(0, 3, 4), labels, average="macro").classes_left_out == 1
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    bits = random_bits(0, 4, 9)
    result = separability(bits, labels, average="macro")
    assert result.classes_left_out == 1
    (inter, intra), _ = naive_macro(bits, labels)
    assert (result.inter, result.intra) == (pytest.approx(inter), pytest.approx(intra))


@pytest.mark.parametrize("measure", [bit_statistics, bit_correlation])
def test_no_bits_no_statistics(measure):
    with pytest.raises(DataError, match="no codes"):
        measure(np.zeros((0, 8), bool))
    with pytest.raises(DataError, match="bool matrix"):
        measure(np.zeros((3, 8)))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"exact_up_to": -1}, "exact_up_to=-1 must be a whole number of at least 0"),
        ({"sample": 0}, "sample=0 must be a whole number of at least 1"),
        ({"sample": 1e7}, "sample=10000000.0 must be a whole number"),
        ({"seed": True}, "seed=True must be a whole number"),
    ],
)
def test_options_that_do_not_fit_are_refused(option, says):
    with pytest.raises(DataError, match=says):
        distance_histograms(BITS, np.array([0, 0, 1]), **option)


def test_an_unknown_average_is_refused():
    with pytest.raises(DataError, match="average='mean' is unknown; allowed: micro, macro"):
        separability(BITS, np.array([0, 0, 1]), average="mean")
