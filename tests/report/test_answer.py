"""Answers in sentences, from cells and paired differences."""

from deephash.report.answer import answer_sentences
from deephash.report.paired_results import Pair, PairedResults
from tests.report.pages.test_sweep import job, section

JOBS = [job(scale, 16, seed, value) for scale, value in ((5, 0.948), (10, 0.947), (200, 0.918))
        for seed in (0, 1)]  # fmt: skip


def pair(row, mean, low, high, reference=5):
    return Pair(16, (row,), (reference,), mean, low, high, 2, 100)


def test_the_best_row_is_named_with_the_differences_of_the_others():
    pairs = (pair(10, -0.001, -0.004, 0.002), pair(200, -0.03, -0.038, -0.022))
    results = PairedResults(pairs, (), True, 100)
    assert answer_sentences(section(*JOBS), results) == [
        "At 16 bits, β = 5 has the highest mAP@all, 0.948. The interval of the difference "
        "from it contains 0 for 10. Lower: 200 by 3.0 points (2.2 to 3.8)."
    ]


def test_without_differences_only_the_best_row_is_named():
    best = "At 16 bits, β = 5 has the highest mAP@all, 0.948."
    assert answer_sentences(section(*JOBS), None) == [best]
    assert answer_sentences(section(*JOBS), PairedResults((), (), True, 100)) == [best]
    assert answer_sentences(section(JOBS[0]), None) == []  # one row has no answer


def test_a_reference_that_is_not_the_best_is_named():
    pairs = (pair(5, 0.03, 0.022, 0.038, 200), pair(10, 0.001, -0.01, 0.01, 200))
    text = " ".join(answer_sentences(section(*JOBS), PairedResults(pairs, (), False, 100)))
    assert "The interval of the difference from β = 200 contains 0 for 10." in text
    assert "Higher than β = 200: 5 by 3.0 points (2.2 to 3.8)." in text


def test_of_many_rows_the_nearest_and_the_last_are_named():
    jobs = [job(scale, 16, 0, 0.9 - scale / 1000) for scale in range(1, 9)]
    pairs = tuple(
        Pair(16, (scale,), (1,), -scale / 100, -scale / 90, -scale / 110, 1, 100)
        for scale in range(2, 9)
    )
    (text,) = answer_sentences(section(*jobs), PairedResults(pairs, (), True, 100))
    assert "Lower: 2 by 2.0 points (1.8 to 2.2), 3 by 3.0" in text
    assert ", 3 more and 8 by 8.0 points (7.3 to 8.9)." in text


def test_equally_good_rows_are_named_together():
    jobs = [job(5, 16, 0, 0.9), job(10, 16, 0, 0.9), job(25, 16, 0, 0.8)]
    (text,) = answer_sentences(section(*jobs), None)
    assert text == "At 16 bits, β = 5 and 10 have the highest mAP@all, 0.900."
