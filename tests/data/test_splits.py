"""Splits: the checked-in table, the four schemes, their leakage and their class counts."""

import gzip
import json
from collections import Counter
from datetime import date

import pytest

from heph_vl.data import split_search, splits
from heph_vl.data.annotations import Annotation, Event
from heph_vl.errors import HephError

SIERRA_NEGRA, KILAUEA, CAMPI_FLEGREI = splits.PAPER_HELD_OUT
ETNA, HIERRO = "124D_05291_081406", "169D_00001_020800"


def make(unique_id, frame_id=ETNA, primary="2018-01-01", secondary="2018-01-13", kinds=()):
    label = ("Deformation",) if kinds else ("Non_Deformation",)
    return Annotation(
        unique_id=unique_id,
        frame_id=frame_id,
        primary_date=date.fromisoformat(primary),
        secondary_date=date.fromisoformat(secondary),
        corrupted=False,
        processing_error="none",
        glacier_fringes=False,
        orbital_fringes=False,
        atmosphere=0,
        low_coherence=unique_id % 2 == 0,
        no_info=False,
        image_artifacts=False,
        label=label,
        events=tuple(Event(kind, "low", ((0, 0), (9, 0), (9, 9))) for kind in kinds),
        volcano_phase="unrest" if kinds else "rest",
        confidence=0.8,
        is_crowd=len(kinds) > 1,
        caption="caption",
    )


def test_table_has_all_frames_and_groups_once():
    assert len(splits.FRAMES) == 38
    assert len(splits.GROUPS) == 28
    listed = [frame for frames in splits.GROUPS.values() for frame in frames]
    assert sorted(listed) == sorted(splits.FRAMES)
    assert splits.GROUPS["galapagos-sierra-negra"] == ("106A_09090_000404", "128D_09016_110500")
    assert "Popocatépetl" in splits.VOLCANOES["005A_07021_131313"]
    assert all(frame.volcanoes and all(frame.volcanoes) for frame in splits.FRAMES.values())


def test_no_group_and_no_volcano_is_on_two_sides():
    for side in ("split", "fold"):
        for key in ("group", "volcanoes"):
            sides = {}
            for frame in splits.FRAMES.values():
                for name in [frame.group] if key == "group" else frame.volcanoes:
                    sides.setdefault(name, set()).add(getattr(frame, side))
            assert all(len(found) == 1 for found in sides.values()), (side, key)


def test_fixed_split_has_groups_enough_for_intervals():
    split = {frame.group: frame.split for frame in splits.FRAMES.values()}
    assert Counter(split.values()) == {"train": 15, "val": 5, "test": 8}
    assert split["galapagos-sierra-negra"] == "train"
    assert Counter(frame.fold for frame in splits.FRAMES.values()).keys() == {0, 1, 2, 3, 4}


def test_unknown_frame_is_its_own_group_and_never_changes_sides():
    assert splits.volcano_group("001A_00001_000001") == "001A_00001_000001"
    frames = [f"{i % 175 + 1:03}A_{i:05}_131313" for i in range(2000)]
    assigned = splits.assign([make(i, frame) for i, frame in enumerate(frames)])
    shares = Counter(assigned.values())
    assert shares["train"] / 2000 == pytest.approx(0.60, abs=0.04)
    assert shares["val"] / 2000 == pytest.approx(0.15, abs=0.03)
    # SHA-256 of the name: these hold on every machine, whatever else is in the archive.
    names = ("001A_00001_000001", "006A_00006_000001", "007A_00007_000001")  # 0.756, 0.222, 0.668
    found = splits.assign([make(i, name) for i, name in enumerate(names)])
    assert list(found.values()) == ["test", "train", "val"]
    folds = [splits.assign([make(0, names[0])], fold=k)[0] for k in range(5)]
    assert Counter(folds) == {"train": 3, "val": 1, "test": 1}


def test_each_fold_tests_once_and_validates_before():
    items = [make(i, frame) for i, frame in enumerate(splits.FRAMES)]
    by_fold = [splits.assign(items, fold=k) for k in range(5)]
    for item in items:
        sides = [assigned[item.unique_id] for assigned in by_fold]
        assert sorted(sides) == ["test", "train", "train", "train", "val"]
        # Fold k validates on what fold k + 1 tests.
        assert (sides.index("test") - sides.index("val")) % 5 == 1
        assert sides.index("test") == splits.FRAMES[item.frame_id].fold


def test_paper_holds_three_frames_out_by_year_without_unidentified():
    items = [
        make(1, ETNA),
        make(2, KILAUEA, "2017-12-31", "2018-01-12"),
        make(3, KILAUEA, "2018-01-01", "2018-01-13"),
        make(4, SIERRA_NEGRA, "2016-01-01", "2016-01-13", ("unidentified", "sill")),
        make(5, ETNA, kinds=("unidentified",)),
        make(6, "106A_09090_000404"),
        make(7, CAMPI_FLEGREI, "2014-11-01", "2014-11-13"),
    ]
    expected = {1: "train", 2: "val", 3: "test", 5: "train", 6: "train", 7: "val"}
    assert splits.assign(items, "paper") == expected


