"""Every recipe: a row of worked numbers, and what must hold of all of them."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from deephash import build, config, schema
from deephash.losses.lmcl import LMCL, even_target
from deephash.methods.relahash import Relative
from deephash.records import Batch, Output
from deephash.similarities import Cosine

CONF = Path(__file__).parents[1] / "conf"

Z = [[0.5, -0.9, 1.5, 0.25], [-0.75, 0.5, -0.25, 1.1]]
CENTERS = [[1, -1, 1, 1], [-1, 1, 1, -1], [1, 1, -1, -1]]
LABELS = {"single": [[1, 0, 0], [0, 1, 0]], "multi": [[1, 0, 1], [0, 1, 0]]}


@dataclass(frozen=True)
class Row:
    """One method with its numbers: labels -> (loss, norm of its gradient by the code)."""

    similarity: nn.Module
    loss: nn.Module
    expected: dict[str, tuple[float, float]]


ROWS = {
    "relahash": [
        Row(Relative(), LMCL(8, 0.5), {"single": (1.731512, 2.393275),
                                       "multi": (3.884026, 2.553156)}),
        Row(Relative(), LMCL(50, 0.5), {"single": (8.134884, 17.869433),
                                        "multi": (21.610255, 19.566770)}),
        Row(Relative(sqrt_bk=True), LMCL(8, 0.5), {"single": (0.427632, 4.194213),
                                                   "multi": (6.525888, 5.496883)}),
    ],
}  # fmt: skip
"""One entry per file of ``conf/method``; values by the authors' code, in float64."""

SHARED = [
    Row(Cosine(), LMCL(2, 0.2), {"single": (0.685122, 0.649601), "multi": (1.396207, 0.661585)}),
]
"""Combinations of shared parts."""


def batch(labels, dtype=torch.float64):
    labels = torch.as_tensor(labels, dtype=dtype)
    return Batch(torch.zeros(len(labels), 1, 3, 1, 1), labels, torch.arange(len(labels)))


def total(row, z, labels, centers=CENTERS):
    centers = torch.as_tensor(centers, dtype=z.dtype)
    output = Output(z, z, z, row.similarity(z, centers), centers)
    return sum(row.loss(output, batch(labels, z.dtype)).values())


def test_every_method_has_a_row_and_every_row_a_method():
    assert {path.stem for path in (CONF / "method").glob("*.yaml")} == set(ROWS)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("row", [row for rows in [*ROWS.values(), SHARED] for row in rows])
def test_worked_values(row, labels):
    loss, gradient = row.expected[labels]
    z = torch.tensor(Z, dtype=torch.float64, requires_grad=True)
    found = total(row, z, LABELS[labels])
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-6)
    assert z.grad.norm().item() == pytest.approx(gradient, abs=1e-6)
    single = total(row, torch.tensor(Z), LABELS[labels])
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(loss, rel=1e-5)


