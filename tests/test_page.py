"""The page's parts: everything escaped, nothing fetched, charts in their frame."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
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


def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    picture = page.picture(Image.new("RGB", (4, 4)), NASTY)
    chart = page.line_chart([(0, 1.0), (1, 2.0)], NASTY)
    out = tmp_path / "new" / "index.html"
    sections = [page.Section(NASTY, page.grid([picture, chart]))]
    page.write_page(out, NASTY, page.paragraph(NASTY), sections)
    markup = out.read_text()
    reader = Reader(markup.removeprefix("<!doctype html>"))
    assert "script" not in reader.tags
    assert reader.text.count(NASTY) == 6  # title twice, lead, heading, two captions
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import", markup)
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


@pytest.mark.parametrize("points", [[(3, 5.0)], [(0, 1.0), (10, 1.0)], [(10, -2.0), (0, 7.0)]])
def test_a_chart_stays_in_its_frame_with_large_values_on_top(
    points: list[tuple[float, float]],
) -> None:
    markup = page.line_chart(points, "loss")
    path = re.search(r'points="([^"]+)"', markup)
    assert path is not None
    places = [tuple(map(float, pair.split(","))) for pair in path[1].split()]
    assert len(places) == len(points)
    assert all(0 <= x <= 420 and 0 <= y <= 200 for x, y in places)
    assert places == sorted(places)
    if points[0] == (10, -2.0):
        assert places[0][1] < places[1][1]  # the point at x = 0 has the larger y: higher up
