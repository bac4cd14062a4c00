"""Labels from the evaluation to the page: curves, bins and confusion of the model itself."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eval import evaluate, report
from heph_vl.data.parquet import load, write_parquet
from tests import tiny_heads
from tests.data.fake_archive import FRAMES, write_fake_archive


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, untrained heads, what they answer and how that is scored."""
    root = tmp_path_factory.mktemp("labels")
    write_fake_archive(root / "archive", n=20, size=64, frames=FRAMES[:3])
    write_parquet(root / "archive", root / "dataset")
    tiny_heads.make().save_pretrained(root / "model")
    arguments = ["--data", str(root / "dataset"), "--model", str(root / "model"), "--draws", "50"]
    kept = ["--write-predictions", str(root / "said"), "--out", str(root / "mine.json")]
    assert evaluate.main([*arguments, *kept]) == 0
    return root


def answers(place: Path) -> list[tuple[bool, float]]:
    """Truth and probability of deformation, as anyone would read them from the files."""
    rows = load(place / "dataset")["test"]
    truth = dict(zip(rows["unique_id"], map(bool, rows["activity_types"]), strict=True))
    lines = (place / "said" / "predictions.jsonl").read_text().splitlines()
    said = [line for line in map(json.loads, lines) if "unique_id" in line]
    return [(truth[line["unique_id"]], line["deformation"]) for line in said]


def scored(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "mine.json").read_text())["tasks"]
    return found


def test_curve_and_bins_are_of_the_answers(place: Path) -> None:
    pairs = answers(place)
    one = scored(place)["deformation"]["classes"]["deformation"]
    positives = sum(truth for truth, _ in pairs)
    wanted = []
    for threshold in sorted({p for truth, p in pairs if truth}, reverse=True):
        called = [truth for truth, p in pairs if p >= threshold]
        wanted.append((round(sum(called) / positives, 4), round(sum(called) / len(called), 4)))
    curve = one["curve"]
    assert list(zip(curve["recall"], curve["precision"], strict=True)) == wanted
    bins = one["reliability"]
    assert sum(b["images"] for b in bins) == len(pairs)
    mean = sum(b["images"] * b["probability"] for b in bins) / len(pairs)
    assert mean == pytest.approx(sum(p for _, p in pairs) / len(pairs), abs=1e-4)


def test_confusion_counts_each_image_once(place: Path) -> None:
    for task in ("activity_types", "atmosphere"):
        found = scored(place)[task]["confusion"]
        total = sum(map(sum, found["counts"])) + found["several"]
        assert total == scored(place)[task]["images"]
        for row, name in zip(found["counts"], found["classes"], strict=True):
            if name in scored(place)[task]["classes"]:
                assert sum(row) <= scored(place)[task]["classes"][name]["support"]


def test_the_page_draws_them(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert report.main([str(place / "mine.json"), "--out", str(out)]) == 0
    markup = out.read_text()
    assert "holds no" not in markup
    drawn = re.findall(r'aria-label="([^"]+)"', markup)
    assert "Precision-recall curve, deformation" in drawn
    assert "Reliability diagram, deformation" in drawn
    assert any(name.startswith("Confusion matrix, Atmosphere") for name in drawn)
    one = scored(place)["deformation"]["classes"]["deformation"]
    share = one["support"] / (one["support"] + one["negatives"])
    assert f">prevalence {share:.2f}<" in markup
    counts = scored(place)["atmosphere"]["confusion"]["counts"]
    (matrix,) = re.findall(r'aria-label="Confusion matrix, Atmosphere.*?</svg>', markup, re.S)
    shown = [int(n) for n in re.findall(r">(\d+)</text>", matrix)]
    assert shown == [number for row in counts for number in row]
