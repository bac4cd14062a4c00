"""Facts to text, in the dataset's own wording.

Without a generator the wording is canonical: what the annotators write most often for these facts.
With one, it is drawn from their ways of saying it. Either way `parser.parse` reads back the facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from heph_vl.data.captions.facts import (
    INTENSITIES,
    PATTERN_TYPES,
    REGIONS,
    SCENE_ATOMS,
    CaptionFacts,
    Pattern,
    sort_regions,
)

T = TypeVar("T")
_Block = Callable[[bool], str]  # told whether it opens the caption

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
_HYPHENATED = ("mogi", "dyke", "sill", "spheroid")  # "sill-type", but "an earthquake"
_SIDES = {
    "top-left": ("top-left", "topmost-left", "top left", "upper left"),
    "top": ("top", "central-top", "upper-central", "top-central"),
    "top-right": ("top-right", "topmost-right", "top right", "upper right"),
    "left": ("left", "leftmost", "central-left", "wider left"),
    "center": ("central", "center", "wider central"),
    "right": ("right", "rightmost", "central-right", "wider right"),
    "bottom-left": ("bottom-left", "down-left", "bottom left", "lower left"),
    "bottom": ("bottom", "central-bottom", "wider bottom"),
    "bottom-right": ("bottom-right", "bottom right", "lower right"),
}
_FLAGS = {
    ("orbital_fringes",): (
        "Orbital fringes detected. Difficulties in extracting information.",
        "Orbital fringes detected on the wider area.",
        "Orbital fringes detected.",
    ),
    ("glacier_fringes",): (
        "Glacier fringes are detected on image.",
        "Glacier fringes can be detected.",
    ),
    ("image_artifacts",): (
        "Image artifacts are detected on image.",
        "An image artifact can be detected at the bottom of the image.",
    ),
    ("processing_error", "debursting"): (
        "The image has a processing error during the debursting step.",
        "A processing error related to the debursting step appears in the right sub-swath.",
        "A processing error related to the merging of burst is detected.",
    ),
    ("processing_error", "swath_merging"): (
        "The image has a processing error related to swath merging. Missing information.",
        "The image has a processing error related to swath merging.",
    ),
}


def compose(facts: CaptionFacts, rng: np.random.Generator | None = None) -> str:
    """A caption that states the facts; ``parse(compose(facts)) == facts``.

    Args:
        facts: Valid facts.
        rng: None for the canonical wording; otherwise the source of a random paraphrase
            (words, sentence forms and order of sentences vary, the order of patterns does not).

    Returns:
        English sentences; an empty string for empty facts.
    """
    voice = _Voice(rng)
    has = facts.scene.__contains__
    blocks: list[_Block] = []

    def say(*options: str) -> None:
        chosen = voice.pick(options)
        blocks.append(lambda first: chosen)

    if has(("corrupted",)):
        say("The image is corrupted.")
    blocks += _area_blocks(facts, voice)
    if has(("no_deformation",)):
        say("No deformation activity can be detected.", "There is no deformation activity.")
    if facts.patterns:
        blocks.append(lambda first: _patterns(facts.patterns, voice))
    if has(("long_temporal_baseline",)):
        say(_baseline(facts))
    if has(("low_atmospheric_impact",)):
        say("The atmospheric impact is low.", "The atmospheric impact is very low.")
    for atom, sentences in _FLAGS.items():
        if has(atom):
            say(*sentences)
    blocks = voice.shuffle(blocks)
    return " ".join(block(i == 0) for i, block in enumerate(blocks))


def fact_texts() -> list[str]:
    """A canonical text for each fact alone, so that a tokenizer knows a word for each."""
    scenes = [CaptionFacts(frozenset([atom])) for atom in SCENE_ATOMS]
    patterns = [
        CaptionFacts(patterns=(Pattern(kind, intensity, frozenset([region])),))
        for kind in PATTERN_TYPES
        for intensity in INTENSITIES
        for region in REGIONS
    ]
    return [compose(facts) for facts in scenes + patterns]


class _Voice:
    """Picks the first way of saying something, or a random one."""

    def __init__(self, generator: np.random.Generator | None) -> None:
        self.generator = generator

    def pick(self, options: Sequence[T]) -> T:
        if self.generator is None:
            return options[0]
        return options[int(self.generator.integers(len(options)))]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        if self.generator is None:
            return list(items)
        return [items[i] for i in self.generator.permutation(len(items))]

    def sometimes(self) -> bool:
        return self.generator is not None and self.generator.random() < 0.5


def _join(parts: Sequence[str]) -> str:
    """A list in words: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _place(regions: frozenset[str], voice: _Voice) -> str:
    """A place with its blank: " on the top and left side of the region"; "" for no regions."""
    if not regions:
        return ""
    sides = voice.shuffle(sort_regions(regions - {"everywhere", "high-altitude"}))
    parts = []
    if "everywhere" in regions:
        parts.append(voice.pick(("on the wider area of the region", "on the wider area")))
    if "high-altitude" in regions:
        parts.append(
            voice.pick(("on the high altitude areas of the region", "in high altitude areas"))
        )
    if sides:
        words = _join([voice.pick(_SIDES[side]) for side in sides])
        noun = voice.pick(("side of the region", "side of the image", "side of the area", "side"))
        parts.append(f"on the {words} {noun}")
        if len(sides) == 1 and not parts[:-1] and voice.sometimes():
            plain = {"center": "close to the center of the image"}
            parts[-1] = plain.get(sides[0], f"at the {sides[0]} of the image")
    return " " + " and ".join(parts)


