"""Facts of captions counted by kind: told, missed and invented, against counts made by hand."""

import numpy as np
import pytest

from heph_vl.data.captions.facts import SCENE_ATOMS
from heph_vl.metrics.bootstrap import clusters
from heph_vl.metrics.caption_facts import GROUPS, KINDS, count_facts, kind_of, ratio

REFERENCES = [
    "A sill of low intensity on the left.",
    "A dyke on the right.",
    "No deformation. Noise on the left.",
    "No deformation. Turbulent mixing.",
]
TEXTS = [
    "A sill of high intensity on the left.",
    "No deformation.",
    "Noise on the left. No deformation.",
    "A mogi at the top.",
]
#            type level place no deformation noise atmosphere
WANTED = [[1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 2, 0], [0, 0, 0, 1, 0, 1]]
SAID = [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 2, 0], [1, 0, 1, 0, 0, 0]]
RIGHT = [[1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 2, 0], [0, 0, 0, 0, 0, 0]]
COLUMNS = ["type", "intensity", "place", "no deformation", "noise", "atmosphere"]


def test_counts_by_kind() -> None:
    counts = count_facts(REFERENCES, TEXTS)
    columns = [KINDS.index(name) for name in COLUMNS]
    for found, expected in (
        (counts.wanted, WANTED),
        (counts.said, SAID),
        (counts.right, RIGHT),
    ):
        assert found[:, columns].tolist() == expected
        assert found.shape == (4, len(KINDS))
        assert found.sum() == np.sum(expected)  # no flags
    assert counts.exact.tolist() == [False, False, True, False]
    assert counts.told.tolist() == [True, False, False, True]


def test_the_order_of_mention_is_no_difference() -> None:
    one = "A sill on the left and a dyke on the right."
    other = "A dyke on the right and a sill on the left."
    counts = count_facts([one, one], [other, "A sill on the right and a dyke on the left."])
    assert counts.exact.tolist() == [True, False]
    assert counts.right.sum(1).tolist() == [4, 2]  # swapped places: types or places, not both


def test_every_atom_has_a_kind() -> None:
    names = {
        ("noise", "left"): "noise",
        ("noise",): "noise",
        ("vertical_stratification", "high-altitude"): "atmosphere",
        ("turbulent_mixing",): "atmosphere",
        ("low_atmospheric_impact",): "atmosphere",
        ("no_deformation",): "no deformation",
        ("corrupted",): "flags",
        ("no_information",): "flags",
        ("processing_error", "debursting"): "flags",
        ("glacier_fringes",): "flags",
        ("deformation", "2", "sill"): "type",
        ("deformation", "1", "unspecified"): "type",
        ("deformation", "1", "intensity", "low"): "intensity",
        ("deformation", "3", "at", "left"): "place",
    }
    assert {atom: kind_of(atom) for atom in names} == names
    kinds = [kind_of(atom) for atom in SCENE_ATOMS]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "noise": 12, "atmosphere": 25, "flags": 8, "no deformation": 1,
    }  # fmt: skip


def test_groups_of_kinds() -> None:
    assert list(GROUPS) == ["all", "deformation", *KINDS]
    counts = count_facts(REFERENCES, TEXTS)
    sums = {group: [v.sum() for v in counts.sums(group)] for group in GROUPS}
    assert sums == {
        "all": [10, 9, 5],
        "deformation": [5, 5, 2],
        "atmosphere": [1, 0, 0],
        "noise": [2, 2, 2],
        "type": [2, 2, 1],
        "intensity": [1, 1, 0],
        "place": [2, 2, 1],
        "flags": [0, 0, 0],
        "no deformation": [2, 2, 1],
    }
    assert counts.sums("deformation")[0].tolist() == [3, 2, 0, 0]
    assert counts.f1() == pytest.approx(2 * 5 / 19)
    assert counts.f1("deformation") == pytest.approx(2 * 2 / 10)
    assert counts.f1("flags") == 0
    assert counts.f1("noise") == 1


def test_some_images_alone() -> None:
    kept = np.array([False, True, True, False])
    some = count_facts(REFERENCES, TEXTS).of(kept)
    alone = count_facts(REFERENCES[1:3], TEXTS[1:3])
    for name, values in vars(alone).items():
        assert np.array_equal(getattr(some, name), values), name


def test_a_ratio_is_of_sums_not_a_mean_of_ratios() -> None:
    units = clusters(np.array([[1, 0], [1, 0], [0, 1]]), ["a", "b"])
    statistic = ratio(units.members, np.array([1.0, 2.0, 0.0]), np.array([2.0, 4.0, 3.0]))
    assert statistic(np.array([[1.0, 1.0]]))[0] == pytest.approx(3 / 9)
    assert statistic(np.array([[2.0, 1.0]]))[0] == pytest.approx(6 / 15)
    assert statistic(np.array([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx([0, 0.5])
    nothing = ratio(units.members, np.zeros(3), np.array([0.0, 0.0, 1.0]))
    assert np.isnan(nothing(np.array([[1.0, 0.0]]))[0])


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="zip"):
        count_facts(REFERENCES, TEXTS[:-1])
