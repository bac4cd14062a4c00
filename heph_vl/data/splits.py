"""Which records train, validate and test: `grouped` (default), five others for their own ends.

`grouped` shares no volcano between splits. Its table `tables/volcano_groups.csv` has a row for each
of the 38 frames of Hephaestus:

- `volcanoes`: from the list of frames that Hephaestus Minicubes publishes (MIT), spelling evened
  out (no underscores, capitals), the Cerro Azul of Galapagos told from the one in Chile;
- `group`: frames that see a common volcano, 28 groups, checked by hand;
- `split`, `fold`: found once by `split_search.py`.

`paper`, `official` and `temporal` exist for comparison; they share volcanoes: report them with
their `leakage`. `glacier` and `corruption` are for those tasks (`task_splits`).
"""

import csv
import gzip
import hashlib
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

from heph_vl.data.annotations import ACTIVITY_TYPES, FLAGS, INTENSITIES, Annotation
from heph_vl.data.record_fields import show
from heph_vl.errors import HephError

SPLITS = ("train", "val", "test")
SCHEMES = ("grouped", "paper", "official", "temporal", "glacier", "corruption")
FOLDS = 5

# Sierra Negra, Kilauea and Campi Flegrei: the frames whose 2,474 records the paper's text counts.
PAPER_HELD_OUT = ("128D_09016_110500", "087D_07004_060904", "022D_04826_121209")

_PERIODS = (
    ("train", date(2014, 1, 1), date(2019, 5, 31)),
    ("val", date(2019, 6, 1), date(2019, 12, 31)),
    ("test", date(2020, 1, 1), date(2021, 12, 31)),
)
# Share of unknown frames that train, and that train or validate: as in the table's search.
_HASH_BOUNDS = (0.60, 0.75)
_PATCH_NAME = re.compile(r"([0-9]{1,18})(?:_[0-9]+)?\.(?:json|png)")


@dataclass(frozen=True, slots=True)
class Frame:
    """One row of the table: a LiCSAR frame, its volcanoes, its group and where that belongs."""

    frame_id: str
    group: str
    volcanoes: tuple[str, ...]
    split: str
    fold: int


def _read_table() -> dict[str, Frame]:
    file = resources.files("heph_vl.data").joinpath("tables", "volcano_groups.csv")
    frames = [
        Frame(row["frame"], row["group"], _names(row["volcanoes"]), row["split"], int(row["fold"]))
        for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    ]
    return {frame.frame_id: frame for frame in frames}


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split("; "))


FRAMES = _read_table()
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(frame.frame_id for frame in frames)
    for group, frames in itertools.groupby(FRAMES.values(), key=lambda frame: frame.group)
}
VOLCANOES = {frame.frame_id: frame.volcanoes for frame in FRAMES.values()}


def volcano_group(frame_id: str) -> str:
    """Name of the group of frames that see the same volcanoes; an unknown frame is its own."""
    return FRAMES[frame_id].group if frame_id in FRAMES else frame_id


