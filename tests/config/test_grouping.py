import pytest
from hydra import compose

from deephash.config import resolve
from deephash.config.grouping import group_values
from tests.pages import composable


@pytest.fixture(scope="module")
def resolved():
    with composable():
        yield lambda *line: resolve.resolve(compose("train", overrides=list(line)))


@pytest.fixture
def values(resolved):
    return lambda *line: group_values(resolved(*line))


def test_values_of_a_recipe_have_short_names(values):
    made = values("method=relahash", "model.nbit=64", "method.loss.scale=5", "seed=2")
    expected = {
        "method": "relahash",
        "dataset": "digits",
        "protocol": "per_class",
        "backbone": "tiny",
        "bits": 64,
        "batch_size": 50,
        "seed": 2,
        "scale": 5,
        "margin": 0.5,
        "loss": "lmcl",
        "codebook": "maxhamming",
        "similarity": "relative",
    }
    assert made.items() >= expected.items()
    assert all(isinstance(value, bool | int | float | str) for value in made.values())


def test_options_of_the_same_name_have_their_part_in_front():
    cfg = {
        "method": {"name": "a", "loss": {"scale": 5, "epochs": 3}, "similarity": {"scale": 2}},
        "trainer": {"epochs": 9},
    }
    made = group_values(cfg)  # of an older run, without the other keys
    assert made == {
        "method": "a", "epochs": 9, "loss_scale": 5, "similarity_scale": 2, "loss_epochs": 3,
    }  # fmt: skip


def test_a_method_without_a_loss_has_its_own_options(values):
    assert values("method=itq")["iterations"] > 0


def test_several_loggers_on_one_command_line(resolved):
    loggers = resolved("logger=[quiet,csv,wandb]")["logger"]
    assert list(loggers) == ["console", "csv", "wandb"] and loggers["console"]["quiet"]
