"""Prints the table that turns phase agreement into coherence (`heph_vl.data.phasors`).

Pairs of uniform true coherence with smooth slopes are decorrelated (50 looks), filtered, drawn as
previews and decoded; each bin of the agreement gets the mean of the measured coherence.

    python benchmarks/coherence_calibration.py --json
"""

import argparse
import json
import math
from itertools import pairwise

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import spearmanr

from heph_vl.data.phase import decode_image, phasor
from heph_vl.data.phasors import agreement
from heph_vl.simulate.decorrelation import decorrelate, smooth_coherent
from heph_vl.simulate.render import Rendering, render

MAX_FRINGES = (0.05, 0.2, 0.4, 0.6)  # spread of the fringe rate, in fringes per 5 picture pixels
KNOTS = (
    0.5,
    0.7,
    0.8,
    0.9,
    0.95,
    0.97,
    0.98,
    0.985,
    0.99,
    0.9925,
    0.995,
    0.997,
    0.998,
    0.999,
    0.9995,
    0.9999,
)


def simulated_pair(
    size: int, fringes: float, posterise: bool, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Agreement, plain 5 x 5 modulus and measured coherence of one pair, (0.3 size)^2 each."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((size, size)), 40)
    rank = smooth.ravel().argsort().argsort().reshape(size, size) / smooth.size
    phase = ndimage.gaussian_filter(rng.standard_normal((size, size)), 60)
    rate = np.hypot(*np.gradient(phase)) / 0.3
    phase *= fringes * 2 * math.pi / 5 / np.sqrt((rate**2).mean())
    true = torch.from_numpy(0.97 * rank).float()[None]
    noise, sample = decorrelate(true, [torch.Generator().manual_seed(seed)])
    valid = torch.ones_like(sample, dtype=torch.bool)
    smooth_phase = torch.from_numpy(phase).float()[None]
    wrapped = smooth_coherent(smooth_phase, noise, sample, valid)[0].numpy()
    picture, grey = render(
        wrapped, valid[0].numpy(), sample[0].numpy(), Rendering(posterise=posterise)
    )
    decoded = decode_image(picture)
    z = phasor(decoded.wrapped_phase, decoded.valid)
    plain = np.abs(ndimage.uniform_filter(z.real, 5) + 1j * ndimage.uniform_filter(z.imag, 5))
    return agreement(z, decoded.valid), plain, np.asarray(grey.convert("L")) / 255


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--size", type=int, default=1200, help="side of a field [0.001 degree]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    parts = [
        simulated_pair(options.size, fringes, posterise, seed=2 * i + posterise)
        for i, fringes in enumerate(MAX_FRINGES)
        for posterise in (False, True)
    ]
    steady, plain, measured = (np.concatenate([p[i].ravel() for p in parts]) for i in range(3))
    edges = np.array([0.0, *((a + b) / 2 for a, b in pairwise(KNOTS)), 1.01])
    place = np.digitize(steady, edges) - 1
    table = [round(float(measured[place == i].mean()), 3) for i in range(len(KNOTS))]
    result = {
        "agreement": KNOTS,
        "coherence": np.maximum.accumulate(table).tolist(),
        "pixels": np.bincount(place, minlength=len(KNOTS)).tolist(),
        "spearman_agreement": round(float(spearmanr(steady, measured)[0]), 3),
        "spearman_plain_mean": round(float(spearmanr(plain, measured)[0]), 3),
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:>20}: {value}")


if __name__ == "__main__":
    main()
