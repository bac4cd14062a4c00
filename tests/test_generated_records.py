"""Records of generated pictures: what is asked for is said, what it leaves open is what is seen."""

from types import SimpleNamespace

import numpy as np
import pytest

from heph_vl.data import captions
from heph_vl.data.annotations import ACTIVITY_TYPES, Annotation
from heph_vl.data.labels import LABELS
from heph_vl.generated_records import FRAME_ID, record_of, unlabelled
from heph_vl.models.pipeline import InSAROutput
from heph_vl.models.prediction import Prediction

SIDE = 48


def seen(deformation=0.9, kinds=(), air="none", level="high", mask=None, flags=(), sure=0.8):
    """Heads that see the same in every picture, deforming where `mask` is if anything does."""

    def of(group, chosen):
        return np.array([0.9 if name in chosen else 0.02 for name in LABELS[group]], np.float32)

    grid = np.zeros((SIDE, SIDE), np.uint8) if mask is None else mask
    belief = np.where(grid > 0, sure, 0.01).astype(np.float32)
    found = Prediction(
        deformation=deformation,
        activity_types=of("activity_types", kinds),
        intensities=of("intensities", [level]),
        volcano_phase=of("volcano_phase", ["rest"]),
        atmosphere=of("atmosphere", [air]),
        quality=of("quality", flags),
        present={"deformation": np.array([deformation >= 0.5])},
        mask=np.where(belief * deformation >= 0.5, grid, 0).astype(np.uint8),
        mask_probability=belief * np.float32(deformation),
        mask_if_deforming=belief,
        facts=None,
        logits={},
    )
    return SimpleNamespace(predict=lambda channels, valid: found)


