"""Run folders whose configuration is another one, or was damaged."""

import pytest
import yaml
from hydra import compose

from deephash.config import checks, resolve, schema
from deephash.errors import ConfigError, FileError
from deephash.runs.folder import RunFolder
from deephash.runs.train_run import refuse_another
from tests.pages import composable


@pytest.fixture
def cfg():
    with composable():
        return checks.parse_page(schema.Train, resolve.resolve(compose("train")))


def folder(path, text):
    (path / "config.yaml").write_text(text)
    (path / "last.pt").touch()
    return RunFolder(path)


def test_the_same_configuration_is_accepted(tmp_path, cfg):
    refuse_another(folder(tmp_path, yaml.safe_dump(cfg.plain)), cfg)


def test_another_value_is_named(tmp_path, cfg):
    other = cfg.plain | {"optimizer": cfg.optimizer | {"lr": 0.25}}
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.25 -> "):
        refuse_another(folder(tmp_path, yaml.safe_dump(other)), cfg)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_cut_file_is_not_another_configuration(tmp_path, cfg, share):
    lines = yaml.safe_dump(cfg.plain).splitlines(keepends=True)
    text = "".join(lines[: int(len(lines) * share)])
    with pytest.raises(FileError, match=r"config\.yaml.*(it has no|is nothing).*\n.*rerun=true"):
        refuse_another(folder(tmp_path, text), cfg)


def test_a_second_configuration_under_a_given_name_is_refused(tmp_path, cfg):
    named = cfg.with_values(name="first")
    run = RunFolder.of(named, [])
    assert run.path.name == "seed0,first"
    here = folder(tmp_path, yaml.safe_dump(named.plain))
    refuse_another(here, named)
    refuse_another(here, cfg)  # the name is no setting
    with pytest.raises(ConfigError, match=r"(?s)seed: 0 -> 1.*another name than name=first"):
        refuse_another(here, named.with_values(seed=1))