def test_relative_position_step_by_step():
    z = torch.tensor(Z, dtype=torch.float64)
    assert z.mean().item() == pytest.approx(0.243750)
    assert (z - z.mean()).norm().item() == pytest.approx(2.232081, abs=1e-6)
    expected = [[0.596416, -0.033601, -0.481613], [-0.198805, -0.022401, -0.246407]]
    found = Relative()(z, torch.tensor(CENTERS, dtype=torch.float64))
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_relative_position_by_hand():
    """Two equal codes (1, -1): mean 0, Frobenius norm 2, so each sits at (1/2, -1/2).

    Against the center (1, -1) / sqrt(2) that is 1 / sqrt(2): B equal codes reach
    1 / sqrt(B) and no more.
    """
    u = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    found = Relative()(u, torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(found, torch.full((2, 1), 0.5**0.5))


def draw(n=7, nbit=12, classes=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(n, nbit, generator=rng, dtype=torch.float64)
    centers = torch.randint(0, 2, (classes, nbit), generator=rng).double() * 2 - 1
    labels = (torch.rand(n, classes, generator=rng) < 0.4).double()
    labels[:, 0] = (labels.sum(dim=1) == 0).double()  # at least one each
    return z, centers, labels


def naive_relahash(z, centers, labels, scale, margin):
    """The objective as one reads it, entry by entry."""
    n, nbit = len(z), len(z[0])
    mean = sum(sum(row) for row in z) / (n * nbit)
    norm = math.sqrt(sum((x - mean) ** 2 for row in z for x in row))
    loss = 0.0
    for row, wanted in zip(z, labels, strict=True):
        logits = []
        for center, y in zip(centers, wanted, strict=True):
            length = math.sqrt(sum(c * c for c in center))
            s = sum((x - mean) / norm * c / length for x, c in zip(row, center, strict=True))
            logits.append(scale * (s - margin * y))
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        positives = sum(wanted)
        for logit, y in zip(logits, wanted, strict=True):
            if positives:
                loss -= y / positives * (logit - log_sum) / n
    return loss


@pytest.mark.parametrize("seed", range(5))
def test_relahash_is_the_naive_loop(seed):
    z, centers, labels = draw(seed=seed)
    labels[2] = 0  # nothing known of this image
    found = total(Row(Relative(), LMCL(50, 0.5), {}), z, labels, centers).item()
    expected = naive_relahash(z.tolist(), centers.tolist(), labels.tolist(), 50, 0.5)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("b", [1, 2, 16, 64])
def test_mean_squared_length_is_one_by_batch_size(b):
    """Against the unit axes the similarities are the coordinates of the position itself."""
    z, _, _ = draw(n=b, nbit=12)
    position = Relative()(z, torch.eye(12, dtype=torch.float64))
    assert (position**2).sum(dim=1).mean().item() == pytest.approx(1 / b)
    assert abs(position.mean().item()) < 1e-12


def test_relative_is_blind_to_shift_and_scale_of_the_whole_batch():
    z, centers, _ = draw()
    torch.testing.assert_close(Relative()(3 * z + 5, centers), Relative()(z, centers))
    torch.testing.assert_close(
        Relative(sqrt_bk=True)(z, centers), Relative()(z, centers) * z.numel() ** 0.5
    )


def test_relative_differentiates_mean_and_norm():
    """The gradient is orthogonal to what the similarity cannot see: shift and scale."""
    z, centers, _ = draw()
    z.requires_grad_()
    (Relative()(z, centers) * torch.randn(7, 5, dtype=torch.float64)).sum().backward()
    assert abs(z.grad.sum().item()) < 1e-9
    assert abs((z.grad * z.detach()).sum().item()) < 1e-9
    assert z.grad.norm() > 0.1


def test_the_loss_has_a_floor_at_small_scale_of_the_similarity():
    """B = 16 codes that are their centers: S = 1/4 at most, far below the margin of 1/2.

    The target's logit is 50 (1/4 - 1/2) and those of the others are near 0: a loss near
    50 / 4 + log(C - 1), not near 0. Ten orthogonal centers: exactly that, up to e^-12.5.
    """
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        hadamard = torch.cat(
            [torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)]
        )
    centers = hadamard[1:11]  # orthogonal, each of mean 0
    labels = torch.eye(10, dtype=torch.float64)[[*range(10), *range(6)]]
    found = total(Row(Relative(), LMCL(50, 0.5), {}), labels @ centers, labels, centers)
    assert found.item() == pytest.approx(12.5 + math.log(9), abs=1e-4)


@pytest.mark.parametrize("similarity", [Relative(), Cosine()])
def test_order_within_the_batch_does_not_matter(similarity):
    z, centers, labels = draw()
    row, order = Row(similarity, LMCL(8, 0.5), {}), torch.tensor([3, 1, 6, 0, 5, 2, 4])
    expected = total(row, z, labels, centers)
    torch.testing.assert_close(total(row, z[order], labels[order], centers), expected)


def test_lmcl_by_hand():
    """s = 8, m = 0.5, cosines (0.6, 0.1, -0.2), the first class is true.

    Held back: (0.1, 0.1, -0.2). Times 8: (0.8, 0.8, -1.6). The true class ties with the
    second, so the loss is log(1 + 1 + e^-2.4) = 0.7376.
    """
    z = torch.zeros(1, 2)
    output = Output(z, z, z, torch.tensor([[0.6, 0.1, -0.2]]), None)
    terms = LMCL(scale=8, margin=0.5)(output, batch([[1, 0, 0]], torch.float32))
    assert list(terms) == ["lmcl"]
    assert terms["lmcl"].item() == pytest.approx(math.log(2 + math.exp(-2.4)))


def test_a_row_without_labels_contributes_nothing():
    z = torch.zeros(2, 2)
    logits = torch.tensor([[0.6, 0.1, -0.2], [0.9, -0.9, 0.0]], requires_grad=True)
    output = Output(z, z, z, logits, None)
    terms = LMCL(scale=8, margin=0.5)(output, batch([[1, 0, 0], [0, 0, 0]], torch.float32))
    assert terms["lmcl"].item() == pytest.approx(math.log(2 + math.exp(-2.4)) / 2)
    terms["lmcl"].backward()
    assert torch.equal(logits.grad[1], torch.zeros(3)) and logits.grad[0].norm() > 0


def test_even_target():
    rows = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])
    expected = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])
    assert torch.equal(even_target(rows), expected)


