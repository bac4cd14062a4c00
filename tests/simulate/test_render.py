"""The preview chain: the order of its steps, its look, and the same picture every time."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from heph_vl.data import palettes
from heph_vl.data.phase import colour, decode_image, read_coherence, wrap
from heph_vl.data.preview import (
    cell_colours,
    cell_index,
    filter_weights,
    kept_bits,
    levels,
    posterise,
)
from heph_vl.simulate.decorrelation import LOOKS
from heph_vl.simulate.grid import Grid
from heph_vl.simulate.render import (
    Rendering,
    amplitude,
    draw,
    render,
    shrink,
    shrink_matrix,
    to_images,
)
from heph_vl.simulate.terrain import Terrain


def ramp(side: int = 300, rate: float = 0.1) -> np.ndarray:
    y, x = np.mgrid[:side, :side].astype(np.float32)
    return wrap(rate * x + 0.03 * y)


def drawn(phase: np.ndarray, **options: object) -> Image.Image:
    whole = np.ones(phase.shape, bool)
    return render(phase, whole, np.ones(phase.shape), Rendering(**options))[0]  # type: ignore[arg-type]


def grain(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-np.pi, np.pi, (side, side))


def test_posterising_keeps_the_top_bits() -> None:
    assert levels(3).tolist() == [0, 36, 73, 109, 146, 182, 219, 255]
    assert levels(4).tolist() == [17 * i for i in range(16)]
    assert levels(2).tolist() == [0, 85, 170, 255]
    # Rounding to the nearest level would give 73, 73, 146.
    assert posterise(np.array([[55, 63, 159]])).tolist() == [[36, 36, 146]]
    every = cell_colours((3, 3, 2))
    assert np.array_equal(cell_index(every, (3, 3, 2)), np.arange(256))
    assert np.array_equal(posterise(every, (3, 3, 2)), every)


def test_kept_bits_are_recognised() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (500, 3))
    for bits in ((3, 3, 2), (3, 3, 3), (4, 4, 4)):
        assert kept_bits(posterise(rgb, bits)) == bits
    assert kept_bits(rgb) == (8, 8, 8)


def test_filters_have_their_published_values() -> None:
    # Mitchell and Netravali (1988): 8/9 in the middle, 1/18 at one pixel, 0 at two.
    assert np.allclose(
        filter_weights(np.array([0.0, 1.0, -1.0, 1.5, 2.0]), "mitchell"),
        [8 / 9, 1 / 18, 1 / 18, -5 / 144, 0],
    )
    assert np.allclose(filter_weights(np.array([0.0, 1, 2, 3, 4]), "lanczos"), [1, 0, 0, 0, 0])


def test_shrinking_by_lanczos_equals_pillow() -> None:
    rng = np.random.default_rng(1)
    grey = np.kron(rng.integers(60, 190, (40, 50)), np.ones((3, 3))).astype(np.uint8)
    rows, columns = (shrink_matrix(n, 0.3, "lanczos") for n in grey.shape)
    ours = (columns @ (rows @ grey.astype(np.float32)).T).T
    theirs = Image.fromarray(grey).resize(ours.shape[::-1], Image.Resampling.LANCZOS)
    assert ours.shape == (36, 45)
    assert np.abs(ours - np.asarray(theirs, dtype=float)).max() < 1.5


@pytest.mark.parametrize("name", ["mitchell", "lanczos"])
def test_shrinking_keeps_constants_and_middles(name: str) -> None:
    matrix = shrink_matrix(101, 0.3, name)  # type: ignore[arg-type]
    assert matrix.shape == (30, 101)
    assert np.allclose(matrix.sum(axis=1), 1, atol=1e-6)
    middles = (np.arange(30) + 0.5) * 101 / 30 - 0.5
    assert np.allclose((matrix @ np.arange(101.0))[8:-8], middles[8:-8], atol=0.05)


def test_shrinking_works_on_both_axes_of_any_size() -> None:
    layers = torch.rand((2, 101, 77), generator=torch.Generator().manual_seed(2))
    rows, columns = (shrink_matrix(n, 0.3, "mitchell") for n in (101, 77))
    expected = rows @ layers.numpy() @ columns.T
    assert np.allclose(shrink(layers, Rendering()).numpy(), expected, atol=1e-5)


def fields(batch: int = 2, side: int = 200) -> tuple[torch.Tensor, ...]:
    """Fringes and grain, a diagonal rim, coherence and amplitude at random."""
    rng = np.random.default_rng(3)
    phase = np.stack([ramp(side, 0.1 + 0.3 * b) for b in range(batch)])
    phase[:, :, side // 2 :] = rng.uniform(-np.pi, np.pi, (batch, side, side - side // 2))
    valid = np.add.outer(2.3 * np.arange(side), np.arange(side)) > side // 2
    coherence, bright = rng.random((2, batch, side, side), dtype=np.float32)
    return tuple(map(torch.from_numpy, (phase.astype(np.float32), valid, coherence, bright)))


@pytest.mark.parametrize("palette", ["new", "old"])
@pytest.mark.parametrize("bright", [False, True])
def test_drawing_equals_the_chain_spelled_out(palette: str, bright: bool) -> None:
    phase, valid, coherence, level = fields()
    level = level[0] if bright else None
    picture = draw(phase, valid, coherence, Rendering(palette=palette), level)
    matrix = shrink_matrix(200, 0.3, "mitchell").astype(np.float64)
    alpha = matrix @ valid.numpy() @ matrix.T
    assert np.array_equal(picture.shown.numpy(), np.broadcast_to(alpha >= 0.5, (2, 60, 60)))
    for b in range(2):
        if palette == "new":
            rgb = palettes.new_colours(phase[b].numpy())
        else:
            rgb = palettes.old_colours(phase[b].numpy(), None if level is None else level.numpy())
        grey = np.rint(255 * coherence[b].numpy())
        for ours, channel in zip(
            (*picture.rgb[b], picture.coherence[b]), (*np.moveaxis(rgb, -1, 0), grey), strict=True
        ):
            small = matrix @ (channel * valid.numpy()) @ matrix.T / np.maximum(alpha, 0.1)
            error = np.abs(ours.numpy() - np.clip(small, 0, 255))[alpha >= 0.5]
            # Half a level of rounding; the old wheel's table rounds once more before the amplitude.
            assert error.max() < (0.501 if palette == "new" else 1.01)
        assert not picture.rgb[b][:, ~picture.shown[b]].any()
        assert not picture.coherence[b][~picture.shown[b]].any()


def test_pictures_do_not_depend_on_the_batch_and_are_posterised_as_png8() -> None:
    phase, valid, coherence, _ = fields()
    plain, rounded = (draw(phase, valid, coherence, Rendering(posterise=p)) for p in (False, True))
    assert np.array_equal(
        rounded.rgb.permute(0, 2, 3, 1).numpy(), posterise(plain.rgb.permute(0, 2, 3, 1).numpy())
    )
    each = valid.expand(2, -1, -1)
    for b in range(2):
        one = draw(phase[b : b + 1], each[b], coherence[b : b + 1], Rendering())
        assert torch.equal(one.rgb[0], plain.rgb[b])
        assert torch.equal(one.coherence[0], plain.coherence[b])


@pytest.mark.parametrize("palette", ["new", "old"])
@pytest.mark.parametrize("flatten", [False, True])
def test_files_hold_the_posterised_picture(palette: str, flatten: bool) -> None:
    phase, valid, coherence, level = fields()
    options = Rendering(palette=palette, posterise=True, flatten=flatten)
    picture = draw(phase, valid, coherence, options, level)
    image, grey = to_images(picture, 1, options)
    assert np.array_equal(np.asarray(image.convert("RGB")), picture.rgb[1].permute(1, 2, 0).numpy())
    shown = picture.shown[1].numpy()
    measured = np.maximum(picture.coherence[1].numpy(), 1)
    assert np.array_equal(np.asarray(grey), np.where(shown, measured, 0))
    corner = 255 if flatten and palette == "new" else 0
    assert np.asarray(image.convert("RGB"))[0, 0].tolist() == [corner] * 3


def test_too_many_colours_keep_fewer_bits_of_blue() -> None:
    rng = np.random.default_rng(5)
    phase = np.kron(rng.uniform(-np.pi, np.pi, (2, 99, 99)), np.ones((8, 8))).astype(np.float32)
    dim = np.kron(rng.random((99, 99)), np.ones((8, 8))).astype(np.float32)
    phase[1] = 1.0
    whole = torch.ones((792, 792), dtype=torch.bool)
    options = Rendering(palette="old", filter="lanczos", posterise=True)
    picture = draw(
        torch.from_numpy(phase), whole, torch.from_numpy(phase), options, torch.from_numpy(dim)
    )
    bits = [kept_bits(np.unique(rgb.flatten(1).numpy(), axis=1).T) for rgb in picture.rgb]
    assert bits == [(3, 3, 2), (3, 3, 3)]
    image, _ = to_images(picture, 0, options)
    assert np.array_equal(np.asarray(image.convert("RGB")), picture.rgb[0].permute(1, 2, 0).numpy())


def test_amplitude_shows_slopes_ground_and_water() -> None:
    grid = Grid(60, 90)
    columns = torch.arange(90).float().expand(60, 90)
    roof = (2_000.0 - (columns - 44.5).abs() * 30.0).clamp_min(0.0)  # slopes of 15 degrees
    water = torch.zeros((60, 90), dtype=torch.bool)
    water[50:] = True
    vegetation = torch.zeros((60, 90))
    vegetation[:20] = 1.0
    terrain = Terrain(torch.where(water, 0.0, roof), water, vegetation, water, ())
    flat = Terrain(torch.zeros((60, 90)), water, vegetation, water, ())
    g = torch.Generator().manual_seed(0)
    east = (math.sin(math.radians(39)), 0.0, math.cos(math.radians(39)))  # satellite in the east
    level = amplitude(terrain, grid, east, g)
    assert level.shape == (60, 90)
    assert float(level.min()) >= 0
    assert float(level.max()) <= 1
    rows, west, east_side = slice(25, 45), slice(5, 40), slice(50, 85)
    # tan(39) / tan(39 -+ 15.07 degrees), to the power 0.35.
    plain = amplitude(flat, grid, east, g)
    for side, sign in ((east_side, -1), (west, 1)):
        local = 39 + sign * math.degrees(math.atan(30 / grid.dx))
        expected = (math.tan(math.radians(39)) / math.tan(math.radians(local))) ** 0.35
        ratio = float(level[rows, side].mean() / plain[rows, side].mean())
        assert ratio == pytest.approx(expected, rel=0.01)
    north = amplitude(
        Terrain(
            roof.T.contiguous(), water.new_zeros(90, 60), vegetation.new_zeros(90, 60), water, ()
        ),
        Grid(90, 60),
        (0.0, east[0], east[2]),
        g,
    )
    assert float(north[5:40].mean()) > 1.2 * float(north[50:85].mean())
    assert float(plain[:20].mean()) == pytest.approx(0.7, abs=0.01)
    assert float(plain[20:50].mean() / plain[:20].mean()) == pytest.approx(0.3**0.35, rel=0.01)
    assert float(plain[50:].mean()) < 0.2
    speckle = float((plain[:20] / plain[:20].mean()).log().std()) / 0.35
    assert speckle == pytest.approx(1 / math.sqrt(LOOKS), rel=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_drawing_on_a_gpu() -> None:
    phase, valid, coherence, _ = fields()
    here = draw(phase, valid, coherence, Rendering())
    there = draw(phase.cuda(), valid.cuda(), coherence.cuda(), Rendering())
    assert float((there.rgb.cpu().int() - here.rgb.int()).abs().max()) <= 1
    assert torch.equal(there.shown.cpu(), here.shown)


@pytest.mark.parametrize("palette", ["new", "old"])
@pytest.mark.parametrize("posterised", [False, True])
def test_pictures_are_palette_images_of_a_third_the_size(palette: str, posterised: bool) -> None:
    phase = ramp()
    valid = np.add.outer(np.arange(300), np.arange(300)) > 150
    coherence = np.full(phase.shape, 0.6, np.float32)
    options = Rendering(palette=palette, posterise=posterised)
    picture, grey = render(phase, valid, coherence, options, np.full(phase.shape, 0.7))
    assert (picture.mode, picture.size) == ("P", (90, 90))
    assert (grey.mode, grey.size) == ("P", (90, 90))
    rgba = np.asarray(picture.convert("RGBA"))
    assert len(np.unique(rgba.reshape(-1, 4), axis=0)) <= 256
    assert set(np.unique(rgba[..., 3])) == {0, 255}
    assert np.array_equal(rgba[..., 3] == 255, np.asarray(grey.convert("RGBA"))[..., 3] == 255)
    assert (rgba[rgba[..., 3] == 0] == 0).all()
    assert abs((rgba[..., 3] == 255).mean() - valid.mean()) < 0.01
    if posterised:
        assert np.isin(rgba[..., :3], levels(3)).all()


def test_colours_come_before_the_shrinking() -> None:
    # One fringe in 10 fine pixels is 3 picture pixels: a mixture that no palette colour is near.
    picture = np.asarray(drawn(ramp(rate=2 * np.pi / 10)).convert("RGB"), dtype=float)
    table = colour(np.linspace(-np.pi, np.pi, 400)[None])[0].astype(float)
    distance = np.linalg.norm(picture[:, :, None] - table, axis=-1).min(axis=-1)
    assert np.median(distance) > 20


def test_valid_pixels_at_the_rim_keep_their_colours() -> None:
    phase = np.full((200, 200), 2.5)
    valid = np.arange(200)[:, None] + np.arange(200) < 230
    picture, _ = render(phase, valid, np.ones(phase.shape), Rendering())
    rgba = np.asarray(picture.convert("RGBA"))
    expected = colour(np.array([[2.5]]))[0, 0].astype(int)
    assert np.abs(rgba[rgba[..., 3] == 255][:, :3].astype(int) - expected).max() <= 1


def test_flattened_pictures_are_white_without_data() -> None:
    valid = np.zeros((100, 100), bool)
    valid[:, 50:] = True
    phase = np.full((100, 100), 1.0)
    for posterised in (False, True):
        picture, _ = render(
            phase, valid, np.ones(phase.shape), Rendering(posterise=posterised, flatten=True)
        )
        assert picture.mode == "RGB"
        assert (np.asarray(picture)[:, :14] == 255).all()
        assert decode_image(picture).valid[:, 16:].all()
        assert not decode_image(picture).valid[:, :14].any()


def test_coherence_is_drawn_in_linear_grey(tmp_path: Path) -> None:
    valid = np.ones((100, 100), bool)
    valid[:20] = False
    coherence = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (100, 1))
    _, grey = render(np.zeros((100, 100)), valid, coherence, Rendering())
    path = tmp_path / "a.geo.cc.png"
    grey.save(path)
    read = read_coherence(path, (30, 30), "cc")
    assert not read[:5].any()
    assert np.allclose(read[8:, 2:-2], np.linspace(0.5, 29.5, 30)[2:-2] / 30, atol=0.01)


def test_nothing_valid_gives_a_transparent_picture() -> None:
    nothing = np.zeros((40, 40), bool)
    for posterised in (False, True):
        picture, grey = render(
            np.zeros((40, 40)), nothing, np.zeros((40, 40)), Rendering(posterise=posterised)
        )
        for image in (picture, grey):
            assert not np.asarray(image.convert("RGBA")).any()


def test_same_fields_same_bytes() -> None:
    phase = grain(200)
    for posterised in (False, True):
        first, second = (drawn(phase, posterise=posterised) for _ in range(2))
        assert first.tobytes() == second.tobytes()
        assert first.getpalette() == second.getpalette()


def test_amplitude_darkens_the_old_palette_only() -> None:
    phase, whole = ramp(120), np.ones((120, 120), bool)
    dim = np.full(phase.shape, 0.25)
    for palette, darker in (("old", True), ("new", False)):
        options = Rendering(palette=palette)
        bright, _ = render(phase, whole, dim, options)
        dark, _ = render(phase, whole, dim, options, dim)
        means = [np.asarray(p.convert("RGB")).mean() for p in (bright, dark)]
        assert (means[1] < 0.3 * means[0]) == darker


def test_grain_is_salmon_grey() -> None:
    rgb = np.asarray(drawn(grain(1000), posterise=True).convert("RGB")).reshape(-1, 3)
    # Water in the real patches: mean (199, 162, 152), standard deviation (21, 22, 20).
    assert np.abs(rgb.mean(axis=0) - (199, 162, 153)).max() < 2
    assert np.abs(rgb.std(axis=0) - (20, 20, 19)).max() < 1.5


@pytest.mark.real_data
def test_grain_has_the_colours_of_real_water(shared: Path) -> None:
    cells = []
    for path in sorted((shared / "data/hephaestus/patches/images").glob("11*.png")):
        rgb = np.asarray(Image.open(path))
        decoded = decode_image(Image.open(path))
        for y in range(0, 200, 24):
            for x in range(0, 200, 24):
                window = (slice(y, y + 24), slice(x, x + 24))
                # Open water: nowhere sure of its phase.
                if decoded.valid[window].all() and (decoded.confidence[window] > 0.6).mean() < 0.02:
                    cells.append(cell_index(rgb[window], (3, 3, 3)).ravel())
    real = np.bincount(np.concatenate(cells), minlength=512)
    assert len(cells) > 100
    distance = {}
    for name in ("mitchell", "lanczos"):
        ours = np.asarray(drawn(grain(1000), posterise=True, filter=name).convert("RGB"))
        count = np.bincount(cell_index(ours, (3, 3, 3)).ravel(), minlength=512)
        distance[name] = 0.5 * np.abs(count / count.sum() - real / real.sum()).sum()
    assert distance["mitchell"] < 0.05
    assert distance["lanczos"] > 0.1
