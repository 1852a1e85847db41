"""Errors of constructors are reported before data are opened."""

import pytest
import torch
from hydra import compose

from deephash.config import checks, resolve
from deephash.config.overrides import parse_all
from tests.pages import composable


@pytest.fixture(scope="module")
def faults():
    with composable():

        def find(*words):
            cfg = resolve.resolve(compose("train", overrides=["trainer.device=cpu", *words]))
            return {fault.key: fault for fault in checks.check_train(cfg, parse_all(words))}

        yield find


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["optimizer.betas=[2,2]"], {"optimizer.betas"}),
        (["optimizer.weight_decay=-1"], {"optimizer.weight_decay"}),
        (
            ["optimizer.weight_decay=-1", "optimizer.betas=[2,2]", "+optimizer.eps=-1"],
            {"optimizer.weight_decay", "optimizer.betas", "optimizer.eps"},
        ),
        (
            ["optimizer=sgd", "optimizer.nesterov=true", "optimizer.momentum=0"],
            {"optimizer.nesterov"},
        ),
        (["+optimizer.differentiable=true"], {"optimizer.differentiable"}),
        (
            ["optimizer._target_=torch.optim.LBFGS", "~optimizer.betas", "~optimizer.weight_decay"],
            {"optimizer"},
        ),
        (["codebook=max_hamming", "codebook.tries=1000000", "model.nbit=512"], {"codebook.tries"}),
        (["codebook=hadamard", "codebook.rest=once", "model.nbit=48"], {"codebook.rest"}),
    ],
)
def test_an_option_that_a_constructor_refuses_is_reported(words, keys, faults):
    assert set(faults(*words)) == keys


def test_the_random_state_stays(faults):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert faults("loss=cross_entropy", "method=csq", "seed=7") is not None
    assert torch.equal(torch.get_rng_state(), before)
