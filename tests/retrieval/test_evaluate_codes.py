import json

import numpy as np
import pytest
import torch

from deephash import retrieval
from deephash.errors import DataError
from deephash.retrieval import Convention, Ranking, binarize, evaluate_codes, histograms, pack


def given(nbit=12, classes=4, queries=15, database=120):
    torch.manual_seed(0)
    return (
        torch.randn(queries, nbit),
        torch.randn(database, nbit),
        (torch.rand(queries, classes) < 0.3).float(),
        (torch.rand(database, classes) < 0.3).float(),
    )


def test_the_report_survives_json():
    report = evaluate_codes(*given())
    assert json.loads(json.dumps(report, allow_nan=False)) == report


@pytest.mark.parametrize("ties", retrieval.TIES)
def test_the_report_holds_what_the_metrics_say(ties):
    z, database, query_labels, database_labels = given()
    convention = Convention(top=50, ties=ties, seed=3)
    packed = pack(binarize(z)), pack(binarize(database))
    ranking, hist = (
        Ranking(*packed, query_labels, database_labels, 12),
        histograms(*packed, query_labels, database_labels, 12),
    )

    def value(**fields):
        return retrieval.mean_average_precision(ranking, Convention(top=50, seed=3, **fields)).value

    report = evaluate_codes(z, database, query_labels, database_labels, convention)
    assert report["map"] == value(ties=ties)
    assert report["map_min"] == value(ties=ties, denominator="min")
    assert report["ties"] == {
        name: value(ties=name) for name in ("expected", "stable", "best", "worst")
    }
    assert report["precision_within_radius_2"] == {
        "mean_zero": retrieval.precision_within_radius(hist).mean_zero,
        "mean_nonempty": retrieval.precision_within_radius(hist).mean_nonempty,
        "empty_fraction": retrieval.precision_within_radius(hist).empty_fraction,
    }
    cuts = [1, 5, 10, 50, 100]
    for name in ("precision_at", "recall_at", "hit_rate_at"):
        values = getattr(retrieval, name)(hist, cuts)
        assert report[name] == {str(cut): values[cut] for cut in cuts}
    ball = retrieval.average_precision_within_radius(hist)
    assert report["map_within_radius_2"] == ball._asdict()
    assert report["recall_within_radius_2"] == retrieval.recall_within_radius(hist)
    by_rank = report["pr_curve_by_rank"]
    assert (by_rank["rank"][0], by_rank["rank"][-1]) == (1, 120)
    precise = retrieval.pr_curve_by_rank(hist, by_rank["rank"])
    assert (by_rank["precision"], by_rank["recall"]) == (
        precise.precision.tolist(),
        precise.recall.tolist(),
    )
    curve = retrieval.pr_curve_by_radius(hist)
    assert report["pr_curve"]["radius"] == list(range(13))
    assert report["pr_curve"]["recall_micro"] == curve.recall_micro.tolist()
    assert (report["queries"], report["database"], report["nbit"]) == (15, 120, 12)
    assert report["queries_without_relevant"] == (hist.relevant.sum(axis=1) == 0).sum()
    assert report["conventions"] == {
        "metric": "mAP@50",
        "top": 50,
        "ties": ties,
        "seed": 3 if ties == "shuffled" else None,
        "denominator": "hits",
        "empty": "zero",
        "bit": "z >= 0",
        "ternary": None,
        "stable_order": "database order",
        "relevance": "at least one shared label",
        "curves": "expected ties",
        "family": None,
        "own": None,
    }


def test_the_report_describes_the_codes_of_the_database():
    z, database, query_labels, database_labels = given()
    codes, bits = (
        evaluate_codes(z, database, query_labels, database_labels)["codes"],
        binarize(database),
    )
    assert codes == retrieval.describe_codes(database, database_labels)
    assert codes["quantization"] == retrieval.quantization_error(database)._asdict()
    assert codes["orthogonality"] == retrieval.orthogonality(bits, database_labels)._asdict()
    assert codes["separability"] == retrieval.separability(bits, database_labels)._asdict()
    assert (
        codes["histograms"]["intra"]
        == retrieval.distance_histograms(bits, database_labels).intra.tolist()
    )
    assert codes["bits"]["ones"] == retrieval.bit_statistics(bits).ones.tolist()
    assert codes["bit_correlation"] == retrieval.bit_correlation(bits)


def test_one_class_has_no_separability():
    codes = np.random.default_rng(0).normal(size=(9, 6))
    result = retrieval.describe_codes(codes, np.zeros(9, dtype=int))
    assert (result["separability"], result["histograms"]) == (None, None)
    assert result["orthogonality"]["classes"] == 1
    with pytest.raises(DataError, match="one for each code"):
        retrieval.describe_codes(codes, np.zeros(8, dtype=int))


def test_several_labels_are_graded():
    rng = np.random.default_rng(5)
    z, hot = rng.normal(size=(150, 16)), rng.random((150, 6)) < 0.4
    report = evaluate_codes(z[:20], z[20:], hot[:20], hot[20:])
    ranking = Ranking(*(pack(part >= 0) for part in (z[:20], z[20:])), hot[:20], hot[20:], 16)
    graded = retrieval.GradedHistograms.of(ranking)
    for name in ("acg_at", "ndcg_at", "wmap_at"):
        values = getattr(retrieval, name)(graded, [1, 5, 10, 50, 100])
        assert report["graded"][name] == {str(cut): value for cut, value in values.items()}
    one_each = hot.argmax(axis=1)
    assert "graded" not in evaluate_codes(z[:20], z[20:], one_each[:20], one_each[20:])


