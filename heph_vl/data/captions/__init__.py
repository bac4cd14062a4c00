"""Captions as facts: text to facts, facts to text, and facts that move with their image.

    from heph_vl.data import captions

    facts = captions.parse("A sill-type deformation pattern of low intensity on the left side.")
    facts.atoms()  # ("deformation", "1", "sill"), ("deformation", "1", "at", "left"), ...
    captions.compose(facts)  # the same facts in the dataset's wording

`facts` holds the types and the algebra (entailment, mirror, fact dropout, arrays), `lexicon` the
words; `chunks` and `parser` read text, `writer` writes it, `agreement` compares two; `cropping`
tells what a crop of the image still shows.
"""

from heph_vl.data.captions.cropping import Crop, crop, region_box, shows
from heph_vl.data.captions.facts import (
    CELLS,
    INTENSITIES,
    MAX_PATTERNS,
    PATTERN_TYPES,
    REGIONS,
    SCENE_ATOMS,
    CaptionFacts,
    Pattern,
    decode,
    drop_facts,
    encode,
    entails,
    mirror,
)
from heph_vl.data.captions.parser import parse
from heph_vl.data.captions.writer import compose, fact_texts

__all__ = [
    "CELLS",
    "INTENSITIES",
    "MAX_PATTERNS",
    "PATTERN_TYPES",
    "REGIONS",
    "SCENE_ATOMS",
    "CaptionFacts",
    "Crop",
    "Pattern",
    "compose",
    "crop",
    "decode",
    "drop_facts",
    "encode",
    "entails",
    "fact_texts",
    "mirror",
    "parse",
    "region_box",
    "shows",
]
