import io
import json
import lzma
import math
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from deephash.errors import FileError
from deephash.loggers import Jsonl
from deephash.report import write_html
from deephash.runs.folder import RunFolder
from deephash.utils.files import (
    expect,
    finite,
    map_array,
    read_arrays,
    read_bytes,
    read_json,
    read_packed,
    read_text,
    read_yaml,
    remove_temporaries,
    write_atomic,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def half(beside):
        beside.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(file, half)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def look(beside):
        beside.write_text("new")
        assert beside != file and beside.parent == file.parent  # a rename within one folder
        assert file.read_text() == "old"

    write_atomic(file, look)
    assert file.read_text() == "new"


def test_json_is_readable(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Müller", "n": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "name": "Müller",\n  "n": [\n    1\n  ]\n}\n'


def test_a_name_and_a_text_of_any_script(tmp_path):
    write_text(tmp_path / "seed0,dataset.name=Vögel.txt", "Müller\n")
    assert (tmp_path / "seed0,dataset.name=Vögel.txt").read_bytes() == "Müller\n".encode()


@pytest.mark.parametrize("name", ["a.json", "log.jsonl", "report.html"])
def test_what_a_kill_leaves_is_swept_away_by_the_next_run(tmp_path, monkeypatch, name):
    """Temporary files of all writers have the name that locking the folder searches for."""
    if name == "a.json":

        def write():
            write_json(tmp_path / name, {})
    elif name == "log.jsonl":
        record = Jsonl(tmp_path / name)
        record.scalars("train", {"loss": 1.0}, 1, 1)

        def write():
            record.truncate_after(0)
    else:
        write_text(tmp_path / "report.json", json.dumps({"run": "a"}))

        def write():
            write_html(tmp_path)

    class Killed(BaseException):
        pass

    def killed(here, there):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr("pathlib.Path.unlink", lambda *args, **options: None)
        with pytest.raises(Killed):
            write()
    assert [path.name for path in tmp_path.glob("*.tmp")] == [f".{name}.{os.getpid()}.tmp"]
    run = RunFolder(tmp_path)
    run.lock()
    assert not list(tmp_path.glob("*.tmp"))
    run.close()


def refusal(read, *args, **more):
    with pytest.raises(FileError) as caught:
        read(*args, **more)
    return caught.value.reason


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.file"


@pytest.mark.parametrize("read", [read_bytes, read_text, read_json, read_yaml, read_arrays])
def test_what_is_no_regular_file_is_refused(read, tmp_path):
    assert refusal(read, tmp_path / "gone") == "it does not exist"
    assert refusal(read, tmp_path / "gone" / "a.json") == "it does not exist"
    assert refusal(read, tmp_path) in ("it is a folder", "it is not a regular file")
    os.mkfifo(tmp_path / "pipe")
    assert refusal(read, tmp_path / "pipe") == "it is not a regular file"  # and does not wait
    assert "null" in refusal(read, "a\0b")
    assert refusal(read, Path("/dev/zero")) == "it is not a regular file"


def test_a_message_names_the_file_its_kind_and_the_way_on():
    error = FileError("a.json", "it is cut off", "report", "Train again.")
    assert str(error) == "cannot read the report a.json: it is cut off\n  Train again."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # from one process to another


def test_bytes_are_limited(file):
    file.write_bytes(b"12345")
    assert read_bytes(file, limit=5) == b"12345" == read_bytes(file, limit=None)
    assert refusal(read_bytes, file, limit=4) == "it has 5 bytes, more than 4"


def test_text_has_a_mark_or_not_and_names_the_line_that_is_not_utf8(file):
    file.write_bytes(b"\xef\xbb\xbfM\xc3\xbcller\n")
    assert read_text(file) == "Müller\n"
    file.write_bytes(b"one\ntwo\nM\xfcller\n")
    assert refusal(read_text, file) == "line 3 is not UTF-8 (byte 0xfc)"
    file.write_bytes("Müller".encode("utf-16"))
    assert refusal(read_text, file) == "it is UTF-16, not UTF-8"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ('{"a": 1,\n "b": }', "it is not JSON (line 2, column 7: Expecting value)"),
        ("[1]", "it holds a list, not a mapping"),
        ("null", "it holds nothing, not a mapping"),
        ("[" * 100_000, "it is nested more than 100 times"),
        ('{"a":' * 100_000, "it is nested more than 100 times"),
        ('{"a": ' + "[" * 101 + "]" * 101 + "}", "it is nested more than 100 times"),
        ('{"a": [' + "0," * 2_000_001 + "0]}", "it holds more than 2,000,000 values"),
        ('{"a": "\\ud800"}', "it holds text that is not Unicode (half a surrogate pair)"),
    ],
)
def test_json_that_is_refused(file, text, reason):
    file.write_text(text)
    assert refusal(read_json, file) == reason


