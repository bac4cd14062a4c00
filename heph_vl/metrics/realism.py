"""How far sets of interferogram patches lie apart in look: colours, fringes, grain, edges.

Each patch is measured once (`realism_measures`): sums that may be added over patches. A set's value
or the distance of two sets is a function of such totals, so a resample costs one product.

Errors are those of half-samples. Patches of one interferogram (or one frame) are alike, so whole
units are drawn. A draw splits the real units at random into halves A and B, and takes half of the
units of every other set; the standard deviation over draws is the standard error of the full sets
to first order (delete-half jackknife: McCarthy 1969; Shao and Wu 1989). Unlike a bootstrap with
replacement it also gives the floor, A against B, which no draw may share a patch with. The other
sets are cut to as many patches of each kind as B has: distances of small sets are never zero, and
grow as the sets shrink, so only equal sizes and contents may be compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from heph_vl.data.phase import colour
from heph_vl.data.preview import posterise
from heph_vl.metrics.realism_measures import BITS, GROUND_LAGS, LAGS, STEPS, Floats

Totals = Mapping[str, Floats]

MIN_PATCHES = 4
MIN_UNITS = 2
# Fewer frames than this, and records are drawn instead: their spread would rest on too few.
MIN_FRAMES = 8
_STEEP = 1.0  # rad per px: fringes closer than 6 px


@dataclass(frozen=True)
class PatchSet:
    """Measured patches and how they may be drawn.

    Attributes:
        totals: By name, (P, K) float64: the sums of `measure` of each patch.
        units: (P,) int: patches of the same unit are drawn together.
        kinds: (P,) str: draws keep the number of patches of each kind.
        paired: Whether patch p is a remake of real patch p: then B's are drawn, never A's.
    """

    totals: Totals
    units: NDArray[np.intp]
    kinds: NDArray[np.str_]
    paired: bool = False

    def subset(self, chosen: NDArray[np.bool_]) -> "PatchSet":
        """The patches where `chosen` (P,) is true."""
        totals = {name: rows[chosen] for name, rows in self.totals.items()}
        return PatchSet(totals, self.units[chosen], self.kinds[chosen], self.paired)

    @property
    def enough(self) -> bool:
        """Whether an error can be given at all."""
        return len(self.units) >= MIN_PATCHES and len(set(self.units.tolist())) >= MIN_UNITS


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error."""

    value: float
    standard_error: float


