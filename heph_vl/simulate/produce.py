"""From a job to a product: free or twin, simulated, drawn, and compared with what was asked."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from heph_vl.data.annotations import Annotation, Event
from heph_vl.data.raster import rasterise
from heph_vl.simulate.artefacts import color_bar
from heph_vl.simulate.frame import cached_frame, choose_pairs
from heph_vl.simulate.outline import Outline, intensity_of
from heph_vl.simulate.place import seeded
from heph_vl.simulate.plan import Chunk, Job, Settings
from heph_vl.simulate.render import Picture, Rendering, amplitude, draw, to_images
from heph_vl.simulate.scene import Scene, annotate, bare, observe
from heph_vl.simulate.store import Fine, Product
from heph_vl.simulate.twin import Twin, cached_place, coarse_phase, compare, make_twin

DEFORMING = 0.6  # share of pairs with motion in free mode; some of it is too noisy to be seen


def produce(chunk: Chunk, settings: Settings, dem: str | None) -> Iterator[Product]:
    """The products of a chunk, in the order of its jobs.

    Args:
        chunk: Jobs of one frame.
        settings: Of the simulation.
        dem: File or folder of real elevation.

    Yields:
        One product a job.
    """
    for job in chunk.jobs:
        if job.annotation is None:
            yield _free(chunk, job, settings, dem)
        else:
            yield _twin(chunk, job.annotation, settings, dem)


def _free(chunk: Chunk, job: Job, settings: Settings, dem: str | None) -> Product:
    seed = settings.seed
    frame = cached_frame(chunk.frame_id, settings.size, settings.dates, seed, dem)
    pairs = choose_pairs(frame, chunk.of_frame, DEFORMING, seeded(seed, chunk.frame_id, "pairs"))
    pair = pairs[job.place_in_frame]
    generator = seeded(seed, "record", job.unique_id)
    layers = frame.layers(pair)
    scene = observe([layers], [generator])[0] if settings.chain else bare(layers)
    dates = frame.dates[pair[0]], frame.dates[pair[1]]
    annotation = annotate(scene, job.unique_id, dates, generator)
    truth = {"sources": [_source(*motion) for motion in _motions(scene)]}
    return _product(scene, annotation, None, settings, generator, truth)


def _twin(chunk: Chunk, annotation: Annotation, settings: Settings, dem: str | None) -> Product:
    assert chunk.site is not None  # twin_chunks gives each chunk one
    place = cached_place(chunk.site, settings.seed, dem)
    twin = make_twin(place, annotation, settings.seed)
    generator = seeded(settings.seed, "record", annotation.unique_id)
    scene = observe([twin.layers], [generator])[0] if settings.chain else bare(twin.layers)
    solved = [fit for fit in twin.fits if fit is not None]
    sources = [
        _source(*motion) | {"iou_asked": round(fit.iou, 3)}
        for motion, fit in zip(_motions(scene), solved, strict=True)
    ]
    truth = {
        "sources": sources,
        "seen": sorted(map(list, scene.facts.atoms())),
        "compared": compare(annotation, twin, scene),
        "coarse_phase": [[round(v, 2) for v in row] for row in coarse_phase(twin.layers).tolist()],
    }
    rendered = _rendered(annotation, twin, scene.outlines)
    height, width = chunk.site.native
    mask = rasterise(rendered, (width, height))
    return _product(scene, _with_sense(annotation, rendered), mask, settings, generator, truth)


def _motions(scene: Scene) -> list[tuple[Any, Outline | None]]:
    return list(zip(scene.layers.motions, scene.outlines, strict=True))


def _source(motion: Any, seen: Outline | None) -> dict[str, Any]:
    source = motion.source
    found = {
        "kind": source.kind,
        "east_m": round(source.east, 1),
        "north_m": round(source.north, 1),
        "parameters": source.parameters,
        "seen": seen is not None,
    }
    if seen is not None:
        found |= {
            "fringe_count": round(seen.fringe_count, 3),
            "intensity": intensity_of(seen.fringe_count),
            "los_sense": "toward" if seen.toward else "away",
            "outline": [list(point) for point in seen.polygon],
        }
    return found


def _rendered(
    annotation: Annotation, twin: Twin, outlines: Sequence[Outline | None]
) -> list[Event]:
    """The record's events with the outlines and senses that were rendered; none where not seen."""
    left = iter(outlines)
    events = []
    for event, fit in zip(annotation.events, twin.fits, strict=True):
        seen = None if fit is None else next(left)
        sense = "unknown" if seen is None else "toward" if seen.toward else "away"
        events.append(replace(event, polygon=seen.polygon if seen else None, los_sense=sense))
    return events


