"""The card (README.md) of a dataset folder, written from what was counted."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from heph_vl import __version__

PROVENANCE = """## Provenance

Interferograms and annotations follow Hephaestus (N. I. Bountos et al., Hephaestus: A large scale
multitask dataset towards InSAR understanding, CVPR Workshops 2022; annotations released under the
MIT licence). Real interferograms derive from COMET LiCSAR products and contain modified Copernicus
Sentinel data; simulated ones are drawn after them and are no observations."""
LIMITS = """## Limits

A picture of wrapped phase holds no unwrapped phase, no place and no incidence angle: what it shows
is relative, and along the line of sight. Scores are on the split named beside them and on nothing
else; scores on simulated interferograms are no skill on real ones. Do not watch a volcano with
this alone."""
_TEXT = """# {title}

{what} with captions, labels and deformation polygons, in the config `{config}`. {origin}
Written by heph_vl.

```python
import datasets

train = datasets.load_dataset("this folder", split="{first}")
```

Splits by scheme `{scheme}`{fold}.

| split | interferograms | rows | left out |
|---|---|---|---|
{rows}

Images are at 1/300 degree; `image` is the coloured wrapped phase as LiCSAR draws it, `mask` holds
class ids (0 background, 1 Mogi, 2 Dyke, 3 Sill, 4 Spheroid, 5 Earthquake, 6 Unidentified).
{made}Left out or normalised: {problems} problems, {rules} applications of the rules listed in
`heph_vl.json`.

{provenance}

{limits}
"""
_ORIGIN = {
    "real": "Images derive from COMET LiCSAR products (contain modified Copernicus Sentinel data).",
    "simulated": "All images and labels are **simulated**: no score on them is a result on real "
    "data.",
    "generated": "All images are **generated, not observations**; labels say what they were asked "
    "to show, and what heads saw of what that left open.",
}
_WHAT = {
    "real": "Sentinel-1 interferograms over volcanoes",
    "simulated": "Simulated interferograms of volcanoes, as Sentinel-1 would see them,",
    "generated": "Interferograms in the likeness of Sentinel-1's, drawn by a network,",
}
_TITLE = {
    "real": "Hephaestus",
    "simulated": "Simulated interferograms",
    "generated": "Generated interferograms",
}


def dataset_card(report: Mapping[str, Any], splits: Sequence[str]) -> str:
    """The card's text, with the front matter by which `datasets` finds the shards.

    Args:
        report: Counts and settings, as `parquet.write_parquet` returns them.
        splits: Names of the splits that were written.

    Returns:
        Markdown.
    """
    config = report["config"]
    front = ["---", "license: mit", "task_categories:", "- image-to-text"]
    front += ["tags:", "- insar", "- sentinel-1", "- volcano", f"- {report['source']}"]
    front += ["configs:", f"- config_name: {config}", "  default: true"]
    # `datasets` caches a local folder by its path and this version, not by its files' content.
    front += [f"  version: 0.1.{int(report['fingerprint'][:7], 16)}", "  data_files:"]
    for split in splits:
        front += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    counts = report["splits"]
    rows = [
        f"| {split} | {counts[split]['pairs']} | {counts[split].get('rows', 0)} "
        f"| {counts[split].get('left_out', 0)} |"
        for split in splits
    ]
    text = _TEXT.format(
        what=_WHAT[report["source"]],
        title=_TITLE[report["source"]],
        config=config,
        made=_made(report.get("made") or report.get("stream")),
        provenance=PROVENANCE,
        limits=LIMITS,
        origin=_ORIGIN[report["source"]],
        first=splits[0],
        scheme=report["scheme"],
        fold="" if report["fold"] is None else f", fold {report['fold']}",
        rows="\n".join(rows),
        problems=len(report["problems"]),
        rules=sum(report["rules"].values()),
    )
    return "\n".join([*front, "---", "", text])


def _made(settings: Mapping[str, Any] | None) -> str:
    """How the images were made, seed and version included; nothing of real ones."""
    if settings is None:
        return ""
    said = json.dumps(settings, indent=1)
    return f"Made by heph_vl {__version__} with these settings:\n\n```json\n{said}\n```\n\n"
