import pytest
import torch
from torch import nn

from deephash.errors import ConfigError
from deephash.training.param_groups import parameter_groups


def parts(*names):
    return {name: [nn.Parameter(torch.zeros(1))] for name in names}


def summary(groups):
    return [(group["name"], len(group["params"]), group["lr"]) for group in groups]


def test_without_factors_there_are_two_groups():
    groups = parameter_groups(parts("backbone", "head", "loss"), 0.5, 0.1)
    assert summary(groups) == [("rest", 2, 0.5), ("backbone", 1, pytest.approx(0.05))]
    assert summary(parameter_groups(parts("head"), 0.5, 0.1)) == [("rest", 1, 0.5)]
    assert summary(parameter_groups(parts("backbone"), 0.5, 1.0)) == [("backbone", 1, 0.5)]


def test_a_factor_makes_a_group_of_a_part():
    there = parts("backbone", "head", "codebook", "loss")
    groups = parameter_groups(there, 1.0, 0.1, {"loss": 0.0, "codebook": 10})
    assert summary(groups) == [
        ("rest", 1, 1.0), ("codebook", 1, 10.0), ("loss", 1, 0.0), ("backbone", 1, 0.1)
    ]  # fmt: skip
    assert groups[1]["params"] == there["codebook"]


def test_a_factor_of_a_part_that_does_not_learn_is_refused():
    with pytest.raises(ConfigError, match=r"codebok has no .* parameters here. These have: head"):
        parameter_groups(parts("backbone", "head"), 1.0, 1.0, {"codebok": 10})


def test_nothing_to_train_is_a_sentence():
    with pytest.raises(ConfigError, match="nothing to train"):
        parameter_groups({}, 1.0, 1.0)


def test_layers_have_rates_by_depth_and_vectors_no_decay():
    matrices = [nn.Parameter(torch.zeros(2, 2)) for _ in range(3)]
    biases = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    layers = [list(pair) for pair in zip(matrices, biases, strict=True)]
    token = nn.Parameter(torch.zeros(1, 1, 2))  # in no layer: of the first; a vector
    head = nn.Parameter(torch.zeros(2, 2))
    parts = {"backbone": [token, *matrices, *biases], "head": [head]}
    groups = parameter_groups(parts, 0.1, 0.5, layers=layers, layer_decay=0.5, decay_1d=False)
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.3)
    rows = {g["name"]: (g["lr"], g["weight_decay"], g["params"]) for g in optimizer.param_groups}
    assert rows == {
        "rest": (0.1, 0.3, [head]),
        "backbone.0": (0.1 * 0.5 * 0.125, 0.3, [matrices[0]]),
        "backbone.0, 1-d": (0.1 * 0.5 * 0.125, 0.0, [token, biases[0]]),
        "backbone.1": (0.1 * 0.5 * 0.25, 0.3, [matrices[1]]),
        "backbone.1, 1-d": (0.1 * 0.5 * 0.25, 0.0, [biases[1]]),
        "backbone.2": (0.1 * 0.5 * 0.5, 0.3, [matrices[2]]),
        "backbone.2, 1-d": (0.1 * 0.5 * 0.5, 0.0, [biases[2]]),
    }
