"""Patch cutting against the least that can be done: decode each PNG once, crop, encode.

    python -m benchmarks.patches [--records 60] [--size 900]

Both loops read the same files and write the same patches to memory; ours also checks images and
polygons, finds data, rasterises, words captions and labels, and builds dataset rows. Once with
coherence images (grain, slow to encode, so that the rest weighs little) and once without. Seconds
are of CPU time on one core, ratios within one run; aim: at most 1.3. Polygons are the real ones
where the real annotations are at hand (../shared or $HEPH_VL_SHARED); all of them are then cut
once to count bad crops.
"""

import argparse
import io
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from heph_vl.data.annotations import Annotation, read_annotations
from heph_vl.data.archive import Pair, scan_archive
from heph_vl.data.examples import ExampleConfig, generate
from heph_vl.data.native import NativePair, encode_png, usual_sizes
from heph_vl.data.patches import PatchConfig, Window, cut_patches
from heph_vl.data.raster import CLASS_IDS, rasterise
from tests.data.fake_archive import FRAMES, write_annotation, write_fake_archive, write_images

REPO = Path(__file__).resolve().parent.parent
ANNOTATIONS = (
    Path(os.environ.get("HEPH_VL_SHARED", REPO.parent / "shared"))
    / "data"
    / "hephaestus"
    / "annotations.tar.gz"
)


def write_archive(root: Path, count: int, size: int, real: list[Annotation]) -> None:
    """An archive of `size` px images, one in ten deforming (as in Hephaestus), polygons real."""
    if not real:
        write_fake_archive(root, count, size, frames=FRAMES)
        return
    rng = np.random.default_rng(0)
    inside = [
        record
        for record in real
        if all(max(max(point) for point in e.polygon or [(0, 0)]) < size for e in record.events)
        and "_SM_" not in record.frame_id
    ]
    deforming = [record for record in inside if record.events]
    still = [record for record in inside if not record.events]
    for i in range(count):
        record = (deforming if i % 10 == 9 else still)[i]
        write_images(root, record.to_record(), size, rng)
        write_annotation(root, record.to_record())


def ours(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Rows of config `patches`."""
    config = ExampleConfig("patches", "real", usual_sizes(pairs))
    return [row for _, row in generate(pairs, config, [], Counter())]


def floor(pairs: list[Pair], windows: dict[str, list[Window]]) -> int:
    """Bytes of the same patches, each PNG decoded once and nothing else done."""
    written = 0
    for pair in pairs:
        paths = [path for path in (pair.image, pair.coherence) if path is not None]
        pictures = [Image.open(io.BytesIO(path.read_bytes())) for path in paths]
        for window in windows.get(pair.name, []):
            written += sum(len(encode_png(picture.crop(window))) for picture in pictures)
    return written


def compare(pairs: list[Pair]) -> dict[str, float]:
    """Interferograms a second of both loops, and the ratio of their times."""
    windows: dict[str, list[Window]] = {}
    for row in ours(pairs):
        dates = f"{row['primary_date']}_{row['secondary_date']}".replace("-", "")
        windows.setdefault(f"{row['frame_id']}/{dates}", []).append(tuple(row["window"]))
    cutting, least = fastest(lambda: ours(pairs), lambda: floor(pairs, windows))
    return {
        "patches": sum(map(len, windows.values())),
        "interferograms_per_second": round(len(pairs) / cutting, 1),
        "floor_per_second": round(len(pairs) / least, 1),
        "ours_over_floor": round(cutting / least, 3),
    }


def bad_crops(records: list[Annotation], size: int) -> dict[str, int]:
    """Crops of all deforming records that cut their deformation or show a class not theirs."""
    found: Counter[str] = Counter()
    for record in records:
        if not record.events:
            continue
        corners = [point for event in record.events for point in event.polygon or ()]
        shape = [max(size, int(max(axis)) + 1) for axis in zip(*corners, strict=True)]
        full = (shape[0], shape[1])
        mask = rasterise(record.events, full)
        native = NativePair(
            b"", None, mask, full, record.events, 1 / 300, Image.new("P", full), None
        )
        own = {CLASS_IDS[event.type] for event in record.events}
        for patch in cut_patches(record, native, PatchConfig(), found):
            shown = set(np.unique(patch.mask).tolist()) - {0}
            said = {CLASS_IDS[event.type] for event in patch.events}
            found["crops_with_foreign_class"] += not (shown <= own and shown == said)
    return {name: found[name] for name in ("crops", "crops_cut", "crops_with_foreign_class")}


def fastest(*works: Callable[[], object], repeats: int = 6) -> list[float]:
    """CPU seconds of the fastest run of each, taken in turn so that all meet the same load."""
    best = [float("inf")] * len(works)
    for _ in range(repeats):
        for k, work in enumerate(works):
            start = time.process_time()
            work()
            best[k] = min(best[k], time.process_time() - start)
    return best


def main() -> None:
    """Print one JSON object with times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--records", type=int, default=60)
    parser.add_argument("--size", type=int, default=900)
    options = parser.parse_args()
    real = read_annotations(ANNOTATIONS).annotations if ANNOTATIONS.is_file() else []
    with tempfile.TemporaryDirectory() as folder:
        write_archive(Path(folder), options.records, options.size, real)
        pairs = scan_archive(folder).annotated
        result: dict[str, Any] = {
            "interferograms": len(pairs),
            "polygons": "real" if real else "drawn",
            "aim": 1.3,
            "with_coherence": compare(pairs),
            "without_coherence": compare([replace(pair, coherence=None) for pair in pairs]),
        }
    if real:
        result["real_crops"] = bad_crops(real, 700)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