def assign(
    annotations: Iterable[Annotation],
    scheme: str = "grouped",
    *,
    fold: int | None = None,
    patch_file: Path | None = None,
) -> dict[int, str]:
    """The split of each record.

    - `grouped`: the table's `split`; with `fold` k, fold k tests, the next fold validates, the
      rest trains. A frame that the table does not know goes by a hash of its name (SHA-256), so
      that it never changes sides.
    - `paper`: Bountos et al. (2022), section 2.6: three frames are held out; primary date up to
      2017 validates, later tests; records with an Unidentified event are left out of both.
    - `official`: the patch split published with the Hephaestus code. A record with patches in
      several splits goes to the one held out most (test before val before train).
    - `temporal`: 2014-01 to 2019-05, 2019-06 to 2019-12, 2020-01 to 2021-12; pairs with dates in
      two periods are left out.
    - `glacier`, `corruption`: `grouped`, with one group moved or divided by date so that each part
      has records of that kind (`task_splits`).

    Args:
        annotations: Records.
        scheme: One of SCHEMES.
        fold: 0 to 4, for `grouped` only.
        patch_file: The published `train_test_split.json` (or .gz), for `official` only.

    Returns:
        Unique id -> `train`, `val` or `test`; records that are left out are not in it.

    Raises:
        HephError: Unknown scheme or fold, or a patch file missing, unreadable or uncalled for.
    """
    if scheme not in SCHEMES:
        raise HephError("splits", f"unknown scheme {scheme!r}", f"use one of {', '.join(SCHEMES)}")
    if fold is not None and (scheme != "grouped" or fold not in range(FOLDS)):
        raise HephError("splits", f"fold {fold} of {scheme}", "use 0 to 4, with grouped only")
    if scheme == "official" and patch_file is None:
        raise HephError("splits", "official without its patch file", "name train_test_split.json")
    if scheme != "official" and patch_file is not None:
        raise HephError("splits", f"{scheme} with patch_file {patch_file}", "only official has one")
    choose: Callable[[Annotation], str | None]
    if patch_file is not None:
        patches = read_patch_file(patch_file)
        held_out_most = {uid: s for s in SPLITS for uid in patches[s]}
        choose = lambda item: held_out_most.get(item.unique_id)  # noqa: E731
    elif scheme == "grouped":
        choose = lambda item: grouped_split(item.frame_id, fold)  # noqa: E731
    elif scheme in ("glacier", "corruption"):
        from heph_vl.data import task_splits  # it builds on this module

        choose = lambda item: task_splits.choose(item, scheme)  # noqa: E731
    else:
        choose = _paper if scheme == "paper" else _temporal
    chosen = ((item.unique_id, choose(item)) for item in annotations)
    return {unique_id: split for unique_id, split in chosen if split is not None}


def grouped_split(frame_id: str, fold: int | None = None) -> str:
    """The side of a frame in the scheme `grouped`, or in its fold (0 to 4)."""
    frame = FRAMES.get(frame_id)
    number = int.from_bytes(hashlib.sha256(frame_id.encode()).digest()[:8])
    if fold is None:
        return frame.split if frame else SPLITS[sum(number / 2**64 >= b for b in _HASH_BOUNDS)]
    mine = frame.fold if frame else number % FOLDS
    return {fold: "test", (fold + 1) % FOLDS: "val"}.get(mine, "train")


def _paper(item: Annotation) -> str | None:
    if item.frame_id not in PAPER_HELD_OUT:
        return "train"
    if "unidentified" in item.activity_types:
        return None
    return "val" if item.primary_date.year <= 2017 else "test"


def _temporal(item: Annotation) -> str | None:
    for split, first, last in _PERIODS:
        if first <= item.primary_date and item.secondary_date <= last:
            return split
    return None


def read_patch_file(path: Path) -> dict[str, Counter[int]]:
    """How many patches of each record each split of the published patch file has.

    Args:
        path: JSON, plain or gzipped: `{"train": {"0": ["4645_3.json", ...], "1": [...]}, ...}`.

    Returns:
        For each of SPLITS, unique id -> number of patches.

    Raises:
        HephError: The file is missing, no JSON, or not of that form.
    """
    form = 'expected {"train": {"0": ["4645_3.json", ...], ...}, "val": ..., "test": ...}'
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        table = json.loads(content)
    except (OSError, ValueError, EOFError, zlib.error, RecursionError) as error:
        raise HephError(str(path), f"cannot be read ({error})", form) from error
    if not isinstance(table, dict) or sorted(table) != sorted(SPLITS):
        raise HephError(str(path), "its keys are not train, val and test", form)
    patches: dict[str, Counter[int]] = {}
    for split in SPLITS:
        classes = table[split]
        if not isinstance(classes, dict) or not all(isinstance(c, list) for c in classes.values()):
            raise HephError(f"{path}: {split}", "no lists of patch names by class", form)
        patches[split] = Counter()
        for name in itertools.chain.from_iterable(classes.values()):
            match = _PATCH_NAME.fullmatch(name) if isinstance(name, str) else None
            if match is None:
                raise HephError(f"{path}: {split}", f"{show(name)} is no patch name", form)
            patches[split][int(match[1])] += 1
    return patches


