"""Ground-truth files in every dialect, broken ones, and pickles that want more than to be data."""

import itertools
import json
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deephash.data.ground_truth import read_landmarks, read_revisited
from deephash.errors import DataError
from deephash.utils.ground_truth import GroundTruth, find_rows

IMAGES = [f"all_souls_{n:06d}" for n in range(8)]
QUERIES = ["radcliffe_000001", "bodleian_000002"]
GND = [
    {"bbx": [136.5, 34.1, 648.5, 955.7], "easy": [4, 1], "hard": [2], "junk": [0, 7]},
    {"bbx": [0, 0, 10, 20], "easy": [], "hard": [5, 6], "junk": []},
]
CONTENT = {"imlist": IMAGES, "qimlist": QUERIES, "gnd": GND}


def as_arrays(content, dtype="int64"):
    """The same with arrays, and numpy's numbers in the boxes."""
    gnd = [
        {name: np.array(part, dtype if name != "bbx" else "f8") for name, part in query.items()}
        for query in content["gnd"]
    ]
    gnd[1]["bbx"] = list(gnd[1]["bbx"])
    return content | {"gnd": gnd}


def as_lists(truth, kind):
    return {
        name: [indices.tolist() for indices in getattr(setup, kind)]
        for name, setup in truth.setups.items()
    }


def assert_is_the_content(truth):
    assert (truth.query_ids, truth.database_ids) == (tuple(QUERIES), tuple(IMAGES))
    assert as_lists(truth, "relevant") == {
        "easy": [[1, 4], []],
        "medium": [[1, 2, 4], [5, 6]],
        "hard": [[2], [5, 6]],
    }
    assert as_lists(truth, "junk") == {
        "easy": [[0, 2, 7], [5, 6]],
        "medium": [[0, 7], []],
        "hard": [[0, 1, 4, 7], []],
    }
    assert truth.boxes.tolist() == [query["bbx"] for query in GND]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "dress", [dict, as_arrays, lambda c: as_arrays(c, ">i2"), lambda c: as_arrays(c, "u1")]
)
def test_a_pickle_of_every_protocol(tmp_path, protocol, dress):
    file = tmp_path / "gnd.pkl"
    file.write_bytes(pickle.dumps(dress(CONTENT), protocol))
    assert_is_the_content(read_revisited(file))


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_a_pickle_of_python_2(tmp_path, module):
    """Its text and bytes are one kind of string, and numpy's module has either name."""
    data = struct.pack("<2q", 4, 255)
    array = (
        b"c" + module + b"\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\n"
        b"dtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        b"U" + bytes([len(data)]) + data + b"tb"
    )
    names = b"(" + b"".join(b"S'%s'\n" % f"image{n}".encode() for n in range(256)) + b"l"
    entry = b"(S'bbx'\n(F1.5\nI2\nI3\nI4\nlS'easy'\n" + array + b"S'hard'\n(lS'junk'\n(ld"
    file = tmp_path / "gnd.pkl"
    file.write_bytes(b"(S'imlist'\n" + names + b"S'qimlist'\n(S'one'\nlS'gnd'\n(" + entry + b"ld.")
    result = read_revisited(file)
    assert result.setups["easy"].relevant[0].tolist() == [4, 255]
    assert result.boxes.tolist() == [[1.5, 2, 3, 4]]


def test_the_same_as_json(tmp_path):
    file = tmp_path / "gnd.json"
    file.write_text(json.dumps(CONTENT))
    assert_is_the_content(read_revisited(file))


def test_the_setups_of_a_revisited_dataset(tmp_path):
    file = tmp_path / "gnd.json"
    file.write_text(json.dumps(CONTENT))
    truth = read_revisited(file)
    assert (truth.size, truth.num_queries, truth.protocol) == (8, 2, "revisited")
    assert list(truth.setups) == ["easy", "medium", "hard"]
    assert truth.setups["hard"].junk[0].tolist() == [0, 1, 4, 7]


def test_by_columns_is_not_by_rows(tmp_path):
    file = tmp_path / "gnd.pkl"
    for order, protocol in itertools.product("CF", (2, 5)):
        corners = np.array([[136.5, 34.1], [648.5, 955.7]], order=order)
        file.write_bytes(pickle.dumps(changed(bbx=corners), protocol))
        assert_is_the_content(read_revisited(file))


