"""Heads on patches: what is counted, by hand, and the command on a small folder of the layout."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.real_patches import (
    FOUND,
    GIVEN,
    LABEL,
    Area,
    Entry,
    Look,
    false_area,
    land_of,
    look,
    main,
    outlined,
    read_entries,
    summarise,
)
from heph_vl.data.phase import colour, wrap
from heph_vl.data.picture import Picture, read_picture
from heph_vl.models.heads import Heads
from tests import tiny_heads

SIDE = 96
SEA = np.s_[:, :40]  # grain


def write_patches(root: Path, number: int = 4) -> Path:
    """Patches of smooth land beside a sea of grain; every other one deforms, in a frame of its own.

    The given mask is a box on land, its class a sill.
    """
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    index = []
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for i in range(number):
        phase = 0.05 * rows + 0.08 * columns + rng.uniform(0, 6)
        phase[SEA] = rng.uniform(-3, 3, phase[SEA].shape)
        Image.fromarray(colour(wrap(phase))).save(root / "images" / f"{i}_1.png")
        if i % 2:
            Image.fromarray(box(30, 50)).save(root / "masks" / f"{i}_1.png")
        kind, frame = ("deformation crop", "A") if i % 2 else ("tile", "B")
        index.append({"patch": f"{i}_1", "uniqueID": i, "kind": kind, "frameID": frame})
    (root / "index.json").write_text(json.dumps(index))
    return root


def box(first: int, last: int) -> np.ndarray:
    """A mask of class 3 (sill) in rows first..last, columns 50..70."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[first:last, 50:70] = 3
    return mask


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real_patches")
    write_patches(root / "patches")
    tiny_heads.make().save_pretrained(root / "model")
    tiny_heads.make(segmentation_weight=0.0).save_pretrained(root / "labels_only")
    return root


def run(place: Path, *more: str, model: str = "model") -> int:
    words = ["--patches", str(place / "patches"), "--model", str(place / model)]
    return main([*words, *more])


def test_land_is_the_smooth_ground_and_not_the_grain(place: Path) -> None:
    picture = read_picture(place / "patches" / "images" / "1_1.png")
    land = land_of(picture)
    assert land[:, 44:].mean() > 0.97
    assert land[:, :36].mean() < 0.02
    gone = picture.valid.copy()
    gone[:, 60:] = False
    less = land_of(replace(picture, valid=gone))
    assert not less[:, 60:].any()


def test_false_area_counts_land_outside_the_given_mask_only() -> None:
    where = np.ones((SIDE, SIDE), bool)
    where[SEA] = False
    truth = box(30, 50)
    found = box(40, 60)  # half of it in the given mask, whatever the class
    found[found > 0] = 1
    found[:, :10] = 2  # at sea
    area = false_area(found, truth, where)
    assert area == Area(SIDE * (SIDE - 40) - 20 * 20, 10 * 20)
    assert area.share == pytest.approx(200 / 4976)
    assert (area + Area(24, 100)) == Area(5000, 300)
    assert false_area(found, truth, where & (truth > 0)).share is None


def seen(
    name: str, frame: str, probability: float, truth: np.ndarray, iou: float | None, called: int
) -> Look:
    valid = np.ones((SIDE, SIDE), bool)
    picture = Picture(
        Path("drawn"), np.zeros((3, SIDE, SIDE), np.float32), valid, 0.0 * truth, (SIDE, SIDE)
    )
    entry = Entry(name, "", frame, Path(name), None)
    area = Area(100, called)
    return Look(entry, picture, truth, truth, probability, probability > 0.5, iou, area, area)


def test_the_summary_is_that_of_its_patches() -> None:
    none = box(0, 0)
    looks = [
        seen("a", "A", 0.9, box(30, 50), 0.6, 10),
        seen("b", "A", 0.4, box(30, 40), 0.2, 30),
        seen("c", "B", 0.7, none, None, 5),
        seen("d", "B", 0.1, none, None, 0),
    ]
    found = summarise(looks)
    assert found["deforming"]["patches"] == 2
    assert found["deforming"]["hits"] == 1
    assert found["deforming"]["mean_iou"] == pytest.approx(0.4)
    assert found["deforming"]["mean_iou_all_deforming"] == pytest.approx(300 / SIDE**2)
    assert found["deforming"]["false_area_land"] == pytest.approx(0.2)
    assert found["undeforming"]["false_alarms"] == 1
    assert found["undeforming"]["false_area_land"] == pytest.approx(0.025)
    assert found["undeforming"]["mean_probability"] == pytest.approx(0.4)
    assert found["auroc"] == pytest.approx(3 / 4)
    assert "each frame has one class only (A, B)" in found["auroc_note"]
    mixed = summarise([*looks, seen("e", "A", 0.2, none, None, 0)])
    assert mixed["auroc_note"] == "some frames have patches of both classes"
    alone = summarise(looks[:2])
    assert alone["auroc"] is None
    assert alone["auroc_note"] == "all patches are of one class"
    assert alone["undeforming"]["false_area_land"] is None


