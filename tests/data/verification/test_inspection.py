"""Inspection of lists without opening an image: counts, all faults, known variants."""

import contextlib
import hashlib
import json
import lzma
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephash.data.sources.lists import Lists
from deephash.data.splits.protocols import Listed, fingerprint
from deephash.data.splits.split_file import write_split
from deephash.data.verification.inspection import identify, inspect_lists
from deephash.errors import DataError
from tests.paths import ROOT

REAL = ROOT.parent / "shared" / "lists"
FILE_NAME = "([^/]+)$"
FLICKR = r"(?:^|/)\d+_(\d+)[^/]*$"

SMALL = {
    "train": "im/2.png 0 1 1\nim/3.png 1 0 0\n",
    "test": "im/9.png 1 0 0\nim/8.png 0 1 1\n",
    "database": "im/3.png 1 0 0\nim/1.png 1 1 0\nim/5.png 0 0 0\nim/2.png 0 1 1\nim/4.png 0 0 1\n",
}


def lists(folder, **texts):
    """The small lists, some of them replaced; None for none."""
    for name, text in (SMALL | texts).items():
        file = folder / f"{name}.txt"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def messages(inspection, level=None):
    """Return the findings of a level, one line each."""
    return [
        " | ".join(finding.lines())
        for finding in inspection.findings
        if level in (None, finding.level)
    ]


def of(inspection, role):
    (result,) = (summary for summary in inspection.lists if summary.role == role)
    return result


def test_counts_by_hand(tmp_path):
    """Digests: one line an image, `id TAB class indices`, sorted or as they are."""
    result = inspect_lists(Lists(tmp_path, lists(tmp_path)), files=False)
    database = of(result, "database")
    assert (database.file, database.rows, database.num_classes) == ("database.txt", 5, 3)
    assert database.labels_per_image == {0: 1, 1: 2, 2: 2} and database.unlabelled == 1
    assert database.class_counts == (2, 2, 2) and database.mean_labels == 6 / 5
    assert database.class_changes == 4
    assert database.sha1 == hashlib.sha1(SMALL["database"].encode()).hexdigest()
    rows = ["im/3.png\t0", "im/1.png\t0 1", "im/5.png\t", "im/2.png\t1 2", "im/4.png\t2"]
    for digest, order in ((database.content, sorted(rows)), (database.order, rows)):
        text = "".join(f"{row}\n" for row in order)
        assert digest == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert result.overlaps == {
        "train_queries": {"id": 0, "path": 0, "file_name": 0},
        "queries_database": {"id": 0, "path": 0, "file_name": 0},
        "train_database": {"id": 2, "path": 2, "file_name": 2},
    }
    assert (result.num_images, result.num_missing) == (7, None)
    images = Lists(tmp_path).read()
    assert result.fingerprint == fingerprint(images, Listed().split(images))
    assert messages(result, "error") == [] and len(messages(result)) == 1
    assert messages(result)[0].startswith(
        "warning: database: 1 of 5 images have no label |     im/5.png"
    )


def test_the_table_and_the_record(tmp_path):
    result = inspect_lists(Lists(tmp_path, lists(tmp_path)))
    lines = result.lines()
    row = r"train +2 +3 +1\.500 \(1 to 2\) +1 to 1 +1 +[0-9a-f]{12}-[0-9a-f]{12}"
    assert any(re.fullmatch(row, line) for line in lines)
    assert any(re.fullmatch("train and database +2 +2 +2", line) for line in lines)
    assert f"7 images, 0 of them below {tmp_path}" in lines
    assert max(map(len, lines)) <= 110 and lines[-1] == f"fingerprint {result.fingerprint}"
    content = json.loads(json.dumps(result.as_dict()))
    assert content["lists"][0]["unlabelled"] == 1 and content["lists"][0]["class_counts"] == [
        2,
        2,
        2,
    ]
    assert content["findings"][0]["level"] == "error" and content["num_missing"] == 7


