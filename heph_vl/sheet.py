"""Contact sheets: search results as one picture, for a look and for a mail.

A heat map dims its picture where it is low, and a ring marks its peak: colours of the phase stay
what they are.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from heph_vl.errors import HephError
from heph_vl.heat import CELL, Heat
from heph_vl.index import Hit

COLUMNS = 5
_CELL = 208  # px: a thumbnail and its margin
_LINES = 6  # of text under a picture
_LINE_HEIGHT = 15
_MARGIN = 8
_DIM = 0.4  # of the colour that is left where a heat map is 0
_PAPER, _INK, _FAINT, _LAND = (255, 255, 255), (25, 28, 33), (105, 112, 122), (232, 234, 237)


def draw_hits(
    hits: Sequence[Hit],
    thumbnails: Sequence[bytes | None],
    path: str | Path,
    *,
    title: str = "",
    heat: Sequence[Heat | None] = (),
) -> None:
    """Write search results as a grid of pictures with rank, score, place, dates and caption.

    Args:
        hits: Best first.
        thumbnails: An encoded picture for each hit, or None.
        path: The picture to write; its ending gives the format (.png, .jpg, .webp).
        title: The query, above the grid.
        heat: For each hit where its picture is bright, or None; none at all for plain pictures.

    Raises:
        HephError: If there is nothing to draw or the file cannot be written.
    """
    if not hits:
        raise HephError(str(path), "no results to draw", "search for something else")
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    columns = min(COLUMNS, len(hits))
    rows = -(-len(hits) // columns)
    cell_height = _CELL + _LINES * _LINE_HEIGHT
    width = max(columns * _CELL, 2 * _CELL) + _MARGIN
    heading = _wrap(title, font, width - 2 * _MARGIN, 2) if title else []
    top = len(heading) * (_LINE_HEIGHT + 4) + _MARGIN
    page = Image.new("RGB", (width, top + rows * cell_height), _PAPER)
    draw = ImageDraw.Draw(page)
    for i, line in enumerate(heading):
        draw.text((_MARGIN, _MARGIN + i * (_LINE_HEIGHT + 4)), line, _INK, font)
    maps = heat or [None] * len(hits)
    for i, (hit, thumbnail, found) in enumerate(zip(hits, thumbnails, maps, strict=True)):
        x, y = _MARGIN + i % columns * _CELL, top + i // columns * cell_height
        _paste(page, thumbnail, found, x, y)
        y += _CELL - _MARGIN
        for j, line in enumerate(_label(hit, small)):
            draw.text((x, y + j * _LINE_HEIGHT), line, _FAINT if j else _INK, small)
    _save(page, Path(path))


def tile_pictures(
    tiles: Sequence[tuple[str, Image.Image]], path: str | Path, *, columns: int, scale: int = 1
) -> None:
    """Write pictures of one size as a grid, each with its text below.

    Args:
        tiles: Text and picture of each.
        path: The picture to write.
        columns: Pictures in a row.
        scale: Each pixel is drawn as a square of so many.

    Raises:
        HephError: If there is nothing to draw or the file cannot be written.
    """
    if not tiles:
        raise HephError(str(path), "no pictures to draw", "ask for at least one")
    font = ImageFont.load_default(11)
    width, height = (side * scale for side in tiles[0][1].size)
    texts = [_wrap(text, font, width, _LINES) for text, _ in tiles]
    lines = max(map(len, texts))
    step = width + _MARGIN, height + lines * _LINE_HEIGHT + _MARGIN
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * step[0] + _MARGIN, rows * step[1] + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    for i, ((_, picture), text) in enumerate(zip(tiles, texts, strict=True)):
        x, y = _MARGIN + i % columns * step[0], _MARGIN + i // columns * step[1]
        page.paste(picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (x, y))
        for j, line in enumerate(text):
            draw.text((x, y + height + j * _LINE_HEIGHT), line, _INK, font)
    _save(page, Path(path))


def draw_phrases(
    picture: Image.Image, phrases: Sequence[tuple[str, Heat]], path: str | Path, *, title: str = ""
) -> None:
    """Write what is said of a picture, sentence by sentence, bright where each comes from.

    Args:
        picture: Of the whole image; shown whole and untouched first.
        phrases: Sentences, each with its map.
        path: The picture to write; its ending gives the format.
        title: Above the pictures.

    Raises:
        HephError: If the file cannot be written.
    """
    font, small = ImageFont.load_default(13), ImageFont.load_default(12)
    side, margin = 2 * _CELL, 2 * _MARGIN
    panels = [
        ("", picture.convert("RGBA")),
        *((said, spotlight(picture, h)) for said, h in phrases),
    ]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    lines = [_wrap(said, small, side - margin, 4) for said, _ in panels]
    height = side + max(map(len, lines)) * _LINE_HEIGHT + margin
    page = Image.new("RGB", (columns * side + margin, margin + 20 + rows * height), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((margin, _MARGIN), _shortened(title, font, page.width - 2 * margin), _INK, font)
    for i, ((_, panel), said) in enumerate(zip(panels, lines, strict=True)):
        x, y = margin + i % columns * side, margin + 20 + i // columns * height
        inner = side - margin
        scale = inner / max(panel.size)
        size = max(1, round(panel.width * scale)), max(1, round(panel.height * scale))
        shown = panel.resize(size, Image.Resampling.LANCZOS)
        draw.rectangle((x, y, x + inner - 1, y + inner - 1), fill=_LAND)
        page.paste(shown, (x + (inner - size[0]) // 2, y + (inner - size[1]) // 2), shown)
        for j, line in enumerate(said):
            draw.text((x, y + inner + 4 + j * _LINE_HEIGHT), line, _INK, small)
    _save(page, Path(path))


def spotlight(picture: Image.Image, heat: Heat) -> Image.Image:
    """A picture dimmed where its heat map is low, with a ring around the peak.

    Args:
        picture: Of the whole image, at any scale; transparency is kept.
        heat: Of the same image.

    Returns:
        RGBA of the same size.
    """
    rows, columns = heat.cells.shape
    cells = Image.fromarray(heat.cells / max(float(heat.cells.max()), 1e-9))
    height, width = heat.size
    smooth = cells.resize((columns * CELL, rows * CELL), Image.Resampling.BICUBIC)
    smooth = smooth.crop((0, 0, width, height)).resize(picture.size, Image.Resampling.BILINEAR)
    share = _DIM + (1 - _DIM) * np.asarray(smooth).clip(0, 1)[..., None]
    pixels = np.asarray(picture.convert("RGBA")).astype(np.float32)
    pixels[..., :3] = 255 - share * (255 - pixels[..., :3])
    drawn = Image.fromarray(pixels.astype(np.uint8))
    if not heat.cells.any():  # no place speaks for it: no peak
        return drawn
    x = heat.peak[0] * picture.width / width
    y = heat.peak[1] * picture.height / height
    radius = max(5.0, 1.5 * CELL * picture.width / width)
    draw = ImageDraw.Draw(drawn)
    for wider, colour in ((1, (255, 255, 255, 255)), (0, (0, 0, 0, 255))):
        r = radius + wider
        draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=1 + 2 * wider)
    return drawn


def _paste(page: Image.Image, thumbnail: bytes | None, heat: Heat | None, x: int, y: int) -> None:
    side = _CELL - 2 * _MARGIN
    ImageDraw.Draw(page).rectangle((x, y, x + side - 1, y + side - 1), fill=_LAND)
    if thumbnail is None:
        return
    picture = Image.open(BytesIO(thumbnail)).convert("RGBA")
    picture.thumbnail((side, side))
    if heat is not None:
        picture = spotlight(picture, heat)
    corner = x + (side - picture.width) // 2, y + (side - picture.height) // 2
    page.paste(picture, corner, picture)


def _label(hit: Hit, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    row = hit.row
    dates = [row.get("primary_date"), row.get("secondary_date")]
    lines = [
        f"{hit.rank}.  {hit.score:.3f}   {row.get('frame_id') or row['image_id']}",
        " to ".join(date for date in dates if date),
    ]
    kinds = [kind for kind in row.get("activity_types") or [] if kind]
    if kinds:
        lines.append(", ".join(kinds))
    caption = _wrap(row.get("caption") or "", font, _CELL - 2 * _MARGIN, _LINES - len(lines))
    return [_shortened(line, font, _CELL - 2 * _MARGIN) for line in (*lines, *caption)]


def _wrap(
    text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int, most: int
) -> list[str]:
    """Lines of at most `width` px; what does not fit into `most` lines ends in an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words:
        if len(lines) == most:
            lines[-1] = _shortened(lines[-1] + " ...", font, width)
            break
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line += " " + words.pop(0)
        lines.append(_shortened(line, font, width))
    return lines


def _shortened(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    while font.getlength(line) > width:
        line = line.removesuffix("...").rstrip()[:-1].rstrip() + "..."
    return line


def _save(page: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        page.save(path)
    except (OSError, ValueError) as error:  # PIL names an unknown ending by ValueError
        raise HephError(
            str(path), f"could not be written: {error}", "name a .png in a writable folder"
        ) from error
