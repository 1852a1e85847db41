"""Fingerprints of splits: which images have which role, and in which order."""

from tests.golden import make
from tests.golden.compare import VALUES


def test_fingerprints(tmp_path):
    with make.pages():
        result = make.fingerprints(tmp_path)
    golden = VALUES["fingerprints"]
    assert {key: result[key] for key in golden} == golden  # new protocols may come


def test_the_form_of_a_list_is_not_in_the_fingerprint():
    golden = VALUES["fingerprints"]
    assert golden["list, index"] == golden["list, onehot"]
