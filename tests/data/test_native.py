"""One pair at 1/300 degree: what passes through untouched, what is resampled, what is refused."""

import io
import struct
import zlib
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from PIL import Image

from heph_vl.data import phase
from heph_vl.data.archive import load_pair, scan_archive
from heph_vl.data.native import (
    STRIPMAP_SPACING_DEG,
    data_meter,
    encode_png,
    has_data,
    source_spacing_deg,
    usual_size,
    usual_sizes,
)
from heph_vl.errors import HephError
from tests.data.fake_archive import (
    FRAMES,
    record,
    ring,
    write_annotation,
    write_fake_archive,
    write_images,
)

STRIPMAP = "144A_SM_REUN_S6"


def one_pair(root, *, frame=FRAMES[0], size=64, polygon=None, rng=None):
    raw = record(5, frame, date(2018, 1, 1), date(2018, 1, 13))
    if polygon is not None:
        raw |= {
            "label": ["Deformation"],
            "activity_type": ["Sill"],
            "intensity_level": ["Low"],
            "phase": "Unrest",
            "segmentation_mask": [polygon],
        }
    write_images(root, raw, size, rng or np.random.default_rng(0))
    write_annotation(root, raw)
    return scan_archive(root).annotated[0]


def smooth_field(width, height, fringes):
    """Picture of a phase ramp with `fringes` cycles from left to right."""
    ramp = np.broadcast_to(np.linspace(0, 2 * np.pi * fringes, width), (height, width))
    wrapped = phase.wrap(ramp.astype(np.float32))
    return Image.fromarray(phase.colour(wrapped))


def circular_error(a, b):
    return np.abs(np.angle(np.exp(1j * (a - b))))


def test_a_preview_passes_through_as_stored(tmp_path):
    pair = one_pair(tmp_path, size=(80, 64), polygon=ring(30, 20, 8))
    native = load_pair(pair)
    assert native.image_png == pair.image.read_bytes()
    assert native.coherence_png == pair.coherence.read_bytes()
    assert native.size == (80, 64)
    assert native.mask.shape == (64, 80)
    assert native.mask[20, 30] == 3
    assert native.pixel_spacing_deg == 1 / 300
    assert native.events == pair.annotation.events


def test_missing_coherence(tmp_path):
    pair = replace(one_pair(tmp_path), coherence=None)
    native = load_pair(pair)
    assert native.coherence is None
    assert native.coherence_png is None


@pytest.mark.parametrize(
    ("frame", "factor", "usual"),
    [(STRIPMAP, 3.6, (360, 288)), (FRAMES[0], 10 / 3, (108, 86))],
)
def test_finer_images_are_resampled_with_their_polygons(tmp_path, frame, factor, usual):
    polygon = ring(150, 90, 30)
    pair = one_pair(tmp_path, frame=frame, size=(360, 288), polygon=polygon)
    picture = smooth_field(360, 288, fringes=6)
    picture.save(pair.image)
    native = load_pair(pair, usual)
    width, height = round(360 / factor), round(288 / factor)
    assert native.size == (width, height) == native.image.size
    assert native.mask.shape == (height, width)
    assert native.pixel_spacing_deg == pytest.approx(1 / 300 / factor)
    (event,) = native.events
    np.testing.assert_allclose(
        np.array(event.polygon), np.reshape(polygon, (-1, 2)) / factor, rtol=1e-12
    )
    area = np.pi * (30 / factor) ** 2
    assert (native.mask == 3).sum() == pytest.approx(area, rel=0.15)
    rows, columns = np.nonzero(native.mask)
    assert columns.mean() + 0.5 == pytest.approx(150 / factor, abs=0.3)
    assert rows.mean() + 0.5 == pytest.approx(90 / factor, abs=0.3)
    decoded = phase.decode_image(Image.open(io.BytesIO(native.image_png)))
    centres = (np.arange(width) + 0.5) * factor - 0.5
    expected = np.broadcast_to(centres * (12 * np.pi / 359), (height, width))
    assert decoded.valid.all()
    assert np.median(circular_error(decoded.wrapped_phase, expected)) < 0.04
    assert native.coherence.shape == (height, width)
    stored = np.asarray(Image.open(io.BytesIO(native.coherence_png)))
    np.testing.assert_array_equal(stored, np.rint(native.coherence * 255))


