"""Places: size and geometry from the name, dry ground under polygons, ice."""

import math

import numpy as np
import pytest
import torch

from heph_vl.data import splits
from heph_vl.simulate.place import (
    Site,
    draw_place,
    latitude_of,
    look_of,
    seeded,
    size_of,
    spacing_of,
)


@pytest.mark.parametrize(
    ("frame_id", "latitude", "heading"),
    [
        ("124D_04854_171313", 41.46, -169.05),
        ("049A_07091_051113", 19.09, -8.66),
        ("155D_02484_191814", 65.16, -160.2),
        ("169D_00001_020800", 27.7, -170.75),
        ("144A_SM_REUN_S6", -21.2, -8.78),
    ],
)
def test_geometry_comes_from_the_name(frame_id, latitude, heading):
    assert latitude_of(frame_id) == pytest.approx(latitude)
    look = look_of(frame_id, 39.0)
    assert look.heading_deg == pytest.approx(heading, abs=0.1)
    assert (look.vector[0] > 0) == (frame_id[3] == "D")


@pytest.mark.parametrize("frame_id", sorted(splits.FRAMES))
def test_size_gives_the_tiles_of_the_frame(frame_id):
    from heph_vl.simulate import place

    height, width = size_of(frame_id)
    known = place.known_frames()[frame_id]
    assert (height // 224) * (width // 224) == known.tiles
    assert height % 3 == width % 3 == 0
    assert width > known.reach[0]
    assert height > known.reach[1]
    assert max(height, width) < 2_200
    assert max(height, width) <= 3 * min(height, width)
    assert known.ground in ("islands", "coast", "range")


def test_size_grows_with_polygons_of_unknownknown_frames():
    assert size_of("001A_05000_131313") == (786, 786)
    wide = size_of("001A_05000_131313", [((900.0, 5.0), (1_000.5, 5.0), (950.0, 30.0))])
    assert wide == (786, 1_011)
    # Those of Hephaestus have their size.
    far = [((900.0, 5.0), (1_000.5, 5.0), (950.0, 30.0))]
    assert size_of("106A_09090_000404", far) == size_of("106A_09090_000404") == (306, 423)


def test_stripmap_previews_are_finer():
    assert spacing_of("144A_SM_REUN_S6") == pytest.approx(1 / 1080)
    assert spacing_of("128D_09016_110500") == pytest.approx(1 / 300)


POLYGON = ((20.0, 100.0), (45.0, 100.0), (45.0, 125.0), (20.0, 125.0))


@pytest.mark.parametrize("seed", range(3))
def test_polygons_lie_on_dry_ground_inside_the_swath(seed):
    site = Site("106A_09090_000404", (144, 150), (POLYGON,))
    place = draw_place(site, seed)
    assert place.terrain.elevation.shape == (480, 500)
    inside = place.land[334:416, 67:150]
    assert float(inside.float().mean()) == 1.0
    again = draw_place(site, seed)
    assert torch.equal(place.terrain.elevation, again.terrain.elevation)
    assert torch.equal(place.footprint, again.footprint)


def test_large_polygons_may_reach_the_sea():
    wide = ((5.0, 5.0), (140.0, 5.0), (140.0, 140.0), (5.0, 140.0))
    place = draw_place(Site("106A_09090_000404", (144, 144), (wide,)), 1)
    assert bool(place.terrain.water.any())


def test_icy_sites_have_ice_that_flows():
    place = draw_place(Site("155D_02579_100800", (240, 300), (POLYGON,), icy=True), 0)
    phase, kept = place.ice(12.0)
    assert bool((phase[~place.terrain.snow] == 0).all())
    assert float(phase.max() - phase.min()) > 2 * math.pi
    assert float(kept.min()) < 1.0
    longer, _ = place.ice(24.0)
    torch.testing.assert_close(longer, 2 * phase, rtol=1e-4, atol=1e-4)
    assert not bool(place.terrain.snow[334:416, 67:150].any())


def test_seeds_and_keys_give_streams_of_their_own():
    numbers = [
        float(torch.rand((), generator=seeded(*key)))
        for key in ((0, "a"), (0, "b"), (1, "a"), (0, "a", 1))
    ]
    assert len(set(numbers)) == 4
    assert numbers[0] == float(torch.rand((), generator=seeded(0, "a")))


@pytest.mark.real_data
def test_real_polygons_fit(shared):
    from heph_vl.data.annotations import read_annotations
    from heph_vl.simulate.twin import sites_of

    records = read_annotations(shared / "data/hephaestus/annotations.tar.gz").annotations
    sites = sites_of(records)
    assert len(sites) == 38
    for site in sites.values():
        for polygon in site.polygons:
            x, y = np.asarray(polygon).max(axis=0)
            assert (x, y) < (site.native[1], site.native[0])
    assert {s.frame_id for s in sites.values() if s.icy} == {
        "155D_02579_100800",
        "155D_02484_191814",
    }
