"""The report on annotations: every number of the tables, as JSON and on the terminal."""

import io
import json
import time

import pytest
from rich.console import Console

from heph_vl.data.annotations import AnnotationSet, read_annotations
from heph_vl.data.report import render, summarise
from heph_vl.errors import HephError


def text_of(summary, width=160):
    console = Console(file=io.StringIO(), width=width)
    render(summary, console)
    return console.file.getvalue()


def write_record(folder, unique_id, **changes):
    record = {
        "uniqueID": unique_id,
        "frameID": "144A_SM_REUN_S6",
        "primary_date": f"2016010{unique_id}",
        "secondary_date": "20160301",
        "corrupted": 0,
        "processing_error": 0,
        "glacier_fringes": 0,
        "orbital_fringes": 0,
        "atmospheric_fringes": 2,
        "low_coherence": 1,
        "no_info": 0,
        "image_artifacts": 0,
        "label": ["Non_Deformation"],
        "activity_type": [],
        "intensity_level": [],
        "phase": "Rest",
        "confidence": 0.8,
        "segmentation_mask": [],
        "is_crowd": 0,
        "caption": "Turbulent mixing can be detected here. No deformation activity is detected.",
    } | changes
    (folder / f"{unique_id}.json").write_text(json.dumps(record))


@pytest.fixture
def small(tmp_path):
    """Three records and a bad one."""
    write_record(tmp_path, 1)
    write_record(tmp_path, 2, glacier_fringes=2, processing_error=3, caption="Missing information.")
    write_record(
        tmp_path,
        3,
        label=["Deformation"],
        activity_type=["Sill", "Mogi"],
        intensity_level=["High", "Low"],
        phase="Rebound",
        segmentation_mask=[
            [10.0, 10.0, 30.0, 10.0, 30.0, 20.0],
            [50.0, 60.0, 70.0, 60.0, 70.0, 70.0],
        ],
        is_crowd=1,
        frameID="999A_00001_000001",
        low_coherence=0,
        caption="A sill-type deformation pattern of high intensity and a mogi-type of low.",
    )
    write_record(tmp_path, 4, phase="[red]Eruption")
    return read_annotations(tmp_path)


def test_small_set_to_the_digit(small):
    summary = summarise(small)
    assert summary["records"] == 3
    assert (summary["deformation"], summary["no_deformation"]) == (1, 2)
    assert summary["labels"] == {"Non_Deformation": 2, "Deformation": 1}
    assert summary["activity_types"]["sill"] == {
        "instances": 1,
        "records": 1,
        "named": 1,
        "intensity": {"low": 0, "medium": 0, "high": 1, "none": 0},
        "phase": {"rest": 0, "unrest": 0, "rebound": 1, "none": 0},
    }
    assert summary["activity_types"]["dyke"]["instances"] == 0
    assert summary["processing_error"] == {"0": 2, "2": 0, "3": 1}
    assert summary["glacier_fringes"] == {"0": 2, "1": 0, "2": 1}
    assert summary["flags"]["low_coherence"] == 2
    assert summary["primary_years"] == {"2016": 3}
    assert summary["groups"] == {
        "999A_00001_000001": {"records": 1, "deformation": 1},
        "piton-de-la-fournaise": {"records": 2, "deformation": 0},
    }
    assert summary["polygons"]["per_record"] == {"2": 1}
    assert summary["polygons"]["median_box"] == [20.0, 10.0]
    assert summary["polygons"]["x_range"] == [10.0, 70.0]
    assert summary["polygons"]["most_reused_outline"] == 2
    assert summary["captions"]["words"] == {"min": 2, "median": 11.0, "max": 12}
    assert summary["caption_disagreements"] == {
        "low_coherence_without_noise": 2,
        "turbulence_without_word": 2,
        "none_without_no_deformation": 1,
    }
    assert {name: rule["count"] for name, rule in summary["rules"].items()} == {
        "glacier_2_is_1": 1,
        "processing_error_3_is_swath_merging": 1,
    }
    assert len(summary["problems"]) == 1
    assert "4.json: phase" in summary["problems"][0]
    assert json.loads(json.dumps(summary)) == summary


def test_terminal_shows_rules_and_problems_as_they_are(small):
    text = text_of(summarise(small))
    assert "glacier_fringes is a flag: 2 is read as 1" in text
    assert "'[red]Eruption' is not allowed" in text, "a value from a file is no markup"
    assert "\n1 problem\n" in text


