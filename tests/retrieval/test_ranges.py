"""Every average stays where mathematics puts it, to the last bit, and nothing else moves."""

import numpy as np
import pytest

from deephash import retrieval
from deephash.retrieval import Convention, GradedHistograms, Histograms, Ranking, pack
from deephash.retrieval.ties import bounded, bounded_mean

TIES = ("expected", "best", "worst")


def test_only_values_outside_the_range_move():
    inside = np.random.default_rng(0).random(1000)
    inside[:3] = 0.0, 1.0, np.nextafter(1.0, 0)
    assert (bounded(inside) == inside).all()
    clipped = bounded(np.array([-1e-18, -0.0, 1 + 2**-52, np.nan]))
    assert clipped[:3].tolist() == [0, 0, 1] and np.isnan(clipped[3])
    assert not np.signbit(clipped).any()


def test_a_mean_within_the_range_is_that_of_the_values_as_they_are():
    """Reports of before compare equal: only a mean outside the range moves."""
    values = np.array([1 + 2**-52, 0.3, 1 + 2**-52])
    assert bounded_mean(values) == float(values.mean()) != float(bounded(values).mean())
    assert bounded_mean(values[::2]) == 1 and bounded_mean(values[:0]) == 0
    assert bounded_mean(np.array([3 + 2**-50, 2.0]), np.array([3, 2])) == 2.5


def perfect(seed):
    """Queries with all relevant items first, or with only relevant items."""
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(1, 20))
    base = rng.integers(0, 40, groups)
    base[0] += 1
    items = np.stack([rng.permutation(base) for _ in range(5)])
    relevant = items.copy()
    if seed % 2:
        relevant[:, groups // 2 :] = 0
    return Histograms(items, relevant)


@pytest.mark.parametrize("seed", range(40))
def test_what_histograms_tell_is_within_0_and_1(seed):
    hist = perfect(seed)
    cuts = sorted({1, hist.size // 2 + 1, hist.size})
    values = {}
    for ties in TIES:
        for denominator in retrieval.DENOMINATORS:
            convention = Convention(ties=ties, denominator=denominator)
            values[ties, denominator] = retrieval.average_precision(hist, convention)
            of_convention = retrieval.mean_average_precisions(hist, convention, [*cuts, None])
            values[ties, denominator, "map"] = [result.value for result in of_convention.values()]
        for measure in (retrieval.precision_at, retrieval.recall_at, retrieval.hit_rate_at):
            values[ties, measure.__name__] = list(measure(hist, cuts, ties).values())
        curve = retrieval.pr_curve_by_rank(hist, None, ties)
        values |= {(ties, "rank precision"): curve.precision, (ties, "rank recall"): curve.recall}
        trapezoids = retrieval.revisited(hist, ties)
        values[ties, "revisited"] = [trapezoids.map, *trapezoids.precision_at.values()]
    for radius in (0, hist.nbit):
        values["ball", radius] = [
            *retrieval.average_precision_within_radius(hist, radius),
            *retrieval.precision_within_radius(hist, radius),
            retrieval.recall_within_radius(hist, radius),
        ]
    values |= retrieval.pr_curve_by_radius(hist)._asdict()
    outside = {
        name: number
        for name, number in values.items()
        if np.min(number) < 0 or np.max(number) > 1 or np.signbit(number).any()
    }
    assert outside == {}


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("ordered", [False, True])
def test_graded_averages_are_within_their_bounds(seed, ordered):
    rng = np.random.default_rng(seed)
    size, nbit, labels = int(rng.integers(3, 60)), int(rng.integers(2, 12)), np.ones((1, 3), int)
    bits, query = rng.random((size, nbit)) < 0.5, rng.random((4, nbit)) < 0.5
    database_labels, query_labels = labels.repeat(size, axis=0), labels.repeat(4, axis=0)
    ranking = Ranking(pack(query), pack(bits), query_labels, database_labels, nbit)
    cuts = sorted({1, size // 2 + 1, size})
    for gain in retrieval.GAINS:
        graded = GradedHistograms.of(ranking, gain, size if ordered else None)
        assert set(retrieval.ndcg_at(graded, cuts).values()) <= {1.0, 1 - 2**-53, 1 - 2**-52}
        for most, metric in ((3, retrieval.acg_at), (3, retrieval.wmap_at)):
            assert all(most - 1e-9 < value <= most for value in metric(graded, cuts).values())
    assert (retrieval.bit_statistics(bits).entropies <= 1).all()


@pytest.mark.parametrize(("seeds", "queries"), [(1, 7), (2, 3), (3, 10), (6, 4)])
@pytest.mark.parametrize("value", [1.0, -1.0, 0.1, 0.28039210728629, 0.0])
def test_a_constant_difference_is_its_own_mean_and_interval(seeds, queries, value):
    a = np.full((seeds, queries), value)
    result = retrieval.paired_difference(a, np.zeros_like(a), 60)
    assert result[:3] == (value, value, value)


@pytest.mark.parametrize("ties", ["expected", "best", "worst", "stable"])
@pytest.mark.parametrize(
    "measure", [retrieval.precision_at, retrieval.recall_at, retrieval.hit_rate_at]
)
def test_no_cut_gives_no_value(ties, measure):
    codes, labels = np.array([[0], [3]], np.uint8), np.array([0, 1])
    assert measure(Ranking(codes, codes, labels, labels, 8), [], ties) == {}
