"""Ablations on small real runs: each is trained and scored once, the table says what came out."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval import evaluate
from eval.ablate import call_process, check_runs, main
from eval.ablation_table import Ablation, Result, markdown, summarise
from heph_vl.config import parse_config
from heph_vl.data.parquet import write_parquet
from heph_vl.errors import HephError
from heph_vl.run import launch
from tests.conftest import REPO
from tests.data.fake_archive import write_fake_archive
from tests.training.test_train_heads import SMALL, recipe

SHIPPED = yaml.safe_load((REPO / "configs" / "heads" / "ablation.yaml").read_text())
ABLATION = SHIPPED | {
    "overrides": " ".join([*SMALL, "--loop.steps", "2", "--loop.evaluate_every", "0"]),
    "seeds": [0, 1],
    "variants": {name: SHIPPED["variants"][name] for name in ("phasor", "no_masks")},
    "evaluate": "--split test --draws 20",
}


class InProcess:
    """Runs recipe and evaluation for real, in this process, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, command: list[str], quiet: bool) -> int:
        self.asked.append(command)
        assert command[0] == sys.executable
        if command[1].endswith("evaluate.py"):
            return evaluate.main(command[2:])
        return launch(recipe.main, recipe.Config, command[2:])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ablate")
    write_fake_archive(root / "archive", n=30, size=96)
    write_parquet(root / "archive", root / "dataset")
    return root / "dataset"


def words(folder: Path, dataset: Path, *more: str, **changes: Any) -> list[str]:
    """Command line of an ablation in `folder`, whose YAML is written there."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(ABLATION | changes, sort_keys=False))
    return [str(path), "--data", str(dataset), "--run.root", str(folder / "runs"), *more]


@pytest.fixture(scope="module")
def ran(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both variants with both seeds, trained and scored."""
    folder, call = tmp_path_factory.mktemp("ran"), InProcess()
    assert main(words(folder, dataset), call) == 0
    assert len(call.asked) == 8
    return folder


def scores(ran: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ran / "runs" / "heads" / name / "test.json").read_text())
    return found


def auroc(evaluation: dict[str, Any]) -> float:
    binary = evaluation["tasks"]["deformation"]["classes"]["deformation"]
    value: float = binary["metrics"]["auroc"]["model"]["value"]
    return value


def test_the_table_holds_what_the_runs_scored(ran: Path) -> None:
    table = json.loads((ran / "runs" / "heads" / "small.json").read_text())
    base, other = table["rows"]
    assert (base["variant"], other["variant"]) == ("phasor", "no_masks")
    values = {n: [auroc(scores(ran, f"{n}-{s}")) for s in (0, 1)] for n in ("phasor", "no_masks")}
    for row in (base, other):
        shown = row["metrics"]["AUROC"]
        assert list(shown["values"].values()) == values[row["variant"]]
        assert shown["mean"] == pytest.approx(statistics.mean(values[row["variant"]]))
        assert shown["sd"] == pytest.approx(statistics.stdev(values[row["variant"]]))
    gaps = [b - a for a, b in zip(values["phasor"], values["no_masks"], strict=True)]
    difference = other["metrics"]["AUROC"]["difference"]
    assert difference["values"] == {"0": gaps[0], "1": gaps[1]}
    assert difference["mean"] == pytest.approx(sum(gaps) / 2)
    assert "difference" not in base["metrics"]["AUROC"]
    # Without a decoder there are no masks to score.
    assert base["metrics"]["IoU"]["mean"] is not None
    assert other["metrics"]["IoU"] == {
        "values": {"0": None, "1": None},
        "mean": None,
        "sd": None,
        "difference": {"values": {}, "mean": None, "sd": None, "up": 0, "down": 0, "equal": 0},
    }
    lines = (ran / "runs" / "heads" / "small.md").read_text().splitlines()
    assert lines[0] == "|  | " + " | ".join(SHIPPED["metrics"]) + " |"
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| phasor", "| no_masks"]
    assert "6 real images, 1 groups" in lines[5]


def test_runs_are_those_of_the_variant_and_the_seed(ran: Path) -> None:
    for variant, weight in (("phasor", 1.0), ("no_masks", 0.0)):
        for seed in (0, 1):
            folder = ran / "runs" / "heads" / f"{variant}-{seed}"
            config = yaml.safe_load((folder / "config.yaml").read_text())
            assert config["run"]["seed"] == seed
            assert config["model"]["segmentation_weight"] == weight
            assert config["loop"]["steps"] == 2
    assert scores(ran, "phasor-0")["model_id"] != scores(ran, "phasor-1")["model_id"]


