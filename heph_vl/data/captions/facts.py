"""Facts of a caption: scene atoms and deformation patterns, and the algebra on them.

Valid facts: every scene atom is in `SCENE_ATOMS`; an atom with a region comes with the one without
it (added when missing); a pattern's type, intensity and regions are in the vocabularies below;
`no_deformation` excludes patterns. Anything else raises ValueError. The order of the patterns is
the order of mention and is part of the facts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from heph_vl.data.annotations import ACTIVITY_TYPES
from heph_vl.data.annotations import INTENSITIES as INTENSITIES

Atom = tuple[str, ...]

# Row by row over the 3 x 3 grid; the order is the bit position in an encoded region mask.
CELLS = (
    "top-left", "top", "top-right",
    "left", "center", "right",
    "bottom-left", "bottom", "bottom-right",
)  # fmt: skip
REGIONS = (*CELLS, "everywhere", "high-altitude")
PATTERN_TYPES = (*ACTIVITY_TYPES, "unspecified")
AREA_EFFECTS = ("noise", "vertical_stratification", "turbulent_mixing")
PROCESSING_ERRORS = ("debursting", "swath_merging")
MAX_PATTERNS = 4  # the most that any real caption names, and what `encode` has room for


def _scene_atoms() -> tuple[Atom, ...]:
    atoms: list[Atom] = [("corrupted",), ("no_information",)]
    for effect in AREA_EFFECTS:
        atoms += [(effect,), *((effect, region) for region in REGIONS)]
    atoms += [("low_atmospheric_impact",), ("orbital_fringes",), ("glacier_fringes",)]
    atoms += [("processing_error", kind) for kind in PROCESSING_ERRORS]
    return (*atoms, ("image_artifacts",), ("long_temporal_baseline",), ("no_deformation",))


SCENE_ATOMS: tuple[Atom, ...] = _scene_atoms()
_SCENE_INDEX = {atom: i for i, atom in enumerate(SCENE_ATOMS)}
_MIRRORED = {
    region: region.replace("left", "*").replace("right", "left").replace("*", "right")
    for region in REGIONS
}


@dataclass(frozen=True)
class Pattern:
    """One deformation pattern as the caption tells it.

    Args:
        type: One of `PATTERN_TYPES`.
        intensity: One of `INTENSITIES`, or None where the caption names none.
        regions: Places named for it, of `REGIONS`.
    """

    type: str
    intensity: str | None = None
    regions: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.type not in PATTERN_TYPES:
            raise ValueError(f"pattern type {self.type!r} is not one of {PATTERN_TYPES}")
        if self.intensity is not None and self.intensity not in INTENSITIES:
            raise ValueError(f"pattern intensity {self.intensity!r} is not one of {INTENSITIES}")
        unknown = self.regions - set(REGIONS)
        if unknown:
            raise ValueError(f"pattern regions {sorted(unknown)} are not among {REGIONS}")


@dataclass(frozen=True)
class CaptionFacts:
    """What a caption says.

    Args:
        scene: Atoms about the whole scene, of `SCENE_ATOMS`; base atoms are added to regional ones.
        patterns: Deformation patterns in order of mention.
        unexplained: Words of the text that the parser could not explain; not part of equality.

    Raises:
        ValueError: For atoms outside the vocabulary, or patterns beside `no_deformation`.
    """

    scene: frozenset[Atom] = frozenset()
    patterns: tuple[Pattern, ...] = ()
    unexplained: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        unknown = self.scene - _SCENE_INDEX.keys()
        if unknown:
            raise ValueError(f"scene atoms {sorted(unknown)} are not in SCENE_ATOMS")
        if self.patterns and ("no_deformation",) in self.scene:
            raise ValueError(f"no_deformation contradicts the patterns {self.patterns}")
        bases = {atom[:1] for atom in self.scene if atom[0] in AREA_EFFECTS}
        object.__setattr__(self, "scene", frozenset(self.scene | bases))

    def atoms(self) -> frozenset[Atom]:
        """All facts as flat atoms; the i-th pattern in order of mention is numbered from "1"."""
        atoms: set[Atom] = set(self.scene)
        for i, pattern in enumerate(self.patterns, start=1):
            atoms.add(("deformation", str(i), pattern.type))
            if pattern.intensity is not None:
                atoms.add(("deformation", str(i), "intensity", pattern.intensity))
            atoms.update(("deformation", str(i), "at", region) for region in pattern.regions)
        return frozenset(atoms)

    @property
    def key(self) -> Hashable:
        """Equal for equal fact sets, whatever the order of mention."""
        return self.scene, frozenset(Counter(self.patterns).items())

    def regions_of(self, effect: str) -> frozenset[str]:
        """Regions named for an area effect, e.g. ``"noise"``."""
        return frozenset(a[1] for a in self.scene if a[0] == effect and len(a) == 2)


def sort_regions(regions: Iterable[str]) -> list[str]:
    """Regions in the order of `REGIONS`."""
    return sorted(regions, key=REGIONS.index)


def mirror(facts: CaptionFacts) -> CaptionFacts:
    """Facts of the image flipped east-west: left and right trade places."""
    scene = frozenset(
        (atom[0], _MIRRORED[atom[1]]) if atom[0] in AREA_EFFECTS and len(atom) == 2 else atom
        for atom in facts.scene
    )
    patterns = tuple(
        replace(p, regions=frozenset(_MIRRORED[r] for r in p.regions)) for p in facts.patterns
    )
    return CaptionFacts(scene, patterns, facts.unexplained)


def encode(facts: CaptionFacts) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Facts as arrays, for the loss.

    Patterns beyond the first `MAX_PATTERNS` are left out: what remains is still true of the image.

    Args:
        facts: Valid facts.

    Returns:
        scene: (46,) bool over `SCENE_ATOMS`.
        patterns: (4, 3) int64: index in `PATTERN_TYPES`, index in `INTENSITIES` or -1, bit mask
            over `REGIONS` (bit i = region i). A row without pattern is (-1, -1, 0).
    """
    scene = np.zeros(len(SCENE_ATOMS), dtype=np.bool_)
    scene[[_SCENE_INDEX[atom] for atom in facts.scene]] = True
    patterns = np.tile(np.array([-1, -1, 0], dtype=np.int64), (MAX_PATTERNS, 1))
    for row, pattern in zip(patterns, facts.patterns, strict=False):
        intensity = -1 if pattern.intensity is None else INTENSITIES.index(pattern.intensity)
        mask = sum(1 << REGIONS.index(region) for region in pattern.regions)
        row[:] = PATTERN_TYPES.index(pattern.type), intensity, mask
    return scene, patterns


