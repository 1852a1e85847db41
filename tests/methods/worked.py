"""Worked values of a method and the tests that compare the loss with them.

``tests/methods/test_<name>.py`` defines the values of ``conf/method/<name>.yaml`` in a subclass::

    class TestCSQ(Worked):
        method = "csq"
        rows = (Row(CentralSimilarity, (0.598090, 0.310328), (0.660590, 0.333949), {}, Tanh(),
                    centers=CENTERS),)

Each row is compared with the printed values, with plain loops and with finite differences, and the
recipe must be one of the rows. ``test_recipes``, ``test_degenerate`` and ``test_devices`` test all
files of ``conf/method``, without registration.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from deephash.config import requirements, targets
from deephash.losses.lmcl import LMCL
from deephash.losses.pairwise import PairwiseLikelihood
from deephash.models.relaxations import Identity
from deephash.models.similarities import Cosine
from deephash.utils.files import read_yaml
from tests.paths import CONF

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
LOSSES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))


def page(group, name):
    """A file of ``conf`` merged with its defaults of the same group: values, and parts by slot."""
    values = read_yaml(CONF / group / f"{name}.yaml", kind=None) or {}
    group_values = values.get(group, values)  # of a file with the package _global_
    result = {"parts": {}}
    for entry in values.pop("defaults", ["_self_"]):
        if entry == "_self_":
            result |= group_values
        elif isinstance(entry, str):
            if not entry.startswith("/"):  # shared files contain no parts of a method
                result |= page(group, entry)
        else:
            ((key, option),) = entry.items()
            result["parts"] = {**result["parts"], re.split(r"[@.]", key)[-1]: option}
    return result


def method_class(name):
    """The class of a recipe."""
    return requirements.method_class(page("method", name))


def loss_class(name):
    """The class of a file of ``conf/loss``."""
    return targets.locate(page("loss", name)["_target_"])


def unfrozen(cfg):
    """Remove ``backbone.frozen`` from a resolved configuration, so that the backbone is trained."""
    cfg["backbone"].pop("frozen", None)
    return cfg


LEARNING = [name for name in METHODS if method_class(name).learns]
"""Recipes that are trained by gradients."""

OWNERS = {page("method", name)["parts"].get("loss"): name for name in reversed(METHODS)}
"""A recipe for each loss."""


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
    """A loss with worked values for single and multiple labels: (loss, norm of its gradient)."""

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
"""The shared loss on real-valued codes and cosines."""


def build_row(make_case, row, labels, dtype=torch.float64):
    """The case and the loss of a row, with an empty memory."""
    n = len(row.labels[labels])
    case = make_case(Z[:n], row.labels[labels], row.centers, [0, 2, 3, 5][:n], 6, row.relaxation,
              row.similarity, dtype)  # fmt: skip
    loss = case.loss(row.loss, **row.options)
    with torch.no_grad():
        if getattr(loss, "bias", None) is not None:
            nn.init.zeros_(loss.bias)[:] = torch.tensor([0.1, 0, -0.1])
        if hasattr(loss, "ties"):
            loss.ties[:] = torch.tensor([1, -1, 1, -1])
    return case, loss


class Worked:
    """Base class of the tests of worked values.

    Attributes:
        method: the recipe, a file of ``conf/method``.
        rows: the worked values, in float64.
        loop: ``(Numbers, **options) -> float``, the loss in plain loops; None for the losses in
            ``loops.LOOPS``.
    """

    method: ClassVar[str]
    rows: ClassVar[Sequence[Row]] = ()
    loop: ClassVar[Callable[..., float] | None] = None

    def test_worked_values(self, row, labels, make_case):
        """Printed with six digits."""
        expected, gradient_norm = getattr(row, labels)
        case, loss = build_row(make_case, row, labels)
        assert case.gradient(loss).norm().item() == pytest.approx(gradient_norm, abs=1e-6)
        case, loss = build_row(make_case, row, labels)
        assert case.total(loss).item() == pytest.approx(expected, abs=1e-6)

    def test_rows_match_loops(self, row, labels, make_case, loop_loss):
        case, loss = build_row(make_case, row, labels)
        expected = loop_loss(case, loss, loop=type(self).loop, **row.options)
        assert case.total(loss).item() == pytest.approx(expected, abs=1e-9, rel=0)
        case, loss = build_row(make_case, row, labels, torch.float32)
        result = case.total(loss)
        assert result.dtype == torch.float32
        assert result.item() == pytest.approx(expected, rel=1e-5)

    def test_gradients_match_finite_differences(self, row, labels, make_case):
        """Bits are replaced by real-valued codes. A memory is filled first, and then constant."""
        if getattr(row.relaxation, "bits", False):
            row = replace(row, relaxation=Identity())
        case, loss = build_row(make_case, row, labels)
        case.total(loss)
        loss.eval()
        z = case.z.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: case.total(loss, z), (z,))

    def test_recipe_is_one_of_the_rows(self, composed):
        """The classes of its parts and all options of its loss; parts that are None may differ."""
        recipe = composed(f"method={self.method}")["method"]
        options = dict(recipe["loss"])
        loss_type = targets.locate(options.pop("_target_"))
        arguments = targets.arguments(loss_type)
        defaults = {key: p.default for key, p in arguments.items() if key in options}
        matches = []
        for row in self.rows:
            parts = {"relaxation": row.relaxation, "similarity": row.similarity}
            same_parts = all(
                part is None or recipe[key]["_target_"].endswith(f".{type(part).__name__}")
                for key, part in parts.items()
            )
            same_options = defaults | row.options == options
            matches.append(row.loss is loss_type and same_options and same_parts)
        assert any(matches)