@pytest.mark.parametrize(
    ("texts", "options", "level", "message"),
    [
        ({"test": None}, {}, "error", r"no test\.txt in .*nor packed as test\.txt\.xz"),
        ({"database": None}, {}, "error", r"no database\.txt.*dataset\.source\.database=null"),
        ({"test": ""}, {}, "error", r"the list .*test\.txt is empty"),
        ({"test": b"\xff\xfe 1 0 0\n"}, {}, "error", r"cannot read the list .*test\.txt"),
        (
            {"test": "a\nb 1 0 0\n\nc 1 0\nd 1 0 2\n/e 1 0 0\n"}, {}, "error",
            r"test\.txt: 5 of 6 lines are malformed \|     line 1: 0 labels.*line 3: it is blank"
            r".*line 4: 2 labels.*line 5: the label '2'.*line 6: the path '/e' does not lead down",
        ),
        ({"test": "a 1\nb\nc\n"}, {}, "error", "2 of 3 lines"),
        (
            {"train": "train/0_1\n" * 7}, {}, "error",
            r"7 of 7 lines are malformed.*line 5: 0 labels.*and 2 more",
        ),
        (
            {"train": "a 1 0 0\nb 1 0 0\na 1 0 0\na 0 1 0\n"}, {}, "error",
            r"names 2 images twice \|     lines 1 and 3: a \|     lines 1 and 4: a",
        ),
        (
            {"train": "x/2.png 0 1 1\ny/2.png 0 1 1\n"}, {"identity": FILE_NAME}, "error",
            r"train\.txt names 1 images twice \|     lines 1 and 2: y/2\.png",
        ),
        (
            {"train": "im/3.png 0 1 1\nim/2.png 0 1 1\n", "test": "im/4.png 0 1 1\n"}, {}, "error",
            r"2 images have other labels .*im/4\.png: database \[2\], queries \[1 2\]"
            r".*im/3\.png: database \[0\], train \[1 2\]",
        ),
        (
            {"train": "a 1 0\n"}, {}, "error",
            r"the lists differ in their number of labels: .*train\.txt has 2, another 3",
        ),
        (
            {}, {"class_names": ["x", "y"]}, "error",
            r"database\.txt has 3 classes, and dataset\.source\.class_names 2",
        ),
        (
            {}, {"class_names": list("wxyz")}, "error",
            r"database\.txt has 3 classes, and dataset\.source\.class_names 4",
        ),
        (
            {"train": "a 4\n", "test": "b 0\n", "database": "c 1\n"}, {"class_names": 3}, "error",
            r"train\.txt has 5 classes, and dataset\.source\.class_names 3",
        ),
        (
            {"train": "im/2.png 0 1\r1\nim/3.png 1 0 0\n"}, {}, "note",
            r"unusual text.* \|     carriage returns inside lines \(1\)$",
        ),
        (
            {"train": "im/2.png 1000000\n", "test": "a 1\n", "database": "b 0\n"}, {}, "error",
            r"train\.txt, line 1: the class index 1000000 implies 1000001 classes of 3 images",
        ),
        ({"train": SMALL["test"]}, {}, "error", r"2 queries are in train \|     im/9\.png"),
        (
            {"test": "im/4.png 0 0 1\nim/9.png 1 1 0\n"}, {}, "warning",
            r"1 of 2 queries are in the database \|     im/4\.png .*queries_in_database.*remove",
        ),
        ({"test": "a 0 0 0\n"}, {}, "warning", "queries: 1 of 1 .*evaluation.empty"),
        ({"test": "a 0 1 0\n"}, {}, "warning", r"queries: 2 of 3 classes have no image \|     0"),
        (
            {"test": "a 0 1 0\n"}, {"class_names": list("xyz")}, "warning",
            r"queries: 2 of 3 classes have no image \|     x \|     z",
        ),
        (
            {"train": "a 1 1 1\nim/2.png 0 1 1\nb 1 0 0\n"}, {}, "note",
            "2 of 3 training images are not in the database",
        ),
        (
            {"test": "x/4.png 0 1 1\n"}, {}, "warning",
            r"1 file names are in queries and database, of .* other ids .*identity",
        ),
        (
            {"train": "x/2.png 0 1 1\ny/2.png 0 1 1\n"}, {}, "note",
            r"train\.txt has 1 file names that other .*x/2\.png and y/2\.png",
        ),
        (
            {"train": "\ufeff im/2.png  0 1\t1 \r\nim/3.png 1 0 0"}, {}, "note",
            r"train\.txt has an unusual .*lines end in CR LF \(1\) \| +tabs \(1\) .*double blanks "
            r"\(1\) .*ends of lines \(1\) .*byte order mark .*no end of the last line",
        ),
    ],
)  # fmt: skip
def test_faults_are_reported_with_count_and_examples(tmp_path, texts, options, level, message):
    result = inspect_lists(Lists(tmp_path, lists(tmp_path, **texts), **options), files=False)
    assert any(re.search(message, line) for line in messages(result, level)), messages(result)
    readable = True
    try:
        Lists(tmp_path, tmp_path, **options).read()
    except DataError:
        readable = False
    wrong = [line for line in messages(result, "error") if "queries are in train" not in line]
    assert readable == (wrong == [])


def test_several_faults_are_reported_at_once(tmp_path):
    lists(tmp_path, train="a 1\n\n", test="b 1 0 0\nb 1 0 0\n")
    result = inspect_lists(Lists(tmp_path))
    assert [finding.level for finding in result.findings[:3]] == ["error"] * 3
    assert len(messages(result, "error")) >= 3 and result.fingerprint is None
    assert of(result, "queries").rows == 2 and of(result, "database").class_counts == (2, 2, 2)


