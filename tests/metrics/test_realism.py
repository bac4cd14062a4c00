"""What tells patches apart is seen outside its error; what is alike stays at the floor."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, special

from heph_vl.data.phase import colour, wrap
from heph_vl.data.preview import posterise
from heph_vl.metrics import realism
from heph_vl.metrics.realism import Estimate, PatchSet
from heph_vl.metrics.realism_measures import measure

SIDE = 112
Draw = Callable[[np.random.Generator], tuple[NDArray[np.floating], NDArray[np.bool_]]]


def island(
    rng: np.random.Generator, fringes: float = 2.0, grain_px: float = 0.0
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Phase [rad] of a round island with fringes across in a sea of grain, and validity."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + rng.uniform(-8, 8, (2, 1, 1))
    angle = rng.uniform(0, 2 * np.pi)
    slope = 2 * np.pi * fringes / SIDE
    land = slope * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi)
    noise = rng.standard_normal((2, SIDE, SIDE))
    if grain_px:
        noise = ndimage.gaussian_filter(noise, (0, grain_px, grain_px))
    phase = np.where(np.hypot(x, y) < SIDE / 3, wrap(land), np.arctan2(noise[0], noise[1]))
    down, across = np.mgrid[:SIDE, :SIDE]
    return phase, across > SIDE / 10 + down * np.tan(rng.uniform(0, 0.2))


def patch_set(draw: Draw, seed: int, number: int = 12, bits: int = 8) -> PatchSet:
    rng = np.random.default_rng(seed)
    totals = []
    for _ in range(number):
        phase, valid = draw(rng)
        rgb = posterise(colour(phase, valid), (bits, bits, bits))
        rgb[~valid] = 255
        totals.append(measure(rgb, phase, valid))
    return PatchSet(realism.stack(totals), np.arange(number), np.full(number, ""))


def compared(real: PatchSet, **others: PatchSet) -> dict[str, dict[str, dict[str, Estimate]]]:
    return realism.compare(real, others, 60, torch.Generator().manual_seed(0))


def gap(found: dict[str, Estimate], name: str) -> float:
    """How far a set lies above the floor, in standard errors of the difference."""
    set_, floor = found[name], found["real"]
    return (set_.value - floor.value) / np.hypot(set_.standard_error, floor.standard_error)


@pytest.fixture(scope="module")
def real() -> PatchSet:
    return patch_set(island, 1)


def test_a_second_set_of_the_same_kind_stays_at_the_floor(real: PatchSet) -> None:
    distances = compared(real, again=patch_set(island, 2))["distances"]
    for name, found in distances.items():
        assert abs(gap(found, "again")) < 2, name
        assert found["real"].standard_error > 0


def test_a_set_has_no_distance_from_itself(real: PatchSet) -> None:
    totals = {name: rows.sum(axis=0) for name, rows in real.totals.items()}
    for name, distance in realism.DISTANCES.items():
        assert distance(totals, totals) == pytest.approx(0, abs=1e-12), name


def test_denser_fringes_are_steeper_and_nothing_else(real: PatchSet) -> None:
    found = compared(real, dense=patch_set(lambda rng: island(rng, fringes=8), 2))
    assert gap(found["distances"]["ground_step_rad"], "dense") > 5
    assert gap(found["distances"]["spectrum_db"], "dense") > 3
    assert abs(gap(found["distances"]["grain"], "dense")) < 3
    # Eight fringes across: the mean of |cos| and |sin| of all directions is 2 / pi.
    slope = found["values"]["ground_step_rad"]["dense"].value
    assert slope == pytest.approx(2 * np.pi * 8 / SIDE * 2 / np.pi, rel=0.1)
    # The mean cosine of steps k cos(direction) is the Bessel function J0(k).
    for lag in (1, 4):
        cosine = found["values"][f"ground_cos_{lag}px"]["dense"].value
        assert cosine == pytest.approx(special.j0(lag * 2 * np.pi * 8 / SIDE), abs=0.06)


def test_smooth_grain_is_longer(real: PatchSet) -> None:
    found = compared(real, smooth=patch_set(lambda rng: island(rng, grain_px=0.8), 2))
    assert gap(found["distances"]["grain"], "smooth") > 5
    length = {name: estimate.value for name, estimate in found["values"]["grain_length_px"].items()}
    assert length["real"] == pytest.approx(1 - np.exp(-1), abs=0.03)  # white: 0 from 1 px on
    assert length["smooth"] > 1.2


def test_fewer_colours_are_counted(real: PatchSet) -> None:
    values = compared(real, posterised=patch_set(island, 2, bits=3))["values"]
    colours = {name: estimate.value for name, estimate in values["distinct_colours"].items()}
    assert colours["real"] > 200
    assert colours["posterised"] <= 31
    assert values["palette_colours"]["posterised"].value == 1


def test_phase_of_one_colour_is_told(real: PatchSet) -> None:
    def pale(rng: np.random.Generator) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        phase, valid = island(rng)
        return np.where(np.abs(phase) < 3, 0.3 * phase, phase), valid

    values = compared(real, pale=patch_set(pale, 3))["values"]
    assert abs(values["ground_cosine"]["real"].value) < 0.1
    assert values["ground_cosine"]["pale"].value > 0.7
    assert values["ground_resultant"]["pale"].value > values["ground_resultant"]["real"].value + 0.3


def test_no_data_is_measured_by_area_pieces_and_direction() -> None:
    valid = np.ones((SIDE, SIDE), dtype=bool)
    y, x = np.mgrid[:SIDE, :SIDE]
    valid[y > 90 + x * np.tan(np.radians(10))] = False
    valid[:3, :3] = False  # too small to be no data
    totals = measure(colour(np.zeros(valid.shape), valid), np.zeros(valid.shape), valid)
    assert totals["no_data"] == pytest.approx((~valid).sum() - 9)
    assert totals["pieces"] == 1
    assert totals["with_no_data"] == 1
    # The normal of an edge at 10 degrees lies at 100, or 10 mod 90: bin 1 or 2 of 5 degrees each.
    assert totals["edge_tilt"][1:3].sum() > 0.8 * totals["edge_tilt"].sum() > 0


def test_colour_statistics_are_those_of_the_pixels_with_data(real: PatchSet) -> None:
    phase, valid = island(np.random.default_rng(5))
    rgb = colour(phase, valid)
    totals = measure(rgb, phase, valid)
    for i, name in enumerate(("red", "green", "blue")):
        level = rgb[valid][:, i].astype(float)
        assert realism.VALUES[f"{name}_mean"](totals) == pytest.approx(level.mean())
        assert realism.VALUES[f"{name}_std"](totals) == pytest.approx(level.std())
    assert realism.VALUES["no_data_share"](totals) == pytest.approx(1 - valid.mean())


def test_scrambling_keeps_the_spectrum_and_destroys_the_fringes() -> None:
    # Turbulence of several fringes with some noise: a broad spectrum, as land has.
    noise = np.random.default_rng(6).standard_normal((2, SIDE, SIDE))
    smooth = ndimage.gaussian_filter(noise[0], 6)
    phase = wrap(6 * smooth / smooth.std() + 0.5 * noise[1])
    valid = np.ones((SIDE, SIDE), dtype=bool)
    generator = torch.Generator().manual_seed(0)
    rgb = realism.scramble(phase, valid, generator)
    white = np.random.default_rng(0).uniform(-3, 3, phase.shape)
    pictures = {"real": phase, "scrambled": _decoded(rgb, valid), "white": white}
    totals = {name: measure(colour(p, valid), p, valid) for name, p in pictures.items()}
    spectral = realism.DISTANCES["spectrum_db"]
    kept, lost = (spectral(totals["real"], totals[name]) for name in ("scrambled", "white"))
    assert kept < 0.25 * lost, (kept, lost)
    ground = {name: realism.VALUES["coherent_share"](t) for name, t in totals.items()}
    assert ground["real"] > 0.95 > 0.85 > ground["scrambled"], (kept, lost, ground)
    assert np.array_equal(rgb, realism.scramble(phase, valid, torch.Generator().manual_seed(0)))
    assert not np.array_equal(rgb, realism.scramble(phase, valid, generator))


def _decoded(rgb: NDArray[np.uint8], valid: NDArray[np.bool_]) -> NDArray[np.floating]:
    from PIL import Image

    from heph_vl.data.phase import decode_image

    return decode_image(Image.fromarray(rgb), palette="new").wrapped_phase * valid


def test_random_phase_is_uniform_over_the_palette_and_keeps_the_outline() -> None:
    valid = np.ones((SIDE, SIDE), dtype=bool)
    valid[:20] = False
    rgb = realism.random_phase(valid, torch.Generator().manual_seed(1))
    assert (rgb[:20] == 255).all()
    phase = np.linspace(-np.pi, np.pi, 20000)[None]
    expected = posterise(colour(phase)).reshape(-1, 3).mean(axis=0)
    assert rgb[20:].reshape(-1, 3).mean(axis=0) == pytest.approx(expected, abs=4)


def test_errors_are_those_of_the_mean_over_units() -> None:
    # Half-samples give std / sqrt(n) of a mean; patches of one unit add nothing to it.
    base = patch_set(island, 7, number=4)
    rng = np.random.default_rng(8)
    cosine = np.repeat(rng.standard_normal(40), 2)[:, None]
    totals = {name: np.repeat(rows[:1], 80, axis=0) for name, rows in base.totals.items()}
    totals |= {"ground": np.ones((80, 1)), "ground_cosine": cosine}
    units = np.repeat(np.arange(40), 2)
    measured = PatchSet(totals, units, np.full(80, ""))
    generator = torch.Generator().manual_seed(3)
    found = realism.compare(measured, {}, 400, generator)["values"]["ground_cosine"]["real"]
    assert found.value == pytest.approx(cosine.mean(), abs=0.02)
    assert found.standard_error == pytest.approx(cosine[::2].std(ddof=1) / np.sqrt(40), rel=0.1)


def test_halves_are_whole_units_and_every_other_set_is_cut_to_their_kinds() -> None:
    generator = torch.Generator().manual_seed(0)
    units = np.array([0, 0, 1, 1, 1, 2, 3, 4])
    sizes = set()
    for _ in range(40):
        half = realism.half_of(units, generator)
        assert all(len(set(half[units == unit])) == 1 for unit in range(5))
        sizes.add(len(set(units[half])))
    assert sizes == {2, 3}
    # Real: one crop to one tile. The other set has ten crops for each tile, of another cosine.
    base = patch_set(island, 7, number=4)
    rows = {name: np.repeat(r[:1], 44, axis=0) for name, r in base.totals.items()}
    kinds = np.array(["crop"] * 40 + ["tile"] * 4)
    rows |= {"ground": np.ones((44, 1)), "ground_cosine": (kinds == "tile")[:, None] * 1.0}
    other = PatchSet(rows, np.tile(np.arange(4), 11), kinds)
    real = PatchSet(base.totals, np.arange(4), np.array(["crop", "crop", "tile", "tile"]))
    found = realism.compare(real, {"other": other}, 20, generator)["values"]
    assert found["ground_cosine"]["other"].value == pytest.approx(0.5)


def test_frames_are_drawn_where_there_are_enough_else_records() -> None:
    records = [str(i) for i in range(16)]
    few = realism.draw_units(records, ["a", "b"] * 8)
    many = realism.draw_units(records, [f"f{i % 8}" for i in range(16)])
    unknown = realism.draw_units(records, [None, *(f"f{i % 8}" for i in range(15))])
    assert [len(set(units.tolist())) for units in (few, many, unknown)] == [16, 8, 16]
    assert many[0] == many[8] != many[1]


def test_the_same_seed_gives_the_same_numbers(real: PatchSet) -> None:
    other = patch_set(island, 2, number=6)
    assert str(compared(real, other=other)) == str(compared(real, other=other))
