"""Scores of captions, by words (`n_grams`) and facts (`caption_facts`), as `evaluate.Metric`.

from heph_vl.metrics.captioning import CiderD, FactScores
CiderD().compute(predictions=texts, references=captions, tokenization="words")
"""

from typing import Any

import datasets
import evaluate

from heph_vl.metrics.caption_facts import GROUPS, count_facts
from heph_vl.metrics.n_grams import N_GRAMS, n_gram_scores


def _info(description: str | None, citation: str) -> Any:
    features = {name: datasets.Value("string") for name in ("predictions", "references")}
    return evaluate.MetricInfo(
        description=description or "",
        citation=citation,
        inputs_description="predictions and references: one text each",
        features=datasets.Features(features),
    )


class _NGrams(evaluate.Metric):  # type: ignore[misc]
    name_of_score = ""
    citation_of_score = ""

    def _info(self) -> Any:
        return _info(N_GRAMS[self.name_of_score].__doc__, self.citation_of_score)

    def _compute(
        self, predictions: list[str], references: list[str], tokenization: str = "ptb"
    ) -> dict[str, Any]:
        found = n_gram_scores(references, predictions, tokenization, [self.name_of_score])
        return {**found.corpus, "tokenization": tokenization}


class Bleu(_NGrams):
    """BLEU-1 to 4."""

    name_of_score, citation_of_score = "bleu", "Papineni et al., 2002"


class RougeL(_NGrams):
    """ROUGE-L."""

    name_of_score, citation_of_score = "rouge_l", "Lin, 2004"


class Meteor(_NGrams):
    """METEOR by exact words and stems."""

    name_of_score, citation_of_score = "meteor", "Banerjee and Lavie, 2005"


class CiderD(_NGrams):
    """CIDEr-D."""

    name_of_score, citation_of_score = "cider_d", "Vedantam et al., 2015"


class FactScores(evaluate.Metric):  # type: ignore[misc]
    """Facts told and missed, overall and by kind, and false alarms.

    `compute` gives `<group>_precision`, `_recall` and `_f1` of each of `caption_facts.GROUPS`,
    `exact`, `distinct` and `distinct_references`, and, by whether the reference tells a
    deformation, `hallucination` and `miss`; None where there is nothing to take a share of.
    """

    def _info(self) -> Any:
        return _info(FactScores.__doc__, "")

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        counts = count_facts(references, predictions)
        found: dict[str, Any] = {}
        for group in GROUPS:
            wanted, said, right = (float(values.sum()) for values in counts.sums(group))
            name = group.replace(" ", "_")
            found[f"{name}_precision"] = right / said if said else None
            found[f"{name}_recall"] = right / wanted if wanted else None
            found[f"{name}_f1"] = 2 * right / (wanted + said) if wanted + said else None
        deforms = counts.wanted[:, 2:5].sum(1) > 0
        return found | {
            "exact": float(counts.exact.mean()),
            "distinct": len(set(predictions)),
            "distinct_references": len(set(references)),
            "hallucination": _share(counts.told[~deforms]),
            "miss": _share(~counts.told[deforms]),
        }


def _share(flags: Any) -> float | None:
    return float(flags.mean()) if len(flags) else None