def test_temporal_wants_both_dates_in_one_period():
    items = [
        make(1, primary="2019-05-19", secondary="2019-05-31"),
        make(2, primary="2019-05-20", secondary="2019-06-01"),
        make(3, primary="2019-06-01", secondary="2019-12-31"),
        make(4, primary="2019-12-31", secondary="2020-01-06"),
        make(5, primary="2020-01-01", secondary="2021-12-31"),
        make(6, primary="2013-12-31", secondary="2014-01-12"),
        make(7, primary="2021-12-30", secondary="2022-01-05"),
    ]
    assigned = splits.assign(items, "temporal")
    assert assigned == {1: "train", 3: "val", 5: "test"}
    counts = splits.class_counts(items, assigned)
    assert [counts[part]["records"] for part in counts] == [1, 1, 1, 4]


PATCHES = {
    "train": {"0": ["1_0.json", "1_12.json", "2.json"], "1": ["3_1.json"]},
    "val": {"0": ["2_7.json", "4_0.json"], "1": ["5.json"]},
    "test": {"0": ["4_1.json", "4_2.json"], "1": ["3.json"]},
}


@pytest.mark.parametrize("opener", [open, gzip.open])
def test_official_gives_shared_interferograms_to_the_side_held_out_most(tmp_path, opener):
    path = tmp_path / "patches"
    with opener(path, "wb") as file:
        file.write(json.dumps(PATCHES).encode())
    items = [make(i, kinds=("mogi",) * (i == 3)) for i in range(1, 7)]
    assigned = splits.assign(items, "official", patch_file=path)
    assert assigned == {1: "train", 2: "val", 3: "test", 4: "test", 5: "val"}
    assert splits.read_patch_file(path)["test"] == {4: 2, 3: 1}
    report = splits.leakage(items, assigned, path)
    shared = {pair: found["interferograms"] for pair, found in report.items()}
    assert shared == {"train-val": 1, "train-test": 1, "val-test": 1}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "cannot be read"),
        (b'{"train": {}', "cannot be read"),
        (b"\x1f\x8bxx", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b'{"train": {}}', "not train, val and test"),
        (b'{"train": {}, "val": {}, "test": []}', "no lists"),
        (b'{"train": {"0": "1_0.json"}, "val": {}, "test": {}}', "no lists"),
        (b'{"train": {"0": ["../1.json"]}, "val": {}, "test": {}}', "no patch name"),
        (b'{"train": {"0": [1]}, "val": {}, "test": {}}', "no patch name"),
    ],
)
def test_bad_patch_file_is_one_line(tmp_path, content, what):
    (tmp_path / "p.json").write_bytes(content)
    with pytest.raises(HephError, match=what) as caught:
        splits.assign([], "official", patch_file=tmp_path / "p.json")
    assert "p.json" in caught.value.where


@pytest.mark.parametrize(
    "wrong",
    [
        {"scheme": "random"},
        {"fold": 5},
        {"fold": -1},
        {"scheme": "paper", "fold": 0},
        {"scheme": "official"},
    ],
)
def test_wrong_use_is_one_line(wrong):
    with pytest.raises(HephError, match=r"^splits: "):
        splits.assign([], **wrong)


def test_official_without_its_file_names_it():
    with pytest.raises(HephError, match=r"without its patch file; name train_test_split\.json"):
        splits.assign([], "official")


def test_patch_file_is_for_official_only(tmp_path):
    with pytest.raises(HephError, match="only official"):
        splits.assign([], "paper", patch_file=tmp_path)


def test_leakage_counts_what_two_splits_share():
    items = [
        make(1, "012D_07075_080504", "2018-01-01", "2018-01-13", ("mogi",)),
        make(2, "012D_07075_080504", "2018-01-13", "2018-01-25"),
        make(3, "049A_07091_051113", "2018-01-13", "2018-01-25", ("sill",)),
        make(4, ETNA, kinds=("sill",)),
        make(5, ETNA, "2019-01-01", "2019-01-13"),
    ]
    report = splits.leakage(items, {1: "train", 2: "val", 3: "test", 4: "test"})
    assert report["train-val"] == {
        "frames": ["012D_07075_080504"],
        "volcano_groups": ["colima"],
        "volcanoes": ["Colima"],
        "acquisitions": 1,
        "interferograms": 0,
        "deformation_in_shared_groups": None,
    }
    assert report["train-test"]["frames"] == []
    assert report["train-test"]["volcano_groups"] == ["colima"]
    assert report["train-test"]["acquisitions"] == 0
    assert report["train-test"]["deformation_in_shared_groups"] == 0.5
    json.dumps(report)


