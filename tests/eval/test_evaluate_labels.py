"""eval/evaluate.py on labels and masks: our heads and anyone's file go one way."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.evaluate import main
from eval.evaluate_labels import LabelSettings, predict_with_heads, score_labels
from heph_vl.data import phase
from heph_vl.data.labels import LABELS, SOFTMAX
from heph_vl.data.parquet import load, write_parquet
from heph_vl.metrics.label_predictions import read_labels
from tests import tiny_heads
from tests.data.fake_archive import write_fake_archive


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive, its dataset (2 of 4 test images deform) and untrained heads."""
    root = tmp_path_factory.mktemp("evaluate_labels")
    write_fake_archive(root / "archive", n=20, size=96)
    write_parquet(root / "archive", root / "dataset")
    tiny_heads.make().save_pretrained(root / "model")
    return root


def perfect(root: Path, folder: Path) -> list[dict[str, Any]]:
    """Lines of a model that knows the truth, with its masks."""
    rows = load(root / "dataset", "test")
    labels = read_labels(rows)
    (folder / "masks").mkdir(parents=True)
    lines = []
    for i, uid in enumerate(labels.unique_ids):
        name = f"masks/{uid}.png"
        rows[i]["mask"].save(folder / name)
        line: dict[str, Any] = {"unique_id": uid, "mask": name}
        for task, names in LABELS.items():
            line[task] = dict(zip(names, labels.truth[task][i].astype(float), strict=True))
        line["deformation"] = line["deformation"]["deformation"]
        lines.append(line)
    return lines


