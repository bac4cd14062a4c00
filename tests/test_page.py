"""The page's parts: everything escaped, nothing fetched, plots that follow light and dark."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from heph_vl import page

NASTY = "<script>alert(\"x\")</script> & 'quoted'"


class Reader(HTMLParser):
    """Collects tags and text; void tags are known, all others must be closed in order."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30))
def test_any_text_comes_out_as_text(text: str) -> None:
    parts = (
        page.paragraph(text),
        page.heading(text),
        page.card([], [text], badge=text),
        page.table([text], [[text]], caption=text),
        page.facts({text: text}),
        page.details(text, page.preformatted(text)),
    )
    for part in parts:
        reader = Reader(part)
        assert reader.text in (text, text * 2, text * 3)
        assert "script" not in reader.tags


def drawn(caption: str = "") -> str:
    """A plot of a line and a cross in the colour of the text, and a blue one."""
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1, 2], [3, 1, 2], color=page.INK, marker="o")
    axes.plot([0, 1], [0, 1], color="#2f87c8")
    axes.set_xlabel(caption)
    return page.plot(figure, caption)


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    picture = page.picture(Image.new("RGB", (4, 4)), NASTY)
    chart = drawn(NASTY)
    out = tmp_path / "new" / "index.html"
    sections = [page.Section(NASTY, page.grid([picture, chart]))]
    page.write_page(out, NASTY, page.paragraph(NASTY), sections)
    markup = out.read_text()
    reader = Reader(markup.removeprefix("<!doctype html>"))
    assert "script" not in reader.tags
    # Title twice, lead, heading, two captions, and the label of the axis.
    assert reader.text.count(NASTY) == 7
    assert not re.search(r" (src|href)=\"(?!data:)|url\((?!#)|@import", markup)
    assert "prefers-color-scheme: dark" in markup


def test_a_picture_keeps_its_pixels_and_its_no_data() -> None:
    image = Image.new("RGBA", (600, 300), (166, 0, 38, 255))
    image.paste((0, 0, 0, 0), (0, 0, 300, 300))
    markup = page.picture(image, side=200)
    data = re.search(r"base64,([^\"]+)", markup)
    assert data is not None
    found = Image.open(BytesIO(base64.b64decode(data[1])))
    assert found.size == (200, 100)
    red, alpha = found.getpixel((150, 50)), found.getpixel((50, 50))
    assert isinstance(red, tuple)
    assert isinstance(alpha, tuple)
    assert red[:3] == pytest.approx((166, 0, 38), abs=12)
    assert (red[3], alpha[3]) == (255, 0)
    assert image.size == (600, 300)


def test_many_sections_are_listed_at_the_top_in_order(tmp_path: Path) -> None:
    names = ["One", "Two & a half", "Three"]
    page.write_page(tmp_path / "a.html", "t", "", [page.Section(n, "") for n in names])
    markup = (tmp_path / "a.html").read_text()
    assert re.findall(r'<a href="#(s\d)">', markup) == re.findall(r'<h2 id="(s\d)">', markup)
    assert "Two &amp; a half</a>" in markup
    page.write_page(tmp_path / "b.html", "t", "", [page.Section(n, "") for n in names[:2]])
    assert "<nav>" not in (tmp_path / "b.html").read_text()


def test_a_plot_takes_the_colour_of_the_text_and_keeps_its_own() -> None:
    markup = drawn("loss")
    assert page.INK not in markup
    assert "currentColor" in markup
    assert "#2f87c8" in markup
    assert re.search(r"<text[^>]*>loss</text>", markup)  # text, not outlines
    assert "max-width: 288px" in markup  # 3 inches
    assert "<metadata>" not in markup


def test_plots_of_one_page_do_not_share_names() -> None:
    assert drawn("a") == drawn("a")  # the same page from the same numbers
    first, second = (set(re.findall(r' id="([^"]+)"', drawn(name))) for name in ("a", "b"))
    assert first
    assert not first & second
    for markup in (drawn("a"), drawn("b")):
        names = set(re.findall(r' id="([^"]+)"', markup))
        asked = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', markup))
        assert {x or y for x, y in asked} <= names