def stack(patches: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """Totals of a set, (P, K) by name, of its patches' sums."""
    return {name: np.stack([patch[name] for patch in patches]) for name in patches[0]}


def compare(
    real: PatchSet, others: Mapping[str, PatchSet], num_draws: int, generator: torch.Generator
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Values of all sets and their distances to the real one.

    Args:
        real: The reference; `enough`.
        others: By name; `enough`. One that is `paired` has as many patches as `real`.
        num_draws: Number of half-samples.
        generator: Draws them.

    Returns:
        `values` and `distances`, each {measure: {set: estimate}}; in values the set "real" is the
        reference, in distances "real" is the floor: its halves against each other. A value that
        does not exist (grain where there is none) is NaN.
    """
    sets = {"real": PatchSet(real.totals, real.units, real.kinds, paired=True), **others}
    values: dict[str, dict[str, list[float]]] = {n: {s: [] for s in sets} for n in VALUES}
    distances: dict[str, dict[str, list[float]]] = {n: {s: [] for s in sets} for n in DISTANCES}
    for _ in range(num_draws):
        half = _stratified_half(real, generator)
        reference = _pooled(real, half)
        need = {kind: int(np.sum(real.kinds[~half] == kind)) for kind in np.unique(real.kinds)}
        for name, other in sets.items():
            drawn = ~half if other.paired else half_of(other.units, generator)
            if not other.paired:
                drawn = _at_most(drawn, other.kinds, need, generator)
            pooled = _pooled(other, drawn)
            for measure_name, value in VALUES.items():
                values[measure_name][name].append(value(pooled))
            for measure_name, distance in DISTANCES.items():
                distances[measure_name][name].append(distance(reference, pooled))
    return {"values": _estimates(values), "distances": _estimates(distances)}


def half_of(units: NDArray[np.intp], generator: torch.Generator) -> NDArray[np.bool_]:
    """(P,) bool, the patches of a random half of the units; of an odd number one more or less."""
    present = np.unique(units)
    number = len(present)
    size = number // 2 + int(torch.randint(2, (), generator=generator)) * (number % 2)
    chosen = present[torch.randperm(number, generator=generator)[:size].numpy()]
    return np.isin(units, chosen)


def _stratified_half(real: PatchSet, generator: torch.Generator) -> NDArray[np.bool_]:
    """(P,) bool, half of the units of each kind; of all units where one has several kinds."""
    kinds = np.unique(real.kinds)
    if sum(len(np.unique(real.units[real.kinds == k])) for k in kinds) > len(np.unique(real.units)):
        return half_of(real.units, generator)
    half = np.zeros(len(real.units), dtype=bool)
    for kind in kinds:
        half[real.kinds == kind] = half_of(real.units[real.kinds == kind], generator)
    return half


def draw_units(records: Sequence[str], frames: Sequence[str | None]) -> NDArray[np.intp]:
    """What is drawn as a whole: frames where all are known and many, else records.

    Args:
        records: Interferogram of each of the P patches.
        frames: Frame of each, None where unknown.

    Returns:
        (P,) int, equal for patches of one unit.
    """
    names = list(records)
    if None not in frames and len(set(frames)) >= MIN_FRAMES:
        names = [str(frame) for frame in frames]
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.intp)


def scramble(
    wrapped_phase: NDArray[np.floating], valid: NDArray[np.bool_], generator: torch.Generator
) -> NDArray[np.uint8]:
    """A patch of the same spectrum without its structure.

    The Fourier amplitudes of the phasor are kept and their phases drawn anew; the argument of what
    comes out is coloured and posterised. No data stays where it was. Taking the argument adds some
    noise: 1.1 dB from the real spectrum, whose halves are 0.9 dB apart.

    Args:
        wrapped_phase: (H, W) [rad].
        valid: (H, W) bool.
        generator: Draws the Fourier phases.

    Returns:
        (H, W, 3) uint8.
    """
    return _painted(scrambled_phase(wrapped_phase, valid, generator), valid)


def scrambled_phase(
    wrapped_phase: NDArray[np.floating], valid: NDArray[np.bool_], generator: torch.Generator
) -> Floats:
    """The phase of `scramble`, (H, W) float64 [rad]."""
    amplitude = np.abs(np.fft.fft2(np.exp(1j * wrapped_phase) * valid))
    turn = torch.rand(valid.shape, generator=generator, dtype=torch.float64).numpy()
    mixed: Floats = np.angle(np.fft.ifft2(amplitude * np.exp(2j * np.pi * turn)))
    return mixed


def random_phase(valid: NDArray[np.bool_], generator: torch.Generator) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of uniform phase, pixel by pixel, through the palette and posterised."""
    turn = torch.rand(valid.shape, generator=generator, dtype=torch.float64).numpy()
    return _painted((0.5 - turn) * 2 * np.pi, valid)


def _painted(wrapped_phase: Floats, valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    rgb = posterise(colour(wrapped_phase, valid), BITS)
    rgb[~valid] = 255
    return rgb


def _share(numerator: str, denominator: str) -> Callable[[Totals], float]:
    return lambda totals: _ratio(totals[numerator][0], totals[denominator][0])


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else float("nan")


def _level_mean(channel: int) -> Callable[[Totals], float]:
    return lambda totals: _ratio(totals["level"][channel], totals["pixels"][0])


def _level_std(channel: int) -> Callable[[Totals], float]:
    def deviation(totals: Totals) -> float:
        square = _ratio(totals["level_squared"][channel], totals["pixels"][0])
        return float(np.sqrt(max(square - _level_mean(channel)(totals) ** 2, 0.0)))

    return deviation


def _ground_correlation(index: int) -> Callable[[Totals], float]:
    return lambda totals: _ratio(totals["ground_product"][index], totals["ground_pairs"][index])


def _mean_ground_step(totals: Totals) -> float:
    middle = (np.arange(STEPS) + 0.5) * np.pi / STEPS
    return _ratio(float(totals["ground_step"] @ middle), float(totals["ground_step"].sum()))


def _steep_share(totals: Totals) -> float:
    low = np.arange(STEPS) * np.pi / STEPS
    return _ratio(float(totals["ground_step"][low >= _STEEP].sum()), totals["ground_step"].sum())


def grain_correlation(totals: Totals) -> Floats:
    """(7,) autocorrelation of the colours in grain at lags 0 to 6 px; NaN without grain."""
    pairs = totals["grain_pairs"]
    covariance = totals["grain_product"] / np.where(pairs > 0, pairs, np.nan)
    correlation: Floats = covariance / (covariance[0] if covariance[0] > 0 else np.nan)
    return correlation


def _grain_length(totals: Totals) -> float:
    """Lag [px] at which the grain's autocorrelation has fallen to 1/e, between lags linear."""
    correlation = grain_correlation(totals)
    below = np.flatnonzero(correlation < np.exp(-1))
    if len(below) == 0:
        return float("nan") if np.isnan(correlation).any() else float(LAGS)
    last = int(below[0])
    high, low = correlation[last - 1], correlation[last]
    return float(last - 1 + (high - np.exp(-1)) / (high - low))


VALUES: dict[str, Callable[[Totals], float]] = {
    **{f"{name}_mean": _level_mean(i) for i, name in enumerate(("red", "green", "blue"))},
    **{f"{name}_std": _level_std(i) for i, name in enumerate(("red", "green", "blue"))},
    "distinct_colours": _share("distinct", "patches"),
    "palette_colours": _share("palette", "pixels"),
    "coherent_share": _share("ground", "pixels"),
    "outline_density": _share("outline", "ground"),
    "ground_pieces": _share("ground_pieces", "patches"),
    "ground_step_rad": _mean_ground_step,
    "steep_share": _steep_share,
    **{f"ground_cos_{lag}px": _ground_correlation(i) for i, lag in enumerate(GROUND_LAGS)},
    "ground_resultant": _share("ground_length", "ground"),
    "ground_cosine": _share("ground_cosine", "ground"),
    "grain_length_px": _grain_length,
    "no_data_share": _share("no_data", "area"),
    "no_data_patches": _share("with_no_data", "patches"),
    "no_data_pieces": _share("pieces", "with_no_data"),
}
"""What a set looks like: means and standard deviations of colour levels (0..255), distinct colours
a patch, share of pixels in colours of the palette itself; ground, the pixels that are no grain:
share, length of its border with grain [px per px of ground], pieces a patch, mean phase step [rad
per px], share of steps above 1 rad, mean cosine of the phase difference over 1 to 32 px (for
Gaussian differences exp(-D / 2), D the structure function), resultant length of a patch's phases
(1: one phase, 0: all) and mean cosine (1: phase 0, yellow); grain size [px]; no data: share of the
area, of patches with some, and pieces of it."""


def _total_variation(name: str) -> Callable[[Totals, Totals], float]:
    def distance(a: Totals, b: Totals) -> float:
        p, q = (_ratio(1.0, float(t[name].sum())) * t[name] for t in (a, b))
        return float(np.abs(p - q).sum() / 2)

    return distance


def _wasserstein(name: str, top: float) -> Callable[[Totals, Totals], float]:
    def distance(a: Totals, b: Totals) -> float:
        p, q = (_ratio(1.0, float(t[name].sum())) * t[name] for t in (a, b))
        return float(np.abs(np.cumsum(p - q)).sum() * top / len(p))

    return distance


def _spectral(a: Totals, b: Totals) -> float:
    mean = [t["spectrum"] * _ratio(10.0, t["spectra"][0]) for t in (a, b)]
    return float(np.sqrt(np.mean((mean[0] - mean[1]) ** 2)))


def _grain_distance(a: Totals, b: Totals) -> float:
    difference = grain_correlation(a)[1:] - grain_correlation(b)[1:]
    return float(np.sqrt(np.mean(difference**2)))


DISTANCES: dict[str, Callable[[Totals, Totals], float]] = {
    "colours_tv": _total_variation("colour"),
    "spectrum_db": _spectral,
    "step_rad": _wasserstein("step", np.pi),
    "ground_step_rad": _wasserstein("ground_step", np.pi),
    "coherence": _wasserstein("coherence", 1.0),
    "grain": _grain_distance,
    "edge_tilt_tv": _total_variation("edge_tilt"),
}
"""How two sets differ: total variation of colours (cells of 32 levels); log-spectral distance [dB,
root mean square over wavenumbers]; 1-D Wasserstein distances of phase steps [rad], everywhere and
on ground, and of estimated coherence; root mean square difference of the grain's autocorrelation;
total variation of the directions of no-data edges (mod 90 degrees; a frame has but one heading, so
a real set of two frames says little about it)."""


def _pooled(patches: PatchSet, drawn: NDArray[np.bool_]) -> dict[str, Floats]:
    weight = drawn.astype(np.float64)
    return {name: weight @ rows for name, rows in patches.totals.items()}


def _at_most(
    drawn: NDArray[np.bool_],
    kinds: NDArray[np.str_],
    need: Mapping[str, int],
    generator: torch.Generator,
) -> NDArray[np.bool_]:
    """Of the patches drawn, at most `need` of each kind; without common kinds as many in all."""
    if not set(need) <= set(kinds.tolist()):
        kinds, need = np.zeros_like(kinds), {"": sum(need.values())}
    order = torch.randperm(len(drawn), generator=generator).numpy()
    kept = np.zeros_like(drawn)
    for kind, number in need.items():
        kept[[i for i in order if drawn[i] and kinds[i] == kind][:number]] = True
    return kept


def _estimates(drawn: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Estimate]]:
    return {
        measure_name: {name: _estimate(np.array(values)) for name, values in by_set.items()}
        for measure_name, by_set in drawn.items()
    }


def _estimate(values: Floats) -> Estimate:
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return Estimate(float("nan"), float("nan"))
    return Estimate(float(known.mean()), float(known.std(ddof=1)))