def test_json_of_many_digits_is_refused(file):
    file.write_text('{"a": ' + "9" * 5000 + "}")
    assert refusal(read_json, file).startswith("it is not JSON that can be read: Exceeds the limit")


def test_json_of_a_number_beyond_64_bits_is_refused(file):
    file.write_text(json.dumps({"a": -(2**64) + 1, "b": "1" * 30, "c": 1e300}))
    assert read_json(file)["a"] == -(2**64) + 1
    file.write_text(json.dumps({"a": 2**64}))
    assert "184467440737... is too large for 64 bits" in refusal(read_json, file)


def test_brackets_in_strings_nest_nothing(file):
    file.write_text(json.dumps({"a": ["[" * 200, '\\"[' * 200, {"b": "{" * 200}]}))
    assert read_json(file)["a"][0] == "[" * 200
    file.write_text('{"a": ' + "[" * 99 + "]" * 99 + "}")
    assert list(read_json(file)) == ["a"]


ALIASES = "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" if n else f"a0: &a0 [{'x, ' * 9}]\n"
    for n in range(20)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 20)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it holds nothing, not a mapping"),
        ("- 1", "it holds a list, not a mapping"),
        ("a: 1\nb: [1\nc: 2", "it is not YAML (line 3, column 2: "),
        ("a: *b", "it is not YAML (line 1, column 4: found undefined alias"),
        ("a: 2020-99-99", "it is not YAML (month must be in 1..12"),
        ("a: !!python/object/apply:os.system [ls]", "it is not YAML (line 1, column 4: could not"),
        ("a: !!bool x", "it is not YAML ("),
        ("a: 2020-01-02", "it holds a date, 2020-01-02. Put it in quotes to make it text"),
        ("a: !!set {b}", "it holds a set, {'b'}"),
        ("2020-01-02: a", "it holds a date"),
        ("a: !!timestamp x", "it is not YAML ("),
        ("? {a: 1}\n: 2", "it is not YAML (line 1, column 3: found unhashable key"),
        ("a: \x00", "it is not YAML ("),
        ("a: " + "9" * 5000, "it is not YAML (Exceeds the limit"),
        ("a: 0x" + "f" * 5000, "it holds a whole number of more than 64 bits"),
        ("0x1" + "0" * 16 + ": a", "it holds a whole number of more than 64 bits"),
        ("a: " + "1" + ":1" * 10_000, "line 1: a value has more than 16,384 characters"),
        ("[" * 500, "line 1: it is nested more than 50 times"),
        ("a: " + "{a: " * 60 + "}" * 60, "line 1: it is nested more than 50 times"),
        ("a:\n" + "".join(" " * n + "a:\n" for n in range(1, 60)), "line 51: it is nested more"),
        (ALIASES, "line 6: with its aliases it holds more than 200,000 nodes"),
        (MERGES, "line 6: with its aliases it holds more than 200,000 nodes"),
        ("a: &a [*a]", "line 1: *a refers to a node that contains it"),
        ("a: &a\n  b: {c: *a}", "line 2: *a refers to a node that contains it"),
        ("a: [" + "x, " * 200_000 + "]", "line 1: with its aliases it holds more than"),
    ],
)
def test_yaml_that_is_refused(file, text, reason):
    file.write_text(text)
    assert refusal(read_yaml, file).startswith(reason)


def test_yaml_with_aliases_and_merges_is_read(file):
    file.write_text("base: &b {x: 1, y: [2, 3]}\nmine: {<<: *b, x: 4}\nsame: *b\n")
    assert read_yaml(file)["mine"] == {"x": 4, "y": [2, 3]}
    assert read_yaml(file)["same"] == {"x": 1, "y": [2, 3]}


