"""The app in a browser: every tab is clicked through with the reference weights, nothing is mocked.

HEPH_VL_SCREENSHOTS=folder keeps pictures of the pages.
"""

import dataclasses
import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import tifffile
from PIL import Image

pytest.importorskip("gradio", reason="the app needs gradio: pip install -e '.[app]'")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
ARGUMENTS = (
    "--no-sandbox --headless --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
MINUTE = 60_000  # ms
ANSWER = 90_000


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from heph_vl import app

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield app.prepare()


@pytest.fixture(scope="module")
def address(models):
    from heph_vl import app
    from tests.test_app import free_port

    page = app.page(models)
    yield app.serve(page, host="127.0.0.1", port=free_port(), wait=False)
    page.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    """A fresh page; what it asks of other machines and what breaks in it fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(MINUTE)
    elsewhere, broken = [], []
    opened.on("request", lambda request: elsewhere.append(request.url))
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.goto(address, wait_until="networkidle")
    yield opened
    context.close()
    hosts = {urlsplit(url).hostname for url in elsewhere if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert broken == []


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
    """A simulated pair as PNGs and as GeoTIFFs, and things that are none."""
    from heph_vl.data.phase import read_interferogram

    folder = tmp_path_factory.mktemp("files")
    phase, coherence, _ = next(e for e in models.gallery.examples() if e[2] == "sill")
    wrapped = read_interferogram(phase)
    place = [(33550, "d", 3, (1 / 300, 1 / 300, 0.0), True)]
    place.append((33922, "d", 6, (0, 0, 0, 14.8, 37.9, 0), True))
    radians = np.where(wrapped.valid, wrapped.wrapped_phase, np.nan).astype(np.float32)
    tifffile.imwrite(folder / "20180101_20180113.geo.diff_pha.tif", radians, extratags=place)
    with Image.open(coherence) as grey:
        tifffile.imwrite(folder / "20180101_20180113.geo.cc.tif", np.asarray(grey), extratags=place)
    shutil.copy(phase, folder / "pair.png")
    shutil.copy(coherence, folder / "coherence.png")
    Image.fromarray(np.full((80, 80), 90, np.uint8)).save(folder / "grey.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "paper.png").write_bytes(b"%PDF-1.7\n")
    return folder


def shot(page, name):
    folder = os.environ.get("HEPH_VL_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1000)  # pictures fade in
        page.mouse.move(0, 0)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()
    return page.get_by_role("tabpanel").filter(visible=True).first


def upload(panel, path, coherence=None):
    choose(panel, path, 0)
    if coherence is not None:
        panel.get_by_role("button", name=re.compile("^Its coherence")).click()
        choose(panel, coherence, 1)


def choose(panel, path, number):
    with panel.page.expect_file_chooser() as chooser:
        panel.get_by_role("button", name="Click to upload").first.click()
    chooser.value.set_files(path)
    panel.locator(".file-preview").nth(number).wait_for()


def fits(page):
    """Nothing sticks out to the right."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_search_by_words(page):
    shot(page, "start")
    panel = tab(page, "Search")
    panel.get_by_label("What to look for").fill("sill on the left, <img src=x onerror=alert(1)>")
    panel.get_by_role("button", name="Search", exact=True).click()
    read = panel.get_by_label("How it was read")
    playwright.expect(read).to_have_value(re.compile("Read as: .*sill.*"), timeout=ANSWER)
    playwright.expect(read).to_have_value(re.compile("Not understood: .*onerror"))
    playwright.expect(panel.locator(".thumbnail-lg")).to_have_count(12)
    assert fits(page)
    shot(page, "search")


def test_search_by_an_upload_with_filters(page, files):
    panel = tab(page, "Search")
    panel.get_by_role("button", name=re.compile("^or an interferogram")).click()
    upload(panel, files / "pair.png")
    panel.get_by_role("button", name=re.compile("^Filters")).click()
    panel.get_by_label("And", exact=True).fill("activity_types = 'sill'")
    panel.get_by_role("button", name="Search", exact=True).click()
    first = panel.get_by_role("grid").locator("tbody tr").first
    playwright.expect(first).to_contain_text("sill", timeout=ANSWER)
    shot(page, "search_upload")
    panel.get_by_label("And", exact=True).fill("nonsense = 1")
    panel.get_by_role("button", name="Search", exact=True).click()
    toast = page.get_by_test_id("toast-body")
    playwright.expect(toast).to_contain_text("nonsense", timeout=ANSWER)
    shot(page, "search_error")


def test_caption_of_an_example(page):
    panel = tab(page, "Caption")
    panel.locator(".thumbnail-lg").first.click()
    panel.get_by_text("geo.diff").first.wait_for()
    shot(page, "caption_chosen")
    panel.get_by_role("button", name="Describe").click()
    playwright.expect(panel.get_by_label("Caption", exact=True)).not_to_be_empty(timeout=ANSWER)
    text = panel.get_by_label("Caption", exact=True).input_value()
    assert text.endswith(".")
    playwright.expect(panel.get_by_label("How sure")).to_have_value(re.compile("measured"))
    playwright.expect(panel.get_by_role("grid").locator("tbody tr").first).to_contain_text(
        re.compile(r"[01]\.\d\d")
    )
    assert fits(page)
    shot(page, "caption")


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_detect(page, files, kind, tmp_path):
    panel = tab(page, "Detect")
    if kind == "tif":
        pair = "20180101_20180113.geo."
        upload(panel, files / f"{pair}diff_pha.tif", files / f"{pair}cc.tif")
    else:
        upload(panel, files / "pair.png")
    panel.get_by_role("button", name="Detect", exact=True).click()
    summary = panel.get_by_label("Summary")
    playwright.expect(summary).to_have_value(re.compile("probability"), timeout=ANSWER)
    said = "Outlines in the GeoJSON" if kind == "tif" else "no GeoJSON"
    playwright.expect(summary).to_have_value(re.compile(said))
    how = "measured" if kind == "tif" else "estimated"
    playwright.expect(summary).to_have_value(re.compile(f"Coherence is {how}"))
    playwright.expect(panel.get_by_text("turbulent mixing").first).to_be_visible()
    assert fits(page)
    shot(page, f"detect_{kind}")
    with page.expect_download() as download:
        panel.locator("a[download*='.mask.png']").first.click()
    download.value.save_as(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.size == (224, 224)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("grey.png", "grey image"),
        ("empty.png", "empty file"),
        ("paper.png", "neither PNG nor TIFF"),
    ],
)
def test_a_bad_upload_is_told_in_one_line(page, files, name, line):
    panel = tab(page, "Detect")
    upload(panel, files / name)
    panel.get_by_role("button", name="Detect", exact=True).click()
    toast = page.get_by_test_id("toast-body")
    playwright.expect(toast).to_contain_text(line, timeout=ANSWER)
    assert "Traceback" not in toast.inner_text()
    assert "/tmp" not in toast.inner_text()
    shot(page, f"error_{name.partition('.')[0]}")


