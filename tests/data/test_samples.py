"""Image, mask, polygons, facts and labels move together."""

import io

import numpy as np
import pytest
from PIL import Image

from heph_vl.data import captions, samples
from heph_vl.data.annotations import ACTIVITY_TYPES
from heph_vl.data.archive import rasterise
from heph_vl.errors import HephError

WIDTH, HEIGHT = 90, 60
CAPTION = (
    "Turbulent mixing effect can be detected on the left side of the region. "
    "A sill-type deformation pattern of high intensity is detected on the top-right side."
)


def make_row(**changes):
    row = {
        "unique_id": 7,
        "caption": CAPTION,
        "pass_direction": "ascending",
        "volcano_phase": "unrest",
        "atmosphere": 2,
        "activity_types": ["sill"],
        "intensities": ["high"],
        "polygons": [[[62.0, 4.0], [80.0, 4.0], [80.0, 15.0], [62.0, 15.0]]],
        "los_sense": ["toward"],
        **dict.fromkeys(samples.QUALITY_FLAGS, False),
        "processing_error": "none",
    }
    return row | changes


def make_interferogram(row, seed=0):
    rng = np.random.default_rng(seed)
    phase = rng.uniform(-np.pi, np.pi, (HEIGHT, WIDTH)).astype(np.float32)
    valid = np.ones(phase.shape, bool)
    valid[-5:] = False
    coherence = rng.uniform(0, 1, phase.shape).astype(np.float32)
    mask = rasterise(samples.row_events(row), (WIDTH, HEIGHT))
    return phase, samples.from_phase(phase, valid, coherence, mask)


@pytest.fixture
def sample():
    row = make_row()
    return samples.whole(make_interferogram(row)[1], row, estimated=False)


def angle(code):
    return np.where(code > 0, (code.astype(float) - 1) * 2 * np.pi / 255, np.nan)


def circular_error(a, b):
    return np.abs(np.angle(np.exp(1j * (a - b))))


def test_phase_code_keeps_phase_to_half_a_step():
    phase, interferogram = make_interferogram(make_row())
    error = circular_error(angle(interferogram.phase_code), phase)[:-5]
    assert error.max() <= np.pi / 255 + 1e-5
    assert (interferogram.phase_code[-5:] == 0).all()


def test_pixels_are_unit_phasors_where_there_is_data_and_zero_elsewhere(sample):
    channels, valid = samples.pixels(sample)
    assert channels.shape == (3, HEIGHT, WIDTH)
    assert channels.dtype == np.float32
    np.testing.assert_allclose(np.hypot(*channels[:2])[valid], 1, atol=1e-6)
    assert (channels[:, ~valid] == 0).all()
    recovered = np.arctan2(channels[1], channels[0])[valid]
    assert circular_error(recovered, angle(sample.phase_code)[valid]).max() < 1e-5


def test_whole_says_what_the_row_says(sample):
    assert sample.facts == captions.parse(CAPTION)
    assert sample.volcano_phase == samples.VOLCANO_PHASES.index("unrest")
    assert set(np.unique(sample.mask)) == {0, ACTIVITY_TYPES.index("sill") + 1}
    assert not any(sample.quality)
    with_error = make_row(processing_error="debursting", low_coherence=True)
    quality = samples.whole(make_interferogram(with_error)[1], with_error, estimated=False).quality
    assert [n for n, on in zip(samples.QUALITY_FLAGS, quality, strict=True) if on] == [
        "processing_error",
        "low_coherence",
    ]


def test_estimated_coherence_stands_in_for_the_measured_one():
    row = make_row()
    interferogram = make_interferogram(row)[1]
    estimated = samples.whole(interferogram, row, estimated=True).coherence
    assert (estimated == interferogram.estimated_coherence).all()
    assert (samples.whole(interferogram, row, estimated=False).coherence != estimated).any()


def test_decoded_arrays_give_the_pixels_of_their_interferogram():
    y, x = np.mgrid[:40, :50]
    wrapped = np.angle(np.exp(1j * (0.3 * x + 0.002 * y**2))).astype(np.float32)
    valid = x > 5
    measured = np.linspace(0, 1, wrapped.size, dtype=np.float32).reshape(wrapped.shape)
    for coherence in (None, measured):
        expected = samples.image_pixels(samples.from_phase(wrapped, valid, coherence))
        found = samples.decoded_pixels(wrapped, valid, coherence)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_mirror_moves_everything_together(sample):
    mirrored = samples.mirror(sample)
    assert (mirrored.phase_code == sample.phase_code[:, ::-1]).all()
    assert (rasterise(mirrored.events, (WIDTH, HEIGHT)) == mirrored.mask).all()
    assert mirrored.pass_direction == "descending"
    assert ("deformation", "1", "at", "top-left") in mirrored.facts.atoms()
    assert ("turbulent_mixing", "right") in mirrored.facts.atoms()
    assert mirrored.caption is None
    twice = samples.mirror(mirrored)
    assert (twice.phase_code == sample.phase_code).all()
    assert twice.facts == sample.facts
    assert twice.events == sample.events


