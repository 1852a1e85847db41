"""The training step as a graph: all but CUDA itself, by a tape that does what a CUDA graph does."""

import contextlib
import functools
import logging
import re
import sys
import weakref
from dataclasses import fields
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deephash.config import build, resolve
from deephash.training import checkpoint, compile_options, cuda_graphs
from deephash.training.cuda_graphs import GraphedStep, obstacle_of
from deephash.training.evaluation import Measured, encode_images
from deephash.training.precision import autocast
from deephash.training.schedules import Every
from deephash.training.step import Scalars, TrainingStep, total
from deephash.training.trainer import LoopOptions, Trainer
from deephash.types import Batch, generator
from deephash.utils.run_paths import RunPaths
from tests.methods.worked import LEARNING
from tests.pages import composable, typed
from tests.training.test_compile_options import tensors

CPU, CLASSES, NBIT, TRAINED = torch.device("cpu"), 4, 8, 44
SIZES = (8, 8, 8, 8, 8, 4)  # the last batch of an epoch is short
RECIPES = [
    *(pytest.param([f"method={name}"], id=name) for name in LEARNING),
    pytest.param(["method=hashnet", "method.loss.pairs=memory", "method.relaxation.unit=iteration",
                  "method.relaxation.every=2"], id="hashnet-memory-iteration"),
    pytest.param(["method=hashnet", "method.loss.pairs=halves", "method.loss.graded=jaccard",
                  "method.relaxation.every=1"], id="hashnet-halves"),
    pytest.param(["method=dpn", "method.loss.update_every=1"], id="dpn-a"),
    pytest.param(["method=csq", "method.loss.pairwise=1.0", "head=mlp", "head.dropout=0.5"],
                 id="csq-three-terms-dropout"),
    pytest.param(["method=orthohash", "codebook=learned"], id="learned-centers"),
]  # fmt: skip


class Invalid(RuntimeError):
    """The error of CUDA for an operation that a capture does not permit."""


