"""Heat maps against outlines: distances, ties, a retriever on a dataset, errors in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.heatmaps import POINTERS, hits, main, near_cells
from heph_vl.data.parquet import write_parquet
from heph_vl.models.text import train_tokenizer
from tests import tiny_captioner, tiny_retriever
from tests.data.fake_archive import write_fake_archive


def test_near_is_within_15_px_of_the_outline() -> None:
    mask = np.zeros((50, 64), np.uint8)
    mask[8, 20] = 2
    near = near_cells(mask, (4, 4))  # middles at 8, 24, 40, 56; the last row begins at 48 < 50
    assert near.tolist()[0] == [True, True, False, False]  # 12 and 4 px
    assert not near[1:].any()  # 16 px and more
    mask[40:44, 56] = 1
    assert near_cells(mask, (4, 4))[2].tolist() == [False, False, False, True]


def test_ties_are_shared_and_cells_without_data_are_no_peak() -> None:
    near = np.array([[True, False], [False, False]])
    looked = np.array([[True, True], [True, False]])
    assert hits(np.zeros((2, 2), np.float32), looked, near) == pytest.approx(1 / 3)
    assert hits(np.array([[1, 2], [0, 9]], np.float32), looked, near) == 0
    assert hits(np.array([[3, 2], [0, 9]], np.float32), looked, near) == 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("heatmaps")
    records = write_fake_archive(root / "archive", n=20, size=96)
    write_parquet(root / "archive", root / "dataset")
    tokenizer = train_tokenizer([r["caption"] for r in records], root / "tokenizer", 320)
    tiny_retriever.make(tokenizer, text=tiny_retriever.LONG_TEXT).save_pretrained(root / "model")
    return root


def test_a_captioner_is_scored_as_well(root: Path, tmp_path: Path, capsys: Any) -> None:
    tokenizer = train_tokenizer(["A sill-type pattern."], tmp_path / "tokenizer", 300)
    model = tiny_captioner.make(tokenizer, context_length=64)
    model.save_pretrained(tmp_path / "captioner")
    words = ["--data", str(root / "dataset"), "--split", "train", "--json"]
    assert main([*words, "--model", str(tmp_path / "captioner")]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["model_id"] == model.model_id
    assert 0 < results["pointers"]["random cell"]["value"] < 1
    assert 0 <= results["pointers"]["heat map"]["value"] <= 1


def run(root: Path, *more: str) -> int:
    return main(["--data", str(root / "dataset"), "--model", str(root / "model"), *more])


def test_a_retriever_is_scored_beside_chance(root: Path, tmp_path: Path, capsys: Any) -> None:
    sheet = tmp_path / "heat.png"
    assert run(root, "--split", "train", "--json", "--sheet", str(sheet), "--pictures", "2") == 0
    results = json.loads(capsys.readouterr().out)
    assert results["images"] > 0
    assert results["left_out"] == []
    for name in POINTERS:
        assert 0 <= results["pointers"][name]["value"] <= 1
    assert 0 < results["pointers"]["random cell"]["value"] < 1
    assert sheet.stat().st_size > 1000


def test_errors_are_one_line(root: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(root, "--split", "elsewhere") == 1
    assert main(["--data", str(root / "dataset"), "--model", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)
