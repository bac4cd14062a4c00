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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from heph_vl.data.archive import load_pair, scan_archive
from heph_vl.data.native import usual_sizes
from heph_vl.data.patches import PATCH_SIZE, PatchConfig, cut_patches
from heph_vl.data.phase import decode_image, open_png
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.metrics import realism
from heph_vl.metrics.realism import Estimate, PatchSet

CROP, TILE = "deformation crop", "tile"
_GROUPS = {"all": None, "deformation crops": CROP, "tiles": TILE}
_FLOOR = "real"  # the reference among the values, its halves among the distances
_RESERVED = ("real", "simulated", "scrambled", "random", "floor")
_SHOWN_PATCHES = 12  # of each set on a sheet


@dataclass(frozen=True)
class Patch:
    """A picture of a set.

    Attributes:
        name: Its file or cut.
        record: The interferogram it is of.
        frame: LiCSAR frame, None where unknown.
        kind: CROP, TILE, or "" where unknown.
        image: RGB, PATCH_SIZE a side, white without data.
    """

    name: str
    record: str
    frame: str | None
    kind: str
    image: Image.Image


@dataclass
class Pictures:
    """The patches of a set and what was left out of it."""

    patches: list[Patch]
    left_out: list[str] = field(default_factory=list)


def read_set(path: Path) -> Pictures:
    """Patches of a folder of PNGs or of an archive.

    Args:
        path: The folder; one with a PNG directly inside is a folder of patches.

    Returns:
        Patches by name; grey or unreadable pictures are left out and listed.

    Raises:
        HephError: If there is no such folder, nothing in it, or a PNG of another size.
    """
    if not path.is_dir():
        raise HephError(str(path), "no such folder", "give a folder of patches or an archive")
    files = sorted(path.glob("*.png"))
    if files:
        return _from_folder(path, files)
    if not any(path.iterdir()):
        raise HephError(str(path), "empty folder", "give a folder of patches or an archive")
    return _from_archive(path)


def measure_set(pictures: Pictures, path: Path) -> PatchSet:
    """All patches measured.

    Args:
        pictures: The set; those that cannot be decoded are moved to `left_out`.
        path: How errors name it.

    Returns:
        Totals, units and kinds.

    Raises:
        HephError: If fewer than 4 patches, or patches of one unit only, are left.
    """
    totals, kept = [], []
    for patch in pictures.patches:
        try:
            decoded = decode_image(patch.image, where=patch.name)
        except HephError as problem:
            pictures.left_out.append(str(problem))
            continue
        totals.append(
            realism.measure(np.asarray(patch.image), decoded.wrapped_phase, decoded.valid)
        )
        kept.append(patch)
    pictures.patches = kept
    if len(kept) < realism.MIN_PATCHES:
        why = f"{len(kept)} usable patches, {len(pictures.left_out)} left out"
        if pictures.left_out:
            why += f", the first: {pictures.left_out[0]}"
        raise HephError(str(path), why, f"give at least {realism.MIN_PATCHES}")
    units = realism.draw_units([p.record for p in kept], [p.frame for p in kept])
    measured = PatchSet(realism.stack(totals), units, np.array([p.kind for p in kept]))
    if not measured.enough:
        fix = "name patches <record>_<k>.png; without a second record there is no error to give"
        raise HephError(str(path), f"all patches are of record {kept[0].record}", fix)
    return measured


def baselines(
    pictures: Pictures, real: PatchSet, generator: torch.Generator
) -> dict[str, PatchSet]:
    """Remakes of the real patches: `scrambled` and `random`.

    Args:
        pictures: The real patches, measured.
        real: Their measures.
        generator: Draws both.

    Returns:
        Sets that are paired with the real one.
    """
    made: dict[str, list[dict[str, Any]]] = {"scrambled": [], "random": []}
    for patch in pictures.patches:
        decoded = decode_image(patch.image)
        valid = decoded.valid
        drawn = {
            "scrambled": realism.scramble(decoded.wrapped_phase, valid, generator),
            "random": realism.random_phase(valid, generator),
        }
        for name, rgb in drawn.items():
            again = decode_image(Image.fromarray(rgb), palette="new")
            made[name].append(realism.measure(rgb, again.wrapped_phase, again.valid))
    return {
        name: PatchSet(realism.stack(totals), real.units, real.kinds, paired=True)
        for name, totals in made.items()
    }


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


