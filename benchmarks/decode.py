"""Speed of decoding a palette PNG into phase, on one core, beside bare PNG decoding.

The field is fringes and grain of a whole frame, drawn as LiCSAR does; every number is the best of
several rounds in this one run.

    python benchmarks/decode.py --json
"""

import argparse
import io
import json
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image

from heph_vl.data.images import look_up, open_png
from heph_vl.data.phase import decode_image, wrap
from heph_vl.simulate.render import Rendering, render


def best_seconds(work: Callable[[], object], rounds: int) -> float:
    """Shortest duration of `work` [s]."""
    durations = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return min(durations)


def frame_png(side: int, posterise: bool) -> tuple[bytes, float]:
    """A preview of (0.3 side)^2 px as PNG bytes, and the seconds that drawing it took."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    rng = np.random.default_rng(0)
    noise = np.where(x > 0.6 * side, rng.uniform(-np.pi, np.pi, x.shape), 0.0)
    field = wrap((0.1 * x + 0.05 * y + noise).astype(np.float32))
    valid = x + y > 0.2 * side
    start = time.perf_counter()
    picture, _ = render(field, valid, np.full_like(x, 0.5), Rendering(posterise=posterise))
    drawn = time.perf_counter() - start
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue(), drawn


def measure(side: int, posterise: bool, rounds: int) -> dict[str, float]:
    """Megapixels a second of each step, and times relative to bare PNG decoding."""
    data, drawn = frame_png(side, posterise)
    image = open_png(data, "benchmark")
    flat = image.convert("RGB")
    index = np.asarray(image)
    tables = [np.zeros(256, np.float32), np.zeros(256, np.float32), np.zeros(256, np.bool_)]
    decode_image(image)
    bare = best_seconds(lambda: Image.open(io.BytesIO(data)).load(), rounds)
    table = best_seconds(lambda: [look_up(t, index) for t in tables], rounds)
    whole = best_seconds(lambda: decode_image(image), rounds)
    rgb = best_seconds(lambda: decode_image(flat), rounds)
    megapixels = index.size / 1e6
    return {
        "megapixels": round(megapixels, 3),
        "table_megapixels_per_s": round(megapixels / table, 1),
        "decode_image_megapixels_per_s": round(megapixels / whole, 1),
        "decode_rgb_megapixels_per_s": round(megapixels / rgb, 1),
        "png_megapixels_per_s": round(megapixels / bare, 1),
        "decode_over_png_time": round(whole / bare, 2),
        "render_s": round(drawn, 3),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--side", type=int, default=2700, help="side of the field [0.001 degree]")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = {
        name: measure(options.side, posterise, options.rounds)
        for name, posterise in (("posterised", True), ("256 colours", False))
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, numbers in result.items():
        print(name)
        for key, value in numbers.items():
            print(f"  {key:<32}{value:>10}")


if __name__ == "__main__":
    main()