def test_resampling_keeps_no_data_and_does_not_dilute_coherence(tmp_path):
    pair = one_pair(tmp_path, frame=STRIPMAP, size=(360, 360))
    picture = smooth_field(360, 360, fringes=5)
    pixels = np.asarray(picture).copy()
    pixels[:, :181] = 255
    Image.fromarray(pixels).save(pair.image)
    coherence = np.full((360, 360), 200, np.uint8)
    coherence[:, :181] = 0
    Image.fromarray(coherence).save(pair.coherence)
    native = load_pair(pair)
    valid = has_data(native.image)
    assert valid.mean() == pytest.approx(0.5, abs=0.01)
    assert not valid[:, :50].any()
    assert valid[:, 51:].all()
    shown = native.coherence[:, 51:]
    np.testing.assert_allclose(shown, 200 / 255, atol=1e-3)
    np.testing.assert_array_equal(
        phase.decode_image(Image.open(io.BytesIO(native.image_png))).valid, valid
    )


def test_the_older_palette_stays_the_older_palette(tmp_path):
    pair = one_pair(tmp_path, frame=STRIPMAP, size=(216, 216))
    rows, columns = np.mgrid[:216, :216]
    wrapped = phase.wrap((columns / 12 + rows / 30).astype(np.float32))
    Image.fromarray(phase.colour(wrapped, palette="old")).save(pair.image)
    native = load_pair(pair)
    assert phase.decode_image(Image.open(io.BytesIO(native.image_png))).palette == "old"


def test_resolution_is_recognised_image_by_image():
    preview, full = (810, 780), (2700, 2600)
    # Frame 152D: 231 of 236 images are at full resolution, so the median would mislead.
    assert usual_size([full] * 231 + [preview] * 5) == preview
    assert usual_size([preview] * 879 + [full] * 64) == preview
    # Frame 146D: two sizes of previews, neither 10/3 of the other.
    assert usual_size([(600, 700)] * 142 + [(1150, 1400)] * 207) == (1150, 1400)
    assert source_spacing_deg(FRAMES[0], full, preview) == pytest.approx(0.001)
    assert source_spacing_deg(FRAMES[0], (2705, 2610), preview) == pytest.approx(0.001)
    assert source_spacing_deg(FRAMES[0], preview, preview) == 1 / 300
    assert source_spacing_deg(FRAMES[0], (1150, 1400), (600, 700)) == 1 / 300
    assert source_spacing_deg(FRAMES[0], full, None) == pytest.approx(0.001)
    assert source_spacing_deg(FRAMES[0], full, full) == pytest.approx(0.001)
    assert source_spacing_deg(STRIPMAP, (700, 600), (700, 600)) == STRIPMAP_SPACING_DEG
    assert 102.5 < STRIPMAP_SPACING_DEG * 111_320 < 103.5  # metres


def test_usual_sizes_are_read_from_headers(tmp_path):
    write_fake_archive(tmp_path, n=3, size=(40, 30), frames=FRAMES[:1])
    archive = scan_archive(tmp_path)
    archive.pairs[0].image.write_bytes(b"no PNG")
    assert usual_sizes(archive.pairs) == {FRAMES[0]: (40, 30)}


def test_has_data_reads_transparency_and_white():
    table = np.zeros((256, 3), np.uint8)
    table[:4] = [(250, 248, 191), (255, 255, 255), (0, 0, 0), (49, 55, 149)]
    image = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8))
    image.putpalette(table.tobytes())
    assert has_data(image).tolist() == [[True, False, False, True]]
    image.info["transparency"] = 3  # now transparency says what is empty, so white is a colour
    assert has_data(image).tolist() == [[True, True, False, False]]
    assert has_data(image.convert("RGBA")).tolist() == [[True, True, False, False]]
    flat = Image.fromarray(np.asarray(image.convert("RGBA"))[..., :3])
    assert has_data(flat).tolist() == [[True, False, False, True]]


