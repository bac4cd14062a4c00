"""Phase decoding: palettes, accuracy through the preview chain, phasors, and bad input."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.stats import rankdata

from heph_vl.data import palettes, unmixing
from heph_vl.data.images import indexed_colours, look_up
from heph_vl.data.phase import (
    Decoded,
    colour,
    decode_image,
    estimate_coherence,
    open_png,
    phasor,
    phasor_channels,
    read_coherence,
    read_interferogram,
    resample_phasor,
    wrap,
)
from heph_vl.data.phasors import agreement
from heph_vl.errors import HephError
from heph_vl.simulate.render import Rendering, render

SIDE = 800  # pixels of 0.001 degree; a third of it in the preview


def fringes(spacing: float, angle: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Wrapped phase of the fine field, and of the middles of preview pixels."""
    rate = 2 * np.pi * 0.3 / spacing

    def field(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # A little curvature, so that every phase falls on every part of a pixel.
        bend = 0.1 * rate * (x - SIDE / 2) ** 2 / SIDE
        return rate * (x * np.cos(angle) + y * np.sin(angle)) + bend

    fine_y, fine_x = np.mgrid[:SIDE, :SIDE] + 0.5
    coarse_y, coarse_x = (np.mgrid[: SIDE * 3 // 10, : SIDE * 3 // 10] + 0.5) / 0.3
    return field(fine_x, fine_y), wrap(field(coarse_x, coarse_y))


def preview(phase: np.ndarray, options: Rendering) -> Image.Image:
    valid = np.ones(phase.shape, bool)
    return render(wrap(phase), valid, np.ones(phase.shape), options)[0]


def errors(decoded: Decoded, truth: np.ndarray) -> np.ndarray:
    rim = (slice(4, -4), slice(4, -4))
    return np.abs(wrap(decoded.wrapped_phase - truth))[rim]


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_wrap_is_half_open_at_minus_pi_and_keeps_the_type() -> None:
    phase = np.array([0.0, np.pi, -np.pi, 3 * np.pi, 7.0])
    assert np.allclose(wrap(phase), [0.0, np.pi, np.pi, np.pi, 7 - 2 * np.pi])
    assert wrap(phase.astype(np.float32)).dtype == np.float32


# LiCSAR's own colour table (misc/pha.cpt of licsar_proc): middle of a step -> colour.
@pytest.mark.parametrize(
    ("phase", "rgb"),
    [
        (-3.1375, (49.4, 55.2, 149.6)),
        (-2.0125, (106.3, 160.6, 202.5)),
        (-0.9875, (192.6, 227.3, 238.7)),
        (0.0125, (250.3, 248.3, 190.9)),
        (1.0125, (253.0, 192.6, 114.7)),
        (2.0125, (236.6, 96.3, 61.0)),
        (3.1375, (165.9, 0.9, 38.0)),
    ],
)
def test_new_palette_is_licsars(phase: float, rgb: tuple[float, ...]) -> None:
    assert np.abs(colour(np.array([[phase]]))[0, 0] - np.array(rgb)).max() <= 1.5


def test_no_data_is_white_and_unknown_palettes_are_refused() -> None:
    valid = np.array([[True, False]])
    assert colour(np.zeros((1, 2)), valid)[0, 1].tolist() == [255, 255, 255]
    with pytest.raises(ValueError, match="unknown palette 'jet'"):
        colour(np.zeros((1, 1)), palette="jet")


@pytest.mark.parametrize("palette", ["new", "old"])
def test_colours_come_back_as_their_phase(palette: str) -> None:
    phase = np.tile(np.linspace(-3.13, 3.13, 400, dtype=np.float32), (20, 1))
    decoded = decode_image(Image.fromarray(colour(phase, palette=palette)))
    assert decoded.palette == palette
    assert decoded.sense_known == (palette == "new")
    assert not decoded.posterised
    assert np.abs(wrap(decoded.wrapped_phase - phase)).max() < 0.06
    assert decoded.confidence.min() > 0.8


@pytest.mark.parametrize("resize", ["mitchell", "lanczos"])
@pytest.mark.parametrize(
    ("posterise", "spacing", "limit"),
    [(False, 10, 0.04), (False, 4, 0.10), (True, 10, 0.08), (True, 4, 0.12)],
)
def test_new_palette_is_decoded_within_its_limits(
    posterise: bool, spacing: float, limit: float, resize: str
) -> None:
    field, truth = fringes(spacing)
    decoded = decode_image(preview(field, Rendering(posterise=posterise, filter=resize)))
    assert decoded.valid.all()
    assert decoded.posterised == posterise
    assert np.median(errors(decoded, truth)) <= limit


@pytest.mark.parametrize(
    ("posterise", "spacing", "limit"),
    [(False, 10, 0.01), (False, 4, 0.02), (True, 10, 0.08), (True, 4, 0.10)],
)
def test_old_palette_is_decoded_as_stated(posterise: bool, spacing: float, limit: float) -> None:
    field, truth = fringes(spacing)
    decoded = decode_image(preview(field, Rendering(palette="old", posterise=posterise)))
    assert decoded.palette == "old"
    assert np.median(errors(decoded, truth)) <= limit


@pytest.mark.parametrize("palette", ["new", "old"])
@pytest.mark.parametrize("posterise", [False, True])
def test_confidence_separates_large_errors(palette: str, posterise: bool) -> None:
    field, truth = fringes(8)
    rng = np.random.default_rng(0)
    # Clean on the left, noise with a standard deviation up to 3 rad on the right.
    noise = np.linspace(0, 3, SIDE) * rng.standard_normal((SIDE, SIDE))
    decoded = decode_image(preview(field + noise, Rendering(palette=palette, posterise=posterise)))
    wrong = errors(decoded, truth).ravel() > 0.5
    rank = rankdata(-decoded.confidence[4:-4, 4:-4].ravel())
    auroc = (rank[wrong].mean() - (wrong.sum() + 1) / 2) / (~wrong).sum()
    assert 0.05 < wrong.mean() < 0.5
    assert auroc >= 0.85


def test_mixtures_across_the_jump_are_plus_minus_pi() -> None:
    ends = colour(np.array([[-3.1, 3.1]]))[0].astype(float)
    mixed = np.rint(0.5 * ends[0] + 0.5 * ends[1])[None].astype(np.uint8)
    phase, confidence = unmixing.decode(mixed, (8, 8, 8))
    assert np.abs(wrap(phase - np.pi))[0] < 0.2
    assert confidence[0] > 0.5


def test_grain_has_low_confidence_and_scattered_phase() -> None:
    rng = np.random.default_rng(1)
    decoded = decode_image(preview(rng.uniform(-np.pi, np.pi, (SIDE, SIDE)), Rendering()))
    assert decoded.confidence.mean() < 0.3
    assert np.abs(phasor(decoded.wrapped_phase, decoded.valid).mean()) < 0.3


def test_white_is_phase_among_light_colours_and_no_data_elsewhere() -> None:
    field, truth = fringes(60)
    y, x = np.mgrid[:SIDE, :SIDE]
    valid = x + y > 500
    flat, _ = render(
        wrap(field), valid, np.ones(field.shape), Rendering(posterise=True, flatten=True)
    )
    shown, _ = render(wrap(field), valid, np.ones(field.shape), Rendering(posterise=True))
    decoded, reference = decode_image(flat), decode_image(shown)
    assert flat.mode == "RGB"
    band = (np.asarray(flat) == 255).all(axis=-1) & reference.valid
    assert band.mean() > 0.02
    assert (decoded.valid & ~reference.valid).mean() < 0.001
    assert decoded.valid[band].mean() > 0.9
    found = band & decoded.valid
    assert np.median(np.abs(wrap(decoded.wrapped_phase - truth))[found]) < 0.15
    assert np.array_equal(decoded.wrapped_phase[found], reference.wrapped_phase[found])


def test_transparent_pixels_are_no_data_in_every_mode() -> None:
    field, _ = fringes(20)
    valid = np.arange(SIDE)[None, :] + np.zeros((SIDE, 1)) > SIDE / 2
    picture, _ = render(wrap(field), valid, np.ones(field.shape), Rendering(posterise=True))
    stored = open_png(png(picture), "test")
    assert stored.mode == "P"
    several = png(picture, transparency=bytes([255] * 10 + [0] * 3 + [255] * 243))
    reference = decode_image(stored)
    rgba = decode_image(stored.convert("RGBA"))
    assert reference.valid.mean() == pytest.approx(0.5, abs=0.01)
    assert not reference.wrapped_phase[~reference.valid].any()
    assert not reference.confidence[~reference.valid].any()
    for name in ("wrapped_phase", "valid", "confidence"):
        assert np.array_equal(getattr(reference, name), getattr(rgba, name))
    index = np.asarray(stored)
    hidden = (index >= 10) & (index < 13)
    assert hidden.any()
    assert not decode_image(open_png(several, "test")).valid[hidden].any()


def test_old_palette_outside_the_swath_is_black_and_water_is_uncertain() -> None:
    field, _ = fringes(20)
    amplitude = np.full(field.shape, 0.6)
    amplitude[:300] = 0.0
    rgb = palettes.old_colours(wrap(field), amplitude)
    rgb[300:400], rgb[400:500] = 40, (41, 40, 40)
    decoded = decode_image(Image.fromarray(rgb))
    assert decoded.palette == "old"
    assert not decoded.valid[:400].any()
    assert decoded.valid[400:].all()
    assert decoded.confidence[400:500].max() < 0.05
    assert decoded.confidence[500:].min() > 0.9


def test_all_transparent_is_all_invalid() -> None:
    decoded = decode_image(Image.new("RGBA", (5, 4)))
    assert decoded.wrapped_phase.shape == (4, 5)
    assert not decoded.valid.any()
    assert not decoded.posterised


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "LA", "1"])
def test_grey_images_are_refused(mode: str) -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert(mode)
    with pytest.raises(HephError, match=r"here: grey image.*\.geo\.diff\.png"):
        decode_image(grey, where="here")


def test_foreign_colours_are_refused_unless_the_palette_is_named() -> None:
    ramp = np.linspace(0, 1, 256)
    jet = np.stack([np.clip(1.5 - np.abs(4 * ramp - c), 0, 1) for c in (3, 2, 1)], axis=-1)
    image = Image.fromarray(np.tile(np.rint(255 * jet), (8, 1, 1)).astype(np.uint8))
    with pytest.raises(HephError, match="colours of no LiCSAR palette"):
        decode_image(image)
    assert decode_image(image, palette="new").palette == "new"
    with pytest.raises(HephError, match="unknown palette 'jet'; one of auto, new, old"):
        decode_image(image, palette="jet")


@pytest.mark.parametrize("shape", [(400, 401), (401, 401)])
def test_looking_up_pairs_of_pixels_equals_indexing(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    index = rng.integers(0, 256, shape).astype(np.uint8)
    for table in (rng.normal(size=256).astype(np.float32), rng.random(256) < 0.5):
        assert np.array_equal(look_up(table, index), table[index])


def test_large_rgb_pictures_are_indexed_like_small_ones() -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (600, 600, 3)).astype(np.uint8)
    table, index, count = indexed_colours(Image.fromarray(rgb))
    assert np.array_equal(table[index][..., :3], rgb)
    assert (table[:, 3] == 255).all()
    assert count.sum() == 360_000
    assert np.array_equal(count, np.bincount(index.ravel()))


# Phasors


def test_phasor_and_channels() -> None:
    phase = np.array([[0.0, np.pi / 2], [np.pi, -1.0]], np.float32)
    valid = np.array([[True, True], [True, False]])
    z = phasor(phase, valid)
    channels = phasor_channels(z, np.full((2, 2), 0.7))
    assert np.allclose(z, [[1, 1j], [-1, 0]], atol=1e-6)
    assert channels.dtype == np.float32
    assert np.allclose(channels[:, 0, 1], [0, 1, 0.7], atol=1e-6)
    assert np.allclose(channels[:, 1, 1], 0)


def test_resampling_is_the_area_mean_and_is_not_renormalised() -> None:
    z = np.exp(1j * np.array([[0.0, 0.0, np.pi, np.pi, np.pi / 2]])).astype(np.complex64)
    valid = np.ones((1, 5), bool)
    coarse, coarse_valid = resample_phasor(np.repeat(z, 5, axis=0), np.repeat(valid, 5, 0), 2.5)
    assert coarse.shape == (2, 2)
    # 2 ones and half a minus one; half a minus one, a minus one and a j: each over 2.5 pixels.
    assert np.allclose(coarse, [[0.6, -0.6 + 0.4j]] * 2, atol=1e-6)
    assert coarse_valid.all()
    # Fringes 2 px apart average to almost nothing, not to a unit phasor.
    comb = np.exp(1j * np.pi * np.arange(40)[None, :]) * np.ones((40, 1))
    assert np.abs(resample_phasor(comb, np.ones((40, 40), bool), 4)[0]).max() < 1e-6


def test_resampling_leaves_no_data_out() -> None:
    z = np.ones((6, 6), np.complex64)
    valid = np.zeros((6, 6), bool)
    valid[:, :2], valid[0, 3] = True, True
    coarse, coarse_valid = resample_phasor(np.where(valid, z, 99), valid, 3)
    assert coarse_valid.tolist() == [[True, False], [True, False]]
    assert np.allclose(coarse, [[1, 0], [1, 0]])
    same, same_valid = resample_phasor(z, valid, 1)
    assert np.array_equal(same_valid, valid)
    assert np.allclose(same, valid)
    with pytest.raises(ValueError, match="not interpolated"):
        resample_phasor(z, valid, 0.3)


def test_resampling_commutes_with_a_constant_phase() -> None:
    rng = np.random.default_rng(4)
    z = np.exp(1j * rng.uniform(-3, 3, (33, 47)))
    valid = rng.random((33, 47)) < 0.8
    turn = np.exp(0.7j)
    assert np.allclose(
        resample_phasor(z * turn, valid, 10 / 3)[0], resample_phasor(z, valid, 10 / 3)[0] * turn
    )
    assert resample_phasor(z, valid, 10 / 3)[0].shape == (10, 14)


def test_estimated_coherence_ignores_slopes_and_falls_with_noise() -> None:
    y, x = np.mgrid[:120, :120]
    valid = np.ones((120, 120), bool)
    valid[:, :10] = False
    noise = np.random.default_rng(5).standard_normal((120, 120))
    inner = (slice(4, -4), slice(14, -4))
    levels = []
    for spread in (0.0, 0.3, 0.8, 6.0):
        steep = phasor((1.5 * x - 0.8 * y + spread * noise).astype(np.float32), valid)
        flat = phasor((spread * noise).astype(np.float32), valid)
        assert np.allclose(agreement(steep, valid)[inner], agreement(flat, valid)[inner], atol=1e-3)
        estimate = estimate_coherence(steep, valid)
        assert not estimate[~valid].any()
        levels.append(float(estimate[inner].mean()))
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 0.7
    assert 0.1 < levels[-1] < 0.15


# Files in radians


def write_tiff(path: Path, phase: np.ndarray, **options: object) -> Path:
    tags = [
        (33550, "d", 3, (0.001, 0.001, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, -91.5, 0.25, 0.0), True),
    ]
    tifffile.imwrite(path, phase, extratags=tags, **options)
    return path


@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib", "predictor": 3}, {"compression": "lzw"}]
)
def test_geotiff_in_radians(tmp_path: Path, options: dict[str, object]) -> None:
    phase = np.linspace(-3.1, 3.1, 600, dtype=np.float32).reshape(20, 30)
    phase[0, :5], phase[1, :5] = 0, np.nan
    decoded = read_interferogram(write_tiff(tmp_path / "a.geo.diff_pha.tif", phase, **options))
    assert decoded.palette == "radians"
    assert decoded.place.spacing_deg == pytest.approx(0.001)
    assert decoded.place.lonlat(0, 0) == pytest.approx((-91.5, 0.25))
    assert decoded.valid.sum() == 590
    assert np.allclose(decoded.wrapped_phase[decoded.valid], phase[decoded.valid])
    assert np.array_equal(decoded.confidence, decoded.valid.astype(np.float32))