class Call:
    def __init__(self, function, *given_):
        self.reduced = function, given_

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("call", [(os.system,), (eval,), (getattr, 1), (np.load,), (np.array,)])
def test_a_pickle_calls_nothing(tmp_path, protocol, call):
    """Where data are expected, what it wants to call is refused; elsewhere it is ignored."""
    function, *more = call
    marker = tmp_path / "called"
    evil = Call(function, *(more or [f"open({str(marker)!r}, 'w')"]), "x")
    file = tmp_path / "gnd.pkl"
    file.write_bytes(pickle.dumps(changed(easy=evil), protocol))
    name = f"an object of .*{function.__name__}"
    with pytest.raises(DataError, match=rf"easy is {name}; .*Write the same content as \.json"):
        read_revisited(file)
    file.write_bytes(pickle.dumps(CONTENT | {"extra": [evil]}, protocol))
    assert_is_the_content(read_revisited(file))
    assert not marker.exists()


def test_an_array_of_objects_is_its_numbers(tmp_path):
    file = tmp_path / "gnd.pkl"
    file.write_bytes(pickle.dumps(changed(easy=np.array([1, 4], dtype=object)), 2))
    assert_is_the_content(read_revisited(file))
    file.write_bytes(pickle.dumps(changed(easy=np.array([1, "4"], dtype=object)), 2))
    with pytest.raises(DataError, match="easy must be indices from 0 to 7, but has '4'"):
        read_revisited(file)


def test_an_array_without_its_numbers_is_refused(tmp_path):
    file = tmp_path / "gnd.pkl"
    whole = pickle.dumps(as_arrays(CONTENT), 2)
    at = whole.index(b"b", whole.rindex(b"tq", 0, whole.index(b"hard")))
    file.write_bytes(whole[:at] + b"0" + whole[at + 1 :])  # POP its state, where BUILD was
    with pytest.raises(DataError, match="easy must be a list, not NoneType"):
        read_revisited(file)


def test_what_one_pickle_sets_no_other_sees(tmp_path):
    """BUILD on a maker of arrays: its own copy, gone with the file."""
    file = tmp_path / "gnd.pkl"
    file.write_bytes(b"cnumpy\ndtype\n(N(dS'__setstate__'\nNstb.")
    with pytest.raises(DataError, match="is not the ground truth of a revisited dataset"):
        read_revisited(file)
    file.write_bytes(pickle.dumps(as_arrays(CONTENT), 2))
    assert_is_the_content(read_revisited(file))


def test_a_memory_bomb_is_refused(tmp_path):
    file = tmp_path / "gnd.pkl"
    file.write_bytes(b"Nr\xff\xff\xff\xff.")
    with pytest.raises(DataError, match="memo 4294967295 of a file"):
        read_revisited(file)
    file.write_bytes(pickle.dumps([Call(bytes, 1 << 60)], 0))
    with pytest.raises(DataError, match="is not the ground truth of a revisited dataset"):
        read_revisited(file)
    empty = GND[0] | {"easy": np.zeros((10**12, 0), np.int64), "hard": [2, 4, 1]}
    file.write_bytes(pickle.dumps(CONTENT | {"gnd": [empty, GND[1]]}, 2))
    assert read_revisited(file).setups["hard"].relevant[0].tolist() == [1, 2, 4]


def changed(**parts):
    return CONTENT | {"gnd": [GND[0] | parts, GND[1]]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "is not the ground truth of a revisited dataset"),
        ({"imlist": IMAGES, "gnd": GND}, "is not the ground truth of a revisited dataset"),
        (CONTENT | {"gnd": GND[:1]}, "one entry for each name of qimlist"),
        (CONTENT | {"imlist": []}, "imlist must be names, at least one"),
        (CONTENT | {"qimlist": [1, 2]}, "qimlist must be names"),
        (CONTENT | {"imlist": "text"}, "imlist must be a list, not str"),
        (CONTENT | {"imlist": [*IMAGES, IMAGES[3]]}, "imlist has a name twice"),
        (CONTENT | {"gnd": [GND[0], {"ok": [1], "junk": []}]}, r"gnd\[1\] \(bodleian_000002\) mus"),
        (changed(easy=[8]), r"gnd\[0\] \(radcliffe_000001\): easy must be .* 0 to 7, but has 8"),
        (changed(easy=[-1]), "easy must be indices from 0 to 7, but has -1"),
        (changed(hard=[1.5]), "hard must be indices from 0 to 7, but has 1.5"),
        (changed(hard=[True]), "hard must be indices"),
        (changed(junk=[[1]]), "junk must be indices from 0 to 7, but has 'list'"),
        (changed(junk=[2]), "an image is in two of easy, hard, junk"),
        (changed(junk=None), "junk must be a list, not NoneType"),
        (changed(bbx=[1, 2, 3]), "bbx must be x1, y1, x2, y2"),
        (changed(bbx=[5, 2, 3, 4]), "with x1 < x2"),
        (changed(bbx=[1, 2, 3, float("nan")]), "with x1 < x2 and y1 < y2"),
    ],
)
def test_a_truth_that_does_not_fit_itself(tmp_path, content, words):
    for name, data in (("a.pkl", pickle.dumps(content)), ("a.json", json.dumps(content).encode())):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=words):
            read_revisited(tmp_path / name)