def _area_blocks(facts: CaptionFacts, voice: _Voice) -> list[_Block]:
    """Sentences on noise and atmosphere: noise last without deformation, first with it."""
    effects = {atom[0] for atom in facts.scene}
    blocks: list[_Block] = []
    vertical, turbulent = "vertical_stratification", "turbulent_mixing"
    shared = facts.regions_of(vertical) == facts.regions_of(turbulent) != frozenset()
    everywhere = facts.regions_of(vertical) == {"everywhere"}
    if {vertical, turbulent} <= effects and shared and (everywhere or voice.sometimes()):
        place = " around the area" if everywhere else _place(facts.regions_of(vertical), voice)
        both = f"Vertical stratification and turbulent mixing effects can be detected{place}."
        blocks.append(lambda first: both)
    else:
        if vertical in effects:
            blocks.append(lambda first: _vertical(facts, voice, first))
        if turbulent in effects:
            blocks.append(lambda first: _turbulent(facts, voice, first))
    noise_told = ("long_temporal_baseline",) in facts.scene and not facts.regions_of("noise")
    if "no_information" in effects:
        noisy = "noise" in effects and not facts.regions_of("noise")
        bare = "The image is very noisy. " if noisy else ""
        blocks.append(lambda first: f"{bare}No information can be extracted.")
        noise_told |= noisy
    if "noise" in effects and not noise_told:
        at = 0 if facts.patterns else len(blocks)
        blocks.insert(at, lambda first: _noise(facts, voice, first))
    return blocks


def _verb(voice: _Voice, first: bool, plural: bool = False) -> str:
    options = ["can be detected", "are detected" if plural else "is detected"]
    if not first:
        options += ["can also be detected", "are also detected" if plural else "is also detected"]
    return voice.pick(options)


def _vertical(facts: CaptionFacts, voice: _Voice, first: bool) -> str:
    regions = facts.regions_of("vertical_stratification")
    if regions == {"high-altitude"} and not facts.patterns:
        subject = "Vertical stratification caused by atmospheric delays"
        return f"{subject} {_verb(voice, first)} in high altitude areas."
    subject = voice.pick(
        (
            "Vertical stratification effect",
            "Vertical stratification",
            "A vertical stratification effect",
        )
    )
    return f"{subject} {_verb(voice, first)}{_place(regions, voice)}."


def _turbulent(facts: CaptionFacts, voice: _Voice, first: bool) -> str:
    regions = facts.regions_of("turbulent_mixing")
    if regions == {"everywhere"} and not facts.patterns and not voice.sometimes():
        return (
            "Turbulent mixing effect or wave-like patterns caused by liquid and solid particles "
            "of the atmosphere can be detected around the area."
        )
    subject, plural = voice.pick(
        (
            ("Turbulent mixing effect", False),
            ("A turbulent mixing effect", False),
            ("A wave-like pattern caused by atmospheric delays", False),
            ("Wave-like patterns caused by atmospheric delays", True),
        )
    )
    return f"{subject} {_verb(voice, first, plural)}{_place(regions, voice)}."


