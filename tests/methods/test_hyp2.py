"""HyP2: values of its authors' code, by hand and by loops; the table of linear codes."""

import itertools

import pytest
import torch

from deephash.errors import ConfigError
from deephash.methods.hyp2 import BEST_DISTANCES, HyP2, Proxies, best_distance, linear_zeta
from deephash.models.codebooks import linear_code
from deephash.models.similarities import Cosine
from tests.methods.loops import average, cosine
from tests.methods.worked import PAIRS, Row, W, Worked


def hyp2(case, zeta=0.0, irrelevant=0.5):
    classes = range(len(case.labels[0]))
    labelled = [n for n, row in enumerate(case.labels) if any(row)]
    present = [1 - case.logits[n][c] for n in labelled for c in classes if case.labels[n][c]]
    absent = [
        max(0, case.logits[n][c] - zeta) for n in labelled for c in classes if not case.labels[n][c]
    ]
    multi_label = [n for n in labelled if sum(case.labels[n]) > 1]
    excess = [
        max(0, cosine(case.u[i], case.u[j]) - zeta)
        for i, j in itertools.product(multi_label, multi_label)
        if not any(x and y for x, y in zip(case.labels[i], case.labels[j], strict=True))
    ]
    return average(present) + average(absent) + irrelevant * average(excess)


