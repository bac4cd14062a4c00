"""What a patch shows is what is said of it: windows, masks, labels, captions."""

from collections import Counter
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from heph_vl.data import captions
from heph_vl.data.annotations import Annotation, Event, read_annotations
from heph_vl.data.archive import load_pair, scan_archive
from heph_vl.data.native import NativePair
from heph_vl.data.patches import (
    PatchConfig,
    contains,
    crop_window,
    cut_patches,
    official_labels,
    patch_caption,
    patch_labels,
    tile_windows,
)
from heph_vl.data.raster import CLASS_IDS, rasterise
from tests.data.fake_archive import write_fake_archive

side = st.integers(10, 300)
sizes = st.tuples(side, side)


def box(x0, y0, x1, y1):
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def annotation(events, **changes):
    label = ("Deformation",) if events else ("Non_Deformation",)
    fields = {
        "unique_id": 41,
        "frame_id": "128D_09016_110500",
        "primary_date": date(2018, 1, 1),
        "secondary_date": date(2018, 1, 13),
        "corrupted": False,
        "processing_error": "none",
        "glacier_fringes": False,
        "orbital_fringes": False,
        "atmosphere": 0,
        "low_coherence": False,
        "no_info": False,
        "image_artifacts": False,
        "label": label,
        "events": tuple(events),
        "volcano_phase": "unrest" if events else "rest",
        "confidence": 0.8,
        "is_crowd": len(events) > 1,
        "caption": "No deformation activity can be detected.",
    }
    return Annotation(**fields | changes)