def test_numpy_phase_real_and_complex(tmp_path: Path) -> None:
    phase = np.array([[0.0, 4.0], [np.nan, -2.0]])
    np.save(tmp_path / "real.npy", phase)
    np.save(tmp_path / "complex.npy", np.where(np.isnan(phase), 0, 3 * np.exp(1j * phase)))
    for name in ("real.npy", "complex.npy"):
        decoded = read_interferogram(tmp_path / name)
        assert decoded.valid.tolist() == [[True, True], [False, True]]
        assert np.allclose(decoded.wrapped_phase, [[0, 4 - 2 * np.pi], [0, -2]], atol=1e-6)


def test_bad_radians_are_named(tmp_path: Path) -> None:
    degrees = write_tiff(tmp_path / "deg.tif", np.full((4, 4), 170.0, np.float32))
    counts = write_tiff(tmp_path / "int.tif", np.ones((4, 4), np.uint16))
    bands = write_tiff(tmp_path / "rgb.tif", np.ones((4, 4, 3), np.float32), photometric="rgb")
    empty = write_tiff(tmp_path / "empty.tif", np.zeros((4, 4), np.float32))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(degrees.read_bytes()[:150])
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for path, message in [
        (degrees, "values up to 170: degrees or unwrapped"),
        (counts, "values of type uint16"),
        (bands, r"shape \(4, 4, 3\), not one band"),
        (empty, "no valid phase"),
        (cut, "not a readable TIFF"),
        (pickled, "not a readable .npy"),
        (tmp_path / "missing.npy", "not a readable .npy"),
        (tmp_path / "missing.tif", "not a readable TIFF"),
    ]:
        with pytest.raises(HephError, match=message) as caught:
            read_interferogram(path)
        assert str(path) in str(caught.value)


