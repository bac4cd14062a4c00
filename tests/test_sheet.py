"""The contact sheet shows each picture once, in order, and never fails on odd rows."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heph_vl.errors import HephError
from heph_vl.heat import Heat
from heph_vl.index import Hit
from heph_vl.sheet import draw_hits, spotlight

COLOURS = [(166, 0, 38), (49, 55, 149), (20, 140, 60), (240, 200, 20), (0, 160, 200), (90, 40, 160)]


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (192, 150), colour).save(buffer, "PNG")
    return buffer.getvalue()


def hits(n: int, **row: object) -> list[Hit]:
    base = {
        "image_id": "1",
        "frame_id": "128D_09016_110500",
        "primary_date": "2018-01-01",
        "secondary_date": "2018-01-13",
        "activity_types": ["sill"],
        "caption": "A sill-type deformation pattern can be detected. " * 6,
    }
    return [Hit(i + 1, 0.9 - i / 10, base | row) for i in range(n)]


def test_every_picture_is_drawn_in_reading_order(tmp_path: Path) -> None:
    draw_hits(hits(6), [png(colour) for colour in COLOURS], tmp_path / "sheet.png", title="a query")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    places = []
    for colour in COLOURS:
        found = np.argwhere((pixels == colour).all(axis=-1))
        assert len(found) == 192 * 150
        places.append((found.min(axis=0) // 100).tolist())
    assert [y for y, _ in places] == [places[0][0]] * 5 + [places[5][0]]
    assert places[5][0] > places[0][0]
    assert [x for _, x in places[:5]] == sorted(x for _, x in places[:5])
    assert places[5][1] == places[0][1]


def test_the_text_stays_in_its_cell(tmp_path: Path) -> None:
    words = {"caption": "x" * 400, "frame_id": "y" * 100}
    draw_hits(hits(1, **words), [None], tmp_path / "sheet.png", title="z" * 300)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert (pixels[:, -8:] == 255).all()
    assert (pixels < 100).any()  # something is written


def test_missing_fields_leave_gaps(tmp_path: Path) -> None:
    nothing = dict.fromkeys(
        ("frame_id", "primary_date", "secondary_date", "activity_types", "caption")
    )
    draw_hits(hits(2, **nothing), [None, png(COLOURS[0])], tmp_path / "new" / "sheet.png")
    assert (tmp_path / "new" / "sheet.png").is_file()


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(HephError, match="no results"):
        draw_hits([], [], tmp_path / "sheet.png")
    with pytest.raises(HephError, match=r"sheet\.xyz: could not be written"):
        draw_hits(hits(1), [None], tmp_path / "sheet.xyz")
    (tmp_path / "file").write_text("")
    with pytest.raises(HephError, match="could not be written"):
        draw_hits(hits(1), [None], tmp_path / "file" / "sheet.png")


def test_a_heat_map_leaves_its_peak_bright_and_rings_it(tmp_path: Path) -> None:
    cells = np.zeros((10, 12), np.float32)
    cells[7, 2] = 3
    heat = Heat(cells, (150, 192))
    assert heat.peak == (40, 120)
    picture = Image.new("RGBA", (192, 150), (*COLOURS[0], 255))
    drawn = np.asarray(spotlight(picture, heat))[..., :3].astype(int)
    away = np.abs(drawn - COLOURS[0]).sum(-1)
    assert away[120, 40] < 30
    assert away[20, 150] > 300  # dimmed towards white
    assert (drawn[120, 40 + 24] == 0).all()  # the ring, black
    draw_hits(hits(2), [png(COLOURS[0])] * 2, tmp_path / "heat.png", heat=[heat, None])
    pixels = np.asarray(Image.open(tmp_path / "heat.png"))
    assert (pixels == COLOURS[0]).all(-1).sum() == pytest.approx(192 * 150, rel=0.01)
