"""Tests of all recipes: building, gradients, state, options and resuming."""

import inspect
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

import pytest
import torch

from deephash.config import build, checks, requirements
from deephash.config.overrides import parse_all
from deephash.training.evaluation import Measured
from deephash.training.schedules import Constant
from deephash.training.trainer import LoopOptions, Trainer
from deephash.types import Batch
from deephash.utils.run_paths import RunPaths
from tests.methods.worked import (
    CONF,
    LEARNING,
    LOSSES,
    METHODS,
    OWNERS,
    loss_class,
    page,
    unfrozen,
)
from tests.pages import typed

WITH_SIMILARITY = [name for name in METHODS if "similarity" in page("method", name)["parts"]]
"""Recipes with a similarity to class centers, which can be trained by the shared loss."""

WITHOUT_SIMILARITY = [
    name
    for name in LEARNING
    if name not in WITH_SIMILARITY and "loss" in page("method", name)["parts"]
]
OWN_LOSS = [[f"method={name}"] for name in LEARNING]
SHARED_LOSS = [[f"method={name}", "loss=lmcl"] for name in WITH_SIMILARITY]


@pytest.fixture
def build_method(composed):
    """``(overrides) -> method``; the configuration must pass the checks."""

    def build_checked(*overrides):
        cfg = composed(*overrides)
        assert checks.check_train(cfg, parse_all(overrides)) == []
        return build.method(typed(cfg), num_classes=10, num_train=500)

    return build_checked


def total_loss(method, batch):
    terms = method(batch)
    assert terms and all(term.shape == () and term.isfinite() for term in terms.values())
    return sum(terms.values())


def without_gradient(method):
    """The parameters of the encoder without a gradient."""
    encoder = method.encoder.named_parameters()
    return [name for name, p in encoder if p.grad is None or not p.grad.abs().sum() > 0]


def test_every_recipe_has_a_test_file():
    """It contains the worked values; see ``worked.py``."""
    files = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    assert {f"test_{name}" for name in METHODS} <= files


@pytest.mark.parametrize("name", LEARNING)
def test_gradients_reach_all_parameters(name, composed, batch_for):
    """Including those of a backbone that the recipe freezes."""
    cfg = unfrozen(composed(f"method={name}"))
    assert checks.check_train(cfg) == []
    method = build.method(typed(cfg), num_classes=10, num_train=500)
    total_loss(method, batch_for(cfg)).backward()
    assert without_gradient(method) == []
    assert all(p.grad is not None and p.grad.norm() > 0 for p in method.parameters())


@pytest.mark.parametrize("name", LEARNING)
def test_frozen_backbone_does_not_change(name, composed, batch_for):
    cfg = composed(f"method={name}")
    cfg["backbone"]["frozen"] = True
    method = build.method(typed(cfg), 10, 500).train()
    before = {key: value.clone() for key, value in method.encoder.backbone.state_dict().items()}
    total_loss(method, batch_for(cfg)).backward()
    assert all(p.grad is None for p in method.encoder.backbone.parameters())
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    assert "backbone" not in method.param_groups()
    assert all(torch.equal(before[key], value)
               for key, value in method.encoder.backbone.state_dict().items())  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_batches_have_labels_only_if_read(name, composed, batch_for):
    cfg = composed(f"method={name}")
    assert (batch_for(cfg).given_labels is None) == (
        not requirements.declared(cfg["method"]).labels
    )


