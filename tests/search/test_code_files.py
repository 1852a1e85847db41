"""Files of codes in three formats."""

import importlib.util
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.config.checks import CODE_FILES
from deephash.errors import ConfigError, DataError, FileError
from deephash.retrieval import unpack
from deephash.search.code_files import CodeFile, check_format, encode_collection
from deephash.search.collection import open_collection
from tests.search.pictures import save

HAS_ARROW = importlib.util.find_spec("pyarrow") is not None
ARROW = pytest.mark.skipif(not HAS_ARROW, reason="needs pyarrow")
FORMATS = [pytest.param(one, marks=[ARROW] if one == ".parquet" else []) for one in CODE_FILES]


def make(nbit=12, count=3, labels=True, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.packbits(rng.random((count, nbit)) < 0.5, axis=1)
    return CodeFile(
        nbit,
        codes,
        [f"folder/é {row}.jpg" for row in range(count)],
        {"fingerprint": "ab" * 32, "nbit": nbit, "preprocess": {"mean": [0.5]}},
        labels=[None if row == 1 else f"class {row}" for row in range(count)] if labels else None,
        signatures=[f"{row}:5" for row in range(count)] if labels else None,
    )


def check_equal(a, b):
    np.testing.assert_array_equal(a.codes, b.codes)
    for name in ("nbit", "ids", "labels", "signatures"):
        assert getattr(a, name) == getattr(b, name), name
    assert dict(a.encoder) == dict(b.encoder)


@pytest.mark.parametrize("ending", FORMATS)
@settings(max_examples=25)
@given(nbit=st.integers(1, 70), count=st.integers(0, 5), labels=st.booleans())
def test_every_format_gives_back_what_was_written(ending, nbit, count, labels, tmp_path_factory):
    path = tmp_path_factory.mktemp("codes") / f"codes{ending}"
    file = make(nbit, count, labels=labels and count != 0)
    file.write(path)
    check_equal(CodeFile.read(path), file)


def test_lines_hold_the_bits_as_hexadecimal_digits_and_as_signed_bytes(tmp_path):
    file = make()
    file.write(tmp_path / "codes.jsonl")
    bits = unpack(file.codes, 12)
    for row, text in enumerate((tmp_path / "codes.jsonl").read_text().splitlines()):
        line = json.loads(text)
        assert list(line) == ["id", "hex", "int8", "label", "signature"]
        number = int(line["hex"], 16)
        assert [bool(number >> (15 - k) & 1) for k in range(12)] == bits[row].tolist()
        assert [value % 256 for value in line["int8"]] == file.codes[row].tolist()
        assert all(-128 <= value <= 127 for value in line["int8"])
    described = json.loads((tmp_path / "codes.encoder.json").read_text())
    assert described == {"version": 1, **file.encoder}


@ARROW
def test_the_columns_of_a_parquet_file(tmp_path):
    from pyarrow import parquet

    file = make()
    file.write(tmp_path / "codes.parquet")
    table = parquet.read_table(tmp_path / "codes.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "string", "code": "fixed_size_binary[2]", "hex": "string",
        "int8": "list<element: int8>", "label": "string", "signature": "string",
    }  # fmt: skip
    assert table["code"].to_pylist() == [code.tobytes() for code in file.codes]
    assert table["hex"].to_pylist() == file.hex
    assert table["int8"].to_pylist() == file.codes.view(np.int8).tolist()


def test_an_npz_file_is_read_by_numpy_alone(tmp_path):
    file = make()
    file.write(tmp_path / "codes.npz")
    with np.load(tmp_path / "codes.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["codes"], file.codes)
        assert arrays["ids"].tolist() == file.ids and int(arrays["nbit"]) == 12
        assert arrays["labels"].tolist() == ["class 0", "", "class 2"]
        assert json.loads(str(arrays["encoder"]))["fingerprint"] == "ab" * 32


def test_codes_are_searched():
    file = make(count=5)
    distances, names = file.index().search(file.codes[:2], k=1)
    assert distances.tolist() == [[0], [0]] and names[:, 0].tolist() == file.ids[:2]


@pytest.mark.parametrize("ending", FORMATS)
def test_damaged_files_are_refused(tmp_path, ending):
    path = tmp_path / f"codes{ending}"
    make().write(path)
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], data[: len(data) // 2] + b"}", b"", b"null"):
        path.write_bytes(broken)
        if ending == ".jsonl" and not broken:
            assert len(CodeFile.read(path)) == 0
            continue
        with pytest.raises(FileError, match=r"codes\.") as raised:
            CodeFile.read(path)
        assert len(str(raised.value)) < 600
    path.unlink()
    with pytest.raises(FileError, match="does not exist"):
        CodeFile.read(path)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_later_version_is_refused(tmp_path, ending):
    path = tmp_path / f"codes{ending}"
    file = make()
    CodeFile(12, file.codes, file.ids, {"version": 2, **file.encoder}).write(path)
    with pytest.raises(FileError, match="is of version 2; this deephash reads 1"):
        CodeFile.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": None}, "which encoder"),
        ({"nbit": "many"}, "number of bits is 'many'"),
        ({"nbit": 20}, "codes"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, change, message):
    file = make()
    CodeFile(12, file.codes, file.ids, {**file.encoder, **change}).write(tmp_path / "codes.npz")
    with pytest.raises(FileError, match=message):
        CodeFile.read(tmp_path / "codes.npz")


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"give a file such as codes\.npz"):
        check_format(tmp_path / "codes.h5")


@pytest.mark.skipif(HAS_ARROW, reason="pyarrow is installed")
def test_parquet_needs_pyarrow(tmp_path):
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        check_format(tmp_path / "codes.parquet")


def test_a_collection_is_encoded(tmp_path, encoder, caplog):
    for seed in range(5):
        save(tmp_path / "photos" / f"{seed % 2}" / f"{seed}.png", seed)
    (tmp_path / "photos" / "cut.jpg").touch()
    collection = open_collection(tmp_path / "photos", labels="folders")
    file = encode_collection(encoder, collection)
    assert file.labels == ["0", "0", "0", "1", "1"] and len(file) == 5
    paths = [tmp_path / "photos" / name for name in file.ids]
    np.testing.assert_array_equal(file.codes, encoder.encode(paths))
    assert file.encoder == encoder.describe() and "cut.jpg" in caplog.text
    failed = []
    encode_collection(encoder, collection, failed)
    assert [one.id for one in failed] == ["cut.jpg"]
