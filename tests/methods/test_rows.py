"""Worked numbers of every method: by its authors' code, by loops, and by what is here."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from deephash import config
from deephash.losses.cross_entropy import CrossEntropy
from deephash.losses.lmcl import LMCL
from deephash.losses.pairwise import PairwiseLikelihood
from deephash.methods.csq import CentralSimilarity
from deephash.methods.dpn import Polarization
from deephash.methods.dtsh import TripletLikelihood
from deephash.methods.greedyhash import Greedy
from deephash.methods.jmlh import Variational
from deephash.methods.orthohash import SingleCosine
from deephash.methods.relahash import Relative
from deephash.models.relaxations import Continuation, Identity, Sign, StochasticSign, Tanh
from deephash.similarities import Cosine

CONF = Path(__file__).parents[2] / "conf"

Z = [[0.5, -0.9, 1.5, 0.25], [-0.75, 0.5, -0.25, 1.1],
     [0.2, -0.3, 0.8, -1.2], [1.1, 0.6, -0.4, -0.9]]  # fmt: skip
CENTERS = [[1, -1, 1, 1], [-1, 1, 1, -1], [1, 1, -1, -1]]
W = [[0.4, -0.2, 0.3, 0.1], [-0.3, 0.5, 0.2, -0.4], [0.1, 0.2, -0.6, 0.3]]
POINTS = {"single": [[1, 0, 0], [0, 1, 0]], "multi": [[1, 0, 1], [0, 1, 0]]}
PAIRS = {"single": [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
         "multi": [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """An objective with its numbers: labels -> (loss, norm of its gradient by the code)."""

    loss: type[nn.Module]
    single: tuple[float, float]
    multi: tuple[float, float]
    options: dict = field(default_factory=dict)
    relaxation: nn.Module = field(default_factory=Identity)
    similarity: nn.Module | None = None
    centers: list | None = None
    labels: dict = field(default_factory=lambda: POINTS)


def pairs(single, multi, relaxation=None, **options):
    relaxation = relaxation or Identity()
    return Row(PairwiseLikelihood, single, multi, options, relaxation, labels=PAIRS)


def lmcl(single, multi, relaxation=None, similarity=None, centers=CENTERS, scale="sqrt_nbit",
         margin=0.2):  # fmt: skip
    options = {"scale": scale, "margin": margin}
    relaxation, similarity = relaxation or Identity(), similarity or Cosine()
    return Row(LMCL, single, multi, options, relaxation, similarity, centers)


BIT = StochasticSign(stochastic=False)  # the worked values draw nothing
CONTROL = lmcl((0.685122, 0.649601), (1.396207, 0.661585))

ROWS = {
    "relahash": [
        lmcl((1.731512, 2.393275), (3.884026, 2.553156), None, Relative(), CENTERS, 8, 0.5),
        lmcl((8.134884, 17.869433), (21.610255, 19.566770), None, Relative(), CENTERS, 50, 0.5),
        lmcl((0.427632, 4.194213), (6.525888, 5.496883), None, Relative(sqrt_bk=True), CENTERS,
             8, 0.5),
        lmcl((0.783257, 0.442787), (1.304105, 0.456044), None, Relative()),
    ],
    "orthohash": [
        Row(SingleCosine, (0.685122, 0.649601), (1.396207, 0.661585), {"scale": 2.0},
            similarity=Cosine(), centers=CENTERS),
        Row(SingleCosine, (0.685122, 0.649601), (1.396207, 0.661585),
            similarity=Cosine(), centers=CENTERS),
        Row(SingleCosine, (0.697224, 0.656602), (1.408310, 0.665493), {"quantization": 0.1},
            similarity=Cosine(), centers=CENTERS),
        CONTROL,
    ],
    "orthohash_arc": [
        Row(SingleCosine, (0.664830, 0.637015), (1.394217, 0.639789), {"margin_on": "angle"},
            similarity=Cosine(), centers=CENTERS),
    ],
    "dpn": [
        Row(Polarization, (2.725000, 1.322876), (5.800000, 1.500000), centers=CENTERS),
        Row(Polarization, (2.793219, 1.309451), (5.868219, 1.506124), {"regularization": 0.1},
            centers=CENTERS),
        Row(Polarization, (0.681250, 0.330719), (0.743750, 0.330719),
            {"bits": "mean", "multi_label": "vote"}, centers=CENTERS),
        CONTROL,
    ],
    "csq": [
        Row(CentralSimilarity, (0.598090, 0.310328), (0.660590, 0.333949), {}, Tanh(),
            centers=CENTERS),
        lmcl((0.592453, 0.458569), (1.318270, 0.515044), Tanh()),
    ],
    "greedyhash": [
        Row(Greedy, (0.909876, 0.464859), (1.309876, 0.529427), {}, Sign(), centers=W),
        lmcl((0.981060, 0.631815), (1.559775, 0.677699), Sign(), centers=W),
    ],
    "jmlh": [
        Row(Variational, (0.837604, 0.080467), (1.137604, 0.086089), {}, BIT, centers=W),
        lmcl((0.981060, 0.282488), (1.559775, 0.299083), BIT, centers=W),
    ],
    "ce": [Row(CrossEntropy, (0.762425, 0.386554), (1.264925, 0.411661), centers=W)],
    "hashnet": [
        pairs((0.586549, 0.727065), (0.920366, 0.769944), Continuation(),
              alpha="10/nbit", pairs="halves", weighting="class"),
        pairs((1.124071, 0.460248), (1.199291, 0.384911), Continuation()),
        pairs((1.154504, 0.187332), (1.256181, 0.136853), Continuation(), pairs="memory"),
        pairs((1.338416, 0.043449), (1.349110, 0.037289), Continuation(), alpha=0.1),
    ],
    "dtsh": [Row(TripletLikelihood, (3.279948, 1.627831), (3.949647, 1.791410), labels=PAIRS)],
    "dhn": [
        pairs((0.631542, 0.063291), (0.632167, 0.064661),
              alpha=0.5, pairs="memory", weighting="mean", quantization=0.1),
        pairs((0.726589, 0.156686), (0.738321, 0.121529), Tanh(),
              alpha=0.5, weighting="mean", quantization=1.0),
    ],
    "dpsh": [
        pairs((0.643879, 0.067547), (0.644504, 0.065445), alpha=0.5, pairs="memory",
              weighting="mean", quantization=0.1, quantization_form="l2"),
        pairs((1.173818, 0.151651), (1.253123, 0.136489), alpha=0.5, pairs="memory",
              quantization=0.1, quantization_form="l2"),
    ],
}  # fmt: skip
"""One entry per file of ``conf/method``; values by the authors' code, in float64."""