def native_pair(size, events=(), valid=None):
    """A pair whose pixel values tell their place: red is the column, green the row."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    pixels = np.dstack([columns % 256, rows % 256, np.full_like(rows, 7)]).astype(np.uint8)
    if valid is not None:
        pixels[~valid] = 255
    coherence = (columns % 256 / 255).astype(np.float32)
    image = Image.fromarray(pixels)
    mask = rasterise(events, size)
    return NativePair(b"", b"", mask, size, tuple(events), 1 / 300, image, coherence)


@settings(deadline=None)
@given(sizes, st.integers(8, 120))
def test_tiles_cover_everything_once_but_for_the_edge(image_size, size):
    width, height = image_size
    cover = np.zeros((height, width), int)
    windows = tile_windows(image_size, size)
    for x0, y0, x1, y1 in windows:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert (x1 - x0, y1 - y0) == (min(size, width), min(size, height))
        cover[y0:y1, x0:x1] += 1
    assert cover.min() == 1
    # Only tiles of the last column and row may lie over others, and only where they must.
    assert (cover[: height // size * size - size + 1, : width // size * size - size + 1] == 1).all()
    assert len(windows) == -(-width // size) * -(-height // size)
    assert len(set(windows)) == len(windows)


def test_tiles_keep_the_published_numbers():
    windows = tile_windows((500, 700), 224)
    # The published tiles: floor(700 / 224) rows of floor(500 / 224), row by row.
    assert windows[:6] == [(x, y, x + 224, y + 224) for y in (0, 224, 448) for x in (0, 224)]
    assert windows[6:] == [
        (276, 0, 500, 224),
        (276, 224, 500, 448),
        (276, 448, 500, 672),
        (0, 476, 224, 700),
        (224, 476, 448, 700),
        (276, 476, 500, 700),
    ]
    assert tile_windows((448, 224), 224) == [(0, 0, 224, 224), (224, 0, 448, 224)]
    assert tile_windows((100, 60), 224) == [(0, 0, 100, 60)]


@settings(deadline=None, max_examples=300)
@given(
    sizes,
    st.integers(8, 120),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.one_of(st.none(), st.integers(0, 5)),
)
def test_a_crop_contains_its_polygon_whenever_it_fits(image_size, size, corners, seed):
    width, height = image_size
    x0, x1 = sorted((corners[0] * width, corners[1] * width))
    y0, y1 = sorted((corners[2] * height, corners[3] * height))
    assume(x1 - x0 > 0.01)
    assume(y1 - y0 > 0.01)
    rng = None if seed is None else np.random.default_rng(seed)
    polygon = box(x0, y0, x1, y1)
    window = crop_window(polygon, image_size, size, rng)
    assert 0 <= window[0] < window[2] <= width
    assert 0 <= window[1] < window[3] <= height
    assert (window[2] - window[0], window[3] - window[1]) == (min(size, width), min(size, height))
    if np.ceil(x1) - np.floor(x0) <= size and np.ceil(y1) - np.floor(y0) <= size:
        assert contains(window, Event("mogi", None, polygon))


def test_jitter_moves_the_crop_and_none_puts_the_polygon_in_the_middle():
    polygon = box(240, 250, 260, 270)
    assert crop_window(polygon, (500, 500), 100) == (200, 210, 300, 310)
    seen = {
        crop_window(polygon, (500, 500), 100, np.random.default_rng(seed)) for seed in range(40)
    }
    assert len(seen) > 30
    assert {min(w[0] for w in seen) < 180, max(w[0] for w in seen) > 220} == {True}


@pytest.mark.parametrize("length", [80, 81])
def test_a_polygon_as_long_as_the_crop_is_not_cut(length):
    # The official code fails when a side is at least the crop size.
    polygon = box(30, 40, 30 + length, 50)
    window = crop_window(polygon, (300, 200), 80, np.random.default_rng(0))
    assert contains(window, Event("dyke", None, polygon)) == (length == 80)


event_boxes = st.lists(
    st.tuples(
        st.sampled_from(sorted(CLASS_IDS)),
        st.floats(0, 180),
        st.floats(0, 130),
        st.floats(3, 60),
        st.floats(3, 60),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(event_boxes, st.integers(0, 3))
def test_crops_say_what_their_masks_show(drawn, jitter):
    size = (200, 150)
    events = [
        Event(kind, "low", box(x, y, min(x + w, 200), min(y + h, 150)))
        for kind, x, y, w, h in drawn
    ]
    native = native_pair(size, events)
    counts = Counter()
    patches = cut_patches(annotation(events), native, PatchConfig(64, jitter), counts)
    assert counts["crops"] == len(events) == len(patches)
    assert counts["crops_cut"] == 0
    for patch, subject in zip(patches, events, strict=True):
        x0, y0, x1, y1 = patch.window
        assert contains(patch.window, subject)
        np.testing.assert_array_equal(patch.mask, native.mask[y0:y1, x0:x1])
        shown = {CLASS_IDS[event.type] for event in patch.events}
        assert shown == set(np.unique(patch.mask)) - {0}
        assert official_labels(annotation(events), patch)["Deformation"] == (sorted(shown) or [0])
        pixels = np.asarray(patch.image)
        assert (pixels[0, :, 0] == np.arange(x0, x1) % 256).all()
        assert (pixels[:, 0, 1] == np.arange(y0, y1) % 256).all()
        np.testing.assert_array_equal(patch.coherence[0], np.arange(x0, x1) % 256)
        for event in patch.events:
            moved = tuple((x + x0, y + y0) for x, y in event.polygon)
            assert any(np.allclose(moved, other.polygon) for other in events)


def test_names_are_those_of_the_published_patches():
    one, two = Event("mogi", "low", box(5, 5, 9, 9)), Event("sill", "low", box(50, 50, 60, 60))
    undrawn = Event("mogi", None, None)
    counts = Counter()

    def names(*events):
        native = native_pair((100, 100), events)
        cut = cut_patches(annotation(events), native, PatchConfig(32), counts)
        return [patch.name for patch in cut]

    assert names(one) == ["41"]
    assert names(one, two) == ["41_0", "41_1"]
    assert names(two, undrawn) == ["41"]
    assert counts["deformations_without_polygon"] == 1
    assert names() == [f"41_{k}" for k in range(16)]


def test_jitter_is_the_same_every_time_and_differs_between_records():
    event = Event("mogi", "low", box(40, 40, 50, 50))
    native = native_pair((200, 200), [event])

    def window(uid):
        return cut_patches(annotation([event], unique_id=uid), native, PatchConfig(48), Counter())[
            0
        ].window

    assert window(3) == window(3)
    assert len({window(uid) for uid in range(10)}) > 5


def test_tiles_without_data_are_dropped_and_counted():
    valid = np.zeros((64, 96), bool)
    valid[:, :32] = True
    valid[:32, 32:64] = True
    valid[32:48, 32:34] = True  # 32 of 1,024 pixels: 3.1 %
    valid[32:48, 64:68] = True  # 64 of 1,024 pixels: 6.25 %
    counts = Counter()
    patches = cut_patches(
        annotation([]), native_pair((96, 64), valid=valid), PatchConfig(32), counts
    )
    assert [patch.name for patch in patches] == ["41_0", "41_1", "41_3", "41_5"]
    assert counts["tiles"] == 4
    assert counts["tiles_without_data"] == 2


def test_labels_of_a_patch():
    quake, sill = Event("earthquake", None, box(0, 0, 9, 9)), Event("sill", "low", box(0, 0, 9, 9))
    both = annotation([sill, quake], label=("Deformation", "Earthquake"))
    assert patch_labels(both, [sill, quake]) == ("Deformation", "Earthquake")
    assert patch_labels(both, [sill]) == ("Deformation",)
    assert patch_labels(both, []) == ("Non_Deformation",)
    assert patch_labels(annotation([quake], label=("Earthquake",)), [quake]) == ("Earthquake",)


@pytest.mark.parametrize(
    ("event", "phase", "expected"),
    [
        (Event("mogi", "low", box(4, 4, 8, 8)), "unrest", ([1], 0, 1)),
        (Event("sill", "high", box(4, 4, 8, 8)), "rebound", ([3], 2, 2)),
        (Event("earthquake", None, box(4, 4, 8, 8)), "none", ([5], 3, 0)),
        (None, "rest", ([0], 0, 0)),
    ],
)
def test_official_label_codes(event, phase, expected):
    events = [event] if event else []
    record = annotation(events, volcano_phase=phase)
    native = native_pair((40, 40), events)
    patch = cut_patches(record, native, PatchConfig(16), Counter())[0]
    labels = official_labels(record, patch)
    assert (labels["Deformation"], labels["Intensity"], labels["Phase"]) == expected
    assert labels["frameID"] == "128D_09016_110500"
    assert labels["primary_date"] == "20180101"


def test_captions_of_patches_are_relative_to_the_patch(tmp_path):
    write_fake_archive(tmp_path, n=4, size=300)
    for pair in scan_archive(tmp_path).annotated:
        native = load_pair(pair)
        for patch in cut_patches(pair.annotation, native, PatchConfig(150, None), Counter()):
            facts = captions.parse(patch_caption(pair.annotation, native, patch.window))
            types = sorted(pattern.type for pattern in facts.patterns)
            assert types == sorted(event.type for event in patch.events)
            assert (("no_deformation",) in facts.scene) == (not patch.events)
            if len(patch.events) == 1:
                (x0, y0), (x1, y1) = (f(patch.events[0].polygon, axis=0) for f in (np.min, np.max))
                column, row = int((x0 + x1) / 2 // 50), int((y0 + y1) / 2 // 50)
                cells = captions.REGIONS[3 * row + column]
                assert facts.patterns[0].regions == {cells}


@pytest.mark.real_data
@pytest.mark.slow
def test_no_real_deformation_is_cut(shared):
    """The official code cuts 32 of 2,253 crops and gives 24 a class the frame does not have."""
    path = shared / "data" / "hephaestus" / "annotations.tar.gz"
    crops = 0
    for record in read_annotations(path).annotations:
        if not record.events:
            continue
        outlined = [event for event in record.events if event.polygon]
        corners = np.concatenate([event.polygon for event in outlined])
        size = tuple(int(v) + 1 for v in np.maximum(corners.max(axis=0), (700, 700)))
        native = replace(native_pair((1, 1)), size=size, events=record.events)
        native = replace(native, mask=rasterise(record.events, size), coherence=None)
        native = replace(native, image=Image.new("RGB", size))
        counts = Counter()
        for patch in cut_patches(record, native, PatchConfig(), counts):
            crops += 1
            classes = set(np.unique(patch.mask)) - {0}
            assert classes <= {CLASS_IDS[event.type] for event in record.events}
            assert CLASS_IDS[patch.subject.type] in classes
        assert counts["crops_cut"] == 0
    assert crops == 2253