def arrays(file, **values):
    np.savez_compressed(file, **values)
    named = file.with_name(f"{file.name}.npz")
    return named if named.exists() else file


def test_arrays_come_back(tmp_path):
    given = {
        "a": np.arange(6).reshape(2, 3),
        "b": np.array(["x", "Vögel", ""]),
        "c": np.asfortranarray(np.ones((2, 3), bool)),
        "d": np.array(3.5),
        "e": np.empty((0, 4), np.float16),
        "f": np.array(["x", "yy"]).astype(">U2"),
    }
    file = arrays(tmp_path / "a", **given)
    read = read_arrays(file)
    assert read.keys() == given.keys()
    for name, array in given.items():
        assert np.array_equal(read[name], array) and read[name].dtype == array.dtype
    assert read_arrays(file, names=["a"], optional=["b", "z"]).keys() == {"a", "b"}
    message = refusal(read_arrays, file, names=["a", "y", "z"])
    assert message == "it has no array y, z; it has a, b, c, d, e, f"


def test_arrays_with_python_objects_or_broken_text_are_refused(tmp_path):
    message = refusal(read_arrays, arrays(tmp_path / "a", a=np.array([{}], object)))
    assert message == "its array a is damaged: it holds Python objects"
    text = np.array([0x110000, 65], np.uint32).view("U1")
    message = refusal(read_arrays, arrays(tmp_path / "b", a=text))
    assert message == "its array a is damaged: its text is not Unicode"


def test_a_changed_byte_in_arrays_is_noticed(tmp_path):
    stored = tmp_path / "a.npz"
    np.savez(stored, a=np.arange(1000))
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.write_bytes(data)
    assert "CRC" in refusal(read_arrays, stored)


def member(file, data, name="a.npy"):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)


def test_a_small_file_of_arrays_cannot_cost_much(file):
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("a.npy", "w") as opened,
    ):
        shape = {"descr": "|u1", "fortran_order": False, "shape": (200 << 20,)}
        np.lib.format.write_array_header_1_0(opened, shape)
        for _ in range(200):
            opened.write(bytes(1 << 20))
    assert file.stat().st_size < 220_000
    assert "its arrays unpack to more than" in refusal(read_arrays, file)


def test_a_header_cannot_claim_more_than_the_file_contains(file):
    header = io.BytesIO()
    wanted = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, wanted)
    member(file, header.getvalue() + bytes(80))
    message = "its array a is damaged: its shape (1000000000000,) does not fit its size"
    assert refusal(read_arrays, file) == message


@pytest.mark.parametrize(
    "data", [b"", b"\x93NUMPY", b"no array at all", b"\x93NUMPY\x01\x00\xff\xff"]
)
def test_members_that_are_no_arrays_are_refused(file, data):
    member(file, data)
    assert refusal(read_arrays, file).startswith("its array a is damaged: ")
    file.write_bytes(data)
    assert refusal(read_arrays, file) == "it is cut off, or not an npz file"


def test_an_array_is_mapped(file):
    file = file.with_suffix(".npy")
    np.save(file, np.arange(6.0).reshape(2, 3))
    array = map_array(file)
    array[0, 0] = 9  # in memory only
    assert np.array_equal(map_array(file), np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("cut", [0, 5, 9, 40, 130])
def test_an_array_that_is_cut_off_is_refused(file, cut):
    np.save(file.with_suffix(".npy"), np.arange(6.0))
    file.write_bytes(file.with_suffix(".npy").read_bytes()[:cut])
    assert "it is damaged, or no array: " in refusal(map_array, file)


def test_arrays_of_another_kind_are_not_mapped(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object))
    assert "it is damaged, or no array: " in refusal(map_array, tmp_path / "a.npy")
    several = arrays(tmp_path / "b", a=np.zeros(2))
    assert "it is damaged, or no array: " in refusal(map_array, several)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2\0), }"
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY\x01\x00" + bytes([len(header), 0]) + header)
    assert "it is damaged, or no array: " in refusal(map_array, tmp_path / "c.npy")
    assert refusal(map_array, tmp_path / "gone.npy") == "it does not exist"
    assert refusal(map_array, tmp_path) == "it is a folder"


