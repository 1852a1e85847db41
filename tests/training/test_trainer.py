import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deephash.errors import TrainingError
from deephash.training import checkpoint
from deephash.training import trainer as loop_module
from deephash.training.evaluation import Measured
from deephash.training.profiling import STEPS as STEPS_OF_PROFILE
from deephash.training.schedules import Constant, StepDecay, WarmupCosine
from deephash.training.trainer import LoopOptions, Trainer
from deephash.types import Batch, generator
from deephash.utils.run_paths import RunPaths

STEPS = 3

CPU = torch.device("cpu")


class Toy(nn.Module):
    """A small regression with dropout and batch norm, seen by the loop as a method."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Sequential(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)
        )
        self.poison = None  # (step, "term" or "gradient")
        self.steps, self.epochs, self.prepared = 0, [], 0
        self.followed, self.wants_features, self.features = [], False, None

    def forward(self, batch):
        self.steps += 1
        z = self.encoder(batch.images.flatten(1))
        fit, size = (z - batch.labels).square().mean(), 0.01 * z.square().mean()
        if self.poison == (self.steps, "term"):
            size = size * math.nan
        if self.poison == (self.steps, "gradient"):
            size = size + (z * 0).square().sum().sqrt()  # 0, of infinite slope
        return {"fit": fit, "size": size}

    def prepare(self, data):
        self.prepared += 1

    def fit(self, features):
        self.features = features

    def on_epoch_start(self, epoch):
        self.epochs.append(epoch)

    def after_step(self, step):
        self.followed.append(
            (step, self.encoder[0].weight.detach().clone(), torch.is_grad_enabled())
        )


class Batches:
    def train(self, epoch):
        draw = generator(0, "toy", epoch)
        for _ in range(STEPS):
            images = torch.randn(8, 1, 3, 1, 1, generator=draw)
            yield Batch(images, torch.randn(8, 2, generator=draw), torch.arange(8))


class Log:
    def __init__(self):
        self.rows, self.ticks = [], 0

    def scalars(self, where, values, step, epoch):
        self.rows.append((where, dict(values), step, epoch))

    def tick(self):
        self.ticks += 1

    def of(self, where, key):
        return [values[key] for here, values, _, _ in self.rows if here == where]


class Scores:
    """An evaluation that answers from a list."""

    def __init__(self, *query, val=None):
        self.query, self.val, self.asked = list(query), val, 0

    def __call__(self, encoder, data):
        at = self.asked
        self.asked += 1
        return Measured(self.query[at], None if self.val is None else self.val[at], codes=None)


def by_weights(encoder, data):
    """An evaluation that depends on the weights, and on nothing else."""
    return Measured(encoder[0].weight.double().sum().sin().item(), val=None, codes=None)


def trainer(folder, method, schedule=None, **options):
    options = {"epochs": 4, "eval_every": 1, "fingerprint": "abc", **options}
    optimizer = torch.optim.Adam(
        [
            {"params": method.encoder[0].parameters(), "lr": 0.001},
            {"params": method.encoder[1:].parameters(), "lr": 0.01},
        ]
    )
    schedule = schedule or StepDecay(at=0.5)
    fingerprint = options.pop("fingerprint")
    return Trainer(RunPaths(folder), optimizer, schedule, CPU, fingerprint, LoopOptions(**options))


def run(folder, evaluate=by_weights, method=None, data=None, **options):
    method, data, log = method or Toy(), data or Batches(), Log()
    loop = trainer(folder, method, **options)
    loop.start(method, data)
    loop.fit(method, data, evaluate, log)
    return method, loop, log


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def result(folder):
    """All of a finished run that may not depend on interruptions."""
    state = checkpoint.load_state(folder / "last.pt")
    clocks = ("seconds", "evaluation_seconds", "retrieval_seconds", "train_seconds", "data_seconds")
    state["progress"] = {k: v for k, v in state["progress"].items() if k not in clocks}
    return state, checkpoint.load_state(folder / "best.pt")


def folder_of(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


class Killed(Exception):
    pass


class Dying(Batches):
    """Data that end the process in the middle of an epoch."""

    def __init__(self, at):
        self.at = at

    def train(self, epoch):
        for number, batch in enumerate(super().train(epoch)):
            if (epoch, number) == self.at:
                raise Killed
            yield batch


def test_it_trains_logs_and_leaves_two_files(tmp_path):
    method, loop, log = run(tmp_path, log_every=2)
    assert method.epochs == [0, 1, 2, 3] and method.prepared == 1
    assert (loop.progress.step, loop.progress.images, log.ticks) == (12, 96, 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt"]
    steps = [step for where, _, step, _ in log.rows if where == "train"]
    assert steps == [2, 3, 4, 6, 8, 9, 10, 12]  # every second step, and where an epoch ends
    row = log.rows[0][1]
    assert row["loss"] == pytest.approx(row["fit"] + row["size"])
    assert row["grad_norm"] > 0 and row["images_per_second"] > 0


class Clock:
    """A clock that advances by one second with each call."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1
        return self.now


