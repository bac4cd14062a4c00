"""The captions format: written and read back the same; whatever is wrong is told by line."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heph_vl.errors import HephError
from heph_vl.metrics.caption_predictions import (
    caption_line,
    read_caption_predictions,
    write_caption_predictions,
)
from heph_vl.metrics.predictions import Gallery

IDS = [5, 3, 9]
GALLERY = Gallery(IDS, ["a", "b", "c"], ["etna", "etna", "askja"], ["real"] * 3)
TEXT = "Noise. A sill on the left."
SURE: dict[tuple[str, ...], float] = {
    ("noise",): 0.25,
    ("deformation", "1", "sill"): 1.0,
    ("deformation", "1", "at", "left"): 0.0,
}


def line(unique_id: int, **fields: Any) -> dict[str, Any]:
    sure = [[list(atom), p] for atom, p in SURE.items()]
    return {"unique_id": unique_id, "caption": TEXT, "fact_confidence": sure} | fields


def write(path: Path, lines: list[Any]) -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def test_written_and_read_back(tmp_path: Path) -> None:
    texts = {9: 'Noise, "so to say".\nA dyke \N{VOLCANO}\u2028 here.', 5: "", 3: TEXT, 77: "x"}
    sure: dict[int, Any] = {key: {} for key in texts} | {3: SURE, 9: {("noise",): 1 / 3}}
    lines = [caption_line(uid, text, sure[uid], uid / 100) for uid, text in texts.items()]
    path = write_caption_predictions(tmp_path / "new" / "out", lines)
    assert path == tmp_path / "new" / "out" / "predictions.jsonl"
    assert [p.name for p in path.parent.iterdir()] == ["predictions.jsonl"]
    found = read_caption_predictions(path, GALLERY)
    assert found.positions == [0, 1, 2]
    assert found.texts == [texts[uid] for uid in IDS]
    assert found.confidence == [{}, SURE, {("noise",): 1 / 3}]
    assert found.unreadable == []
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.about == {"predictions_sha256": sha256, "ignored_images": 1}


def test_a_line_is_one_line_of_json_in_a_fixed_order() -> None:
    one = caption_line(850, TEXT, SURE, 0.9)
    assert one == caption_line(850, TEXT, dict(reversed(SURE.items())), 0.9)
    assert json.loads(one) == {
        "unique_id": 850,
        "caption": TEXT,
        "fact_confidence": [
            [["deformation", "1", "at", "left"], 0.0],
            [["deformation", "1", "sill"], 1.0],
            [["noise"], 0.25],
        ],
        "deformation": 0.9,
    }
    with pytest.raises(ValueError, match="JSON"):
        caption_line(1, TEXT, {}, float("nan"))


def test_a_caption_is_enough(tmp_path: Path) -> None:
    lines = [json.dumps({"unique_id": uid, "caption": f"no {uid}"}) for uid in IDS]
    found = read_caption_predictions(write(tmp_path / "p.jsonl", ["", *lines, "  "]), GALLERY)
    assert found.texts == ["no 5", "no 3", "no 9"]
    assert found.confidence is None


def test_confidence_of_some_facts_is_enough(tmp_path: Path) -> None:
    some = [[["noise"], 1]]
    lines = [line(uid, fact_confidence=some) for uid in IDS]
    found = read_caption_predictions(write(tmp_path / "p.jsonl", lines), GALLERY)
    assert found.confidence == [{("noise",): 1.0}] * 3


def test_unreadable_images_need_no_line(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [line(9, caption="Noise. A sill, left."), line(5)])
    asked: list[int] = []

    def excused(position: int) -> str | None:
        asked.append(position)
        return "3: no valid phase"

    found = read_caption_predictions(path, GALLERY, excused)
    assert asked == [1]
    assert found.positions == [0, 2]
    assert found.texts == [TEXT, "Noise. A sill, left."]
    assert found.unreadable == ["3: no valid phase"]
    with pytest.raises(HephError, match="1 of 3 images missing, the first 3"):
        read_caption_predictions(path, GALLERY, lambda position: None)


def test_no_image_is_looked_at_where_most_are_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [line(5), line(1), line(2)])
    with pytest.raises(HephError, match="2 of 3 images missing, the first 3; give one line"):
        read_caption_predictions(path, GALLERY, lambda position: "unreadable")


def test_a_separator_inside_a_caption_ends_no_line(tmp_path: Path) -> None:
    # JSON allows these unescaped; they end lines for str.splitlines, not in a .jsonl.
    text = "Noise\u2028on the\u0085left."
    lines = [json.dumps({"unique_id": uid, "caption": text}, ensure_ascii=False) for uid in IDS]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    assert read_caption_predictions(path, GALLERY).texts == [text] * 3


def change(**fields: Any) -> Callable[[], list[Any]]:
    return lambda: [line(5), line(3) | fields, line(9)]


def sure(atom: Any, p: Any) -> Callable[[], list[Any]]:
    return change(fact_confidence=[[atom, p]])


BAD: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "no JSON": (lambda: [line(5), "{"], ":2: not valid JSON"),
    "blank lines count": (lambda: [line(5), "", "{"], ":3: not valid JSON"),
    "no object": (lambda: ["[1]"], ":1: not an object"),
    "deep": (lambda: ["[" * 100_000], ":1: not valid JSON"),
    "image missing": (lambda: [line(5), line(9)], "1 of 3 images missing, the first 3"),
    "all missing": (lambda: [], "3 of 3 images missing, the first 5"),
    "image twice": (lambda: [line(5), line(3), line(5)], ":3: unique_id 5 twice"),
    "no id": (lambda: [{"caption": "a"}], ":1: unique_id: None"),
    "id as text": (change(unique_id="3"), ":2: unique_id: '3'; give the image's number"),
    "id as truth": (change(unique_id=True), ":2: unique_id: True"),
    "id as float": (change(unique_id=3.0), ":2: unique_id: 3.0"),
    "no caption": (lambda: [line(5), {"unique_id": 3}], ":2: caption: None; give a text"),
    "caption as list": (change(caption=["a"]), ":2: caption: ['a']"),
    "fact not told": (sure(["corrupted"], 1), ":2: fact_confidence: ['corrupted'] is not told"),
    "another pattern": (sure(["deformation", "2", "sill"], 1), "'2', 'sill'] is not told"),
    "over 1": (sure(["noise"], 1.01), ":2: fact_confidence: 1.01; give a number from 0 to 1"),
    "below 0": (sure(["noise"], -0.01), ":2: fact_confidence: -0.01"),
    "not a number": (sure(["noise"], float("nan")), ":2: fact_confidence: nan"),
    "confidence as text": (
        sure(["noise"], "high"),
        ":2: fact_confidence: high; give a",
    ),
    "as text": (sure(["noise"], "0.9"), ":2: fact_confidence: 0.9; give a number from 0 to 1"),
    "huge": (sure(["noise"], 10**400), ":2: fact_confidence: 1000000"),
    "share as text": (change(deformation="banana"), ":2: deformation: banana; give a number"),
    "confidence missing": (sure(["noise"], None), ":2: fact_confidence: None; give a number"),
    "atom of lists": (sure([["noise"]], 1), ":2: fact_confidence: unreadable"),
    "a mapping": (change(fact_confidence={"noise": 1}), ":2: fact_confidence: unreadable"),
    "a number": (change(fact_confidence=0.5), ":2: fact_confidence: unreadable"),
    "in some lines": (change(fact_confidence=None), "fact_confidence in 2 of 3 lines"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_told(tmp_path: Path, case: str) -> None:
    lines, says = BAD[case]
    path = write(tmp_path / "p.jsonl", lines())
    with pytest.raises(HephError) as caught:
        read_caption_predictions(path, GALLERY)
    assert says in str(caught.value)
    assert "p.jsonl" in caught.value.where
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"), [(None, "no such file"), (b"\xff\xfe", "unreadable"), ("", "unreadable")]
)
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, content: bytes | str | None, says: str
) -> None:
    path = tmp_path / "p.jsonl"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.mkdir()  # a folder is no file
    with pytest.raises(HephError, match=rf"p\.jsonl: {says}"):
        read_caption_predictions(path, GALLERY)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HephError, match=r"predictions\.jsonl"):
        write_caption_predictions(tmp_path / "file", ["{}"])
