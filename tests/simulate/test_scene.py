"""Scenes: what is seen agrees with what is said, and noise does not depend on the batch."""

from collections import Counter
from dataclasses import replace
from datetime import date
from itertools import combinations

import pytest
import shapely
import torch

from heph_vl.data import captions
from heph_vl.data.annotations import parse_annotation
from heph_vl.simulate.flaws import Flaws
from heph_vl.simulate.frame import draw_frame
from heph_vl.simulate.place import seeded
from heph_vl.simulate.scene import Scene, annotate, bare, observe

DATES = date(2018, 1, 1), date(2018, 1, 13)


def scenes_of(frame, pairs, seed=0) -> list[Scene]:
    layers = [replace(frame.layers(pair), flaws=Flaws()) for pair in pairs]
    return observe(layers, [seeded(seed, i) for i in range(len(pairs))])


@pytest.fixture(scope="module")
def scenes(small_frame) -> list[Scene]:
    other = draw_frame("032D_09854_070505", size=144, dates=8, seed=12)
    pairs = list(combinations(range(8), 2))[::2]
    return scenes_of(small_frame, pairs) + scenes_of(other, pairs)


def annotation_of(scene, i):
    return annotate(scene, i + 1, DATES, seeded(1, i))


def test_caption_says_the_facts(scenes):
    for i, scene in enumerate(scenes):
        annotation = annotation_of(scene, i)
        assert captions.parse(annotation.caption) == scene.facts
        assert not captions.parse(annotation.caption).unexplained


def test_record_is_a_valid_annotation(scenes):
    for i, scene in enumerate(scenes):
        annotation = annotation_of(scene, i)
        assert parse_annotation(annotation.to_record(), f"{i + 1}.json", Counter()) == annotation


def test_labels_agree_with_the_caption(scenes):
    for i, scene in enumerate(scenes):
        a = annotation_of(scene, i)
        atoms = scene.facts.atoms()
        assert (a.atmosphere in (1, 3)) == (("vertical_stratification",) in atoms)
        assert (a.atmosphere in (2, 3)) == (("turbulent_mixing",) in atoms)
        assert a.low_coherence == (("noise",) in atoms)
        assert a.no_info == (("no_information",) in atoms)
        assert a.orbital_fringes == (("orbital_fringes",) in atoms)
        assert a.has_deformation == bool(scene.facts.patterns)
        assert a.has_deformation or a.no_info or ("no_deformation",) in atoms
        for event, pattern in zip(a.events, scene.facts.patterns, strict=True):
            assert (event.type, event.intensity) == (pattern.type, pattern.intensity)
        assert (a.label == ("Non_Deformation",)) == (not a.events)
        assert (a.volcano_phase == "rest") == (not a.events)


def test_there_is_something_of_everything(scenes):
    assert any(scene.events for scene in scenes)
    assert any(not scene.events for scene in scenes)
    assert any(("turbulent_mixing",) in scene.facts.scene for scene in scenes)
    senses = {event.los_sense for scene in scenes for event in scene.events}
    assert senses <= {"toward", "away"}


def test_polygons_lie_in_the_image_on_the_source(scenes):
    for scene in scenes:
        assert len(scene.outlines) == len(scene.layers.motions)
        for motion, seen in zip(scene.layers.motions, scene.outlines, strict=True):
            if seen is None:
                continue
            polygon = shapely.Polygon(seen.polygon)
            assert polygon.is_valid
            x0, y0, x1, y1 = polygon.bounds
            assert 0 <= x0 < x1 <= 144
            assert 0 <= y0 < y1 <= 144
            # Its strongest visible motion is inside, and of the sense that is told.
            strength = motion.los.abs() * scene.layers.place.land
            row, column = divmod(int(strength.argmax()), 480)
            peak = shapely.Point((column + 0.5) * 0.3, (row + 0.5) * 0.3)
            assert polygon.buffer(0.5).contains(peak)
            assert seen.toward == (float(motion.los[row, column]) > 0)


def test_a_source_that_moves_enough_on_coherent_land_is_labelled(scenes):
    for scene in scenes:
        if ("noise",) in scene.facts.scene:
            continue
        land = scene.layers.place.land
        spans = [float(m.los[land].max() - m.los[land].min()) for m in scene.layers.motions]
        assert len(scene.events) >= sum(span > 1.5 * 0.02773 for span in spans)


def test_coherent_land_shows_the_true_phase(scenes):
    checked = 0
    for scene in scenes:
        clear = scene.valid & (scene.layers.coherence > 0.5)
        if int(clear.sum()) > 5_000:
            error = torch.polar(
                torch.ones_like(scene.wrapped_phase),
                scene.wrapped_phase - scene.layers.unwrapped_phase,
            )
            assert float(torch.angle(error[clear]).abs().median()) < 0.15
            checked += 1
    assert checked > 3