# Pictures that must not be read


def header_only(width: int, height: int, depth: int = 8, kind: int = 2) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk


def animated() -> bytes:
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(3)]
    return png(frames[0], save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"GIF89a" + bytes(40), "not a PNG"),
        (header_only(10, 10)[:20], "header is cut"),
        (header_only(20_000, 20_000), "20000 x 20000 px by its header"),
        (header_only(0, 7), "0 x 7 px"),
        (header_only(10, 10, depth=16, kind=0), "16-bit PNG"),
        (header_only(10, 10, depth=1, kind=0), "1-bit grey PNG"),
        (header_only(10, 10), "cannot be decoded"),
        (png(Image.new("RGB", (300, 300), (9, 8, 7)))[:200], "cannot be decoded"),
        (animated(), "animated PNG of 3 frames"),
    ],
)
def test_bad_pngs_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(HephError, match=f"pair 7: .*{message}"):
        open_png(data, "pair 7")
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(HephError, match=message):
        read_interferogram(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "no.png", tmp_path):
        with pytest.raises(HephError, match="cannot be read"):
            open_png(path, "image")


def test_damaged_pngs_give_one_error_or_an_image() -> None:
    field, _ = fringes(9)
    data = bytearray(png(preview(field[:200, :200], Rendering(posterise=True))))
    rng = np.random.default_rng(6)
    refused = 0
    for _ in range(120):
        broken = bytearray(data)
        for place in rng.integers(8, len(data), 3):
            broken[place] = int(rng.integers(256))
        try:
            decode_image(open_png(bytes(broken), "x"), where="x")
        except HephError:
            refused += 1
    assert refused > 60