def test_json_and_files_say_the_same_and_what_the_heads_say(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, "--json", "--out", str(tmp_path)) == 0
    results = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["label"] == LABEL
    assert "0.75" in results["land"]
    assert results["thresholds"] == {"deformation": 0.5, "mask": 0.5}
    heads = Heads.from_pretrained(place / "model")
    looks = [look(heads, entry) for entry in read_entries(place / "patches")]
    assert [row["patch"] for row in results["by_patch"]] == ["0_1", "1_1", "2_1", "3_1"]
    for row, one in zip(results["by_patch"], looks, strict=True):
        assert row["deforming"] == (row["kind"] == "deformation crop")
        assert row["probability"] == pytest.approx(one.probability, abs=1e-6)
        assert one.found is not None
        called = one.found > 0
        if one.deforming:
            assert row["iou"] == pytest.approx(
                (called & (one.truth > 0)).sum() / (called | (one.truth > 0)).sum()
            )
        else:
            assert row["iou"] is None
            assert row["false_area_valid"] == pytest.approx(called.mean())
            assert row["land_pixels"] == land_of(one.picture).sum()
    assert Image.open(tmp_path / "sheet.png").width > 4 * 200


def test_the_patch_is_shown_with_both_outlines(place: Path) -> None:
    picture = read_picture(place / "patches" / "images" / "1_1.png")
    one = seen("1_1", "A", 0.9, box(10, 30), 0.0, 0)
    both = Look(**(vars(one) | {"picture": picture, "found": box(60, 80)}))
    pixels = np.asarray(outlined(both))
    for colour_of, rows in ((GIVEN, slice(8, 32)), (FOUND, slice(58, 82))):
        level = [int(colour_of[i : i + 2], 16) for i in (1, 3, 5)]
        at = np.argwhere((pixels == level).all(axis=2))
        assert len(at) > 60
        assert rows.start <= at[:, 0].min() <= at[:, 0].max() < rows.stop


def test_tables_and_heads_without_masks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place) == 0
    shown = capsys.readouterr().out
    for text in (LABEL, "3_1", "land px", "of 2 hit, mean IoU", "of 2 false alarms", "AUROC"):
        assert text in shown
    assert run(place, "--json", model="labels_only") == 0
    results = json.loads(capsys.readouterr().out)
    assert {row["iou"] for row in results["by_patch"]} == {None}
    assert results["summary"]["undeforming"]["false_area_land"] is None
    assert results["summary"]["auroc"] is not None


def _no_index(root: Path) -> None:
    (root / "index.json").unlink()


def _other_index(root: Path) -> None:
    (root / "index.json").write_text('[{"patch": "0_1"}]')


def _twice(root: Path) -> None:
    lines: list[Any] = json.loads((root / "index.json").read_text())
    (root / "index.json").write_text(json.dumps([*lines, lines[0]]))


def _no_image(root: Path) -> None:
    (root / "images" / "2_1.png").unlink()


def _small_mask(root: Path) -> None:
    Image.new("L", (10, 10)).save(root / "masks" / "3_1.png")


def _grey(root: Path) -> None:
    Image.new("L", (SIDE, SIDE), 90).save(root / "images" / "0_1.png")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_no_index, "no index of patches"),
        (_other_index, "no index of patches: KeyError('kind')"),
        (_twice, "5 patches, 4 names"),
        (_no_image, "2_1.png: missing"),
        (_small_mask, "a grey mask of 96 x 96 px"),
        (_grey, "grey"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    told: str,
) -> None:
    spoil(write_patches(tmp_path / "bad"))
    assert main(["--patches", str(tmp_path / "bad"), "--model", str(place / "model")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error


@pytest.mark.real_data
def test_the_real_patches(shared: Path, place: Path) -> None:
    entries = read_entries(shared / "data" / "hephaestus" / "patches")
    assert [entry.kind for entry in entries].count("deformation crop") == 15
    heads = Heads.from_pretrained(place / "model")
    looks = [look(heads, entry) for entry in entries]
    found = summarise(looks)
    assert (found["deforming"]["patches"], found["undeforming"]["patches"]) == (15, 8)
    assert "012D_07075_080504, 128D_09016_110500" in found["auroc_note"]
    # Deformation lies on land: the given masks do, nearly all of them.
    given = [(one.truth > 0, land_of(one.picture)) for one in looks if one.deforming]
    assert np.mean([land[mask].mean() for mask, land in given]) > 0.8