def packed(tmp_path, data, name="a.txt.xz"):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def test_xz_files_of_one_or_several_streams(tmp_path):
    first, second = lzma.compress(b"one" * 9999), lzma.compress(b"two")
    assert read_packed(packed(tmp_path, first)) == b"one" * 9999
    assert read_packed(packed(tmp_path, first + second)) == b"one" * 9999 + b"two"
    assert read_packed(packed(tmp_path, first + bytes(8) + second + bytes(4))).endswith(b"onetwo")
    assert read_packed(packed(tmp_path, lzma.compress(b""))) == b""
    assert read_packed(packed(tmp_path, first, "a.txt")) == first
    assert refusal(read_packed, packed(tmp_path, first[:-5])) == "it is cut off"
    assert refusal(read_packed, packed(tmp_path, b"")) == "it is cut off"
    assert "cannot be unpacked" in refusal(read_packed, packed(tmp_path, b"no xz at all"))
    broken = bytearray(first)
    broken[40] ^= 255
    assert "cannot be unpacked" in refusal(read_packed, packed(tmp_path, bytes(broken)))


def test_a_small_xz_file_cannot_cost_much(tmp_path):
    squeezer = lzma.LZMACompressor(preset=0)
    data = b"".join([*(squeezer.compress(bytes(1 << 20)) for _ in range(300)), squeezer.flush()])
    assert len(data) < 60_000
    bomb = packed(tmp_path, data)
    tracemalloc.start()
    try:
        assert "more than 1,000 times its size" in refusal(read_packed, bomb)
        assert tracemalloc.get_traced_memory()[1] < 60 << 20  # of 300
    finally:
        tracemalloc.stop()


def test_a_sorted_list_with_one_hot_labels_is_no_bomb(tmp_path):
    lines = []
    for row in range(12_000):
        labels = bytearray(b"0 " * 1000)
        labels[2 * (row // 12)] = ord("1")
        lines.append(b"train/n%08d/image_%08d.JPEG %s\n" % (row // 12, row, labels[:-1]))
    data = b"".join(lines)
    assert len(data) > 24_000_000
    assert read_packed(packed(tmp_path, lzma.compress(data, preset=1))) == data


def test_expected_kinds():
    file = Path("a.json")
    good = {"a": {"b": 1, "c": None}, "d": "x", "e": [1]}
    expect(
        good, {"a.b": float, "a.c": (int, None), "d": str, "e": list, "f?": int, "e?": list}, file
    )
    for kinds, message in [
        ({"a.z": int}, "it has no a.z"),
        ({"d.z": int}, "d is a text, not a mapping"),
        ({"a.b": str}, "a.b is a whole number, not a text"),
        ({"a.c": (int, str)}, "a.c is nothing, not a whole number or a text"),
        ({"d?": int}, "d is a text, not a whole number"),
        ({"e": [str]}, "e is a list, not a list whose values are a text"),
        ({"a.*": int}, "a.c is nothing, not a whole number"),
    ]:
        assert refusal(expect, good, kinds, file) == message
    assert (
        refusal(expect, {"a": True}, {"a": int}, file) == "a is true or false, not a whole number"
    )
    assert refusal(expect, [1], {"a": int}, file) == "its content is a list, not a mapping"


def test_expected_numbers_are_finite_and_fit_64_bits():
    file = Path("a.json")
    expect({"a": math.nan, "b": [1, None, 2.5], "c": None}, {"a": float, "b": [float, None]}, file)
    expect({"c": None}, {"c.d.e?": int, "x.y?": int}, file)
    assert refusal(expect, {"a": math.inf}, {"a": finite}, file) == "a is inf, not a number"
    message = "a is a number too large for 64 bits, not a number"
    assert refusal(expect, {"a": 10**30}, {"a": float}, file) == message


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_the_advice_of_the_reader_is_given_for_bytes_that_are_not_utf_8(file, read):
    file.write_bytes(b"\xff")
    with pytest.raises(FileError, match=r"not UTF-8.*\n  Delete it\."):
        read(file, advice="Delete it.")
    with pytest.raises(FileError, match=r"not UTF-8.*\n  Save it as UTF-8\."):
        read(file)


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".a.json.{process}.tmp" for process in (dead.pid, os.getpid(), "x")]
    for name in (*names, f".b.json.{dead.pid}.tmp"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path / "a.json")
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:], f".b.json.{dead.pid}.tmp"}