@pytest.mark.parametrize("overrides", OWN_LOSS + SHARED_LOSS, ids=" ".join)
def test_ten_steps_decrease_the_loss(overrides, composed, batch_for):
    """Each step draws the same random bits of JMLH."""
    # with the second softmax, the loss of NSH changes little
    options = ["method.double_softmax=false"] if overrides == ["method=nsh"] else []
    cfg = composed(*overrides, *options, "optimizer.lr=0.001")
    method, batch = build.method(typed(cfg), 10, 500), batch_for(cfg)
    optimizer, losses = build.optimizer(typed(cfg), method), []
    for _ in range(11):
        torch.manual_seed(0)
        result = total_loss(method, batch)
        optimizer.zero_grad()
        result.backward()
        optimizer.step()
        losses.append(result.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("overrides", OWN_LOSS + SHARED_LOSS, ids=" ".join)
def test_losses_that_may_be_accumulated_are_means_of_small_batches(overrides, composed, batch_for):
    """``batch_coupled = False`` where the batch makes no difference."""
    cfg = composed(*overrides)
    cfg["trainer"]["accumulate"] = 2
    refused = any(fault.key == "trainer.accumulate" for fault in requirements.check_recipe(cfg))
    single = {"ce", "orthohash", "orthohash_arc", "csq", "dpn", "greedyhash", "jmlh"}
    if overrides[0].startswith("method=") and len(overrides) == 1:
        assert refused == (overrides[0].removeprefix("method=") not in single)
    if refused:
        return
    method, batch = build.method(typed(cfg), 10, 500).eval(), batch_for(cfg)
    half = len(batch.index) // 2
    parts = [batch.map(lambda tensor: tensor[:half]), batch.map(lambda tensor: tensor[half:])]
    torch.manual_seed(0)
    whole = total_loss(method, batch).item()
    torch.manual_seed(0)
    mean = sum(total_loss(method, part).item() for part in parts) / 2
    assert mean == pytest.approx(whole, rel=1e-5)


STATEFUL = [
    *([name] for name in LEARNING),
    ["hashnet", "method.loss.pairs=memory"],
    ["hashnet", "method.relaxation.unit=iteration", "method.relaxation.every=1"],
    ["dpn", "method.loss.update_every=1"],
]


@pytest.mark.parametrize("overrides", STATEFUL, ids=" ".join)
def test_state_dict_restores_the_terms(overrides, composed, batch_for):
    overrides = [f"method={overrides[0]}", *overrides[1:]]
    configurations = (typed(composed(*overrides, f"seed={seed}")) for seed in (0, 1))
    method, restored = (build.method(cfg, 10, 500) for cfg in configurations)
    batch = batch_for(composed(*overrides))
    method.on_epoch_start(0)
    method(batch)  # updates running statistics, memories and counters
    method.on_epoch_start(1)
    with torch.no_grad():
        expected, initial = method.eval()(batch), restored.eval()(batch)
        assert any(not torch.equal(expected[key], initial[key]) for key in expected)
        restored.load_state_dict(method.state_dict())
        result = restored(batch)
    assert all(torch.equal(expected[key], result[key]) for key in expected)


@pytest.mark.parametrize("name", METHODS)
def test_initial_weights_depend_on_the_seed_only(name, build_method):
    state = build_method(f"method={name}").state_dict()
    torch.rand(5)
    repeated = build_method(f"method={name}").state_dict()
    assert all(torch.equal(state[key], repeated[key]) for key in state)


@pytest.mark.parametrize("name", LEARNING)
def test_backbone_scale(name, composed):
    cfg = composed(f"method={name}", "optimizer.lr=0.01", "optimizer.backbone_scale=0.1")
    cfg = unfrozen(cfg)
    method = build.method(typed(cfg), 10, 500)
    rates = {
        id(p): group["lr"]
        for group in build.optimizer(typed(cfg), method).param_groups
        for p in group["params"]
    }
    backbone = {id(p) for p in method.encoder.backbone.parameters()}
    assert set(rates) == {id(p) for p in method.parameters()}
    expected = {key: 0.001 if key in backbone else 0.01 for key in rates}
    assert 0 < len(backbone) < len(rates) and rates == pytest.approx(expected)


# the shared loss


@pytest.mark.parametrize("overrides", SHARED_LOSS, ids=" ".join)
def test_lmcl_replaces_losses_with_similarity(overrides, build_method, composed, batch_for):
    method = build_method(*overrides)
    assert (method.loss.scale, method.loss.margin) == (4, 0.2)  # the square root of 16
    total_loss(method, batch_for(composed(*overrides))).backward()
    assert without_gradient(method) == []


@pytest.mark.parametrize("name", WITHOUT_SIMILARITY)
def test_lmcl_without_similarity_is_refused(name, composed):
    overrides = [f"method={name}", "loss=lmcl"]
    (fault,) = checks.check_train(composed(*overrides), parse_all(overrides))
    assert fault.key == "loss" and "LMCL reads" in fault.message and name in fault.message
    suggested = fault.hint.split()[1:3]
    overrides += suggested
    assert checks.check_train(composed(*overrides), parse_all(overrides)) == []


def test_hashnet_with_centers_and_lmcl(build_method, first_batch):
    overrides = ["method=hashnet", "loss=lmcl", "codebook=hadamard", "similarity=cosine"]
    method = build_method(*overrides)
    total_loss(method, first_batch).backward()
    assert without_gradient(method) == [] and type(method.relaxation).__name__ == "Continuation"


# options of the losses


def literals(annotation):
    """The values of the Literal types and bool in an annotation."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) is Union or isinstance(annotation, type(int | str)):
        return [value for member in get_args(annotation) for value in literals(member)]
    return [True, False] if annotation is bool else []


CHOICES = [
    pytest.param(name, key, value, id=f"{name}-{key}={value}")
    for name in LOSSES
    for key, parameter in inspect.signature(loss_class(name)).parameters.items()
    for value in literals(parameter.annotation)
]


def test_every_loss_has_a_recipe():
    assert set(LOSSES) == set(OWNERS) - {None}


@pytest.mark.parametrize(("name", "key", "value"), CHOICES)
def test_every_choice_builds_and_is_in_the_yaml(name, key, value, composed, batch_for):
    cfg = composed(f"method={OWNERS[name]}", f"loss={name}")
    cfg["method"]["loss"][key] = value
    if "quantization" in key:
        cfg["method"]["loss"]["quantization"] = 0.5
    assert checks.check_train(cfg) == []
    total_loss(build.method(typed(cfg), 10, 500), batch_for(cfg))
    if not isinstance(value, bool):
        line = next(line for line in (CONF / "loss" / f"{name}.yaml").read_text().splitlines()
                    if line.startswith(f"{key}:"))  # fmt: skip
        assert value in line


def test_heads_of_the_papers(build_method, first_batch):
    for overrides in (["method=csq", "head=mlp"], ["method=ce", "head=batch_norm"]):
        method = build_method(*overrides)
        total_loss(method, first_batch).backward()
        assert without_gradient(method) == []


def test_centers_of_a_method(build_method):
    """Those of the codebook, or of the loss after its first update; None for pairwise losses."""
    method = build_method("method=dpn", "method.loss.update_every=1")
    assert torch.equal(method.centers(), method.codebook())
    method.loss.centers.fill_(1.0)
    assert torch.equal(method.centers(), method.codebook())
    method.loss.adapted.fill_(True)
    assert torch.equal(method.centers(), torch.ones(10, 16))
    assert torch.equal((csq := build_method("method=csq")).centers(), csq.codebook())
    assert build_method("method=hashnet").centers() is None


# resumed runs


class SilentLogger:
    def scalars(self, *args): ...
    def tick(self): ...


class ThreeBatches:
    """Three batches of 15 images per epoch, in an order that depends on the epoch."""

    def __init__(self, batch):
        self.batch = batch

    def train(self, epoch):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(epoch))[:45]
        for rows in order.split(15):
            yield self.batch.map(lambda values, rows=rows: values[rows])


@pytest.mark.parametrize(
    "overrides",
    [
        *OWN_LOSS,
        ["method=hashnet", "method.loss.pairs=memory"],
        ["method=hashnet", "method.relaxation.unit=iteration", "method.relaxation.every=2"],
        ["method=dpn", "method.loss.update_every=1"],
        ["method=dpn", "method.loss.update_every=2", "method.loss.update=ternary",
         "method.loss.margin=0.3"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_resumed_run_is_bit_identical(overrides, composed, batch_for, tmp_path):
    """Three epochs, compared with one epoch and then two more."""
    cfg = composed(*overrides, "optimizer.lr=0.01")

    def train(folder, epochs):
        method = build.method(typed(cfg), 10, 500)
        optimizer = build.optimizer(typed(cfg), method)
        trainer = Trainer(
            RunPaths(folder),
            optimizer,
            Constant(),
            torch.device("cpu"),
            "data",
            LoopOptions(epochs, eval_every=9),
        )
        folder.mkdir(exist_ok=True)
        data = ThreeBatches(batch_for(cfg))
        trainer.start(method, data)
        trainer.fit(method, data, lambda *_: Measured(0.5, None, None), SilentLogger())
        return method.state_dict()

    expected = train(tmp_path / "whole", 3)
    train(tmp_path / "parts", 1)
    resumed = train(tmp_path / "parts", 3)
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    stored = {key: value for key, value in expected.items() if "memory" in key or "count" in key}
    assert stored.keys() == {key for key in stored if stored[key].any() or overrides in OWN_LOSS}
    if "method=dpn" in overrides[:-1]:
        centers = build.method(typed(cfg), 10, 500).codebook.rows
        assert expected["loss.adapted"] and not torch.equal(expected["loss.centers"], centers)


# parts


def test_views_have_the_labels_of_their_image():
    images = torch.arange(2 * 3 * 3.0).reshape(2, 3, 3, 1, 1)
    views = Batch(images, torch.eye(2), torch.arange(2))
    assert torch.equal(views.flat()[:, 0, 0, 0], torch.tensor([0.0, 9, 3, 12, 6, 15]))
    assert torch.equal(views.targets, torch.eye(2).repeat(3, 1))


def test_learned_codebook_has_gradients(build_method, first_batch):
    method = build_method("method=relahash", "codebook=learned")
    total_loss(method, first_batch).backward()
    assert method.codebook.rows.grad.norm() > 0
    (rows,) = method.param_groups()["codebook"]
    assert rows is method.codebook.rows