ALL = [
    pytest.param(row, labels, id=f"{name}-{at}-{labels}")
    for name, rows in ROWS.items()
    for at, row in enumerate(rows)
    for labels in ("single", "multi")
]


@pytest.fixture
def made(case):
    """The case and the objective of a row; the memory knows nothing yet."""

    def make(row, labels, dtype=torch.float64):
        n = len(row.labels[labels])
        at = case(Z[:n], row.labels[labels], row.centers, [0, 2, 3, 5][:n], 6, row.relaxation,
                  row.similarity, dtype)  # fmt: skip
        loss = at.made(row.loss, **row.options)
        if getattr(loss, "bias", None) is not None:
            nn.init.zeros_(loss.bias)[:] = torch.tensor([0.1, 0, -0.1])
        if hasattr(loss, "ties"):
            loss.ties[:] = torch.tensor([1, -1, 1, -1])
        return at, loss

    with torch.no_grad():
        yield make


def test_every_method_has_a_row_and_every_row_a_method():
    assert {path.stem for path in (CONF / "method").glob("*.yaml")} == set(ROWS)


@pytest.mark.parametrize(("row", "labels"), ALL)
def test_worked_values(row, labels, made):
    """To the last of six printed digits."""
    loss, norm = getattr(row, labels)
    at, objective = made(row, labels)
    with torch.enable_grad():
        assert at.gradient(objective).norm().item() == pytest.approx(norm, abs=1e-6)
    assert at.total(objective).item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(("row", "labels"), ALL)
def test_rows_are_what_loops_give(row, labels, made, loops):
    at, objective = made(row, labels)
    expected = loops(at, objective, **row.options)
    assert at.total(objective).item() == pytest.approx(expected, abs=1e-9, rel=0)
    at, objective = made(row, labels, torch.float32)
    found = at.total(objective)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("row", "labels"), ALL)
def test_gradients_are_finite_differences(row, labels, made):
    """Bits have none: the real-valued code stands for them. A memory is filled, and then kept."""
    if isinstance(row.relaxation, Sign | StochasticSign):
        row = replace(row, relaxation=Identity())
    at, objective = made(row, labels)
    at.total(objective)
    objective.eval()
    with torch.enable_grad():
        z = at.z.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: at.total(objective, z), (z,))


@pytest.mark.parametrize("name", ROWS)
def test_a_recipe_as_it_is_written_is_one_of_its_rows(name, composed):
    """Class for class and number for number; what the objective does not read is left open."""
    recipe = composed(f"method={name}")["method"]
    written = dict(recipe["loss"])
    kind = config.locate(written.pop("_target_"))
    defaults = {key: p.default for key, p in config.arguments(kind).items() if key in written}
    found = []
    for row in ROWS[name]:
        options = defaults | row.options
        parts = {"relaxation": row.relaxation, "similarity": row.similarity}
        same = all(
            part is None or recipe[key]["_target_"].endswith(f".{type(part).__name__}")
            for key, part in parts.items()
        )
        found.append(row.loss is kind and options == written and same)
    assert any(found)


def test_relative_position_step_by_step():
    z = torch.tensor(Z[:2], dtype=torch.float64)
    assert z.mean().item() == pytest.approx(0.243750)
    assert (z - z.mean()).norm().item() == pytest.approx(2.232081, abs=1e-6)
    expected = [[0.596416, -0.033601, -0.481613], [-0.198805, -0.022401, -0.246407]]
    found = Relative()(z, torch.tensor(CENTERS, dtype=torch.float64))
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )
