import json
import re

import numpy as np
import pytest

from deephash.errors import DataError
from deephash.report import Retrieved, write_html, write_nearest

REPORT = {
    "schema": 1,
    "deephash": "0.1.0",
    "run": "digits/relahash/32bit/seed0",
    "method": "relahash",
    "nbit": 32,
    "seed": 0,
    "metrics": {
        "map": 0.68431,
        "ties": {"expected": 0.6839, "stable": 0.6843, "best": 0.7011, "worst": 0.6645},
        "precision_within_radius_2": {"zero": 0.61, "nonempty": 0.83, "empty_fraction": 0.2654},
        "pr_curve": {
            "radius": [0, 1, 2],
            "precision_macro": [0.9, 0.8, None],
            "recall_macro": [0.1, 0.5, 1],
        },
        "database": 59000,
        "conventions": {"ties": "distance, then database index"},
    },
    "selection": {
        "select_on": "val",
        "map_best_on_query": 0.6901,
        "epoch_best_on_query": 90,
        "map_at_val_epoch": 0.6843,
        "epoch_at_val": 80,
        "map_last": 0.682,
        "epoch_last": 100,
        "selected_epoch": 80,
        "eval_every": 10,
        "epochs": 100,
        "stopped_early": False,
    },
    "protocol": {
        "dataset": "digits",
        "protocol": "half",
        "fingerprint": "3f9a0b7c1d2e4f50",
        "overlaps": {"queries_in_database": 0},
        "class_counts": list(range(100, 120)),
        "skipped": None,
    },
    "training": {"seconds": 912.4, "images_per_second": 412.7, "data_share": 0.0345},
    "environment": {"torch": "2.15", "gpu": None},
    "git": {"commit": "2a1aeb9", "dirty": True},
    "checkpoint": "best.pt",
}


def line(where, step, epoch, **values):
    return json.dumps({"time": "t", "where": where, "step": step, "epoch": epoch, **values}) + "\n"


@pytest.fixture
def folder(tmp_path):
    log = ""
    for epoch in (10, 80, 100):
        terms = {"loss": 3 / epoch, "lmcl": 2 / epoch, "quantization": 1 / epoch}
        log += line("train", epoch * 5, epoch, **terms, lr=1e-3, images_per_second=412.0)
        log += line("query", epoch * 5, epoch, map=0.6) + line("val", epoch * 5, epoch, map=0.61)
    log += line("train", 501, 101, loss="nan", lmcl="nan", quantization="nan", lr=1e-3) + '{"torn'
    (tmp_path / "log.jsonl").write_text(log)
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    (tmp_path / "config.yaml").write_text("model:\n  nbit: 32\n")
    (tmp_path / "overrides.txt").write_text("method=relahash\nmodel.nbit=32\n")
    return tmp_path


def test_the_page_holds_the_numbers(folder, read_page):
    path = write_html(folder)
    assert path == folder / "report.html"
    assert not list(folder.glob("*.tmp"))
    page = read_page(path)
    for text in (
        "0.6843",
        "0.6901",
        "0.6820",
        "epoch 80",
        "+0.0058 over the epoch chosen on validation",
        "The run of 100 epochs was evaluated every 10 epochs.",
        "3f9a0b7c1d2e",
        "59,000",
        "0.2654",
        "distance, then database index",
        "queries in database",
        "20 values from 100 to 119",
        "912.4 (15:12)",
        "waiting for data",
        "3.5%",
        "deephash train method=relahash model.nbit=32",
        "nbit: 32",
        "2a1aeb9",
        "best.pt",
    ):
        assert text in page.text, text
    assert page.text.count("reported ") >= 1
    headings = page.labels()
    assert headings[0] == (
        "mAP over epoch: queries, validation; loss over epoch: loss, lmcl, quantization; "
        "learning rate over epoch: learning rate"
    )
    assert len(headings) == 3
    assert "selected: 80" in page.text