def test_class_counts_by_split():
    items = [
        make(1, kinds=("sill", "sill")),
        make(2, HIERRO, kinds=("sill", "dyke")),
        make(3, "162A_06192_060402"),
        make(4, kinds=("mogi",)),
    ]
    counts = splits.class_counts(items, {1: "train", 2: "train", 3: "train"})
    train = counts["train"]
    assert train["records"] == 3
    assert train["deformation"] == 2
    assert train["groups"] == 3
    assert train["groups_with_deformation"] == 2
    assert train["activity_types"]["sill"] == {"records": 2, "instances": 3}
    assert train["activity_types"]["dyke"] == {"records": 1, "instances": 1}
    assert train["intensities"] == {"low": 4, "medium": 0, "high": 0}
    assert train["flags"]["low_coherence"] == 1
    assert train["flags"]["is_crowd"] == 2
    assert counts["left_out"]["activity_types"]["mogi"]["records"] == 1
    json.dumps(counts)


def test_search_meets_its_demands():
    parts = (split_search.Part(0.5, 3, 1), split_search.Part(0.5, 3, 1, 0.6))
    size = len(split_search.QUANTITIES)
    counts = {name: split_search.np.ones(size) * (1 + i) for i, name in enumerate("abcdefgh")}
    dealt = split_search.deal(counts, parts, {"h": 0})
    assert dealt["h"] == 0
    totals = [sum(1 + i for i, n in enumerate("abcdefgh") if dealt[n] == p) for p in (0, 1)]
    assert totals == [18, 18]
    assert Counter(dealt.values()) == {0: 4, 1: 4}


@pytest.fixture
def real(real_annotations):
    return real_annotations.annotations


@pytest.mark.real_data
def test_table_is_the_given_groups(shared):
    given = json.loads((shared / "data" / "hephaestus" / "volcano_groups.json").read_text())
    assert {group: sorted(frames) for group, frames in splits.GROUPS.items()} == given


@pytest.mark.real_data
def test_grouped_counts_and_no_leakage(real):
    assigned = splits.assign(real)
    counts = splits.class_counts(real, assigned)
    names = ("records", "deformation", "groups", "groups_with_deformation")
    assert [[part[name] for name in names] for part in counts.values()] == [
        [10_453, 1_383, 15, 6],
        [3_297, 95, 5, 3],
        [6_169, 341, 8, 6],
        [0, 0, 0, 0],
    ]
    tested = counts["test"]["activity_types"]
    assert all(tested[kind]["records"] for kind in ("mogi", "dyke", "sill", "earthquake"))
    for pair in splits.leakage(real, assigned).values():
        assert not any(pair.values())


@pytest.mark.real_data
def test_folds_cover_every_record_once(real):
    tested = Counter()
    for fold in range(splits.FOLDS):
        assigned = splits.assign(real, fold=fold)
        assert not any(splits.leakage(real, assigned)["train-test"].values())
        tested.update(uid for uid, split in assigned.items() if split == "test")
    assert len(tested) == 19_919
    assert set(tested.values()) == {1}


@pytest.mark.real_data
def test_paper_numbers(real):
    assigned = splits.assign(real, "paper")
    counts = splits.class_counts(real, assigned)
    assert [(p["records"], p["deformation"]) for p in counts.values()] == [
        (17_445, 992),
        (682, 235),
        (1_792, 592),
        (0, 0),
    ]
    report = splits.leakage(real, assigned)
    assert report["train-test"]["volcano_groups"] == [
        "campi-flegrei-vesuvius",
        "galapagos-sierra-negra",
    ]
    assert report["train-test"]["deformation_in_shared_groups"] == pytest.approx(334 / 592)


@pytest.mark.real_data
def test_temporal_numbers(real):
    assigned = splits.assign(real, "temporal")
    assert Counter(assigned.values()) == {"train": 9_948, "val": 2_501, "test": 6_848}
    assert len(splits.leakage(real, assigned)["train-val"]["frames"]) == 33


@pytest.mark.real_data
def test_official_numbers(real, shared):
    path = shared / "data" / "hephaestus" / "train_test_split.json.gz"
    patches = splits.read_patch_file(path)
    assert {split: patches[split].total() for split in patches} == {
        "train": 183_803 + 1_662,
        "val": 6_051 + 118,
        "test": 24_205 + 473,
    }
    assigned = splits.assign(real, "official", patch_file=path)
    assert Counter(assigned.values()) == {"train": 17_145, "val": 27, "test": 2_746}
    report = splits.leakage(real, assigned, path)
    assert report["val-test"]["interferograms"] == 2_362
    assert report["train-test"]["interferograms"] == 0


@pytest.mark.real_data
@pytest.mark.slow
def test_search_finds_the_checked_in_table(shared):
    table = split_search.main(str(shared / "data" / "hephaestus" / "annotations.tar.gz"))
    file = splits.resources.files("heph_vl.data").joinpath("tables", "volcano_groups.csv")
    assert table == file.read_text(encoding="utf-8")
