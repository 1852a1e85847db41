"""The compiled and the fused step give the same run and interchangeable checkpoints."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deephash.errors import TrainingError
from deephash.losses.lmcl import LMCL
from deephash.methods.composed import Composed
from deephash.methods.relahash import Relative
from deephash.models.backbones import Tiny
from deephash.models.codebooks import Hadamard
from deephash.models.encoder import Encoder
from deephash.models.heads import BatchNorm
from deephash.models.relaxations import Identity
from deephash.training import checkpoint, compile_options
from deephash.training.evaluation import Measured, encode_images
from deephash.training.precision import autocast
from deephash.training.schedules import Constant
from deephash.training.trainer import LoopOptions, Trainer
from deephash.types import Batch, generator
from deephash.utils.run_paths import RunPaths

CLASSES, NBIT, CPU = 4, 8, torch.device("cpu")
ADAM = partial(torch.optim.Adam, lr=0.01)
FUSED = partial(ADAM, fused=True)
SIZES = (6, 6, 4)  # the last batch of an epoch is short
EVALUATED = (9, 5)


class Killed(Exception):
    pass


class Data:
    """Batches of noise that depend on the epoch alone."""

    split = SimpleNamespace(database=np.arange(14), queries=np.arange(3), validation=np.arange(0))

    def __init__(self, dies=None):
        self.dies = dies  # before this epoch

    def train(self, epoch):
        if epoch == self.dies:
            raise Killed
        return self.batches(SIZES, generator(0, "train", epoch))

    def eval_batches(self, ids):
        return self.batches(EVALUATED, generator(0, "evaluation"))

    def batches(self, sizes, draw):
        for size in sizes:
            images = torch.randn(size, 1, 3, 8, 8, generator=draw)
            labels = torch.eye(CLASSES)[torch.randint(CLASSES, (size,), generator=draw)]
            yield Batch(images, labels, torch.arange(size))


class Log:
    def scalars(self, where, values, step, epoch):
        pass

    def tick(self):
        pass


def relahash():
    torch.manual_seed(0)
    backbone = Tiny(width=4)
    return Composed(
        Encoder(backbone, BatchNorm(backbone.out_features, NBIT)),
        Identity(),
        Hadamard(CLASSES, NBIT, seed=0),
        Relative(),
        LMCL(CLASSES, NBIT, scale=8, margin=0.2),
    )


def evaluate(encoder, data):
    codes = encode_images(encoder, data, partial(autocast, CPU, "fp32"))
    return Measured(codes.z.double().sum().sin().item(), None, codes)


def run(folder, compiled=False, make=ADAM, dies=None):
    folder.mkdir(exist_ok=True)
    method, data = relahash(), Data(dies)
    if compiled:
        compile_options.compile_in_place(method, CPU)
    options = LoopOptions(epochs=3, eval_every=1)
    loop = Trainer(RunPaths(folder), make(method.parameters()), Constant(), CPU, "abc", options)
    loop.start(method, data)
    with compile_options.explain_compile_errors():
        loop.fit(method, data, evaluate, Log())
    return loop


def interrupted(folder, first, then):
    """A run that is killed after two epochs and goes on in another form."""
    with pytest.raises(Killed):
        run(folder, dies=2, **first)
    return run(folder, **then)


def tensors(folder):
    """All numbers of a finished run: of method, optimizer and the best encoder, and the mAPs."""
    last, best = (checkpoint.load_state(folder / file) for file in ("last.pt", "best.pt"))
    result = {f"method.{key}": value for key, value in last["method"].items()}
    result |= {f"best.{key}": value for key, value in best["encoder"].items()}
    for number, state in last["optimizer"]["state"].items():
        result |= {f"optimizer.{number}.{key}": torch.as_tensor(v) for key, v in state.items()}
    result["history"] = torch.tensor([row["query"] for row in last["progress"]["history"]])
    return result


def differing(a, b):
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    return [key for key in a if not torch.equal(a[key], b[key])]


@pytest.fixture
def backend(monkeypatch):
    """A compiler that captures the step and then runs what it captured as it is."""
    torch.compiler.reset()
    graphs, compile_ = [], torch.compile

    def counting(graph, inputs):
        graphs.append(len(inputs))
        return graph.forward

    def compile_so(model, *, dynamic, mode=None):
        assert mode is None  # of a CPU
        return compile_(model, backend=counting, dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", compile_so)
    yield graphs
    torch.compiler.reset()


def test_compiled_it_is_the_same_run_under_the_same_names(tmp_path, backend):
    run(tmp_path / "plain")
    run(tmp_path / "compiled", compiled=True)
    assert len(tensors(tmp_path / "plain")) > 40
    assert differing(tmp_path / "plain", tmp_path / "compiled") == []
    assert backend  # something was compiled


def test_a_shape_is_compiled_once_however_often_it_comes(tmp_path, backend):
    """Whole and short batches, in training and in evaluation; three epochs."""
    run(tmp_path / "run", compiled=True)
    assert len(backend) == 4


@pytest.mark.parametrize("compiled_first", [True, False])
def test_checkpoints_of_one_form_go_on_in_the_other(tmp_path, backend, compiled_first):
    run(tmp_path / "straight")
    interrupted(tmp_path / "mixed", {"compiled": compiled_first}, {"compiled": not compiled_first})
    assert differing(tmp_path / "straight", tmp_path / "mixed") == []


def test_a_compiler_that_fails_is_reported_with_what_to_type(tmp_path, monkeypatch):
    def failing(graph, inputs):
        raise ValueError("no such processor\nand so on")

    torch.compiler.reset()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_(model, backend=failing))
    with pytest.raises(TrainingError, match="no such processor") as caught:
        run(tmp_path / "run", compiled=True)
    message = str(caught.value)
    assert "trainer.compile=false" in message and "TORCHDYNAMO" not in message
    assert len(message.splitlines()) == 2


def test_a_python_that_cannot_compile_is_reported(monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("torch.compile is not supported on Python 4")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(TrainingError, match=r"Python 4\n.*trainer\.compile=false"):
        compile_options.compile_in_place(relahash(), CPU)


@pytest.mark.parametrize("error", [ValueError("shapes"), RuntimeError("CUDA error"), Killed()])
def test_errors_of_others_pass(error):
    with pytest.raises(type(error)) as caught, compile_options.explain_compile_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize(
    ("options", "device", "fused"),
    [
        ({}, "cuda:1", True),
        ({}, "cpu", True),
        ({}, "meta", None),
        ({"fused": False}, "cpu", False),
        ({"foreach": True}, "cpu", None),
        ({"fused": False}, "cuda", False),
        ({"foreach": True}, "cuda", None),
        ({"differentiable": True}, "cuda", None),
    ],
)
def test_an_optimizer_is_fused_by_default(make, options, device, fused):
    optimizer = make([torch.zeros(2, requires_grad=True)], lr=0.1, **options)
    compile_options.fuse(optimizer, torch.device(device))
    assert [group["fused"] for group in optimizer.param_groups] == [fused]


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_parameter_may_have_its_first_gradient_late(make, momentum):
    early, late = (torch.ones(2, requires_grad=True) for _ in range(2))
    options = {"momentum": momentum} if make is torch.optim.SGD else {}
    optimizer = make([early, late], lr=0.1, **options)
    compile_options.fuse(optimizer, torch.device("cpu"))
    for step in range(3):
        early.grad = torch.ones(2)
        late.grad = torch.ones(2) if step else None
        optimizer.step()
    assert (early < late).all() and (late < 1).all()


def test_an_optimizer_that_cannot_be_fused_is_left_alone():
    optimizer = torch.optim.RMSprop([torch.zeros(2, requires_grad=True)])
    before = repr(optimizer)
    compile_options.fuse(optimizer, torch.device("cuda"))
    assert repr(optimizer) == before


@pytest.mark.parametrize("fused_first", [True, False])
def test_fused_or_not_is_the_optimizers_and_not_the_checkpoints(tmp_path, fused_first):
    """The form is that of the optimizer; the state is that of the file."""
    first, then = (FUSED, ADAM) if fused_first else (ADAM, FUSED)
    with pytest.raises(Killed):
        run(tmp_path, make=first, dies=2)
    saved = checkpoint.load_state(tmp_path / "last.pt")
    method = relahash()
    options = LoopOptions(epochs=3, eval_every=1)
    loop = Trainer(RunPaths(tmp_path), then(method.parameters()), Constant(), CPU, "abc", options)
    assert loop.start(method, Data()) == 2
    assert [group["fused"] for group in loop.optimizer.param_groups] == [not fused_first or None]
    resumed = loop.optimizer.state_dict()["state"]
    assert resumed.keys() == saved["optimizer"]["state"].keys()
    for number, state in saved["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(resumed[number][key]), torch.as_tensor(value)), key
    for key, value in saved["method"].items():
        assert torch.equal(method.state_dict()[key], value), key
    assert loop.fit(method, Data(), evaluate, Log()).epoch == 3


def test_both_forms_of_adam_take_the_same_step():
    """In float64 and with gradients far from zero, so that no number of threads matters."""
    parameters = []
    for make in (ADAM, FUSED):
        draw = generator(0, "adam")
        weight = torch.randn(50, 7, generator=draw, dtype=torch.float64).requires_grad_()
        optimizer = make([weight])
        for _ in range(3):
            weight.grad = torch.rand(50, 7, generator=draw, dtype=torch.float64) + 0.5
            optimizer.step()
        parameters.append(weight.detach())
    torch.testing.assert_close(*parameters, rtol=1e-12, atol=1e-12)


def test_fused_it_resumes_to_the_bit(tmp_path):
    run(tmp_path / "straight", make=FUSED)
    interrupted(tmp_path / "resumed", {"make": FUSED}, {"make": FUSED})
    assert differing(tmp_path / "straight", tmp_path / "resumed") == []


def test_fused_the_same_seed_gives_the_same_bits(tmp_path):
    run(tmp_path / "one", make=FUSED)
    run(tmp_path / "other", make=FUSED)
    assert differing(tmp_path / "one", tmp_path / "other") == []
    run(tmp_path / "plain", make=ADAM)
    assert differing(tmp_path / "one", tmp_path / "plain") != []  # by rounding


def test_the_state_of_another_optimizer_is_reported(tmp_path):
    run(tmp_path / "run")
    path = tmp_path / "run" / "last.pt"
    state = checkpoint.load_state(path)
    state["optimizer"]["param_groups"].append(state["optimizer"]["param_groups"][0])
    checkpoint.save(path, state)
    with pytest.raises(TrainingError, match=r"last\.pt does not fit"):
        run(tmp_path / "run")
