"""The interferograms of one frame in order of time: what each tells, and the best series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from heph_vl.data import phase
from heph_vl.data.annotations import Annotation, read_annotations
from heph_vl.data.archive import Pair, scan_archive
from heph_vl.data.native import has_data
from heph_vl.data.picture import read_picture
from heph_vl.data.samples import QUALITY_FLAGS
from heph_vl.data.timeseries import Dates, best_series, incomparable
from heph_vl.errors import HephError
from heph_vl.metrics.information import information_score, mean_coherence

ScoreKind = Literal["record", "coherence", "quality"]


@dataclass(frozen=True)
class Candidate:
    """An interferogram that a series may take.

    Attributes:
        primary_date: First acquisition.
        secondary_date: Second acquisition.
        record: The experts' (or the simulator's) annotation, None where there is none.
        image: Its picture, None where only annotations are at hand.
        coherence: Its coherence (PNG), None where there is none.
    """

    primary_date: date
    secondary_date: date
    record: Annotation | None = None
    image: Path | None = None
    coherence: Path | None = None

    @property
    def dates(self) -> Dates:
        """Both, for `data.timeseries`."""
        return self.primary_date, self.secondary_date

    @property
    def name(self) -> str:
        """`<primary>_<secondary>`."""
        return f"{self.primary_date:%Y%m%d}_{self.secondary_date:%Y%m%d}"


@dataclass(frozen=True)
class Series:
    """A frame's interferograms, and those chosen.

    Attributes:
        frame_id: LiCSAR frame.
        kind: What the scores are of.
        pairs: All that have a score, by dates.
        scores: Of each, in [0, 1].
        chosen: Indices into `pairs`, in order of time.
        nested: Indices (outer, inner) of pairs without an order in time.
        problems: What has no score, or was left out of the input, with the reason.
    """

    frame_id: str
    kind: ScoreKind
    pairs: list[Candidate]
    scores: list[float]
    chosen: list[int]
    nested: list[tuple[int, int]]
    problems: list[HephError]

    @property
    def estimated(self) -> int:
        """How many scores rest on coherence that was estimated from the phase."""
        return sum(p.coherence is None for p in self.pairs) if self.kind == "quality" else 0

    def row(self, position: int) -> dict[str, Any]:
        """The `position`-th pair of the series, ready for JSON.

        `gap_days` are the days since the pair before it that neither sees; negative where the two
        overlap, None for the first.
        """
        pair = self.pairs[self.chosen[position]]
        gap = None
        if position:
            gap = (pair.primary_date - self.pairs[self.chosen[position - 1]].secondary_date).days
        record = pair.record
        return {
            "primary_date": pair.primary_date.isoformat(),
            "secondary_date": pair.secondary_date.isoformat(),
            "score": round(self.scores[self.chosen[position]], 6),
            "gap_days": gap,
            "unique_id": None if record is None else record.unique_id,
            "activity_types": None if record is None else list(record.activity_types),
            "image": None if pair.image is None else str(pair.image),
        }


def find_series(
    source: Path,
    frame_id: str | None = None,
    *,
    kind: ScoreKind | None = None,
    model: Path | None = None,
    max_gap: int | None = None,
    primary_once: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Series:
    """The series of a frame that tells most.

    Args:
        source: An archive, or annotations (folder, .zip, .tar.gz, .json).
        frame_id: LiCSAR frame; None where there is only one.
        kind: `record`: `information_score` of the annotation; `coherence`: mean of the coherence
            picture where there is phase; `quality`: `information_score` of what the heads see and
            of both coherence and age. None: `record` where there are annotations, else
            `coherence`.
        model: Folder of the heads, for `quality`.
        max_gap: See `best_series`.
        primary_once: See `best_series`.
        progress: Called with the number of pictures read and of all.

    Returns:
        Pairs, scores and the choice.

    Raises:
        HephError: The source or the frame is not there, or no pair of it has a score.
    """
    frames, problems = _candidates(source)
    frame = _choose_frame(source, frame_id, frames)
    pairs = frames[frame]
    chosen_kind = kind or ("record" if any(pair.record for pair in pairs) else "coherence")
    score = _scorer(chosen_kind, model)
    kept: list[Candidate] = []
    scores: list[float] = []
    for done, pair in enumerate(pairs, 1):
        try:
            scores.append(score(pair))
            kept.append(pair)
        except HephError as problem:
            problems.append(problem)
        if progress is not None:
            progress(done, len(pairs))
    if not kept:
        raise problems[-1]
    dates = [pair.dates for pair in kept]
    chosen = best_series(dates, scores, max_gap=max_gap, primary_once=primary_once)
    return Series(frame, chosen_kind, kept, scores, chosen, incomparable(dates), problems)


def _candidates(source: Path) -> tuple[dict[str, list[Candidate]], list[HephError]]:
    """Pairs of an archive or of annotations by frame, by dates; and what was left out."""
    frames: dict[str, list[Candidate]] = {}
    if _is_archive(source):
        archive = scan_archive(source)
        problems = archive.problems
        for pair in archive.pairs:
            frames.setdefault(pair.frame_id, []).append(_of_pair(pair))
    else:
        found = read_annotations(source)
        problems = found.problems
        for record in found.annotations:
            candidate = Candidate(record.primary_date, record.secondary_date, record)
            frames.setdefault(record.frame_id, []).append(candidate)
    for candidates in frames.values():
        candidates.sort(key=lambda candidate: candidate.dates)
    return frames, list(problems)


def _is_archive(source: Path) -> bool:
    # A frame or its `interferograms` is none, but `scan_archive` says what to give instead.
    here = source.name == "interferograms" or (source / "interferograms").is_dir()
    return source.is_dir() and (here or any(source.glob("*/interferograms")))


def _of_pair(pair: Pair) -> Candidate:
    return Candidate(
        pair.primary_date, pair.secondary_date, pair.annotation, pair.image, pair.coherence
    )


def _choose_frame(source: Path, frame_id: str | None, frames: dict[str, list[Candidate]]) -> str:
    """The frame that is meant; an error that lists them if that cannot be told."""
    counts = sorted(frames, key=lambda name: -len(frames[name]))
    listed = ", ".join(f"{name} ({len(frames[name])})" for name in counts[:8])
    more = f" and {len(counts) - 8} more" if len(counts) > 8 else ""
    if frame_id is None:
        if len(frames) == 1:
            return counts[0]
        raise HephError(str(source), f"{len(frames)} frames", f"--frame: {listed}{more}")
    if frame_id not in frames:
        raise HephError(f"--frame {frame_id}", f"not in {source}", f"one of {listed}{more}")
    return frame_id


def _scorer(kind: ScoreKind, model: Path | None) -> Callable[[Candidate], float]:
    """What gives a pair its score, or the error that says why it has none."""
    if kind == "record":
        return _score_of_record
    if kind == "coherence":
        return _coherence
    if model is None:
        raise HephError("--model", "not given", "scores by quality need the folder of the heads")
    return _quality_scorer(model)


def _score_of_record(pair: Candidate) -> float:
    if pair.record is None:
        raise HephError(pair.name, "has no record", "score by coherence or by quality")
    flags = {flag: getattr(pair.record, flag) for flag in QUALITY_FLAGS}
    flags["processing_error"] = pair.record.processing_error != "none"
    days = pair.record.temporal_baseline_days
    quality = {flag: float(value) for flag, value in flags.items()}
    return information_score(quality, temporal_baseline=days, confidence=pair.record.confidence)


def _coherence(pair: Candidate) -> float:
    """Mean coherence where there is phase."""
    if pair.image is None or pair.coherence is None:
        what = "has no picture" if pair.image is None else "has no coherence"
        raise HephError(pair.name, what, "score by record or by quality")
    if pair.image.suffix != ".png":
        picture = read_picture(pair.image)
        return _known(mean_coherence(picture.channels[2], picture.valid), pair.coherence)
    image = phase.open_png(pair.image, str(pair.image))
    coherence = phase.read_coherence(
        pair.coherence.read_bytes(), (image.height, image.width), str(pair.coherence)
    )
    return _known(mean_coherence(coherence, has_data(image) & (coherence > 0)), pair.coherence)


def _known(mean: float | None, path: Path) -> float:
    if mean is None:
        raise HephError(str(path), "no valid coherence", "the picture is empty")
    return mean


def _quality_scorer(model: Path) -> Callable[[Candidate], float]:
    import torch

    from heph_vl.embed import on_best_device
    from heph_vl.models.heads import Heads

    heads = on_best_device(Heads.from_pretrained(model))

    def score(pair: Candidate) -> float:
        if pair.image is None:
            raise HephError(pair.name, "has no picture", "score by record")
        picture = read_picture(pair.image)
        found = heads.predict(torch.from_numpy(picture.channels), torch.from_numpy(picture.valid))
        return information_score(
            found.row(0)["quality"],
            mean_coherence=mean_coherence(picture.channels[2], picture.valid),
            temporal_baseline=(pair.secondary_date - pair.primary_date).days,
        )

    return score
