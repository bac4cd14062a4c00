"""The predictions format: written and read back the same; whatever is wrong is told by line."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heph_vl.errors import HephError
from heph_vl.metrics.label_predictions import (
    EXCLUSIVE,
    TASKS,
    Labels,
    read_label_predictions,
    read_mask,
    write_label_predictions,
)

IDS = [5, 3, 9]


def line(unique_id: int, p: float = 0.25) -> dict[str, Any]:
    named: dict[str, Any] = {
        task: {
            name: (1 / len(names) if task in EXCLUSIVE else p + i / 100)
            for i, name in enumerate(names)
        }
        for task, names in TASKS.items()
    }
    return {"unique_id": unique_id, **named, "deformation": p, "mask": f"masks/{unique_id}.png"}


@pytest.fixture
def labels() -> Labels:
    truth = {task: np.zeros((3, len(names)), bool) for task, names in TASKS.items()}
    known = {task: np.ones(3, bool) for task in TASKS}
    return Labels(IDS, ["a", "b", "b"], ["real"] * 3, truth, known)


def write(path: Path, lines: list[Any]) -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


@dataclass(frozen=True)
class Found:
    mask: Any
    p: float

    def row(self, unique_id: int, mask: str | None = None) -> dict[str, Any]:
        return line(unique_id, self.p) | {"mask": mask}


def test_written_and_read_back(tmp_path: Path, labels: Labels) -> None:
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    found = [(uid, Found(mask, uid / 10)) for uid in (9, 5, 3, 77)]
    path = write_label_predictions(tmp_path / "out", found, {"quality": {"no_info": 0.3}})
    read = read_label_predictions(path, labels)
    assert read.positions == [0, 1, 2]
    assert read.probabilities["deformation"][:, 0].tolist() == [0.5, 0.3, 0.9]
    assert read.probabilities["quality"][1] == pytest.approx(0.3 + np.arange(7) / 100)
    assert read.thresholds["quality"].tolist() == [0.5, 0.5, 0.5, 0.3, 0.5, 0.5, 0.5]
    assert read.decided("quality")[1].tolist() == [False, False, False, True, False, False, False]
    assert read.decided("deformation")[:, 0].tolist() == [True, False, True]
    assert read.decided("atmosphere").sum(axis=1).tolist() == [1, 1, 1]
    assert read.about["ignored_images"] == 1
    assert read.about["not_predicted"] == []
    assert read.masks is not None
    assert read.masks[2] == tmp_path / "out" / "masks" / "9.png"
    assert np.array_equal(read_mask(read.masks[2], (3, 2)), mask)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"predictions.jsonl", "masks"}


def test_nothing_appears_when_predicting_fails(tmp_path: Path) -> None:
    def failing() -> Any:
        yield 1, Found(None, 0.5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_label_predictions(tmp_path, failing())
    assert not (tmp_path / "predictions.jsonl").exists()


def test_some_tasks_are_enough(tmp_path: Path, labels: Labels) -> None:
    rows = [{"unique_id": uid, "deformation": 1} for uid in IDS]
    read = read_label_predictions(write(tmp_path / "p.jsonl", rows), labels)
    assert set(read.probabilities) == {"deformation"}
    assert read.masks is None
    expected = ["activity_types", "intensities", "volcano_phase", "atmosphere", "quality", "mask"]
    assert read.about["not_predicted"] == expected


def test_unreadable_images_need_no_line(tmp_path: Path, labels: Labels) -> None:
    path = write(tmp_path / "p.jsonl", [line(5), line(9)])
    read = read_label_predictions(path, labels, {3: "no valid phase"})
    assert read.positions == [0, 2]
    assert read.unreadable == ["3: no valid phase"]
    assert len(read.probabilities["quality"]) == 2


def test_the_hash_knows_labels_and_not_order(labels: Labels) -> None:
    truth = {task: values[::-1].copy() for task, values in labels.truth.items()}
    turned = Labels(IDS[::-1], ["b", "b", "a"], ["real"] * 3, truth, labels.known)
    assert turned.sha256 == labels.sha256
    truth["quality"][0, 0] = True
    assert turned.sha256 != labels.sha256
    assert turned.shares("quality")[0] == pytest.approx(1 / 3)


def change(**fields: Any) -> Callable[[], list[Any]]:
    return lambda: [line(5), line(3) | fields, line(9)]


def without(name: str) -> list[Any]:
    return [line(5), {k: v for k, v in line(3).items() if k != name}, line(9)]


BAD: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "no JSON": (lambda: [line(5), "{"], ":2: no JSON"),
    "no object": (lambda: ["[1]"], ":1: list, no object"),
    "deep": (lambda: ["[" * 100_000], ":1: no JSON"),
    "image missing": (lambda: [line(5), line(9)], "1 of 3 images missing, the first 3"),
    "image twice": (lambda: [line(5), line(5)], ":2: unique_id 5 twice"),
    "no id": (lambda: [{"deformation": 0.5}], ":1: unique_id: None"),
    "id as text": (lambda: [line(5) | {"unique_id": "5"}], "'5'; give an integer"),
    "id as truth": (lambda: [line(5) | {"unique_id": True}], "True; give an integer"),
    "unknown task": (change(deformations=1), ":2: deformations: no such task"),
    "task missing": (lambda: without("quality"), ":2: quality: missing here"),
    "mask missing": (lambda: without("mask"), ":2: mask: missing here"),
    "over 1": (change(deformation=1.01), ":2: deformation: 1.01; a number from 0 to 1"),
    "below 0": (change(deformation=-0.0001), "-0.0001"),
    "not a number": (change(deformation=float("nan")), ":2: deformation: nan"),
    "text": (change(deformation="0.5"), "'0.5'"),
    "truth": (change(deformation=True), "True"),
    "class missing": (change(atmosphere={"none": 1}), "give all of none, vertical_stratification"),
    "class unknown": (change(quality=line(3)["quality"] | {"cloud": 0}), "give all of corrupted"),
    "list": (change(quality=[0.1] * 7), "give all of corrupted"),
    "sum": (change(atmosphere=dict.fromkeys(TASKS["atmosphere"], 0.3)), "sum 1.2000"),
    "absolute": (change(mask="/etc/passwd"), "relative to the file, inside its folder"),
    "outside": (change(mask="masks/../../x.png"), "inside its folder"),
    "backslash": (change(mask="..\\x.png"), "inside its folder"),
    "mask number": (change(mask=3), "3; a path relative"),
    "thresholds": (lambda: [{"thresholds": {"mask": 0.5}}], ":1: thresholds"),
    "threshold": (lambda: [{"thresholds": {"deformation": 2}}], "thresholds.deformation"),
    "threshold name": (lambda: [{"thresholds": {"quality": {"x": 0.1}}}], "thresholds.quality"),
    "two thresholds": (
        lambda: [{"thresholds": {}}, {"thresholds": {"deformation": 0.1}}],
        ":2: other thresholds than before",
    ),
    "nothing": (lambda: [{"unique_id": uid} for uid in IDS], "no task in any line"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_told(tmp_path: Path, labels: Labels, case: str) -> None:
    lines, says = BAD[case]
    path = write(tmp_path / "p.jsonl", lines())
    with pytest.raises(HephError) as caught:
        read_label_predictions(path, labels)
    assert says in str(caught.value)
    assert "p.jsonl" in caught.value.where


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, labels: Labels, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(HephError, match=r"p\.jsonl"):
        read_label_predictions(tmp_path / "p.jsonl", labels)


def test_bad_masks_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    with pytest.raises(HephError, match="no such mask"):
        read_mask(path, (3, 2))
    Image.fromarray(np.zeros((3, 2), np.uint8)).save(path)
    with pytest.raises(HephError, match="2 x 3 px, its image 3 x 2 px"):
        read_mask(path, (3, 2))
    Image.fromarray(np.full((2, 3), 9, np.uint8)).save(path)
    with pytest.raises(HephError, match="class id 9"):
        read_mask(path, (3, 2))
    for wrong in (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint16)):
        Image.fromarray(wrong).save(path)
        with pytest.raises(HephError, match="image of mode"):
            read_mask(path, (3, 2))
    for content in (b"", b"\x89PNG\r\n\x1a\n cut", b"GIF89a"):
        path.write_bytes(content)
        with pytest.raises(HephError, match="unreadable"):
            read_mask(path, (3, 2))
