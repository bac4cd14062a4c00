"""Closed forms, brute force and sets of a line: what each number must be."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from heph_vl.data.phase import wrap
from heph_vl.errors import HephError
from heph_vl.metrics import generation as measures

Floats = NDArray[np.float64]


def normal(seed: int, number: int, dim: int = 4, shift: float = 0.0) -> Floats:
    return np.random.default_rng(seed).standard_normal((number, dim)) + shift


def line(*points: float) -> Floats:
    return np.array(points, dtype=np.float64)[:, None]


def test_the_kernel_distance_is_the_double_loop_without_the_diagonals() -> None:
    x, y = normal(0, 5, 3), normal(1, 7, 3, 0.5)

    def kernel(a: Floats, b: Floats) -> float:
        return float((sum(p * q for p, q in zip(a, b, strict=True)) / 3 + 1) ** 3)

    inside = [
        np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
        for z in (x, y)
    ]
    across = np.mean([kernel(a, b) for a in x for b in y])
    assert measures.kid(x, y) == pytest.approx(inside[0] + inside[1] - 2 * across, rel=1e-12)
    assert measures.kid(x, y) == pytest.approx(measures.kid(y, x), rel=1e-12)


def test_the_kernel_distance_is_unbiased() -> None:
    same = [measures.kid(normal(2 * s, 8), normal(2 * s + 1, 12)) for s in range(2000)]
    assert min(same) < 0
    assert np.mean(same) == pytest.approx(0, abs=4 * np.std(same) / np.sqrt(len(same)))
    # D = 1, x = 0 or 2 with equal chance, y = 0: kernels 1 and 5^3 give (3 + 125) / 4 + 1 - 2.
    rng = np.random.default_rng(0)
    drawn = [measures.kid(2.0 * rng.integers(0, 2, (4, 1)), np.zeros((3, 1))) for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(31, abs=4 * np.std(drawn) / np.sqrt(len(drawn)))


def with_moments(rng: np.random.Generator, mean: Floats, root: Floats, number: int) -> Floats:
    """(N, D) of exactly this mean, and covariance root' root."""
    x = rng.standard_normal((number, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T)).T)
    return white @ root + mean