def test_generate(page):
    panel = tab(page, "Generate")
    panel.get_by_label("What is to be seen").fill("Mogi on the left, flummery")
    panel.get_by_role("button", name="Draw").click()
    read = panel.get_by_label("How it was read")
    playwright.expect(read).to_have_value(re.compile("Not understood: .*flummery"), timeout=ANSWER)
    playwright.expect(panel.get_by_text("generated, not an observation").first).to_be_visible()
    playwright.expect(panel.locator(".thumbnail-lg")).to_have_count(4)
    assert fits(page)
    shot(page, "generate")


def test_a_card_of_a_third_party_fetches_nothing_and_runs_nothing(page, models, tmp_path):
    from heph_vl import app
    from tests.test_app import CARD, free_port

    (tmp_path / "README.md").write_text(CARD)
    other = app.page(dataclasses.replace(models, folders=models.folders | {"heads": tmp_path}))
    try:
        page.goto(app.serve(other, host="127.0.0.1", port=free_port(), wait=False))
        page.get_by_role("button", name=re.compile("^Model cards")).click()
        page.get_by_role("tab", name="heads", exact=True).click()
        page.get_by_role("heading", name="A card").wait_for()
        said = page.get_by_text("{{value}}").filter(visible=True)
        playwright.expect(said).to_have_text('<pair> ${document.title = "taken"} {{value}}')
        panel = page.get_by_role("tabpanel").filter(visible=True).last
        assert panel.locator("img, svg, script, iframe").count() == 0
        assert "license" not in panel.inner_text()
        assert page.title() == app.TITLE
        page.wait_for_load_state("networkidle")
        shot(page, "card_of_a_third_party")
    finally:
        other.close()


def test_narrow_screens_and_the_cards(page):
    page.get_by_role("button", name=re.compile("^Model cards")).click()
    for name in ("generator", "captioner", "retriever", "heads"):
        page.get_by_role("tab", name=name, exact=True).click()
        page.get_by_text("2 CPU cores").filter(visible=True).first.wait_for()
        card = page.locator(".card.prose").filter(visible=True)
        assert "library_name" not in card.inner_text()
        assert card.evaluate("card => card.scrollWidth <= card.clientWidth")
        shot(page, f"card_{name}")
    page.set_viewport_size({"width": 420, "height": 800})
    assert fits(page)
    shot(page, "narrow")