def _noise(facts: CaptionFacts, voice: _Voice, first: bool) -> str:
    regions = facts.regions_of("noise")
    if not regions:
        also = "N" if first else "Also, n"
        return f"{also}oisy areas can be detected due to low coherence."
    subject, plural, cause = voice.pick(
        (
            ("Noise", False, ""),
            ("Noise caused by low coherence", False, ""),
            ("Noisy areas caused by low coherence", True, ""),
            ("Noisy areas", True, " due to low coherence"),
        )
    )
    return f"{subject} {_verb(voice, first, plural)}{_place(regions, voice)}{cause}."


def _baseline(facts: CaptionFacts) -> str:
    cause = "high temporal baseline between the two images"
    # Noise of a caption that extracts no information is told there.
    if ("noise",) not in facts.scene:
        return f"H{cause[1:]}."
    return f"There is noise{' in deformation zone' if facts.patterns else ''} due to {cause}."


def _patterns(patterns: Sequence[Pattern], voice: _Voice) -> str:
    """Sentences on the patterns: a joint one where they share a place, a group, or one each."""
    runs = _runs(patterns)
    typed = all(pattern.type != "unspecified" for pattern in patterns)
    placed = all(pattern.regions for pattern in patterns)
    if len(runs) > 1 and typed and placed:
        joint = len({pattern.regions for pattern in patterns}) == 1
        if joint and not voice.sometimes():
            names = [_name(p, n, i == 0, voice) for i, (p, n) in enumerate(runs)]
            place = _place(patterns[0].regions, voice)
            return _sentence(f"{_join(names)} {_verb(voice, True, True)}{place}")
        if len(patterns) < len(_NUMBERS) and not voice.sometimes():
            number = _NUMBERS[len(patterns)]
            told = [_name(p, n, False, voice) + _place(p.regions, voice) for p, n in runs]
            return _sentence(f"{number} deformation patterns can be detected") + (
                " " + _sentence(_join(told))
            )
    return " ".join(_own_sentence(pattern, n, voice) for pattern, n in runs)


def _runs(patterns: Sequence[Pattern]) -> list[tuple[Pattern, int]]:
    """Twins in a row, counted; not those of no type: "two patterns" would announce a group."""
    runs: list[tuple[Pattern, int]] = []
    for pattern in patterns:
        last, count = runs[-1] if runs else (None, 0)
        if pattern == last and pattern.type != "unspecified" and count < len(_NUMBERS) - 1:
            runs[-1] = (pattern, count + 1)
        else:
            runs.append((pattern, 1))
    return runs


def _own_sentence(pattern: Pattern, count: int, voice: _Voice) -> str:
    place = _place(pattern.regions, voice)
    if pattern.type == "unspecified" and pattern.intensity is not None:
        return f"{pattern.intensity.capitalize()} deformation activity can be detected{place}."
    terse = pattern.type in _HYPHENATED and count == 1 and voice.sometimes()
    name = _name(pattern, count, not terse, voice)
    return _sentence(f"{name} {_verb(voice, True, count > 1)}{place}")


def _name(pattern: Pattern, count: int, full: bool, voice: _Voice) -> str:
    """A noun phrase: "a sill-type deformation pattern of low intensity", "two dyke-type"."""
    kind = "" if pattern.type == "unspecified" else pattern.type
    kind += "-type" * (kind in _HYPHENATED)
    article = "an" if kind.startswith(("a", "e", "i", "o", "u")) else "a"
    number = _NUMBERS[count] if count > 1 else article
    # Only the first of several is called a pattern: a plural's intensity would hold for all.
    noun = f" deformation pattern{'s' * (count > 1)}" if full else ""
    if pattern.type == "earthquake" and full and count == 1 and voice.sometimes():
        kind, number, noun = "", "a", noun + " caused by an earthquake"
    level = f" of {pattern.intensity} intensity" if pattern.intensity else ""
    return " ".join(f"{number} {kind}{noun}{level}".split())


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