def test_any_list_of_tops():
    report = evaluate_codes(*given(), tops=[1, 50, 120])
    for top in (1, 50, 120):
        assert report["recall_at"][str(top)] <= 1
        assert report["map_at"][str(top)] == evaluate_codes(*given(), Convention(top=top))["map"]
    with pytest.raises(DataError, match="mAP@121"):
        evaluate_codes(*given(), tops=[121])


def test_the_convention_of_a_family_is_reported():
    report = evaluate_codes(*given(), Convention.named("hashnet", top=9))
    assert report["conventions"]["family"] == "hashnet"
    assert Convention.named("hashnet") == Convention(ties="stable", empty="skip_retrieved_none")


@pytest.mark.parametrize("ties", ["stable", "shuffled"])
def test_an_order_is_looked_through_once(ties, monkeypatch):
    """It is what costs: in training, at every evaluation."""
    seen = []
    each = Ranking.each
    monkeypatch.setattr(Ranking, "each", lambda *given: seen.append(1) or each(*given))
    evaluate_codes(*given(), Convention(top=9, ties=ties), full=False)
    assert len(seen) == 1
    evaluate_codes(*given(), Convention(top=9, ties=ties), tops=[1, 50])
    assert len(seen) == 1 + (1 if ties == "stable" else 2)  # stable is also one of the ties


def test_bits_as_zeros_and_ones_are_refused_and_values_without_a_sign_reported(caplog):
    z, database, *labels = given()
    bits = (database > 0).int()
    with pytest.raises(DataError, match=r"nothing but 0 and 1.*bool"):
        evaluate_codes(z, bits, *labels)
    assert not caplog.text
    evaluate_codes(z, torch.sigmoid(database), *labels)
    assert "no code contains a negative value" in caplog.text


@pytest.mark.parametrize("bits", [12, 8])
def test_packed_codes_are_the_same_codes(bits):
    z, database, *labels = given()
    z, database = z[:, :bits], database[:, :bits]
    packed = [pack(binarize(side)) for side in (z, database)]
    of_packed = evaluate_codes(*packed, *labels, nbit=bits)
    of_bits = evaluate_codes(*(binarize(side) for side in (z, database)), *labels)
    assert of_packed == of_bits
    with pytest.raises(DataError, match="nbit=K"):
        evaluate_codes(*packed, *labels)
    with pytest.raises(DataError, match="bits are decided"):
        evaluate_codes(*packed, *labels, nbit=bits, ternary=0.5)
    with pytest.raises(DataError, match="packed in 3"):
        evaluate_codes(*packed, *labels, nbit=24)


def test_the_short_report_has_the_same_values():
    full = evaluate_codes(*given(), Convention(top=9))
    short = evaluate_codes(*given(), Convention(top=9), full=False)
    assert short == {"map": full["map"], "map_min": full["map_min"]}


def test_bits_and_values_are_the_same_codes():
    z, database, *labels = given()
    bits = torch.from_numpy(binarize(database))
    of_values, of_bits = (
        evaluate_codes(z, database, *labels),
        evaluate_codes(z.numpy(), bits, *labels),
    )
    assert of_values["codes"].pop("quantization") is not None
    assert of_bits["codes"].pop("quantization") is None  # it is of values only
    assert of_values == of_bits


def test_a_cut_of_all_names_its_size():
    conventions = evaluate_codes(*given())["conventions"]
    assert (conventions["metric"], conventions["top"]) == ("mAP@all", 120)


def test_what_the_convention_forbids_is_null():
    convention = Convention(top=5, ties="stable", empty="skip_retrieved_none")
    ties = evaluate_codes(*given(), convention)["ties"]
    assert ties["expected"] is None
    assert ties["best"] >= 0


def test_perfect_codes_score_one():
    """Each class has its own code: every relevant item is at 0, all others further."""
    labels = np.arange(20) % 4
    codes = np.eye(4, dtype=bool)[labels]
    report = evaluate_codes(codes, codes, labels, labels)
    assert report["map"] == pytest.approx(1.0)
    assert report["ties"]["worst"] == pytest.approx(1.0)
    assert report["precision_at"] == {"1": 1.0, "5": 1.0, "10": 0.5}


def test_inputs_stay_as_they_were():
    arguments = given()
    copies = [tensor.clone() for tensor in arguments]
    evaluate_codes(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"query": torch.full((15, 12), float("nan"))}, "15 of 15 codes contain NaN"),
        ({"query": torch.zeros(15, 13)}, "queries have 13 bits, the database 12"),
        ({"query": np.ones(15, bool)}, "bool matrix"),
        ({"query": np.array(3.0)}, "codes must be a matrix"),
        (
            {
                "query_labels": np.full(15, 2**63, dtype=np.uint64),
                "database_labels": np.zeros(120, dtype=np.uint64),
            },
            "contain the class 9223372036854775808",
        ),
        ({"query": np.ones((15, 12), np.uint8)}, "signed numbers"),
        ({"database": torch.zeros(119, 12)}, r"database_labels must be \(119, C\)"),
        ({"convention": Convention(top=121)}, "mAP@121 needs more than the 120 items"),
        (
            {"database": torch.zeros(0, 12), "database_labels": torch.zeros(0, 4)},
            "the database is empty",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change, says):
    names = ("query", "database", "query_labels", "database_labels")
    with pytest.raises(DataError, match=says):
        evaluate_codes(**(dict(zip(names, given(), strict=True)) | change))