@pytest.mark.parametrize("name", ["gnd.pkl", "gnd.json"])
def test_files_that_are_not_there_or_empty(tmp_path, name):
    with pytest.raises(DataError, match="cannot read"):
        read_revisited(tmp_path / name)
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"gnd\.(pkl cannot be read as data|json: it is empty)"):
        read_revisited(tmp_path / name)


WHOLE = pickle.dumps(as_arrays(CONTENT), 2)
WHOLES = [WHOLE, pickle.dumps(as_arrays(CONTENT), 5), pickle.dumps(CONTENT, 0)]


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(WHOLES),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.integers(0, 2000),
)
@example(WHOLE, [(len(WHOLE) - 2, ord("r"))], 2000)
def test_fuzzed_pickles_are_read_or_refused(tmp_path, whole, strikes, cut):
    data = bytearray(whole[:cut])
    for place, byte in strikes:
        if place < len(data):
            data[place] = byte
    file = tmp_path / "gnd.pkl"
    file.write_bytes(data)
    try:
        assert isinstance(read_revisited(file), GroundTruth)
    except DataError as error:
        assert "gnd.pkl" in str(error)  # noqa: PT017 - reading may also succeed


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_any_bytes_are_refused(tmp_path, data):
    for name, read in (
        ("gnd.pkl", read_revisited),
        ("gnd.json", read_revisited),
        ("gnd.csv", lambda file: read_landmarks(file, ["a"])),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


INDEX = ["0a1b", "2c3d", "4e5f", "6a7b"]
SOLUTION = """id,images,Usage
q1,4e5f 0a1b,Public
q2,None,Ignored
q3,2c3d,Private
q4,6a7b 6a7b 0a1b,Public
"""


def landmarks(tmp_path, text, database=INDEX, **given_):
    file = tmp_path / "solution.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_landmarks(file, database, **given_)


def test_landmarks(tmp_path):
    result = landmarks(tmp_path, SOLUTION)
    assert (result.query_ids, result.database_ids) == (("q1", "q3", "q4"), tuple(INDEX))
    assert as_lists(result, "relevant") == {"all": [[0, 2], [1], [0, 3]]}
    assert as_lists(result, "junk") == {"all": [[], [], []]}
    assert (result.ignored, result.boxes) == (1, None)
    assert (result.size, result.num_queries, result.protocol) == (4, 3, "gldv2")


def test_one_part_of_the_landmarks(tmp_path):
    result = landmarks(tmp_path, SOLUTION, usage=["Private"])
    assert (result.query_ids, result.ignored) == (("q3",), 3)
    with pytest.raises(DataError, match=r"usage=\['public'\] is unknown; allowed: Public, Private"):
        landmarks(tmp_path, SOLUTION, usage=["public"])


def same(first, second):
    return first.query_ids == second.query_ids and all(
        as_lists(first, kind) == as_lists(second, kind) for kind in ("relevant", "junk")
    )


@pytest.mark.parametrize(
    "text",
    [
        SOLUTION.replace("\n", "\r\n"),
        SOLUTION.rstrip(),
        b"\xef\xbb\xbf" + SOLUTION.encode(),
        SOLUTION.replace("q4,6a7b 6a7b 0a1b", 'q4," 6a7b 0a1b "'),
        SOLUTION.replace("id,images,Usage", "ID, Images, usage"),
        "n,Usage,images,id\n0,Public,4e5f 0a1b,q1\n1,Private,2c3d,q3\n2,Public,6a7b 0a1b,q4\n",
        "id,images\nq1,4e5f 0a1b\nq3,2c3d\nq4,6a7b 0a1b\n",
    ],
)
def test_dialects_of_the_table(tmp_path, text):
    assert same(landmarks(tmp_path, text), landmarks(tmp_path, SOLUTION))


@pytest.mark.parametrize("none", ["None", ""])
def test_without_usage_no_query_is_ignored(tmp_path, none):
    result = landmarks(tmp_path, f"id,images\nq1,0a1b\nq2,{none}\n")
    assert as_lists(result, "relevant") == {"all": [[0], []]} and result.ignored == 0


def test_ten_thousand_images_of_one_query(tmp_path):
    """Longer than what Python's csv reads as one field."""
    index = [f"{n:016x}" for n in range(10_000)]
    result = landmarks(tmp_path, f"id,images\nq1,{' '.join(index)}\n", index)
    assert result.setups["all"].relevant[0].tolist() == list(range(10_000))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the ground truth .* is empty"),
        ("id,Usage\nq1,Public\n", "has no column images; its first line is 'id,Usage'"),
        ("q1,4e5f,Public\n", "has no column id and images"),
        ("id,images,Usage\n", "no query is left of 0"),
        ("id,images,Usage\nq1,None,Ignored\n", "no query is left of 1; usage is Public, Private"),
        (
            "id,images,Usage\nq1,0a1b\n",
            "line 2: expected 3 columns, id,images,usage, not 'q",
        ),
        ("id,images\nq1,0a1b\n\nq2,0a1b\n", "line 3: expected 2 columns"),
        ("id,images\n,0a1b\n", "line 2: expected 2 columns"),
        ("id,images\nq1,0a1b\nq1,2c3d\n", "line 3: q1 is in line 2 already"),
        ("id,images,Usage\nq1,0a1b,public\n", "line 2: Usage='public' is unknown"),
        (b"id,images\nq1,\xff\n", "cannot read the ground truth"),
        (
            "id,images\nq1," + " ".join(f"x{n}" for n in range(7)) + " 0a1b\n",
            "7 of 8 images that .* lists are not among the 4 known ids: "
            r"x0, x1, x2, x3, x4, \.\.\.\.",
        ),
    ],
)
def test_malformed_tables(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        landmarks(tmp_path, text)


def test_images_of_ignored_queries_are_not_looked_for(tmp_path):
    text = SOLUTION.replace("q2,None", "q2,gone")
    assert landmarks(tmp_path, text).ignored == 1


def test_an_index_names_each_image_once(tmp_path):
    with pytest.raises(DataError, match="1 ids are repeated, the first is 2c3d"):
        landmarks(tmp_path, SOLUTION, [*INDEX, "2c3d"])


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="cannot read the ground truth"):
        read_landmarks(tmp_path / "none.csv", INDEX)


