"""The page as Markdown: made of its own markup, so that both say the same; pictures beside it."""

import base64
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

from heph_vl.files import write_bytes, write_text, writing
from heph_vl.page import Section

_BLOCKS = ("p", "h3", "summary", "caption", "figcaption", "pre")
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")
_PAPER, _INK = "#ffffff", "#24292f"  # a picture file cannot follow light and dark


def write_markdown(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page as Markdown, and its figures into `<name>_figures` beside it.

    Args:
        path: The .md file.
        title: Of the page, plain text.
        lead: Markup under the title, of `heph_vl.page`.
        sections: In order.
    """
    folder = path.with_name(f"{path.stem}_figures")
    reader = _Reader(folder.name)
    reader.lines += [f"# {_escaped(title)}", ""]
    reader.feed(lead)
    for part in sections:
        reader.lines += [f"## {_escaped(part.title)}", ""]
        reader.feed(part.body)
    reader.close()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if reader.files:
            folder.mkdir(exist_ok=True)
            for old in folder.glob("[0-9][0-9][0-9].*"):  # of a longer page before
                old.unlink()
        for name, data in reader.files.items():
            write_bytes(folder / name, data)
        write_text(path, re.sub(r"\n{3,}", "\n\n", "\n".join(reader.lines)).strip() + "\n")


class _Reader(HTMLParser):
    """Markup of `heph_vl.page` and nothing else, read into lines of Markdown."""

    def __init__(self, folder: str) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = []
        self.files: dict[str, bytes] = {}
        self._folder = folder
        self._text = ""
        self._row: list[str] = []
        self._cards = 0
        self._drawing = ""  # of an SVG that is being read
        self._plain = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if self._drawing or tag == "svg":
            if tag == "svg":
                self._alt = values.get("aria-label", "")
            self._drawing += self.get_starttag_text() or ""
            return
        if tag in (*_BLOCKS, "td", "th"):
            self._text = ""
        elif tag == "tr":
            self._row = []
        elif tag == "table":
            # Markdown has no table without a head.
            self._plain = values.get("class") == "plain"
            self.lines.append("")
            if self._plain:
                self.lines += ["| | |", "|---|---|"]
        elif tag == "img":
            data = base64.b64decode(values["src"].partition(",")[2])
            self._image(data, values["src"].partition("/")[2].partition(";")[0], values["alt"])
        elif tag == "div" and values.get("class", "").startswith("card"):
            self.lines.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._drawing:
            self._drawing += self.get_starttag_text() or ""
        else:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._drawing:
            self._drawing += f"</{tag}>"
            if tag == "svg":
                self._finish_drawing()
        elif tag in ("td", "th"):
            self._row.append(_escaped(self._text.strip()))
        elif tag == "tr":
            self.lines.append(f"| {' | '.join(self._row)} |")
        elif tag == "thead":
            self.lines.append("|---|" + "---:|" * (len(self._row) - 1))
        elif tag == "table":
            self.lines.append("")
        elif tag == "pre":
            text = self._text.strip("\n")
            fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
            self.lines += [fence, text, fence, ""]
        elif tag in _BLOCKS:
            mark = {"h3": "### ", "summary": "#### "}.get(tag, "")
            slanted = "*" if tag in ("caption", "figcaption") and self._text.strip() else ""
            said = _escaped(" ".join(self._text.split()))
            self.lines += ["", f"{mark}{slanted}{said}{slanted}", ""]

    def handle_data(self, data: str) -> None:
        if self._drawing:
            self._drawing += data.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        else:
            self._text += data

    def _finish_drawing(self) -> None:
        drawn = self._drawing.replace("currentColor", _INK)
        paper = f'<rect width="100%" height="100%" fill="{_PAPER}"/>'
        start = drawn.index(">") + 1
        drawn = '<?xml version="1.0" encoding="utf-8"?>\n' + drawn[:start] + paper + drawn[start:]
        self._drawing = ""
        self._image(drawn.encode(), "svg", self._alt)

    def _image(self, data: bytes, kind: str, alt: str) -> None:
        name = f"{len(self.files) + 1:03d}.{kind}"
        self.files[name] = data
        self.lines.append(f"![{_escaped(alt)}]({self._folder.replace(' ', '%20')}/{name})")


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
