"""One simulated interferogram: its fields, what is seen in them, and the record that says so."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from heph_vl.data.annotations import Annotation, Event
from heph_vl.data.captions import CaptionFacts, Pattern, compose
from heph_vl.simulate import regions
from heph_vl.simulate.atmosphere import stratified
from heph_vl.simulate.decorrelation import decorrelate, ground_coherence, smooth_coherent
from heph_vl.simulate.frame import Frame, date_state
from heph_vl.simulate.sources import LOW_FROM, intensity_of, outline

VISIBLE_SPREAD_RAD = 0.42  # standard deviation in a block from which an atmospheric effect is seen
NOISY_COHERENCE = 0.14  # of 50 looks the phase scatters by 0.9 rad here
CLEAR_SHARE = 0.3  # share of an outline above NOTHING_COHERENCE for its event to be seen
NO_INFORMATION = 0.9  # share of the land below NOTHING_COHERENCE when nothing can be read
NOTHING_COHERENCE = 0.09  # of 50 looks the phase scatters by 1.2 rad here
ORBITAL_FRINGES = 1.5  # fringes of a ramp across the image from which it is seen


@dataclass(frozen=True)
class Scene:
    """Fields and findings of one pair of dates.

    Args:
        frame: The frame.
        pair: Indices of the primary and the secondary date.
        unwrapped_phase: (H, W) float32 [rad], noise-free.
        wrapped_phase: (H, W) float32 [rad] in (-pi, pi], decorrelated and filtered.
        true_coherence: (H, W) float32 in [0, 1].
        coherence: (H, W) float32 in [0, 1], as estimated from the looks.
        valid: (H, W) bool, inside the swath.
        events: What deformation is seen, the strongest first.
        facts: What a caption of the picture says.
    """

    frame: Frame
    pair: tuple[int, int]
    unwrapped_phase: Tensor
    wrapped_phase: Tensor
    true_coherence: Tensor
    coherence: Tensor
    valid: Tensor
    events: tuple[Event, ...]
    facts: CaptionFacts

    def annotation(self, unique_id: int, generator: torch.Generator) -> Annotation:
        """The record of the scene, captioned in words drawn by the generator."""
        scene = self.facts.scene
        stratified_seen = ("vertical_stratification",) in scene
        turbulent_seen = ("turbulent_mixing",) in scene
        volcanic = [event for event in self.events if event.type != "earthquake"]
        label = ["Deformation"] * bool(volcanic)
        label += ["Earthquake"] * (len(volcanic) < len(self.events))
        words = np.random.default_rng(int(torch.randint(0, 2**62, (), generator=generator)))
        return Annotation(
            unique_id=unique_id,
            frame_id=self.frame.frame_id,
            primary_date=self.frame.dates[self.pair[0]],
            secondary_date=self.frame.dates[self.pair[1]],
            corrupted=False,
            processing_error="none",
            glacier_fringes=False,
            orbital_fringes=("orbital_fringes",) in scene,
            atmosphere=int(stratified_seen) + 2 * int(turbulent_seen),
            low_coherence=("noise",) in scene,
            no_info=("no_information",) in scene,
            image_artifacts=False,
            label=tuple(label) or ("Non_Deformation",),
            events=self.events,
            volcano_phase=_volcano_phase(self.events),
            confidence=0.8,
            is_crowd=len(self.events) > 1,
            caption=compose(self.facts, words),
        )


def simulate_scenes(
    frame: Frame, pairs: list[tuple[int, int]], generators: list[torch.Generator]
) -> list[Scene]:
    """Interferograms of one frame, a batch at a time.

    Args:
        frame: The frame.
        pairs: B pairs of date indices (primary, secondary).
        generators: B generators, one a record: results do not depend on the batch.

    Returns:
        B scenes.
    """
    unwrapped = torch.stack([frame.phase(pair) for pair in pairs])
    true_coherence = torch.stack([_coherence(frame, pair) for pair in pairs])
    noise, sample_coherence = decorrelate(true_coherence, generators)
    phasor = torch.polar(torch.ones_like(unwrapped), unwrapped) * noise
    wrapped = torch.angle(smooth_coherent(phasor, sample_coherence, frame.footprint))
    scenes = []
    for b, pair in enumerate(pairs):
        events, facts = _findings(frame, pair, true_coherence[b])
        scenes.append(
            Scene(
                frame,
                pair,
                unwrapped[b],
                wrapped[b],
                true_coherence[b],
                sample_coherence[b],
                frame.footprint,
                events,
                facts,
            )
        )
    return scenes


def _coherence(frame: Frame, pair: tuple[int, int]) -> Tensor:
    primary, secondary = (date_state(frame, index) for index in pair)
    days = (frame.dates[pair[1]] - frame.dates[pair[0]]).days
    terrain = frame.terrain
    return ground_coherence(
        terrain.vegetation,
        terrain.water,
        terrain.snow,
        frame.slope,
        float(days),
        primary.clarity * secondary.clarity,
    )


def _findings(
    frame: Frame, pair: tuple[int, int], true_coherence: Tensor
) -> tuple[tuple[Event, ...], CaptionFacts]:
    """What a careful annotator would see, measured on the fields before noise."""
    land = frame.footprint & ~frame.terrain.water
    clear = land & (true_coherence >= NOISY_COHERENCE)
    noisy = land & ~clear
    # Fringes are still seen in ground that is already called noisy.
    readable = land & (true_coherence >= NOTHING_COHERENCE)
    events = _events(frame, pair, land, readable)
    if not events and float(readable.sum()) <= (1 - NO_INFORMATION) * float(land.sum()):
        return (), CaptionFacts(frozenset({("noise",), ("no_information",)}))
    scene: set[tuple[str, ...]] = set()
    share_noisy, share_land = regions.block_mean(noisy.float(), land)
    scene |= _atoms("noise", regions.name_regions(share_noisy > 0.4, share_land))
    primary, secondary = (date_state(frame, index) for index in pair)
    tied = stratified(frame.terrain.elevation, secondary.stratification - primary.stratification)
    spread, share = regions.block_spread(tied, clear)
    where = regions.name_regions(spread >= VISIBLE_SPREAD_RAD, share)
    if len(where) > 2 or "everywhere" in where:
        where = frozenset({"high-altitude"})
    scene |= _atoms("vertical_stratification", where)
    spread, share = regions.block_spread(secondary.turbulence - primary.turbulence, clear)
    where = regions.name_regions(spread >= VISIBLE_SPREAD_RAD, share)
    scene |= _atoms("turbulent_mixing", where)
    ramp = (secondary.ramp[0] - primary.ramp[0], secondary.ramp[1] - primary.ramp[1])
    extent = (frame.grid.width * frame.grid.dx, frame.grid.height * frame.grid.dy)
    tilt = sum(abs(slope) * side for slope, side in zip(ramp, extent, strict=True))
    if tilt >= ORBITAL_FRINGES * 2 * torch.pi:
        scene.add(("orbital_fringes",))
    if not events:
        scene.add(("no_deformation",))
    elif not {("turbulent_mixing",), ("vertical_stratification",)} & scene:
        scene.add(("low_atmospheric_impact",))
    patterns = tuple(
        Pattern(e.type, e.intensity, frozenset({regions.cell_of(e.polygon, frame.native)}))
        for e in events
        if e.polygon
    )
    return events, CaptionFacts(frozenset(scene), patterns)


def _atoms(effect: str, where: frozenset[str]) -> set[tuple[str, ...]]:
    return {(effect, region) for region in where} | ({(effect,)} if where else set())


def _events(
    frame: Frame, pair: tuple[int, int], land: Tensor, readable: Tensor
) -> tuple[Event, ...]:
    """Events strong and coherent enough to be seen, the strongest first."""
    found = []
    for source in frame.sources:
        change = frame.difference(source, pair)
        if not change:
            continue
        seen = outline(source.unit * change, land, readable, frame.native)
        if seen is None or seen.fringe_count < LOW_FROM or seen.seen_share < CLEAR_SHARE:
            continue
        kind = source.source.kind
        intensity = None if kind == "earthquake" else intensity_of(seen.fringe_count)
        sense = "toward" if seen.toward else "away"
        found.append((seen.fringe_count, Event(kind, intensity, seen.polygon, sense)))
    found.sort(key=lambda item: -item[0])
    return tuple(event for _, event in found)


def _volcano_phase(events: tuple[Event, ...]) -> str:
    """Unrest where the strongest volcanic event moves toward the satellite, Rebound where away."""
    if not events:
        return "rest"
    for event in events:
        if event.type != "earthquake":
            return "unrest" if event.los_sense == "toward" else "rebound"
    return "none"
