"""Measure how simulated patches differ from real ones, beside baselines, each with its error.

    python eval/realism.py --real PATCHES --simulated ARCHIVE
    python eval/realism.py --real PATCHES --simulated ARCHIVE --set no-chain=OTHER --markdown

A set is a folder of 224 x 224 PNGs named `<record>_<k>.png`, or an archive, which is cut as the
published patches are: a crop around each deformation, else whole tiles. An `index.json` in or above
a folder of PNGs may tell `[{"patch", "kind", "frameID"}, ...]`. Writes results.json, labelled.png
(real on the left), blind.png and blind_key.json into --out; pictures hold real patches, so they
belong under runs/.

Every number is mean +- standard error over random half-samples of records (of frames, if 8 or
more are known). Distances are to a random half of the real set: of its other half (`floor`), of the
other sets, of the real patches with random Fourier phases (`scrambled`) or filled with uniform
phase (`random`). A set that reaches the floor cannot be told from real ones by that measure.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.realism_sets import CROP, TILE, baselines, measure_set, read_set
from eval.realism_sheets import blind_sheet, labelled_sheet, shown
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.metrics import realism
from heph_vl.metrics.realism import Estimate, PatchSet

_GROUPS = {"all": None, "deformation crops": CROP, "tiles": TILE}
_FLOOR = "real"  # the reference among the values, its halves among the distances
_RESERVED = ("real", "simulated", "scrambled", "random", "floor")


def evaluate(
    real: PatchSet, others: Mapping[str, PatchSet], num_draws: int, generator: torch.Generator
) -> dict[str, Any]:
    """Values and distances over all patches, deformation crops and tiles.

    Args:
        real: The reference.
        others: By name, in the order of the columns.
        num_draws: Half-samples.
        generator: Draws them.

    Returns:
        {group: {"sets": {set: {"patches", "units"}}, "values": ..., "distances": ...}}; a set with
        too few patches of a kind is missing from that group, a group with too few real ones is
        missing itself.
    """
    groups: dict[str, Any] = {}
    for group, kind in _GROUPS.items():
        chosen = {"real": _of_kind(real, kind)}
        chosen |= {name: _of_kind(other, kind) for name, other in others.items()}
        if not chosen["real"].enough:
            continue
        enough = {name: part for name, part in chosen.items() if part.enough}
        rest = {name: part for name, part in enough.items() if name != "real"}
        groups[group] = {
            "sets": {
                name: {"patches": len(part.units), "units": len(np.unique(part.units))}
                for name, part in enough.items()
            },
            **realism.compare(enough["real"], rest, num_draws, generator),
        }
    return groups


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    paths = {"real": options.real, "simulated": options.simulated, **_named(options.sets)}
    pictures = {name: read_set(path) for name, path in paths.items()}
    measured = {name: measure_set(pictures[name], path) for name, path in paths.items()}
    generator = torch.Generator().manual_seed(options.seed)
    real = measured.pop("real")
    others = measured | baselines(pictures["real"], real, generator)
    groups = evaluate(real, others, options.draws, generator)
    results = {
        "task": "realism",
        "sets": {
            name: {
                "path": str(paths[name]),
                "patches": len(found.patches),
                "records": len({patch.record for patch in found.patches}),
                "frames": len({patch.frame for patch in found.patches} - {None}),
                "left_out": found.left_out,
            }
            for name, found in pictures.items()
        },
        "groups": _json_ready(groups),
        "settings": {"seed": options.seed, "draws": options.draws},
    }
    out = options.out
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
        real_shown, simulated_shown = shown(pictures["real"], pictures["simulated"], generator)
        labelled_sheet(real_shown, simulated_shown).save(out / "labelled.png")
        page, key = blind_sheet(real_shown, simulated_shown, generator)
        page.save(out / "blind.png")
        write_text(out / "blind_key.json", json.dumps(key, indent=1) + "\n")
    if options.as_json:
        print(json.dumps(results, allow_nan=False))
    elif options.markdown:
        print("\n\n".join(markdown(table) for table in tables(groups)))
    else:
        _show(groups, results["sets"], out)


@dataclass(frozen=True)
class Table:
    """Rows of text under headings."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def tables(groups: Mapping[str, Any]) -> list[Table]:
    """Two tables for each group: distances to the real set, and what each set looks like.

    Args:
        groups: Of `evaluate`.

    Returns:
        Tables of text, measures down and sets across.
    """
    made = []
    for group, found in groups.items():
        sets = list(found["sets"])
        counts = ", ".join(
            f"{name} {n['patches']} of {n['units']} units" for name, n in found["sets"].items()
        )
        for what in ("distances", "values"):
            headings = ["floor" if s == _FLOOR and what == "distances" else s for s in sets]
            rows = [
                [name.replace("_", " "), *(_cell(by_set[s]) for s in sets)]
                for name, by_set in found[what].items()
            ]
            made.append(Table(f"{what}, {group} ({counts})", ["", *headings], rows))
    return made


def markdown(table: Table) -> str:
    """The table for a README."""
    lines = [table.headings, ["---", *["---:"] * (len(table.headings) - 1)], *table.rows]
    return f"{table.title}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _of_kind(patches: PatchSet, kind: str | None) -> PatchSet:
    return patches if kind is None else patches.subset(patches.kinds == kind)


def _show(groups: Mapping[str, Any], sets: Mapping[str, Any], out: Path) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 150)
    for table in tables(groups):
        drawn = RichTable(title=table.title, title_justify="left", title_style="bold", box=SIMPLE)
        for heading in table.headings:
            drawn.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
    for name, about in sets.items():
        if about["frames"]:
            console.print(f"{name}: {about['records']} records of {about['frames']} frames")
        if about["left_out"]:
            first = about["left_out"][0]
            console.print(f"{name}: {len(about['left_out'])} left out, the first: {first}")
    console.print(f"written to {out}")


def _cell(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "-"
    digits = 1 if abs(estimate.value) >= 20 else 3
    return f"{estimate.value:.{digits}f} ± {estimate.standard_error:.{digits}f}"


def _json_ready(value: Any) -> Any:
    if isinstance(value, Estimate):
        pair = {"value": value.value, "standard_error": value.standard_error}
        return {name: None if np.isnan(number) else number for name, number in pair.items()}
    if isinstance(value, dict):
        return {name: _json_ready(item) for name, item in value.items()}
    return value


def _named(sets: Sequence[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for text in sets:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in (*named, *_RESERVED):
            fix = f"write --set NAME=FOLDER with a new name, none of {', '.join(_RESERVED)}"
            raise HephError("--set", f"{text!r}", fix)
        named[name] = Path(path)
    return named


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--real", type=Path, required=True, help="folder of patches, or archive")
    parser.add_argument("--simulated", type=Path, required=True, help="archive, or such a folder")
    parser.add_argument(
        "--set", action="append", default=[], dest="sets", metavar="NAME=FOLDER", help="one more"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/realism"), help="runs/realism")
    parser.add_argument("--seed", type=int, default=0, help="of draws, baselines and shuffles")
    parser.add_argument("--draws", type=_at_least_two, default=200, help="half-samples; 200")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", dest="as_json", help="print results as JSON")
    form.add_argument("--markdown", action="store_true", help="print the tables for a README")
    return parser


def _at_least_two(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value} is not at least 2")
    return value


if __name__ == "__main__":
    sys.exit(main())
