"""Labels and masks to facts: true ones give back what captions say, as far as they can know."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from heph_vl.data import captions, splits
from heph_vl.data.annotations import ACTIVITY_TYPES, INTENSITIES, Annotation
from heph_vl.data.captions import CaptionFacts, Pattern
from heph_vl.data.captions.from_labels import facts_from_labels
from heph_vl.data.examples import ATMOSPHERE
from heph_vl.data.raster import rasterise
from heph_vl.data.samples import QUALITY_FLAGS
from heph_vl.metrics.fact_queries import fact_tokens
from heph_vl.simulate.place import size_of

MOGI, DYKE, SILL = 1, 2, 3


def labels(
    deformation: float = 0.0,
    types: tuple[str, ...] = (),
    level: str = "low",
    atmosphere: str = "none",
    flags: tuple[str, ...] = (),
) -> dict[str, Any]:
    return {
        "deformation": deformation,
        "activity_types": {name: float(name in types) for name in ACTIVITY_TYPES},
        "intensities": {name: float(name == level) for name in INTENSITIES},
        "atmosphere": {name: float(name == atmosphere) for name in ATMOSPHERE},
        "quality": {name: float(name in flags) for name in QUALITY_FLAGS},
    }


def mask(*boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """(90, 120) mask with boxes (class, x0, y0, x1, y1)."""
    found = np.zeros((90, 120), np.uint8)
    for kind, x0, y0, x1, y1 in boxes:
        found[y0:y1, x0:x1] = kind
    return found


def pattern(kind: str, level: str | None, *regions: str) -> Pattern:
    return Pattern(kind, level, frozenset(regions))


def test_patterns_are_components_with_type_level_and_cell() -> None:
    seen = mask((SILL, 2, 2, 12, 12), (MOGI, 85, 65, 115, 85), (DYKE, 90, 70, 95, 75))
    facts = facts_from_labels(labels(0.9, level="high"), seen)
    assert facts.patterns == (
        pattern("mogi", "high", "bottom-right"),  # the largest first; the dyke inside is part of it
        pattern("sill", "high", "top-left"),
    )
    assert ("no_deformation",) not in facts.scene
    # Mirrored image, mirrored facts.
    turned = facts_from_labels(labels(0.9, level="high"), seen[:, ::-1])
    assert turned == captions.mirror(facts)


@pytest.mark.parametrize(
    ("x0", "y0", "cell"),
    [(36, 0, "top"), (34, 0, "top-left"), (76, 26, "right"), (74, 24, "top"), (74, 26, "center")],
)
def test_cells_end_at_thirds_of_the_image(x0: int, y0: int, cell: str) -> None:
    found = facts_from_labels(labels(1.0), mask((MOGI, x0, y0, x0 + 10, y0 + 10)))
    assert found.patterns[0].regions == {cell}


def test_specks_are_no_patterns_and_at_most_four_are_told() -> None:
    seen = mask((MOGI, 0, 0, 3, 5), *((DYKE, 20 * i, 40, 20 * i + 6, 46 + i) for i in range(5)))
    found = facts_from_labels(labels(1.0), seen)
    assert [p.type for p in found.patterns] == ["dyke"] * 4
    assert found.patterns[0].regions == {"right"}
    assert facts_from_labels(labels(1.0), seen, min_pixels=1) == found


def test_the_probability_decides_whatever_the_mask_has() -> None:
    seen = mask((MOGI, 0, 0, 9, 9))
    assert facts_from_labels(labels(0.49), seen).atoms() == {("no_deformation",)}
    told = facts_from_labels(labels(0.49), seen, {"deformation": 0.4})
    assert told.patterns == (pattern("mogi", "low", "top-left"),)


def test_without_mask_types_have_no_place() -> None:
    both = labels(1.0, ("mogi", "earthquake"), "medium")
    expected = (pattern("mogi", "medium"), pattern("earthquake", None))
    assert facts_from_labels(both).patterns == expected
    assert facts_from_labels(both, mask()).patterns == expected
    unsure = labels(1.0) | {"activity_types": {"mogi": 0.1, "sill": 0.3}}
    assert [p.type for p in facts_from_labels(unsure).patterns] == ["sill"]
    limits = {"activity_types": {"mogi": 0.05, "sill": 0.2}}
    assert [p.type for p in facts_from_labels(unsure, None, limits).patterns] == ["mogi", "sill"]
    assert facts_from_labels({"deformation": 1.0}).patterns == (pattern("unspecified", None),)


@pytest.mark.parametrize(
    ("given", "scene"),
    [
        (labels(), {("no_deformation",)}),
        (labels(atmosphere="turbulent_mixing"), {("turbulent_mixing", "everywhere")}),
        (
            labels(atmosphere="vertical_stratification"),
            {("vertical_stratification", "high-altitude")},
        ),
        (
            labels(atmosphere="both"),
            {("vertical_stratification", "everywhere"), ("turbulent_mixing", "everywhere")},
        ),
        (labels(flags=("low_coherence", "orbital_fringes")), {("noise",), ("orbital_fringes",)}),
        (labels(flags=("processing_error",)), {("processing_error", "swath_merging")}),
        (
            labels(flags=("glacier_fringes", "image_artifacts")),
            {("glacier_fringes",), ("image_artifacts",)},
        ),
    ],
)
def test_scene_without_deformation(given: dict[str, Any], scene: set[tuple[str, ...]]) -> None:
    assert facts_from_labels(given) == CaptionFacts(frozenset(scene | {("no_deformation",)}))


def test_useless_images_say_only_that() -> None:
    for p in (0.0, 1.0):
        found = facts_from_labels(labels(p, atmosphere="both", flags=("corrupted", "no_info")))
        assert found.atoms() == {("corrupted",)}
    found = facts_from_labels(labels(1.0, flags=("no_info",)))
    assert found.atoms() == {("no_information",), ("noise",)}
    limits = {"quality": {"corrupted": 1.0}}
    given = labels(flags=("corrupted",))
    given["quality"]["corrupted"] = 0.9
    assert facts_from_labels(given, None, limits).atoms() == {("no_deformation",)}


def test_deformation_leaves_the_place_of_turbulence_open() -> None:
    found = facts_from_labels(labels(1.0, ("sill",), atmosphere="turbulent_mixing"))
    assert found.scene == {("turbulent_mixing",)}
    assert facts_from_labels(labels(1.0, ("sill",))).scene == {("low_atmospheric_impact",)}


def test_facts_make_captions_that_read_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        given = {
            "deformation": rng.random(),
            "activity_types": dict(zip(ACTIVITY_TYPES, rng.random(6), strict=True)),
            "intensities": dict(zip(INTENSITIES, rng.random(3), strict=True)),
            "atmosphere": dict(zip(ATMOSPHERE, rng.random(4), strict=True)),
            "quality": dict(zip(QUALITY_FLAGS, 0.6 * rng.random(7), strict=True)),
        }
        seen = (rng.random((6, 8)) < 0.2).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        seen *= rng.integers(1, 7, seen.shape, dtype=np.uint8)
        facts = facts_from_labels(given, seen if rng.random() < 0.5 else None)
        assert captions.parse(captions.compose(facts)).key == facts.key


def true_labels(item: Annotation) -> dict[str, Any]:
    flags = [f for f in QUALITY_FLAGS if getattr(item, f) not in (False, "none")]
    given = labels(
        float(bool(item.events)), item.activity_types, "", ATMOSPHERE[item.atmosphere], tuple(flags)
    )
    given["intensities"] = {name: float(name in item.intensities) for name in INTENSITIES}
    return given


@pytest.mark.real_data
def test_true_labels_give_back_what_captions_say(real_annotations: Any) -> None:
    # Places are left out: the real image sizes, and so the cells, are not in the annotations.
    split = splits.assign(real_annotations.annotations)
    kinds = {"all": Counter(), "pattern": Counter(), "scene": Counter()}
    for item in real_annotations.annotations:
        if split[item.unique_id] != "test":
            continue
        height, width = size_of(item.frame_id)
        seen = rasterise(item.events, (width, height)) if item.events else None
        said = fact_tokens(captions.parse(item.caption))
        told = fact_tokens(facts_from_labels(true_labels(item), seen))
        for name, count in kinds.items():
            for token in told.keys() | said.keys():
                is_pattern = token[0] == "deformation"
                if token[2:3] == ("at",) or (name != "all" and is_pattern != (name == "pattern")):
                    continue
                both = min(told[token], said[token])
                count.update(both=both, told=told[token], said=said[token])
    f1 = {name: 2 * n["both"] / (n["told"] + n["said"]) for name, n in kinds.items()}
    assert f1 == pytest.approx({"all": 0.969, "pattern": 0.974, "scene": 0.969}, abs=0.004)
