"""One HTML page without scripts or other files: text, figures, tables and line charts.

Every function returns markup with all text escaped; pictures are embedded.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from heph_vl.files import write_text, writing

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
  grid-template-columns: repeat(auto-fill, minmax(var(--least, 11rem), 1fr)); }
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
summary { cursor: pointer; color: var(--accent); margin: .5rem 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem;
  overflow-x: auto; font-size: .8rem; line-height: 1.45; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--faint); font: 11px system-ui, sans-serif; }
svg .axis { stroke: var(--line); }
svg .curve { fill: none; stroke: var(--accent); stroke-width: 1.8; }
svg .dot { fill: var(--accent); }
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
    body = "\n".join(f"<h2>{escape(s.title)}</h2>\n{s.body}" for s in sections)
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{lead}\n{body}\n</body>\n</html>\n"
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


def line_chart(points: Sequence[tuple[float, float]], title: str) -> str:
    """A curve as SVG, with its first, last and extreme values on the axes.

    Args:
        points: (x, y), finite, at least one.
        title: What y is, plain text.

    Returns:
        A figure.
    """
    width, height, left, bottom, top = 420, 200, 52, 24, 12
    xs, ys = zip(*sorted(points), strict=True)
    x_span, y_span = max(xs) - min(xs) or 1, max(ys) - min(ys) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (x - min(xs)) / x_span * (width - left - 10)
        down = top + (max(ys) - y) / y_span * (height - top - bottom)
        return round(across, 1), round(down, 1)

    path = " ".join(f"{x},{y}" for x, y in map(place, xs, ys))
    dots = "".join(
        f'<circle class="dot" cx="{x}" cy="{y}" r="2.5"/>'
        for x, y in map(place, xs, ys)
        if len(xs) <= 30
    )
    floor = height - bottom
    labels = [
        (left - 6, top + 4, "end", f"{max(ys):.4g}"),
        (left - 6, floor, "end", f"{min(ys):.4g}"),
        (left, height - 6, "start", f"step {min(xs):g}"),
        (width - 10, height - 6, "end", f"{max(xs):g}"),
    ]
    text = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(label)}</text>'
        for x, y, anchor, label in labels
    )
    return (
        f'<figure class="card"><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title)}"><path class="axis" fill="none" '
        f'd="M{left},{top}V{floor}H{width - 10}"/><polyline class="curve" points="{path}"/>'
        f"{dots}{text}</svg><figcaption>{escape(title)}</figcaption></figure>"
    )
