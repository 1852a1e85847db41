"""Every recipe as it is built: what must hold of all of them."""

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

SCORED = [name for name in METHODS if "similarity" in page("method", name)["parts"]]
"""Recipes that score each class, and so can be trained by the shared loss."""

UNSCORED = [
    name for name in LEARNING if name not in SCORED and "loss" in page("method", name)["parts"]
]
OWN = [[f"method={name}"] for name in LEARNING]
SHARED = [[f"method={name}", "loss=lmcl"] for name in SCORED]


@pytest.fixture
def built(composed):
    """``(overrides) -> method``, after its configuration has passed the checks."""

    def make(*words):
        cfg = composed(*words)
        assert checks.check_train(cfg, parse_all(words)) == []
        return build.method(typed(cfg), num_classes=10, num_train=500)

    return make


def total(method, batch):
    terms = method(batch)
    assert terms and all(term.shape == () and term.isfinite() for term in terms.values())
    return sum(terms.values())


def untouched(method):
    """The encoder's weights that no gradient reached."""
    encoder = method.encoder.named_parameters()
    return [name for name, p in encoder if p.grad is None or not p.grad.abs().sum() > 0]


def test_every_recipe_has_a_test_file_of_its_own():
    """With its worked values; see ``worked.py``."""
    files = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    assert {f"test_{name}" for name in METHODS} <= files


@pytest.mark.parametrize("name", LEARNING)
def test_it_builds_and_gradients_reach_all_that_learns(name, composed, batch_for):
    """Also a backbone that the recipe freezes."""
    cfg = unfrozen(composed(f"method={name}"))
    assert checks.check_train(cfg) == []
    method = build.method(typed(cfg), num_classes=10, num_train=500)
    total(method, batch_for(cfg)).backward()
    assert untouched(method) == []
    assert all(p.grad is not None and p.grad.norm() > 0 for p in method.parameters())


@pytest.mark.parametrize("name", LEARNING)
def test_a_frozen_backbone_stays_as_it_is(name, composed, batch_for):
    cfg = composed(f"method={name}")
    cfg["backbone"]["frozen"] = True
    method = build.method(typed(cfg), 10, 500).train()
    before = {key: value.clone() for key, value in method.encoder.backbone.state_dict().items()}
    total(method, batch_for(cfg)).backward()
    assert all(p.grad is None for p in method.encoder.backbone.parameters())
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
    assert "backbone" not in method.param_groups()
    assert all(torch.equal(before[key], value)
               for key, value in method.encoder.backbone.state_dict().items())  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_labels_reach_only_recipes_that_read_them(name, composed, batch_for):
    cfg = composed(f"method={name}")
    assert (batch_for(cfg).given_labels is None) == (
        not requirements.declared(cfg["method"]).labels
    )


@pytest.mark.parametrize("words", OWN + SHARED, ids=" ".join)
def test_ten_steps_lower_the_loss(words, composed, batch_for):
    """The stochastic bits of JMLH are drawn with the same numbers each time."""
    more = ["method.double_softmax=false"] if words == ["method=nsh"] else []  # it damps the rest
    cfg = composed(*words, *more, "optimizer.lr=0.001")
    method, batch = build.method(typed(cfg), 10, 500), batch_for(cfg)
    optimizer, losses = build.optimizer(typed(cfg), method), []
    for _ in range(11):
        torch.manual_seed(0)
        result = total(method, batch)
        optimizer.zero_grad()
        result.backward()
        optimizer.step()
        losses.append(result.item())
    assert losses[-1] < 0.95 * losses[0]


STATES = [
    *([name] for name in LEARNING),
    ["hashnet", "method.loss.pairs=memory"],
    ["hashnet", "method.relaxation.unit=iteration", "method.relaxation.every=1"],
    ["dpn", "method.loss.update_every=1"],
]


@pytest.mark.parametrize("words", STATES, ids=" ".join)
def test_state_dict_holds_all_that_the_terms_depend_on(words, composed, batch_for):
    words = [f"method={words[0]}", *words[1:]]
    one, two = (build.method(typed(composed(*words, f"seed={seed}")), 10, 500) for seed in (0, 1))
    batch = batch_for(composed(*words))
    one.on_epoch_start(0)
    one(batch)  # moves the running statistics, memories and counters
    one.on_epoch_start(1)
    with torch.no_grad():
        expected, other = one.eval()(batch), two.eval()(batch)
        assert any(not torch.equal(expected[key], other[key]) for key in expected)
        two.load_state_dict(one.state_dict())
        result = two(batch)
    assert all(torch.equal(expected[key], result[key]) for key in expected)


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_drawn_from_the_seed_alone(name, built):
    one = built(f"method={name}").state_dict()
    torch.rand(5)
    two = built(f"method={name}").state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", LEARNING)
def test_the_backbone_learns_at_a_tenth_of_the_rate(name, composed):
    cfg = composed(f"method={name}", "optimizer.lr=0.01", "optimizer.backbone_scale=0.1")
    cfg = unfrozen(cfg)
    method = build.method(typed(cfg), 10, 500)
    rate = {
        id(p): group["lr"]
        for group in build.optimizer(typed(cfg), method).param_groups
        for p in group["params"]
    }
    backbone = {id(p) for p in method.encoder.backbone.parameters()}
    assert set(rate) == {id(p) for p in method.parameters()}
    expected = {key: 0.001 if key in backbone else 0.01 for key in rate}
    assert 0 < len(backbone) < len(rate) and rate == pytest.approx(expected)


# the shared loss