def test_missing_files_are_counted(tmp_path):
    root = tmp_path / "root"
    (root / "im").mkdir(parents=True)
    for k in (1, 2, 3):
        (root / f"im/{k}.png").touch()
    result = inspect_lists(Lists(root, lists(tmp_path)))
    assert (result.num_images, result.num_missing) == (7, 4)
    (message,) = messages(result, "error")
    assert re.search(r"4 of 7 images \(57\.1 %\) are not below .*im/9\.png.*on_error=skip", message)
    result = inspect_lists(Lists(root, tmp_path, on_error="skip"))
    assert messages(result, "error") == [] and "4 of 7" in messages(result, "warning")[-1]
    (root / "9.png").touch()
    (root / "im" / "deep").mkdir()
    (root / "im" / "deep" / "8.png").touch()
    (root / "im" / "deep" / "4.png").touch()
    (root / "im" / "5.png").touch()
    assert inspect_lists(Lists(root, tmp_path)).num_missing == 0
    (root / "x").mkdir()
    (root / "x" / "8.png").touch()
    result = inspect_lists(Lists(root, tmp_path))
    assert "finds two 8.png" in messages(result, "error")[0] and result.num_missing is None


def test_a_split_file_is_inspected_too(tmp_path):
    source = Lists(tmp_path, lists(tmp_path))
    images, plain = source.read(), inspect_lists(source, files=False)
    path = tmp_path / "own.split.xz"
    write_split(path, images, Listed().split(images), dataset="own", protocol="lists")
    result = inspect_lists(Lists(tmp_path, split="own.split.xz"), files=False)
    assert result.source == str(path) and result.fingerprint == plain.fingerprint
    for expected in plain.lists:
        result_ = of(result, expected.role)
        assert (expected.digest, expected.class_counts) == (result_.digest, result_.class_counts)
    assert "is read, and not the lists beside it" in messages(result, "note")[0]
    assert messages(inspect_lists(Lists(tmp_path, lists=path), files=False), "note") == []
    packed = path.read_bytes()
    path.write_bytes(packed[:-20])
    (expected,) = inspect_lists(Lists(tmp_path, lists=path)).findings
    assert expected.level == "error" and "cannot read the split file" in expected.what


def test_dialects_have_one_digest_and_known_lists_are_named(tmp_path):
    result = {}
    for name, (prefix, index) in {"a": ("./data/", False), "b": ("/home/x/", True)}.items():
        (tmp_path / name).mkdir()
        for role, rows in {"train": (0, 1), "test": (4, 3), "database": (0, 1, 2)}.items():
            labels = [f"{k % 3}" if index else ("1 0 0", "0 1 0", "0 0 1")[k % 3] for k in range(5)]
            text = "".join(f"{prefix}{k}.jpg {labels[k]}\n" for k in rows)
            (tmp_path / name / f"{role}.txt").write_text(text)
        result[name] = inspect_lists(Lists(tmp_path / name, identity=FILE_NAME), files=False)
    a, b = result["a"], result["b"]
    assert [role.digest for role in a.lists] == [role.digest for role in b.lists]
    known = {
        "HashNet": {role.role: role.digest for role in a.lists},
        "CSQ": {"train": of(a, "train").content, "queries": of(a, "train").digest},
    }
    assert identify(b, known) == {
        "train": ["HashNet", "CSQ"],
        "queries": ["HashNet"],
        "database": ["HashNet"],
    }
    (tmp_path / "b" / "test.txt").write_text("0.jpg 0\n4.jpg 1\n3.jpg 0\n")
    moved = (tmp_path / "b" / "database.txt").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "database.txt").write_text("".join(reversed(moved)))
    after = inspect_lists(Lists(tmp_path / "b", identity=FILE_NAME), files=False)
    assert identify(after, known) == {
        "train": ["HashNet", "CSQ"],
        "database": ["HashNet (in another order)"],
    }
    assert identify(after, {}) == {}
    with pytest.raises(DataError, match=r"known\.HashNet\.queries was read as the number 5\.06"):
        identify(after, {"HashNet": {"queries": 5064364568e9}})


