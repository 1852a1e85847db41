"""All pages in Chromium, at two widths, light and dark: nothing overflows, and text is legible.

Needs the package playwright and Chromium; DEEPHASH_SCREENSHOTS=FOLDER keeps screenshots.
"""

import json
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from deephash.report import Retrieved, write_comparison, write_evaluation, write_html
from deephash.report.pages.index import IndexedRun, IndexedSweep, write_index_page
from deephash.report.pages.sweep import write_sweeps
from deephash.report.paired_results import Pair, PairedResults
from deephash.report.results import Layout, Sweep, make_sections
from tests import browser as browsers
from tests.report.conftest import make_report
from tests.report.pages.test_evaluation import CLASSES
from tests.report.pages.test_run import REPORT, line
from tests.report.pages.test_sweep import job

browsers.driver()
pytestmark = browsers.needs_browser

LONG = "backbone.weights=" + "tf_efficientnet_lite0-imagenet," * 4

CONTRAST = """
() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      const [r, g, b, a = 1] = parse(colour);
      if (colour.startsWith("rgb") && a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const weak = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("svg, style")) continue;
    if (!element.getClientRects().length) continue;
    const two = [parse(getComputedStyle(element).color), behind(element)].map(light);
    const ratio = (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
    const text = walker.currentNode.data.trim();
    if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${text.slice(0, 40)}`);
  }
  return weak;
}
"""
"""Texts with a contrast below 4.5, the limit of WCAG AA."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """All pages of a folder of outputs, with names and settings that are long."""
    outputs = tmp_path_factory.mktemp("outputs")
    name = f"digits/relahash/32bit/seed0,{LONG}"
    run = outputs / name
    run.mkdir(parents=True)
    log = [
        line(where, step, epoch, **values)
        for epoch in range(1, 9) for step in (5 * epoch,)
        for where, values in (("train", {"loss": 3 / epoch, "lr": 1e-3}),
                              ("query", {"map": epoch / 9}))
    ]  # fmt: skip
    (run / "log.jsonl").write_text("".join(log))
    report = {**REPORT, "run": name}
    report["metrics"] = {**make_report()["metrics"], "ties": REPORT["metrics"]["ties"]}
    (run / "report.json").write_text(json.dumps(report))
    (run / "config.yaml").write_text("method: {name: relahash, paper: RelaHash}\n")
    (run / "overrides.txt").write_text(f"method=relahash\n{LONG}\n")
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
    captions = ["cat, 3 bits"] * 5
    query = Retrieved(images[0], "query 0: dog, AP 0.500", list(images[1:]), [True, False] * 2 +
                      [True], captions, [f"train/dog/{LONG}.jpg"] * 6)  # fmt: skip
    result = {**make_report(), "run": str(run), "name": name, "classes": CLASSES}
    write_evaluation(run, result, gallery={"hardest": [query] * 2, "easiest": [query]})
    write_html(run)
    write_comparison(outputs / "comparison", [make_report(), make_report("dpn", more=f",{LONG}")])
    jobs = [
        job(scale, nbit, seed, 0.8 + scale / 100, values={"batch": size},
            run=f"{scale}{nbit}{seed}{size}", settings=(LONG,))
        for scale in (5, 10) for nbit in (16, 64) for seed in (0, 1) for size in (8, 32)
    ]  # fmt: skip
    sweep = Sweep("beta", tuple(jobs), Layout(("method.loss.scale", "batch")), "T", "S", LONG * 3)
    sections = make_sections([sweep])
    pairs = PairedResults((Pair(16, (5, 8), (10, 8), -0.05, -0.06, -0.04, 2, 100),), (), True, 9)
    write_sweeps(outputs / "sweeps" / "beta", [sweep], sections, {0: pairs}, outputs)
    runs = [IndexedRun(name, "digits", "relahash", "32bit", f"seed0,{LONG}", "finished", "beta",
                       report, "")]  # fmt: skip
    runs += [IndexedRun(f"a/b/8bit/seed{seed}", "a", "b", "8bit", f"seed{seed}", "failed", "", {},
                        "no memory") for seed in range(3)]  # fmt: skip
    write_index_page(outputs, [IndexedSweep("beta", "A title", 16, 16)], runs)
    return {
        "run": run / "report.html",
        "evaluation": run / "evaluation.html",
        "comparison": outputs / "comparison" / "comparison.html",
        "sweep": outputs / "sweeps" / "beta" / "report.html",
        "index": outputs / "index.html",
    }


@pytest.fixture(scope="module")
def browser():
    with browsers.started() as started:
        yield started


@pytest.fixture
def opened(browser):
    contexts = []

    def open_page(path, width=1280, scheme="light"):
        size = {"width": width, "height": 844}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["run", "evaluation", "comparison", "sweep", "index"])
def test_nothing_overflows_and_all_text_is_legible(pages, opened, name, width, scheme):
    page = opened(pages[name], width, scheme)
    if folder := os.environ.get("DEEPHASH_SCREENSHOTS"):
        file = os.path.join(folder, f"{name}-{width}-{scheme}.png")
        page.screenshot(path=file, full_page=True)
    page.evaluate("document.querySelectorAll('details').forEach(it => it.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []


def test_all_links_of_the_pages_exist(pages, opened):
    for path in pages.values():
        page = opened(path)
        targets = page.eval_on_selector_all("a[href]", "all => all.map(link => link.href)")
        for target in targets:
            if target.startswith("file:") and "#" not in target:
                assert Path(unquote(urlsplit(target).path)).is_file(), target


def test_tabs_and_images_work_without_a_script(pages, opened):
    page = opened(pages["evaluation"])
    easiest = page.locator("#queries-2")
    assert not easiest.is_visible()
    page.locator("label[for=tab-2]").click()
    assert easiest.is_visible() and not page.locator("#queries-1").is_visible()
    image = easiest.locator("img").nth(1)
    before = image.bounding_box()["width"]
    image.click()
    assert image.bounding_box()["width"] > 3 * before
    easiest.locator(".close:visible").click()
    assert image.bounding_box()["width"] == before and easiest.is_visible()


def test_filters_of_the_index_hide_rows(pages, opened):
    page = opened(pages["index"])
    rows = page.locator(".runs tbody tr:visible")
    assert rows.count() == 4
    page.get_by_label("state").select_option("failed")
    assert rows.count() == 3
    page.get_by_label("dataset").select_option("digits")
    assert rows.count() == 0
    page.get_by_label("state").select_option("all")
    assert rows.count() == 1


def test_a_click_selects_the_whole_command(pages, opened):
    page = opened(pages["run"])
    page.locator(".copy code").first.click()
    selected = page.evaluate("getSelection().toString()")
    assert selected.startswith("deephash train method=relahash") and selected.endswith(",")
