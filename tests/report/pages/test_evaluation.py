"""The pages of evaluate.py: whole, alone, and true to the numbers."""

import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from deephash.errors import DataError
from deephash.report import CodeSnapshot, Plane, Retrieved, write_comparison, write_evaluation

EVIL = '</pre></title><script>alert("x")</script><img src=x onerror=alert(1)>--><!--'


def pictures():
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    classes = np.arange(20) % 2
    codes = random.normal(size=(20, 2))
    return {
        "gallery": {"hardest": [Retrieved(image, "ship", [image], [True], ["ship, 0 bits"])]},
        "plane": Plane(codes, classes, ["cat", "dog"], "t-SNE"),
        "snapshots": [CodeSnapshot(0, codes, classes, None)],
    }


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_has_a_page_and_its_figures(make, tmp_path, read_page):
    paths = write_evaluation(tmp_path, make(), **pictures())
    names = ["precision_recall", "precision_at", "recall_at", "distances", "bits",
             "retrieved", "tsne", "codes_over_training"]  # fmt: skip
    assert paths == [tmp_path / "figures" / f"{name}.png" for name in names]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    }
    page = read_page(tmp_path / "evaluation.html")
    assert page.labels() == [
        "Precision and recall",
        "Precision at N",
        "Recall at N",
        "Distances within and between classes",
        "Balance of the bits",
        "Codes on a plane",
        "Codes over training",
    ]
    for text in (
        "digits/csq/4bit/seed0",
        "0.5000",
        "mAP@all",
        "a" * 64,
        "precision within radius 2: empty fraction 0.2500",
        "quantization: degrees 30.0",
        "N P@N recall@N hit rate@N mAP@N 100 0.5000 0.1000 1.0000 0.5000 1,000 0.2500 0.9000 - -",
        "radius precision macro recall macro",
        "torch 2.15",
        "figures/precision_recall.svg",
        "best.pt",
    ):
        assert text in page.text, text


@pytest.mark.usefixtures("empty_figures")
def test_several_runs_have_a_page_a_table_and_its_numbers(make, tmp_path, read_page):
    runs = [make(seed=seed, value=0.5 + seed / 10) for seed in range(3)]
    paths = write_comparison(tmp_path, [*runs, make("dpn", nbit=8, value=0.3)])
    assert all(path.is_file() and path.suffix == ".png" for path in paths) and len(paths) == 11
    page = read_page(tmp_path / "comparison.html")
    assert len(page.drawings()) == 11
    assert "4 runs" in page.text and "Runs with a mark" not in page.text
    assert "csq 4 3 0.6000 ± 0.1000 0.3000 ± 0.0500" in page.text
    assert "dpn 8 1 0.3000 0.1500" in page.text
    assert "digits/csq/4bit/seed2 csq 4 2 0.7000 200 1,597 best.pt aaaaaaaaaaaa" in page.text
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    first, second = comparison["rows"]
    assert first["metrics"]["map"] == pytest.approx({"mean": 0.6, "sd": 0.1})
    assert second["metrics"]["codes.quantization.l2"] == {"mean": 1.0, "sd": None}
    assert first["seeds"] == [0, 1, 2] and first["fingerprint"] == "a" * 64
    assert first["runs"][1]["metrics"]["precision_at.20"] == pytest.approx(0.7)


@pytest.mark.usefixtures("empty_figures")
def test_what_does_not_compare_is_marked_in_tables(make, tmp_path, read_page):
    write_comparison(tmp_path, [make(), make("dpn", print_="b" * 64), make("dtsh", top=100)])
    page = read_page(tmp_path / "comparison.html")
    assert "Runs with a mark were evaluated on other data" in page.text
    assert "dpn * 4 1 0.5000 * 0.2500 *" in page.text
    assert "dtsh † 4 1 0.5000 † 0.2500 †" in page.text
    assert "* fingerprint bbbbbbbb (aaaaaaaa) † top 100 (–)" in page.text
    assert "Measured as *" in page.text and "Measured as †" in page.text
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["mark"] for row in comparison["rows"]] == ["", "*", "†"]


def test_the_pages_load_nothing_and_run_nothing(make, tmp_path, read_page):
    write_evaluation(tmp_path, make(), **pictures())
    write_comparison(tmp_path, [make(), make("dpn", nbit=8)])
    for name in ("evaluation.html", "comparison.html"):
        page = read_page(tmp_path / name)
        for tag, attributes in page.seen:
            assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
            assert not {"srcset", "xlink:href"} & attributes.keys()
            data = ("#", "data:image/png;base64,")
            assert attributes.get("src", "#").startswith(data)
            assert tag == "a" or attributes.get("href", "#").startswith(data)
            assert not any(key.startswith("on") for key in attributes)
        assert not re.search(r"https?:|@import|<!--", page.source)
        assert all(name[0] == "#" for name in re.findall(r"url\(([^)]*)\)", page.source))
        assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page.source
        ids = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
        assert len(ids) == len(set(ids)) > 0
        wanted = {a["href"] for _, a in page.seen if a.get("href", "").startswith("#")}
        wanted |= set(re.findall(r"url\((#[^)]*)\)", page.source))
        assert wanted <= {f"#{identifier}" for identifier in ids} and wanted