def test_the_page_loads_nothing_and_runs_nothing(folder, read_page):
    page = read_page(write_html(folder))
    for tag, attributes in page.seen:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base"}
        assert not {"src", "srcset", "xlink:href"} & attributes.keys()
        assert tag == "a" or attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"https?:|@import|<!--", page.source)
    assert all(name[0] == "#" for name in re.findall(r"url\(([^)]*)\)", page.source))
    ids = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0
    assert "default-src 'none'" in page.source
    assert "prefers-color-scheme: dark" in page.source


def test_untrusted_text_is_escaped(folder, read_page):
    evil = '</pre></title><script>alert("x")</script><img src=x onerror=alert(1)>'
    (folder / "config.yaml").write_text(f"name: {evil}\n")
    (folder / "overrides.txt").write_text(evil)
    (folder / "log.jsonl").write_text(
        line("train", 1, 1, **{evil: 1.0}) + line(evil, 1, 1, map=0.1)
    )
    report = REPORT | {"run": evil, "method": evil, "git": {evil: evil}}
    report["protocol"] = REPORT["protocol"] | {"fingerprint": f'"{evil}'}
    report["metrics"] = REPORT["metrics"] | {"ties": {"worst": 0.1, "best": 0.2, evil: 0.15}}
    report["metrics"]["pr_curve"] = {
        "radius": [evil],
        "precision_macro": [0.5],
        "recall_macro": [0.5],
    }
    (folder / "report.json").write_text(json.dumps(report))
    page = read_page(write_html(folder))
    assert not {"script", "img"} & {tag for tag, _ in page.seen}
    assert evil in "".join(page.texts)
    assert len(page.drawings()) == 3


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"metrics": {"map": 0.5}},
        {"metrics": {"map": None}, "selection": None, "protocol": {}},
        {"metrics": {"map": float("nan"), "ties": {"best": None, "worst": 0.1}}},
        {"training": {"seconds": None}, "selection": {"map_last": 0.5, "map_at_val_epoch": None}},
    ],
)
def test_what_is_missing_is_left_out(tmp_path, report, read_page):
    (tmp_path / "report.json").write_text(json.dumps(report))
    page = read_page(write_html(tmp_path))
    assert page.drawings() == []
    assert "None" not in page.text
    assert "Over the epochs" not in page.source


def test_without_validation_the_gap_is_to_the_last_epoch(folder, read_page):
    selection = REPORT["selection"] | {"map_at_val_epoch": None, "epoch_at_val": None}
    (folder / "report.json").write_text(json.dumps(REPORT | {"selection": selection}))
    assert "+0.0081 over the last epoch" in read_page(write_html(folder)).text


def test_a_sole_term_is_drawn_once(folder, read_page):
    (folder / "log.jsonl").write_text(
        "".join(line("train", step, 1, loss=1 / step, lmcl=1 / step) for step in (1, 2, 3))
    )
    drawings = read_page(write_html(folder)).drawings()
    assert drawings[0].get("aria-label") == "loss over epoch: lmcl"


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_no_report_is_an_error_that_names_the_file(tmp_path, content):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(DataError, match=r"report\.json"):
        write_html(tmp_path)
    assert not (tmp_path / "report.html").exists()


REFERENCE = {
    "method": "pca_rr",
    "draws": 10,
    "map": 0.7012,
    "sd": 0.0123,
    "maps": [0.7],
    "seconds": 1,
}


