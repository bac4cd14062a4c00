"""Found the image sizes in `tables/frame_places.csv`, once; run it again for other annotations.

    python -m heph_vl.simulate.size_search annotations.tar.gz

The released annotations do not say how large their images are. Three things do: a frame has
floor(H / 224) * floor(W / 224) tiles in the published patch split; its polygons lie inside; and
captions name the cell of the 3 x 3 grid in which a pattern lies. Of the sizes that the first two
allow, the one is taken whose grid agrees with the captions of most records with one pattern, in the
middle of the range that agrees equally. Frames with too few such records get the squarest size.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heph_vl.data import captions
from heph_vl.data.annotations import Annotation, read_annotations
from heph_vl.simulate.place import Size, known_frames

LEAST_RECORDS = 8
STEP = 3  # sides are multiples of 3, so that the fine grid is exactly 10/3 of them
MARGIN = 9  # pixels beyond the outermost polygon
LONGEST = 3.0  # longer side over the shorter one: frames near the Arctic Circle are wide


def placed_patterns(records: list[Annotation]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Middles (N, 2) of the boxes of single patterns, and the cells (N, 9) their captions name."""
    middles, named = [], []
    for record in records:
        patterns = captions.parse(record.caption).patterns
        if len(record.events) != 1 or len(patterns) != 1 or not record.events[0].polygon:
            continue
        regions = patterns[0].regions & set(captions.CELLS)
        if regions:
            corners = np.asarray(record.events[0].polygon)
            middles.append((corners.min(axis=0) + corners.max(axis=0)) / 2)
            named.append([cell in regions for cell in captions.CELLS])
    return np.array(middles).reshape(-1, 2), np.array(named, dtype=bool).reshape(-1, 9)


def best_size(
    tiles: int, reach: tuple[int, int], middles: NDArray[np.float64], named: NDArray[np.bool_]
) -> tuple[Size, float]:
    """The size, and the share of patterns whose cell agrees with their captions (0 if too few)."""
    found: list[tuple[float, int, int]] = []
    enough = len(middles) >= LEAST_RECORDS
    for rows in range(1, tiles + 1):
        columns, rest = divmod(tiles, rows)
        if rest:
            continue
        for height in _sides(rows, reach[1]):
            for width in _sides(columns, reach[0]):
                if max(width, height) > LONGEST * min(width, height):
                    continue
                share = 0.0
                if enough:
                    cell = np.minimum((3 * middles / (width, height)).astype(int), 2)
                    share = float(named[np.arange(len(cell)), 3 * cell[:, 1] + cell[:, 0]].mean())
                found.append((share, height, width))
    best = max(share for share, _, _ in found)
    sizes = np.array([(h, w) for share, h, w in found if share >= best - 1e-9])
    if enough:  # the middle of what agrees
        target = np.median(sizes, axis=0)
    else:
        square = np.abs(np.log(sizes[:, 0] / sizes[:, 1]))
        target = np.median(sizes[square <= square.min() + 0.05], axis=0)
    height, width = sizes[np.abs(sizes - target).sum(axis=1).argmin()].tolist()
    return (height, width), best


def _sides(tiles: int, reach: int) -> range:
    first = max(224 * tiles, reach + MARGIN)
    return range(-(-first // STEP) * STEP, 224 * (tiles + 1), STEP)


def main() -> None:
    """Prints a line for each frame: name, height, width, records, share that agrees."""
    by_frame: dict[str, list[Annotation]] = defaultdict(list)
    for record in read_annotations(Path(sys.argv[1])).annotations:
        by_frame[record.frame_id].append(record)
    for frame_id, known in known_frames().items():
        middles, named = placed_patterns(by_frame[frame_id])
        (height, width), share = best_size(known.tiles, known.reach, middles, named)
        print(f"{frame_id},{height},{width},{len(middles)},{share:.2f}")


if __name__ == "__main__":
    main()
