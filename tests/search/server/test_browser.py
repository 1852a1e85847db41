"""The search page in Chromium: upload, click through, keyboard, phone, no request elsewhere.

Needs the package playwright and Chromium; DEEPHASH_SCREENSHOTS=FOLDER keeps screenshots.
"""

import os

import pytest

from deephash.search.server.app import Limits, make_app
from tests import browser as browsers
from tests.search.pictures import save
from tests.search.server.conftest import running

playwright = browsers.driver()
pytestmark = browsers.needs_browser


@pytest.fixture(scope="module")
def address(service):
    with running(make_app(service, Limits(size=50_000))) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser():
    with browsers.started() as started:
        yield started


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")],
                ids=lambda value: f"{value[0]}-{value[1]}")  # fmt: skip
def page(request, browser, address):
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"
    )
    opened = context.new_page()
    opened.urls, opened.errors = [], []
    opened.on("request", lambda sent: opened.urls.append(sent.url))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto(address)
    opened.wait_for_selector("#pictures li")
    yield opened
    if folder := os.environ.get("DEEPHASH_SCREENSHOTS"):
        name = f"{request.node.originalname}-{width}-{scheme}.png"
        opened.screenshot(path=os.path.join(folder, name), full_page=True)
    assert opened.errors == []
    assert all(url.startswith((address, "blob:")) for url in opened.urls), opened.urls
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def captions(page):
    return page.locator("#pictures .caption").all_inner_texts()


def upload(page, path):
    page.set_input_files("#file", path)
    page.wait_for_selector("#query:not([hidden])")


def test_an_upload_finds_itself(page, tmp_path):
    upload(page, save(tmp_path / "my photo.png", 3))
    assert captions(page)[0] == "0 bits · dogs & more"
    assert page.inner_text("#query-name") == "my photo.png"
    assert page.locator("#bits i").count() == 20
    assert "encoded in" in page.inner_text("#status")
    assert page.locator("#query-picture").evaluate("image => image.naturalWidth") == 10


def test_click_through_and_back(page):
    first = page.locator("#pictures .find").first
    name = first.locator(".name").inner_text()
    first.click()
    page.wait_for_selector("#query:not([hidden])")
    assert page.inner_text("#query-name") == name
    assert page.locator("#pictures li").count() == 11
    assert page.locator("#pictures li.same").count() > 0
    page.reload()  # the address contains the image
    page.wait_for_selector("#query:not([hidden])")
    assert page.inner_text("#query-name") == name
    page.go_back()
    page.wait_for_selector("#query", state="hidden")
    assert page.locator("#pictures li").count() == 12


def test_the_keyboard_is_enough(page):
    page.locator("#file").focus()
    for _ in range(4):  # two sliders, the classes, the first image
        page.keyboard.press("Tab")
    name = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert name.startswith("Find images similar to ")
    page.keyboard.press("Enter")
    page.wait_for_selector("#query:not([hidden])")
    assert page.inner_text("#query-name") == name.removeprefix("Find images similar to ")
    page.locator("#pictures .open").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#large").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#large").is_visible()


def test_sliders_and_classes_limit_the_results(page, tmp_path):
    upload(page, save(tmp_path / "query.png", 3))
    page.locator("#radius").fill("0")
    playwright.expect(page.locator("#pictures li")).to_have_count(1)
    page.select_option("#class", "cats")
    playwright.expect(page.locator("#pictures li")).to_have_count(0)
    assert "No image within distance 0" in page.inner_text("#more")
    page.locator("#radius").fill("20")
    playwright.expect(page.locator("#pictures li")).to_have_count(8)
    assert all("cats" in caption for caption in captions(page))


def test_a_file_that_is_no_image_gives_a_message(page, tmp_path):
    damaged = tmp_path / "photo.png"
    damaged.write_bytes(b"not an image")
    page.set_input_files("#file", damaged)
    page.wait_for_selector("#status.failed")
    assert "cannot be read" in page.inner_text("#status")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(60_000))
    page.set_input_files("#file", large)
    playwright.expect(page.locator("#status")).to_contain_text("MB")
