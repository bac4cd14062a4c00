"""What a folder of the archive holds, and what it lacks."""

from pathlib import Path
from typing import Any

from heph_vl.data.annotations import AnnotationSet, read_annotations
from heph_vl.data.archive import find_annotations, scan_archive
from heph_vl.data.splits import FRAMES
from heph_vl.errors import HephError


def check_layout(root: Path, annotations: Path | None = None) -> dict[str, Any]:
    """Compare a folder with the layout of `data.archive`, with its records and with Hephaestus.

    No image is opened.

    Args:
        root: Folder that holds the frame folders.
        annotations: Kept elsewhere; None: those in `root`, if any.

    Returns:
        Counts, then lists, all of them whole: `pairs_without_coherence`, `images_without_record`,
        `records_without_image` (`<frame>/<primary>_<secondary>`), `frames_missing` (annotated
        frames of Hephaestus without an image here), `frames_other` (not annotated in Hephaestus),
        `problems` (what cannot be read).

    Raises:
        HephError: There is neither an image nor a record, or the folder is one too high or low.
    """
    where = annotations if annotations is not None else find_annotations(root)
    records = read_annotations(where) if where is not None else AnnotationSet([])
    try:
        found = scan_archive(root, annotations)
    except HephError:
        if not records.annotations or annotations is not None or _holds_frames(root):
            raise
        pairs, problems, source = [], records.problems, None  # images may come later
    else:
        pairs, source = found.pairs, found.source
        problems = [p for p in found.problems if not p.what.startswith("no image ")]
    frames = {pair.frame_id for pair in pairs}
    named = {pair.name for pair in pairs}
    return {
        "archive": str(root),
        "source": source,
        "frames": len(frames),
        "pairs": len(pairs),
        "records": len(records.annotations),
        "pairs_with_record": sum(pair.annotation is not None for pair in pairs),
        "pairs_without_coherence": [pair.name for pair in pairs if pair.coherence is None],
        "images_without_record": [pair.name for pair in pairs if pair.annotation is None],
        "records_without_image": [
            name
            for record in records.annotations
            if (name := f"{record.frame_id}/{record.pair_name}") not in named
        ],
        "frames_missing": sorted(FRAMES.keys() - frames),
        "frames_other": sorted(frames - FRAMES.keys()),
        "problems": problems,
    }


def _holds_frames(root: Path) -> bool:
    """Whether there are folders of images, so that something is wrong with them or their place."""
    return any(any(root.glob(f"{above}interferograms")) for above in ("", "*/", "*/*/"))
