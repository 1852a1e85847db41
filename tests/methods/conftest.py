"""A batch to judge, and the objectives as one reads them: loops over plain numbers."""

import copy
import functools
import math
from dataclasses import dataclass, field
from itertools import product as every_pair
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from torch import nn

from deephash.config import build, requirements, resolve, schema, targets
from deephash.models.relaxations import Identity
from deephash.types import Batch, Output
from tests.pages import typed
from tests.paths import CONF


@functools.cache
def pages(*words):
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["dataset=digits", "trainer.device=cpu", "model.nbit=16"]
        return resolve.resolve(compose("train", overrides=[*given, *words]))


@pytest.fixture(scope="session")
def composed():
    """``(overrides) -> folded configuration``, on the digits at 16 bits; yours to change.

    Hydra composes the pages, once; a value is then set where the pages have its key.
    """

    def fold(*words):
        values = [word for word in words if "." in word.partition("=")[0] or "seed=" in word]
        cfg = copy.deepcopy(pages(*(word for word in words if word not in values)))
        for key, _, value in (word.partition("=") for word in values):
            *path, last = key.split(".")
            node = functools.reduce(dict.__getitem__, path, cfg)
            assert last in node, key
            node[last] = yaml.safe_load(value)
        return cfg

    return fold


@pytest.fixture(scope="session")
def batch_for():
    """``(folded configuration) -> its first training batch``, as many views as the recipe has."""
    known = {}

    def batch(cfg):
        declared = requirements.declared(cfg["method"])
        key = (
            requirements.num_views(cfg["method"]),
            cfg["method"].get("streams", 1),
            declared.labels,
        )
        if key not in known:
            data = build.data_module(typed(cfg))
            data.setup("cpu")
            known[key] = next(data.train(0))
        return known[key]

    return batch


@pytest.fixture(scope="session")
def first_batch(batch_for):
    return batch_for(pages())


def pytest_generate_tests(metafunc):
    """Parametrise the checks of worked values over the rows of their class."""
    rows = getattr(metafunc.cls, "rows", ())
    if "row" in metafunc.fixturenames:
        cases = [pytest.param(row, labels, id=f"{at}-{labels}")
                 for at, row in enumerate(rows) for labels in ("single", "multi")]  # fmt: skip
        metafunc.parametrize(("row", "labels"), cases)


@dataclass
class Case:
    """Codes and labels of a batch, and the parts between the codes and the objective."""

    z: Any  # (N, K)
    labels: Any  # (N, C)
    centers: Any = None  # (C, K)
    index: Any = None  # places in the training set
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

    def made(self, kind, **options):
        """The objective with what the program gives, in this case's precision."""
        offered = {"num_train": self.num_train, "nbit": self.z.shape[1], "seed": 0,
                   "num_classes": self.labels.shape[1]}  # fmt: skip
        known = targets.arguments(kind)
        given = {key: value for key, value in offered.items() if key in known}
        return kind(**given, **options).to(self.dtype)

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
        """By the codes: (N, K)."""
        z = self.z.clone().requires_grad_()
        self.total(loss, z).backward()
        return z.grad


@pytest.fixture(scope="session")
def case():
    return Case


@pytest.fixture(scope="session")
def drawn():
    """A random case with several labels for most images and none for one."""

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


# loops


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) if any(a) and any(b) else 0.0