def test_the_frechet_distance_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    # Covariances diag(1, 4) and diag(9, 16): |m - n|^2 + (1 - 3)^2 + (2 - 4)^2.
    x = with_moments(rng, np.array([0.0, 0.0]), np.diag([1.0, 2.0]), 50)
    y = with_moments(rng, np.array([3.0, 4.0]), np.diag([3.0, 4.0]), 80)
    assert measures.frechet_distance(x, y) == pytest.approx(25 + 4 + 4, rel=1e-9)
    # Covariances that do not commute, by the root of their product.
    x, y = normal(1, 40, 5) @ rng.standard_normal((5, 5)), normal(2, 30, 5, 1.0)
    a, b = np.cov(x.T), np.cov(y.T)
    spread = np.trace(a + b - 2 * sqrtm(a @ b)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + spread
    assert measures.frechet_distance(x, y) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("number", [3, 40])
def test_the_frechet_distance_of_fewer_images_than_features_is_safe(number: int) -> None:
    x = normal(3, number, 64)
    assert 0 <= measures.frechet_distance(x, x) < 1e-9
    assert measures.frechet_distance(x, x + 0.5) == pytest.approx(64 * 0.25, rel=1e-9)
    # Spread in unlike directions has no root in common: traces add.
    y, z = (np.pad(normal(s, number, 32), ((0, 0), p)) for s, p in ((4, (0, 32)), (5, (32, 0))))
    traces = np.trace(np.cov(y.T)) + np.trace(np.cov(z.T)) + ((y.mean(0) - z.mean(0)) ** 2).sum()
    assert measures.frechet_distance(y, z) == pytest.approx(traces, rel=1e-9)


def test_normalised_is_0_at_the_floor_and_1_at_the_ceiling() -> None:
    assert measures.normalised(2.0, 2.0, 6.0) == 0
    assert measures.normalised(6.0, 2.0, 6.0) == 1
    assert measures.normalised(1.0, 2.0, 6.0) == -0.25
    assert np.isnan(measures.normalised(1.0, 2.0, 2.0))
    assert np.isnan(measures.normalised(1.0, 3.0, 2.0))
    assert np.isnan(measures.normalised(1.0, float("nan"), 2.0))


def test_coverage_of_points_on_a_line_by_hand() -> None:
    # k = 1: balls of 0, 1, 3, 10 reach 1, 1, 2, 7: [-1, 1], [0, 2], [1, 5], [3, 17]; those of
    # 0.5, 1.5, 30 reach 1, 1, 28.5: [-0.5, 1.5], [0.5, 2.5], [1.5, 58.5].
    found = measures.coverage_scores(line(0, 1, 3, 10), line(0.5, 1.5, 30), k=1)
    assert found["precision"] == pytest.approx(2 / 3)  # 30 lies in none
    assert found["recall"] == 1  # 0 and 1 in the first, 3 and 10 in the last
    assert found["density"] == pytest.approx((2 + 2 + 0) / 3)
    assert found["coverage"] == pytest.approx(3 / 4)  # none in [3, 17]
    # k = 2: real balls reach 3, 2, 3, 9: [-3, 3], [-1, 3], [0, 6], [1, 19]; those of the generated
    # 1.5, 0.5, 7.5: [-2, 1], [-0.5, 0.5], [-0.5, 14.5].
    found = measures.coverage_scores(line(0, 1, 3, 10), line(-0.5, 0, 7), k=2)
    assert found["precision"] == 1
    assert found["recall"] == 1
    assert found["density"] == pytest.approx((2 + 3 + 1) / (2 * 3))
    assert found["coverage"] == 1


def test_a_mode_that_is_left_out_costs_recall_and_coverage_only() -> None:
    real = line(0, 1, 2, 100, 101, 102)
    found = measures.coverage_scores(real, line(0.5, 1, 1.5), k=1)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 0.5, 0.5)
    swapped = measures.coverage_scores(line(0.5, 1, 1.5), real, k=1)
    assert (swapped["precision"], swapped["recall"]) == (found["recall"], found["precision"])


def test_sets_of_one_distribution_cover_one_another() -> None:
    found = measures.coverage_scores(normal(0, 400, 2), normal(1, 400, 2))
    assert min(found["precision"], found["recall"]) > 0.9
    assert found["density"] == pytest.approx(1, abs=0.15)
    # Expected coverage of equal sets, Naeem et al. (2020): 1 - (N-1)...(N-k) / (2N-1)...(2N-k).
    assert found["coverage"] == pytest.approx(1 - 0.5**5, abs=0.04)


def test_nearest_distances_are_those_of_the_loop_over_all_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measures, "_AT_ONCE", 4)
    x, y = normal(0, 9, 3), normal(1, 6, 3)
    expected = [min(float(np.sqrt(((a - b) ** 2).sum())) for b in y) for a in x]
    assert measures.nearest_distances(x, y) == pytest.approx(np.array(expected), rel=1e-12)


def test_copies_are_seen() -> None:
    train, held_out = normal(0, 500, 8), normal(1, 1000, 8)
    honest = measures.copying(normal(2, 2000, 8), train, held_out)
    assert honest["nearer"] == pytest.approx(0.01, abs=0.01)
    assert honest["ratio"] == pytest.approx(1, abs=0.05)
    fake = np.concatenate([train[:30], normal(3, 70, 8)])
    copied = measures.copying(fake, train, held_out)
    assert 0.3 <= copied["nearer"] < 0.35
    assert copied["held_out_median"] == np.median(measures.nearest_distances(held_out, train))
    all_copied = measures.copying(train[:20], train, held_out)
    assert (all_copied["median"], all_copied["ratio"], all_copied["nearer"]) == (0, 0, 1)