def test_coherence_is_linear_and_zero_without_data() -> None:
    grey = np.array([[0, 51, 255]], np.uint8)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("RGB")):
        assert np.allclose(read_coherence(png(image), (1, 3), "cc"), [[0, 0.2, 1]])
    alpha = np.array([[255, 255, 0]], np.uint8)
    stacked = Image.fromarray(np.dstack([grey, alpha]))
    assert np.allclose(read_coherence(png(stacked), (1, 3), "cc"), [[0, 0.2, 0]])
    indexed = Image.fromarray(np.array([[7, 8, 9]], np.uint8), mode="P")
    indexed.putpalette([90, 0, 0] * 7 + [0] * 3 + [51] * 3 + [255] * 3)  # unused colours may be any
    indexed.info["transparency"] = 9
    assert np.allclose(read_coherence(png(indexed), (1, 3), "cc"), [[0, 0.2, 0]])


def test_coherence_of_another_size_or_in_colour_is_refused() -> None:
    with pytest.raises(HephError, match="coherence of 4 x 3 px beside an interferogram of 3 x 4"):
        read_coherence(png(Image.new("L", (4, 3))), (4, 3), "cc")
    with pytest.raises(HephError, match="coloured image: coherence is grey"):
        read_coherence(png(Image.new("RGB", (4, 3), (200, 90, 10))), (3, 4), "cc")


