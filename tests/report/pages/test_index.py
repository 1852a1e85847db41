"""The page of all sweeps and runs: rows, order, links and filters."""

import re

from deephash.report.pages.index import IndexedRun, IndexedSweep, write_index_page

EVIL = '<script>alert("x")</script>'


def run(name, state="finished", sweep="", value=0.5, **report):
    dataset, method, bits, last = name.split("/")
    if state == "finished":
        report |= {"metrics": {"map": value}, "protocol": {"protocol": "59k"}}
    return IndexedRun(name, dataset, method, bits, last, state, sweep, report, "")


RUNS = [
    run("digits/csq/32bit/seed0", "failed"),
    run("digits/csq/8bit/seed0,trainer.epochs=2", value=0.4),
    run("digits/relahash/8bit/seed1,first", value=0.7, sweep="beta",
        full_name="digits/relahash/8bit/seed1,method.loss.scale=5"),
    run(f"digits/{EVIL.replace('/', '')}/8bit/seed2", value=0.3),
]  # fmt: skip


def test_runs_are_sorted_and_link_to_their_pages(tmp_path, read_page):
    (tmp_path / RUNS[2].name).mkdir(parents=True)
    (tmp_path / RUNS[2].name / "report.html").touch()
    path = write_index_page(tmp_path, [IndexedSweep("beta", "The beta", 1, 2)], RUNS)
    page = read_page(path)
    assert path == tmp_path / "index.html"
    order = [page.text.index(text) for text in ("0.7000", "0.4000", "0.3000")]
    assert order == sorted(order)
    assert "3 of 4 runs have finished" in page.text
    assert "beta The beta 1 of 2 none" in page.text
    assert "first method.loss.scale=5" in page.text
    links = [a["href"] for tag, a in page.seen if tag == "a" and "report.html" in a["href"]]
    assert links == ["digits/relahash/8bit/seed1%2Cfirst/report.html"] * 2  # method, and run
    assert not any(tag == "script" for tag, _ in page.seen)


def test_each_value_of_a_filter_has_a_rule(tmp_path, read_page):
    source = read_page(write_index_page(tmp_path, [], RUNS)).source
    rows = re.findall(r'<tr class="([^"]*)">', source)
    assert len(rows) == 4
    rules = re.findall(r"#filter-(\d+) option:nth-child\((\d+)\).*?:not\(\.(f[\d-]+)\)", source)
    assert {mark for _, _, mark in rules} == {mark for row in rows for mark in row.split()}
    assert all(f"f{outer}-{int(child) - 2}" == mark for outer, child, mark in rules)
    bits = [mark for row in rows for mark in row.split() if mark.startswith("f2-")]
    assert sorted(bits) == ["f2-0", "f2-0", "f2-0", "f2-1"]  # 8 before 32


def test_a_folder_without_runs_has_a_page(tmp_path, read_page):
    assert "There are no runs yet." in read_page(write_index_page(tmp_path, [], [])).text
