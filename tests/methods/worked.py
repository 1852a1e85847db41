"""What a method's test file is made of: its worked values, and the checks that they undergo.

``tests/methods/test_<name>.py`` holds the values of ``conf/method/<name>.yaml`` in a subclass::

    class TestCSQ(Worked):
        method = "csq"
        rows = (Row(CentralSimilarity, (0.598090, 0.310328), (0.660590, 0.333949), {}, Tanh(),
                    centers=CENTERS),)

Each row is compared with the printed values, with plain loops and with finite differences, and the
recipe must be one of the rows. What holds of every method is tested for every file of
``conf/method`` elsewhere (``test_recipes``, ``test_degenerate``, ``test_devices``): from those
nothing has to be registered.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
import yaml
from torch import nn

from deephash.config import requirements as recipe
from deephash.config import targets
from deephash.losses.lmcl import LMCL
from deephash.losses.pairwise import PairwiseLikelihood
from deephash.models.relaxations import Identity
from deephash.models.similarities import Cosine
from tests.paths import CONF

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
LOSSES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))


def page(group, name):
    """A file of ``conf`` with what it takes from others of its group: values, and parts by seat."""
    values = yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) or {}
    own = values.get(group, values)  # of a page that is global
    result = {"parts": {}}
    for entry in values.pop("defaults", ["_self_"]):
        if entry == "_self_":
            result |= own
        elif isinstance(entry, str):
            if not entry.startswith("/"):  # what is shared has no part of a method
                result |= page(group, entry)
        else:
            ((key, option),) = entry.items()
            result["parts"] = {**result["parts"], re.split(r"[@.]", key)[-1]: option}
    return result


def method_class(name):
    """The class of a recipe."""
    return recipe.method_class(page("method", name))


def loss_class(name):
    """The class that a page of ``conf/loss`` names."""
    return targets.locate(page("loss", name)["_target_"])


def unfrozen(cfg):
    """A folded configuration whose backbone is trained, also where the recipe freezes it."""
    cfg["backbone"].pop("frozen", None)
    return cfg


LEARNING = [name for name in METHODS if method_class(name).learns]
"""The recipes that are trained by gradients."""

OWNERS = {page("method", name)["parts"].get("loss"): name for name in reversed(METHODS)}
"""For each loss a recipe that has it."""


# worked values

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
    labels: Mapping = field(default_factory=lambda: POINTS)


def pairs(single, multi, relaxation=None, **options):
    """A row of the pairwise likelihood."""
    relaxation = relaxation or Identity()
    return Row(PairwiseLikelihood, single, multi, options, relaxation, labels=PAIRS)


def lmcl(single, multi, relaxation=None, similarity=None, centers=CENTERS, scale="sqrt_nbit",
         margin=0.2):  # fmt: skip
    """A row of the shared loss, as in RelaHash's Table 4."""
    options = {"scale": scale, "margin": margin}
    relaxation, similarity = relaxation or Identity(), similarity or Cosine()
    return Row(LMCL, single, multi, options, relaxation, similarity, centers)


CONTROL = lmcl((0.685122, 0.649601), (1.396207, 0.661585))
"""The shared loss on the real-valued code and its cosine."""


def made(case, row, labels, dtype=torch.float64):
    """The case and the objective of a row; the memory knows nothing yet."""
    n = len(row.labels[labels])
    at = case(Z[:n], row.labels[labels], row.centers, [0, 2, 3, 5][:n], 6, row.relaxation,
              row.similarity, dtype)  # fmt: skip
    loss = at.made(row.loss, **row.options)
    with torch.no_grad():
        if getattr(loss, "bias", None) is not None:
            nn.init.zeros_(loss.bias)[:] = torch.tensor([0.1, 0, -0.1])
        if hasattr(loss, "ties"):
            loss.ties[:] = torch.tensor([1, -1, 1, -1])
    return at, loss


class Worked:
    """The checks of a method's worked values; a subclass in a test file gives them.

    Attributes:
        method: the recipe, a file of ``conf/method``.
        rows: the worked values, in float64.
        loop: ``(Numbers, **options) -> float``, the objective as one reads it; None for the shared
            objectives, which have theirs in ``conftest.LOOPS``.
    """

    method: ClassVar[str]
    rows: ClassVar[Sequence[Row]] = ()
    loop: ClassVar[Callable[..., float] | None] = None

    def test_worked_values(self, row, labels, case):
        """To the last of six printed digits."""
        loss, norm = getattr(row, labels)
        at, objective = made(case, row, labels)
        assert at.gradient(objective).norm().item() == pytest.approx(norm, abs=1e-6)
        at, objective = made(case, row, labels)
        assert at.total(objective).item() == pytest.approx(loss, abs=1e-6)

    def test_rows_are_what_loops_give(self, row, labels, case, loops):
        at, objective = made(case, row, labels)
        expected = loops(at, objective, loop=type(self).loop, **row.options)
        assert at.total(objective).item() == pytest.approx(expected, abs=1e-9, rel=0)
        at, objective = made(case, row, labels, torch.float32)
        result = at.total(objective)
        assert result.dtype == torch.float32
        assert result.item() == pytest.approx(expected, rel=1e-5)

    def test_gradients_are_finite_differences(self, row, labels, case):
        """Bits have none: the real-valued code stands for them. A memory is filled, then kept."""
        if getattr(row.relaxation, "bits", False):
            row = replace(row, relaxation=Identity())
        at, objective = made(case, row, labels)
        at.total(objective)
        objective.eval()
        z = at.z.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: at.total(objective, z), (z,))

    def test_the_recipe_as_it_is_written_is_one_of_the_rows(self, composed):
        """Class for class and number for number; what the objective does not read is left open."""
        recipe = composed(f"method={self.method}")["method"]
        written = dict(recipe["loss"])
        kind = targets.locate(written.pop("_target_"))
        defaults = {key: p.default for key, p in targets.arguments(kind).items() if key in written}
        result = []
        for row in self.rows:
            parts = {"relaxation": row.relaxation, "similarity": row.similarity}
            same = all(
                part is None or recipe[key]["_target_"].endswith(f".{type(part).__name__}")
                for key, part in parts.items()
            )
            result.append(row.loss is kind and defaults | row.options == written and same)
        assert any(result)
