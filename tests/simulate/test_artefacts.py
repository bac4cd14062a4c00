"""Errors of processing, corruption and the legend: what they change and what not."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from heph_vl.data import palettes
from heph_vl.data.phase import decode_image
from heph_vl.simulate import artefacts
from heph_vl.simulate.artefacts import Fields
from heph_vl.simulate.grid import Grid
from heph_vl.simulate.render import Rendering, render

SIZE = 300
BURST_PX = 70
HEADING_DEG = -12.0


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def swath():
    """Three sub-swaths and bursts of 70 px along a heading of -12 degrees, staggered."""
    heading = math.radians(HEADING_DEG)
    north = (SIZE - 1) / 2 - torch.arange(SIZE).float()[:, None]
    east = torch.arange(SIZE).float()[None, :] - (SIZE - 1) / 2
    along = east * math.sin(heading) + north * math.cos(heading)
    across = east * math.cos(heading) - north * math.sin(heading)
    sub_swath = (across > -60).to(torch.int8) + (across > 50).to(torch.int8)
    stagger = torch.tensor([0.1, 0.45, 0.8])[sub_swath.long()]
    return sub_swath, (along / BURST_PX + stagger).floor().to(torch.int16)


@pytest.fixture
def fields():
    north = torch.linspace(1.0, -1.0, SIZE)[:, None]
    east = torch.linspace(-1.0, 1.0, SIZE)[None, :]
    phase = 3.0 * torch.sin(3.0 * east) * torch.cos(2.0 * north) + north
    coherence = 0.6 + 0.2 * east * north
    valid = torch.ones((SIZE, SIZE), dtype=torch.bool)
    return Fields(phase, coherence, valid)


def flat(fields):
    return fields._replace(phase=torch.zeros_like(fields.phase))


def inner(region):
    """Pixels whose four neighbours are in the region as well."""
    out = region.clone()
    for dim in (0, 1):
        for by in (1, -1):
            out &= torch.roll(region, by, dim)
    out[[0, -1]] = False
    out[:, [0, -1]] = False
    return out


def error(name, fields, swath, seed):
    return getattr(artefacts, name)(fields, *swath, fields.valid, generator(seed))


def changed(before, after, region):
    return any(not torch.equal(a[region], b[region]) for a, b in zip(before, after, strict=True))


def picture(fields, seed=0, palette="new"):
    # Gaussian phase noise of 50 looks stands in for the exact one.
    spread = torch.sqrt((1 / fields.coherence.clamp_min(0.02) ** 2 - 1) / 100)
    noise = spread * torch.randn(fields.phase.shape, generator=generator(seed))
    wrapped = torch.angle(torch.polar(torch.ones_like(noise), fields.phase + noise))
    options = Rendering(posterise=True, palette=palette)
    valid, coherence = fields.valid.numpy(), fields.coherence.numpy()
    return render(wrapped.numpy(), valid, coherence, options)[0]


def test_in_sight_counts_what_is_visible():
    index = torch.zeros((40, 40), dtype=torch.int8)
    index[:, 20:] = 1
    index[:4, :4] = -3  # 1 % of all
    everywhere = torch.ones((40, 40), dtype=torch.bool)
    assert artefacts.in_sight(index, everywhere) == [0, 1]
    assert artefacts.in_sight(index, index == 1) == [1]
    assert artefacts.in_sight(index, ~everywhere) == []


def test_each_of_many_bursts_is_in_sight(fields):
    rows = torch.arange(SIZE)[:, None].expand(SIZE, SIZE)
    burst = (rows // 10).to(torch.int16)  # 30 bursts of 3 %
    sub_swath = (torch.arange(SIZE)[None, :].expand(SIZE, SIZE) // 100).to(torch.int8)
    assert len(artefacts.in_sight(burst, fields.valid)) >= 25
    for seed in range(8):
        after = artefacts.swath_merging_error(
            fields, sub_swath, burst, fields.valid, generator(seed)
        )
        assert not torch.equal(after.phase, fields.phase)


def test_position_along_track_resets_at_each_seam(swath):
    sub_swath, burst = swath
    heading = math.radians(HEADING_DEG)
    for s in range(3):
        inside = sub_swath == s
        along, step = artefacts._along_track(burst, inside)
        # Within a burst it rises to the north by cos(heading) / 70 px, to the east by sin(heading).
        whole = inner(inside)
        same = whole & (burst == torch.roll(burst, 1, 0))
        north = (torch.roll(along, 1, 0) - along)[same]
        up = torch.diff(along, dim=0)[:-1]
        assert float(north.median()) == pytest.approx(-float(up.median()), rel=1e-3)
        assert float(north.mean()) == pytest.approx(math.cos(heading) / BURST_PX, rel=0.06)
        assert float(north.std()) < 1e-5
        # One pixel to the north across a seam it falls back by one burst.
        seam = whole & (torch.roll(burst, 1, 0) == burst + 1)
        jump = (along - torch.roll(along, 1, 0))[seam]
        assert int(seam.sum()) > 20
        assert float((jump + north.mean()).min()) == pytest.approx(1.0, abs=1e-4)
        assert float((jump + north.mean()).max()) == pytest.approx(1.0, abs=1e-4)
        assert float(along[inside].mean()) == pytest.approx(0.0, abs=0.02)
        assert float(along[inside].abs().max()) < 0.65
        assert math.hypot(*step) == pytest.approx(BURST_PX, rel=0.06)
        assert step[0] < 0  # northward flight is toward lower rows
        assert step[1] / step[0] == pytest.approx(-math.tan(heading), abs=0.05)


def test_ramps_are_those_of_the_misregistration(fields, swath):
    sub_swath, burst = swath
    inside = sub_swath == 1
    along, _ = artefacts._along_track(burst, inside)
    after = artefacts._ramps(flat(fields), inside, along, generator(3))
    lines = after.phase[inside] / (58.13 * along[inside])
    assert 0.05 <= abs(float(lines.median())) <= 0.35
    torch.testing.assert_close(lines, lines.median().expand_as(lines), rtol=1e-3, atol=0)


def test_steps_are_constant_in_a_burst_and_differ_between_neighbours(fields, swath):
    sub_swath, burst = swath
    inside = sub_swath == 0
    after = artefacts._steps(flat(fields), inside, burst, generator(4)).phase
    levels = [after[inside & (burst == b)] for b in burst[inside].unique()]
    assert all(bool((level == level[0]).all()) for level in levels)
    values = [float(level[0]) for level in levels]
    steps = [abs(b - a) for a, b in itertools.pairwise(values)]
    assert len(values) > 3
    assert min(steps) >= 1.0
    assert max(steps) <= math.pi


@pytest.mark.parametrize("seed", range(12))
def test_debursting_hits_whole_sub_swaths(fields, swath, seed):
    sub_swath, _ = swath
    before = Fields(*(f.clone() for f in fields))
    after = error("debursting_error", fields, swath, seed)
    assert not changed(before, fields, fields.valid)  # the input is left alone
    hit = [changed(fields, after, sub_swath == s) for s in range(3)]
    assert sum(hit) in (1, 3)
    for name, f, like in zip(Fields._fields, after, fields, strict=True):
        assert f.shape == like.shape, name
        assert f.dtype == like.dtype, name
        assert bool(torch.isfinite(f.float()).all()), name
    # What is left without data are strips at seams, never most of a sub-swath.
    lost = fields.valid & ~after.valid
    assert float(lost.float().mean()) < 0.15


def test_all_kinds_of_debursting_errors_come(fields, swath):
    kinds = set()
    for seed in range(30):
        after = error("debursting_error", flat(fields), swath, seed)
        moved = not torch.equal(after.coherence, fields.coherence)
        steps = len(after.phase.unique()) < 60
        kinds.add("misplaced" if moved else "steps" if steps else "ramps")
        kinds.add("whole" if bool(after.valid.all()) else "strips")
    assert kinds == {"misplaced", "steps", "ramps", "whole", "strips"}


def test_strips_follow_the_seams(fields, swath):
    sub_swath, burst = swath
    for seed in range(30):
        after = error("debursting_error", fields, swath, seed)
        lost = ~after.valid
        if bool(lost.any()):
            break
    # Going south from a lost pixel the burst changes within the strip's width, 0.14 of a burst.
    number = burst[lost]
    rows, columns = lost.nonzero(as_tuple=True)
    below = burst[(rows + 12).clamp_max(SIZE - 1), columns]
    assert bool(((below == number - 1) | (rows + 12 >= SIZE)).all())
    assert int(sub_swath[lost].unique().numel()) in (1, 3)


@pytest.mark.parametrize("seed", range(12))
def test_swath_merging_hits_one_sub_swath(fields, swath, seed):
    sub_swath, _ = swath
    after = error("swath_merging_error", fields, swath, seed)
    hit = [changed(fields, after, sub_swath == s) for s in range(3)]
    assert sum(hit) == 1
    inside = sub_swath == hit.index(True)
    # The phase offset is one constant of one to pi radians, seen where nothing else varies.
    offset = error("swath_merging_error", flat(fields), swath, seed).phase[inside]
    assert bool((offset == offset[0]).all())
    assert 1.0 <= abs(float(offset[0])) <= math.pi
    assert bool(torch.isfinite(after.phase).all())


def test_swath_merging_mostly_leaves_information_missing(fields, swath):
    sub_swath, _ = swath
    shares = []
    for seed in range(40):
        after = error("swath_merging_error", fields, swath, seed)
        inside = sub_swath == int(sub_swath[after.phase != fields.phase].unique())
        shares.append(float((~after.valid)[inside].float().mean()))
        if shares[-1] == 1.0:  # an outer one that is lost would only be a narrower picture
            assert bool((sub_swath[inside] == 1).all())
    assert 24 <= sum(share > 0.05 for share in shares) <= 39
    assert any(share == 1.0 for share in shares)  # the middle one, lost
    assert any(0.3 < share < 0.9 for share in shares)  # half of an outer one
    assert any(share == 0.0 for share in shares)


def test_errors_that_cannot_be_seen_are_refused(fields, swath):
    sub_swath, burst = swath
    one = sub_swath == 1
    with pytest.raises(ValueError, match="two are needed"):
        artefacts.swath_merging_error(fields, sub_swath, burst, one, generator(0))
    with pytest.raises(ValueError, match="no sub-swath has two bursts in sight"):
        artefacts.debursting_error(fields, sub_swath, burst, one & (burst == 0), generator(0))
    assert artefacts.seams_in_sight(sub_swath, burst, one) == [1]


@pytest.mark.parametrize("kind", artefacts.CORRUPTIONS)
def test_corruption_leaves_nothing_of_the_ground(fields, kind):
    grid = Grid(SIZE, SIZE, 10.0)
    after = artefacts.corrupt(fields, grid, HEADING_DEG, generator(5), kind)
    other = artefacts.corrupt(flat(fields), grid, HEADING_DEG, generator(5), kind)
    assert torch.equal(after.phase, other.phase)
    assert bool(torch.isfinite(after.phase).all())
    assert 0 <= float(after.coherence.min()) <= float(after.coherence.max()) <= 0.75
    assert bool((after.valid <= fields.valid).all())
    lost = float((~after.valid).float().mean())
    assert 0.3 < lost < 0.7 if kind == "half" else lost < 0.4


def test_corrupt_fringes_are_dense(fields):
    grid = Grid(SIZE, SIZE, 0.0)
    for seed in range(6):
        phase = artefacts.corrupt(fields, grid, HEADING_DEG, generator(seed), "fringes").phase
        south, east = torch.gradient(phase)
        native = 2 * math.pi / torch.sqrt(south**2 + east**2) * 0.3
        assert 2.2 < float(native.median()) < 7.0


def test_stripes_run_across_track(fields):
    grid = Grid(SIZE, SIZE, 0.0)
    after = artefacts.corrupt(fields, grid, 0.0, generator(2), "stripes").coherence
    # Flying north, give or take two degrees, a row hardly leaves its stripe and a column does.
    assert float((torch.diff(after, dim=1) != 0).float().mean()) < 0.01
    assert float((torch.diff(after, dim=0) != 0).float().mean()) > 0.015


@pytest.mark.parametrize("palette", palettes.PALETTES)
@pytest.mark.parametrize("flatten", [False, True])
def test_color_bar_covers_its_box_only(fields, palette, flatten):
    plain = picture(fields, palette=palette)
    if flatten:
        plain = plain.convert("RGB")
    before = np.asarray(plain.convert("RGB")).copy()
    marked = artefacts.color_bar(plain, generator(0), palette)
    assert np.array_equal(np.asarray(plain.convert("RGB")), before)
    assert (marked.mode, marked.size) == (plain.mode, plain.size)
    rows, columns = np.nonzero((np.asarray(marked.convert("RGB")) != before).any(-1))
    top, left = rows.min(), columns.min()
    height, width = rows.max() + 1 - top, columns.max() + 1 - left
    assert 7 <= height <= 15
    assert 50 <= width <= min(150, plain.width - 6)
    assert top + height < plain.height
    assert top > 0.7 * plain.height
    if palette == "new":
        middle = np.asarray(marked.convert("RGB")).astype(int)[top + 2, left : left + width]
        blue_first = middle[5, 2] - middle[5, 0], middle[-6, 2] - middle[-6, 0]
        assert blue_first[0] > 50
        assert blue_first[1] < -50


def test_color_bar_keeps_the_colour_table(fields):
    plain = picture(fields)
    marked = artefacts.color_bar(plain, generator(1))
    assert marked.getpalette() == plain.getpalette()
    assert marked.info["transparency"] == plain.info["transparency"]
    assert int((np.asarray(marked) == plain.info["transparency"]).sum()) == 0


def test_color_bar_refuses_what_it_cannot_mark():
    with pytest.raises(ValueError, match="mode 'L'"):
        artefacts.color_bar(Image.new("L", (100, 100)), generator(0))
    with pytest.raises(ValueError, match=r"\(30, 100\) px"):
        artefacts.color_bar(Image.new("RGB", (30, 100)), generator(0))


def draw(name, fields, swath, seed):
    if name == "color_bar":
        return artefacts.color_bar(picture(fields), generator(seed))
    if name == "corrupt":
        grid = Grid(SIZE, SIZE, 10.0)
        return picture(artefacts.corrupt(fields, grid, HEADING_DEG, generator(seed)))
    return picture(error(name, fields, swath, seed))


@pytest.mark.parametrize(
    "name", ["debursting_error", "swath_merging_error", "corrupt", "color_bar"]
)
def test_pictures_are_decoded_and_the_same_for_one_seed(fields, swath, name):
    different = set()
    for seed in range(4):
        image = draw(name, fields, swath, seed)
        assert np.array_equal(np.asarray(image), np.asarray(draw(name, fields, swath, seed)))
        assert decode_image(image).palette == "new"
        different.add(image.tobytes())
    assert len(different) == 4