def test_no_record_at_all_is_still_a_report():
    problem = HephError("a.json", "not JSON", "get it again")
    summary = summarise(AnnotationSet([], problems=[problem] * 30))
    assert summary["records"] == 0
    json.dumps(summary)
    text = text_of(summary)
    assert "30 problems, 20 of them above" in text
    assert text.count("a.json: not JSON") == 20


@pytest.mark.real_data
def test_real_numbers(real_annotations):
    start = time.process_time()
    summary = summarise(real_annotations)
    assert time.process_time() - start < 10
    text_of(summary)
    assert summary["labels"] == {
        "Non_Deformation": 18_100,
        "Deformation": 1_764,
        "Deformation + Earthquake": 40,
        "Earthquake": 15,
    }
    assert (summary["records"], summary["deformation"]) == (19_919, 1_819)
    types = summary["activity_types"]
    assert {kind: (row["instances"], row["records"]) for kind, row in types.items()} == {
        "sill": (1_264, 1_176),
        "dyke": (527, 469),
        "mogi": (332, 326),
        "earthquake": (55, 55),
        "unidentified": (51, 51),
        "spheroid": (25, 25),
    }
    assert types["mogi"]["named"] == 333
    assert {kind: tuple(row["intensity"].values()) for kind, row in types.items()} == {
        "sill": (611, 350, 303, 0),
        "dyke": (56, 86, 385, 0),
        "mogi": (209, 90, 33, 0),
        "earthquake": (0, 0, 0, 55),
        "unidentified": (14, 4, 33, 0),
        "spheroid": (19, 6, 0, 0),
    }
    assert types["mogi"]["phase"] == {"rest": 0, "unrest": 254, "rebound": 78, "none": 0}
    assert summary["phase"] == {"rest": 18_100, "unrest": 1_670, "rebound": 134, "none": 15}
    assert summary["atmosphere"] == {"0": 1_473, "1": 3_191, "2": 11_233, "3": 4_022}
    assert summary["flags"] == {
        "corrupted": 312,
        "glacier_fringes": 80,
        "orbital_fringes": 145,
        "low_coherence": 3_452,
        "no_info": 220,
        "image_artifacts": 58,
        "is_crowd": 325,
    }
    assert summary["processing_error"] == {"0": 19_423, "2": 172, "3": 324}
    assert summary["glacier_fringes"] == {"0": 19_839, "1": 79, "2": 1}
    assert summary["confidence"] == {"0.8": 19_454, "0.7": 203, "0.6": 196, "0.5": 66}
    assert list(summary["primary_years"].values()) == [
        *(114, 718, 1_579, 2_651, 3_572, 4_437, 5_055, 1_793)
    ]
    assert len(summary["frames"]) == 38
    assert len(summary["groups"]) == 28
    sierra_negra = summary["frames"]["128D_09016_110500"]
    assert (sierra_negra["records"], sierra_negra["deformation"]) == (647, 549)
    assert sum(group["deformation"] > 0 for group in summary["groups"].values()) == 15
    assert summary["problems"] == []


@pytest.mark.real_data
def test_real_polygons_and_captions(real_annotations):
    summary = summarise(real_annotations)
    polygons = summary["polygons"]
    assert polygons["per_record"] == {"1": 1_496, "2": 235, "3": 65, "4": 23}
    assert [round(side) for side in polygons["median_box"]] == [23, 19]
    assert [round(side) for side in polygons["largest_box"]] == [199, 165]
    # FACTS give whole pixels; the 5 % point is 15.5.
    assert list(polygons["largest_side_percentiles"].values()) == pytest.approx(
        [15, 23, 24, 45, 92], abs=0.51
    )
    assert [round(x) for x in polygons["x_range"]] == [99, 1126]
    assert [round(y) for y in polygons["y_range"]] == [99, 923]
    assert polygons["most_reused_outline"] == 521
    captions = summary["captions"]
    assert captions["distinct"] == 1_266
    assert captions["distinct_deformation"] == 1_210
    assert captions["distinct_no_deformation"] == 56
    assert captions["used_once_deformation"] == 971
    assert captions["top_shares"]["1"] == pytest.approx(0.409, abs=5e-4)
    assert captions["top_shares"]["4"] == pytest.approx(0.777, abs=5e-4)
    assert captions["words"] == {"min": 4, "median": 27.0, "max": 96}
    assert captions["records_with_unexplained_words"] <= 0.005 * 19_919
    assert summary["caption_disagreements"] == {
        "low_coherence_without_noise": 10,
        "turbulence_without_word": 204,
        "none_without_no_deformation": 497,
    }
