"""Two views of one interferogram for contrastive pretraining: what a model should not care about.

The physics recipe changes an interferogram as another acquisition of the same ground would:
constant phase, ramp, turbulent air, decorrelation, filtering, place of the crop, look direction and
order of the dates. It keeps |phasor| <= 1 and no-data (0, 0, 0), and never rescales: fringes are
as little as 4 px apart. The paper recipe is in `paper_views`.

As in `data.transforms`, choices depend on (seed, draw, index) alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.paper_views import Channels, PaperConfig, paper_view
from heph_vl.data.samples import Interferogram, image_pixels, read_row
from heph_vl.data.transforms import collate_images, encoded
from heph_vl.errors import HephError

SPACING_M = 333.0  # 1/300 degree
CORNER_M = 2_000.0  # as `simulate.atmosphere`: turbulence turns from -8/3 to -11/3 here,
REFERENCE_M = 75_000.0  # and waves shorter than this have unit variance (Hanssen, 2001)
LOOKS = 50  # effective looks of a pixel at 333 m, to which its coherence belongs

Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class PhysicsConfig:
    """Probability of each change, and how strong it may be."""

    mirror: float = 0.5  # east-west: an ascending look becomes a descending one
    negate: float = 0.5  # the two dates in the other order
    ramp: float = 0.5
    ramp_fringes: float = 2.0  # at most, across the crop
    turbulence: float = 0.7
    turbulence_rad: float = 1.0  # median standard deviation [rad]: two dates of 0.7 each
    decorrelation: float = 0.5
    least_coherence: float = 0.4  # least factor on the coherence
    blur: float = 0.3
    blur_px: float = 1.0  # largest standard deviation [px]


@dataclass(frozen=True)
class ViewConfig:
    """How the two views of a sample are made.

    Raises:
        HephError: If a probability is not one, or a strength is impossible.
    """

    recipe: Literal["physics", "paper"] = "physics"
    crop_size: int = 224  # native pixels
    overlap: float = 0.5  # least share of a side that both physics crops have in common
    other_dates: float = 0.0  # probability that the key is of other dates of the same frame
    estimated_coherence: float = 0.5  # probability of the estimate although it was measured
    physics: PhysicsConfig = field(default_factory=PhysicsConfig)
    paper: PaperConfig = field(default_factory=PaperConfig)

    def __post_init__(self) -> None:
        if self.crop_size < 1:
            raise HephError("views.crop_size", f"{self.crop_size} px", "at least 1, e.g. 224")
        values = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        for part in ("physics", "paper"):
            values |= {f"{part}.{k}": v for k, v in vars(getattr(self, part)).items()}
        for name, value in values.items():
            most = math.inf if name.endswith(("_fringes", "_rad", "_px")) else 1
            if not 0 <= value <= most or value == math.inf:
                raise HephError(f"views.{name}", f"{value}", f"a number from 0 to {most}")


@dataclass(frozen=True)
class View:
    """A crop on its way to a model.

    Attributes:
        z: (h, w) complex64 phasor, |z| <= 1, 0 without data.
        coherence: (h, w) float32 in [0, 1], 0 without data.
        valid: (h, w) bool.
    """

    z: NDArray[np.complex64]
    coherence: NDArray[np.float32]
    valid: NDArray[np.bool_]

    def channels(self) -> Channels:
        """Model input: (3, h, w) float32 and (h, w) bool."""
        channels = np.stack([self.z.real, self.z.imag, self.coherence])
        return channels, np.ascontiguousarray(self.valid)  # torch takes no mirrored array


def cut(interferogram: Interferogram, window: Window, *, estimated: bool) -> View:
    """A window x0, y0, x1, y1 [px] of an interferogram; `estimated` as in `samples.whole`."""
    x0, y0, x1, y1 = window
    part = np.s_[y0:y1, x0:x1]
    measured = interferogram.coherence
    cropped = Interferogram(
        interferogram.phase_code[part],
        None if estimated or measured is None else measured[part],
        interferogram.estimated_coherence[part],
        interferogram.mask[part],
    )
    (real, imaginary, coherence), valid = image_pixels(cropped)
    return View((real + 1j * imaginary).astype(np.complex64), coherence, valid)


def mirror(view: View) -> View:
    """East and west change places."""
    return View(view.z[:, ::-1], view.coherence[:, ::-1], view.valid[:, ::-1])


def negate(view: View) -> View:
    """All phase reversed: the later date first."""
    return View(view.z.conj(), view.coherence, view.valid)


def add_phase(view: View, phase: float | NDArray[np.floating]) -> View:
    """Add phase [rad], one number or (h, w): a turn of each phasor, exact on the circle."""
    phase = np.asarray(phase, np.float32)
    turn = np.empty(phase.shape, np.complex64)
    turn.real, turn.imag = np.cos(phase), np.sin(phase)  # a third of the time of np.exp
    return View(view.z * turn, view.coherence, view.valid)


def ramp(shape: tuple[int, int], right: float, down: float) -> NDArray[np.float32]:
    """Phase (h, w) [rad] of a plane with the given gradients [rad/px], 0 in the first pixel."""
    y, x = (np.arange(n, dtype=np.float32) for n in shape)
    return np.float32(right) * x + np.float32(down) * y[:, None]


def turbulence(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """A turbulent phase screen at native spacing.

    The power spectrum falls as wavenumber to -8/3, and to -11/3 below `CORNER_M`; the level is that
    of `simulate.atmosphere.turbulence_filter`, so that a crop has as much of it as it is wide.

    Args:
        shape: h, w.
        rng: Source of randomness.

    Returns:
        (h, w) float32 [rad]; waves shorter than `REFERENCE_M` have unit variance.
    """
    from scipy import fft  # numpy's has no single precision

    # Fourier synthesis is periodic: opposite edges must not be neighbours.
    height, width = (math.ceil(1.25 * n / 16) * 16 for n in shape)
    noise = rng.standard_normal((height, width), dtype=np.float32)
    spectrum = fft.rfft2(noise) * _turbulence_filter(height, width)
    screen: NDArray[np.float32] = fft.irfft2(spectrum, s=noise.shape)[: shape[0], : shape[1]]
    return screen


@lru_cache(maxsize=16)
def _turbulence_filter(height: int, width: int) -> NDArray[np.float32]:
    """Amplitudes (height, width / 2 + 1) that make turbulence of white noise."""
    ky = np.fft.fftfreq(height, SPACING_M)[:, None]
    k = np.hypot(ky, np.fft.rfftfreq(width, SPACING_M)[None])
    k[0, 0] = np.inf  # no mean
    amplitude = k ** (-4 / 3) * np.maximum(k * CORNER_M, 1) ** -0.5
    level = 1 / (3 * math.pi * REFERENCE_M ** (2 / 3))
    found: NDArray[np.float32] = (amplitude * (math.sqrt(level) / SPACING_M)).astype(np.float32)
    return found


def decorrelate(view: View, factor: float | NDArray[np.floating], rng: np.random.Generator) -> View:
    """Lower the coherence and add the phase noise that belongs to the loss.

    A sample coherence of L looks is about g exp(i phase) plus normal noise of variance
    (1 - g^2) / 2L across (Bamler and Hartl, 1998, section 4). To go from g to f g,

        f g exp(i phase) + n,   n of variance (1 - f^2) / 2L in each part,

    has exactly the variance of f g; its phase turns uniform as f g falls to 0.

    Args:
        view: What is there.
        factor: f in [0, 1], one number or (h, w).
        rng: Source of randomness.

    Returns:
        The view with coherence f g; each phasor turned, its modulus kept.
    """
    factor = np.asarray(factor, np.float32)
    coherence = (factor * view.coherence).astype(np.float32)
    noise = rng.standard_normal((2, *view.z.shape), dtype=np.float32)
    scale = np.sqrt((1 - factor**2) / (2 * LOOKS))
    modulus = np.abs(view.z)
    unit = view.z / np.maximum(modulus, 1e-6)
    moved = coherence * unit + scale * (noise[0] + 1j * noise[1])
    length = np.abs(moved)
    # No coherence and no loss: nothing to turn by.
    turned = np.where(length > 1e-6, moved / np.maximum(length, 1e-6), unit)
    return View((modulus * turned).astype(np.complex64), coherence, view.valid)


def blur(view: View, sigma: float) -> View:
    """Gaussian mean of phasors over valid pixels: shorter where they differ, never a false seam.

    Args:
        view: What is there.
        sigma: Standard deviation [px].

    Returns:
        The view; coherence and no-data stay.
    """
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(view.valid.astype(np.float32), sigma)
    total = gaussian_filter(view.z.real, sigma) + 1j * gaussian_filter(view.z.imag, sigma)
    z = np.where(view.valid, total / np.maximum(weight, 1e-6), 0)
    z /= np.maximum(np.abs(z), 1)  # rounding only: a mean of phasors is no longer than they are
    return View(z.astype(np.complex64), view.coherence, view.valid)


def physics_view(view: View, config: PhysicsConfig, rng: np.random.Generator) -> View:
    """Another acquisition of the same ground; phase first, then noise, then filtering."""
    height, width = view.z.shape
    if rng.random() < config.mirror:
        view = mirror(view)
    if rng.random() < config.negate:
        view = negate(view)
    phase = np.full((height, width), rng.uniform(-np.pi, np.pi), np.float32)
    if rng.random() < config.ramp:
        slope = rng.uniform(0, config.ramp_fringes) * 2 * np.pi / max(height, width)
        angle = rng.uniform(-np.pi, np.pi)
        phase += ramp((height, width), slope * np.cos(angle), slope * np.sin(angle))
    if rng.random() < config.turbulence:
        strength = config.turbulence_rad * np.exp(0.4 * rng.standard_normal())
        phase += strength * turbulence((height, width), rng)
    view = add_phase(view, phase)
    if rng.random() < config.decorrelation:
        view = decorrelate(view, rng.uniform(config.least_coherence, 1), rng)
    if rng.random() < config.blur:
        view = blur(view, rng.uniform(0.3, 1) * config.blur_px)
    return view


class ViewPairs:
    """Map-style dataset of pairs of views, keyed by (row index, draw).

    Args:
        rows: A `datasets.Dataset` of any config; labels are not looked at.
        config: How views are made.
        seed: Seed of all random choices, with draw and index.
        cache_bytes: Memory for decoded interferograms, as in `transforms.TrainingSet`.

    Attributes:
        frames: Names of the frames; items and batches hold their numbers.
    """

    def __init__(
        self, rows: Any, config: ViewConfig, *, seed: int, cache_bytes: int = 2 << 30
    ) -> None:
        names = ["image", "coherence", "frame_id", "primary_date", "secondary_date"]
        self._images = encoded(rows.select_columns(names))
        frame_ids = rows["frame_id"]
        self.frames = sorted(set(frame_ids))
        number = {name: i for i, name in enumerate(self.frames)}
        self._frame = np.array([number[name] for name in frame_ids], np.int64)
        self._members = [np.flatnonzero(self._frame == i) for i in range(len(self.frames))]
        self._config, self._seed = config, seed
        self._room = cache_bytes
        self._cache: dict[int, Interferogram] = {}

    def __len__(self) -> int:
        return len(self._frame)

    def interferogram(self, index: int) -> Interferogram:
        """The decoded interferogram of a row, from memory if it is there."""
        found = self._cache.get(index)
        if found is None:
            row = self._images[index]
            name = "{frame_id} {primary_date} {secondary_date}".format(**row)
            found = read_row({"unique_id": name, **row})
            if found.num_bytes <= self._room:
                self._room -= found.num_bytes
                self._cache[index] = found
        return found

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, draw = key
        config, rng = self._config, np.random.default_rng((self._seed, draw, index))
        frame = int(self._frame[index])
        other = index
        if rng.random() < config.other_dates:
            other = int(rng.choice(self._members[frame]))
        one, two = self.interferogram(index), self.interferogram(other)
        paper = config.recipe == "paper"
        # The paper cuts 200 px out of patches of 224; both views are of one patch.
        side = round(config.crop_size * 1.12) if paper else config.crop_size
        window = _random_window(one.phase_code, side, rng)
        views = []
        for number, image in enumerate((one, two)):
            if number == 1:
                shift = 0 if paper else int((1 - config.overlap) * side)
                window = _near_window(window, shift, image.size, rng)
            view = cut(image, window, estimated=rng.random() < config.estimated_coherence)
            if paper:
                size = config.crop_size
                views.append(paper_view(*view.channels(), size, config.paper, rng))
            else:
                views.append(physics_view(view, config.physics, rng).channels())
        return {"query": views[0], "key": views[1], "frame": frame, "image": other}


def collate_views(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack items of `ViewPairs`.

    Args:
        items: B of them.

    Returns:
        `query` and `key`, each of `transforms.collate_images`; `frame` and `image` (B,) int64, the
        numbers of frame and row of the key.
    """
    import torch

    return {
        "query": collate_images([item["query"] for item in items]),
        "key": collate_images([item["key"] for item in items]),
        "frame": torch.tensor([item["frame"] for item in items]),
        "image": torch.tensor([item["image"] for item in items]),
    }


def _random_window(code: NDArray[np.uint8], side: int, rng: np.random.Generator) -> Window:
    """A window of at most `side` px with data in at least a fifth of it, if ten tries find one."""
    height, width = code.shape
    h, w = min(side, height), min(side, width)
    for _ in range(10):
        x0, y0 = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        if (code[y0 : y0 + h : 4, x0 : x0 + w : 4] > 0).mean() >= 0.2:
            break
    return x0, y0, x0 + w, y0 + h


def _near_window(
    window: Window, shift: int, size: tuple[int, int], rng: np.random.Generator
) -> Window:
    """The window moved by up to `shift` px each way, inside an image of `size` (width, height)."""
    x0, y0, x1, y1 = window
    starts = []
    for start, side, limit in ((x0, x1 - x0, size[0]), (y0, y1 - y0, size[1])):
        moved = start + int(rng.integers(-shift, shift + 1))
        starts.append((min(max(moved, 0), max(0, limit - side)), min(side, limit)))
    (x, w), (y, h) = starts
    return x, y, x + w, y + h