def shown(
    real: Pictures, simulated: Pictures, generator: torch.Generator
) -> tuple[list[Patch], list[Patch]]:
    """As many patches of both sets, of the same kinds where both have them, in random order."""
    kinds = {p.kind for p in real.patches} & {p.kind for p in simulated.patches}
    sides: tuple[list[Patch], list[Patch]] = ([], [])
    every: list[str | None] = [*sorted(kinds)] or [None]
    for kind in every:
        pools = [_shuffled(_of(s.patches, kind), generator) for s in (real, simulated)]
        number = min(_SHOWN_PATCHES // len(every), *map(len, pools))
        for side, pool in zip(sides, pools, strict=True):
            side += pool[:number]
    return sides


def labelled_sheet(real: Sequence[Patch], simulated: Sequence[Patch]) -> Image.Image:
    """Rows of four: two real patches on the left, two simulated ones on the right, with names.

    Args:
        real: Patches of `shown`.
        simulated: As many.

    Returns:
        The page.
    """
    cells: list[tuple[str, Image.Image]] = []
    for start in range(0, len(real), 2):
        for label, side in (("real", real), ("simulated", simulated)):
            pair = [(f"{label} {p.name}", p.image) for p in side[start : start + 2]]
            cells += pair + [("", Image.new("RGB", (1, 1), "white"))] * (2 - len(pair))
    return _page(cells, 4)


def blind_sheet(
    real: Sequence[Patch], simulated: Sequence[Patch], generator: torch.Generator
) -> tuple[Image.Image, dict[str, dict[str, str]]]:
    """Both sets shuffled under numbers, and which number is what.

    Args:
        real: Patches of `shown`.
        simulated: As many.
        generator: Shuffles.

    Returns:
        The page, and {number: {"set", "patch", "kind"}}.
    """
    both = [("real", p) for p in real] + [("simulated", p) for p in simulated]
    order = _shuffled(both, generator)
    key = {
        str(i): {"set": name, "patch": patch.name, "kind": patch.kind}
        for i, (name, patch) in enumerate(order, 1)
    }
    return _page([(str(i), patch.image) for i, (_, patch) in enumerate(order, 1)], 6), key


def _from_folder(path: Path, files: Sequence[Path]) -> Pictures:
    index = _index(path)
    found = Pictures([])
    for file in files:
        try:
            image = open_png(file, str(file))
        except HephError as problem:
            found.left_out.append(str(problem))
            continue
        if image.size != (PATCH_SIZE, PATCH_SIZE):
            raise HephError(
                str(file),
                f"picture of {image.width} x {image.height} px",
                f"cut it to {PATCH_SIZE} x {PATCH_SIZE} px, or give an archive",
            )
        about = index.get(file.stem, {})
        record, frame = file.stem.split("_")[0], about.get("frameID")
        found.patches.append(Patch(file.name, record, frame, about.get("kind", ""), _flat(image)))
    return found


def _index(path: Path) -> dict[str, dict[str, Any]]:
    """What an index.json in or above a folder of patches says of each, by name."""
    for file in (path / "index.json", path.parent / "index.json"):
        if file.is_file():
            try:
                return {entry["patch"]: entry for entry in json.loads(file.read_text())}
            except (OSError, ValueError, TypeError, KeyError) as error:
                fix = 'write [{"patch": ..., "kind": ..., "frameID": ...}, ...] or remove it'
                raise HephError(str(file), f"no index of patches: {error!r}", fix) from error
    return {}


def _from_archive(path: Path) -> Pictures:
    archive = scan_archive(path)
    if not archive.annotated:
        raise HephError(
            str(path), "no annotated interferogram", "put annotations/ beside the frames"
        )
    found = Pictures([], [str(problem) for problem in archive.problems])
    sizes = usual_sizes(archive.pairs)
    for pair in archive.annotated:
        assert pair.annotation is not None
        try:
            native = load_pair(pair, sizes.get(pair.frame_id))
        except HephError as problem:
            found.left_out.append(str(problem))
            continue
        for cut in cut_patches(pair.annotation, native, PatchConfig(), Counter()):
            whole = all(start % PATCH_SIZE == 0 for start in cut.window[:2])
            if cut.subject is None and not whole:
                continue  # the published patches lack the overlapping tiles at the edges
            if cut.image.size != (PATCH_SIZE, PATCH_SIZE):
                found.left_out.append(f"{cut.name}: image smaller than {PATCH_SIZE} px")
                continue
            kind = TILE if cut.subject is None else CROP
            record = str(pair.annotation.unique_id)
            image = _flat(cut.image)
            found.patches.append(Patch(cut.name, record, pair.frame_id, kind, image))
    return found


def _flat(image: Image.Image) -> Image.Image:
    """On white, as the published patches are: white may be no data or phase in every set."""
    if image.mode not in ("P", "RGB", "RGBA"):
        return image  # grey: refused at decoding
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")


def _of_kind(patches: PatchSet, kind: str | None) -> PatchSet:
    return patches if kind is None else patches.subset(patches.kinds == kind)


def _of(patches: Sequence[Patch], kind: str | None) -> list[Patch]:
    return [patch for patch in patches if kind is None or patch.kind == kind]


def _shuffled(items: Sequence[Any], generator: torch.Generator) -> list[Any]:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]


def _page(cells: Sequence[tuple[str, Image.Image]], columns: int) -> Image.Image:
    width, height = PATCH_SIZE + 8, PATCH_SIZE + 24
    page = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for i, (label, image) in enumerate(cells):
        x, y = i % columns * width + 4, i // columns * height + 2
        draw.text((x, y), label, "black", font)
        page.paste(image, (x, y + 18))
    return page


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