class Operations(TorchDispatchMode):
    """All operations of a function, with the tensors that went in and came out."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise Invalid("operation not permitted when stream is capturing\nand so on")
        out = operation(*args, **(kwargs or {}))
        self.rows.append((operation, args, kwargs or {}, out))
        return out


def storages(tree):
    return {
        tensor.untyped_storage()._cdata for tensor in tree_leaves(tree) if torch.is_tensor(tensor)
    }


class Tape:
    """A capture for the CPU, as strict as CUDA's.

    Numbers of Python are constants, tensors stay where they were when it was recorded, and nothing
    of what is recorded has been done. For that a record is made of real work, which is undone.
    """

    def __init__(self, *keepers):
        self.keepers = keepers  # their tensors are brought back
        self.warmed, self.recorded, self.replayed = 0, 0, 0

    def warm_up(self, function):
        self.warmed += 1
        return function(), ""

    def tensors(self):
        for keeper in self.keepers:
            yield from tree_leaves(keeper.state_dict())

    def record(self, function):
        self.recorded += 1
        old = [tensor.clone() if torch.is_tensor(tensor) else tensor for tensor in self.tensors()]
        drawn = torch.get_rng_state()
        try:
            with Operations() as tape:
                result = function()
        finally:
            torch.set_rng_state(drawn)
            for now, then in zip(self.tensors(), old, strict=True):
                if torch.is_tensor(then):
                    now.copy_(then)
                else:
                    assert now == then  # a number of Python: no graph would change it
        rows = [row for row in tape.rows if self.works(*row)]

        def replay():
            self.replayed += 1
            with torch.no_grad():
                for operation, args, kwargs, out in rows:
                    new = operation(*args, **kwargs)
                    if not operation._schema.is_mutable:
                        pairs = zip(tree_leaves(out), tree_leaves(new), strict=True)
                        for there, value in pairs:
                            if torch.is_tensor(there):
                                there.copy_(value)
            return result

        return replay

    @staticmethod
    def works(operation, args, kwargs, out):
        """Whether an operation is more than a view."""
        return operation._schema.is_mutable or not storages(out) & storages([args, kwargs])


class Data:
    """Batches of noise that depend on the epoch alone."""

    split = SimpleNamespace(database=np.arange(10), queries=np.arange(3), validation=np.arange(0))

    def __init__(self, sizes=SIZES, dies=None, views=1):
        self.sizes, self.dies, self.views = sizes, dies, views

    def train(self, epoch):
        if epoch == self.dies:
            raise Killed
        return self.batches(self.sizes, generator(0, "train", epoch))

    def eval_batches(self, ids):
        return self.batches((5, 5), generator(0, "evaluation"))

    def batches(self, sizes, draw):
        begin = 0
        for size in sizes:
            images = torch.randn(size, self.views, 3, 8, 8, generator=draw)
            labels = (torch.rand(size, CLASSES, generator=draw) < 0.4).float()
            labels[:, 0].clamp_(min=1 - labels.amax(dim=1))
            yield Batch(images, labels, torch.arange(begin, begin + size) % TRAINED)
            begin += size


class Killed(Exception):
    pass


class Log:
    def __init__(self):
        self.rows = []

    def scalars(self, where, values, step, epoch):
        timed = ("images_per_second", "data_share")
        self.rows.append((where, step, {k: v for k, v in values.items() if k not in timed}))

    def tick(self):
        pass


@functools.cache
def pages(*words):
    with composable():
        given = ["dataset=digits", "trainer.device=cpu", f"model.nbit={NBIT}", "backbone.width=4"]
        return resolve.resolve(compose("train", overrides=[*given, *words]))


def views(words):
    """The number of views that a recipe takes."""
    number = pages(*words)["method"].get("views", 1)
    return number if isinstance(number, int) else len(number)


def made(words, device="cpu"):
    cfg = pages(*words)
    method = build.method(typed(cfg), CLASSES, TRAINED).to(device)
    optimizer = build.optimizer(typed(cfg), method)
    compile_options.fuse(optimizer, CPU)
    for group in optimizer.param_groups:
        if "fused" in group:
            group["fused"] = True  # the other forms of Adam refuse to be capturable on a CPU
    return method, optimizer


def evaluate(encoder, data):
    codes = encode_images(encoder, data, partial(autocast, CPU, "fp32"))
    return Measured(codes.z.double().sum().sin().item(), None, codes)


def run(folder, words, captured, dies=None, sizes=SIZES, tape=Tape, **options):
    folder.mkdir(exist_ok=True)
    method, optimizer = made(words)
    capture = tape(method, optimizer) if captured else None
    options = {"epochs": 2, "eval_every": 1, "log_every": 2, **options}
    torch.manual_seed(0)
    options = LoopOptions(**options)
    loop = Trainer(RunPaths(folder), optimizer, Every(1, 0.5), CPU, "abc", options, capture)
    if captured and (scaler := loop.scaler) is not None:
        capture.keepers += tuple(
            SimpleNamespace(state_dict=partial(getattr, scaler, name))
            for name in ("_scale", "_growth_tracker")
        )
    data, logger = Data(sizes, dies, views(words)), Log()
    loop.start(method, data)
    loop.fit(method, data, evaluate, logger)
    return capture, logger


def result(folder):
    """All of a finished run that may not depend on its form."""
    values, last = tensors(folder), checkpoint.load_state(folder / "last.pt")
    values["rng"] = last["rng"]["cpu"]
    values["steps"] = torch.tensor(last["progress"]["step"])
    return values


def differing(a, b):
    a, b = result(a), result(b)
    assert a.keys() == b.keys()
    return [key for key in a if not torch.equal(a[key], b[key])]


@pytest.mark.parametrize("words", RECIPES)
def test_replayed_it_is_the_same_run(tmp_path, words):
    """To the last bit: parameters, optimizer, memory, random state, mAP and the record."""
    coupled = getattr(getattr(made(words)[0], "similarity", None), "batch_coupled", False)
    sizes = SIZES[:-1] if coupled else SIZES
    _, plain = run(tmp_path / "plain", words, captured=False, sizes=sizes)
    capture, replayed = run(tmp_path / "replayed", words, captured=True, sizes=sizes)
    assert differing(tmp_path / "plain", tmp_path / "replayed") == []
    assert plain.rows == replayed.rows
    assert (capture.warmed, capture.recorded, capture.replayed) == (3 + 1, 2, 2 + 4)


@pytest.mark.parametrize(
    "options", [{"precision": "bf16"}, {"clip_norm": 0.1}, {"precision": "fp16"}], ids=str
)
def test_replayed_it_is_the_same_run_in_other_forms(tmp_path, options):
    words = ["method=orthohash"]
    _, plain = run(tmp_path / "plain", words, captured=False, **options)
    capture, replayed = run(tmp_path / "replayed", words, captured=True, **options)
    assert differing(tmp_path / "plain", tmp_path / "replayed") == []
    assert plain.rows == replayed.rows and capture.replayed == 6


def test_the_tape_keeps_numbers_of_python():
    """As a CUDA graph does: without a new record in each epoch, a rate would stay."""
    weight = torch.zeros(2)
    holder = SimpleNamespace(state_dict=lambda: {"weight": weight})
    rate = 1.0
    replay = Tape(holder).record(lambda: weight.add_(rate))
    assert weight.tolist() == [0, 0]
    rate = 100.0
    replay()
    assert weight.tolist() == [1, 1]


@pytest.mark.parametrize("captured_first", [True, False])
def test_checkpoints_of_one_form_go_on_in_the_other(tmp_path, captured_first):
    words = ["method=jmlh"]  # draws in each step
    run(tmp_path / "straight", words, captured=False, epochs=3)
    with pytest.raises(Killed):
        run(tmp_path / "mixed", words, captured=captured_first, dies=2, epochs=3)
    saved = checkpoint.load_state(tmp_path / "mixed" / "last.pt")["optimizer"]["param_groups"]
    assert {group["capturable"] for group in saved} == {captured_first}
    run(tmp_path / "mixed", words, captured=not captured_first, epochs=3)
    assert differing(tmp_path / "straight", tmp_path / "mixed") == []


def test_a_killed_run_resumes_to_the_bit(tmp_path):
    words = ["method=dpn", "method.loss.update_every=1"]
    run(tmp_path / "straight", words, captured=True, epochs=3)
    with pytest.raises(Killed):
        run(tmp_path / "resumed", words, captured=True, dies=1, epochs=3)
    run(tmp_path / "resumed", words, captured=True, epochs=3)
    assert differing(tmp_path / "straight", tmp_path / "resumed") == []


class Momentum(nn.Module):
    """Pulls codes to those of a moving average of a weight, which follows after each step."""

    def __init__(self, follows):
        super().__init__()
        self.follows = [follows]  # in a list: no parameter of this part
        self.register_buffer("average", follows.detach().clone())

    def forward(self, z):
        return z + self.average.mean()

    def after_step(self, step):
        self.average.lerp_(self.follows[0], 0.5 / step)


def test_what_follows_the_weights_works_with_a_replayed_step(tmp_path, monkeypatch):
    def with_momentum(words):
        method, optimizer = plainly(words)
        method.relaxation = Momentum(method.encoder.head.linear.weight)
        return method, optimizer

    plainly = made
    monkeypatch.setitem(globals(), "made", with_momentum)
    words = ["method=orthohash"]
    _, plain = run(tmp_path / "plain", words, captured=False)
    capture, replayed = run(tmp_path / "replayed", words, captured=True)
    assert differing(tmp_path / "plain", tmp_path / "replayed") == []
    assert plain.rows == replayed.rows and capture.replayed == 6
    saved = checkpoint.load_state(tmp_path / "plain" / "last.pt")["method"]
    assert not torch.equal(saved["relaxation.average"], saved["encoder.head.linear.weight"])


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


class Refusing(Tape):
    def record(self, function):
        self.recorded += 1
        raise RuntimeError("CUDA error: capture is not permitted. And a hint.\nmore")


class Looking(Tape):
    def warm_up(self, function):
        result, _ = super().warm_up(function)
        return result, "the step waits for the device (loss.py, line 3)"


class Waiting(nn.Module):
    """A relaxation that looks at a number in Python."""

    def forward(self, z):
        return z * (1.0 if z.sum().item() > 0 else 0.5)


@pytest.mark.parametrize(
    ("tape", "counts", "reason"),
    [
        (Refusing, (3, 1, 0), "because CUDA error: capture is not permitted. And a hint.;"),
        (Looking, (3, 0, 0), r"because the step waits for the device \(loss.py, line 3\);"),
    ],
)
def test_what_cannot_be_recorded_is_trained_without(tmp_path, caplog, tape, counts, reason):
    words = ["method=jmlh"]
    run(tmp_path / "plain", words, captured=False)
    with caplog.at_level(logging.WARNING):
        capture, _ = run(tmp_path / "tried", words, captured=True, tape=tape)
    assert (capture.warmed, capture.recorded, capture.replayed) == counts
    assert differing(tmp_path / "plain", tmp_path / "tried") == []
    (line,) = lines(caplog)
    assert re.search(reason, line) and "trainer.graph=false" in line


def test_a_step_that_fails_half_way_in_its_record_leaves_nothing(caplog):
    method, optimizer = made(["method=ce"])
    method.relaxation = Waiting()
    torch.manual_seed(0)
    step = TrainingStep(method, optimizer, CPU)
    graphed = GraphedStep(step, Tape(method, optimizer))
    batches = list(Data((8,) * 6).train(0))
    with caplog.at_level(logging.WARNING):
        results = [graphed(batch).values for batch in batches]
    assert len(lines(caplog)) == 1 and "not permitted" in lines(caplog)[0]
    assert all(parameter.grad is None for parameter in step.parameters)
    plain_method, its = made(["method=ce"])
    plain_method.relaxation = Waiting()
    plain = TrainingStep(plain_method, its, CPU)
    assert all(torch.equal(plain(b).values, v) for b, v in zip(batches, results, strict=True))


def test_a_failed_record_holds_no_memory_when_the_step_is_trained():
    class Memory:
        pass

    class Short(Tape):
        def record(self, function):
            memory = Memory()
            self.memory = weakref.ref(memory)
            raise torch.OutOfMemoryError("CUDA out of memory")

    class Step:
        def __call__(self, batch):
            assert capture.memory() is None
            return Scalars(("loss",), torch.zeros(1))

        def forget_gradients(self):
            pass

    capture = Short()
    capture.memory = lambda: None
    step = GraphedStep(Step(), capture)
    batch = Batch(*(torch.zeros(2, 1) for _ in fields(Batch)))
    for _ in range(cuda_graphs.WARM_UP + 1):
        step(batch)
    assert "out of memory" in step.obstacle and isinstance(capture.memory, weakref.ref)


def test_parts_and_optimizers_may_declare_that_they_are_not_capturable(tmp_path, caplog):
    class Counting(nn.Module):
        uncapturable = "Counting draws its negatives in Python"

    assert obstacle_of(nn.Sequential(nn.Linear(1, 1), Counting())) == Counting.uncapturable
    assert obstacle_of(nn.Linear(1, 1)) == ""
    capture = Tape()
    graphed = GraphedStep(TrainingStep(*made(["method=ce"]), CPU), capture, Counting.uncapturable)
    assert [len(graphed(batch).names) for batch in Data((8, 8)).train(0)] == [3, 3]
    assert capture.warmed == 0 and "Python" in lines(caplog)[0]
    weight = torch.zeros(2, requires_grad=True)
    assert "Adagrad" in compile_options.make_capturable(torch.optim.Adagrad([weight]))
    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD):
        optimizer = kind([weight], lr=0.1)
        assert compile_options.make_capturable(optimizer) == ""
        assert all(group.get("capturable", True) for group in optimizer.param_groups)


def test_what_it_returns_stays_when_the_next_replay_writes():
    method, optimizer = made(["method=ce"])
    graphed = GraphedStep(TrainingStep(method, optimizer, CPU), Tape(method, optimizer))
    results = [graphed(batch).values for batch in Data((8,) * 7).train(0)]
    assert len({values[0].item() for values in results}) == 7


def test_the_first_epochs_may_be_shorter_than_the_warming_up(tmp_path):
    capture, _ = run(tmp_path, ["method=ce"], captured=True, sizes=(8, 8), epochs=3)
    assert (capture.warmed, capture.recorded, capture.replayed) == (2 + 1 + 1, 2, 2)
    assert cuda_graphs.WARM_UP == 3


def test_the_sum_of_terms_has_the_bits_of_torch_sum():
    draw = generator(0, "terms")
    for count in (1, 2, 3, 5):
        for _ in range(200):
            values = torch.randn(count, generator=draw) * 10 ** torch.randn(count, generator=draw)
            terms = {str(number): value for number, value in enumerate(values)}
            assert torch.equal(total(terms), torch.stack(list(terms.values())).sum())


@pytest.mark.parametrize("words", RECIPES)
def test_no_step_reads_a_number_from_the_device(words, monkeypatch):
    """The device ``meta`` has none: what would wait for a CUDA device fails there."""
    adam = sys.modules["torch.optim.adam"]  # it does not know this device
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_: None)
    monkeypatch.setattr("torch.autocast", lambda *_, **__: contextlib.nullcontext())
    method, optimizer = made(words, "meta")
    step = TrainingStep(method.train(), optimizer, torch.device("meta"))
    for batch in Data((8, 8), views=views(words)).train(0):
        there = Batch(batch.images.to("meta"), batch.labels.to("meta"), batch.index.to("meta"))
        assert step(there).values.shape == (len(step(there).names),)


def test_a_step_that_reads_a_number_fails_on_meta(monkeypatch):
    monkeypatch.setattr("torch.autocast", lambda *_, **__: contextlib.nullcontext())
    method, optimizer = made(["method=ce"], "meta")
    method.relaxation = Waiting()
    step = TrainingStep(method, optimizer, torch.device("meta"))
    batch = next(Data().train(0))
    with pytest.raises(RuntimeError, match="meta"):
        step(Batch(batch.images.to("meta"), batch.labels.to("meta"), batch.index.to("meta")))


def test_scalars_carry_no_graph():
    step = TrainingStep(*made(["method=ce"]), CPU)
    scalars = step(next(Data().train(0)))
    assert isinstance(scalars, Scalars) and not scalars.values.requires_grad
    assert scalars.names == ("loss", "cross_entropy", "grad_norm")


# On CUDA

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def on_cuda(words, graph, batches=14, drawn=0):
    """Scalars of some steps on CUDA, the parameters after them, and the step."""
    method, optimizer = made(words, "cuda")
    compile_options.fuse(optimizer, torch.device("cuda"))
    step = TrainingStep(method, optimizer, torch.device("cuda"))
    trained = step
    if graph:
        obstacle = compile_options.make_capturable(optimizer) or obstacle_of(method)
        trained = GraphedStep(step, cuda_graphs.CudaCapture(torch.device("cuda")), obstacle)
    torch.manual_seed(drawn)
    rows = []
    for epoch in range(2):
        method.on_epoch_start(epoch)
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
        for batch in Data((8,) * (batches // 2), views=views(words)).train(epoch):
            there = Batch(batch.images.cuda(), batch.labels.cuda(), batch.index.cuda())
            rows.append(trained(there).values)
        trained.release()
    return torch.stack(rows).cpu(), [p.detach().cpu() for p in step.parameters], trained


@pytest.mark.gpu
@CUDA
@pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning")
@pytest.mark.parametrize("words", RECIPES)
def test_on_cuda_a_replayed_step_is_the_ordinary_one(words, deterministic):
    plain, weights, _ = on_cuda(words, graph=False)
    replayed, others, step = on_cuda(words, graph=True)
    assert step.obstacle == ""
    torch.testing.assert_close(replayed, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(others, weights, rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
@CUDA
def test_on_cuda_random_numbers_go_on_as_without_a_graph():
    words = ["method=jmlh"]
    states = []
    for graph in (False, True):
        on_cuda(words, graph)
        states.append(torch.cuda.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.gpu
@CUDA
def test_on_cuda_a_step_that_waits_is_found_before_it_is_recorded(caplog):
    method, optimizer = made(["method=jmlh"], "cuda")
    method.relaxation = nn.Sequential(method.relaxation, Waiting())
    compile_options.make_capturable(optimizer)
    step = TrainingStep(method, optimizer, torch.device("cuda"))
    graphed = GraphedStep(step, cuda_graphs.CudaCapture(torch.device("cuda")))
    for batch in Data((8,) * 6).train(0):
        graphed(Batch(batch.images.cuda(), batch.labels.cuda(), batch.index.cuda()))
    assert "waits for the device" in graphed.obstacle and "test_graphs.py" in graphed.obstacle
    assert len(lines(caplog)) == 1


@pytest.mark.gpu
@CUDA
def test_on_cuda_a_capture_that_fails_leaves_a_device_that_trains():
    """The random generator, the current stream and the allocator are out of the capture."""
    capture = cuda_graphs.CudaCapture(torch.device("cuda"))
    probe = torch.rand(8, device="cuda")
    state, stream = torch.cuda.get_rng_state(), torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        capture.record(lambda: torch.rand(8, device="cuda").sum().item() + probe.sum().item())
    assert torch.cuda.current_stream() == stream
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.rand(8, device="cuda").isfinite().all()
    replay = capture.record(lambda: torch.rand(8, device="cuda"))
    assert not torch.equal(replay().clone(), replay().clone())


@pytest.mark.gpu
@CUDA
@pytest.mark.filterwarnings("ignore:.*deterministic:UserWarning")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("words", RECIPES)
def test_on_cuda_no_step_waits_for_the_device(words, graph, deterministic):
    method, optimizer = made(words, "cuda")
    compile_options.fuse(optimizer, torch.device("cuda"))
    trained = TrainingStep(method, optimizer, torch.device("cuda"))
    if graph:
        compile_options.make_capturable(optimizer)
        trained = GraphedStep(trained, cuda_graphs.CudaCapture(torch.device("cuda")))
    method.on_epoch_start(0)
    batches = [
        Batch(batch.images.cuda(), batch.labels.cuda(), batch.index.cuda())
        for batch in Data((8,) * 8, views=views(words)).train(0)
    ]
    for batch in batches[:4]:
        trained(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[4:]:
            trained(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert getattr(trained, "obstacle", "") == ""