@given(st.permutations(range(10)))
def test_in_another_order_and_with_others_among_them(order):
    known = [f"image{n}" for n in order]
    truth = GroundTruth.of(
        3,
        {"easy": [[0, 2]]},
        {"easy": [[1]]},
        query_ids=("q",),
        database_ids=("image7", "image2", "image5"),
        protocol="revisited",
    )
    result = truth.for_database(known)
    assert (result.database_ids, result.size) == (tuple(known), 10)
    assert (result.query_ids, result.protocol) == (("q",), "revisited")
    assert {known[n] for n in result.setups["easy"].relevant[0]} == {"image7", "image5"}
    assert (np.diff(result.setups["easy"].relevant[0]) > 0).all()
    assert [known[n] for n in result.setups["easy"].junk[0]] == ["image2"]


def test_find_rows():
    assert find_rows(["c", "a", "c"], ["a", "b", "c"], "queries").tolist() == [2, 0, 2]
    assert find_rows([], ["a"], "queries").dtype == np.int64
    with pytest.raises(DataError, match=r"2 of 3 queries are not among the 1 known ids: b, c"):
        find_rows(["a", "b", "c"], ["a"], "queries")
    with pytest.raises(DataError, match="1 of 1 images of the ground truth are not"):
        GroundTruth.of(1, {"all": [[0]]}, database_ids=("a",)).for_database(["b"])