TEXTS = st.lists(
    st.sampled_from(["a", "b.jpg", "/", "0", "1", "9", " ", "\t", "\r", "\n", " 1 0\n", " 0 1\n"]),
    max_size=25,
).map("".join)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, TEXTS, st.sampled_from([None, FILE_NAME]))
def test_errors_are_found_where_reading_fails(tmp_path_factory, train, test, database, identity):
    """Whatever the lists: nothing but findings, and an error just where `read` raises one."""
    folder = lists(tmp_path_factory.mktemp("lists"), train=train, test=test, database=database)
    source = Lists(folder, identity=identity)
    result = inspect_lists(source, files=False)
    assert result.lines() and json.dumps(result.as_dict())
    images = None
    with contextlib.suppress(DataError):
        images = source.read()
    wrong = [finding for finding in result.findings if finding.level == "error"]
    if images is None:
        assert wrong
    else:
        assert all("queries are in train" in finding.what for finding in wrong)
        assert result.num_images == len(images)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_inspected(tmp_path_factory, data):
    folder = lists(tmp_path_factory.mktemp("lists"), train=data)
    (folder / "own.split.xz").write_bytes(data)
    assert inspect_lists(Lists(folder)).findings
    assert inspect_lists(Lists(folder, split="own.split.xz")).findings[0].level == "error"


# the real lists, with the figures of those who measured them before


MEASURED = {  # role -> rows, mean labels, unlabelled, least and most images of a class, digest
    "imagenet100": {
        "train": (13000, 1.0, 0, 130, 130, "647b2f5ef491-3a5bbb865902"),
        "queries": (5000, 1.0, 0, 50, 50, "5064364568e9-8e5c88688cff"),
        "database": (128503, 1.0, 0, 1029, 1300, "24877b0dd769-8f3b306a4436"),
    },
    "nuswide21": {
        "train": (10500, 2.862, 0, 732, 5051, "7ccf11912265-5610b7a4a372"),
        "queries": (2100, 3.315, 0, 142, 1171, "b4625c29522c-855e94c6ee2a"),
    },
    "coco": {
        "train": (10000, 2.929, 0, 9, 5467, "55ccb81c2a03-504aa03e6c9b"),
        "queries": (5000, 2.921, 0, 8, 2764, "9cdc7cbaded5-23abd5ead7fe"),
        "database": (112218, 2.926, 0, 186, 61341, "eae33183cf5c-467096037b5f"),
    },
    "mirflickr25k": {
        "train": (4000, 4.612, 72, 15, 1610, "9e8c137da856-d1a431456d68"),
        "queries": (1000, 4.613, 19, 4, 412, "724b18347e5e-2380d60f5ec8"),
        "database": (20000, 4.742, 328, 96, 8371, "c7f29406a384-a31fb79a0a32"),
    },
    "voc2012": {
        "train": (4000, 1.437, 0, 108, 1415, "71802b69f351-58e3cfd04ea0"),
        "queries": (1000, 1.471, 0, 28, 363, "0f21f396afa8-e824d5d20d00"),
        "database": (6540, 1.447, 0, 162, 2309, "c0fb8e2c348e-f66127dbd665"),
    },
}
SHARED = {  # train and queries, queries and database, train and database; all images
    "imagenet100": (0, 0, 13000, 133503),
    "nuswide21": (0, 12600),
    "coco": (0, 5000, 0, 122218),
    "mirflickr25k": (0, 0, 0, 25000),
    "voc2012": (0, 0, 0, 11540),
}
WARNED = {"imagenet100": 0, "nuswide21": 0, "coco": 1, "mirflickr25k": 3, "voc2012": 0}


@pytest.mark.parametrize("dataset", MEASURED)
def test_the_real_lists_are_as_they_were_measured(dataset):
    if not (REAL / dataset).is_dir():
        pytest.skip("the real lists are not here")
    nus = dataset == "nuswide21"
    source = Lists(
        REAL / dataset,
        database=None if nus else "database.txt",
        identity=FLICKR if nus else FILE_NAME,
    )
    result = inspect_lists(source, files=False)
    for role, (rows, mean, unlabelled, least, most, digest) in MEASURED[dataset].items():
        role_ = of(result, role)
        assert (role_.rows, round(role_.mean_labels, 3), role_.unlabelled) == (
            rows,
            mean,
            unlabelled,
        )
        assert (min(role_.class_counts), max(role_.class_counts)) == (least, most)
        assert role_.digest == digest
        text = lzma.decompress((REAL / dataset / role_.file).read_bytes())
        assert role_.sha1 == hashlib.sha1(text).hexdigest()
    for pair in result.overlaps.values():
        assert pair["id"] == pair["file_name"] == pair["path"]
    shared = (pair["id"] for pair in result.overlaps.values())
    assert (*shared, result.num_images) == SHARED[dataset]
    assert (len(messages(result, "error")), len(messages(result, "warning"))) == (
        0,
        WARNED[dataset],
    )
    assert not any("unusual" in role_ for role_ in messages(result))
    if dataset == "imagenet100":
        assert of(result, "database").class_changes == 799
        assert np.bincount(of(result, "database").class_counts)[1300] == 89
        assert result.fingerprint.startswith("be22fb62128bf621")
    if dataset == "coco":
        assert of(result, "database").class_counts.index(61341) == 49  # person, by alphabet