class TestHyP2(Worked):
    method = "hyp2"
    rows = (
        Row(HyP2, (0.854273, 0.367956), (1.169197, 0.304839), {"zeta": 0.1},
            similarity=Cosine(), centers=W, labels=PAIRS),
        Row(HyP2, (0.904273, 0.367956), (1.235863, 0.304839), {},  # by loops; zeta of [4, 2, 2]
            similarity=Cosine(), centers=W, labels=PAIRS),
    )  # fmt: skip
    loop = staticmethod(hyp2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("zeta", [-0.2, 0.1])
def test_matches_loop_with_many_labels(zeta, seed, random_case, loop_loss):
    """Images have three of eight labels on average, so some pairs have none in common."""
    case = random_case(seed, n=16, classes=8, similarity=Cosine())
    loss = case.loss(HyP2, zeta=zeta, irrelevant=0.7)
    expected = loop_loss(case, loss, loop=hyp2, zeta=zeta, irrelevant=0.7)
    assert case.total(loss).item() == pytest.approx(expected, rel=1e-12)
    assert case.terms(loss)["irrelevant"] > 0


def test_terms_by_hand(make_case):
    """Codes (1, 0), (0.6, 0.8), proxies on the axes and on the diagonal, zeta 0.1, beta 0.5.

    Labels {0, 2} and {1, 3}, with proxies (1, 0), (0, 1), (0.8, 0.6), (-1, 0). Cosines: 1, 0, 0.8,
    -1 and 0.6, 0.8, 0.96, -0.6. Present: 0, 0.2 and 0.2, 1.6, with mean 0.5. Absent, above zeta:
    0, 0 and 0.5, 0.86, with mean 0.34. The pair, in both orders: 0.6 - 0.1, times 0.5.
    """
    proxies = [[1, 0], [0, 1], [0.8, 0.6], [-1, 0]]
    labels = [[1, 0, 1, 0], [0, 1, 0, 1]]
    case = make_case([[2.0, 0], [3, 4]], labels, proxies, similarity=Cosine())
    terms = case.terms(case.loss(HyP2, zeta=0.1))
    assert {key: round(term.item(), 12) for key, term in terms.items()} == {
        "positive": 0.5, "negative": 0.34, "irrelevant": 0.25,
    }  # fmt: skip


def test_irrelevant_term_needs_pairs_without_common_label(make_case):
    """Pairs with one label each, with a common label, or in which only one image has several."""
    for labels in ([[1, 0, 0], [0, 1, 0]], [[1, 1, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]):
        case = make_case([[1.0, 0, 0], [1, 0, 1]], labels, [[1, 0, 0]] * 3, similarity=Cosine())
        assert case.terms(case.loss(HyP2, zeta=-1.0))["irrelevant"] == 0
        terms = case.terms(case.loss(HyP2, zeta=-1.0, irrelevant=0))
        assert list(terms) == ["positive", "negative"]


def test_unlabelled_image_contributes_nothing(make_case):
    case = make_case([[1.0, 2], [2, 1], [1, 1]], [[1, 0], [0, 1], [0, 0]], [[1, 0], [0, 1]],
              similarity=Cosine())  # fmt: skip
    loss = case.loss(HyP2, zeta=0.0)
    result, gradient = case.total(loss), case.gradient(loss)
    assert torch.equal(gradient[2], torch.zeros(2).double()) and gradient[0].any()
    case.z, case.labels = case.z[:2], case.labels[:2]
    assert torch.equal(result, case.total(loss))


def test_length_of_codes_does_not_matter(random_case):
    case = random_case(similarity=Cosine())
    loss = case.loss(HyP2, zeta=0.1)
    expected = case.total(loss)
    case.z, case.centers = case.z * torch.rand(6, 1).double().add(0.1), 7 * case.centers
    torch.testing.assert_close(case.total(loss), expected)


def test_initial_proxies():
    rows = Proxies(num_classes=50, nbit=400, seed=0).rows
    assert rows.requires_grad and rows.std().item() == pytest.approx(0.2, rel=0.02)
    assert torch.equal(rows, Proxies(num_classes=50, nbit=400, seed=0).rows)
    assert not torch.equal(rows, Proxies(num_classes=50, nbit=400, seed=1).rows)


# zeta


@pytest.mark.parametrize(
    ("nbit", "zetas"),
    [
        (12, [-1, -1 / 3, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0.5]),
        (16, [-1, -0.25, 0, 0, 0, 0.25, 0.25, 0.375]),
        (24, [-1, -1 / 3, -0.083, 0, 0, 0.167, 0.167, 1 / 3]),
        (32, [-1, -0.3125, -0.125, 0, 0, 0, 0.125, 0.1875]),
        (36, [-1, -1 / 3, -0.111, 0, 0.056, 0.111, 0.111, 0.111]),
        (48, [-1, -1 / 3, -0.125, 0, 0, 0, 0.083, 0.083]),
        (64, [-1, -0.3125, -0.125, -0.031, 0, 0, 0, 0.094]),
    ],
)
def test_zeta_matches_the_authors_table(nbit, zetas):
    """For the smallest and the largest number of classes of each dimension."""
    for k, zeta in enumerate(zetas, 1):
        classes = 2 ** (k - 1) + 1
        assert linear_zeta(classes, nbit) == pytest.approx(zeta, abs=5e-4)
        assert linear_zeta(2**k, nbit) == HyP2(classes, nbit).zeta


def test_distances_of_known_codes():
    """Hamming, simplex, Reed-Muller, Golay and BCH codes, and one of Belov's type."""
    codes = {(7, 4): 3, (15, 4): 8, (31, 5): 16, (16, 5): 8, (128, 8): 64, (24, 12): 8,
             (23, 12): 7, (15, 5): 7, (20, 8): 8, (63, 7): 31, (40, 5): 20}  # fmt: skip
    assert {code: best_distance(*code)[0] for code in codes} == codes


def test_distances_lie_between_greedy_codes_and_griesmer_bound():
    """Up to 16 bits, codes are constructed greedily; none exceeds the bound."""
    for nbit, k in itertools.product(range(5, 17), range(1, 6)):
        known, bound = best_distance(nbit, k)
        greedy = max(d for d in range(1, nbit + 1) if len(linear_code(nbit, d, 2**k)) >= k)
        assert greedy <= bound and known <= bound
        assert known >= greedy - (k > 4), (nbit, k)


def test_table_does_not_exceed_the_griesmer_bound():
    for nbit, row in BEST_DISTANCES.items():
        assert all(best_distance(nbit, k) >= (d, d) for k, d in enumerate(row, 1))
        assert all(best_distance(nbit, k)[0] == d for k, d in enumerate(row, 1))


@pytest.mark.parametrize(
    ("classes", "nbit", "message"),
    [
        (
            200,
            100,
            r"linear \[100, 8\] code is not in the table.*between 0\.040 and 0\.100(.|\n)*=0\.100",
        ),
        (17, 4, r"4 bits have fewer codewords than there are classes \(17\)(.|\n)*model\.nbit=5"),
    ],
)
def test_unknown_code_is_reported(classes, nbit, message):
    with pytest.raises(ConfigError, match=message):
        HyP2(classes, nbit)
    assert HyP2(classes, nbit, zeta=0.1).zeta == 0.1


def test_distance_of_long_codes():
    assert best_distance(512, 7) == (256, 256)