def test_again_nothing_is_run(ran: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = InProcess()
    before = (ran / "runs" / "heads" / "small.json").read_text()
    assert main(words(ran, dataset, "--json"), call) == 0
    assert call.asked == []
    assert capsys.readouterr().out == before
    assert main(words(ran, dataset, "--markdown"), call) == 0
    assert capsys.readouterr().out == (ran / "runs" / "heads" / "small.md").read_text()
    assert main(words(ran, dataset, "--only", "no_masks"), call) == 0
    shown = capsys.readouterr()
    assert "phasor" in shown.out  # the table is of all that is there
    assert shown.err.splitlines() == ["[1/2] no_masks-0", "[2/2] no_masks-1"]
    assert call.asked == []


def test_a_broken_run_is_resumed_and_scored_again(ran: Path, dataset: Path) -> None:
    call, folder = InProcess(), ran / "runs" / "heads" / "no_masks-1"
    before = scores(ran, "no_masks-1")
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "model")
    assert main(words(ran, dataset, "--only", "no_masks"), call) == 0
    assert [Path(command[1]).name for command in call.asked] == ["train_heads.py", "evaluate.py"]
    assert call.asked[0][-1] == "--resume"
    assert scores(ran, "no_masks-1")["tasks"] == before["tasks"]
    assert {p.name for p in folder.glob("*test*")} == {"test.json"}
    assert "resumed" in json.loads((folder / "environment.json").read_text())


def test_another_way_of_scoring_scores_again(ran: Path, dataset: Path) -> None:
    call = InProcess()
    changed = words(ran, dataset, evaluate="--split val --draws 20")
    assert main([*changed, "--only", "phasor"], call) == 1  # half of the runs: not one table
    assert main(changed, call) == 0
    assert [Path(command[1]).name for command in call.asked] == ["evaluate.py"] * 4
    assert scores(ran, "no_masks-0")["split"]["name"] == "val"
    assert main(words(ran, dataset), call) == 0
    assert scores(ran, "no_masks-0")["split"]["name"] == "test"


@pytest.mark.parametrize(
    ("changes", "more", "message", "code"),
    [
        ({"overrides": ABLATION["overrides"] + " --loop.steps 3"}, [], "loop.steps differ", 1),
        ({}, ["--overrides", "--optimizer.lr 0.5"], "optimizer.lr differ", 1),
        (
            {"variants": {"phasor": "", "x": "--model.inptu rgb"}},
            [],
            "did you mean 'model.input'",
            2,
        ),
        ({"variants": {"phasor": "", "x": "--data.balance rgb"}}, [], "variant x: command line", 2),
        ({"baseline": "blue"}, [], "'blue' is no variant; one of phasor, no_masks", 2),
        ({"seeds": [1, 1]}, [], "seeds: [1, 1]", 2),
        ({"recipe": "training/train_no.py"}, [], "train_no.py does not exist", 2),
        ({"metric": {}}, [], "unknown key 'metric'", 2),
        ({}, ["--only", "blue"], "--only: 'blue' is no variant", 2),
        ({"metrics": {"all": "tasks.deformation"}}, [], "tasks.deformation leads to no number", 1),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    ran: Path,
    dataset: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    more: list[str],
    message: str,
    code: int,
) -> None:
    call = InProcess()
    assert main(words(ran, dataset, *more, **changes), call) == code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert call.asked == []


def test_a_run_that_fails_does_not_stop_the_others(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"from_nothing": "--init.path /missing", "phasor": ""}
    assert main(words(tmp_path, dataset, variants=variants, seeds=[0]), InProcess()) == 1
    shown = capsys.readouterr()
    assert "/missing: this is no saved encoder" in shown.err
    assert "from_nothing-0: the recipe ended with exit code 1" in shown.err
    assert "from_nothing: seed 0 not finished." in shown.out
    assert "phasor: seed" not in shown.out


def by_hand(values: dict[int, float | None], sha256: str = "a") -> dict[int, Result]:
    split = {"name": "test", "sha256": sha256, "sources": {"simulated": 8}, "groups": 2}
    environment = {"commit": "0123456789ab", "dirty": True, "device": "cpu x86_64"}
    return {
        seed: Result(
            {"split": split | {"unreadable": []}, "arguments": [], "m": {"value": value}},
            environment,
        )
        for seed, value in values.items()
    }


PLAN = Ablation(
    recipe="training/train_heads.py",
    base="configs/heads/tiny.yaml",
    seeds=[0, 1, 2],
    baseline="base",
    variants={"base": "", "mixed": "", "better": "", "same": "", "absent": ""},
    metrics={"score": "m.value", "other": "n.value"},
)


def test_differences_are_paired_by_seed_and_their_signs_told() -> None:
    runs = {
        "base": by_hand({0: 0.5, 1: 0.6, 2: 0.7}),
        "mixed": by_hand({2: 0.9, 1: 0.5, 0: 0.6}),
        "better": by_hand({0: 0.6, 1: 0.8}),
        "same": by_hand({0: 0.5, 1: 0.6, 2: None}),
        "absent": {},
    }
    table = summarise(PLAN, runs)
    rows = {row["variant"]: row["metrics"]["score"] for row in table["rows"]}
    mixed = rows["mixed"]["difference"]
    assert mixed["values"] == pytest.approx({"0": 0.1, "1": -0.1, "2": 0.2})
    # Mean 0.2 / 3; squared deviations 1/900, 1/36 and 4/225 sum to 7/150, over n - 1 = 2.
    assert (mixed["mean"], mixed["sd"]) == pytest.approx((0.2 / 3, (7 / 300) ** 0.5))
    assert (mixed["up"], mixed["down"]) == (2, 1)
    better = rows["better"]["difference"]
    assert (better["mean"], better["up"], better["down"]) == (pytest.approx(0.15), 2, 0)
    lines = markdown(table).splitlines()
    assert lines[:6] == [
        "|  | score | other |",
        "| --- | --- | --- |",
        "| base | 0.600 ± 0.100 | - |",
        "| mixed | 0.667 ± 0.208; +0.067 ± 0.153; 2 up, 1 down | - |",
        "| better | 0.700 ± 0.141; +0.150 ± 0.071 | - |",
        "| same | 0.550 ± 0.071; +0.000 ± 0.000; 2 equal | - |",
    ]
    notes = "\n".join(lines[6:])
    for text in (
        "8 simulated images, 2 groups",
        "3 have one sign in 1 of 4 cases",
        "better: seed 2 not finished.",
        "absent: seed 0, 1, 2 not finished.",
        "other: not defined in any run.",
        "Trained at 01234567 (changed), cpu x86_64.",
    ):
        assert text in notes
    assert "base: seed" not in notes


def test_without_the_baseline_there_are_no_differences() -> None:
    table = summarise(PLAN, {"base": {}, "mixed": by_hand({0: 0.5, 1: 0.6})})
    assert [row["variant"] for row in table["rows"]] == ["mixed"]
    assert markdown(table).splitlines()[2] == "| mixed | 0.550 ± 0.071 | - |"


def test_scores_of_different_images_make_no_table() -> None:
    with pytest.raises(HephError, match="different images"):
        summarise(PLAN, {"base": by_hand({0: 0.5}), "mixed": by_hand({0: 0.5}, sha256="b")})
    with pytest.raises(HephError, match="no run is finished"):
        summarise(PLAN, {"base": {}})


@pytest.mark.parametrize("path", sorted((REPO / "configs").glob("*/ablation*.yaml")), ids=str)
def test_every_ablation_is_read_with_its_variants(path: Path, tmp_path: Path) -> None:
    ablation, _ = parse_config(Ablation, ["--config", str(path)])
    check_runs(ablation, "dataset", tmp_path)
    header = path.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in header)
    assert header[2].startswith("# Expected:")
    assert header[3].startswith("# Smoke:")


