"""The contact sheet shows each picture once, in order, and never fails on odd rows."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heph_vl.errors import HephError
from heph_vl.heat import Heat
from heph_vl.index import Hit
from heph_vl.sheet import draw_hits, draw_phrases, spotlight, tile_pictures

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


SIDE, INNER = 416, 400  # of a panel with its margin, and of the picture in it [px]


def peaked(column: int, row: int) -> Heat:
    """A map that is 1 in one cell of a picture of 192 x 160 px, else 0."""
    cells = np.zeros((10, 12), np.float32)
    cells[row, column] = 1
    return Heat(cells, (160, 192))


def test_each_sentence_has_its_panel_bright_where_it_comes_from(tmp_path: Path) -> None:
    picture = Image.new("RGB", (192, 160), COLOURS[0])
    cells = [(2, 1), (9, 8), (4, 6)]
    phrases = [(f"Sentence {i}.", peaked(*cell)) for i, cell in enumerate(cells)]
    draw_phrases(picture, phrases, tmp_path / "why.png", title="a.png")
    page = Image.open(tmp_path / "why.png")
    pixels = np.asarray(page).astype(int)
    # Three panels in a row, then one; of each row as high as one line of text needs.
    assert page.size == (3 * SIDE + 16, 36 + 2 * (SIDE + 15 + 16))
    height = round(160 * INNER / 192)

    def panel(i: int) -> np.ndarray:
        x = 16 + i % 3 * SIDE
        y = 36 + i // 3 * (SIDE + 15 + 16) + (INNER - height) // 2
        return pixels[y : y + height, x : x + INNER]

    assert (panel(0) == COLOURS[0]).all()  # untouched
    whole = (pixels == COLOURS[0]).all(-1).sum()
    for i, (column, row) in enumerate(cells, start=1):
        near = np.abs(panel(i) - COLOURS[0]).sum(-1) < 60
        assert 0.001 < near.mean() < 0.05
        y, x = np.argwhere(near).mean(0) * 192 / INNER
        assert (x, y) == pytest.approx((16 * column + 8, 16 * row + 8), abs=3)
        whole -= (panel(i) == COLOURS[0]).all(-1).sum()
    assert whole == INNER * height
    # Under each sentence's picture are words, under the first none.
    for i in range(4):
        x, y = 16 + i % 3 * SIDE, 36 + i // 3 * (SIDE + 15 + 16) + INNER
        words = pixels[y + 2 : y + 30, x : x + INNER]
        assert (words.max(-1) < 100).any() == (i > 0)


def test_a_caption_without_words_shows_the_picture_alone(tmp_path: Path) -> None:
    tall = Image.new("RGB", (100, 200), COLOURS[1])
    draw_phrases(tall, [], tmp_path / "new" / "why.png", title="t" * 300)
    page = Image.open(tmp_path / "new" / "why.png")
    assert page.size == (SIDE + 16, 36 + SIDE + 16)
    pixels = np.asarray(page)
    found = np.argwhere((pixels == COLOURS[1]).all(-1))
    assert found.min(0).tolist() == [36, 16 + 100]
    assert found.max(0).tolist() == [36 + 399, 16 + 299]
    assert (pixels[:, -8:] == 255).all()  # the title is shortened


def test_long_sentences_end_after_four_lines_inside_their_panel(tmp_path: Path) -> None:
    picture = Image.new("RGB", (192, 160), COLOURS[0])
    long = [("many words " * 200, peaked(1, 1)), ("x" * 400, peaked(2, 2))]
    draw_phrases(picture, long, tmp_path / "why.png")
    page = Image.open(tmp_path / "why.png")
    assert page.size == (3 * SIDE + 16, 36 + SIDE + 4 * 15 + 16)
    pixels = np.asarray(page)
    for i in (1, 2):
        assert (pixels[36 + INNER :, 16 + i * SIDE + INNER + 4 : (i + 1) * SIDE + 12] == 255).all()


def test_a_page_of_phrases_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 20))
    with pytest.raises(HephError, match=r"why\.xyz: could not be written"):
        draw_phrases(picture, [], tmp_path / "why.xyz")
    (tmp_path / "file").write_text("")
    with pytest.raises(HephError, match="could not be written"):
        draw_phrases(picture, [], tmp_path / "file" / "why.png")


def test_a_map_of_nothing_has_no_peak() -> None:
    picture = Image.new("RGBA", (64, 64), (10, 20, 30, 255))
    blank = np.asarray(spotlight(picture, Heat(np.zeros((4, 4), np.float32), (64, 64))))
    assert len(np.unique(blank.reshape(-1, 4), axis=0)) == 1
    cells = np.zeros((4, 4), np.float32)
    cells[1, 2] = 1.0
    ringed = np.asarray(spotlight(picture, Heat(cells, (64, 64))))
    assert (ringed[..., :3].sum(-1) == 0).any()


def test_tiles_lie_in_reading_order_each_pixel_a_square(tmp_path: Path) -> None:
    tiles = [(f"Tile {i}", Image.new("RGB", (60, 40), colour)) for i, colour in enumerate(COLOURS)]
    fine = np.zeros((40, 60, 3), np.uint8)
    fine[::2, ::2] = 255
    tiles[1] = "", Image.fromarray(fine)
    tile_pictures(tiles, tmp_path / "new" / "tiles.png", columns=4, scale=2)
    page = Image.open(tmp_path / "new" / "tiles.png")
    assert page.size == (4 * (120 + 8) + 8, 2 * (80 + 15 + 8) + 8)
    pixels = np.asarray(page)
    for i, colour in enumerate(COLOURS):
        x, y = 8 + i % 4 * 128, 8 + i // 4 * 103
        shown = pixels[y : y + 80, x : x + 120]
        if i == 1:
            assert np.array_equal(shown[::2, ::2], fine)
            assert np.array_equal(shown[1::2, 1::2], fine)
        else:
            assert (shown == colour).all()
            assert (pixels == colour).all(-1).sum() == 80 * 120
        words = pixels[y + 80 : y + 97, x : x + 120]
        assert (words.max(-1) < 128).any() == (i != 1)


def test_a_long_text_of_a_tile_stays_below_it(tmp_path: Path) -> None:
    tiles = [("many words " * 100, Image.new("RGB", (60, 40), COLOURS[0])) for _ in range(2)]
    tile_pictures(tiles, tmp_path / "tiles.png", columns=2)
    pixels = np.asarray(Image.open(tmp_path / "tiles.png"))
    assert (pixels == COLOURS[0]).all(-1).sum() == 2 * 60 * 40
    assert (pixels[:, 68:76] == 255).all()
    assert (pixels[:, -8:] == 255).all()


def test_tiles_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    with pytest.raises(HephError, match=r"tiles.png: no pictures to draw; ask for at least one"):
        tile_pictures([], tmp_path / "tiles.png", columns=4)
    tiles = [("", Image.new("RGB", (20, 20)))]
    with pytest.raises(HephError, match=r"tiles\.xyz: could not be written"):
        tile_pictures(tiles, tmp_path / "tiles.xyz", columns=4)
    # Fewer tiles than columns, and one that is not RGB.
    tile_pictures([("a", Image.new("P", (20, 20)))], tmp_path / "one.png", columns=4)
    assert (tmp_path / "one.png").is_file()