def leakage(
    annotations: Sequence[Annotation],
    assignment: Mapping[int, str],
    patch_file: Path | None = None,
) -> dict[str, Any]:
    """What each two splits share, ready for JSON.

    Args:
        annotations: Records; those that are not in `assignment` are ignored.
        assignment: Unique id -> split, from `assign`.
        patch_file: Of the `official` split, whose splits share interferograms.

    Returns:
        For `train-val`, `train-test` and `val-test`: the `frames`, `volcano_groups` and
        `volcanoes` that both have; how many `acquisitions` (one date of one frame) are part of
        interferograms of both, and how many `interferograms` have patches in both;
        `deformation_in_shared_groups`, the share of the second split's deforming records that
        belong to groups which the first has, too (None without deforming records).
    """
    members: dict[str, list[Annotation]] = {split: [] for split in SPLITS}
    for item in annotations:
        if item.unique_id in assignment:
            members[assignment[item.unique_id]].append(item)
    patches = read_patch_file(patch_file) if patch_file else {split: Counter() for split in SPLITS}
    report = {}
    for one, other in itertools.combinations(SPLITS, 2):
        a, b = _coverage(members[one]), _coverage(members[other])
        shared = {key: a[key] & b[key] for key in a}
        groups = shared["volcano_groups"]
        deforming = [volcano_group(i.frame_id) in groups for i in members[other] if i.events]
        report[f"{one}-{other}"] = {
            "frames": sorted(shared["frames"]),
            "volcano_groups": sorted(groups),
            "volcanoes": sorted(shared["volcanoes"]),
            "acquisitions": len(shared["acquisitions"]),
            "interferograms": len(patches[one].keys() & patches[other].keys()),
            "deformation_in_shared_groups": sum(deforming) / len(deforming) if deforming else None,
        }
    return report


def _coverage(members: Iterable[Annotation]) -> dict[str, set[Any]]:
    frames = {item.frame_id for item in members}
    return {
        "frames": frames,
        "volcano_groups": {volcano_group(frame) for frame in frames},
        "volcanoes": {name for frame in frames for name in VOLCANOES.get(frame, ())},
        "acquisitions": {
            (item.frame_id, day)
            for item in members
            for day in (item.primary_date, item.secondary_date)
        },
    }


def class_counts(
    annotations: Iterable[Annotation], assignment: Mapping[int, str]
) -> dict[str, dict[str, Any]]:
    """Records of each split, and of `left_out`, by class; ready for JSON.

    Args:
        annotations: Records.
        assignment: Unique id -> split, from `assign`.

    Returns:
        For each split: `records`, `deformation`, `groups`, `groups_with_deformation`,
        `activity_types` (records and instances of each), `intensities` (instances) and `flags`.
    """
    members: dict[str, list[Annotation]] = {split: [] for split in (*SPLITS, "left_out")}
    for item in annotations:
        members[assignment.get(item.unique_id, "left_out")].append(item)
    return {split: _count_classes(items) for split, items in members.items()}


def _count_classes(items: Sequence[Annotation]) -> dict[str, Any]:
    events = [event for item in items for event in item.instances]
    instances = Counter(event.type for event in events)
    records = Counter(kind for item in items for kind in set(item.activity_types))
    levels = Counter(event.intensity for event in events)
    deforming = [item for item in items if item.has_deformation]
    return {
        "records": len(items),
        "deformation": len(deforming),
        "groups": len({volcano_group(item.frame_id) for item in items}),
        "groups_with_deformation": len({volcano_group(item.frame_id) for item in deforming}),
        "activity_types": {
            kind: {"records": records[kind], "instances": instances[kind]}
            for kind in ACTIVITY_TYPES
        },
        "intensities": {level: levels[level] for level in INTENSITIES},
        "flags": {flag: sum(getattr(item, flag) for item in items) for flag in FLAGS}
        | {"processing_error": sum(item.processing_error != "none" for item in items)},
    }
