"""Scores of captions on a dataset split, ours or anyone's; used by `eval/evaluate.py`.

Beside them always the commonest caption of the training split (constant) and the true facts in
canonical words; where an encoder is at hand the caption of the nearest training image (neighbour),
and where labels and masks are, their facts in words (heads).
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heph_vl.data import captions
from heph_vl.data.captions.agreement import agreeing
from heph_vl.data.captions.from_labels import facts_from_labels
from heph_vl.errors import HephError
from heph_vl.metrics.bootstrap import Clusters, Floats, Statistic, clusters, group_weights
from heph_vl.metrics.caption_facts import GROUPS, FactCounts, count_facts, ratio
from heph_vl.metrics.caption_predictions import (
    CaptionPredictions,
    caption_line,
    write_caption_predictions,
)
from heph_vl.metrics.classification import auroc, plain_value
from heph_vl.metrics.n_grams import TOKENIZATIONS, n_gram_scores
from heph_vl.metrics.predictions import Gallery

Progress = Callable[[int, int], None]
Texts = Mapping[str, Sequence[str]]
MODEL, CONSTANT = "model", "constant"
SIDES = ("all", "deformation", "none")
PARTED = ("rouge_l", "meteor", "cider_d")  # means over texts
COMPARED = (CONSTANT, "neighbour", "heads")  # with these the model's differences have intervals


@dataclass(frozen=True)
class CaptionSettings:
    """What intervals depend on.

    Args:
        seed: Of the draws.
        num_draws: Resamples of the volcano groups.
    """

    seed: int = 0
    num_draws: int = 2000


def predict_captions(
    model: Any, rows: Any, gallery: Gallery, folder: Path | None, progress: Progress, **how: int
) -> tuple[CaptionPredictions, npt.NDArray[np.float32]]:
    """Captions by a saved captioner.

    Args:
        model: A `models.captioner.Captioner`.
        rows: The dataset split.
        gallery: Its columns.
        folder: Gets `predictions.jsonl`, if given.
        progress: Called with images done and of all.
        **how: `num_samples` and `num_beams` of `Captioner.answer`.

    Returns:
        The captions, and what the encoder saw of each image (n, D).
    """
    from heph_vl.caption import caption_rows

    found = caption_rows(model, rows, progress=progress, **how)
    if folder is not None:
        lines = [
            caption_line(gallery.unique_ids[i], a.text, a.confidence, a.deformation)
            for i, a in zip(found.positions, found.answers, strict=True)
        ]
        write_caption_predictions(folder, lines)
    predictions = CaptionPredictions(
        found.positions,
        [answer.text for answer in found.answers],
        [answer.confidence for answer in found.answers],
        [answer.deformation for answer in found.answers],
        {"model_id": model.model_id, "threshold": model.threshold, **how},
        [str(problem) for problem in found.problems],
    )
    return predictions, found.pooled


def neighbour_captions(
    pooled: npt.NDArray[np.float32], train: npt.NDArray[np.float32], texts: Sequence[str]
) -> list[str]:
    """The caption of the training image that is nearest by cosine, less the training mean.

    Args:
        pooled: (n, D) of the images.
        train: (m, D) of the training images.
        texts: m captions.

    Returns:
        n captions.
    """
    mean = train.mean(0)
    unit = [
        (x - mean) / np.linalg.norm(x - mean, axis=1, keepdims=True).clip(1e-9)
        for x in (pooled, train)
    ]
    return [texts[int(i)] for i in (unit[0] @ unit[1].T).argmax(1)]


def heads_captions(
    path: Path, rows: Any, positions: Sequence[int]
) -> tuple[list[str], dict[str, Any]]:
    """What labels and masks say, in canonical words, by their own thresholds but for flags.

    A flag is told from 0.5 on: thresholds fitted to find what is rare tell it nearly everywhere
    (`weights/heads` on validation: captions with exactly the true facts 0.047 with them, 0.566 so).

    Args:
        path: `predictions.jsonl` of labels, with masks.
        rows: The dataset split.
        positions: Of the images that are asked for.

    Returns:
        A caption for each position; and path and sha256 of the file.

    Raises:
        HephError: An image or a task is missing, or the file or a mask is broken.
    """
    from heph_vl.data.labels import LABELS
    from heph_vl.metrics.label_predictions import read_label_predictions, read_labels, read_mask

    labels, wanted = read_labels(rows), set(positions)
    others = {uid: "not asked" for i, uid in enumerate(labels.unique_ids) if i not in wanted}
    found = read_label_predictions(path, labels, others)
    if found.masks is None or "deformation" not in found.probabilities:
        raise HephError(str(path), "no deformation or no masks", "give labels and masks")
    limits: dict[str, Any] = {
        task: dict(zip(LABELS[task], values.tolist(), strict=True))
        for task, values in found.thresholds.items()
        if task != "quality"
    }
    limits["deformation"] = limits["deformation"]["deformation"]
    texts = []
    for i, mask in enumerate(found.masks):
        said: dict[str, Any] = {
            task: dict(zip(LABELS[task], values[i].tolist(), strict=True))
            for task, values in found.probabilities.items()
        }
        said["deformation"] = said["deformation"]["deformation"]
        texts.append(captions.compose(facts_from_labels(said, read_mask(mask), limits)))
    return texts, {"path": str(path), "sha256": found.about["predictions_sha256"]}


def commonest(texts: Sequence[str]) -> str:
    """The commonest caption; of equally common ones the first in the alphabet."""
    counts = Counter(" ".join(text.split()) for text in texts)
    return min(counts, key=lambda text: (-counts[text], text))


def score_captions(
    gallery: Gallery,
    predictions: CaptionPredictions,
    deforms: Sequence[bool],
    others: Texts,
    settings: CaptionSettings,
    *,
    split: str,
) -> dict[str, Any]:
    """Everything of `results.json` that depends on the captions.

    Args:
        gallery: The whole split.
        predictions: Of its readable images.
        deforms: Of each image of the split, whether its labels tell a deformation.
        others: Captions of the readable images by each baseline.
        settings: Seed and number of draws.
        split: Name of the split.

    Returns:
        `task`, `split`, `sides` (all images, those with and without deformation; of each its
        metrics by system), `deformation_auroc`, `confidence`, `commonest` (caption of each
        system), `settings`.
    """
    started = time.perf_counter()
    kept = np.array(predictions.positions)
    readable = gallery.take(predictions.positions)
    truth = np.array(deforms, dtype=bool)[kept]
    systems = {MODEL: predictions.texts, **others}
    systems["true facts"] = [captions.compose(captions.parse(c)) for c in readable.captions]
    counts = {name: count_facts(readable.captions, texts) for name, texts in systems.items()}
    grams = {
        cut: {name: n_gram_scores(readable.captions, t, cut, PARTED) for name, t in systems.items()}
        for cut in TOKENIZATIONS
    }
    sides: dict[str, Any] = {}
    for side, members in zip(SIDES, (np.ones_like(truth), truth, ~truth), strict=True):
        if not members.any():
            sides[side] = {"images": 0}
            continue
        groups = [group for group, inside in zip(readable.groups, members, strict=True) if inside]
        membership = np.eye(len(groups), dtype=bool)
        drawn = clusters(
            *group_weights(membership, groups), seed=settings.seed, num_draws=settings.num_draws
        )
        metrics = _facts({name: c.of(members) for name, c in counts.items()}, drawn, side)
        for cut, scored in grams.items():
            # Document frequencies are those of all images; BLEU is of a side's texts together.
            each = {
                name: {metric: values[members] for metric, values in s.each.items()}
                for name, s in scored.items()
            }
            for metric in PARTED:
                found = {name: drawn.mean(values[metric]) for name, values in each.items()}
                metrics[f"{metric}_{cut}"] = _compared(found, drawn)
            for name, texts in systems.items():
                pairs = [
                    [t for t, inside in zip(of, members, strict=True) if inside]
                    for of in (readable.captions, texts)
                ]
                for metric, value in n_gram_scores(*pairs, cut, ["bleu"]).corpus.items():
                    entry = metrics.setdefault(f"{metric}_{cut}", {"systems": {}})
                    entry["systems"][name] = {"value": value, "interval": None}
        references = [c for c, inside in zip(readable.captions, members, strict=True) if inside]
        distinct = {
            name: len({t for t, inside in zip(texts, members, strict=True) if inside})
            for name, texts in systems.items()
        }
        sides[side] = {
            "images": int(members.sum()),
            "groups": len(set(groups)),
            "metrics": metrics,
            "distinct": distinct | {"references": len({" ".join(r.split()) for r in references})},
        }
    return {
        "task": "captions",
        **predictions.about,
        "split": {
            "name": split,
            "sha256": gallery.sha256,
            "images": len(gallery.unique_ids),
            "groups": len(set(gallery.groups)),
            "sources": dict(Counter(gallery.sources)),
            "unreadable": predictions.unreadable,
        },
        "sides": sides,
        "deformation_auroc": _auroc(truth, predictions.deformation),
        "confidence": _confidence(readable.captions, predictions),
        "commonest": {name: commonest(texts) for name, texts in systems.items()},
        "settings": asdict(settings),
        "scoring_seconds": round(time.perf_counter() - started, 2),
    }


def _facts(counts: Mapping[str, FactCounts], drawn: Clusters, side: str) -> dict[str, Any]:
    """Facts, exact captions, and false alarms or misses."""
    members = drawn.members
    metrics: dict[str, Any] = {}
    for group in GROUPS:
        if not next(iter(counts.values())).sums(group)[0].any():
            continue  # no reference tells any: nothing to find
        sums = {name: c.sums(group) for name, c in counts.items()}
        name = "fact" if group == "all" else group.replace(" ", "_")
        metrics[f"{name}_precision"] = _compared(
            {n: ratio(members, right, said) for n, (_, said, right) in sums.items()}, drawn
        )
        metrics[f"{name}_recall"] = _compared(
            {n: ratio(members, right, wanted) for n, (wanted, _, right) in sums.items()}, drawn
        )
        metrics[f"{name}_f1"] = _compared(
            {
                n: ratio(members, 2 * right, wanted + said)
                for n, (wanted, said, right) in sums.items()
            },
            drawn,
        )
    as_float: dict[str, dict[str, Floats]] = {
        "exact": {n: c.exact * 1.0 for n, c in counts.items()}
    }
    if side == "none":
        as_float["hallucination"] = {n: c.told * 1.0 for n, c in counts.items()}
    if side == "deformation":
        as_float["miss"] = {n: ~c.told * 1.0 for n, c in counts.items()}
    for name, values in as_float.items():
        metrics[name] = _compared({n: drawn.mean(v) for n, v in values.items()}, drawn)
    return metrics


def _compared(statistics: Mapping[str, Statistic], drawn: Clusters) -> dict[str, Any]:
    """Each system's estimate, and the model's differences from the baselines."""
    found: dict[str, Any] = {
        "systems": {name: drawn.estimate(statistic) for name, statistic in statistics.items()}
    }
    for name in COMPARED:
        if name in statistics:
            found[f"minus_{name}"] = drawn.difference(statistics[MODEL], statistics[name])
    return found


def _confidence(
    references: Sequence[str], predictions: CaptionPredictions
) -> dict[str, Any] | None:
    """Whether confident facts are true: of all that are told, and of those on deformation."""
    if predictions.confidence is None:
        return None
    told: dict[str, list[tuple[float, bool]]] = {"all": [], "deformation": []}
    for reference, text, sure in zip(
        references, predictions.texts, predictions.confidence, strict=True
    ):
        facts = captions.parse(text)
        right = agreeing(facts, captions.parse(reference))
        for atom, p in sure.items():
            told["all"].append((p, atom in right))
            if atom[0] == "deformation":
                told["deformation"].append((p, atom in right))
    return {name: _reliability(pairs) for name, pairs in told.items() if pairs}


def _auroc(truth: npt.NDArray[np.bool_], said: Sequence[float] | None) -> float | None:
    """Of how sure it is that anything deforms, against the labels."""
    if said is None:
        return None
    return plain_value(auroc, truth, np.array(said, dtype=np.float64))


def _reliability(pairs: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    p, right = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    edges = np.array([0.25, 0.5, 0.75])
    bins = np.digitize(p, edges)
    rows = [
        {"facts": int((bins == i).sum()), "mean": float(p[bins == i].mean()),
         "right": float(right[bins == i].mean())}
        for i in range(len(edges) + 1)
        if (bins == i).any()
    ]  # fmt: skip
    error = sum(row["facts"] * abs(row["mean"] - row["right"]) for row in rows) / len(p)
    both = 0 < right.sum() < len(right)
    return {
        "facts": len(p),
        "right": float(right.mean()),
        "auroc": plain_value(auroc, right, p) if both else None,
        "ece": error,
        "quarters": rows,
    }


def caption_tables(results: dict[str, Any]) -> list[Any]:
    """Rich tables: one for each side, and one of the confidences.

    Args:
        results: Of `score_captions`, made ready for JSON.

    Returns:
        Tables.
    """
    from rich.box import SIMPLE
    from rich.table import Table

    found = []
    for side, scored in results["sides"].items():
        if not scored["images"]:
            continue
        systems = list(next(iter(scored["metrics"].values()))["systems"])
        what = {"all": "images", "none": "images without deformation"}
        title = f"{scored['images']} {what.get(side, 'images with deformation')}"
        table = Table(
            title=f"{title}, {scored['groups']} volcano groups",
            title_justify="left",
            title_style="bold",
            box=SIMPLE,
            pad_edge=False,
        )
        against = next((name for name in COMPARED[::-1] if name in systems), CONSTANT)
        for heading in ("", MODEL, "95 %", *systems[1:], f"- {against}", "95 %"):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for metric, entry in scored["metrics"].items():
            if metric.endswith(("_precision", "_recall")) and not metric.startswith("fact"):
                continue  # of each kind, in the JSON
            values = entry["systems"]
            gain = entry.get(f"minus_{against}", {"value": None, "interval": None})
            table.add_row(
                metric,
                _number(values[MODEL]["value"]),
                _interval(values[MODEL]["interval"]),
                *(_number(values[name]["value"]) for name in systems[1:]),
                _number(gain["value"], "+"),
                _interval(gain["interval"], "+"),
            )
        distinct = scored["distinct"]
        counts = [str(distinct[name]) for name in systems[1:]]
        table.add_row("distinct captions", str(distinct[MODEL]), "", *counts)
        table.caption = f"references: {distinct['references']} distinct captions"
        table.caption_justify = "left"
        found.append(table)
    if results["confidence"]:
        table = Table(
            title="confidence of facts", title_justify="left", title_style="bold", box=SIMPLE
        )
        for heading in ("", "facts", "right", "AUROC", "ECE", "right by quarter of confidence"):
            table.add_column(heading, justify="right" if heading else "left")
        for name, one in results["confidence"].items():
            rows = [f"{_number(row['right'])} of {row['facts']}" for row in one["quarters"]]
            numbers = [_number(one[key]) for key in ("right", "auroc", "ece")]
            table.add_row(name, str(one["facts"]), *numbers, ", ".join(rows))
        found.append(table)
    return found


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def _interval(interval: list[float] | None, sign: str = "") -> str:
    return "-" if interval is None else " to ".join(_number(edge, sign) for edge in interval)
