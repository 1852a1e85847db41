"""What numba computes from counts is what numpy computes, to the last bit."""

import importlib.util

import numpy as np
import pytest

from deephash.retrieval import (
    Convention,
    Histograms,
    average_precision,
    backends,
    hit_rate_at,
    mean_average_precision,
    pr_curve_by_radius,
    precision_at,
    precision_recall,
    recall_at,
    ties,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)


@pytest.fixture(scope="module")
def compiled():
    backends.load_compiled()
    return backends.compiled_sums()


def numbers(hist, top, module, monkeypatch):
    """Every metric that has a compiled part, of a new histogram that remembers nothing."""
    for name in (ties, precision_recall):
        monkeypatch.setattr(name, "compiled_sums", lambda: module)
    hist = Histograms(hist.items, hist.relevant)
    tops = sorted({1, min(2, hist.size), top, hist.size})
    result = [list(at(hist, tops).values()) for at in (precision_at, recall_at, hit_rate_at)]
    result += list(pr_curve_by_radius(hist))
    for denominator in ("hits", "min", "total", "R"):
        for cut in (1, top, None):
            convention = Convention(top=cut, denominator=denominator)
            result.append(average_precision(hist, convention))
            result.append([mean_average_precision(hist, convention).value])
    return np.concatenate(result)


def assert_equal(hist, top, compiled, monkeypatch):
    expected, result = (numbers(hist, top, module, monkeypatch) for module in (compiled, None))
    np.testing.assert_array_equal(expected, result)


@pytest.mark.parametrize("seed", range(60))
def test_all_metrics_to_the_last_bit(compiled, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    values, queries, size = (
        rng.integers(2, 80),
        rng.integers(1, 40),
        1 + int(10 ** rng.uniform(0, 6)),
    )
    items = rng.multinomial(size, rng.dirichlet(np.full(values, rng.choice([0.1, 1, 10]))), queries)
    share = rng.random((queries, 1)) * rng.choice([0, 0.01, 0.3, 1])
    hist = Histograms(items, rng.binomial(items, share))
    assert_equal(hist, int(rng.integers(1, size + 1)), compiled, monkeypatch)


def test_of_small_counts_and_of_counts_in_32_bits(compiled, monkeypatch):
    for items, relevant in (
        ([[3]], [[2]]),
        ([[0, 2]], [[0, 0]]),
        ([[1, 0], [0, 1]], [[1, 0], [0, 0]]),
    ):
        for dtype in (np.int64, np.int32):
            hist = Histograms(np.array(items, dtype), np.array(relevant, dtype))
            assert_equal(hist, 1, compiled, monkeypatch)


def test_worst_and_best_orders_are_groups_of_their_own(compiled, monkeypatch):
    rng = np.random.default_rng(1)
    items = rng.multinomial(5000, np.full(33, 1 / 33), 20)
    hist = Histograms(items, rng.binomial(items, 0.2))
    for order in ("worst", "expected", "best"):
        results = []
        for module in (compiled, None):
            monkeypatch.setattr(ties, "compiled_sums", lambda module=module: module)
            copy = Histograms(hist.items, hist.relevant)
            results.append(precision_at(copy, [1, 700], ties=order))
            results.append(mean_average_precision(copy, Convention(top=700, ties=order)))
        assert results[:2] == results[2:]


def test_numpy_computes_where_numba_has_not_counted(monkeypatch):
    monkeypatch.delitem(
        backends.sys.modules, "deephash.retrieval.backends.numba_backend", raising=False
    )
    assert backends.compiled_sums() is None
