"""What trained models say of a split: scores, and the calibration fitted on it."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heph_vl.caption import NUM_SAMPLES, caption_rows
from heph_vl.data.labels import LABELS, SOFTMAX
from heph_vl.data.samples import read_row, whole
from heph_vl.data.transforms import collate, encoded
from heph_vl.embed import embed_images
from heph_vl.errors import HephError
from heph_vl.metrics.caption_facts import count_facts
from heph_vl.metrics.classification import auroc, average_precision
from heph_vl.metrics.fact_queries import build_suites
from heph_vl.metrics.retrieval import retrieval_metrics
from heph_vl.models.calibration import fit_classes, fit_labels
from heph_vl.models.captioner import Captioner
from heph_vl.models.consensus import Answer, choose
from heph_vl.models.gather import gather_objects, rank_and_world
from heph_vl.models.heads import Heads
from heph_vl.models.prediction import Calibration

FALSE_ALARMS = 0.01  # most of a captioner on images without deformation
BINS = 100  # thresholds of the probability of deformation in a pixel
_LEVELS = 256  # of that probability if the image deforms


def no_text(texts: list[str]) -> dict[str, Tensor]:
    """No tokens: facts of captions come as bits, their words are not read."""
    empty = torch.zeros(len(texts), 0, dtype=torch.int64)
    return {"input_ids": empty, "attention_mask": empty}


def suite_map(model: Any, rows: Any) -> dict[str, float]:
    """Mean average precision of a retriever over whole images.

    Args:
        model: A `models.retriever.Retriever` with its tokenizer, in any mode.
        rows: Dataset rows; those that cannot be read are left out.

    Returns:
        Of each suite of queries (`metrics.fact_queries`) by name.

    Raises:
        HephError: No row could be read.
    """
    embedded = embed_images(model, rows)
    texts = rows["caption"]
    scores = {}
    for suite in build_suites([texts[i] for i in embedded.positions]):
        queries = model.embed_texts(suite.texts).float().cpu().numpy()
        found = retrieval_metrics(queries @ embedded.vectors.T, suite.relevance)
        scores[suite.name] = found["mAP"]
    return scores


class Looked:
    """What a model says of whole images, beside the truth.

    Args:
        model: In any mode.
        rows: Dataset rows; those without any valid phase are counted and left out.

    Raises:
        HephError: No row has valid phase.
    """

    def __init__(self, model: Heads, rows: Any) -> None:
        images, rest = encoded(rows), rows.remove_columns(["image", "coherence", "mask"])
        self.counts = {"images": 0, "without_valid_phase": 0}
        # Pixels of each image: not deforming, deforming; by their probability if it deforms.
        pixels: list[NDArray[np.int64]] = []
        logits: dict[str, list[Tensor]] = {name: [] for name in LABELS}
        truth: dict[str, list[Tensor]] = {name: [] for name in LABELS}
        for image, row in zip(images, rest, strict=True):
            sample = whole(read_row(image), row, estimated=False)
            if not sample.phase_code.any():
                self.counts["without_valid_phase"] += 1
                continue
            self.counts["images"] += 1
            item = {"sample": sample, "text": "", "text_facts": sample.facts}
            batch = collate([item | {"fact_count": 1, "text_count": 1, "unique_id": 0}], no_text)
            seen = model.predict(batch["pixel_values"], batch["valid"])
            for name in LABELS:
                logits[name].append(torch.from_numpy(seen.logits[name]))
                truth[name].append(batch[name])
            if seen.mask_if_deforming is not None:
                level = (seen.mask_if_deforming * _LEVELS).astype(int).clip(0, _LEVELS - 1)
                cell = np.where(sample.mask > 0, _LEVELS, 0) + level
                pixels.append(np.bincount(cell.ravel(), minlength=2 * _LEVELS).reshape(2, -1))
        if not self.counts["images"]:
            raise HephError("validation split", "no valid phase in any image", "check the dataset")
        self.logits = {name: torch.stack(values) for name, values in logits.items()}
        self.truth = {name: torch.cat(values) for name, values in truth.items()}
        self.pixels = np.array(pixels).reshape(-1, 2, _LEVELS)  # N = 0 without masks

    def calibration(self) -> Calibration:
        """Temperatures, biases and thresholds of best F1; the masks' one of best IoU."""
        deforming = self.truth["deformation"]
        fitted: dict[str, Any] = {}
        for name, logits in self.logits.items():
            truth = self.truth[name]
            if name in SOFTMAX:
                fitted[name] = fit_classes(logits, truth)
            else:
                known = deforming if name == "intensities" else None
                fitted[name] = fit_labels(logits, truth.view(logits.shape), known)
        iou = self.iou()
        # A plateau's middle: the first of equals would lie at its edge.
        best = np.flatnonzero(iou >= iou.max() - 1e-9)
        threshold = float(best[len(best) // 2]) / BINS if iou.any() else 0.5
        return Calibration(**fitted, mask_threshold=threshold)

    def iou(self) -> NDArray[np.float64]:
        """(BINS,) IoU of deforming pixels of all images, for the thresholds k / BINS."""
        if not len(self.pixels):
            return np.zeros(BINS)
        # The image's own probability, calibrated, scales that of its pixels.
        logits, truth = self.logits["deformation"], self.truth["deformation"]
        fitted = fit_labels(logits, truth.view(logits.shape))
        image = fitted.logits(logits).sigmoid()[:, 0].double().numpy()
        level = image[:, None] * (np.arange(_LEVELS) + 0.5) / _LEVELS
        cell = (level * BINS).astype(int).clip(0, BINS - 1)
        sums = [
            np.bincount(cell.ravel(), side.ravel(), minlength=BINS)
            for side in self.pixels.swapaxes(0, 1)
        ]
        above = np.array(sums)[:, ::-1].cumsum(1)[:, ::-1]
        iou: NDArray[np.float64] = above[1] / np.maximum(above[0] + sums[1].sum(), 1)
        return iou

    def metrics(self) -> dict[str, float]:
        """Threshold-free scores, each left out where the images lack one side of it."""
        alone = np.ones((self.counts["images"], 1))

        def score(statistic: Any, name: str, column: int) -> float:
            truth = self.truth[name].view(self.logits[name].shape)[:, column].numpy()
            scores = self.logits[name][:, column].double().numpy()
            return float(statistic(truth, scores, alone)(np.ones((1, 1)))[0])

        types = [score(average_precision, "activity_types", k) for k in range(6)]
        found = {
            "val_deformation_auroc": score(auroc, "deformation", 0),
            "val_deformation_ap": score(average_precision, "deformation", 0),
            "val_activity_map": float(np.mean([v for v in types if not math.isnan(v)] or [np.nan])),
            "val_iou": float(self.iou().max()) if self.pixels[:, 1:].any() else np.nan,
        }
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def support(self) -> dict[str, int]:
        """Images of each activity type, so that a mean says what it is a mean of."""
        counts = self.truth["activity_types"].sum(0).tolist()
        return dict(zip(LABELS["activity_types"], counts, strict=True))


def caption_facts(model: Captioner, rows: Any) -> dict[str, float]:
    """How good a captioner's answers are over whole images, which the ranks share out.

    Args:
        model: With its tokenizer, in any mode.
        rows: Dataset rows; those that cannot be read are counted and left out.

    Returns:
        `fact_f1`, `deformation_f1`, `exact`, the number of `distinct` captions, `hallucination`
        (share of images without deformation that are given one), `miss` (of those with, none),
        as far as there are such images; how many `images` there are, and `left_out`. On every
        rank the same.

    Raises:
        HephError: No row could be read.
    """
    answers = _answers(model, rows)
    return _caption_scores(answers, rows, {i: answer.text for i, answer in answers.items()})


def fit_threshold(model: Captioner, rows: Any) -> dict[str, float]:
    """Set the threshold of a captioner, by whole images that it has not learnt from.

    Args:
        model: Its threshold becomes the lowest at which at most `FALSE_ALARMS` of the images
            without deformation are given one, but at most 1, which they may reach all the same;
            0.5 where there are none.
        rows: Dataset rows.

    Returns:
        The `threshold`, and what `caption_facts` gives with it: rates of the images that it was
        fitted on.

    Raises:
        HephError: No row could be read.
    """
    model.threshold = 0.5
    answers = _answers(model, rows)
    kinds = rows["activity_types"]
    still = sorted(answer.deformation for i, answer in answers.items() if not kinds[i])
    if still:
        highest = still[-1 - int(FALSE_ALARMS * len(still))]  # must not reach the threshold
        model.threshold = min(1.0, highest + 0.5 / NUM_SAMPLES)
    texts = {i: choose(answer.samples, model.threshold).text for i, answer in answers.items()}
    return {"threshold": model.threshold} | _caption_scores(answers, rows, texts)


def _answers(model: Captioner, rows: Any) -> dict[int, Answer]:
    """Answers of all ranks' images by position; each rank looks at its share."""
    rank, world = rank_and_world()
    own = range(rank, len(rows), world)
    found: dict[int, Answer] = {}
    problem: HephError | None = None
    try:
        captioned = caption_rows(model, rows.select(own))
        found = {own[i]: a for i, a in zip(captioned.positions, captioned.answers, strict=True)}
    except HephError as error:  # none of the share can be read: the others may have some
        problem = error
    answers = {i: a for part in gather_objects(found) for i, a in part.items()}
    if not answers:
        raise problem or HephError("images", "none could be read", "check the dataset")
    return dict(sorted(answers.items()))


def _caption_scores(
    answers: Mapping[int, Answer], rows: Any, texts: Mapping[int, str]
) -> dict[str, float]:
    kinds, references = rows["activity_types"], rows["caption"]
    deforms = np.array([bool(kinds[i]) for i in answers])
    counts = count_facts([references[i] for i in answers], [texts[i] for i in answers])
    found = {
        "fact_f1": counts.f1(),
        "deformation_f1": counts.f1("deformation"),
        "exact": float(counts.exact.mean()),
        "distinct": float(len(set(texts.values()))),
        "images": float(len(answers)),
        "left_out": float(len(rows) - len(answers)),
    }
    if not deforms.all():
        found["hallucination"] = float(counts.told[~deforms].mean())
    if deforms.any():
        found["miss"] = float((~counts.told[deforms]).mean())
    return found