class Late(Batches):
    """Data that take ten seconds a batch."""

    def __init__(self, clock):
        self.clock = clock

    def train(self, epoch):
        for batch in super().train(epoch):
            self.clock.now += 10
            yield batch


def test_the_share_of_waiting_for_data(tmp_path, monkeypatch):
    """Each look at the clock takes a second, each batch ten more.

    A wait is 11 s long, that for the end of the data 1 s; a step with its line in the record 13 s.
    """
    clock = Clock()
    monkeypatch.setattr(loop_module, "time", clock)
    _, loop, log = run(tmp_path, epochs=2, log_every=1, data=Late(clock), evaluate=by_weights)
    assert log.of("train", "data_share")[:3] == [11 / 13, 11 / 13, 11 / 13]
    assert loop.progress.data_seconds == 2 * (3 * 11 + 1)
    assert 0.8 < loop.progress.data_seconds / loop.progress.train_seconds < 0.9


def test_the_first_rates_of_a_resumed_run_are_its_own(tmp_path, monkeypatch):
    """Images and waits of earlier sessions do not count into them."""
    straight, resumed = folder_of(tmp_path, "straight"), folder_of(tmp_path, "resumed")
    clock = Clock()
    monkeypatch.setattr(loop_module, "time", clock)
    _, _, log = run(straight, data=Late(clock))
    with pytest.raises(Killed):
        run(resumed, data=Dying(at=(2, 0)))
    _, _, late = run(resumed, data=Late(clock))
    for key in ("images_per_second", "data_share"):
        assert late.of("train", key) == pytest.approx(log.of("train", key)[2:], rel=0.1)


def test_rates_follow_the_schedule_group_by_group(tmp_path):
    _, loop, log = run(tmp_path)
    assert log.of("train", "lr") == [0.001, 0.001, pytest.approx(1e-4), pytest.approx(1e-4)]
    assert [g["lr"] for g in loop.optimizer.param_groups] == pytest.approx([1e-4, 1e-3])


def test_rates_by_step(tmp_path):
    """The fraction of an epoch counts updates, also those of several batches."""
    for accumulate, updates in ((1, 3), (2, 2)):
        folder = folder_of(tmp_path, str(accumulate))
        options = {"accumulate": accumulate, "updates": updates, "log_every": 1}
        schedule = WarmupCosine(warmup=0.5, start=0.0)
        _, _, log = run(folder, epochs=2, schedule=schedule, **options)
        expected = [0.001 * schedule.factor(at / updates, 2) for at in range(2 * updates)]
        assert log.of("train", "lr") == pytest.approx(expected)


def test_the_profile_of_some_steps(tmp_path):
    plain, profiled = folder_of(tmp_path, "plain"), folder_of(tmp_path, "profiled")
    run(plain, epochs=8)
    run(profiled, epochs=8, profile=True)
    assert same(result(plain), result(profiled))
    trace = json.loads((profiled / "profile" / "trace.json").read_text())
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name == "Optimizer.step#Adam.step" for name in names) == STEPS_OF_PROFILE
    assert "aten::addmm" in (profiled / "profile" / "table.txt").read_text()


@pytest.mark.parametrize(("epochs", "recorded"), [(1, 0), (2, 1), (5, 10)])
def test_the_profile_of_a_short_session(tmp_path, epochs, recorded):
    _, loop, _ = run(tmp_path, epochs=epochs, profile=True)
    assert loop.profile.recorded == recorded
    expected = (
        f"profile of {recorded} step" if recorded else "no step .* trained 3, and the first 5"
    )
    assert re.search(expected, loop.profile.summary)
    assert (tmp_path / "profile").exists() == bool(recorded)


