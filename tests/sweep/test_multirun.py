"""Many jobs are composed quickly and as by Hydra; missing data are reported before any starts."""

import pytest
from hydra import compose

from deephash.config import checks, composition, resolve
from deephash.config.overrides import Override, parse_all, texts
from deephash.sweep.plan_jobs import missing_data, plan_sweep

pytestmark = pytest.mark.usefixtures("composable")


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3", "model.nbit=16", "method.loss.scale=5"],
        ["method=csq", "dataset=cifar10", "dataset.root='a b'", "optimizer.lr=1e-3"],
        ["+dataset.source.more=skip", "dataset=cifar10", "dataset.top=null"],
        ["loss=lmcl", "loss.margin=0.3", "optimizer.betas=[0.8,0.9]", "~optimizer.weight_decay"],
        ["dataset={name: x}", "paths.outputs=${paths.data}/x"],
        ["experiment=codes_2bit", "method=csq", "trainer=early_stop"],
    ],
)
def test_a_job_is_composed_as_hydra_does(overrides):
    composer = composition.Composer("train")
    for words in (overrides, [*overrides, "seed=7"]):  # the second from what is kept
        whole = compose("train", overrides=list(words))
        quick = composer(parse_all(words))
        assert quick == whole and list(quick) == list(whole)
        assert resolve.resolve(quick, parse_all(words)) == resolve.resolve(whole, parse_all(words))
        assert quick._metadata.flags == whole._metadata.flags
    assert len(composer._bases) == 1  # the files were read once


def test_groups_are_read_once_and_jobs_do_not_touch_each_other(monkeypatch):
    read = []
    real = composition.compose

    def counted(page, overrides, with_hydra):
        read.append(overrides)
        return real(page, overrides, with_hydra)

    monkeypatch.setattr(composition, "compose", counted)
    composer = composition.Composer("train")
    for method in ("csq", "dpn"):
        for scale in range(5):
            cfg = composer(parse_all([f"method={method}", f"seed={scale}"]))
            assert (cfg.method.name, cfg.seed) == (method, scale)
    assert read == [["method=csq"], ["method=dpn"]]


@pytest.mark.parametrize("wrong", ["no.such=1", "method=nothing", "+seed=1", "seed=[", "seed=1,2"])
def test_errors_are_hydras(wrong):
    with pytest.raises(Exception) as whole:  # noqa: PT011 - of several types
        compose("train", overrides=[wrong])
    with pytest.raises(type(whole.value)) as quick:
        composition.Composer("train")([Override.parse(wrong)])
    assert str(quick.value) == str(whole.value)


def planned(tmp_path, *grid):
    jobs = []
    for words in grid:
        overrides = parse_all([*words, f"paths.outputs={tmp_path}/runs"])
        cfg = compose("train", overrides=texts(overrides))
        jobs.append((overrides, resolve.resolve(cfg, overrides)))
    return plan_sweep(checks.parse_jobs(jobs))


def test_missing_data_are_reported_once_for_each_dataset(tmp_path):
    (tmp_path / "there" / "a").mkdir(parents=True)
    folder = ["dataset=folder", "dataset.name=x", f"dataset.root={tmp_path}/gone"]
    lists = ["dataset=lists", "dataset.name=y", f"dataset.root={tmp_path}/there"]
    features = [
        "dataset=features",
        "dataset.name=z",
        f"dataset.root={tmp_path}/there",
        "backbone=identity",
    ]
    fine = ["dataset=folder", "dataset.name=w", f"dataset.root={tmp_path}/there"]
    messages = missing_data(
        planned(tmp_path, [*folder, "seed=0"], [*folder, "seed=1"], lists, features, fine, [])
    )
    assert len(messages) == 3
    assert "2 jobs: the image folder" in messages[0] and f"{tmp_path}/gone" in messages[0]
    assert (
        f"deephash data prepare dataset=folder dataset.name=x dataset.root={tmp_path}/gone"
        in messages[0]
    )
    assert "no database.txt" in messages[1] and f"split file in {tmp_path}/there" in messages[1]
    assert "no features database, test, train in" in messages[2]


def test_what_may_be_downloaded_is_not_missing(tmp_path):
    root = ["dataset=cifar10", f"dataset.root={tmp_path}"]
    assert missing_data(planned(tmp_path, root)) == []
    (message,) = missing_data(planned(tmp_path, [*root, "dataset.source.download=false"]))
    assert "no images of cifar10" in message and "downloads are disabled" in message
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert missing_data(planned(tmp_path, [*root, "dataset.source.download=false"])) == []