def test_a_reference_stands_beside_the_run(folder, read_page):
    report = {**REPORT, "kind": "unsupervised", "reference": REFERENCE}
    report["metrics"] = {**REPORT["metrics"], "agreement": {"spearman": 0.61, "recall_at_10": 0.42}}
    report["reference"] |= {
        "agreement": {
            "spearman": 0.51,
            "spearman_sd": 0.02,
            "recall_at_10": 0.33,
            "recall_at_10_sd": 0.01,
        }
    }
    (folder / "report.json").write_text(json.dumps(report))
    page = read_page(write_html(folder))
    for text in (
        "PCA + random rotation, mean ± sd of 10",
        "0.7012 ± 0.0123",
        "0.5100 ± 0.0200",
        "0.3300 ± 0.0100",
        "0.4200",
        "unsupervised",
        "Agreement with features",
        "Not better than PCA with random rotations of the same features: 0.6843",
    ):
        assert text in page.text, text
    (folder / "report.json").write_text(json.dumps({**report, "method": "pca_rr"}))
    assert "Not better" not in read_page(write_html(folder)).text  # than other draws of its own
    report["metrics"]["map"] = 0.71
    (folder / "report.json").write_text(json.dumps(report))
    assert "Not better" not in read_page(write_html(folder)).text
    report["reference"] = {"method": "pca_rr", "skipped": "64 bits are more than 32"}
    (folder / "report.json").write_text(json.dumps(report))
    assert "There is no reference: 64 bits are more than 32." in read_page(write_html(folder)).text


def test_selection_by_agreement_is_a_card(folder, read_page):
    more = {
        "select_on": "agreement",
        "map_at_agreement_epoch": 0.6777,
        "epoch_at_agreement": 40,
        "agreement_best": 0.5,
    }
    report = {**REPORT, "selection": {**REPORT["selection"], **more}}
    (folder / "report.json").write_text(json.dumps(report))
    with (folder / "log.jsonl").open("a") as log:
        log.write("\n" + line("val", 600, 110, agreement=0.5))
    page = read_page(write_html(folder))
    assert "Chosen by agreement" in page.text and "0.6777" in page.text
    assert "; recall of the 10 nearest over epoch: validation; " in page.labels()[0]


UNLABELLED = {
    "map": None,
    "note": "no labels",
    "distances": {"distance": [0.0], "share": [1.0]},
    "codes": {"bits": {"ones": [0.5, 0.4]}, "distances": {"share": [0.2, 0.8]}},
    "agreement": {"spearman": 0.5, "recall_at_10": 0.25},
}


def test_nearest_images_are_on_the_page_without_labels_alone(folder, read_page):
    image = np.zeros((80, 70, 3), np.uint8)
    query = Retrieved(image, "q", [image] * 2, None, ["2.jpg, 1 bit", "3.jpg, 2 bits"],
                      ["1.jpg", "2.jpg", "far/3.jpg"])  # fmt: skip
    write_nearest(folder, [query])
    assert "<img" not in read_page(write_html(folder)).source
    (folder / "report.json").write_text(json.dumps({**REPORT, "metrics": UNLABELLED}))
    page = read_page(write_html(folder))
    images = [a for tag, a in page.seen if tag == "img"]
    assert [a["alt"] for a in images] == ["query", "2.jpg, 1 bit", "3.jpg, 2 bits"]
    assert all(a["src"].startswith("data:image/jpeg;base64,") for a in images)
    assert page.text.count("2.jpg") == 1 and "far/ 3.jpg" in page.text  # no name twice
    assert not any(tag == "input" for tag, _ in page.seen)  # of one kind there are no tabs
    assert "✓" not in page.text
    assert "0.2500 recall of the 10 nearest" in page.text and "Codes: bit entropy" in page.text
    assert "share of ones over bit: ones" in page.labels()
    assert any(label.startswith("share of pairs over Hamming distance") for label in page.labels())


@pytest.mark.parametrize(
    "url", ["https://elsewhere.org/a.png", "data:text/html;base64,cG5n", 'data:image/png;base64,"']
)
def test_images_from_elsewhere_are_not_on_the_page(folder, read_page, url):
    image = {"url": url, "caption": "", "relevant": None, "name": ""}
    content = {"schema": 1, "queries": [{"title": "q", "images": [image]}]}
    (folder / "report.json").write_text(json.dumps({**REPORT, "metrics": UNLABELLED}))
    (folder / "nearest.json").write_text(json.dumps(content))
    page = read_page(write_html(folder))
    assert not any(tag == "img" for tag, _ in page.seen) and "Nearest images" not in page.text
