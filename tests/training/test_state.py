import pytest

from deephash.training.state import Progress


def after(scores, select_on="query"):
    now = Progress()
    kept = [now.add(epoch, query, val, select_on) for epoch, query, val in scores]
    return now, kept


def test_better_means_strictly_better():
    now, kept = after([(1, 0.5, None), (2, 0.5, None), (3, 0.6, None), (4, 0.55, None)])
    assert kept == [True, False, True, False]
    assert (now.selected, now.wait) == (3, 1)


def test_the_first_evaluation_is_kept_whatever_it_is():
    now, kept = after([(1, 0.0, None)])
    assert kept == [True] and now.selected == 1


def test_waiting_starts_again_at_each_better_one():
    now = Progress()
    waits = []
    for epoch, score in enumerate([0.1, 0.1, 0.05, 0.2, 0.2, 0.1, 0.19], start=1):
        now.add(epoch, score, None, "query")
        waits.append(now.wait)
    assert waits == [0, 1, 2, 0, 1, 2, 3]


def test_selection_on_validation_ignores_the_queries():
    now, kept = after([(1, 0.9, 0.1), (2, 0.5, 0.3), (3, 0.6, 0.3), (4, 0.7, 0.2)], "val")
    assert kept == [True, True, False, False] and now.selected == 2


def test_selection_of_the_last_takes_each():
    now, kept = after([(1, 0.9, None), (2, 0.5, None)], "last")
    assert kept == [True, True] and (now.selected, now.wait) == (2, 0)


@pytest.mark.parametrize("select_on", ["query", "val", "last"])
def test_the_three_numbers_of_a_report(select_on):
    """They do not depend on which of them selects; ties go to the first."""
    scores = [(5, 0.6, 0.30), (10, 0.8, 0.35), (15, 0.8, 0.50), (20, 0.7, 0.50)]
    now, _ = after(scores, select_on)
    result = now.selection(select_on, eval_every=5, epochs=20)
    assert result == {
        "select_on": select_on,
        "map_best_on_query": 0.8,
        "epoch_best_on_query": 10,
        "map_at_val_epoch": 0.8,
        "epoch_at_val": 15,
        "map_last": 0.7,
        "epoch_last": 20,
        "selected_epoch": {"query": 10, "val": 15, "last": 20}[select_on],
        "eval_every": 5,
        "epochs": 20,
        "stopped_early": False,
    }


def test_without_validation_its_numbers_are_open():
    now, _ = after([(1, 0.2, None)])
    result = now.selection("query", 1, 1)
    assert result["map_at_val_epoch"] is None and result["epoch_at_val"] is None
    assert now.best("val") is None and Progress().best("query") is None


def test_state_goes_around():
    now, _ = after([(1, 0.2, 0.1), (2, 0.1, 0.3)], "val")
    again = Progress(**now.state())
    assert again == now
    again.add(3, 0.5, 0.2, "val")
    assert len(now.history) == 2  # the copy is its own


def test_agreement_selects_without_a_map():
    now = Progress()
    kept = [now.add(e, None, None, "agreement", a) for e, a in ((1, 0.2), (2, 0.4), (3, 0.4))]
    assert kept == [True, True, False] and now.wait == 1
    result = now.selection("agreement", eval_every=1, epochs=3)
    assert (result["agreement_best"], result["epoch_at_agreement"]) == (0.4, 2)
    assert result["map_at_agreement_epoch"] is None and result["selected_epoch"] == 2
    assert "agreement" not in after([(1, 0.5, None)])[0].history[0]