def write(folder: Path, lines: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(root: Path, *more: str) -> int:
    return main(["--data", str(root / "dataset"), "--draws", "50", *more])


def scored(root: Path, path: Path) -> dict[str, Any]:
    assert run(root, "--predictions", str(path)) == 0
    found: dict[str, Any] = json.loads(path.with_suffix(".results.json").read_text())
    return found


def value(metrics: dict[str, Any], name: str) -> float:
    found: float = metrics[name]["model"]["value"]
    return found


def test_the_truth_scores_one_beside_its_baselines(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = scored(root, write(tmp_path, perfect(root, tmp_path)[::-1]))
    shown = capsys.readouterr().out
    for text in (
        "deformation: 2 of 4 images",
        "majority",
        "etna",
        "atmosphere: 4 images, accuracy 1.000",
    ):
        assert text in shown
    assert results["task"] == "labels"
    assert results["split"]["majority_from"] == "train"
    assert results["split"]["sources"] == {"real": 4}
    assert results["not_predicted"] == []
    tasks = results["tasks"]
    binary = tasks["deformation"]["classes"]["deformation"]
    assert (binary["support"], binary["negatives"]) == (2, 2)
    for name in ("accuracy", "precision", "recall", "f1", "auroc", "average_precision"):
        assert value(binary["metrics"], name) == 1, name
    assert value(binary["metrics"], "ece") == 0
    assert binary["metrics"]["auroc"]["majority"] == 0.5
    assert binary["metrics"]["auroc"]["model"]["interval"] is None  # one volcano group
    assert binary["metrics"]["auroc"]["model"]["per_group"] == {"etna": 1}
    # Absent from the split, and always there: no score of 0 or 1.
    assert tasks["quality"]["classes"]["corrupted"]["metrics"]["f1"] is None
    turbulent = tasks["atmosphere"]["classes"]["turbulent_mixing"]
    assert turbulent["metrics"]["auroc"] is None
    assert turbulent["reason"] is not None
    assert value(tasks["atmosphere"], "accuracy") == 1
    assert tasks["intensities"]["images"] == 2  # of the deforming images
    assert tasks["intensities"]["without_label"] == 2
    assert "spheroid" in tasks["activity_types"]["macro"]["left_out"]
    masks = tasks["segmentation"]
    assert value(masks["classes"]["deformation"]["metrics"], "iou") == 1
    assert masks["classes"]["deformation"]["metrics"]["iou"]["empty"] == 0
    assert value(masks["false_alarms"], "false_area") == 0


def test_wrong_answers_score_what_they_are(root: Path, tmp_path: Path) -> None:
    lines = perfect(root, tmp_path)
    first = next(line for line in lines if not line["deformation"])
    for line in lines:
        line["deformation"] = 1 - line["deformation"]
    size = Image.open(tmp_path / first["mask"]).size
    Image.fromarray(np.full(size[::-1], 1, np.uint8)).save(tmp_path / first["mask"])
    tasks = scored(root, write(tmp_path, lines))["tasks"]
    binary = tasks["deformation"]["classes"]["deformation"]["metrics"]
    assert [value(binary, name) for name in ("accuracy", "f1", "auroc", "ece")] == [0, 0, 0, 1]
    rows = load(root / "dataset", "test")
    valid = {
        row["unique_id"]: phase.decode_image(row["image"]).valid & (np.array(row["mask"]) == 0)
        for row in rows
    }
    share = valid[first["unique_id"]].sum() / sum(v.sum() for v in valid.values())
    alarms = tasks["segmentation"]["false_alarms"]
    assert value(alarms, "false_area") == pytest.approx(share)
    assert value(alarms, "false_alarm_images") == 0.5


def test_thresholds_come_with_the_predictions(root: Path, tmp_path: Path) -> None:
    lines = perfect(root, tmp_path)
    for line in lines:
        line["deformation"] = 0.1 + 0.2 * line["deformation"]
    results = scored(root, write(tmp_path / "plain", [line | {"mask": None} for line in lines]))
    metrics = results["tasks"]["deformation"]["classes"]["deformation"]["metrics"]
    assert (value(metrics, "recall"), value(metrics, "auroc")) == (0, 1)
    assert "segmentation" not in results["tasks"]
    told = [{"thresholds": {"deformation": 0.2}}, *(line | {"mask": None} for line in lines)]
    results = scored(root, write(tmp_path / "told", told))
    metrics = results["tasks"]["deformation"]["classes"]["deformation"]["metrics"]
    assert value(metrics, "recall") == 1
    assert results["thresholds"]["deformation"] == {"deformation": 0.2}


def test_our_heads_are_scored_and_their_predictions_score_the_same(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "written"
    arguments = ["--model", str(root / "model"), "--write-predictions", str(written), "--json"]
    assert run(root, *arguments, "--out", str(tmp_path / "ours.json")) == 0
    ours = json.loads(capsys.readouterr().out)
    assert ours == json.loads((tmp_path / "ours.json").read_text())
    assert len(ours["model_id"]) == 64
    lines = [json.loads(line) for line in (written / "predictions.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {"thresholds"}
    assert len(lines) == 5
    for line in lines[1:]:
        assert set(line) == {"unique_id", "mask", *LABELS}
        for task in SOFTMAX:
            assert sum(line[task].values()) == pytest.approx(1, abs=1e-5)
        assert Image.open(written / line["mask"]).size == (96, 96)
    again = scored(root, written / "predictions.jsonl")
    assert again["tasks"] == ours["tasks"]
    # Nothing is kept unless asked for.
    assert run(root, "--model", str(root / "model"), "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"] == ours["tasks"]
    assert {p.name for p in root.iterdir()} == {"archive", "dataset", "model", "results.test.json"}


def test_an_image_without_data_is_left_out_and_listed(root: Path, tmp_path: Path) -> None:
    rows = load(root / "dataset", "test")
    empty = Image.new("RGB", rows[1]["image"].size, "white")

    def blank(row: dict[str, Any], i: int) -> dict[str, Any]:
        return row | {"image": empty} if i == 1 else row

    rows = rows.map(blank, with_indices=True, features=rows.features, keep_in_memory=True)
    labels = read_labels(rows)
    done: list[tuple[int, int]] = []
    found = predict_with_heads(
        tiny_heads.make(), rows, labels, tmp_path, lambda *count: done.append(count)
    )
    assert found.positions == [0, 2, 3]
    assert found.unreadable == [f"{labels.unique_ids[1]}: no valid phase"]
    assert done[-1] == (4, 4)
    results = score_labels(rows, labels, found, LabelSettings(num_draws=10), split="test")
    assert results["tasks"]["deformation"]["images"] == 3
    assert results["split"]["images"] == 4
    assert results["split"]["majority_from"] == "test"


def test_what_is_wrong_is_told_in_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = perfect(root, tmp_path)
    Image.fromarray(np.zeros((95, 96), np.uint8)).save(tmp_path / lines[2]["mask"])
    cases = [
        (["--predictions", str(write(tmp_path, lines))], "96 x 95 px, its image 96 x 96 px"),
        (["--predictions", str(write(tmp_path / "few", lines[1:]))], "1 of 4 images missing"),
        (["--predictions", str(tmp_path / "no.jsonl")], "no such file"),
        (
            ["--predictions", str(tmp_path / "no.jsonl"), "--write-predictions", "x"],
            "use it with --model",
        ),
    ]
    for arguments, says in cases:
        capsys.readouterr()
        assert run(root, *arguments) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert says in error
    assert not list(tmp_path.glob("*.results.json"))
