"""Physics views stay on the circle and say what they did; paper views are pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from heph_vl.data import samples, views
from heph_vl.data.paper_views import PaperConfig, paper_view
from heph_vl.data.parquet import load, write_parquet
from heph_vl.data.views import PhysicsConfig, View, ViewConfig, ViewPairs, collate_views
from heph_vl.errors import HephError
from heph_vl.simulate import atmosphere
from heph_vl.simulate.grid import METRES_PER_DEGREE, Grid
from tests.data.fake_archive import write_fake_archive

ALWAYS = PhysicsConfig(mirror=1, negate=1, ramp=1, turbulence=1, decorrelation=1, blur=1)


def make_view(phase, coherence=0.9, hole=True):
    valid = np.ones(phase.shape, bool)
    if hole:
        valid[10:20, 5:25] = False
    z = np.where(valid, np.exp(1j * phase), 0).astype(np.complex64)
    return View(z, np.where(valid, coherence, 0).astype(np.float32), valid)


def plane(height=60, width=50, right=0.4, down=-0.2):
    y, x = np.mgrid[:height, :width]
    return right * x + down * y


def turned(after, before):
    """Phase added between two views [rad], where valid."""
    return np.angle(after.z * before.z.conj())[before.valid]


def test_a_shift_is_exact_on_the_circle():
    view = make_view(plane())
    shifted = views.add_phase(view, 2.5)
    np.testing.assert_allclose(turned(shifted, view), 2.5, atol=1e-6)
    np.testing.assert_allclose(np.abs(shifted.z)[view.valid], 1, atol=1e-6)
    back = views.add_phase(shifted, 2 * np.pi - 2.5)
    np.testing.assert_allclose(back.z, view.z, atol=1e-6)


def test_a_ramp_adds_its_gradient():
    view = make_view(plane(), hole=False)
    ramped = views.add_phase(view, views.ramp(view.z.shape, 0.3, -0.5))
    for axis, before, added in ((1, 0.4, 0.3), (0, -0.2, -0.5)):
        head = np.take(ramped.z, range(1, view.z.shape[axis]), axis)
        tail = np.take(ramped.z, range(view.z.shape[axis] - 1), axis)
        np.testing.assert_allclose(np.angle(head * tail.conj()), before + added, atol=1e-5)


def test_negation_and_mirror():
    view = make_view(plane())
    np.testing.assert_allclose(np.angle(views.negate(view).z), -np.angle(view.z), atol=1e-6)
    np.testing.assert_array_equal(views.mirror(view).z[:, 0], view.z[:, -1])
    assert not views.mirror(view).valid[15, -10]


def test_a_blurred_ramp_has_no_seam():
    # A mean of wrapped phases falls to 0 where it jumps from pi to -pi.
    view = make_view(plane(right=0.4, down=0), hole=False)
    blurred = views.blur(view, 1.5)
    inner = np.s_[8:-8, 8:-8]
    step = np.angle(blurred.z[:, 1:] * blurred.z[:, :-1].conj())
    np.testing.assert_allclose(step[inner], 0.4, atol=1e-3)
    # The mean of exp(i g x) over a Gaussian is exp(-(g sigma)^2 / 2).
    np.testing.assert_allclose(np.abs(blurred.z[inner]), np.exp(-((0.4 * 1.5) ** 2) / 2), rtol=0.01)


def test_blur_does_not_darken_the_edge_of_no_data():
    view = make_view(np.full((60, 50), 1.2))
    blurred = views.blur(view, 2.0)
    np.testing.assert_allclose(blurred.z[view.valid], np.exp(1.2j), atol=1e-4)
    assert not blurred.z[~view.valid].any()


@pytest.mark.parametrize(("coherence", "factor"), [(0.95, 0.5), (0.6, 0.5), (0.9, 0.2)])
def test_noise_follows_coherence(coherence, factor):
    rng = np.random.default_rng(0)
    shape, looks = (300, 300), views.LOOKS
    inherited = np.sqrt((1 - coherence**2) / (2 * looks)) / coherence
    view = make_view(inherited * rng.standard_normal(shape), coherence, hole=False)
    noisy = views.decorrelate(view, factor, rng)
    low = coherence * factor
    np.testing.assert_allclose(noisy.coherence, low, rtol=1e-6)
    found = np.angle(noisy.z).std()
    spread = np.sqrt((1 - low**2) / (2 * looks))
    direct = np.angle(low + spread * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)))
    assert found == pytest.approx(direct.std(), rel=0.05)
    if low > 0.3:  # the bound of Cramer and Rao, (1 - g^2) / (2 L g^2) rad^2
        assert found == pytest.approx(spread / low, rel=0.1)
    np.testing.assert_allclose(np.abs(noisy.z), 1, atol=1e-5)


def test_no_coherence_left_is_uniform_phase_and_no_loss_is_no_change():
    rng = np.random.default_rng(1)
    view = make_view(plane(200, 200))
    gone = views.decorrelate(view, 0.0, rng)
    assert abs(gone.z[view.valid].mean()) < 0.02
    assert not gone.coherence.any()
    kept = views.decorrelate(view, 1.0, rng)
    np.testing.assert_allclose(kept.z, view.z, atol=1e-6)
    none = replace(view, coherence=np.zeros_like(view.coherence))
    np.testing.assert_allclose(views.decorrelate(none, 1.0, rng).z, view.z, atol=1e-6)


def test_turbulence_has_the_spectrum_and_level_of_the_simulator():
    rng = np.random.default_rng(2)
    side = 224
    ours = np.stack([views.turbulence((side, side), rng) for _ in range(20)])
    grid = Grid(side, side, spacing_deg=views.SPACING_M / METRES_PER_DEGREE)
    generator = torch.Generator().manual_seed(0)
    theirs = torch.stack(
        [atmosphere.to_grid(atmosphere.turbulence(grid, generator), grid) for _ in range(20)]
    ).numpy()
    for lag, tolerance in ((4, 0.15), (16, 0.15), (64, 0.3)):  # structure functions
        one = np.square(ours[:, :, lag:] - ours[:, :, :-lag]).mean()
        two = np.square(theirs[:, :, lag:] - theirs[:, :, :-lag]).mean()
        assert one == pytest.approx(two, rel=tolerance)


def test_physics_views_keep_the_disc_and_no_data():
    view = make_view(plane(64, 64))
    seen = set()
    for seed in range(20):
        changed = views.physics_view(view, ALWAYS, np.random.default_rng(seed))
        channels, valid = changed.channels()
        np.testing.assert_array_equal(valid, view.valid[:, ::-1])
        assert not channels[:, ~valid].any()
        assert np.hypot(channels[0], channels[1]).max() <= 1 + 1e-6
        assert 0 < channels[2, valid].min() <= channels[2].max() <= 0.9 + 1e-6
        seen.add(float(channels[0, 0, 0]))
    assert len(seen) == 20


def test_paper_views_are_pictures_in_range():
    channels, valid = make_view(plane(108, 108)).channels()
    flips = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        picture, seen = paper_view(channels, valid, 96, PaperConfig(), rng)
        assert picture.shape == (3, 96, 96)
        assert picture.dtype == np.float32
        assert picture[:2].min() >= -1
        assert picture[2].min() >= 0
        assert picture.max() <= 1
        assert not picture[:, ~seen].any()
        only_flips = PaperConfig(0, 1, 0, 0, 0, 0)
        a = paper_view(channels, valid, 96, replace(only_flips, flip=0), np.random.default_rng(9))
        b = paper_view(channels, valid, 96, only_flips, np.random.default_rng(9))
        flips.append(np.array_equal(a[0][:, ::-1, ::-1], b[0]))
    assert all(flips)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    root = tmp_path_factory.mktemp("views")
    write_fake_archive(root / "archive", n=24, size=96)
    write_parquet(root / "archive", root / "dataset")
    return load(root / "dataset", "train")


SMALL = ViewConfig(crop_size=48)
STILL = PhysicsConfig(mirror=0, negate=0, ramp=0, turbulence=0, decorrelation=0, blur=0)


def test_a_pair_depends_on_seed_draw_and_index_only(rows):
    one, other = (ViewPairs(rows, SMALL, seed=1, cache_bytes=n) for n in (1 << 20, 0))
    one[3, 9]
    a, b = one[2, 5], other[2, 5]
    for name in ("query", "key"):
        np.testing.assert_array_equal(a[name][0], b[name][0])
    assert not np.array_equal(a["query"][0], a["key"][0])
    assert not np.array_equal(a["query"][0], one[2, 6]["query"][0])


def test_both_crops_overlap_as_asked(rows):
    # Without any change but crop and shift, coherence tells where a crop was cut.
    config = ViewConfig(crop_size=48, overlap=1, estimated_coherence=0, physics=STILL)
    for draw in range(5):
        item = ViewPairs(rows, config, seed=2)[draw, draw]
        np.testing.assert_array_equal(item["query"][0][2], item["key"][0][2])
        z = [part[0][0] + 1j * part[0][1] for part in (item["query"], item["key"])]
        turn = (z[0] * z[1].conj())[item["query"][1]]
        assert np.ptp(np.angle(turn / turn[0])) < 1e-4
    window = (40, 10, 88, 58)
    rng = np.random.default_rng(0)
    moved = [views._near_window(window, 24, (96, 96), rng) for _ in range(200)]
    assert {w[2] - w[0] for w in moved} == {48}
    assert min(w[0] for w in moved) == 16
    assert max(w[0] for w in moved) == 48  # 64, but for the edge
    assert min(w[1] for w in moved) == 0


def test_other_dates_are_of_the_same_frame(rows):
    dataset = ViewPairs(rows, replace(SMALL, other_dates=1.0), seed=3)
    frames, others = rows["frame_id"], 0
    for draw in range(30):
        index = draw % len(dataset)
        item = dataset[index, draw]
        assert frames[item["image"]] == frames[index] == dataset.frames[item["frame"]]
        others += item["image"] != index
    assert others > 10
    same = ViewPairs(rows, SMALL, seed=3)
    assert all(same[i, 50 + i]["image"] == i for i in range(10))


@pytest.mark.parametrize("recipe", ["physics", "paper"])
def test_batches(rows, recipe):
    dataset = ViewPairs(rows, replace(SMALL, recipe=recipe), seed=4)
    batch = collate_views([dataset[i, i] for i in range(4)])
    for name in ("query", "key"):
        assert batch[name]["pixel_values"].shape == (4, 3, 48, 48)
        assert batch[name]["valid"].any((1, 2)).all()
        assert batch[name]["size"].tolist() == [[48, 48]] * 4
    assert batch["image"].tolist() == [0, 1, 2, 3]
    assert batch["frame"].tolist() == [dataset.frames.index(f) for f in rows["frame_id"][:4]]


def test_rows_without_labels_do(rows):
    bare = rows.select_columns(["image", "coherence", "frame_id", "primary_date", "secondary_date"])
    a, b = ViewPairs(bare, SMALL, seed=5)[1, 1], ViewPairs(rows, SMALL, seed=5)[1, 1]
    np.testing.assert_array_equal(a["query"][0], b["query"][0])


def test_estimated_coherence_is_taken_where_asked():
    rng = np.random.default_rng(0)
    phase = rng.uniform(-np.pi, np.pi, (30, 30)).astype(np.float32)
    measured = np.full((30, 30), 0.5, np.float32)
    whole = samples.from_phase(phase, np.ones((30, 30), bool), measured)
    view = views.cut(whole, (5, 6, 25, 20), estimated=False)
    assert view.z.shape == (14, 20)
    np.testing.assert_allclose(view.coherence, 0.5, atol=0.003)
    np.testing.assert_allclose(view.z, np.exp(1j * phase[6:20, 5:25].astype(complex)), atol=0.013)
    assert views.cut(whole, (5, 6, 25, 20), estimated=True).coherence.max() < 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"other_dates": 1.5}, "views.other_dates: 1.5; a number from 0 to 1"),
        ({"crop_size": 0}, "views.crop_size: 0 px"),
        ({"physics": PhysicsConfig(blur=-1)}, "views.physics.blur: -1"),
        ({"paper": PaperConfig(noise=2)}, "views.paper.noise: 2"),
        ({"physics": PhysicsConfig(ramp_fringes=-2.0)}, "views.physics.ramp_fringes: -2.0"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(HephError, match=f"^{message}"):
        ViewConfig(**changes)