def patches(**boxes):
    """Class ids: named by kind, (x0, y0, x1, y1) each."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for kind, (x0, y0, x1, y1) in boxes.items():
        mask[y0:y1, x0:x1] = ACTIVITY_TYPES.index(kind) + 1
    return mask


# A small one top-left, a larger one on the right, a middling one below.
THREE = patches(dyke=(4, 4, 12, 12), sill=(34, 18, 46, 30), mogi=(19, 34, 29, 44))


def drawn(valid=None):
    valid = np.ones((SIDE, SIDE), bool) if valid is None else valid
    phase = np.random.default_rng(0).uniform(-3, 3, (1, SIDE, SIDE)).astype(np.float32)
    return InSAROutput(phase, np.full_like(phase, 0.7), valid[None], [], [], [""])


def record(prompt, labels, valid=None):
    return record_of(7, captions.parse(prompt), drawn(valid), 0, labels)


def kinds(found):
    assert isinstance(found, Annotation), found
    return [(event.type, event.intensity) for event in found.events]


def box(event):
    x, y = np.array(event.polygon).T
    return [round(float(v)) for v in (x.min(), y.min(), x.max(), y.max())]


CALM = {"label": ("Non_Deformation",), "volcano_phase": "rest"}


@pytest.mark.parametrize(
    ("prompt", "events", "wanted"),
    [
        ("A mogi-type deformation of low intensity on the top-left side", [("mogi", "low")],
         {"label": ("Deformation",), "volcano_phase": "unrest"}),
        ("earthquake, turbulent mixing", [("earthquake", None)],
         {"label": ("Earthquake",), "atmosphere": 2, "volcano_phase": "none"}),
        ("a dyke of low intensity and an earthquake. vertical stratification",
         [("dyke", "low"), ("earthquake", None)],
         {"label": ("Deformation", "Earthquake"), "atmosphere": 1, "is_crowd": True,
          "volcano_phase": "unrest"}),
        ("deformation of medium intensity on the left", [("unidentified", "medium")],
         {"label": ("Deformation",), "volcano_phase": "unrest"}),
        ("no deformation, noise", [], CALM | {"low_coherence": True}),
        ("no deformation, turbulent mixing, vertical stratification", [], CALM | {"atmosphere": 3}),
        ("corrupted", [], CALM | {"corrupted": True}),
        ("no information", [], CALM | {"no_info": True}),
        ("no deformation, orbital fringes, glacier fringes, image artifacts, debursting error", [],
         CALM | {"orbital_fringes": True, "glacier_fringes": True, "image_artifacts": True,
                 "processing_error": "debursting"}),
    ],
)  # fmt: skip
def test_a_record_says_what_the_prompt_says(prompt, events, wanted):
    said = captions.parse(prompt)
    found = record(prompt, seen(0.9 if said.patterns else 0.1, mask=THREE))
    assert kinds(found) == events
    flags = ("corrupted", "no_info", "low_coherence", "orbital_fringes", "glacier_fringes")
    usual = dict.fromkeys((*flags, "image_artifacts", "is_crowd"), False)
    for name, value in (usual | {"atmosphere": 0, "processing_error": "none"} | wanted).items():
        assert getattr(found, name) == value, name
    assert (found.unique_id, found.frame_id) == (7, FRAME_ID)
    atoms = captions.parse(found.caption).atoms()
    assert said.atoms() <= atoms
    assert all(
        atom[0] in ("low_atmospheric_impact", "deformation") for atom in atoms - said.atoms()
    )


def test_heads_add_outlines_air_and_flags_to_what_is_asked_for():
    labels = seen(kinds=["sill"], air="turbulent_mixing", mask=THREE, flags=("low_coherence",))
    found = record("a mogi on the top-left side", labels)
    # Type and place are the prompt's, whatever types the heads see.
    assert kinds(found) == [("mogi", "high")]
    assert box(found.events[0]) == [4, 4, 12, 12]
    assert (found.atmosphere, found.low_coherence) == (2, True)
    facts = captions.parse(found.caption)
    assert ("deformation", "1", "at", "top-left") in facts.atoms()
    assert facts.scene == {("turbulent_mixing",), ("noise",)}


def test_heads_do_not_overrule_what_is_said():
    labels = seen(kinds=["dyke"], air="vertical_stratification", mask=THREE, level="high",
                  flags=("low_coherence", "processing_error"))  # fmt: skip
    prompt = "a mogi of low intensity. turbulent mixing. noise on the left. debursting error"
    found = record(prompt, labels)
    assert kinds(found) == [("mogi", "low")]
    assert found.atmosphere == 2
    assert found.processing_error == "debursting"
    assert captions.parse(found.caption).regions_of("noise") == {"left"}
    calm = record("a sill of low intensity, low atmospheric impact", seen(air="both", mask=THREE))
    assert calm.atmosphere == 0


def test_what_says_all_gets_nothing_added():
    labels = seen(0.1, air="both", flags=("low_coherence", "image_artifacts"))
    for prompt in ("corrupted", "no information"):
        found = record(prompt, labels)
        assert (found.atmosphere, found.low_coherence, found.image_artifacts) == (0, False, False)
        assert captions.parse(found.caption) == captions.parse(prompt)


def test_what_the_prompt_leaves_open_is_what_heads_see():
    found = record("turbulent mixing", seen(mask=THREE, level="medium", air="none"))
    assert kinds(found) == [("sill", "medium"), ("mogi", "medium"), ("dyke", "medium")]
    boxes = [[34, 18, 46, 30], [19, 34, 29, 44], [4, 4, 12, 12]]
    assert [box(event) for event in found.events] == boxes
    assert found.is_crowd
    assert found.atmosphere == 2
    calm = record("", seen(0.1, mask=THREE, air="both"))
    assert (calm.label, calm.events, calm.atmosphere) == (("Non_Deformation",), (), 3)
    assert ("no_deformation",) in captions.parse(calm.caption).scene


def test_no_information_is_asked_for_and_never_seen():
    found = record("", seen(0.1, air="both", flags=("no_info",)))
    assert (found.no_info, found.atmosphere) == (False, 3)
    assert captions.parse(found.caption).scene >= {("no_deformation",), ("turbulent_mixing",)}
    found = record("a sill on the left", seen(mask=THREE, air="both", flags=("no_info",)))
    assert found.atmosphere == 3


def test_a_picture_seen_as_corrupted_is_labelled_only_if_that_was_asked_for():
    labels = seen(0.1, air="both", flags=("corrupted",))
    assert record("", labels) == "the heads see a corrupted picture"
    assert record("no deformation", labels) == "the heads see a corrupted picture"
    assert record("corrupted", labels).corrupted


def test_the_heads_own_threshold_says_if_the_ground_deforms():
    for level, present in ((0.3, True), (0.7, False)):
        labels = seen(level, mask=THREE, kinds=["sill"])
        labels.predict(None, None).present["deformation"][:] = present
        assert bool(record("", labels).events) == present
        found = record("a sill", labels)
        assert isinstance(found, Annotation) == present


@pytest.mark.parametrize(
    ("prompt", "labels", "reason"),
    [
        ("a sill", seen(0.9), "the heads see no outline"),  # no pixel is believed in
        ("a sill", seen(0.1, mask=THREE), "the heads see no deformation"),
        ("no deformation", seen(0.9, mask=THREE), "the heads see a deformation"),
        ("corrupted", seen(0.9, mask=THREE), "the heads see a deformation"),
        ("a sill and a dyke", seen(mask=patches(sill=(4, 4, 20, 20))), "the heads see no outline"),
    ],
)  # fmt: skip
def test_a_picture_that_is_not_what_was_asked_for_gets_no_record(prompt, labels, reason):
    found = record(prompt, labels)
    assert isinstance(found, Annotation) if reason is None else found == reason


def test_a_picture_without_data_or_heads_without_masks_give_no_record():
    nothing = np.zeros((SIDE, SIDE), bool)
    assert record("a sill", seen(mask=THREE), nothing) == "it has no data"
    labels = seen(mask=THREE)
    object.__setattr__(labels.predict(None, None), "mask_if_deforming", None)
    assert record("a sill", labels) == "the heads see no outline"


def test_outlines_run_where_belief_is_half_of_its_highest_and_where_there_is_data():
    found = record("a sill", seen(mask=THREE, sure=0.2))
    assert box(found.events[0]) == [34, 18, 46, 30]  # no place is named: the largest
    valid = np.ones((SIDE, SIDE), bool)
    valid[:, 40:] = False
    found = record("a sill on the right", seen(mask=THREE), valid)
    assert box(found.events[0]) == [34, 18, 40, 30]


def test_each_pattern_has_an_outline_of_its_own():
    prompt = "an earthquake on the top-left side and a mogi on the right side. a dyke"
    found = record(prompt, seen(mask=THREE))
    assert kinds(found) == [("earthquake", None), ("mogi", "high"), ("dyke", "high")]
    boxes = [[4, 4, 12, 12], [34, 18, 46, 30], [19, 34, 29, 44]]
    assert [box(event) for event in found.events] == boxes
    one = record("a mogi", seen(mask=patches(sill=(4, 4, 20, 20))))  # the only one there is
    assert box(one.events[0]) == [4, 4, 20, 20]


def test_dates_are_of_no_satellite_and_tell_long_baselines():
    first, other = unlabelled(1), unlabelled(2)
    assert first.primary_date.year == 1900
    assert (first.secondary_date - first.primary_date).days == 12
    assert first.pair_name != other.pair_name
    long = record("no deformation, long temporal baseline", seen(0.1))
    assert ("long_temporal_baseline",) in captions.parse(long.caption).scene
    assert (long.secondary_date - long.primary_date).days == 400
