"""One simulated interferogram: what is in it, what the radar makes of it, what is seen in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import torch
from torch import Tensor

from heph_vl.data.annotations import Annotation, Event
from heph_vl.data.captions import CaptionFacts, Pattern, compose
from heph_vl.simulate import regions
from heph_vl.simulate.artefacts import Fields
from heph_vl.simulate.atmosphere import plane
from heph_vl.simulate.decorrelation import decorrelate, smooth_coherent
from heph_vl.simulate.flaws import NO_FLAWS, Flaws, disturb
from heph_vl.simulate.outline import LOW_FROM, Outline, intensity_of, outline
from heph_vl.simulate.place import Place
from heph_vl.simulate.sources import Source, los_to_phase

NOISY_COHERENCE = 0.14  # of 50 looks the phase scatters by 0.9 rad here
CLEAR_SHARE = 0.3  # share of an outline above NOTHING_COHERENCE for its event to be seen
NO_INFORMATION = 0.9  # share of the land below NOTHING_COHERENCE when nothing can be read
NOTHING_COHERENCE = 0.09  # of 50 looks the phase scatters by 1.2 rad here
ORBITAL_FRINGES = 1.5  # fringes of a ramp across the image from which it is seen


@dataclass(frozen=True)
class Motion:
    """Motion of the ground by one source between the two dates.

    Args:
        source: What moves it.
        los: (H, W) float32 line-of-sight displacement [m], positive toward the satellite.
    """

    source: Source
    los: Tensor


@dataclass(frozen=True)
class Layers:
    """Everything one pair of dates shows, before noise.

    Args:
        place: Where.
        days: Between the two dates.
        turbulence: (H, W) float32 [rad].
        stratification: (H, W) float32 [rad].
        ramp: Phase gradient (eastward, northward) [rad/m] of the orbit error.
        motions: What moves.
        coherence: (H, W) float32 in [0, 1], of the ground.
        ice: (H, W) float32 [rad] of flowing glaciers, if there are any.
        offset: Phase of the whole image [rad]; an interferogram has no absolute zero.
        flaws: What went wrong.
    """

    place: Place
    days: int
    turbulence: Tensor
    stratification: Tensor
    ramp: tuple[float, float]
    motions: tuple[Motion, ...]
    coherence: Tensor
    ice: Tensor | None = None
    offset: float = 0.0
    flaws: Flaws = NO_FLAWS

    @property
    def unwrapped_phase(self) -> Tensor:
        """Sum of air, orbit, ice and motion: (H, W) float32 [rad], without noise and flaws."""
        total = self.turbulence + self.stratification + self.offset
        if self.ramp != (0.0, 0.0):
            total = total + plane(self.place.grid, self.ramp, total.device)
        for motion in self.motions:
            total = total + los_to_phase(motion.los)
        return total if self.ice is None else total + self.ice


@dataclass(frozen=True)
class Scene:
    """One interferogram as processed, and what a careful annotator would see in it.

    Args:
        layers: What it was made of.
        wrapped_phase: (H, W) float32 [rad] in (-pi, pi], decorrelated and filtered.
        coherence: (H, W) float32 in [0, 1], as estimated from the looks.
        valid: (H, W) bool, where there is data.
        outlines: What is seen of each motion; None for what is not.
        events: What deformation is seen, the strongest first.
        facts: What a caption of the picture says.
    """

    layers: Layers
    wrapped_phase: Tensor
    coherence: Tensor
    valid: Tensor
    outlines: tuple[Outline | None, ...]
    events: tuple[Event, ...]
    facts: CaptionFacts


def observe(layers: Sequence[Layers], generators: Sequence[torch.Generator]) -> list[Scene]:
    """Noise, filter and findings, a batch of equally large interferograms at a time.

    Args:
        layers: B interferograms before noise.
        generators: B generators, one a record: results do not depend on the batch.

    Returns:
        B scenes.
    """
    disturbed = [
        disturb(
            one.flaws,
            one.place,
            Fields(one.unwrapped_phase, one.coherence, one.place.footprint),
        )
        for one in layers
    ]
    phase, coherence, valid = (torch.stack(part) for part in zip(*disturbed, strict=True))
    noise, sample_coherence = decorrelate(coherence, list(generators))
    wrapped = smooth_coherent(phase, noise, sample_coherence, valid)
    return [
        Scene(one, wrapped[b], sample_coherence[b], valid[b], *find(one, valid[b]))
        for b, one in enumerate(layers)
    ]


def bare(layers: Layers) -> Scene:
    """The scene without noise, filter and flaws: what the chain adds is seen by comparison."""
    phase = layers.unwrapped_phase
    wrapped = torch.atan2(torch.sin(phase), torch.cos(phase))
    return Scene(
        layers,
        wrapped,
        layers.coherence,
        layers.place.footprint,
        *find(layers, layers.place.footprint),
    )


def find(
    layers: Layers, valid: Tensor
) -> tuple[tuple[Outline | None, ...], tuple[Event, ...], CaptionFacts]:
    """What a careful annotator would see, measured before noise at native spacing.

    Args:
        layers: The interferogram.
        valid: (H, W) bool, where there is data: a lost sub-swath hides what is in it.

    Returns:
        The outline of each motion (None where too weak, too noisy or hidden), the events they
        make, the strongest first, and the facts of a caption.
    """
    place, flaws = layers.place, layers.flaws
    nothing: tuple[Outline | None, ...] = (None,) * len(layers.motions)
    if flaws.corrupted:
        return nothing, (), CaptionFacts(frozenset({("corrupted",)}))
    land = place.sampled(valid & ~place.terrain.water)
    coherence = place.sampled(layers.coherence)
    clear = land & (coherence >= NOISY_COHERENCE)
    # Fringes are still seen in ground that is already called noisy.
    readable = land & (coherence >= NOTHING_COHERENCE)
    outlines = tuple(_seen(motion, land, readable, place) for motion in layers.motions)
    events = _events(layers, outlines)
    if not events and float(readable.sum()) <= (1 - NO_INFORMATION) * float(land.sum()):
        return nothing, (), CaptionFacts(frozenset({("noise",), ("no_information",)}))
    scene = _air_and_noise(layers, land, clear) | _flaw_atoms(layers, clear)
    if not events:
        scene.add(("no_deformation",))
    elif not {("turbulent_mixing",), ("vertical_stratification",)} & scene:
        scene.add(("low_atmospheric_impact",))
    patterns = tuple(
        Pattern(e.type, e.intensity, frozenset({regions.cell_of(e.polygon, place.site.native)}))
        for e in events
        if e.polygon
    )
    return outlines, events, CaptionFacts(frozenset(scene), patterns)


def _air_and_noise(layers: Layers, land: Tensor, clear: Tensor) -> set[tuple[str, ...]]:
    share_noisy, share_land = regions.block_mean((land & ~clear).float(), land)
    scene = _atoms("noise", regions.name_regions(share_noisy > 0.4, share_land))
    place = layers.place
    seen_from = regions.visible_spread(place.grid)
    spread, share = regions.block_spread(place.sampled(layers.stratification), clear)
    where = regions.name_regions(spread >= seen_from, share)
    if len(where) > 2 or "everywhere" in where:
        where = frozenset({"high-altitude"})
    scene |= _atoms("vertical_stratification", where)
    spread, share = regions.block_spread(place.sampled(layers.turbulence), clear)
    scene |= _atoms("turbulent_mixing", regions.name_regions(spread >= seen_from, share))
    return scene


def _atoms(effect: str, where: frozenset[str]) -> set[tuple[str, ...]]:
    return {(effect, region) for region in where} | ({(effect,)} if where else set())


def _flaw_atoms(layers: Layers, clear: Tensor) -> set[tuple[str, ...]]:
    flaws, grid = layers.flaws, layers.place.grid
    extent = (grid.width * grid.dx, grid.height * grid.dy)
    tilt = sum(abs(slope) * side for slope, side in zip(layers.ramp, extent, strict=True))
    atoms: set[tuple[str, ...]] = set()
    if tilt >= ORBITAL_FRINGES * 2 * torch.pi:
        atoms.add(("orbital_fringes",))
    if flaws.processing_error != "none":
        atoms.add(("processing_error", flaws.processing_error))
    if layers.ice is not None and _shows_fringes(layers.place.sampled(layers.ice), clear):
        atoms.add(("glacier_fringes",))
    if flaws.color_bar:
        atoms.add(("image_artifacts",))
    return atoms


def _shows_fringes(ice: Tensor, clear: Tensor) -> bool:
    """Whether flowing ice shows a fringe or more where it is coherent."""
    shown = ice[clear & (ice != 0)]
    return len(shown) > 30 and float(shown.max() - shown.min()) > 2 * torch.pi


def _seen(motion: Motion, land: Tensor, readable: Tensor, place: Place) -> Outline | None:
    """The outline of a motion that is strong and coherent enough to be seen."""
    seen = outline(place.sampled(motion.los), land, readable, place.site.native)
    if seen is None or seen.fringe_count < LOW_FROM or seen.seen_share < CLEAR_SHARE:
        return None
    return seen


def _events(layers: Layers, outlines: Sequence[Outline | None]) -> tuple[Event, ...]:
    """Events that are seen, the strongest first."""
    found = []
    for motion, seen in zip(layers.motions, outlines, strict=True):
        if seen is None:
            continue
        kind = motion.source.kind
        intensity = None if kind == "earthquake" else intensity_of(seen.fringe_count)
        event = Event(kind, intensity, seen.polygon, "toward" if seen.toward else "away")
        found.append((seen.fringe_count, event))
    found.sort(key=lambda item: -item[0])
    return tuple(event for _, event in found)


def annotate(
    scene: Scene, unique_id: int, dates: tuple[date, date], generator: torch.Generator
) -> Annotation:
    """The record of a scene, captioned in words drawn by the generator.

    Args:
        scene: The scene.
        unique_id: Number of the record.
        dates: Primary and secondary date.
        generator: Randomness of the wording.

    Returns:
        A record that says what is in the picture.
    """
    said, flaws = scene.facts.scene, scene.layers.flaws
    stratified_seen = ("vertical_stratification",) in said
    turbulent_seen = ("turbulent_mixing",) in said
    volcanic = [event for event in scene.events if event.type != "earthquake"]
    label = ["Deformation"] * bool(volcanic)
    label += ["Earthquake"] * (len(volcanic) < len(scene.events))
    words = np.random.default_rng(int(torch.randint(0, 2**62, (), generator=generator)))
    return Annotation(
        unique_id=unique_id,
        frame_id=scene.layers.place.site.frame_id,
        primary_date=dates[0],
        secondary_date=dates[1],
        corrupted=flaws.corrupted,
        processing_error="none" if flaws.corrupted else flaws.processing_error,
        glacier_fringes=("glacier_fringes",) in said,
        orbital_fringes=("orbital_fringes",) in said,
        atmosphere=int(stratified_seen) + 2 * int(turbulent_seen),
        low_coherence=("noise",) in said,
        no_info=("no_information",) in said,
        image_artifacts=flaws.color_bar,
        label=tuple(label) or ("Non_Deformation",),
        events=scene.events,
        volcano_phase=_volcano_phase(scene.events),
        confidence=0.8,
        is_crowd=len(scene.events) > 1,
        caption=compose(scene.facts, words),
    )


def _volcano_phase(events: tuple[Event, ...]) -> str:
    """Unrest where the strongest volcanic event moves toward the satellite, Rebound where away."""
    if not events:
        return "rest"
    for event in events:
        if event.type != "earthquake":
            return "unrest" if event.los_sense == "toward" else "rebound"
    return "none"
