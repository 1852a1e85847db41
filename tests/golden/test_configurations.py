"""Run names and the identity of configurations, of command lines of all kinds.

The whole configuration is kept, not a hash of its identity: so keys that are added later must have
a value in the identity of older runs (``config.SINCE``, or a constructor's default), as the folders
of users need it, and a failure names the keys that moved.
"""

import json

import pytest

from deephash.config import run_identity
from tests.golden import make

GOLDEN = json.loads(make.CONFIGURATIONS.read_text())


@pytest.fixture(scope="module")
def lines():
    with make.pages():
        yield make.lines()


def test_every_line_is_there(lines):
    assert set(lines) == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_name_and_identity(lines, name):
    line, cfg = make.composed(lines[name])
    golden = GOLDEN[name]
    assert run_identity.run_name(cfg, line) == golden["run"]
    assert run_identity.changed_keys(golden["config"], cfg) == []