def test_cosine_is_that_of_pytorch():
    z, centers, _ = draw()
    expected = nn.functional.cosine_similarity(z[:, None], centers[None], dim=-1)
    torch.testing.assert_close(Cosine()(z, centers), expected)


def test_views_share_the_labels_of_their_image():
    images = torch.arange(2 * 3 * 3.0).reshape(2, 3, 3, 1, 1)
    views = Batch(images, torch.eye(2), torch.arange(2))
    assert torch.equal(views.flat()[:, 0, 0, 0], torch.tensor([0.0, 9, 3, 12, 6, 15]))
    assert torch.equal(views.targets, torch.eye(2).repeat(3, 1))


# every recipe as it is built


def composed(name, *overrides):
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = [f"method={name}", "dataset=digits", "trainer.device=cpu", "model.nbit=16"]
        return config.fold(compose("train", overrides=[*given, *overrides]))


@pytest.fixture(scope="module")
def first_batch():
    data = build.data(composed(next(iter(ROWS))))
    data.setup("cpu")
    return next(data.train(0))


@pytest.mark.parametrize("name", ROWS)
def test_it_builds_and_gradients_reach_the_encoder(name, first_batch):
    method = build.method(composed(name), num_classes=10)
    terms = method(first_batch)
    assert terms and all(term.shape == () and term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    encoder = dict(method.encoder.named_parameters())
    assert [n for n, p in encoder.items() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", ROWS)
def test_ten_steps_lower_the_loss(name, first_batch):
    cfg = composed(name)
    method = build.method(cfg, num_classes=10)
    optimizer, losses = build.optimizer(cfg, method), []
    for _ in range(11):
        loss = sum(method(first_batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("name", ROWS)
def test_state_dict_holds_all_that_the_terms_depend_on(name, first_batch):
    one = build.method(composed(name, "seed=0"), num_classes=10)
    one(first_batch)  # moves the running statistics
    two = build.method(composed(name, "seed=1"), num_classes=10)
    with torch.no_grad():
        expected, other = one.eval()(first_batch), two.eval()(first_batch)
        assert any(not torch.equal(expected[key], other[key]) for key in expected)
        two.load_state_dict(one.state_dict())
        found = two(first_batch)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("name", ROWS)
def test_weights_are_drawn_from_the_seed_alone(name):
    one = build.method(composed(name), num_classes=10).state_dict()
    torch.rand(5)
    two = build.method(composed(name), num_classes=10).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", ROWS)
def test_the_backbone_learns_at_a_tenth_of_the_rate(name):
    cfg = composed(name, "optimizer.lr=0.01", "optimizer.backbone_scale=0.1")
    method = build.method(cfg, num_classes=10)
    rate = {
        id(p): group["lr"]
        for group in build.optimizer(cfg, method).param_groups
        for p in group["params"]
    }
    backbone = {id(p) for p in method.encoder.backbone.parameters()}
    assert set(rate) == {id(p) for p in method.parameters()}
    expected = {key: 0.001 if key in backbone else 0.01 for key in rate}
    assert 0 < len(backbone) < len(rate) and rate == pytest.approx(expected)


def test_frozen_weights_are_in_no_group(first_batch):
    method = build.method(composed("relahash"), num_classes=10)
    method.encoder.backbone.requires_grad_(False)
    (group,) = method.param_groups(1.0, 0.1)
    assert group["name"] == "rest" and group["lr"] == 1.0


def test_a_learned_codebook_learns_with_the_rest(first_batch):
    method = build.method(composed("relahash", "codebook=learned"), num_classes=10)
    sum(method(first_batch).values()).backward()
    assert method.codebook.rows.grad.norm() > 0
    (rest,) = [g for g in method.param_groups(1.0, 0.1) if g["name"] == "rest"]
    assert any(p is method.codebook.rows for p in rest["params"])


def test_hooks_reach_every_part():
    class Listener(nn.Module):
        def __init__(self):
            super().__init__()
            self.heard = []

        def prepare(self, data):
            self.heard.append(data)

        def on_epoch(self, epoch):
            self.heard.append(epoch)

    method = build.method(composed("relahash"), num_classes=10)
    method.loss, method.relaxation = Listener(), nn.Sequential(Listener())
    method.prepare("data")
    method.on_epoch(3)
    assert method.loss.heard == method.relaxation[0].heard == ["data", 3]