def test_water_is_grain(scenes):
    scene = scenes[0]
    water = scene.valid & scene.layers.place.terrain.water
    phase = scene.wrapped_phase[water]
    assert float(torch.polar(torch.ones_like(phase), phase).mean().abs()) < 0.05
    assert float(scene.coherence[water].mean()) < 0.2


def test_batch_does_not_change_a_scene(small_frame):
    pairs = [(0, 3), (1, 5), (2, 7)]
    together = scenes_of(small_frame, pairs)
    for i, pair in enumerate(pairs):
        layers = replace(small_frame.layers(pair), flaws=Flaws())
        (alone,) = observe([layers], [seeded(0, i)])
        assert torch.equal(alone.wrapped_phase, together[i].wrapped_phase)
        assert torch.equal(alone.coherence, together[i].coherence)
        assert alone.facts == together[i].facts


def test_a_bare_scene_has_no_noise(small_frame):
    layers = small_frame.layers((0, 5))
    scene = bare(layers)
    error = scene.wrapped_phase - layers.unwrapped_phase
    assert float((error / (2 * torch.pi)).sub((error / (2 * torch.pi)).round()).abs().max()) < 1e-3
    assert scene.facts == observe([replace(layers, flaws=Flaws())], [seeded(0, 1)])[0].facts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_the_same_but_for_noise(small_frame):
    moved = small_frame.to("cuda")
    pairs = [(0, 3), (1, 5)]
    generators = [seeded(0, i, device="cuda") for i in range(2)]
    there = observe([moved.layers(pair) for pair in pairs], generators)
    here = scenes_of(small_frame, pairs)
    for ours, theirs in zip(here, there, strict=True):
        assert ours.facts == theirs.facts
        torch.testing.assert_close(
            theirs.layers.unwrapped_phase.cpu(), ours.layers.unwrapped_phase, rtol=0, atol=1e-3
        )
        clear = ours.valid & (ours.layers.coherence > 0.5)
        error = theirs.wrapped_phase.cpu() - ours.wrapped_phase
        assert float(torch.atan2(error.sin(), error.cos())[clear].abs().median()) < 0.2


def test_a_frame_moved_to_its_own_device_is_the_same(small_frame):
    ours, moved = small_frame.layers((0, 5)), small_frame.to("cpu").layers((0, 5))
    assert torch.equal(ours.unwrapped_phase, moved.unwrapped_phase)
    assert torch.equal(ours.coherence, moved.coherence)


def flawed(frame, flaws):
    return observe([replace(frame.layers((0, 5)), flaws=flaws)], [seeded(0, 1)])[0]


def test_flaws_are_said_and_labelled(small_frame):
    scene = flawed(small_frame, Flaws(corrupted=True, seed=3))
    record = annotation_of(scene, 0)
    assert record.corrupted
    assert record.caption == "The image is corrupted."
    assert not record.events
    for kind in ("debursting", "swath_merging"):
        scene = flawed(small_frame, Flaws(processing_error=kind, seed=3))
        record = annotation_of(scene, 0)
        assert record.processing_error == kind
        assert ("processing_error", kind) in captions.parse(record.caption).scene
    record = annotation_of(flawed(small_frame, Flaws(color_bar=True, seed=3)), 0)
    assert record.image_artifacts
    assert ("image_artifacts",) in captions.parse(record.caption).scene


def test_corruption_leaves_nothing_of_the_true_phase(small_frame):
    clean, corrupted = (
        flawed(small_frame, flaws) for flaws in (Flaws(), Flaws(corrupted=True, seed=3))
    )
    clear = corrupted.valid & (clean.layers.coherence > 0.5)
    difference = corrupted.wrapped_phase - clean.wrapped_phase
    phasor = torch.polar(torch.ones_like(difference), difference)[clear]
    assert float(phasor.mean().abs()) < 0.5


def test_what_a_lost_swath_hides_is_not_told(small_frame):
    scenes = [
        flawed(small_frame, Flaws(processing_error="swath_merging", seed=seed)) for seed in range(6)
    ]
    lost = [s for s in scenes if bool((small_frame.place.footprint & ~s.valid).any())]
    for scene in lost:
        for seen in scene.outlines:
            if seen is not None:
                x, y = seen.polygon[0]
                near = scene.valid[max(0, int(y / 0.3) - 9) : int(y / 0.3) + 9]
                assert bool(near[:, max(0, int(x / 0.3) - 9) : int(x / 0.3) + 9].any())
