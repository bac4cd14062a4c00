"""How alike the phasors of grain are between pixels: of simulated previews, and as they are drawn.

    python benchmarks/grain.py DATASET [--rows 30]

Pixels with a coherence below 0.25 count. Some of their phase is smooth all the same: what phasors
three pixels apart have in common is taken off, (r - r3) / (1 - r3).
"""

import argparse

import numpy as np

from heph_vl.data import parquet
from heph_vl.data.grain import draw_phase
from heph_vl.data.samples import image_pixels, read_row
from heph_vl.data.transforms import encoded

LAGS = {"1 px": (0, 1), "1 px down": (1, 0), "corner": (1, 1), "2 px": (0, 2), "3 px": (0, 3)}


def products(z: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(5, 2): sum of z conj z' at each lag, and number of pairs."""
    height, width = z.shape
    found = []
    for down, right in LAGS.values():
        head = np.s_[down:, right:]
        tail = np.s_[: height - down, : width - right]
        both = where[head] & where[tail]
        found.append(((z[head] * z[tail].conj()).real[both].sum(), both.sum()))
    return np.array(found)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("dataset", help="folder of `heph-vl dataset`")
    parser.add_argument("--rows", type=int, default=30)
    options = parser.parse_args()
    rows = encoded(parquet.load(options.dataset, "train"))
    total = np.zeros((len(LAGS), 2))
    for i in range(0, len(rows), max(1, len(rows) // options.rows)):
        channels, valid = image_pixels(read_row(rows[i]))
        z = channels[0] + 1j * channels[1]
        total += products(z, valid & (channels[2] < 0.25))
    drawn = np.exp(1j * draw_phase(np.zeros((600, 600), complex), np.random.default_rng(0)))
    both = total, products(drawn, np.ones(drawn.shape, bool))
    print(f"{'lag':12}{'previews':>10}{'drawn':>10}")
    plain = [sums[:, 0] / sums[:, 1] for sums in both]
    for name, *alike in zip(LAGS, *((r - r[-1]) / (1 - r[-1]) for r in plain), strict=True):
        print(f"{name:12}{alike[0]:10.3f}{alike[1]:10.3f}")


if __name__ == "__main__":
    main()
