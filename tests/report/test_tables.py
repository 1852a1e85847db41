"""Several runs as one table."""

import pytest

from deephash.report.tables import reports_markdown


def run(value, method="csq", nbit=16, seed=0, more="", dataset="digits", print_="a" * 64, top=None):
    return {
        "run": f"{dataset}/{method}/{nbit}bit/seed{seed}{more}",
        "nbit": nbit,
        "seed": seed,
        "protocol": {"dataset": dataset, "protocol": "p", "fingerprint": print_},
        "metrics": {"map": value, "conventions": {"metric": "mAP@all", "top": top}},
    }


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| ")][1:]


def test_a_cell_is_mean_and_sample_deviation_over_seeds():
    """0.5, 0.6 and 0.7: mean 0.6; squares of the deviations 0.02, over 2, root 0.1."""
    text = reports_markdown([run(value, seed=seed) for seed, value in enumerate((0.5, 0.6, 0.7))])
    assert rows(text) == ["| csq | 0.6000 ± 0.1000 |"]
    assert "mAP@all, digits, protocol p, fingerprint aaaaaaaaaaaaaaaa" in text
    assert "seeds 0, 1, 2" in text


def test_rows_are_methods_and_columns_bits_in_order():
    text = reports_markdown([run(0.1, "dpn", 32), run(0.2, "dpn", 16), run(0.3, "csq+lmcl", 16)])
    assert "| method | 16 bits | 32 bits |" in text
    assert rows(text) == ["| dpn | 0.2000 | 0.1000 |", "| csq+lmcl | 0.3000 |  |"]


def test_other_values_make_rows_of_their_own():
    text = reports_markdown(
        [run(0.1), run(0.2, more=",method.loss.margin=0.5", seed=1), run(0.3, seed=1)]
    )
    assert rows(text) == ["| csq | 0.2000 ± 0.1414 |", "| csq method.loss.margin=0.5 | 0.2000 |"]


def test_every_dataset_has_its_table():
    text = reports_markdown([run(0.1), run(0.2, dataset="cifar10")])
    assert text.count("| method |") == 2 and rows(text)[0] == "| csq | 0.1000 |"


def test_a_convention_that_is_not_set_is_none_of_difference():
    """Reports of an earlier version do not name what did not exist then."""
    old = run(0.2, "dpn")
    del old["metrics"]["conventions"]["top"]
    assert "another convention" not in reports_markdown([run(0.1), old])


@pytest.mark.parametrize("other", [{"print_": "b" * 64}, {"top": 100}])
def test_what_cannot_be_compared_is_marked(other):
    text = reports_markdown([run(0.1), run(0.2, "dpn", **other)])
    assert rows(text) == ["| csq | 0.1000 |", "| dpn | 0.2000 \\* |"]
    assert "another convention" in text
    assert "another convention" not in reports_markdown([run(0.1), run(0.2, "dpn")])
