"""Captions scored word by word.

BLEU-1 to 4, ROUGE-L and CIDEr-D are those of `aac_metrics`, equal to pycocoevalcap's. METEOR
matches exact words and stems only (nltk; synonyms need WordNet, which is a download), so that it is
lower than the usual one. There are two ways to cut a text into words, and CIDEr-D may differ by a
factor of two between them: every table must say which it is of.

    ptb      as PTBTokenizer of pycocoevalcap does on such texts, without Java: "sill-type" is one
             word, punctuation is left out
    words    letters and digits: "sill-type" is two words

A hyphen with blanks beside it, as decoders of pieces write it, is read as one without in both.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heph_vl.errors import HephError
from heph_vl.metrics.bootstrap import Floats

_PTB = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_WORDS = re.compile(r"[^\W_]+")
TOKENIZATIONS: dict[str, re.Pattern[str]] = {"ptb": _PTB, "words": _WORDS}


@dataclass(frozen=True)
class NGramScores:
    """Scores of N texts.

    Attributes:
        corpus: Of all texts together, by name.
        each: (N,) float64 of each text by name; their mean is the corpus's. None for BLEU.
    """

    corpus: dict[str, float]
    each: dict[str, Floats] = field(default_factory=dict)


def words_of(text: str, tokenization: str) -> str:
    """The words of a text with a blank between them.

    Args:
        text: Any.
        tokenization: One of `TOKENIZATIONS`.

    Returns:
        In lower case.

    Raises:
        HephError: Another tokenization.
    """
    if tokenization not in TOKENIZATIONS:
        fix = f"use {' or '.join(TOKENIZATIONS)}"
        raise HephError("tokenization", f"{tokenization!r} is none", fix)
    joined = re.sub(r"(?<=\w) *[-\u2010\u2011\u2013] *(?=\w)", "-", text.lower())
    return " ".join(TOKENIZATIONS[tokenization].findall(joined))


def bleu(references: Sequence[str], texts: Sequence[str]) -> NGramScores:
    """BLEU-1 to 4 of texts cut into words, one reference each (Papineni et al., 2002)."""
    from aac_metrics.functional.bleu import bleu as aac_bleu

    found: Any = {}
    for n in range(1, 5):
        found |= aac_bleu(list(texts), [[r] for r in references], n=n, tokenizer=str.split)[0]
    return NGramScores({name: float(value) for name, value in found.items()})


def rouge_l(references: Sequence[str], texts: Sequence[str]) -> NGramScores:
    """ROUGE-L, beta 1.2, of texts cut into words, one reference each (Lin, 2004)."""
    from aac_metrics.functional.rouge_l import rouge_l as aac_rouge_l

    # A reference without any word has nothing in common with any text: so has a sign.
    found: Any = aac_rouge_l(list(texts), [[r or "-"] for r in references], tokenizer=str.split)
    return _of_each("rouge_l", found[1]["rouge_l"].numpy())


def cider_d(references: Sequence[str], texts: Sequence[str]) -> NGramScores:
    """CIDEr-D of texts cut into words, one reference each (Vedantam et al., 2015).

    Document frequencies are those of the references: scores of other sets are not comparable, and
    of a single text there is none (NaN).
    """
    if len(texts) < 2:
        return _of_each("cider_d", np.full(len(texts), np.nan))
    from aac_metrics.functional.cider_d import cider_d as aac_cider_d

    found: Any = aac_cider_d(list(texts), [[r] for r in references], tokenizer=str.split)
    return _of_each("cider_d", found[1]["cider_d"].numpy())


def meteor(references: Sequence[str], texts: Sequence[str]) -> NGramScores:
    """METEOR by exact words and stems, no synonyms (Banerjee and Lavie, 2005; nltk's weights)."""
    from nltk.translate.meteor_score import single_meteor_score

    pairs = zip(references, texts, strict=True)
    none: Any = _NoSynonyms()
    found = [single_meteor_score(r.split(), t.split(), wordnet=none) for r, t in pairs]
    return _of_each("meteor", np.array(found, dtype=np.float64))


N_GRAMS: dict[str, Callable[[Sequence[str], Sequence[str]], NGramScores]] = {
    "bleu": bleu,
    "rouge_l": rouge_l,
    "meteor": meteor,
    "cider_d": cider_d,
}


def n_gram_scores(
    references: Sequence[str],
    texts: Sequence[str],
    tokenization: str,
    names: Sequence[str] = tuple(N_GRAMS),
) -> NGramScores:
    """Several at once.

    Args:
        references: N.
        texts: N captions, in the same order.
        tokenization: One of `TOKENIZATIONS`.
        names: Of `N_GRAMS`.

    Returns:
        Of all names `bleu_1` to `bleu_4`, `rouge_l`, `meteor`, `cider_d`.
    """
    cut = [[words_of(text, tokenization) for text in side] for side in (references, texts)]
    parts = [N_GRAMS[name](*cut) for name in names]
    return NGramScores(
        {name: value for part in parts for name, value in part.corpus.items()},
        {name: values for part in parts for name, values in part.each.items()},
    )


class _NoSynonyms:
    def synsets(self, word: str) -> list[Any]:
        """None: exact words and stems were matched before."""
        return []


def _of_each(name: str, values: Floats) -> NGramScores:
    return NGramScores({name: float(values.mean())}, {name: values})