def test_eval_every_and_the_last_epoch(tmp_path):
    scores = Scores(0.1, 0.2, 0.3)
    _, loop, log = run(tmp_path, scores, epochs=5, eval_every=2)
    assert [row["epoch"] for row in loop.progress.history] == [2, 4, 5]
    assert log.of("query", "map") == [0.1, 0.2, 0.3]
    assert scores.asked == 3


@pytest.mark.parametrize(("select_on", "epoch"), [("query", 2), ("val", 3), ("last", 4)])
def test_the_selected_encoder_is_kept(tmp_path, select_on, epoch):
    scores = Scores(0.1, 0.9, 0.2, 0.9, val=[0.1, 0.2, 0.8, 0.8])
    seen, method = [], Toy()

    def evaluate(encoder, data):
        seen.append({key: value.clone() for key, value in encoder.state_dict().items()})
        return scores(encoder, data)

    _, loop, _ = run(tmp_path, evaluate, method, select_on=select_on)
    best = checkpoint.load_state(tmp_path / "best.pt")
    assert (best["epoch"], best["fingerprint"]) == (epoch, "abc")
    assert loop.progress.selected == epoch
    assert same(dict(best["encoder"]), seen[epoch - 1])


def test_patience_stops_when_the_wait_reaches_it(tmp_path):
    """Best 0.5 after epoch 2, then three evaluations no better: the third one ends it."""
    scores = Scores(0.4, 0.5, 0.5, 0.3, 0.4, 0.9)
    _, loop, _ = run(tmp_path, scores, epochs=10, patience=3)
    assert scores.asked == 5 and loop.progress.epoch == 5
    assert loop.progress.stopped_early and loop.progress.selected == 2
    assert loop.progress.selection("query", 1, 10)["stopped_early"]


def test_a_better_one_just_in_time_starts_the_wait_again(tmp_path):
    scores = Scores(0.4, 0.4, 0.5, 0.5, 0.5, 0.9)
    _, loop, _ = run(tmp_path, scores, epochs=10, patience=2)
    assert scores.asked == 5 and loop.progress.selected == 3


def test_patience_one_stops_at_the_first_that_is_no_better(tmp_path):
    _, loop, _ = run(tmp_path, Scores(0.0, 0.0, 1.0), patience=1)
    assert loop.progress.epoch == 2


def test_without_patience_nothing_stops(tmp_path):
    _, loop, _ = run(tmp_path, Scores(0.9, 0.1, 0.1, 0.1))
    assert loop.progress.epoch == 4 and not loop.progress.stopped_early


def test_no_epochs_still_measure(tmp_path):
    _, loop, _ = run(tmp_path, Scores(0.3), epochs=0)
    assert loop.progress.history == [{"epoch": 0, "query": 0.3, "val": None}]
    assert (tmp_path / "best.pt").is_file()


def test_a_term_that_is_not_finite_is_named_with_its_step(tmp_path):
    method = Toy()
    method.poison = (5, "term")
    with pytest.raises(TrainingError, match=r"^size is not finite at step 5"):
        run(tmp_path, method=method)
    assert (
        checkpoint.load_state(tmp_path / "last.pt")["progress"]["epoch"] == 1
    )  # the last good one


