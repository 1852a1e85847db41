"""deephash in a program: train, evaluate, load; the numbers are those of the commands."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from sklearn.datasets import load_digits

import deephash
from deephash import runs
from deephash.config import targets
from deephash.errors import ConfigError, DataError, DeephashError
from deephash.retrieval import StoredCodes

LINE = ["model.nbit=12", "trainer.epochs=2", "logger=quiet", "trainer.device=cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path_factory.mktemp("library"))
        report, folder = deephash.train(LINE)
        yield report, folder.resolve()


def test_a_run_is_trained_once(run, monkeypatch, capsys):
    report, folder = run
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    monkeypatch.chdir(folder.parents[4])
    again = deephash.train(LINE)
    assert again.folder.resolve() == folder and again.report["metrics"] == report["metrics"]
    assert "finished already" in capsys.readouterr().out


def test_a_run_is_evaluated(run, tmp_path):
    report, folder = run
    words = [f"run={folder}", f"out={tmp_path / 'a,b=c'}", "figures=false", "evaluation.tops=[10]"]
    result = deephash.evaluate(words)
    assert result["metrics"]["map"] == report["metrics"]["map"]
    assert (tmp_path / "a,b=c" / "evaluation.json").is_file()


def digits():
    """The digits as the source of the run has them: (n, 3, 8, 8) uint8."""
    gray = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    return torch.from_numpy(np.repeat(gray[:, None], 3, axis=1))


def test_the_encoder_of_a_run_gives_the_codes_of_its_report(run):
    _, folder = run
    encoder = deephash.load(folder, device="cpu")
    assert encoder.nbit == 12
    stored = StoredCodes.read(folder / "codes.npz")
    rows = [int(name.rpartition("/")[2]) for name in stored.query.ids]
    images = digits()[rows]
    codes = encoder.encode(images)
    assert codes.dtype == np.uint8 and codes.shape == (len(rows), 2)
    np.testing.assert_array_equal(codes, stored.query.codes)
    pil = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images[:5]]
    np.testing.assert_array_equal(encoder.encode(pil), codes[:5])
    np.testing.assert_array_equal(encoder.codes(pil[0]) >= 0, encoder.codes(pil[:1]) >= 0)


def test_an_encoder_is_recognised_wherever_its_run_lies(run, tmp_path):
    described = deephash.load(run[1], device="cpu").describe()
    assert (described["method"], described["dataset"]) == ("relahash", "digits")
    shutil.copytree(run[1], tmp_path / "copy")
    assert deephash.load(tmp_path / "copy", device="cpu").describe() == described
    other = deephash.train([*LINE, "seed=1", "trainer.epochs=0", f"paths.outputs={tmp_path}"])
    assert deephash.load(other.folder, device="cpu").fingerprint != described["fingerprint"]


def test_a_folder_without_the_data_is_enough(run, tmp_path):
    (tmp_path / "photo.png").parent.mkdir(exist_ok=True)
    Image.new("RGB", (30, 20), "red").save(tmp_path / "photo.png")
    encoder = deephash.load(str(run[1]), checkpoint="last", device="cpu")
    assert encoder.encode([tmp_path / "photo.png", str(tmp_path / "photo.png")]).shape == (2, 2)
    assert encoder.encode([]).shape == (0, 2)
    with pytest.raises(DataError, match=r"there is no image"):
        encoder.encode("nowhere.png")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["epochs=3"], "Did you mean trainer.epochs=3?"),
        (["seed=0,1"], "has several values"),
        (["-m", "seed=0,1"], "-m"),
        (["plugins=[not_there]"], "there is no package not_there"),
        ("model.nbit=16", "a list"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_raised(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        deephash.train(words)
    assert says in str(raised.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"run": "nowhere"}, "is not a run folder"),
        ({"checkpoint": "newest"}, "not one of best, last"),
        ({"device": "tpu"}, "Try auto, cpu, cuda"),
    ],
)
def test_what_cannot_be_loaded_is_refused(run, given, says):
    with pytest.raises(DeephashError, match=says):
        deephash.load(**{"run": run[1], "device": "cpu", **given})


def test_another_program_with_hydra_keeps_its_own(run, tmp_path):
    from hydra import initialize_config_dir

    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        with pytest.raises(ConfigError):
            deephash.train(["no.such.key=1"])
        assert GlobalHydra.instance().hydra is before


def test_the_public_names():
    assert {"train", "evaluate", "load"} <= set(deephash.__all__)
    assert all(hasattr(deephash, name) for name in deephash.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        deephash.nothing  # noqa: B018


def test_a_plugin_is_allowed_in_the_call_that_names_it(run, tmp_path, monkeypatch):
    (tmp_path / "nets_of_others.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = targets.plugins()
    seen = []
    monkeypatch.setattr(runs, "load", lambda *given: seen.append(targets.plugins()))
    deephash.load(run[1], plugins=["nets_of_others"])
    assert seen == [(*before, "nets_of_others")]
    assert targets.plugins() == before
    with pytest.raises(DeephashError):
        deephash.train(["plugins=[nets_of_others]", "no_such_key=1"])
    assert targets.plugins() == before
