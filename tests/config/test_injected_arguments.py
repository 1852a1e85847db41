"""The one list of what the program gives to parts."""

from types import SimpleNamespace

import pytest
from hydra import compose

from deephash.config import build, injected_arguments, resolve, trial_builds
from deephash.runs.folder import RunFolder
from tests.pages import composable, typed


@pytest.fixture(scope="module")
def composed():
    with composable():
        yield lambda *words: typed(resolve.resolve(compose("train", overrides=list(words))))


def test_the_list_and_the_types_have_the_same_names():
    names = set().union(*injected_arguments.PLACES.values())
    assert names == set(injected_arguments.Injected.__annotations__)


def test_every_name_of_the_list_is_offered(composed, tmp_path, monkeypatch):
    """By what builds the parts of a run, and what comes after it."""
    offered, part = {}, build.part

    def watched(node, path, **values):
        offered.setdefault(path, set()).update(values)
        return part(node, path, **values)

    monkeypatch.setattr(build, "part", watched)
    cfg = composed("method=dpn", "trainer.device=cpu")  # it has a codebook
    data = build.data_module(cfg)
    data.setup("cpu")
    method = build.method(cfg, data.facts.num_classes, data.facts.num_train, data.width)
    build.optimizer(cfg, method)
    nothing = SimpleNamespace(step=0, history=[], evaluation_seconds=0.0, best=lambda which: None)
    build.loggers(cfg, tmp_path, RunFolder(tmp_path).run_id, "a/b", 3, nothing).close(failed=False)
    offered["logger"] = offered.pop("logger.console")
    monkeypatch.setattr(build, "part", lambda node, path, **values: offered.update({path: values}))
    build.search_engine({}, 16, tmp_path, None)
    for path, names in injected_arguments.PLACES.items():
        assert names <= set(offered[path]), path


def test_a_part_gets_only_what_its_place_offers():
    values = {"nbit": 8, "seed": 3, "num_train": 5, "cache": None}
    assert injected_arguments.given("method.codebook", ["nbit", "num_train"], values) == {"nbit": 8}
    assert injected_arguments.given("method.relaxation", ["nbit"], values) == {}


def test_a_trial_gives_what_cheap_parts_get():
    paths = ("method.head", "method.codebook", "method.loss", "dataset.source")
    assert set().union(*map(injected_arguments.names, paths)) == {*trial_builds.DUMMY, "nbit"}
