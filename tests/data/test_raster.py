"""Polygons to pixels: the pixel-centre rule, order of overlap, and the real masks."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from heph_vl.data.annotations import ACTIVITY_TYPES, Event, read_annotations
from heph_vl.data.raster import fill, polygon_area, rasterise, rasterise_instances


def box(x0, y0, x1, y1):
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def event(kind, polygon):
    return Event(kind, "low", tuple(polygon) if polygon else None)


def test_a_pixel_is_inside_if_its_centre_is():
    mask = rasterise([event("mogi", box(1.4, 2.6, 4.5, 4.4))], (8, 6))
    expected = np.zeros((6, 8), np.uint8)
    expected[3:4, 1:4] = 1  # centres x 1.5..3.5 (4.5 is on the open edge), y 3.5
    np.testing.assert_array_equal(mask, expected)


def test_width_is_columns_and_height_is_rows():
    mask = rasterise([event("dyke", box(5, 0, 7, 1))], (8, 3))
    assert mask.shape == (3, 8)
    assert mask[0, 5:7].tolist() == [2, 2]
    assert mask.sum() == 4


@pytest.mark.parametrize("kind", ACTIVITY_TYPES)
def test_class_id_is_position_plus_one(kind):
    assert rasterise([event(kind, box(0, 0, 2, 2))], (2, 2)).max() == (
        ACTIVITY_TYPES.index(kind) + 1
    )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_smaller_polygon_is_on_top_and_nothing_is_summed(order):
    # Dyke (2) + sill (3) summed would be earthquake (5).
    events = [event("dyke", box(0, 0, 10, 10)), event("sill", box(2, 2, 5, 5))]
    mask = rasterise([events[i] for i in order], (10, 10))
    assert set(np.unique(mask)) == {2, 3}
    assert (mask == 3).sum() == 9


def test_event_without_polygon_and_polygon_over_the_edge():
    events = [event("mogi", None), event("sill", box(-5, -5, 2, 3))]
    mask = rasterise(events, (4, 4))
    assert (mask == 3).sum() == 6
    assert mask[:3, :2].all()
    assert rasterise_instances(events, (4, 4)).max() == 2
    assert not rasterise([event("sill", box(-9, -9, -1, -1))], (4, 4)).any()


def test_a_polygon_thinner_than_a_pixel_is_not_lost():
    mask = rasterise([event("mogi", box(2.6, 1.7, 2.9, 1.9))], (6, 4))
    assert np.argwhere(mask).tolist() == [[1, 2]]
    assert rasterise([event("mogi", ((3, 0), (3, 4), (3, 2)))], (6, 4)).sum() == 1


def test_concave_and_self_crossing_polygons_follow_the_even_odd_rule():
    image = np.zeros((10, 10), np.uint8)
    fill(image, ((0, 0), (10, 0), (10, 10), (6, 10), (6, 4), (4, 4), (4, 10), (0, 10)), 1)
    assert image.sum() == 100 - 12
    assert not image[4:, 4:6].any()


corner = st.tuples(
    st.integers(0, 160).map(lambda v: v / 8), st.integers(0, 160).map(lambda v: v / 8)
)


@settings(deadline=None, max_examples=60)
@given(st.lists(corner, min_size=3, max_size=7))
@example([(0.0, 0.0), (0.375, 12.125), (9.75, 16.25)])  # a centre on an edge
def test_matches_the_definition_at_every_pixel(polygon):
    image = np.zeros((20, 20), np.uint8)
    fill(image, polygon, 1)
    edges = list(zip(polygon, polygon[1:] + polygon[:1], strict=True))
    reference = np.zeros_like(image)
    for row in range(20):
        for column in range(20):
            px, py = column + 0.5, row + 0.5
            crossings = [
                x0 + (py - y0) * (x1 - x0) / (y1 - y0)
                for (x0, y0), (x1, y1) in edges
                if (y0 <= py) != (y1 <= py)
            ]
            reference[row, column] = sum(px >= at for at in crossings) % 2
            if any(abs(px - at) < 1e-9 for at in crossings):  # on an edge rounding decides
                reference[row, column] = image[row, column]
    if reference.any():
        np.testing.assert_array_equal(image, reference)
    else:
        assert image.sum() <= 1


@settings(deadline=None, max_examples=60)
@given(corner, corner, corner, corner)
@example((4.5, 3.5), (0.0, 0.0), (19.5, 16.375), (0.0, 0.125))  # a centre on the shared edge
def test_triangles_that_share_an_edge_share_no_pixel_and_leave_none_out(a, b, c, d):
    one, two, both = (np.zeros((20, 20), np.uint8) for _ in range(3))
    fill(one, (a, b, c), 1)
    fill(two, (a, c, d), 1)
    fill(both, (a, b, c, d), 1)
    if min(one.sum(), two.sum(), both.sum()) > 1:  # else the rule for thin polygons may act
        np.testing.assert_array_equal(one ^ two, both)


def test_area_is_that_of_the_polygon():
    assert polygon_area(box(1, 1, 4, 3)) == 6
    assert polygon_area(box(1, 1, 4, 3)[::-1]) == 6


@pytest.mark.real_data
def test_official_masks_of_real_patches_are_found_again(shared):
    folder = shared / "data" / "hephaestus"
    records = {a.unique_id: a for a in read_annotations(folder / "annotations.tar.gz").annotations}
    checked = 0
    for entry in json.loads((folder / "patches" / "index.json").read_text()):
        if entry["kind"] == "tile":
            continue
        official = np.asarray(Image.open(folder / "patches" / "masks" / f"{entry['patch']}.png"))
        ours = rasterise(records[entry["uniqueID"]].events, (700, 700))
        kind = ACTIVITY_TYPES.index("mogi") + 1  # all these crops are of Fernandina's Mogi source
        a, b = (np.argwhere(mask == kind) for mask in (ours, official))
        shift = np.rint(b.mean(axis=0) - a.mean(axis=0)).astype(int)
        here, there = ({tuple(p) for p in a + shift}, {tuple(p) for p in b})
        # The official mask also fills the pixels that its outline touches.
        assert len(here & there) / len(here) > 0.97, entry
        assert len(here & there) / len(there) > 0.8, entry
        checked += 1
    assert checked == 15
