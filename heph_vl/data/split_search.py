"""The search that found the columns `split` and `fold` of `tables/volcano_groups.csv`.

`python -m heph_vl.data.split_search ANNOTATIONS` prints the table again, column for column. It is
run by hand, once; everything else reads the checked-in table, so that a split never changes.

Groups of frames that see the same volcanoes are dealt to parts. Each part should have its share of
every quantity of QUANTITIES, counted in records, and of the groups that have any of it (a part
with many records of one volcano is not diverse). The cost is the sum of squared differences from
those shares; one group holds 48 % of the deforming records, so it cannot be 0. Local search: from
each of RESTARTS seeded random deals, move one group or swap two as long as that lowers the cost.
"""

import csv
import dataclasses
import io
import itertools
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from heph_vl.data.annotations import Annotation, read_annotations
from heph_vl.data.splits import FRAMES, GROUPS, SPLITS, volcano_group

RESTARTS = 40
QUANTITIES = {
    "records": 4.0,
    "deformation": 4.0,
    **dict.fromkeys(("mogi", "dyke", "sill", "earthquake", "unidentified"), 1.0),
    **dict.fromkeys(("low", "medium", "high"), 1.0),
    **dict.fromkeys(("low_coherence", "corrupted", "processing_error", "orbital_fringes"), 0.25),
}
"""Weights in the cost. Spheroids are left out: only one group has any."""

# 48 % of all deformation, and all spheroids: what is held out of training cannot be learned.
IN_TRAIN = ("galapagos-sierra-negra", "campi-flegrei-vesuvius")


@dataclass(frozen=True)
class Part:
    """What one part of the split is asked for.

    Attributes:
        share: Of each quantity, in (0, 1).
        groups: At least so many groups, for intervals that bootstrap over groups.
        deforming: At least so many groups with deformation.
        largest: No group may hold a larger share of the part's deforming records.
    """

    share: float
    groups: int
    deforming: int
    largest: float = 1.0


FIXED = (Part(0.60, 12, 5), Part(0.15, 5, 3, 0.5), Part(0.25, 8, 6, 0.5))
FOLDS = (Part(0.2, 5, 3),) * 5


def count(annotations: Sequence[Annotation]) -> dict[str, NDArray[np.float64]]:
    """Records of each group that have each quantity.

    Args:
        annotations: All records.

    Returns:
        For each group a float64 array (len(QUANTITIES),).
    """
    counts = {group: np.zeros(len(QUANTITIES)) for group in GROUPS}
    for item in annotations:
        has = {"records", *item.activity_types, *(level for level in item.intensities if level)}
        has |= {"deformation"} if item.has_deformation else set()
        has |= {"processing_error"} if item.processing_error != "none" else set()
        has |= {f for f in ("low_coherence", "corrupted", "orbital_fringes") if getattr(item, f)}
        counts[volcano_group(item.frame_id)] += [name in has for name in QUANTITIES]
    return counts


def deal(
    counts: Mapping[str, NDArray[np.float64]],
    parts: Sequence[Part],
    fixed: Mapping[str, int],
    seed: int = 0,
) -> dict[str, int]:
    """Deal groups to parts, as even as one local search with restarts finds.

    Args:
        counts: See `count`.
        parts: What each part is asked for.
        fixed: Groups whose part is given.
        seed: Of the restarts.

    Returns:
        The part's position for each group.
    """
    names = sorted(counts)
    table = np.stack([counts[name] for name in names])
    free = [i for i, name in enumerate(names) if name not in fixed]
    generator = random.Random(seed)
    best = _Deal(np.inf, ())
    for _ in range(RESTARTS):
        start = tuple(fixed.get(name, generator.randrange(len(parts))) for name in names)
        best = min(best, _descend(table, start, parts, free))
    return dict(zip(names, best.part, strict=True))


class _Deal(NamedTuple):
    cost: float
    part: tuple[int, ...]


def _descend(
    table: NDArray[np.float64], start: tuple[int, ...], parts: Sequence[Part], free: Sequence[int]
) -> _Deal:
    """The deal from which neither a move nor a swap lowers the cost."""
    best = _Deal(np.inf, start)
    while True:
        now = best.part
        trials = [(*now[:i], part, *now[i + 1 :]) for i in free for part in range(len(parts))]
        for i, j in itertools.combinations(free, 2):
            swapped = list(now)
            swapped[i], swapped[j] = now[j], now[i]
            trials.append(tuple(swapped))
        lowest = min(map(_Deal, _costs(table, np.array(trials), parts).tolist(), trials))
        if lowest.cost >= best.cost - 1e-12:
            return best
        best = lowest


def _costs(
    table: NDArray[np.float64], deals: NDArray[np.int64], parts: Sequence[Part]
) -> NDArray[np.float64]:
    """Squared distance from the shares; a demand that is not met costs more than any of it.

    Args:
        table: (G, Q) records of each group that have each quantity.
        deals: (T, G) position of the part of each group, in T trials.
        parts: The P parts.

    Returns:
        (T,) costs.
    """
    member = np.eye(len(parts))[deals].transpose(0, 2, 1)  # (T, P, G)
    share, groups, deforming, largest = np.array([dataclasses.astuple(part) for part in parts]).T
    weights = np.array(list(QUANTITIES.values()))
    cost = np.zeros(len(deals))
    for amounts in (table, (table > 0).astype(float)):
        shares = member @ (amounts / amounts.sum(axis=0))  # (T, P, Q)
        cost += (weights * (shares - share[:, None]) ** 2).sum(axis=(1, 2))
    amount = table[:, list(QUANTITIES).index("deformation")]
    short = np.maximum(groups - member.sum(axis=2), 0)
    short += np.maximum(deforming - member @ (amount > 0), 0)
    top = (member * amount).max(axis=2) / np.maximum(member @ amount, 1)
    cost += 100 * (short + np.maximum(top - largest, 0)).sum(axis=1)
    return cost


def main(path: str) -> str:
    """The table as CSV text, found anew from the annotations at `path`."""
    counts = count(read_annotations(path, strict=True).annotations)
    split = deal(counts, FIXED, dict.fromkeys(IN_TRAIN, 0))
    fold = deal(counts, FOLDS, {})
    # Folds are alike, so their numbers are free: in the order of their first groups.
    number = {part: k for k, part in enumerate(dict.fromkeys(fold[group] for group in GROUPS))}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("group", "frame", "volcanoes", "split", "fold"))
    for frame in FRAMES.values():
        name = frame.group
        row = (
            name,
            frame.frame_id,
            "; ".join(frame.volcanoes),
            SPLITS[split[name]],
            number[fold[name]],
        )
        writer.writerow(row)
    return text.getvalue()


if __name__ == "__main__":
    print(main(sys.argv[1]), end="")