def _with_sense(annotation: Annotation, rendered: Sequence[Event]) -> Annotation:
    events = tuple(
        replace(event, los_sense=made.los_sense)
        for event, made in zip(annotation.events, rendered, strict=True)
    )
    return replace(annotation, events=events)


def _product(
    scene: Scene,
    annotation: Annotation,
    mask: NDArray[np.uint8] | None,
    settings: Settings,
    generator: torch.Generator,
    truth: dict[str, Any],
) -> Product:
    place, options = scene.layers.place, settings.rendering
    drawn = _draw(scene, options, generator) if settings.chain else _draw_bare(scene, options)
    picture, coherence = to_images(drawn, 0, options)
    if scene.layers.flaws.color_bar:
        bar = scene.layers.flaws.generator("color_bar")
        picture = color_bar(picture, bar, options.palette)
    los = _native_los(scene) if settings.truth else None
    truth = {"pass": annotation.pass_direction, "look_vector": list(place.look.vector)} | truth
    fine = _fine(scene) if settings.geotiff else None
    return Product(annotation, picture, coherence, mask, los, truth, fine=fine)


def _fine(scene: Scene) -> Fine:
    """The scene as LiCSAR's GeoTIFFs hold it; a coloured bar is drawn into previews only."""
    place = scene.layers.place
    valid = scene.valid.numpy()
    # 0 is no data: a phase of exactly 0 becomes the smallest step beside it.
    phase = scene.wrapped_phase.numpy()
    phase = np.where(phase == 0, np.float32(1e-6), phase) * valid
    coherence = np.rint(255 * scene.coherence.clamp(0, 1).numpy()).astype(np.uint8)
    return Fine(
        phase.astype(np.float32),
        np.where(valid, np.maximum(coherence, 1), 0).astype(np.uint8),
        place.look.vector,
        place.terrain.elevation.numpy().astype(np.float32),
        place.georeference,
    )


def _draw(scene: Scene, options: Rendering, generator: torch.Generator) -> Picture:
    place = scene.layers.place
    bright = None
    if options.palette == "old":
        bright = amplitude(place.terrain, place.grid, place.look.vector, generator)
    fields = scene.wrapped_phase[None], scene.valid[None], scene.coherence[None]
    return draw(*fields, options, bright)


def _draw_bare(scene: Scene, options: Rendering) -> Picture:
    """Each native pixel painted for itself: no resize, no rounding of colours."""
    place = scene.layers.place
    phase, valid, coherence = (
        place.sampled(field)[None] for field in (scene.wrapped_phase, scene.valid, scene.coherence)
    )
    plain = replace(options, downsample=1.0, filter="lanczos", posterise=False)
    return draw(phase, valid, coherence, plain)


def _native_los(scene: Scene) -> NDArray[np.float32]:
    """(h, w) float32 [m]: LOS displacement of all motions together, meaned over native pixels."""
    total: Tensor = torch.zeros(scene.valid.shape)
    for motion in scene.layers.motions:
        total = total + motion.los
    native = functional.adaptive_avg_pool2d(total[None], scene.layers.place.site.native)[0]
    found: NDArray[np.float32] = native.numpy()
    return found
