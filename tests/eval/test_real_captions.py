"""Captions on patches: what is true of a mask and a record, and the command on a small folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.real_captions import main, patterns_alone, summarise, true_facts
from eval.real_patches import read_entries
from heph_vl.data import captions
from heph_vl.data.annotations import read_annotations
from heph_vl.data.captions import CaptionFacts, Pattern
from heph_vl.metrics.caption_facts import count_facts
from heph_vl.models.text import train_tokenizer
from tests import tiny_captioner
from tests.data.fake_archive import write_fake_archive
from tests.eval.test_real_patches import write_patches


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("real_captions")
    write_patches(root / "patches")
    tokenizer = train_tokenizer(captions.fact_texts(), root / "tokenizer", 320)
    tiny_captioner.make(tokenizer).save_pretrained(root / "model")
    write_fake_archive(root / "archive", n=8, size=96)
    return root


def test_types_and_places_come_from_the_mask_and_intensity_from_the_record(place: Path) -> None:
    tile, crop, *_ = read_entries(place / "patches")
    assert true_facts(tile, None) == CaptionFacts(frozenset({("no_deformation",)}))
    sill = Pattern("sill", None, frozenset({"center"}))  # rows 30 to 50, columns 50 to 70 of 96
    assert true_facts(crop, None).patterns == (sill,)
    found = read_annotations(place / "archive" / "annotations").annotations
    record = next(item for item in found if item.events)
    event = replace(record.events[0], type="sill", intensity="high")
    one = replace(record, events=(event, replace(event, type="dyke", intensity="low")))
    assert true_facts(crop, one).patterns == (replace(sill, intensity="high"),)
    for other in ("low", None):
        two = replace(record, events=(event, replace(event, intensity=other)))
        assert true_facts(crop, two).patterns == (sill,)


def test_what_the_truth_does_not_know_is_not_scored() -> None:
    said = captions.parse("Noise can be detected. A sill of low intensity on the left side.")
    unknown = CaptionFacts(patterns=(Pattern("sill", None, frozenset({"left"})),))
    assert patterns_alone(said, unknown) == unknown
    known = CaptionFacts(patterns=(Pattern("sill", "high", frozenset({"left"})),))
    assert patterns_alone(said, known).patterns == said.patterns
    assert patterns_alone(said, CaptionFacts()).patterns == said.patterns  # a false alarm
    some = CaptionFacts(patterns=(*known.patterns, *unknown.patterns))
    assert patterns_alone(said, some) == unknown


def test_a_summary_by_hand() -> None:
    wanted = ["A sill-type pattern of low intensity on the left side.", "", "A dyke-type pattern."]
    told = ["A sill-type pattern of high intensity on the left side.", "A mogi-type pattern.", ""]
    found = summarise(count_facts(wanted, told), [True, False, True])
    # Told: sill, high, left, mogi; wanted: sill, low, left, dyke.
    assert found["facts"]["deformation"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert found["facts"]["type"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert found["facts"]["intensity"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert found["facts"]["place"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert found["deforming"] == {"patches": 2, "missed": 1}
    assert found["undeforming"] == {"patches": 1, "false_alarms": 1}


def test_the_command(place: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["--patches", str(place / "patches"), "--model", str(place / "model")]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 1000
    assert [row["patch"] for row in results["by_patch"]] == ["0_1", "1_1", "2_1", "3_1"]
    assert results["summary"]["deforming"]["patches"] == 2
    assert results["intensities_from"] is None
    assert main(words) == 0
    assert "missed" in capsys.readouterr().out


def test_errors_in_one_line(place: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["--patches", str(tmp_path), "--model", str(place / "model")]) == 1
    assert "no index of patches" in capsys.readouterr().err
    assert main(["--patches", str(place / "patches"), "--model", str(tmp_path)]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