def relative(codes, centers, sqrt_bk=False):
    entries = [x for row in codes for x in row]
    mean = sum(entries) / len(entries)
    norm = math.sqrt(sum((x - mean) ** 2 for x in entries))
    norm /= math.sqrt(len(entries)) if sqrt_bk else 1
    return [
        [dot([(x - mean) / norm for x in row], c) / math.sqrt(dot(c, c)) for c in centers]
        for row in codes
    ]


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def average(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def gap(x, form):
    off = abs(x) - 1
    if form == "log_cosh":
        return math.log(math.cosh(off))
    return {"l1": abs(off), "l2": off * off, "l3": abs(off) ** 3}[form]


def mean_gap(codes, form):
    if form == "cosine":
        return average(1 - cosine(row, [sign(x) for x in row]) for row in codes)
    return average(gap(x, form) for row in codes for x in row)


def far_from_fair(codes, log_epsilon=0.0):
    total = 0.0
    for row in codes:
        for x in row:
            p = 1 / (1 + math.exp(-x))
            for chance in (p, 1 - p):
                total += chance * (math.log(chance + log_epsilon) - math.log(0.5 + log_epsilon))
    return total / len(codes)


def sign(x):
    return 1 if x >= 0 else -1


def softmax_loss(logits, labels, multi_label="even"):
    loss = 0.0
    for row, wanted in zip(logits, labels, strict=True):
        log_sum = math.log(sum(math.exp(x) for x in row))
        true = [c for c, y in enumerate(wanted) if y]
        true = true[:1] if multi_label == "first" else true
        loss -= average(row[c] - log_sum for c in true) / len(logits)
    return loss


def lmcl(at, scale="sqrt_nbit", margin=0.2, margin_on="cosine", multi_label="softmax",
         quantization=0.0, quantization_form="cosine", quantization_of="z"):  # fmt: skip
    classes = len(at.labels[0])
    scale = {"sqrt_nbit": math.sqrt(len(at.z[0])),
             "adaptive": math.sqrt(2) * math.log(classes - 1)}.get(scale, scale)  # fmt: skip

    def held_back(s, y):
        if margin_on == "angle":
            return scale * math.cos(math.acos(min(max(s, -0.99999), 0.99999)) + margin * y)
        return scale * (s - margin * y)

    logits = [[held_back(s, y) for s, y in zip(row, wanted, strict=True)]
              for row, wanted in zip(at.logits, at.labels, strict=True)]  # fmt: skip
    if multi_label == "softmax":
        loss = softmax_loss(logits, at.labels)
    else:
        above = below = 0.0
        for row, wanted in zip(logits, at.labels, strict=True):
            for x, y in zip(row, wanted, strict=True):
                heavy = y or 1 / (1 + math.exp(-x)) >= 0.7  # present, or taken for present
                weight = 1 if heavy or multi_label == "bce" else 1 / classes
                weight = weight if any(wanted) else 0
                above += weight * (softplus(x) - y * x)
                below += 1 if multi_label == "bce" else weight
        loss = above / (below + (1e-7 if multi_label == "imbalance" else 0))
    if quantization_form == "divergence":
        return loss + quantization * far_from_fair(at.z)
    codes = {"z": at.z, "u": at.u}[quantization_of]
    return loss + quantization * mean_gap(codes, quantization_form)


def cross_entropy(at, multi_label="even", codes=None, bias=True):
    codes = at.u if codes is None else codes
    logits = [[dot(row, w) + b for w, b in zip(at.centers, at.bias, strict=True)] for row in codes]
    assert bias or not any(at.bias)
    return softmax_loss(logits, at.labels, multi_label)


def greedy(at, penalty=1.0, power=3.0, **others):
    off = average(abs(abs(x) - 1) ** power for row in at.z for x in row)
    return cross_entropy(at, **others) + penalty * off


def variational(at, divergence=0.1, log_epsilon=1e-7, **others):
    bits = [[(x + 1) / 2 for x in row] for row in at.u]
    result = cross_entropy(at, codes=bits, **others)
    return result + divergence * far_from_fair(at.z, log_epsilon)


def voted(wanted, at):
    votes = [sum(y * c[k] for y, c in zip(wanted, at.centers, strict=True))
             for k in range(len(at.ties))]  # fmt: skip
    return [tie if v == 0 else math.copysign(1, v) for v, tie in zip(votes, at.ties, strict=True)]


def polarization(at, margin=1.0, bits="sum", multi_label="each", regularization=0.0):
    loss = 0.0
    for row, wanted in zip(at.u, at.labels, strict=True):
        goals = [c for y, c in zip(wanted, at.centers, strict=True) if y]
        if goals and multi_label == "vote":
            goals = [voted(wanted, at)]
        loss += sum(max(0, margin - x * c) for goal in goals
                    for x, c in zip(row, goal, strict=True))  # fmt: skip
    loss /= len(at.u) * (len(at.u[0]) if bits == "mean" else 1)
    return loss + regularization * average(x * x for row in at.u for x in row)


def central_similarity(at, quantization=0.001, quantization_form="l2", pairwise=0.0):
    n, nbit = len(at.z), len(at.z[0])
    codes = [[math.tanh(x) for x in row] for row in at.z]
    loss = 0.0
    for code, wanted in zip(codes, at.labels, strict=True):
        for x, t in zip(code, voted(wanted, at), strict=True):
            p, goal = (1 + x) / 2, (1 + t) / 2
            if any(wanted):
                loss -= (goal * math.log(p) + (1 - goal) * math.log(1 - p)) / (n * nbit)
    loss += quantization * mean_gap(codes, quantization_form)
    if pairwise:
        pairs = every_pair(range(n // 2), range(n // 2, n))
        loss += pairwise * average(
            softplus(theta) - (dot(at.labels[i], at.labels[j]) > 0) * theta
            for i, j in pairs
            for theta in [10 / nbit * dot(codes[i], codes[j])]
        )
    return loss


def pairwise(at, alpha=1.0, product="inner", pairs="batch", weighting="balanced",
             class_weight=1.0, graded="none", quantization=0.0,
             quantization_form="log_cosh"):  # fmt: skip
    one = list(zip(at.u, at.labels, strict=True))
    other, half = one, len(one) // 2
    if pairs == "halves":
        one, other = one[:half], one[half:]
    if pairs == "memory":
        other = list(at.memory)
        for place, item in zip(at.index, one, strict=True):
            other[place] = item
    alpha = 10 / len(at.u[0]) if alpha == "10/nbit" else alpha
    alike, different = [], []
    for (a, y), (b, t) in every_pair(one, other):
        ip = cosine(a, b) if product == "cosine" else dot(a, b)
        theta = alpha * (min(max(ip, -15), 15) if product == "clipped" else ip)
        common = dot(y, t)
        if not common:
            different.append(softplus(theta))
            continue
        degree = {"none": 1, "cosine": 4 * cosine(y, t) ** 2,
                  "jaccard": common / sum(map(max, y, t))}[graded]  # fmt: skip
        alike.append(degree * (softplus(theta) - theta))
    s1, s0 = len(alike), len(different)
    s = s1 + s0
    w1, w0, norm = {
        "mean": (1, 1, s),
        "balanced": (s / max(s1, 1), s / max(s0, 1), s),
        "positives": (s / max(s1, 1), 1, s),
        "class": (class_weight, 1, class_weight * s1 + s0),
    }[weighting]
    loss = (w1 * sum(alike) + w0 * sum(different)) / norm if s else 0.0
    return loss + quantization * mean_gap(at.u, quantization_form)


def triplet(at, margin=5.0, half=False, quantization=1.0):
    n = len(at.u)
    margin = len(at.u[0]) / 2 if margin == "nbit/2" else margin
    anchors = []
    for i in range(n):
        near = [p for p in range(n) if dot(at.labels[i], at.labels[p])]
        far = [q for q in range(n) if q not in near]
        losses = []
        for p, q in every_pair(near, far):
            tau = (dot(at.u[i], at.u[p]) - dot(at.u[i], at.u[q])) / (2 if half else 1) - margin
            losses.append(softplus(-min(max(tau, -100), 50)))
        if losses:
            anchors.append(average(losses))
    return average(anchors) + quantization * mean_gap(at.u, "l2")


LOOPS = {
    "LMCL": lmcl, "SingleCosine": lmcl, "CrossEntropy": cross_entropy, "Greedy": greedy,
    "Variational": variational, "Polarization": polarization,
    "CentralSimilarity": central_similarity, "PairwiseLikelihood": pairwise,
    "TripletLikelihood": triplet,
}  # fmt: skip

RELAXED = {"Identity": float, "Tanh": math.tanh, "Continuation": math.tanh, "Sign": sign,
           "StochasticSign": sign}  # fmt: skip
"""In their first state; of what is drawn, the mode."""


@dataclass
class Numbers:
    """A case without its tensors."""

    z: list
    u: list
    labels: list
    index: list
    centers: list | None
    logits: list | None
    bias: list | None
    ties: list | None
    memory: list | None


@pytest.fixture(scope="session")
def loops():
    """``(case, objective before it is called, its options) -> float``; ``loop``: of a new one."""

    def judge(case, loss, loop=None, **options):
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

    return judge
