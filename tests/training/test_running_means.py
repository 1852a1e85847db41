import math

import pytest
import torch

from deephash.errors import TrainingError
from deephash.training.running_means import RunningMeans
from deephash.training.step import Scalars


def values(**numbers):
    return Scalars(tuple(numbers), torch.tensor(list(numbers.values())))


def test_means_start_again_after_each_reading():
    means = RunningMeans()
    assert means.read() == {}
    means.add(1, values(loss=1.0, a=2.0))
    means.add(2, values(loss=3.0, a=5.0))
    assert means.read() == {"loss": 2.0, "a": 3.5}
    means.add(3, values(loss=7.0, a=0.0))
    assert means.read() == {"loss": 7.0, "a": 0.0}
    assert means.read() == {}


def test_a_term_that_is_not_always_there_is_averaged_over_its_steps():
    means = RunningMeans()
    means.add(1, values(loss=1.0))
    means.add(2, values(loss=2.0, rare=5.0))
    assert means.read() == {"loss": 1.5, "rare": 5.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_and_its_term_are_named(bad):
    means = RunningMeans()
    means.add(11, values(loss=1.0, push=1.0, pull=1.0, grad_norm=1.0))
    means.add(12, values(loss=bad, push=1.0, pull=bad, grad_norm=bad))
    means.add(13, values(loss=bad, push=bad, pull=bad, grad_norm=bad))
    with pytest.raises(TrainingError, match=r"^pull is not finite at step 12\.\n.*optimizer\.lr"):
        means.read()


def test_a_bad_gradient_of_a_good_loss_is_named_too():
    means = RunningMeans()
    means.add(4, values(loss=1.0, pull=1.0, grad_norm=math.nan))
    with pytest.raises(TrainingError, match=r"^grad_norm is not finite at step 4"):
        means.read()


def test_a_bad_value_is_not_forgotten_when_good_ones_follow():
    """inf - inf would be found by the sum, but 1 bad among many must be found as well."""
    means = RunningMeans()
    means.add(1, values(a=math.nan))
    for step in range(2, 10):
        means.add(step, values(a=1.0))
    with pytest.raises(TrainingError, match="a is not finite at step 1"):
        means.read()


def test_two_terms_at_once():
    means = RunningMeans()
    means.add(1, values(loss=math.nan, a=math.nan, b=math.inf))
    with pytest.raises(TrainingError, match="a and b is not finite at step 1"):
        means.read()