# Real patches


@pytest.mark.real_data
def test_real_patches_are_new_posterised_and_mostly_white_where_empty(shared: Path) -> None:
    paths = sorted((shared / "data/hephaestus/patches/images").glob("*.png"))
    assert len(paths) == 23
    for path in paths:
        decoded = read_interferogram(path)
        white = (np.asarray(Image.open(path)) == 255).all(axis=-1)
        assert (decoded.palette, decoded.posterised) == ("new", True)
        # White lines between light blue and light yellow are phase; the swath's outside is not.
        assert (white & decoded.valid).sum() > 50
        assert decoded.valid[~white].all()
        # Land is steady where the colours are sure, grain is not.
        sure = decoded.confidence > 0.9
        grain = decoded.valid & (decoded.confidence < 0.3)
        steady = agreement(phasor(decoded.wrapped_phase, decoded.valid), decoded.valid)
        assert np.median(steady[sure]) > 0.95
        assert np.median(steady[grain]) < 0.8


def test_white_is_phase_where_a_palette_shows_no_data_by_transparency():
    """Posterised, light blue is white: a wide area of it has no neighbours that would tell."""
    from heph_vl.models.pipeline import draw_pictures

    phase = np.full((1, 48, 48), -0.5, np.float32)
    phase[:, :, :8] = 1.0
    (image,), _ = draw_pictures(phase, np.ones(phase.shape, bool), np.full_like(phase, 0.5))
    assert (np.asarray(image.convert("RGB"))[:, 8:] == 255).all()
    assert decode_image(image).valid.all()
    assert not decode_image(image.convert("RGB")).valid[:, 8:].any()  # there white is no data
