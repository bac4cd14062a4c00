"""Writes pycocoevalcap_values.json: what the reference implementation says of some captions.

    pip install pycocoevalcap==1.2    # in an environment of its own; its tokenizer needs Java
    python tests/metrics/make_pycocoevalcap_values.py

`ptb` are the words of its PTBTokenizer, `words` letters and digits alone.
"""

import json
import re
from pathlib import Path
from typing import Any

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

# Reference and caption: equal, one word off, longer, shorter, of other words, and repeating itself.
PAIRS = (
    (
        "Turbulent mixing effect can be detected around the area. "
        "No deformation activity can be detected. ",
        "Turbulent mixing effect can be detected around the area. "
        "No deformation activity can be detected.",
    ),
    (
        "A sill-type deformation pattern of low intensity can be detected on the left side.",
        "A sill-type deformation pattern of high intensity can be detected on the left side.",
    ),
    (
        "Vertical stratification can be detected on high-altitude areas.",
        "Vertical stratification can be detected on high-altitude areas. A mogi-type deformation "
        "pattern of medium intensity can be detected on the bottom-right side of the image.",
    ),
    (
        "Noise can be detected on the top-left, top and left side of the region. Two deformation "
        "patterns can be detected: a sill-type on the right and a dyke-type on the left.",
        "Noise can be detected on the left side of the region.",
    ),
    ("The image is corrupted.", "Orbital fringes, glacier fringes; image artifacts!"),
    (
        "There is a processing error, swath merging, in the image.",
        "A debursting processing error can be detected.",
    ),
    (
        "Low coherence; no information.",
        "noise noise noise can be detected on the on the on the left left side",
    ),
    (
        "An Earthquake-type pattern WAS detected on the top-right side of the region.",
        "an earthquake-type pattern was detected, on the top-right side, of the region",
    ),
    (
        "The long temporal baseline, 12 days or 1 year, blurs everything.",
        "The long temporal-baseline, 12 days or 2 years, blurs nothing?",
    ),
    (
        "No deformation activity can be detected.",
        "Detected be can activity deformation no.",
    ),
    (
        "Turbulent mixing effect and vertical stratification can be detected on the wider area.",
        "Vertical stratification and turbulent mixing effect can be detected on the wider area.",
    ),
    (
        "A spheroid-type deformation pattern -- of low-to-medium intensity -- near the center.",
        "Glacier",
    ),
)


def main() -> None:
    """Tokenize, score and write, beside this file."""
    texts = {
        "references": [reference for reference, _ in PAIRS],
        "texts": [text for _, text in PAIRS],
    }
    values: dict[str, Any] = dict(texts)
    for cut in ("ptb", "words"):
        words = {side: _cut(of, cut) for side, of in texts.items()}
        scored = [{i: [text] for i, text in enumerate(of)} for of in words.values()]
        bleu, _ = Bleu(4).compute_score(*scored, verbose=0)
        rouge, each_rouge = Rouge().compute_score(*scored)
        cider, each_cider = Cider().compute_score(*scored)
        corpus = {f"bleu_{n}": value for n, value in enumerate(bleu, 1)}
        corpus |= {"rouge_l": float(rouge), "cider_d": float(cider)}
        each = {"rouge_l": each_rouge.tolist(), "cider_d": each_cider.tolist()}
        values[cut] = words | {"corpus": corpus, "each": each}
    path = Path(__file__).with_name("pycocoevalcap_values.json")
    path.write_text(json.dumps(values, indent=1) + "\n")


def _cut(texts: list[str], how: str) -> list[str]:
    if how == "words":
        return [" ".join(re.findall("[a-z0-9]+", text.lower())) for text in texts]
    found = PTBTokenizer().tokenize({i: [{"caption": t}] for i, t in enumerate(texts)})
    return [found[i][0] for i in range(len(texts))]


if __name__ == "__main__":
    main()
