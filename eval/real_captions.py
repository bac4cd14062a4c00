"""A captioner on real Hephaestus patches: which deformation facts its captions tell.

    python eval/real_captions.py --patches ../shared/data/hephaestus/patches --model CAPTIONER
    python eval/real_captions.py --patches PATCHES --model M --annotations A.tar.gz --out DIR

PATCHES is as for `eval/real_patches.py`, with `uniqueID` in its index. They have no captions: what
is true of one is taken from its mask (types and places) and, with `--annotations`, from its record
(intensity of a type, where all its patterns have one). Facts of other kinds are not scored.
`--out` writes results.json and sheet.png; the sheet shows the patches, so it belongs under runs/.

The 23 patches are of two frames, one with all the deformation: they show decoding, not skill.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.real_patches import LABEL, Entry, read_entries
from heph_vl.data import captions
from heph_vl.data.annotations import Annotation, read_annotations
from heph_vl.data.captions import CaptionFacts
from heph_vl.data.captions.from_labels import facts_from_labels
from heph_vl.data.native import encode_png, read_mask
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.metrics.caption_facts import FactCounts, count_facts

SCORED = ("deformation", "type", "intensity", "place")


def true_facts(entry: Entry, record: Annotation | None) -> CaptionFacts:
    """Patterns of a patch.

    Args:
        entry: The patch.
        record: Of its interferogram, or None.

    Returns:
        A pattern for each patch of its mask; the intensity where it is certain.

    Raises:
        HephError: The mask cannot be read.
    """
    if entry.mask is None:
        return CaptionFacts(frozenset({("no_deformation",)}))
    from PIL import Image

    with Image.open(entry.image) as image:
        mask = read_mask(entry.mask, image.size)
    patterns = facts_from_labels({"deformation": 1.0}, mask).patterns
    events = () if record is None else record.events
    found = []
    for pattern in patterns:
        levels = {event.intensity for event in events if event.type == pattern.type}
        found.append(replace(pattern, intensity=levels.pop() if len(levels) == 1 else None))
    return CaptionFacts(patterns=tuple(found))


def patterns_alone(facts: CaptionFacts, wanted: CaptionFacts) -> CaptionFacts:
    """The patterns that are told; without intensities where the truth does not know all."""
    if all(pattern.intensity for pattern in wanted.patterns):
        return CaptionFacts(patterns=facts.patterns)
    return CaptionFacts(patterns=tuple(replace(p, intensity=None) for p in facts.patterns))


def summarise(counts: FactCounts, deforms: Sequence[bool]) -> dict[str, Any]:
    """Precision, recall and F1 of deformation facts, misses and false alarms."""
    there = np.array(deforms, dtype=bool)
    scores: dict[str, Any] = {}
    for group in SCORED:
        wanted, said, right = (float(values.sum()) for values in counts.sums(group))
        scores[group] = {
            "precision": right / said if said else None,
            "recall": right / wanted if wanted else None,
            "f1": 2 * right / (wanted + said) if wanted + said else None,
        }
    return {
        "facts": scores,
        "deforming": {"patches": int(there.sum()), "missed": int((~counts.told[there]).sum())},
        "undeforming": {
            "patches": int((~there).sum()),
            "false_alarms": int(counts.told[~there].sum()),
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        results = _run(options)
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.as_json:
        print(json.dumps(results, allow_nan=False))
    else:
        _show(results)
    return 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    from heph_vl.caption import caption_files
    from heph_vl.models.weights import weights_sha256

    entries = read_entries(options.patches)
    ids = {line["patch"]: line.get("uniqueID") for line in _index(options.patches)}
    records: Mapping[int, Annotation] = {}
    if options.annotations is not None:
        found = read_annotations(options.annotations).annotations
        records = {item.unique_id: item for item in found}
    truths = [true_facts(entry, records.get(ids[entry.patch])) for entry in entries]
    answers = []
    for answer in caption_files([entry.image for entry in entries], options.model):
        if isinstance(answer, HephError):
            raise answer
        answers.append(answer[0])
    told = [patterns_alone(a.facts, truth) for a, truth in zip(answers, truths, strict=True)]
    wanted = [CaptionFacts(patterns=truth.patterns) for truth in truths]
    deforms = [bool(truth.patterns) for truth in truths]
    counts = count_facts([captions.compose(f) for f in wanted], [captions.compose(f) for f in told])
    results = {
        "task": "real_captions",
        "label": LABEL,
        "model": str(options.model),
        "weights_sha256": weights_sha256(options.model),
        "intensities_from": None if options.annotations is None else str(options.annotations),
        "summary": summarise(counts, deforms),
        "by_patch": [
            {
                "patch": entry.patch,
                "frame": entry.frame,
                "true": captions.compose(truth),
                "caption": answer.text,
                "deformation": answer.deformation,
            }
            for entry, truth, answer in zip(entries, truths, answers, strict=True)
        ],
    }
    if options.out is not None:
        with writing(options.out):
            options.out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(results, indent=1, allow_nan=False) + "\n"
            write_text(options.out / "results.json", text)
        _draw(entries, results["by_patch"], options.out / "sheet.png")
    return results


def _index(root: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = json.loads((root / "index.json").read_text())
    return lines


def _draw(entries: Sequence[Entry], rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    from PIL import Image

    from heph_vl.index import Hit
    from heph_vl.sheet import draw_hits

    pictures, hits = [], []
    for rank, (entry, row) in enumerate(zip(entries, rows, strict=True), start=1):
        with Image.open(entry.image) as image:
            pictures.append(encode_png(np.asarray(image.convert("RGB"))))
        told = f"TRUE: {row['true']} SAID: {row['caption']}"
        hits.append(Hit(rank, row["deformation"], {"frame_id": entry.patch, "caption": told}))
    draw_hits(hits, pictures, path, title=f"{LABEL}. Number: share that tells a deformation")


def _show(results: Mapping[str, Any]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 150)
    table = Table(title=results["label"], title_justify="left", title_style="bold", box=SIMPLE)
    for heading in ("patch", "deformation", "true", "caption"):
        table.add_column(heading)
    for row in results["by_patch"]:
        told = (Text(row[name]) for name in ("true", "caption"))
        table.add_row(Text(row["patch"]), f"{row['deformation']:.2f}", *told)
    console.print(table)
    summary = results["summary"]
    for name, scores in summary["facts"].items():
        cells = [f"{k} {'-' if v is None else f'{v:.3f}'}" for k, v in scores.items()]
        console.print(f"{name}: {', '.join(cells)}", highlight=False)
    yes, no = summary["deforming"], summary["undeforming"]
    console.print(
        f"missed {yes['missed']} of {yes['patches']}, "
        f"false alarms {no['false_alarms']} of {no['patches']}",
        highlight=False,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--patches", type=Path, required=True, help="folder with index.json")
    parser.add_argument("--model", type=Path, required=True, help="folder of a saved captioner")
    parser.add_argument("--annotations", type=Path, help="records, for the intensities")
    parser.add_argument("--out", type=Path, help="write results.json and sheet.png here")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print results as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
