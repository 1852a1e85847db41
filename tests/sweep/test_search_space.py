import re

import pytest

from deephash.errors import ConfigError
from deephash.sweep.search_space import SearchSpace
from tests.paths import ROOT

GOOD = "params:\n  optimizer.lr: {low: 0.001, high: 0.1, log: true}\n"


def read(tmp_path, text, **changes):
    (tmp_path / "mine.yaml").write_text(text)
    return SearchSpace.read(tmp_path, str(tmp_path / "mine.yaml"), changes)


def test_a_file_and_the_command_line(tmp_path):
    space = read(tmp_path, GOOD + "trials: 5\nmetric: query\n", trials="7", batch="2")
    assert (space.name, space.trials, space.metric, space.batch) == ("mine", 7, "query", 2)
    shipped = SearchSpace.read(ROOT / "sweeps" / "searches", "rates", {})
    assert "optimizer.lr" in shipped.params and shipped.batch is None


def test_ranges_with_steps(tmp_path):
    for values in ("{low: 0.1, high: 0.7, step: 0.2}", "{low: 32, high: 128, step: 32}"):
        read(tmp_path, f"params: {{seed: {values}}}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trials: 5", "params"),
        ("params: {}", "params .*empty"),
        ("params: {seed: [1]}", "fewer than two"),
        ("params: {seed: 3}", "params.seed"),
        ("params: {optimizer.lr: {low: 2, high: 1}}", "not less"),
        ("params: {optimizer.lr: {low: 0, high: 1, log: true}}", "positive low"),
        ("params: {optimizer.lr: {low: 1}}", "high"),
        ("params: {optimizer.lr: {low: 1e-4, high: 1}}", "low is a text.*1.0e-4 as a number"),
        ("params: {seed: {low: 1, high: 9, step: 0}}", "step is 0, not more"),
        ("params: {seed: {low: 1, high: 9, step: 3}}", "step 3 does not lead from 1 to 9"),
        ("params: {seed: {low: 1, high: 9, step: 20}}", "step 20 does not lead"),
        ("params: {seed: {low: 1, high: 9, step: 0.5}}", "step is 0.5, and .* whole"),
        ("params: {seed: [1, 2, 1]}", "seed +has 1 twice"),
        ("params: {3: [1, 2]}", "3 +is a number, not a key"),
        ("params: {optimizer.lr: {low: 1, high: 2, width: 3}}", "width"),
        (GOOD + "trials: 0", "search.trials"),
        (GOOD + "metric: loss", "val or query"),
        (GOOD + "sampler: grid", "tpe or random"),
        (GOOD + "trails: 3", "trails"),
        ("[", "mine.yaml"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, text, message):
    with pytest.raises(ConfigError, match="mine") as caught:
        read(tmp_path, text)
    assert re.search(message, str(caught.value), re.DOTALL)


def test_a_search_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no 'other'(.|\n)*rates"):
        SearchSpace.read(ROOT / "sweeps" / "searches", "other", {})
