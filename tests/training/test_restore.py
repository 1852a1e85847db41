"""What a checkpoint holds, checked before it fills anything."""

import copy

import pytest
import torch
from torch import nn

from deephash.errors import CheckpointError, FileError
from deephash.training.restore import (
    check_last,
    fitting,
    load_optimizer,
    load_progress,
    restore_weights,
    set_generators,
)
from deephash.training.state import Progress

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def stepped(name):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))
    optimizer = OPTIMIZERS[name](module.parameters())
    module(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    return module, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_continues_identically(name):
    (first_optimizer, first), (second_optimizer, second) = stepped(name), stepped(name)
    fresh = OPTIMIZERS[name](second_optimizer.parameters())
    load_optimizer(fresh, copy.deepcopy(second.state_dict()))
    for module, optimizer in ((first_optimizer, first), (second_optimizer, fresh)):
        optimizer.zero_grad()
        module(torch.ones(4, 3)).sum().backward()
        optimizer.step()
    for a, b in zip(first_optimizer.parameters(), second_optimizer.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", [torch.zeros(0), "x", True])
@pytest.mark.parametrize("key", ["fused", "foreach", "capturable"])
def test_the_form_of_the_step_is_not_read(key, form):
    _, optimizer = stepped("adam")
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0][key] = form
    load_optimizer(optimizer, state)
    assert optimizer.param_groups[0][key] in (None, False)


@pytest.mark.parametrize("name", ["adam", "momentum", "sgd", "adafactor"])
@pytest.mark.parametrize("other", ["sgd", "adam", "momentum", "rmsprop", "amsgrad", "adafactor"])
def test_the_state_of_another_kind_is_refused(name, other):
    _, optimizer = stepped(name)
    state = stepped(other)[1].state_dict()
    if name == other or (name, other) == ("momentum", "sgd"):  # nothing is kept of plain SGD
        load_optimizer(optimizer, state)
    else:
        with pytest.raises(ValueError, match="the optimizer's state"):
            load_optimizer(optimizer, state)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["state"][0].update(exp_avg=torch.zeros(5)),
        lambda s: s["state"][0].update(exp_avg="x"),
        lambda s: s["state"][0].update(exp_avg=torch.zeros(2, 3, dtype=torch.int64)),
        lambda s: s["state"][0].pop("step"),
        lambda s: s["state"].update({0: [1]}),
        lambda s: s["state"].update({99: {}}),
        lambda s: s["param_groups"][0].update(params=[0, 1]),
        lambda s: s["param_groups"][0].update(params="ab"),
        lambda s: s["param_groups"][0].update(params=[2, 1, 0]),
        lambda s: s.update(param_groups=[]),
        lambda s: s["param_groups"][0].pop("params"),
        lambda s: s["param_groups"][0].pop("weight_decay"),
        lambda s: s["param_groups"][0].update(betas=0.5),
        lambda s: s["param_groups"][0].update(eps="x"),
    ],
)
def test_a_changed_state_of_adam_is_refused(change):
    _, optimizer = stepped("adam")
    state = copy.deepcopy(optimizer.state_dict())
    change(state)
    with pytest.raises(ValueError, match="the optimizer's state"):
        load_optimizer(optimizer, state)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update({"0.weight": "x"}),
        lambda s: s.update({"0.weight": torch.zeros(2, 3, dtype=torch.int64)}),
        lambda s: s.update({0: torch.zeros(1)}),
        lambda s: s.pop("0.weight"),
        lambda s: s.update({"0.weight": torch.zeros(3, 3)}),
        lambda s: s.update({"other": torch.zeros(3, 3)}),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, tmp_path):
    module, _ = stepped("adam")
    state = dict(module.state_dict())
    change(state)
    file = tmp_path / "a.pt"
    with (
        pytest.raises(CheckpointError, match=r"a\.pt does not fit this method: .*"),
        fitting(file, "this method"),
    ):
        restore_weights(module, state, "method")


GOOD = {"epoch": 2, "step": 4, "images": 8, "wait": 1, "seconds": 1.0, "selected": 1,
        "history": [{"epoch": 1, "query": 0.5, "val": None},
                    {"epoch": 2, "query": 0.4, "val": 0.1}],
        "stopped_early": False}  # fmt: skip


def test_progress_comes_back(tmp_path):
    assert load_progress(GOOD, tmp_path) == Progress(**GOOD)
    assert load_progress(Progress().state(), tmp_path) == Progress()


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1},
        {"epoch": 1},
        {"wait": -1},
        {"other": 1},
        {"selected": 3},
        {"selected": None},
        {"history": [{"epoch": 1}]},
        {"history": [{"epoch": 1, "query": "x", "val": None}]},
        {"history": [], "selected": 1},
        {"history": GOOD["history"][::-1]},
    ],
)
def test_progress_that_contradicts_itself_is_refused(change, tmp_path):
    with pytest.raises(FileError, match="progress"):
        load_progress(GOOD | change, tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fingerprint", 5),
        ("fingerprint", None),
        ("method", []),
        ("method", {"a": 1}),
        ("optimizer", {}),
        ("optimizer", {"state": [], "param_groups": []}),
        ("progress", {"epoch": "2"}),
        ("progress", {"seconds": float("nan")}),
        ("progress", 3),
        ("rng", {"cpu": 1}),
        ("rng", None),
    ],
)
def test_kinds_of_last_pt(key, value, tmp_path):
    good = {"fingerprint": "f", "method": {"a": torch.zeros(1)}, "progress": GOOD,
            "optimizer": {"state": {}, "param_groups": []},
            "rng": {"cpu": torch.get_rng_state(), "cuda": None}}  # fmt: skip
    check_last(good, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=rf"last\.pt is no checkpoint of a run: .*{key}"):
        check_last(good | {key: value}, tmp_path / "last.pt")


def test_the_state_of_a_generator_of_another_size_is_refused():
    before = torch.get_rng_state()
    for wrong in (before[:-1], before.float(), torch.zeros(0, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"rng\.cpu is"):
            set_generators({"cpu": wrong, "cuda": None}, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    set_generators({"cpu": before, "cuda": None}, torch.device("cpu"))
