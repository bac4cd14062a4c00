"""Twin mode: the interferogram that a given annotation describes.

Ground, atmosphere and orbit of a frame and its dates are drawn as in free mode; then they are bent
until the picture shows what the record says: sources are solved for its polygons and intensities,
turbulence and stratification are made stronger or weaker where it names them, ground is made noisy
or coherent. The annotation wins over closure: real labels contradict it in thousands of triangles.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from heph_vl.data import captions
from heph_vl.data.annotations import Annotation, Event, Point
from heph_vl.data.captions import CaptionFacts
from heph_vl.data.raster import fill
from heph_vl.errors import HephError
from heph_vl.simulate import regions
from heph_vl.simulate.fit import Fit, fit_source, one_fringe
from heph_vl.simulate.flaws import Flaws
from heph_vl.simulate.frame import date_state, layers_between
from heph_vl.simulate.grid import uniform
from heph_vl.simulate.outline import intensity_of
from heph_vl.simulate.place import Place, Site, draw_place, seeded, size_of
from heph_vl.simulate.scene import NOISY_COHERENCE, Layers, Motion, Scene
from heph_vl.simulate.sources import KINDS

# Fringes asked for, well inside the classes (0.5 to 1.5, to 3.5, above).
FRINGES = {"low": (0.75, 1.35), "medium": (1.8, 3.2), "high": (3.8, 5.6), None: (2.0, 6.0)}
# Share of motion toward the satellite: an annotator's Unrest is often, not always, uplift.
TOWARD = {"unrest": 0.7, "rebound": 0.2, "rest": 0.5, "none": 0.5}
QUIET = 0.95  # of the visible spread: what an effect that is not named may have in a block
STEEPEST_AIR = 10.0  # rad / km: the tail of the difference of two dates
CLOSURE_BLOCKS = 16


@dataclass(frozen=True)
class Twin:
    """What was made of a record.

    Args:
        layers: The interferogram before noise.
        facts: What its caption says.
        fits: The solved source of each event; None for events without a polygon.
    """

    layers: Layers
    facts: CaptionFacts
    fits: tuple[Fit | None, ...]


def sites_of(annotations: Iterable[Annotation]) -> dict[str, Site]:
    """The place of each frame that is named, dry where any of its records has deformation.

    Args:
        annotations: All records that there are of the frames, not only those to be rendered: the
            place of a frame does not depend on how many of its records are asked for.

    Returns:
        A site for each frame id.

    Raises:
        HephError: A record with an event of unknown type, or a polygon outside its frame.
    """
    by_frame: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        by_frame.setdefault(annotation.frame_id, []).append(annotation)
    sites = {}
    for frame_id, members in sorted(by_frame.items()):
        found = sorted({event.polygon for a in members for event in a.events if event.polygon})
        native = size_of(frame_id, found)
        for annotation in members:
            _check(annotation, native)
        icy = any(annotation.glacier_fringes for annotation in members)
        sites[frame_id] = Site(frame_id, native, tuple(found), icy)
    return sites


def _check(annotation: Annotation, native: tuple[int, int]) -> None:
    where = f"annotation {annotation.unique_id}"
    height, width = native
    for event in annotation.events:
        if event.type not in KINDS:
            what = f"{event.type!r} is no source that can be simulated"
            raise HephError(f"{where}: activity_type", what, f"one of {', '.join(KINDS)}")
        for x, y in event.polygon or ():
            if x > width or y > height:
                what = f"({x:g}, {y:g}) lies outside the {width} x {height} px of the frame"
                fix = f"correct the polygon, or the frame {annotation.frame_id}"
                raise HephError(f"{where}: segmentation_mask", what, fix)


@lru_cache(maxsize=1)
def cached_place(site: Site, seed: int, dem: str | None = None) -> Place:
    """`draw_place`, remembered for the next record of the same frame."""
    return draw_place(site, seed, dem)


def make_twin(place: Place, annotation: Annotation, seed: int) -> Twin:
    """The layers of the interferogram that a record describes.

    Args:
        place: The record's frame.
        annotation: The record.
        seed: Seed of the whole simulation.

    Returns:
        Layers, the caption's facts, and the solved sources.
    """
    facts = captions.parse(annotation.caption)
    g = seeded(seed, "twin", annotation.unique_id)
    fits = tuple(_fit(event, place, annotation, g) for event in annotation.events)
    motions = tuple(_motion(fit, place) for fit in fits if fit is not None)
    primary, secondary = (
        date_state(place, seed, day) for day in (annotation.primary_date, annotation.secondary_date)
    )
    base = layers_between(place, primary, secondary, annotation.temporal_baseline_days, motions)
    coherence = _ground(place, base.coherence, annotation, facts, g)
    clear = place.sampled(place.land & (coherence >= NOISY_COHERENCE))
    orbital = annotation.orbital_fringes or ("orbital_fringes",) in facts.scene
    layers = replace(
        base,
        coherence=coherence,
        turbulence=_turbulence(
            base.turbulence,
            place,
            clear,
            _asked("turbulent_mixing", annotation.atmosphere & 2, facts),
            g,
        ),
        stratification=_stratification(
            base.stratification,
            place,
            clear,
            _asked("vertical_stratification", annotation.atmosphere & 1, facts),
            g,
        ),
        ramp=_ramp(place, g) if orbital else (0.0, 0.0),
        flaws=Flaws(
            annotation.corrupted,
            annotation.processing_error,
            annotation.image_artifacts,
            seed=int(torch.randint(0, 2**62, (), generator=g)),
        ),
    )
    if annotation.glacier_fringes:
        ice, kept = place.ice(annotation.temporal_baseline_days)
        ground = torch.where(ice != 0, coherence.clamp_min(0.4), coherence) * kept
        layers = replace(layers, ice=ice, coherence=ground)
    return Twin(layers, facts, fits)


def _asked(effect: str, labelled: int, facts: CaptionFacts) -> frozenset[str] | None:
    """Where label or caption say that an effect is; empty for somewhere, None for nowhere."""
    if not labelled and (effect,) not in facts.scene:
        return None
    return facts.regions_of(effect)


def _fit(event: Event, place: Place, annotation: Annotation, g: torch.Generator) -> Fit | None:
    fringes = uniform(*FRINGES[event.intensity], g)
    toward = uniform(0.0, 1.0, g) < TOWARD[annotation.volcano_phase]
    if event.los_sense != "unknown":
        toward = event.los_sense == "toward"
    if not event.polygon:
        return None
    return fit_source(
        event.type, event.polygon, place.site.native, place.grid, place.look, fringes, toward, g
    )


def _motion(fit: Fit, place: Place) -> Motion:
    los = one_fringe(fit.source, place.grid, place.look) * fit.fringes
    return Motion(fit.source, los)


def region_weight(place: Place, where: Collection[str]) -> Tensor:
    """How much each pixel belongs to the named regions: (H, W) float32 in [0, 1], soft edges."""
    shape = (place.grid.height, place.grid.width)
    weight = regions.block_weight(where)
    return functional.interpolate(weight[None, None], shape, mode="bilinear")[0, 0]


def _ground(
    place: Place, base: Tensor, annotation: Annotation, facts: CaptionFacts, g: torch.Generator
) -> Tensor:
    """Coherence bent to the record: noisy where it says noise, readable where it does not."""
    land = place.land
    if annotation.no_info or ("no_information",) in facts.scene:
        level = float(base[::8, ::8][land[::8, ::8]].median()) if bool(land.any()) else 1.0
        return torch.where(land, (base * (0.05 / max(level, 1e-3))).clamp(0.01, 0.085), base)
    lifted = _lift(base, land, allowed=0.1)
    where = _asked("noise", int(annotation.low_coherence), facts)
    if where is None:
        return _readable(lifted, place, annotation)
    weight = region_weight(place, where)
    placed = bool(where & set(captions.CELLS))
    share = uniform(0.6, 0.8, g) if placed else uniform(0.45, 0.65, g)
    inside = base[::8, ::8][land[::8, ::8] & (weight[::8, ::8] > 0.5)]
    level = float(torch.quantile(inside, share)) if len(inside) else 0.0
    factor = min(1.0, 0.8 * NOISY_COHERENCE / max(level, 1e-3))
    outside = lifted if placed else base
    return _readable(torch.lerp(outside, base * factor, weight), place, annotation)


def _lift(coherence: Tensor, land: Tensor, allowed: float) -> Tensor:
    """Coherence raised by a power until at most the allowed share of the land is noisy."""
    sample = coherence[::8, ::8][land[::8, ::8]]
    if not len(sample):
        return coherence
    low = float(torch.quantile(sample, allowed))
    wanted = 1.4 * NOISY_COHERENCE
    if low >= wanted:
        return coherence
    power = max(0.15, math.log(wanted) / math.log(max(low, 1e-6)))
    return torch.where(land, coherence.clamp_min(1e-6) ** power, coherence)


def _readable(coherence: Tensor, place: Place, annotation: Annotation) -> Tensor:
    """Ground under the polygons coherent enough for fringes to be seen."""
    outlined = [event.polygon for event in annotation.events if event.polygon]
    if not outlined:
        return coherence
    mask = np.zeros(place.site.native, np.uint8)
    for polygon in outlined:
        fill(mask, polygon, 1)
    soft = ndimage.gaussian_filter(ndimage.binary_dilation(mask, iterations=3) * 1.0, 2.0)
    weight = functional.interpolate(
        torch.from_numpy(soft).float()[None, None], coherence.shape, mode="bilinear"
    )[0, 0]
    least = torch.where(place.land, 0.45 * weight, 0.0)
    return torch.maximum(coherence, least)


def _turbulence(
    field: Tensor, place: Place, clear: Tensor, where: frozenset[str] | None, g: torch.Generator
) -> Tensor:
    """Turbulence made strong enough where it is named, and too weak to be seen elsewhere."""
    spread, share = regions.block_spread(place.sampled(field), clear)
    seen = share >= regions.SEEN
    visible = regions.visible_spread(place.grid)
    wanted = visible * min(
        max(1.4 * math.exp(0.25 * float(torch.randn((), generator=g))), 1.2), 2.2
    )
    if not bool(seen.any()):
        return field
    quiet = min(1.0, QUIET * visible / max(float(torch.quantile(spread[seen], 0.95)), 1e-3))
    if where is None:
        return field * quiet
    weight = regions.block_weight(where)
    inside = seen & (weight > 0.5)
    inside = inside if bool(inside.any()) else seen
    # Most blocks of a named region must show it: the 35th percentile is what has to be visible.
    loud = max(1.0, wanted / max(float(torch.quantile(spread[inside], 0.35)), 1e-3))
    gain = torch.lerp(torch.full_like(weight, quiet), torch.full_like(weight, loud), weight)
    if bool((gain == gain[0, 0]).all()):
        return field * float(gain[0, 0])
    smooth = functional.interpolate(gain[None, None], field.shape, mode="bicubic")[0, 0]
    return field * smooth.clamp(quiet, loud)


def _stratification(
    field: Tensor, place: Place, clear: Tensor, where: frozenset[str] | None, g: torch.Generator
) -> Tensor:
    """Stratification of the terrain, visible where it is named, invisible where it is not."""
    relief = place.terrain.elevation / 1_000.0
    per_rate, share = regions.block_spread(place.sampled(relief), clear)
    seen = share >= regions.SEEN
    if not bool(seen.any()):
        return field
    visible = regions.visible_spread(place.grid)
    peak = int(place.terrain.elevation.argmax())
    rate = float(field.flatten()[peak]) / max(float(relief.flatten()[peak]), 1e-3)
    sign = 1.0 if rate >= 0 else -1.0
    if where is None:
        most = QUIET * visible / max(float(torch.quantile(per_rate[seen], 0.92)), 1e-3)
        return relief * (sign * min(abs(rate), most))
    weight = regions.block_weight(where)
    inside = seen & (weight > 0.5)
    inside = inside if bool(inside.any()) else seen
    # More than half of the blocks with ground must show it.
    level = float(torch.quantile(per_rate[inside], 0.4))
    least = visible / max(level, 1e-3) * uniform(1.1, 1.6, g)
    rate = sign * min(max(abs(rate), least), STEEPEST_AIR)
    return relief * rate * region_weight(place, where)


def _ramp(place: Place, g: torch.Generator) -> tuple[float, float]:
    """Gradient [rad/m] of two to five orbital fringes across the image."""
    fringes, azimuth = uniform(2.0, 5.0, g), uniform(0.0, 2.0 * math.pi, g)
    slope = 2.0 * math.pi * fringes / (place.grid.height * place.grid.dy)
    return slope * math.sin(azimuth), slope * math.cos(azimuth)


def coarse_phase(layers: Layers) -> Tensor:
    """Mean of the noise-free phase in 16 x 16 blocks, for counting what does not close."""
    phase = layers.unwrapped_phase[None, None]
    return functional.adaptive_avg_pool2d(phase, CLOSURE_BLOCKS)[0, 0]


def compare(annotation: Annotation, twin: Twin, scene: Scene) -> dict[str, Any]:
    """What was asked for and what is measured in the noise-free fields of its rendering.

    Args:
        annotation: The record.
        twin: What was made of it.
        scene: What is seen in that.

    Returns:
        For each area effect whether it was asked and whether it is seen; for each event with a
        polygon the overlap of the given and the rendered outline and both intensities.
    """
    effects = {}
    labels = {
        "noise": int(annotation.low_coherence),
        "vertical_stratification": annotation.atmosphere & 1,
        "turbulent_mixing": annotation.atmosphere & 2,
    }
    if not (annotation.corrupted or annotation.no_info):
        for effect, labelled in labels.items():
            asked = _asked(effect, labelled, twin.facts) is not None
            effects[effect] = {"asked": asked, "seen": (effect,) in scene.facts.scene}
    events = []
    outlines = iter(scene.outlines)
    for event, fit in zip(annotation.events, twin.fits, strict=True):
        seen = None if fit is None else next(outlines)
        events.append(
            {
                "type": event.type,
                "given": event.polygon is not None,
                "seen": seen is not None,
                "iou": 0.0 if seen is None else round(_iou(event.polygon or (), seen.polygon), 3),
                "intensity": event.intensity,
                "rendered_intensity": None if seen is None else intensity_of(seen.fringe_count),
            }
        )
    return {"effects": effects, "events": events}


def _iou(a: Sequence[Point], b: Sequence[Point]) -> float:
    one, other = (shapely.make_valid(shapely.Polygon(p)) for p in (a, b))
    return float(one.intersection(other).area / max(one.union(other).area, 1e-9))