def test_untrusted_text_is_escaped(make, tmp_path, read_page):
    report = make()
    report |= {"name": f"digits/{EVIL}/4bit/seed0", "method": EVIL, "checkpoint": EVIL, "run": EVIL}
    report["environment"] = {EVIL: EVIL}
    report["protocol"] |= {"fingerprint": f'"{EVIL}', "dataset": EVIL}
    report["metrics"]["conventions"]["metric"] = EVIL
    report["metrics"]["precision_at"] = {EVIL: 0.5, "20": 0.5}
    shown = pictures()
    shown["plane"] = Plane(shown["plane"].points, shown["plane"].classes, [EVIL, EVIL], EVIL)
    image = np.zeros((8, 8, 3), np.uint8)
    shown["gallery"] = {"hardest": [Retrieved(image, EVIL, [image], [True], [EVIL], [EVIL, EVIL])]}
    others = {EVIL: 0.5}
    report["classes"] = {
        "depth": 10,
        "compared": 2,
        "classes": [
            {"name": name, "queries": 1, "map": 0.5, "own": 0.5, "others": others}
            for name in (EVIL, "a")
        ],
    }
    write_evaluation(tmp_path, report, **shown)
    write_comparison(tmp_path, [report, make(), make(nbit=8)])
    for name in ("evaluation.html", "comparison.html"):
        page = read_page(tmp_path / name)
        assert "script" not in {tag for tag, _ in page.seen}
        assert all(a["src"].startswith("data:") for tag, a in page.seen if tag == "img")
        assert EVIL in "".join(page.texts)
    for path in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(path)


def test_twice_the_same_gives_the_same_bytes(make, tmp_path):
    for name in "ab":
        write_evaluation(tmp_path / name, make(), **pictures())
        write_comparison(tmp_path / name / "all", [make(), make("dpn")])
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    assert list(first.values()) == list(second.values()) and len(first) > 30


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"metrics": None, "protocol": None, "environment": None},
        {"metrics": {"map": float("nan"), "codes": {"bits": None}}},
    ],
)
def test_what_is_missing_is_left_out(report, tmp_path, read_page):
    assert write_evaluation(tmp_path, report) == []
    page = read_page(tmp_path / "evaluation.html")
    assert page.drawings() == [] and "None" not in page.text and "Figures" not in page.text
    write_comparison(tmp_path, [report, {**report, "nbit": 8}])
    page = read_page(tmp_path / "comparison.html")
    assert page.drawings() == [] and "2 runs" in page.text and "None" not in page.text


@pytest.mark.usefixtures("empty_figures")
def test_multi_label_numbers_stand_beside_the_others(make, tmp_path, read_page):
    report = make()
    report["metrics"]["graded"] = {
        "gain": "exponential",
        "acg_at": {"100": 1.25},
        "ndcg_at": {"100": 0.75},
        "wmap_at": {"100": 1.5},
    }
    write_evaluation(tmp_path, report)
    text = read_page(tmp_path / "evaluation.html").text
    assert "gain of NDCG: exponential" in text and "ACG@N NDCG@N wMAP@N" in text
    assert "0.5000 1.2500 0.7500 1.5000" in text


@pytest.mark.usefixtures("empty_figures")
def test_figures_of_an_earlier_evaluation_go_but_nothing_else(make, tmp_path):
    write_evaluation(tmp_path, make(), **pictures())
    other = tmp_path / "figures" / "mine.png"
    other.write_bytes(b"")
    write_evaluation(tmp_path, make())
    left = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert "mine" in left and "precision_recall" in left and not {"tsne", "retrieved"} & left


@pytest.mark.usefixtures("empty_figures")
def test_a_failure_leaves_the_old_page_and_no_pieces(make, tmp_path, monkeypatch):
    write_evaluation(tmp_path, make())
    before = files(tmp_path)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_evaluation(tmp_path, make(value=0.7))
    assert files(tmp_path) == before


@pytest.mark.usefixtures("empty_figures")
def test_a_long_name_can_break(make, tmp_path, read_page):
    long = make(more="," + "x" * 150)
    write_evaluation(tmp_path, long)
    write_comparison(tmp_path, [long, make(nbit=8)])
    page = read_page(tmp_path / "comparison.html")
    assert "overflow-wrap: anywhere" in page.source
    cells = [a.get("class") for tag, a in page.seen if tag == "th" and a.get("scope") == "row"]
    assert "name" in cells and long["name"] in page.text