def test_copying_by_hand() -> None:
    # Held-out distances 1, 2, ..., 101: the first percentile is 2, which is not nearer than itself.
    held_out = line(*range(1, 102))
    found = measures.copying(line(-0.5, -1.5, -2, -204), line(0, -1000), held_out)
    assert found["median"] == 1.75
    assert found["held_out_median"] == 51
    assert found["ratio"] == pytest.approx(1.75 / 51)
    assert found["nearer"] == 0.5
    assert np.isnan(measures.copying(line(1, 2), line(0, 3), line(0, 3))["ratio"])


def test_phase_steps_are_wrapped_absolute_and_between_valid_pixels() -> None:
    # Across 0.5 rad through the cut; down -2 pi + 1 = 1 rad.
    y, x = np.mgrid[:4, :5]
    phase = wrap(3 + 0.5 * x - (2 * np.pi - 1) * y)
    width = np.pi / measures.STEP_BINS
    valid = np.ones((4, 5), dtype=bool)
    counts = measures.phase_gradient_histogram(phase, valid)
    expected = np.zeros(measures.STEP_BINS)
    expected[[int(0.5 / width), int(1 / width)]] = 4 * 4, 3 * 5
    assert counts.tolist() == expected.tolist()
    valid[1, 2] = False  # takes two neighbours along its row and two along its column
    expected[[int(0.5 / width), int(1 / width)]] = 14, 13
    for filling in (phase[1, 2], np.nan):
        phase[1, 2] = filling
        counts = measures.phase_gradient_histogram(phase, valid)
        assert counts.tolist() == expected.tolist()
    none = measures.phase_gradient_histogram(phase, np.zeros((4, 5), dtype=bool))
    assert none.shape == (measures.STEP_BINS,)
    assert none.sum() == 0


def test_steps_of_half_a_turn_are_counted_in_single_precision_too() -> None:
    phase = (np.indices((6, 6)).sum(0) % 2 * np.pi).astype(np.float32)
    counts = measures.phase_gradient_histogram(phase, np.ones((6, 6), dtype=bool))
    assert counts[-1] == counts.sum() == 60


def test_the_wasserstein_distance_of_shifted_histograms_is_the_shift() -> None:
    a = np.array([0.0, 2, 6, 2, 0, 0, 0, 0])
    assert measures.wasserstein(a, np.roll(a, 3), 8.0) == pytest.approx(3)
    assert measures.wasserstein(np.roll(a, 3), a, np.pi) == pytest.approx(3 * np.pi / 8)
    assert measures.wasserstein(a, 7 * a, 8.0) == pytest.approx(0)  # shares, not counts
    spread = np.array([0.0, 0, 1, 0, 0]), np.array([1.0, 0, 0, 0, 1])
    assert measures.wasserstein(*spread, 5.0) == pytest.approx(2)
    assert np.isnan(measures.wasserstein(a, np.zeros(8), 1.0))
    assert np.isnan(measures.wasserstein(np.zeros(8), a, 1.0))