def decode(scene: npt.NDArray[np.bool_], patterns: npt.NDArray[np.int64]) -> CaptionFacts:
    """Facts from the arrays of `encode`.

    Args:
        scene: (46,) bool over `SCENE_ATOMS`.
        patterns: (P, 3) int64 as `encode` gives them.

    Returns:
        The facts.

    Raises:
        ValueError: For a wrong shape, or facts that are not valid.
    """
    if scene.shape != (len(SCENE_ATOMS),) or patterns.ndim != 2 or patterns.shape[1] != 3:
        raise ValueError(
            f"scene {scene.shape} and patterns {patterns.shape} must be ({len(SCENE_ATOMS)},) "
            "and (P, 3)"
        )
    atoms = frozenset(SCENE_ATOMS[i] for i in np.flatnonzero(scene))
    found = tuple(
        Pattern(
            PATTERN_TYPES[type_index],
            None if intensity_index < 0 else INTENSITIES[intensity_index],
            frozenset(region for i, region in enumerate(REGIONS) if mask >> i & 1),
        )
        for type_index, intensity_index, mask in patterns.tolist()
        if type_index >= 0
    )
    return CaptionFacts(atoms, found)


def entails(image_facts: CaptionFacts, text_facts: CaptionFacts) -> bool:
    """Whether everything the text says is among the image's facts.

    The scene atoms of the text must be among the image's, and its patterns assignable to distinct
    patterns of the image that have every attribute stated; a text type "unspecified" states no
    type. The slow reference of the contrastive loss's positives: all assignments are tried.

    Args:
        image_facts: Facts of the image.
        text_facts: Facts of the text.

    Returns:
        True where the text is true of the image as far as the facts go.
    """
    if not text_facts.scene <= image_facts.scene:
        return False
    return any(
        all(map(_pattern_entails, chosen, text_facts.patterns))
        for chosen in permutations(image_facts.patterns, len(text_facts.patterns))
    )


def _pattern_entails(image: Pattern, text: Pattern) -> bool:
    return (
        text.type in ("unspecified", image.type)
        and text.intensity in (None, image.intensity)
        and text.regions <= image.regions
    )


def drop_facts(facts: CaptionFacts, rng: np.random.Generator, keep: float = 0.7) -> CaptionFacts:
    """Facts for a shorter text: each fact is kept with probability `keep`.

    The result is entailed by `facts`; it is valid and may be empty. A regional atom that stays
    keeps its base atom; a pattern that stays loses intensity, regions and type (to "unspecified")
    independently.

    Args:
        facts: The full facts.
        rng: Source of randomness.
        keep: Probability in [0, 1] that a fact is kept.

    Returns:
        The remaining facts, patterns in their original order.
    """

    def kept(items: Iterable[Any]) -> list[Any]:
        return [item for item in items if rng.random() < keep]

    scene = frozenset(kept(sorted(facts.scene)))  # sorted: a set's order varies between runs
    patterns = tuple(
        Pattern(
            pattern.type if rng.random() < keep else "unspecified",
            pattern.intensity if rng.random() < keep else None,
            frozenset(kept(sort_regions(pattern.regions))),
        )
        for pattern in kept(facts.patterns)
    )
    return CaptionFacts(scene, patterns)