@pytest.mark.parametrize("words", SHARED, ids=" ".join)
def test_lmcl_takes_the_place_of_any_objective_over_scores(words, built, composed, batch_for):
    method = built(*words)
    assert (method.loss.scale, method.loss.margin) == (4, 0.2)  # the square root of 16
    total(method, batch_for(composed(*words))).backward()
    assert untouched(method) == []


@pytest.mark.parametrize("name", UNSCORED)
def test_lmcl_is_refused_by_name_where_there_are_no_scores(name, composed):
    words = [f"method={name}", "loss=lmcl"]
    (fault,) = checks.check_train(composed(*words), parse_all(words))
    assert fault.key == "loss" and "LMCL reads" in fault.message and name in fault.message
    offered = fault.hint.split()[1:3]
    assert checks.check_train(composed(*words, *offered), parse_all([*words, *offered])) == []


def test_hashnet_with_centers_takes_lmcl(built, first_batch):
    words = ["method=hashnet", "loss=lmcl", "codebook=hadamard", "similarity=cosine"]
    method = built(*words)
    total(method, first_batch).backward()
    assert untouched(method) == [] and type(method.relaxation).__name__ == "Continuation"


# options of the losses


def literals(kind):
    """The values that an annotation spells out."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if get_origin(kind) is Union or isinstance(kind, type(int | str)):
        return [value for one in get_args(kind) for value in literals(one)]
    return [True, False] if kind is bool else []


CHOICES = [
    pytest.param(name, key, value, id=f"{name}-{key}={value}")
    for name in LOSSES
    for key, parameter in inspect.signature(loss_class(name)).parameters.items()
    for value in literals(parameter.annotation)
]


def test_every_loss_is_some_recipes_own():
    assert set(LOSSES) == set(OWNERS) - {None}


@pytest.mark.parametrize(("name", "key", "value"), CHOICES)
def test_every_choice_builds_and_is_in_sight(name, key, value, composed, batch_for):
    cfg = composed(f"method={OWNERS[name]}", f"loss={name}")
    cfg["method"]["loss"][key] = value
    if "quantization" in key:
        cfg["method"]["loss"]["quantization"] = 0.5
    assert checks.check_train(cfg) == []
    total(build.method(typed(cfg), 10, 500), batch_for(cfg))
    if not isinstance(value, bool):
        line = next(line for line in (CONF / "loss" / f"{name}.yaml").read_text().splitlines()
                    if line.startswith(f"{key}:"))  # fmt: skip
        assert value in line


def test_the_heads_of_the_papers_build(built, first_batch):
    for words in (["method=csq", "head=mlp"], ["method=ce", "head=batch_norm"]):
        method = built(*words)
        total(method, first_batch).backward()
        assert untouched(method) == []


def test_the_centers_in_use_are_those_that_moved(built):
    """Before the first update the codebook's, then the loss'; pairs know none."""
    method = built("method=dpn", "method.loss.update_every=1")
    assert torch.equal(method.centers(), method.codebook())
    method.loss.centers.fill_(1.0)
    assert torch.equal(method.centers(), method.codebook())
    method.loss.adapted.fill_(True)
    assert torch.equal(method.centers(), torch.ones(10, 16))
    assert torch.equal((csq := built("method=csq")).centers(), csq.codebook())
    assert built("method=hashnet").centers() is None


# a run that was stopped


class Log:
    def scalars(self, *args): ...
    def tick(self): ...


class Three:
    """Three batches of fifteen images an epoch, the same images in another order each time."""

    def __init__(self, batch):
        self.batch = batch

    def train(self, epoch):
        order = torch.randperm(50, generator=torch.Generator().manual_seed(epoch))[:45]
        for rows in order.split(15):
            yield self.batch.map(lambda values, rows=rows: values[rows])


@pytest.mark.parametrize(
    "words",
    [
        *OWN,
        ["method=hashnet", "method.loss.pairs=memory"],
        ["method=hashnet", "method.relaxation.unit=iteration", "method.relaxation.every=2"],
        ["method=dpn", "method.loss.update_every=1"],
        ["method=dpn", "method.loss.update_every=2", "method.loss.update=ternary",
         "method.loss.margin=0.3"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_resumed_run_remembers_what_the_stopped_one_knew(words, composed, batch_for, tmp_path):
    """Three epochs at a stretch, and one and then two more: the same state to the last bit."""
    cfg = composed(*words, "optimizer.lr=0.01")

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
        data = Three(batch_for(cfg))
        trainer.start(method, data)
        trainer.fit(method, data, lambda *_: Measured(0.5, None, None), Log())
        return method.state_dict()

    whole = train(tmp_path / "whole", 3)
    train(tmp_path / "parts", 1)
    parts = train(tmp_path / "parts", 3)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    known = {key: value for key, value in whole.items() if "memory" in key or "count" in key}
    assert known.keys() == {key for key in known if known[key].any() or words in OWN}
    if "method=dpn" in words[:-1]:
        centers = build.method(typed(cfg), 10, 500).codebook.rows
        assert whole["loss.adapted"] and not torch.equal(whole["loss.centers"], centers)


# the assembly


def test_views_share_the_labels_of_their_image():
    images = torch.arange(2 * 3 * 3.0).reshape(2, 3, 3, 1, 1)
    views = Batch(images, torch.eye(2), torch.arange(2))
    assert torch.equal(views.flat()[:, 0, 0, 0], torch.tensor([0.0, 9, 3, 12, 6, 15]))
    assert torch.equal(views.targets, torch.eye(2).repeat(3, 1))


def test_a_learned_codebook_learns_with_the_rest(built, first_batch):
    method = built("method=relahash", "codebook=learned")
    total(method, first_batch).backward()
    assert method.codebook.rows.grad.norm() > 0
    (rows,) = method.param_groups()["codebook"]
    assert rows is method.codebook.rows
