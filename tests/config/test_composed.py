"""Composed configurations do not change if the files that they are composed from are rearranged."""

import json

import pytest

from tests.config import composed

DIGESTS = json.loads(composed.DIGESTS.read_text())


@pytest.fixture(scope="module", autouse=True)
def opened():
    with composed.opened():
        yield


def test_every_command_line_is_there():
    assert list(DIGESTS) == composed.lines()


@pytest.mark.parametrize("line", DIGESTS)
def test_configurations_are_unchanged(line):
    assert composed.digests(line) == DIGESTS[line]
