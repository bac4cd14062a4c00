"""Scenes: what is written in the record is in the picture."""

from collections import Counter
from itertools import combinations

import pytest
import shapely
import torch

from heph_vl.data import captions
from heph_vl.data.annotations import parse_annotation
from heph_vl.simulate.frame import draw_frame, seeded
from heph_vl.simulate.scene import Scene, simulate_scenes


def scenes_of(frame, pairs, seed=0):
    return simulate_scenes(frame, pairs, [seeded(seed, i) for i in range(len(pairs))])


@pytest.fixture(scope="module")
def scenes(small_frame) -> list[Scene]:
    other = draw_frame("032D_09854_070505", size=144, dates=8, seed=12)
    pairs = list(combinations(range(8), 2))[::2]
    return scenes_of(small_frame, pairs) + scenes_of(other, pairs)


def test_caption_says_the_facts(scenes):
    for i, scene in enumerate(scenes):
        annotation = scene.annotation(i + 1, seeded(1, i))
        assert captions.parse(annotation.caption) == scene.facts
        assert not captions.parse(annotation.caption).unexplained


def test_record_is_a_valid_annotation(scenes):
    for i, scene in enumerate(scenes):
        annotation = scene.annotation(i + 1, seeded(1, i))
        assert parse_annotation(annotation.to_record(), f"{i + 1}.json", Counter()) == annotation


def test_labels_agree_with_the_caption(scenes):
    for i, scene in enumerate(scenes):
        a = scene.annotation(i + 1, seeded(1, i))
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
        for event in scene.events:
            polygon = shapely.Polygon(event.polygon)
            assert polygon.is_valid
            x0, y0, x1, y1 = polygon.bounds
            assert 0 <= x0 < x1 <= 144
            assert 0 <= y0 < y1 <= 144
            # The strongest motion of one of the sources is inside.
            peaks = []
            land = scene.valid & ~scene.frame.terrain.water
            for source in scene.frame.sources:
                row, column = divmod(int((source.unit.abs() * land).argmax()), 480)
                peaks.append(shapely.Point((column + 0.5) * 0.3, (row + 0.5) * 0.3))
            assert any(polygon.buffer(0.5).contains(peak) for peak in peaks)


def test_a_source_that_moves_enough_on_coherent_land_is_labelled(scenes):
    for scene in scenes:
        if ("noise",) in scene.facts.scene:
            continue
        moving = [s for s in scene.frame.sources if abs(scene.frame.difference(s, scene.pair)) > 1]
        assert len(scene.events) >= min(1, len(moving))


def test_coherent_land_shows_the_true_phase(scenes):
    checked = 0
    for scene in scenes:
        clear = scene.valid & (scene.true_coherence > 0.5)
        if int(clear.sum()) > 5_000:
            error = torch.polar(
                torch.ones_like(scene.wrapped_phase), scene.wrapped_phase - scene.unwrapped_phase
            )
            assert float(torch.angle(error[clear]).abs().median()) < 0.15
            checked += 1
    assert checked > 3


def test_water_is_grain(scenes):
    scene = scenes[0]
    water = scene.valid & scene.frame.terrain.water
    phase = scene.wrapped_phase[water]
    assert float(torch.polar(torch.ones_like(phase), phase).mean().abs()) < 0.05
    assert float(scene.coherence[water].mean()) < 0.2


def test_batch_does_not_change_a_scene(small_frame):
    pairs = [(0, 3), (1, 5), (2, 7)]
    together = scenes_of(small_frame, pairs)
    for i, pair in enumerate(pairs):
        (alone,) = simulate_scenes(small_frame, [pair], [seeded(0, i)])
        assert torch.equal(alone.wrapped_phase, together[i].wrapped_phase)
        assert torch.equal(alone.coherence, together[i].coherence)
        assert alone.facts == together[i].facts
