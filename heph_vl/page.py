"""One HTML page without scripts or other files: text, pictures, tables and plots.

Every function returns markup with all text escaped; pictures and plots are embedded.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from heph_vl.files import write_text, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"  # in a plot: becomes the colour of the text around it, light or dark
_MANY = 3  # sections: from here on they are listed at the top

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --ink: #1c2026; --faint: #646c77;
  --line: #dcdfe3; --card: #ffffff; --good: #1a7f4b; --accent: #2b5fb3; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e3e6ea;
  --faint: #98a1ad; --line: #333a43; --card: #1c2127; --good: #5cc48d; --accent: #7fb0f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 3rem 0 .75rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
.faint, figcaption, caption { color: var(--faint); }
.grid { display: grid; gap: 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(var(--least, 11rem), 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .75rem; font-size: .86rem; line-height: 1.45; overflow-wrap: anywhere; }
.card.good { border-color: var(--good); }
.card p { margin: .35rem 0 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(4rem, 1fr)); gap: .4rem; }
figure { margin: 0; }
figcaption { font-size: .75rem; line-height: 1.3; margin-top: .15rem; }
img { display: block; width: 100%; height: auto; border-radius: 4px; }
.badge { font-weight: 600; color: var(--good); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .75rem 0 1.5rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .35rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; font-weight: 400; }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--faint); }
.plain td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
.plain td:first-child { white-space: nowrap; color: var(--faint); }
summary { cursor: pointer; color: var(--accent); margin: .5rem 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem;
  overflow-x: auto; font-size: .8rem; line-height: 1.45; }
svg { width: 100%; height: auto; display: block; color: var(--ink); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1.25rem 0 0; font-size: .9rem; }
a { color: var(--accent); text-decoration: none; }
.missing { border-left: 3px solid var(--line); padding-left: .7rem; color: var(--faint);
  font-size: .9rem; overflow-wrap: anywhere; }
.tag { color: var(--accent); }
"""


@dataclass(frozen=True)
class Section:
    """A heading and its markup."""

    title: str
    body: str


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page, all or nothing.

    Args:
        path: The .html file.
        title: Of the page, plain text.
        lead: Markup under the title.
        sections: In order.
    """
    body = "\n".join(
        f'<h2 id="s{i}">{escape(s.title)}</h2>\n{s.body}' for i, s in enumerate(sections)
    )
    links = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(sections))
    contents = f"<nav>{links}</nav>" if len(sections) >= _MANY else ""
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{lead}\n{contents}\n{body}\n</body>\n</html>\n"
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)


def heading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, *, faint: bool = False) -> str:
    """A paragraph of plain text."""
    return f"<p{' class=faint' if faint else ''}>{escape(text)}</p>"


def missing(text: str) -> str:
    """What could not be shown, and what would show it."""
    return f'<p class="missing">{escape(text)}</p>'


def picture(image: Image.Image, caption: str = "", *, side: int = 288, alt: str = "") -> str:
    """An embedded picture.

    Args:
        image: Any mode; transparency is kept.
        caption: Under it, plain text.
        side: Largest width and height [px]; a larger image is shrunk.
        alt: What it shows, for those who do not see it; the caption if empty.

    Returns:
        A figure.
    """
    image = image.convert("RGBA")
    image.thumbnail((side, side))
    buffer = BytesIO()
    image.save(buffer, format="WEBP", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img src="data:image/webp;base64,{data}" alt="{escape(alt or caption)}" '
        f'width="{image.width}" height="{image.height}" loading="lazy">{note}</figure>'
    )


def card(pictures: Sequence[str], lines: Sequence[str], *, badge: str = "") -> str:
    """Pictures side by side with lines of plain text below; a badge marks it as good."""
    mark = f'<p class="badge">{escape(badge)}</p>' if badge else ""
    text = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return (
        f'<div class="card{" good" if badge else ""}">'
        f'<div class="pictures">{"".join(pictures)}</div>{mark}{text}</div>'
    )


def grid(cards: Sequence[str], *, least: str = "11rem") -> str:
    """Cards in as many columns of at least this width as fit."""
    return f'<div class="grid" style="--least: {escape(least)}">{"".join(cards)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """A table of plain texts: the first column to the left, numbers to the right."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    note = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{note}<thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(values: Mapping[str, str]) -> str:
    """Names and values as a plain two-column table."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
        for name, value in values.items()
    )
    return f'<table class="plain"><tbody>{rows}</tbody></table>'


def details(summary: str, body: str) -> str:
    """Markup that opens on a click, without a script."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def preformatted(text: str) -> str:
    """Plain text with its line breaks."""
    return f"<pre>{escape(text)}</pre>"


def plot(figure: "Figure", caption: str = "", *, alt: str = "") -> str:
    """A matplotlib figure as SVG, with text that stays text.

    Args:
        figure: What is drawn in INK takes the colour of the page's text; it needs no background.
        caption: Under it, plain text.
        alt: What it shows, for those who do not see it; the caption if empty.

    Returns:
        A figure, at most as wide as it was made.
    """
    import matplotlib

    drawn = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "heph_vl"}):
        figure.savefig(drawn, format="svg", transparent=True)
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)  # no one refers to these
    # Names of shared shapes are the plot's own: it must not take those of another, hidden one.
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'( id="|"#|url\(#)', rf"\g<1>x{own}", svg)
    width = round(figure.get_figwidth() * 96)
    start = f'<svg role="img" aria-label="{escape(alt or caption)}" style="max-width: {width}px" '
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg.replace('<svg ', start, 1)}{note}</figure>"