def test_the_shipped_paths_lead_to_scores(ran: Path) -> None:
    for path in SHIPPED["metrics"].values():
        found: Any = scores(ran, "phasor-0")
        for key in path.split("."):
            found = found if found is None else found[key]  # None: undefined in this small split
        assert found is None or 0 <= found <= 1, path


CHILD = """
import pathlib, signal, sys, time
stopped = []
signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
pathlib.Path(sys.argv[1], "ready").touch()
end = time.monotonic() + 60
while not stopped and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(0.5)  # what a parent that kills would cut short
pathlib.Path(sys.argv[1], "saved").touch()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_is_passed_on_and_waited_for(number: int, tmp_path: Path) -> None:
    def ask() -> None:
        wait_for(tmp_path / "ready")
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        call_process([sys.executable, "-c", CHILD, str(tmp_path)], False)
    asking.join()
    assert (tmp_path / "saved").is_file()
    assert signal.getsignal(number) == before


def test_what_a_quiet_command_says_is_shown_if_it_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = "import sys; print('why', file=sys.stderr); sys.exit(int(sys.argv[1]))"
    assert call_process([sys.executable, "-c", said, "0"], True) == 0
    assert capsys.readouterr().err == ""
    assert call_process([sys.executable, "-c", said, "3"], True) == 3
    assert capsys.readouterr().err == "why\n"


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.is_file() or (not path.stat().st_size and path.suffix):
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.02)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(dataset: Path, tmp_path: Path) -> None:
    overrides = f"{ABLATION['overrides']} --loop.steps 60"
    variants = {"phasor": ""}
    line = words(tmp_path, dataset, "--json", overrides=overrides, variants=variants, seeds=[0])
    command = [sys.executable, str(REPO / "eval" / "ablate.py"), *line]
    folder = tmp_path / "runs" / "heads" / "phasor-0"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(folder / "metrics.jsonl")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "stopped; the same command goes on"
    assert "Traceback" not in said
    (saved,) = (folder / "checkpoints").iterdir()
    assert not (folder / "results.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["rows"][0]["metrics"]["AUROC"]["values"] == {
        "0": auroc(scores(tmp_path, "phasor-0"))
    }
    steps = [json.loads(s)["step"] for s in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 61))
    assert int(saved.name.removeprefix("step_")) < 60
