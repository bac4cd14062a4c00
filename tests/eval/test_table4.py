"""The table holds what the files of the runs say, beside the paper's numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval import table4
from heph_vl.errors import HephError

METRICS = {"accuracy": 0.911, "precision": 0.75, "recall": 0.5, "f1": 0.6, "auroc": 0.8768}


def write_run(
    root: Path,
    name: str,
    *,
    row: str = "ResNet-18",
    groups: int = 8,
    sha256: str = "a" * 64,
    initialisation: dict[str, Any] | None = None,
    undefined: tuple[str, ...] = (),
    **changes: Any,
) -> Path:
    interval = [0.123, 0.987] if groups >= 8 else None
    metrics = {
        metric: None
        if metric in undefined
        else {"value": value, "interval": interval, "per_group": {}, "majority": value / 10}
        for metric, value in METRICS.items()
    }
    results = {
        "row": row,
        "model": "classifier",
        "backbone": "resnet18",
        "initialisation": initialisation or {"source": "imagenet", "share": 1.0, "random": []},
        "input": "rgb",
        "labels": "own",
        "trained_on": "simulated",
        "steps": 77,
        "test": {
            "source": "simulated",
            "patches": 300,
            "deforming": 44,
            "groups": groups,
            "sha256": sha256,
        },
        "threshold": 0.5,
        "metrics": metrics,
    } | changes
    environment = {"seed": 3, "commit": "0123456789ab", "dirty": False, "device": "cpu x86_64"}
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def printed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert table4.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_markdown_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, write_run(tmp_path, "mine"), "--markdown").splitlines()
    assert lines[0].startswith("| model | run | ACC | P | R | F1 | AUROC | starts from |")
    assert lines[2].startswith("| SwinPL | paper | 97.3 | 76.9 | 88.5 | 82.2 | - |")
    assert lines[3].startswith("| ResNet-18 | paper | 97.4 | 79.9 | 84.6 | 82.2 | - |")
    between = "(12.3 to 98.7)"
    assert lines[4] == (
        f"| classifier, resnet18, rgb | mine | 91.1 {between} | 75.0 {between} | 50.0 {between} "
        f"| 60.0 {between} | 87.7 {between} | imagenet | simulated, 77 steps | A | 3 | 01234567 "
        "| cpu x86_64 |"
    )
    assert lines[5].startswith("| ResNet-18-MoCo | paper | 97.3 | 89.1 | 71.8 | 79.5 | - |")
    assert lines[6].startswith("| majority class |  | 9.1 | 7.5 | 5.0 | 6.0 | 8.8 |")
    notes = "\n".join(lines[7:])
    assert "different images" in notes
    assert "Test A: 300 simulated patches, 44 with deformation, groups of volcanoes: 8;" in notes
    assert "too few" not in notes


def test_numbers_come_from_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, "mine", groups=3)
    path = folder / "results.json"
    results = json.loads(path.read_text())
    results["metrics"]["f1"]["value"] = 0.314
    path.write_text(json.dumps(results))
    path = folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 8, "dirty": True}))
    table = json.loads(printed(capsys, folder, "--json"))
    (mine,) = (row for row in table["rows"] if row["run"] == "mine")
    assert mine["f1"] == {"value": pytest.approx(31.4), "interval": None}
    assert (mine["seed"], mine["commit"]) == (8, "01234567 (changed)")
    assert "groups of volcanoes: 3, too few for intervals." in table["notes"][1]
    assert table["notes"][-1].startswith("Changed:")


def test_each_run_stands_beside_its_row(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path, "other", row=""),
        write_run(tmp_path, "pl", row="SwinPL", labels="pseudo"),
        write_run(tmp_path, "seed1"),
        write_run(tmp_path, "seed0"),
    ]
    rows = table4.make_table([table4.read_run(folder) for folder in folders])["rows"]
    assert [(row["model"].split(",")[0], row["run"]) for row in rows] == [
        ("SwinPL", "paper"),
        ("classifier", "pl"),
        ("ResNet-18", "paper"),
        ("classifier", "seed1"),
        ("classifier", "seed0"),
        ("ResNet-18-MoCo", "paper"),
        ("classifier", "other"),
        ("majority class", ""),
    ]
    assert rows[1]["trained on"] == "simulated, pseudo-labels, 77 steps"


def test_other_test_patches_have_their_own_letter_and_majority(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, "one"), write_run(tmp_path, "two", sha256="b" * 64, groups=2)]
    table = table4.make_table([table4.read_run(folder) for folder in folders])
    assert [row["test"] for row in table["rows"] if row["run"] in ("one", "two")] == ["A", "B"]
    assert [row["test"] for row in table["rows"] if row["model"] == "majority class"] == ["A", "B"]
    assert table["tests"]["B"]["groups"] == 2
    assert any("different letters" in note for note in table["notes"])


def test_what_is_undefined_or_random_is_said(tmp_path: Path) -> None:
    part = {"source": "runs/moco/model", "share": 0.25, "random": ["layer4"], "sha256": "c"}
    folder = write_run(tmp_path, "mine", initialisation=part, undefined=("auroc",))
    table = table4.make_table([table4.read_run(folder)])
    text = table4.markdown(table)
    assert "| runs/moco/model (25% of the backbone; random: layer4) |" in text
    (mine,) = (row for row in table["rows"] if row["run"] == "mine")
    assert mine["auroc"]["value"] is None
    assert table["rows"][-1]["auroc"]["value"] is None
    json.dumps(table, allow_nan=False)


def test_the_terminal_table_shows_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, write_run(tmp_path, "mine"))
    for shown in ("SwinPL", "88.5", "91.1 (12.3", "majority class", "different images"):
        assert shown in text


def test_a_broken_or_other_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path, "mine")
    (folder / "results.json").write_text('{"split": "val"}')
    with pytest.raises(HephError, match="row is missing: no results of training/train_table4"):
        table4.read_run(folder)
    (folder / "results.json").write_text('{"row"')
    assert table4.main([str(folder)]) == 1
    assert "not valid JSON" in capsys.readouterr().err
    (folder / "results.json").unlink()
    assert table4.main([str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "finish the run with --resume" in error