def test_negate_reverses_sense_and_hides_the_volcano_phase(sample):
    negated = samples.negate(sample)
    total = circular_error(angle(negated.phase_code), -angle(sample.phase_code))
    assert np.nanmax(total) < 1e-6
    assert (negated.phase_code == 0).tolist() == (sample.phase_code == 0).tolist()
    assert [e.los_sense for e in negated.events] == ["away"]
    assert negated.volcano_phase == -1
    assert (samples.negate(negated).phase_code == sample.phase_code).all()


def test_negated_rest_stays_rest():
    row = make_row(
        caption="No deformation activity can be detected.", activity_types=[], intensities=[],
        polygons=[], los_sense=[], volcano_phase="rest",
    )  # fmt: skip
    sample = samples.whole(make_interferogram(row)[1], row, estimated=False)
    assert samples.negate(sample).volcano_phase == samples.VOLCANO_PHASES.index("rest")


def test_shift_adds_one_constant_on_the_circle(sample):
    shifted = samples.shift_phase(sample, 100)
    difference = circular_error(
        angle(shifted.phase_code), angle(sample.phase_code) + 200 * np.pi / 255
    )
    assert np.nanmax(difference) < 1e-6
    assert (shifted.phase_code[-5:] == 0).all()


def test_crop_with_the_pattern_keeps_it_in_its_new_place(sample):
    cut = samples.crop(sample, (50, 0, 90, 40))
    assert (rasterise(cut.events, (40, 40)) == cut.mask).all()
    assert cut.mask.any()
    patterns = cut.facts.patterns
    assert [(p.type, p.intensity) for p in patterns] == [("sill", "high")]
    assert patterns[0].regions <= {"top", "top-left", "center", "left", "right", "top-right"}
    assert cut.volcano_phase == samples.VOLCANO_PHASES.index("unrest")


def test_crop_without_the_pattern_says_so(sample):
    cut = samples.crop(sample, (0, 20, 40, 60))
    assert not cut.mask.any()
    assert cut.events == ()
    assert ("no_deformation",) in cut.facts.atoms()
    assert ("turbulent_mixing",) in cut.facts.atoms()
    assert cut.atmosphere == 2
    assert cut.volcano_phase == samples.VOLCANO_PHASES.index("rest")


def test_a_sliver_of_a_pattern_is_neither_told_nor_denied(sample):
    cut = samples.crop(sample, (0, 0, 64, 40))  # two of the polygon's eighteen columns
    assert cut.mask.any()
    assert cut.events == ()
    assert cut.facts.patterns == ()
    assert ("no_deformation",) not in cut.facts.scene


def test_crop_away_from_the_atmosphere_loses_its_label(sample):
    cut = samples.crop(sample, (60, 0, 90, 30))
    assert cut.atmosphere == 0
    assert ("turbulent_mixing",) not in cut.facts.atoms()


def test_crop_says_noise_only_where_its_coherence_is_low():
    row = make_row(caption="Noise can be detected on the left side. No deformation is detected.")
    row |= {"activity_types": [], "intensities": [], "polygons": [], "los_sense": []}
    phase = np.zeros((HEIGHT, WIDTH), np.float32)
    coherence = np.full(phase.shape, 0.9, np.float32)
    coherence[:30, :30] = 0.1
    made = samples.from_phase(phase, np.ones(phase.shape, bool), coherence)
    sample = samples.whole(made, row, estimated=False)
    assert ("noise", "left") in sample.facts.scene
    noisy, clear = samples.crop(sample, (0, 0, 60, 30)), samples.crop(sample, (0, 30, 60, 60))
    assert ("noise",) in noisy.facts.scene
    assert not any(atom[0] == "noise" for atom in clear.facts.scene)


@pytest.mark.parametrize(
    ("region", "corners"),
    [
        ("top", (0, 0, 20, 90)),
        ("right", (0, 60, 60, 90)),
        ("center", (20, 30, 40, 60)),
        ("bottom-left", (40, 0, 60, 30)),
        ("everywhere", (0, 0, 60, 90)),
    ],
)
def test_area_of_a_region(region, corners):
    marked = np.zeros((HEIGHT, WIDTH), bool)
    marked[samples._area_of(region, HEIGHT, WIDTH)] = True
    rows, columns = np.nonzero(marked)
    found = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    assert found == corners
    assert marked.sum() == (found[2] - found[0]) * (found[3] - found[1])


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def test_mask_of_another_size_is_refused():
    image = np.zeros((20, 20, 3), np.uint8) + np.array([250, 248, 191], np.uint8)
    image[::2] = (49, 55, 149)
    row = make_row(image=png(image), coherence=None, mask=png(np.zeros((19, 20), np.uint8)))
    with pytest.raises(HephError, match="interferogram 7: mask: 20 x 19 px, its image 20 x 20 px"):
        samples.read_row(row)