@pytest.mark.filterwarnings("error")
def test_a_gradient_that_is_not_finite_is_named_with_its_step(tmp_path):
    method = Toy()
    method.poison = (4, "gradient")
    with pytest.raises(TrainingError, match=r"^grad_norm is not finite at step 4"):
        run(tmp_path, method=method, log_every=1)


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_out_of_memory_suggests_what_to_reduce(tmp_path, where):
    def hungry(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    method = Toy()
    if where == "training":
        method.on_epoch_start = lambda epoch: hungry() if epoch == 1 else None
    with pytest.raises(TrainingError, match=r"20\.00 GiB(.|\n)*trainer\.batch_size") as caught:
        run(tmp_path, hungry if where == "evaluation" else by_weights, method)
    assert "trainer.eval_batch_size" in str(caught.value)
    assert (tmp_path / "last.pt").is_file() == (where == "training")  # the epoch before


def test_the_gradient_is_clipped(tmp_path):
    class Seen(torch.optim.SGD):
        norms: list[float] = []  # noqa: RUF012

        def step(self, closure=None):
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            self.norms.append(nn.utils.get_total_norm(grads).item())
            super().step(closure)

    method, log = Toy(), Log()
    options = LoopOptions(1, 1, clip_norm=0.01, log_every=1)
    optimizer = Seen(method.parameters(), lr=0.1)
    loop = Trainer(RunPaths(tmp_path), optimizer, Constant(), CPU, "abc", options)
    loop.start(method, Batches())
    loop.fit(method, Batches(), by_weights, log)
    assert Seen.norms == pytest.approx([0.01] * STEPS, rel=1e-3)
    assert min(log.of("train", "grad_norm")) > 0.05  # the record tells the norm before


def test_the_average_of_the_encoder_is_evaluated_and_saved(tmp_path):
    """Computed by a plain loop; the method keeps its own weights."""
    seen, method = [], Toy()

    def evaluate(encoder, data):
        seen.append({key: value.clone() for key, value in encoder.state_dict().items()})
        return by_weights(encoder, data)

    run(tmp_path, evaluate, method, ema=0.3, select_on="last")
    weights = [weight for _, weight, _ in method.followed]
    mean = weights[0]
    for step, weight in enumerate(weights[1:], start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weight
    torch.testing.assert_close(seen[-1]["0.weight"], mean)
    assert torch.equal(method.encoder[0].weight, weights[-1])
    last, best = result(tmp_path)
    assert same(dict(best["encoder"]), seen[-1])
    averages = {key.removeprefix("module."): value for key, value in last["ema"].items()}
    assert averages.pop("n_averaged") == 4 * STEPS and same(averages, seen[-1])
    assert torch.equal(last["method"]["encoder.0.weight"], weights[-1])


@pytest.mark.parametrize("options", [{"precision": "fp16"}, {"ema": 0.9}], ids=str)
def test_a_checkpoint_without_the_state_of_an_option_is_refused(tmp_path, options):
    run(tmp_path, epochs=1)
    with pytest.raises(TrainingError, match=r"it lacks .* \(trainer\."):
        run(tmp_path, **options)
    (tmp_path / "last.pt").unlink()
    run(tmp_path, epochs=1, **options)
    with pytest.raises(TrainingError, match=r"it has .* \(trainer\."):
        run(tmp_path)


def test_the_toy_is_worth_resuming(tmp_path):
    """Dropout draws from the global stream and moves the result: else resuming proves little."""
    method = Toy()
    loop = trainer(folder_of(tmp_path, "a"), method)
    loop.start(method, Batches())
    torch.rand(1)
    loop.fit(method, Batches(), by_weights, Log())
    run(folder_of(tmp_path, "b"))
    assert not same(result(tmp_path / "a"), result(tmp_path / "b"))


FEATURES = [
    {},
    {"precision": "fp16"},
    {"accumulate": 2},
    {"ema": 0.9},
    {"precision": "fp16", "ema": 0.9, "accumulate": 3},
]
"""Options of the loop with state of their own in ``last.pt``."""


@pytest.mark.parametrize("options", FEATURES, ids=str)
def test_two_and_two_epochs_are_four_to_the_bit(tmp_path, options):
    straight, resumed = folder_of(tmp_path, "straight"), folder_of(tmp_path, "resumed")
    _, _, log = run(straight, **options)
    method = Toy()
    stopped = trainer(resumed, method, **options)
    stopped.start(method, Batches())
    with pytest.raises(Killed):
        stopped.fit(method, Dying(at=(2, 0)), by_weights, Log())
    other = Toy(seed=9)  # its own weights are overwritten
    torch.rand(100)
    _, loop, late = run(resumed, method=other, **options)
    assert other.epochs == [2, 3] and other.prepared == 0
    assert loop.progress.step == 4 * -(-STEPS // options.get("accumulate", 1))
    assert same(result(straight), result(resumed))
    kept = [(w, v["map"] if w == "query" else v["loss"], s, e) for w, v, s, e in log.rows if e > 2]
    again = [(w, v["map"] if w == "query" else v["loss"], s, e) for w, v, s, e in late.rows]
    assert kept == again


@pytest.mark.parametrize("at", [(0, 1), (1, 2), (3, 1)])
def test_killed_within_an_epoch_it_continues_from_the_last_complete_one(tmp_path, at):
    straight, resumed = folder_of(tmp_path, "straight"), folder_of(tmp_path, "resumed")
    run(straight)
    with pytest.raises(Killed):
        run(resumed, data=Dying(at))
    method, _, _ = run(resumed)
    assert method.epochs == list(range(at[0], 4))
    assert same(result(straight), result(resumed))


@pytest.mark.parametrize("name", ["last.pt", "best-epoch0003.pt"])
def test_killed_while_saving_it_still_ends_the_same(tmp_path, monkeypatch, name):
    """Whichever of the two files an epoch writes is the last thing that was not written."""
    straight, resumed = folder_of(tmp_path, "straight"), folder_of(tmp_path, "resumed")

    def rising():
        return Scores(0.1, 0.2, 0.3, 0.4)

    run(straight, rising())
    save, written = checkpoint.save, []

    def dying(path, state):
        written.append(path.name)
        if path.name == name and (name != "last.pt" or written.count(name) == 3):
            raise Killed
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", dying)
        with pytest.raises(Killed):
            run(resumed, rising())
    method, _, _ = run(resumed, Scores(0.3, 0.4))
    assert method.epochs == [2, 3]
    assert same(result(straight), result(resumed))


def test_a_finished_run_is_not_trained_again(tmp_path):
    run(tmp_path)
    before = result(tmp_path)
    method, _, log = run(tmp_path)
    assert method.epochs == [] and log.rows == []
    assert same(before, result(tmp_path))


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    """It may be killed between its last epoch and its report."""
    run(tmp_path, Scores(0.5, 0.4), epochs=6, patience=1)
    method, loop, _ = run(tmp_path, Scores(0.9, 0.9, 0.9, 0.9), epochs=6, patience=1)
    assert method.epochs == [] and loop.progress.selected == 1


def test_other_data_are_refused(tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(TrainingError, match=r"other data.*abc.*xyz(.|\n)*rerun=true"):
        run(tmp_path, fingerprint="xyz")


@pytest.mark.parametrize("content", [b"", b"foreign"])
def test_a_corrupt_checkpoint_is_reported(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"last\.pt cannot be read as a checkpoint"):
        run(tmp_path)


@pytest.mark.parametrize("state", [{"weights": torch.zeros(2)}, torch.zeros(2)])
def test_a_foreign_checkpoint_is_reported(tmp_path, state):
    """A file of tensors that torch can read, but no run wrote."""
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match=r"last\.pt"):
        run(tmp_path)


def test_a_checkpoint_of_another_network_is_reported(tmp_path):
    run(tmp_path, epochs=1)
    state = checkpoint.load_state(tmp_path / "last.pt")
    state["method"].pop("encoder.0.weight")
    checkpoint.save(tmp_path / "last.pt", state)
    with pytest.raises(TrainingError, match=r"last\.pt"):
        run(tmp_path)


def harm(path, damage):
    """Make a checkpoint as a killed process, a bad disk or another run might leave it."""
    if damage == "missing":
        path.unlink()
    elif damage == "damaged":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        checkpoint.save(path, checkpoint.load_state(path) | {"epoch": 99})


@pytest.mark.parametrize("damage", ["missing", "damaged", "of another epoch"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_best_encoder_that_is_lost_is_saved_again_if_it_is_the_last(
    tmp_path, caplog, monkeypatch, damage, finished
):
    run(tmp_path, Scores(0.1, 0.2, 0.3, 0.4))
    before = result(tmp_path)
    best = tmp_path / "best.pt"
    if not finished:
        best = best.rename(tmp_path / "best-epoch0004.pt")
    harm(best, damage)
    run(tmp_path, Scores())
    assert same(result(tmp_path), before)
    assert "saved again from last.pt" in caplog.text
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["best.pt", "last.pt"]


@pytest.mark.parametrize("damage", ["missing", "damaged", "of another epoch"])
def test_a_lost_best_encoder_is_reported_before_training_continues(tmp_path, damage):
    run(tmp_path, Scores(0.1, 0.4, 0.3, 0.2))
    harm(tmp_path / "best.pt", damage)
    with pytest.raises(TrainingError, match=r"(?s)best\.pt .*epoch 2.*rerun=true.*checkpoint=last"):
        run(tmp_path, Scores())


def test_encoders_that_a_kill_has_left_are_removed(tmp_path):
    run(tmp_path, Scores(0.1, 0.4, 0.3, 0.2))
    before = result(tmp_path)
    for name in ("best-epoch0001.pt", "best-epoch0003.pt"):
        checkpoint.save(tmp_path / name, {"encoder": {}, "epoch": 1, "fingerprint": "abc"})
    run(tmp_path, Scores())
    assert same(result(tmp_path), before)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["best.pt", "last.pt"]
    (tmp_path / "last.pt").unlink()  # begun anew: nothing of before stays
    (tmp_path / "best.pt").rename(tmp_path / "best-epoch0009.pt")
    run(tmp_path, Scores(0.1), epochs=1)
    assert checkpoint.load_state(tmp_path / "best.pt")["epoch"] == 1
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["best.pt", "last.pt"]


# hooks


def test_what_follows_the_weights_is_updated_after_each_step(tmp_path):
    method, _, _ = run(tmp_path, epochs=2)
    assert [step for step, _, _ in method.followed] == list(range(1, 2 * STEPS + 1))
    assert not any(grad for _, _, grad in method.followed)
    last = method.followed[-1][1]
    assert torch.equal(last, method.encoder[0].weight)
    assert not torch.equal(method.followed[-2][1], last)
    again = Toy()
    run(tmp_path, method=again, epochs=3)
    assert [step for step, _, _ in again.followed] == list(range(2 * STEPS + 1, 3 * STEPS + 1))


class Pictures(Batches):
    train_rows = np.array([4, 2, 7])

    def eval_batches(self, rows):
        for part in np.array_split(rows, 2):
            images = torch.tensor(part, dtype=torch.float32)[:, None, None].expand(-1, 1, 3)
            yield Batch(images.contiguous(), None, torch.arange(len(part)))


class Backbone(nn.Sequential):
    def features(self, images):
        return 2 * images


def test_features_of_training_images_are_fitted_once(tmp_path):
    method = Toy()
    method.encoder, method.wants_features = Backbone(*method.encoder), True
    run(tmp_path, method=method, data=Pictures(), epochs=1)
    assert torch.equal(method.features, torch.tensor([[8.0], [4.0], [14.0]]).expand(-1, 3))
    assert method.encoder.training
    again = Toy()
    again.encoder, again.wants_features = Backbone(*again.encoder), True
    run(tmp_path, method=again, data=Pictures(), epochs=2)
    assert again.features is None


def test_features_that_are_not_finite_are_refused(tmp_path):
    method = Toy()
    method.encoder, method.wants_features = Backbone(*method.encoder), True
    method.encoder.features = lambda images: images / 0
    with pytest.raises(TrainingError, match="3 of 3 features of training images hold NaN"):
        run(tmp_path, method=method, data=Pictures(), epochs=1)


def fitted(folder, **options):
    method, log = Toy(), Log()
    options = LoopOptions(epochs=0, eval_every=1, **options)
    loop = Trainer(RunPaths(folder), None, None, CPU, "abc", options)
    done = loop.start(method, Batches())
    loop.fit(method, Batches(), by_weights, log)
    return done, log


def test_without_an_optimizer_there_is_an_evaluation_and_a_checkpoint(tmp_path):
    _, log = fitted(tmp_path)
    assert [where for where, _, _, _ in log.rows] == ["query"]
    last, best = result(tmp_path)
    assert last["optimizer"] == {"state": {}, "param_groups": []}
    assert same(best["encoder"], Toy().encoder.state_dict())
    done, log = fitted(tmp_path)  # killed before the report: nothing is evaluated again
    assert (done, log.rows) == (0, [])


def test_without_an_optimizer_there_are_no_epochs(tmp_path):
    with pytest.raises(ValueError, match="no optimizer"):
        Trainer(RunPaths(tmp_path), None, None, CPU, "abc", LoopOptions(epochs=1, eval_every=1))


def test_a_checkpoint_of_an_optimizer_does_not_fit_a_method_without(tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(TrainingError, match="this method has none"):
        fitted(tmp_path)
