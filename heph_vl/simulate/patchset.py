"""A dataset of simulated patches, written once and read many times faster than it is made.

Columns are those of config `patches`; the only split is `train`, or the one whose kinds of ground
were asked for. Places are far more than in an archive of the same size: each gives a few pairs. So
that no two places share a frame, the last six digits of `frame_id` number the place.
"""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

from datasets.arrow_writer import ParquetWriter

from heph_vl.data import captions, splits, staging
from heph_vl.data.card import dataset_card
from heph_vl.data.examples import (
    Row,
    code_fingerprint,
    event_columns,
    image_columns,
    mask_column,
    record_columns,
)
from heph_vl.data.features import features
from heph_vl.data.native import encode_png
from heph_vl.data.phase import NATIVE_SPACING_DEG
from heph_vl.errors import HephError
from heph_vl.files import write_bytes
from heph_vl.simulate.corpus import worker_pool
from heph_vl.simulate.stream import PATCH_SIZE, Drawn, SimulatedPatches, StreamConfig

PATCHES_PER_SHARD = 128  # lost at most, for each worker, when it is interrupted


def write_patches(
    out: str | Path,
    n: int,
    config: StreamConfig,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the first N patches of a stream as a dataset folder that `parquet.load` reads.

    Args:
        out: Folder to write; must be new, empty, or written by this function. An interrupted run
            goes on where it stopped.
        n: How many patches.
        config: Of the stream; its `transform` has no influence.
        workers: Processes.
        progress: Called with patches done and of all.

    Returns:
        The manifest, with `unchanged`.

    Raises:
        HephError: If N is not positive, or `out` cannot be written.
    """
    if n < 1:
        raise HephError("simulate: patches", f"{n} asked", "ask for at least one")
    out = Path(out)
    asked = {k: v for k, v in asdict(config).items() if k != "transform"} | {"patches": n}
    key = json.dumps([asked, code_fingerprint(), code_fingerprint("simulate")])
    key = hashlib.sha256(key.encode()).hexdigest()[:16]
    with staging.output_errors(out):
        if staging.is_complete(out, key):
            return (staging.read_manifest(out) or {}) | {"unchanged": True}
        stage = staging.open_stage(out, key)
        (stage / "data").mkdir(exist_ok=True)
        places = max(1, PATCHES_PER_SHARD // config.pairs_per_place)
        step = places * config.pairs_per_place
        starts = range(0, n, step)
        name = f"{config.split}-{{:05d}}-of-{len(starts):05d}.parquet"
        jobs = {
            stage / "data" / name.format(i): range(start, min(start + step, n))
            for i, start in enumerate(starts)
        }
        left = {path: numbers for path, numbers in jobs.items() if not path.exists()}
        done = n - sum(map(len, left.values()))
        if progress:
            progress(done, n)
        pool = worker_pool(min(workers, max(1, len(left))))
        try:
            futures = {
                pool.submit(_write_shard, path, numbers, config): len(numbers)
                for path, numbers in left.items()
            }
            for future in as_completed(futures):
                future.result()
                done += futures[future]
                if progress:
                    progress(done, n)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        counts = {"pairs": n, "rows": n}
        report: dict[str, Any] = {
            **{"config": "patches", "scheme": "grouped", "fold": None, "source": "simulated"},
            **{"fingerprint": key, "stream": asked, "splits": {config.split: counts}},
            **{"unassigned": 0, "without_record": 0, "problems": [], "rules": {}},
        }
        (stage / "README.md").write_text(dataset_card(report, [config.split]))
        staging.publish(out, stage, ["data", "README.md"], report)
    return (staging.read_manifest(out) or {}) | {"unchanged": False}


def patch_row(number: int, drawn: Drawn) -> Row:
    """Columns of config `patches` of one simulated patch.

    Args:
        number: Of the patch, its `unique_id`.
        drawn: The patch.

    Returns:
        The row.
    """
    annotation = drawn.annotation
    frame_id = annotation.frame_id
    return (
        image_columns(encode_png(drawn.image), encode_png(drawn.coherence))
        | mask_column(drawn.mask, annotation.events)
        | {
            "caption": captions.compose(drawn.facts),
            "unique_id": number,
            "frame_id": f"{frame_id[:-6]}{drawn.place:06d}",
            "pass_direction": annotation.pass_direction,
            "volcano_group": splits.volcano_group(frame_id),
            "volcanoes": [],
            "primary_date": annotation.primary_date.isoformat(),
            "secondary_date": annotation.secondary_date.isoformat(),
        }
        | record_columns(annotation)
        | event_columns(annotation.events)
        | {
            "label": list(annotation.label),
            "is_crowd": annotation.is_crowd,
            "pixel_spacing_deg": NATIVE_SPACING_DEG,
            "source": "simulated",
            "patch": str(number),
            "kind": "crop" if annotation.events else "tile",
            "window": [0, 0, PATCH_SIZE, PATCH_SIZE],
        }
    )


def _write_shard(path: Path, numbers: range, config: StreamConfig) -> None:
    """One shard, all or nothing: it is made in memory, some ten megabytes."""
    patches = SimulatedPatches(config)
    stream = BytesIO()
    writer = ParquetWriter(stream=stream, features=features("patches"), writer_batch_size=64)
    for number in numbers:
        writer.write(writer._features.encode_example(patch_row(number, patches.draw(number))))
    writer.finalize(close_stream=False)
    write_bytes(path, stream.getvalue())