@pytest.mark.parametrize(
    ("shape", "down", "across", "ring"),
    [((64, 64), 0, 10, 10), ((64, 64), -12, 9, 15), ((64, 128), 0, 20, 10), ((65, 65), 7, 0, 7)],
)
def test_a_plane_wave_peaks_at_its_radius(
    shape: tuple[int, int], down: int, across: int, ring: int
) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    phase = wrap(2 * np.pi * (down * y / shape[0] + across * x / shape[1]))
    spectrum = measures.radial_spectrum(phase, np.ones(shape, dtype=bool))
    assert spectrum.shape == (min(shape) // 2,)
    assert spectrum.sum() == pytest.approx(1)
    assert spectrum.argmax() == ring
    # A Hann window keeps the power within one cycle, where a box would leak through all rings.
    assert spectrum[ring - 2 : ring + 3].sum() > 0.999


def test_the_spectrum_of_noise_is_flat_and_is_the_mean_of_its_rings() -> None:
    rng = np.random.default_rng(0)
    valid = np.ones((64, 64), dtype=bool)
    drawn = [
        measures.radial_spectrum(rng.uniform(-np.pi, np.pi, (64, 64)), valid) for _ in range(200)
    ]
    mean = np.mean(drawn, axis=0)
    assert mean[2:] == pytest.approx(np.full(30, 1 / 32), rel=0.12)


def test_what_is_no_data_has_no_part_in_the_spectrum() -> None:
    rng = np.random.default_rng(1)
    valid = rng.random((32, 32)) < 0.7
    phase = rng.uniform(-np.pi, np.pi, (32, 32))
    spectrum = measures.radial_spectrum(phase, valid)
    for filling in (0.0, np.nan):
        other = measures.radial_spectrum(np.where(valid, phase, filling), valid)
        assert other.tolist() == spectrum.tolist()
    # Half of a constant: power of the windowed half, brute force.
    valid = np.ones((32, 32), dtype=bool)
    valid[:, 16:] = False
    window = np.outer(np.hanning(32), np.hanning(32) * (np.arange(32) < 16))
    power = np.abs(np.fft.fft2(window)) ** 2
    cycles = np.fft.fftfreq(32) * 32
    rings = np.rint(np.hypot(cycles[:, None], cycles))
    expected = np.array([power[rings == r].mean() for r in range(16)])
    found = measures.radial_spectrum(np.full((32, 32), 2.0), valid)
    assert found == pytest.approx(expected / expected.sum(), rel=1e-4, abs=1e-9)
    empty = measures.radial_spectrum(phase, np.zeros((32, 32), dtype=bool))
    assert empty.tolist() == [0.0] * 16


def test_the_spectral_distance_is_in_decibels() -> None:
    a, b = np.array([0.1, 0.1, 0.8]), np.array([0.8, 0.1, 0.1])
    expected = 10 * np.log10(8) * np.sqrt(2 / 3)
    assert measures.log_spectral_distance(a, b) == pytest.approx(expected)
    assert measures.log_spectral_distance(a, a) == 0
    # The mean over a set with pictures without data is smaller, not of another shape.
    assert measures.log_spectral_distance(0.5 * a, b) == pytest.approx(expected)
    assert measures.log_spectral_distance(np.array([1.0, 0.0]), np.array([0.5, 0.5])) < 100
    assert np.isnan(measures.log_spectral_distance(np.zeros(3), b))
    assert np.isnan(measures.log_spectral_distance(a, np.zeros(3)))


def test_too_few_images_or_unlike_features_are_told() -> None:
    one, many, wide = normal(0, 1), normal(0, 9), normal(0, 9, 5)
    for measure in (measures.kid, measures.frechet_distance):
        for pair in ((one, many), (many, one)):
            with pytest.raises(HephError, match="1 images; give at least 2"):
                measure(*pair)
        with pytest.raises(HephError, match=r"\(9, 4\) and \(9, 5\)"):
            measure(many, wide)
    with pytest.raises(HephError, match="5 images; give at least 6"):
        measures.coverage_scores(many, many[:5])
    assert measures.coverage_scores(many, many[:6])["precision"] == 1
    with pytest.raises(HephError, match="k: 0 neighbours"):
        measures.coverage_scores(many, many, k=0)
    with pytest.raises(HephError, match="at least 2"):
        measures.copying(many, many, one)
    with pytest.raises(HephError, match=r"\(9, 5\) and \(9, 4\)"):
        measures.copying(many, many, wide)
    with pytest.raises(HephError, match=r"\(9,\)"):
        measures.kid(many, np.zeros(9))