def test_encode_png_keeps_palette_and_transparency(tmp_path):
    pair = one_pair(tmp_path)
    image = load_pair(pair).image
    again = Image.open(io.BytesIO(encode_png(image.crop((5, 5, 40, 50)))))
    assert again.mode == "P"
    np.testing.assert_array_equal(
        np.asarray(again.convert("RGBA")), np.asarray(image.convert("RGBA"))[5:50, 5:40]
    )


def png_header(width, height, depth=8, kind=2):
    body = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunk = b"IHDR" + body
    crc = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc


def damage(path, kind):
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "grey":
        Image.open(path).convert("L").save(path)
    elif kind == "grey palette":
        Image.open(path).convert("L").convert("P").save(path)
    elif kind == "grey rgb":
        Image.open(path).convert("L").convert("RGB").save(path)
    elif kind == "16-bit":
        Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)).save(path)
    elif kind == "huge":
        path.write_bytes(png_header(20_000, 20_000))
    elif kind == "jpeg":
        Image.open(path).convert("RGB").save(path, "JPEG")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "cannot be read: No such file"),
        ("truncated", "PNG cannot be decoded"),
        ("empty", "empty file"),
        ("grey", "grey image"),
        ("grey palette", "grey image"),
        ("grey rgb", "grey image"),
        ("16-bit", "16-bit PNG"),
        ("huge", "20000 x 20000 px by its header"),
        ("jpeg", "not a PNG"),
    ],
)
def test_bad_images_are_refused_by_name(tmp_path, kind, said):
    pair = one_pair(tmp_path)
    damage(pair.image, kind)
    with pytest.raises(HephError, match=said) as error:
        load_pair(pair)
    assert str(pair.image) in error.value.where


@pytest.mark.parametrize(("kind", "said"), [("truncated", "decoded"), ("missing", "be read")])
def test_bad_coherence_is_refused_by_name(tmp_path, kind, said):
    pair = one_pair(tmp_path)
    damage(pair.coherence, kind)
    with pytest.raises(HephError, match=said) as error:
        load_pair(pair)
    assert str(pair.coherence) in error.value.where


def test_coherence_of_another_size(tmp_path):
    pair = one_pair(tmp_path)
    Image.new("L", (63, 64)).save(pair.coherence)
    with pytest.raises(HephError, match="63 x 64 px beside an interferogram of 64 x 64 px"):
        load_pair(pair)


def test_polygon_outside_the_image(tmp_path):
    with pytest.raises(HephError, match=r"annotation 5.*36 px outside the image of 64 x 64 px"):
        load_pair(one_pair(tmp_path, polygon=[10, 10, 100, 10, 50, 60]))


def test_polygon_barely_over_the_edge_is_cut(tmp_path):
    native = load_pair(one_pair(tmp_path, polygon=[44, 10, 65.5, 10, 65.5, 30, 44, 30]))
    assert max(x for x, _ in native.events[0].polygon) == 64
    assert (native.mask == 3).sum() == 20 * 20


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_data_meter_agrees_with_has_data(tmp_path, mode):
    image = load_pair(one_pair(tmp_path)).image
    if mode != "P":
        image = image.convert("RGBA")
    if mode == "RGB":
        image = Image.fromarray(np.asarray(image)[..., :3])
    share, data = data_meter(image), has_data(image)
    for x0, y0, x1, y1 in ((0, 0, 9, 64), (3, 10, 40, 41), (50, 0, 64, 20), (20, 20, 30, 30)):
        assert share(image.crop((x0, y0, x1, y1))) == pytest.approx(data[y0:y1, x0:x1].mean())
