"""A look at a full LiCSAR product, and the series of the largest real frame, each against its core.

    python benchmarks/observatory.py [--side 2250] [--rounds 3] [--threads 2]

The product is synthetic, side x side px at 0.001 degree (2250: 250 km), with coherence, look vector
and height; a look is what `heph-vl watch` does with a new one, files written included.
The series is of 1,330 pairs, each date with the following ones, with drawn scores; beside it the
plain recursion over all pairs of pairs. All parts take turns in one run; the best round counts.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from heph_vl.alerts import find_alerts
from heph_vl.data.geotiff import Georeference, geotiff_tags
from heph_vl.data.picture import find_images, read_layers, read_picture
from heph_vl.data.timeseries import Dates, best_series, is_before
from heph_vl.data.views import turbulence
from heph_vl.errors import HephError
from heph_vl.models.heads import Heads
from heph_vl.watch import Watch, update_alerts

PAIRS, NEXT = 1330, 10


def write_product(frame: Path, side: int) -> None:
    """Phase with a bowl on smooth air, coherence, look vector and height of a cone."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    coarse = -(-side // 4)
    smooth = np.kron(turbulence((coarse, coarse), rng), np.ones((4, 4), np.float32))[:side, :side]
    bowl = 25 * np.exp(-((x - 0.4) ** 2 + (y - 0.5) ** 2) / 5e-4)
    phase = np.angle(np.exp(1j * (2 * smooth + bowl + rng.normal(0, 0.3, x.shape))))
    tags = geotiff_tags(Georeference(14.0, 39.0, 0.001))
    layers = {
        "interferograms/20200101_20200113/20200101_20200113.geo.diff_pha": phase,
        "interferograms/20200101_20200113/20200101_20200113.geo.cc": np.full(
            x.shape, 180, np.uint8
        ),
        f"metadata/{frame.name}.geo.E": np.full(x.shape, 0.6),
        f"metadata/{frame.name}.geo.N": np.full(x.shape, -0.11),
        f"metadata/{frame.name}.geo.U": np.full(x.shape, 0.79),
        f"metadata/{frame.name}.geo.hgt": 3000 * np.exp(-np.hypot(x - 0.6, y - 0.4) * 6),
    }
    for name, values in layers.items():
        path = frame / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = values if values.dtype == np.uint8 else values.astype(np.float32)
        tifffile.imwrite(path, kept, compression="zlib", extratags=tags)


def network() -> tuple[list[Dates], list[float]]:
    """Pairs of each date with the next ones, and scores."""
    days = [date(2015, 1, 1) + timedelta(days=12 * i) for i in range(PAIRS // NEXT + NEXT)]
    pairs = [
        (days[i], days[j])
        for i in range(len(days))
        for j in range(i + 1, i + 1 + NEXT)
        if j < len(days)
    ]
    scores = np.random.default_rng(0).uniform(0, 1, PAIRS).tolist()
    return pairs[:PAIRS], scores


def by_table(pairs: list[Dates], scores: list[float]) -> float:
    """The greatest sum by the plain recursion, O(n^2)."""
    order = sorted(range(len(pairs)), key=lambda i: pairs[i])
    ends: list[float] = []
    for place, i in enumerate(order):
        before = (ends[k] for k in range(place) if is_before(pairs[order[k]], pairs[i]))
        ends.append(scores[i] + max(before, default=0.0))
    return max(ends)


def measure(model: Path, side: int, rounds: int) -> dict[str, Any]:
    """Seconds of each part, and what of them the cores take."""
    heads = Heads.from_pretrained(model)
    with tempfile.TemporaryDirectory() as place:
        frame = Path(place) / "in" / "124D_05291_081406"
        write_product(frame, side)
        (path,) = find_images([frame])
        picture = read_picture(path)
        pixels, valid = torch.from_numpy(picture.channels), torch.from_numpy(picture.valid)
        pairs, scores = network()

        def look() -> None:
            out = Path(place) / "out" / str(time.perf_counter_ns())
            watch = Watch.open(frame, out, heads.model_id)
            (product,) = watch.new_products()
            if not watch.look(product, heads) or watch.problems:
                raise HephError(str(product.path), f"not read: {watch.problems}", "see above")
            update_alerts(out, find_alerts(watch.sightings), {})

        runs: dict[str, Callable[[], Any]] = {
            "read_picture": lambda: read_picture(path),
            "read_layers": lambda: read_layers(picture),
            "predict": lambda: heads.predict(pixels, valid),
            "look at a product": look,
            "best_series": lambda: best_series(pairs, scores),
            "plain recursion": lambda: by_table(pairs, scores),
        }
        best: dict[str, float] = {}
        for _ in range(rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                best[name] = min(best.get(name, np.inf), time.perf_counter() - began)
    return {
        "seconds": {name: round(taken, 4) for name, taken in best.items()},
        "native_px": list(valid.shape),
        "look_over_predict": round(best["look at a product"] / best["predict"], 3),
        "recursion_over_series": round(best["plain recursion"] / best["best_series"], 1),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("weights/heads"))
    parser.add_argument("--side", type=int, default=2250, help="of the product [px of 0.001 deg]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(measure(options.model, options.side, options.rounds), indent=1))


if __name__ == "__main__":
    main()