@pytest.mark.usefixtures("empty_figures")
def test_the_tables_tell_whole_what_the_figures_shorten(make, tmp_path, read_page):
    names = [f"{'a' * 60}{middle}{'z' * 60}" for middle in "xy"]
    write_comparison(tmp_path, [make(more=f",{name}") for name in names])
    text = read_page(tmp_path / "comparison.html").text
    rows = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    for place, name in enumerate(names):
        label = rows[place]["label"]
        assert label == f"…aaaa{'xy'[place]}zzzz…" and rows[place]["name"] == f"csq {name}"
        assert f"csq {name} {label} 4 1 0.5000" in text


def test_without_runs_there_is_nothing_to_compare(tmp_path):
    with pytest.raises(DataError, match="no runs"):
        write_comparison(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_the_package_is_imported_without_matplotlib():
    script = "import sys, deephash.report; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


def test_figures_are_drawn_without_the_state_of_pyplot(tmp_path):
    script = f"""if True:
        import sys
        from pathlib import Path
        from deephash.report import write_evaluation
        found = {{"metrics": {{"precision_at": {{"1": 0.5, "2": 0.25}}}}}}
        (drawn,) = write_evaluation(Path({str(tmp_path)!r}), found)
        print(drawn.name, "matplotlib.pyplot" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("precision_at.png False", 0), done.stderr


def test_the_users_settings_change_nothing_and_are_not_changed(make, tmp_path):
    import matplotlib

    report = {"metrics": {"precision_at": {"1": 0.5, "2": 0.25}}}
    write_evaluation(tmp_path / "a", report)
    settings = {"font.size": 31, "text.usetex": True, "axes.grid": False, "svg.hashsalt": "mine"}
    with matplotlib.rc_context(settings):
        write_evaluation(tmp_path / "b", report)
        assert {key: matplotlib.rcParams[key] for key in settings} == settings
    assert list(files(tmp_path / "a").values()) == list(files(tmp_path / "b").values())


CLASSES = {
    "depth": 100,
    "compared": 200,
    "classes": [
        {"name": "cat", "queries": 3, "map": 0.9, "own": 0.8, "others": {"dog": 0.2}},
        {"name": "dog", "queries": 2, "map": 0.4, "own": 0.3, "others": {"cat": 0.7}},
    ],
}


@pytest.mark.usefixtures("empty_figures")
def test_classes_are_sorted_by_map_with_the_classes_that_their_queries_return(
    make, tmp_path, read_page
):
    write_evaluation(tmp_path, make() | {"classes": CLASSES})
    text = read_page(tmp_path / "evaluation.html").text
    assert "dog 0.4000 2 30.0% cat 70.0% cat 0.9000 3 80.0% dog 20.0%" in text
    assert "query cat dog cat 80.0 20.0 dog 70.0 30.0" in text
    write_evaluation(tmp_path, make())
    assert "Classes" not in read_page(tmp_path / "evaluation.html").text


@pytest.mark.usefixtures("empty_figures")
def test_a_class_of_which_no_query_was_compared_has_its_map_alone(make, tmp_path, read_page):
    rare = {"name": "owl", "queries": 1, "map": 0.5, "own": None, "others": {}}
    classes = CLASSES | {"classes": [*CLASSES["classes"], rare]}
    write_evaluation(tmp_path, make() | {"classes": classes})
    text = read_page(tmp_path / "evaluation.html").text
    assert "owl 0.5000 1 - - cat 0.9000" in text
    assert "dog 70.0 30.0 0.0 A row" in text  # the matrix has no row of owl


@pytest.mark.usefixtures("empty_figures")
def test_nearest_images_have_a_tab_for_each_kind_and_open_in_large(make, tmp_path, read_page):
    image = np.zeros((80, 70, 3), np.uint8)
    query = Retrieved(image, "q", [image], [False], ["dog, 3 bits"], ["test/1.jpg", "train/2.jpg"])
    write_evaluation(tmp_path, make(), gallery={"spread": [query], "hardest": [query, query]})
    page = read_page(tmp_path / "evaluation.html")
    radios = [a for tag, a in page.seen if tag == "input"]
    assert [("checked" in radio) for radio in radios] == [True, False]
    assert "train/ 2.jpg" in page.text and "✗ dog, 3 bits" in page.text
    images = [a["src"] for tag, a in page.seen if tag == "img"]
    assert len(images) == 6 and images[0].startswith("data:image/jpeg;base64,")
    assert page.text.index("Nearest images") < page.text.index("Figures")
    targets = {a["href"] for tag, a in page.seen if tag == "a" and a["href"].startswith("#image-")}
    assert targets == {
        f"#image-{kind}-{query}-{place}"
        for kind, query in ((1, 1), (2, 1), (2, 2))
        for place in (1, 2)
    }
