"""Fixtures of the tests of methods: configurations, batches, codes with labels."""

import copy
import functools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import yaml
from hydra import compose
from torch import nn

from deephash.config import build, requirements, resolve, targets
from deephash.models.relaxations import Identity
from deephash.types import Batch, Output
from tests.methods.loops import LOOPS, RELAXED, Numbers, cosine, relative
from tests.pages import composable, typed


@functools.cache
def base_configuration(*overrides):
    with composable():
        defaults = ["dataset=digits", "trainer.device=cpu", "model.nbit=16"]
        return resolve.resolve(compose("train", overrides=[*defaults, *overrides]))


@pytest.fixture(scope="session")
def composed():
    """``(overrides) -> resolved configuration``, a copy, on digits with 16 bits.

    Hydra composes each selection of groups once; values are then set in the result.
    """

    def compose_overrides(*overrides):
        values = [text for text in overrides if "." in text.partition("=")[0] or "seed=" in text]
        groups = [text for text in overrides if text not in values]
        cfg = copy.deepcopy(base_configuration(*groups))
        for key, _, value in (text.partition("=") for text in values):
            *path, last = key.split(".")
            node = functools.reduce(dict.__getitem__, path, cfg)
            assert last in node, key
            node[last] = yaml.safe_load(value)
        return cfg

    return compose_overrides


@pytest.fixture(scope="session")
def batch_for():
    """``(resolved configuration) -> first training batch``, with the views of the recipe."""
    batches = {}

    def first_batch_of(cfg):
        declared = requirements.declared(cfg["method"])
        key = (
            requirements.num_views(cfg["method"]),
            cfg["method"].get("streams", 1),
            declared.labels,
        )
        if key not in batches:
            data = build.data_module(typed(cfg))
            data.setup("cpu")
            batches[key] = next(data.train(0))
        return batches[key]

    return first_batch_of


@pytest.fixture(scope="session")
def first_batch(batch_for):
    return batch_for(base_configuration())


def pytest_generate_tests(metafunc):
    """Parametrize the tests of worked values over the rows of their class."""
    rows = getattr(metafunc.cls, "rows", ())
    if "row" in metafunc.fixturenames:
        cases = [pytest.param(row, labels, id=f"{index}-{labels}")
                 for index, row in enumerate(rows) for labels in ("single", "multi")]  # fmt: skip
        metafunc.parametrize(("row", "labels"), cases)


@dataclass
class Case:
    """Codes and labels of a batch, and the parts between the codes and the objective."""

    z: Any  # (N, K)
    labels: Any  # (N, C)
    centers: Any = None  # (C, K)
    index: Any = None  # in the training set
    num_train: int = 16
    relaxation: nn.Module = field(default_factory=Identity)
    similarity: nn.Module | None = None
    dtype: torch.dtype = torch.float64

    def __post_init__(self):
        self.z = torch.as_tensor(self.z, dtype=self.dtype)
        self.labels = torch.as_tensor(self.labels, dtype=self.dtype)
        if self.centers is not None:
            self.centers = torch.as_tensor(self.centers, dtype=self.dtype)
        self.index = torch.arange(len(self.z)) if self.index is None else torch.tensor(self.index)

    def loss(self, kind, **options):
        """Build a loss with the arguments that the program passes, in the precision of the case."""
        available = {"num_train": self.num_train, "nbit": self.z.shape[1], "seed": 0,
                   "num_classes": self.labels.shape[1]}  # fmt: skip
        accepted = targets.arguments(kind)
        arguments = {key: value for key, value in available.items() if key in accepted}
        return kind(**arguments, **options).to(self.dtype)

    def output(self, z=None):
        z = self.z if z is None else z
        u = self.relaxation(z)
        logits = None if self.similarity is None else self.similarity(u, self.centers)
        return Output(z, z, u, logits, self.centers)

    def terms(self, loss, z=None):
        images = torch.zeros(len(self.index), 1, 3, 1, 1, dtype=self.dtype)
        return loss(self.output(z), Batch(images, self.labels, self.index))

    def total(self, loss, z=None):
        return sum(self.terms(loss, z).values())

    def gradient(self, loss):
        """The gradient with respect to the codes: (N, K)."""
        z = self.z.clone().requires_grad_()
        self.total(loss, z).backward()
        return z.grad


@pytest.fixture(scope="session")
def make_case():
    return Case


@pytest.fixture(scope="session")
def random_case():
    """A random case in which most images have several labels and one has none."""

    def draw(seed=0, n=6, nbit=8, classes=4, **parts):
        rng = torch.Generator().manual_seed(seed)
        labels = torch.rand(n, classes, generator=rng) < 0.35
        labels[torch.arange(n), torch.arange(n) % classes] = True
        labels[seed % n] = False
        centers = torch.randint(0, 2, (classes, nbit), generator=rng) * 2 - 1
        z = 1.3 * torch.randn(n, nbit, generator=rng, dtype=torch.float64)
        index = torch.randperm(16, generator=rng)[:n].tolist()
        return Case(z, labels, centers, index, **parts)

    return draw


@pytest.fixture(scope="session")
def loop_loss():
    """``(case, loss before its first call, its options) -> float``, computed by ``loop``."""

    def compute(case, loss, loop=None, **options):
        z = case.z.tolist()
        u = [[RELAXED[type(case.relaxation).__name__](x) for x in row] for row in z]
        centers = None if case.centers is None else case.centers.tolist()
        logits = None
        if type(case.similarity).__name__ == "Cosine":
            logits = [[cosine(row, c) for c in centers] for row in u]
        elif case.similarity is not None:
            logits = relative(u, centers, case.similarity.sqrt_bk)
        bias, ties = getattr(loss, "bias", None), getattr(loss, "ties", None)
        memory = getattr(loss, "memory", None)
        return (loop or LOOPS[type(loss).__name__])(
            Numbers(
                z, u, case.labels.tolist(), case.index.tolist(), centers, logits,
                [0.0] * case.labels.shape[1] if bias is None else bias.tolist(),
                None if ties is None else ties.tolist(),
                memory and list(zip(memory.codes.tolist(), memory.labels.tolist(), strict=True)),
            ),
            **options,
        )  # fmt: skip

    return compute
