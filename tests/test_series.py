"""`heph-vl series` on annotations and archives: scores, choice, picture, what is left out."""

import json
import shutil
from datetime import date, timedelta

import numpy as np
import pytest
from PIL import Image

from heph_vl.errors import HephError
from heph_vl.metrics.information import information_score
from heph_vl.series import find_series
from heph_vl.series_plot import draw_series
from tests import tiny_heads
from tests.data.fake_archive import pair_folder, record, write_annotation, write_images
from tests.test_cli import call

FRAME, OTHER = "128D_09016_110500", "169D_00001_020800"
DAY = date(2018, 1, 1)
# Days of the two dates; the third pair spans the second, the fourth overlaps both.
SPANS = [(0, 6), (12, 18), (6, 30), (18, 36), (60, 66)]


def raw_records():
    """One frame of five pairs, the second of low coherence, and a pair of another frame."""
    raws = [
        record(i + 1, FRAME, DAY + timedelta(days=a), DAY + timedelta(days=b))
        for i, (a, b) in enumerate(SPANS)
    ]
    raws[1] |= {"low_coherence": 1, "confidence": 0.5}
    return [*raws, record(6, OTHER, DAY, DAY + timedelta(days=6))]


@pytest.fixture
def annotations(tmp_path):
    for raw in raw_records():
        write_annotation(tmp_path, raw)
    return tmp_path / "annotations"


def names(found):
    return [found.pairs[i].name for i in found.chosen]


def test_scores_are_those_of_the_records(annotations):
    found = find_series(annotations, FRAME)
    assert found.kind == "record"
    quality = {"low_coherence": 1.0}
    expected = information_score(quality, temporal_baseline=6, confidence=0.5)
    assert found.scores[2] == pytest.approx(expected)  # sorted by date: (0,6) (6,30) (12,18)
    assert [(found.pairs[a].name, found.pairs[b].name) for a, b in found.nested] == [
        ("20180107_20180131", "20180113_20180119")
    ]
    # The one that spans the second tells more than it.
    assert names(found) == [
        "20180101_20180107",
        "20180107_20180131",
        "20180119_20180206",
        "20180302_20180308",
    ]
    assert found.row(0)["gap_days"] is None
    assert [found.row(i)["gap_days"] for i in (1, 2, 3)] == [0, -12, 24]


def test_a_gap_cuts_the_series(annotations):
    found = find_series(annotations, FRAME, max_gap=20)
    assert len(found.chosen) == 3
    assert "20180302_20180308" not in names(found)


def test_coherence_alone(tmp_path):
    for raw in raw_records()[:3]:
        write_images(tmp_path, raw, 96, np.random.default_rng(raw["uniqueID"]))
    dark = raw_records()[0]
    folder = pair_folder(tmp_path, dark)
    path = folder / f"{folder.name}.geo.cc.png"
    Image.open(path).point(lambda value: value // 2).save(path)
    missing = pair_folder(tmp_path, raw_records()[1])
    (missing / f"{missing.name}.geo.cc.png").unlink()
    found = find_series(tmp_path)
    assert found.kind == "coherence"
    assert found.scores[0] < 0.6 * found.scores[1]
    assert 0.6 < found.scores[1] < 0.9
    assert ["has no coherence" in str(p) for p in found.problems] == [True]


def test_quality_by_heads(tmp_path):

    for raw in raw_records()[:2]:
        write_images(tmp_path, raw, 96, np.random.default_rng(raw["uniqueID"]))
    tiny_heads.make().save_pretrained(tmp_path / "heads")
    found = find_series(tmp_path, kind="quality", model=tmp_path / "heads")
    assert len(found.scores) == 2
    assert all(0 < score < 1 for score in found.scores)
    assert found.estimated == 0
    next(tmp_path.rglob("*.geo.cc.png")).unlink()
    assert find_series(tmp_path, kind="quality", model=tmp_path / "heads").estimated == 1
    with pytest.raises(HephError, match="--model"):
        find_series(tmp_path, kind="quality")


def test_errors_say_what_to_do(annotations, tmp_path, capsys):
    code, _, err = call(capsys, "series", annotations)
    assert code == 1
    assert FRAME in err
    assert OTHER in err
    assert len(err.splitlines()) == 1
    code, _, err = call(capsys, "series", annotations, "--frame", "000A_00000_000000")
    assert code == 1
    assert "not in" in err
    code, _, err = call(capsys, "series", annotations, "--frame", FRAME, "--score", "coherence")
    assert code == 1
    assert "has no picture" in err
    (tmp_path / "a" / FRAME / "interferograms").mkdir(parents=True)
    code, _, err = call(capsys, "series", tmp_path / "a" / FRAME)
    assert code == 1
    assert "give " in err
    code, _, err = call(capsys, "series", tmp_path / "nothing")
    assert code == 1
    assert len(err.splitlines()) == 1
    code, _, err = call(
        capsys, "series", annotations, "--frame", FRAME, "--plot", tmp_path / "p.docx"
    )
    assert code == 1
    assert ".png, .pdf or .svg" in err


def test_command_lists_and_draws(annotations, tmp_path, capsys):
    plot = tmp_path / "series.png"
    words = ["series", annotations, "--frame", FRAME, "--nested", "--plot", plot, "--json"]
    code, out, _ = call(capsys, *words)
    assert code == 0
    answer = json.loads(out)
    assert len(answer["series"]) == 4
    assert answer["pairs"] == 5
    assert answer["total"] == pytest.approx(sum(row["score"] for row in answer["series"]), abs=1e-4)
    assert answer["nested"] == [["20180107_20180131", "20180113_20180119"]]
    with Image.open(plot) as picture:
        assert picture.width > 900
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50
    code, out, err = call(capsys, "series", annotations, "--frame", FRAME)
    assert code == 0
    assert "2018-01-07" in out
    assert "4 of 5 pairs" in err


def test_picture_of_one_pair(annotations, tmp_path):
    draw_series(find_series(annotations, OTHER), tmp_path / "one.svg")
    assert (tmp_path / "one.svg").stat().st_size > 1000


def test_same_pair_twice_is_told(annotations, tmp_path, capsys):
    shutil.copy(annotations / "1.json", annotations / "9.json")
    text = (annotations / "9.json").read_text().replace('"uniqueID": 1', '"uniqueID": 9')
    (annotations / "9.json").write_text(text)
    code, _out, err = call(capsys, "series", annotations, "--frame", FRAME)
    assert code == 0
    assert "same pair as" in err
