"""Configs, processes, the run folder and its checkpoints."""

import contextlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from heph_vl.config import UsageError, parse_config
from heph_vl.errors import HephError
from heph_vl.files import TEMPORARY
from heph_vl.loop import LoopConfig
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator, seed_everything
from tests.tiny_run import TinyConfig, differences, state, train

REPO = Path(__file__).resolve().parent.parent


def test_launch_gives_exit_codes_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def recipe(config: TinyConfig, resume: bool) -> None:
        if config.seed == 1:
            raise HephError("here", "is wrong", "do that")
        if config.seed == 2:
            raise KeyboardInterrupt("stopped after step 3")

    assert launch(recipe, TinyConfig, []) == 0
    assert launch(recipe, TinyConfig, ["--seed", "1"]) == 1
    assert launch(recipe, TinyConfig, ["--seed", "2"]) == 130
    assert launch(recipe, TinyConfig, ["--sed", "2"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["error: here: is wrong; do that", "stopped after step 3"]
    assert lines[2].startswith("error: command line: unknown key 'sed'")
    assert len(lines) == 3


def test_seeds_differ_by_rank_and_repeat() -> None:
    def draw(seed: int, rank: int) -> float:
        seed_everything(seed, rank)
        return torch.rand(()).item()

    assert draw(1, 0) == draw(1, 0)
    assert len({draw(1, 0), draw(1, 1), draw(2, 0), draw(2, 1)}) == 4


def test_processes_that_would_train_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(HephError, match="2 processes were started but each would train alone"):
        make_accelerator(AcceleratorConfig())
    monkeypatch.delenv("WORLD_SIZE")
    assert make_accelerator(AcceleratorConfig()).num_processes == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["accelerate.commands.launch", "--cpu", "--num_processes", "2"], "and started one"),
        (["torch.distributed.run", "--standalone", "--nproc-per-node", "2"], "would train alone"),
        (
            [
                "accelerate.commands.launch",
                "--config_file",
                str(REPO / "configs/accelerate/ddp.yaml"),
                "--main_process_port=0",
            ],
            "would train alone",
        ),
    ],
)
def test_launchers_without_a_group_are_refused(
    command: list[str], message: str, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("these launchers find a group where there are GPUs")
    words = [sys.executable, "-m", *command, "-m", "tests.tiny_run", f"--root={tmp_path}"]
    done = subprocess.run(words, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert message in done.stderr
    assert not list(tmp_path.iterdir())  # refused before anything is written


@pytest.fixture
def fresh_state() -> Iterator[None]:
    """Accelerate keeps one precision for a process: forget it before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_state")
def test_bf16_comes_from_config_or_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = LoopConfig(steps=2, warmup_steps=0, log_every=1)
    config = TinyConfig(name="full", root=str(tmp_path), loop=loop)
    full = train(config).metrics()
    AcceleratorState._reset_state(reset_partial_state=True)
    bf16 = replace(config, name="bf16", accelerator=AcceleratorConfig("bf16"))
    half = train(bf16).metrics()
    assert half[0]["loss"] != full[0]["loss"]
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.02)
    text = (tmp_path / "tiny" / "bf16" / "environment.json").read_text()
    assert json.loads(text)["mixed_precision"] == "bf16"
    for launched, config_says, expected in (("bf16", "launch", "bf16"), ("bf16", "no", "no")):
        AcceleratorState._reset_state(reset_partial_state=True)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
        accelerator = make_accelerator(AcceleratorConfig(config_says))  # type: ignore[arg-type]
        assert accelerator.mixed_precision == expected


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heph_vl.run.find_spec", lambda name: None)
    with pytest.raises(HephError, match="trackio is not installed; pip install trackio"):
        make_accelerator(AcceleratorConfig(tracker="trackio"))


@pytest.mark.parametrize("path", sorted((REPO / "configs/accelerate").glob("*.yaml")), ids=str)
def test_accelerate_configs_are_known_to_accelerate(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    several = {"cpu": 1, "one_gpu": 1, "ddp": 2, "multi_node": 16}
    assert config.num_processes == several[path.stem]
    assert config.mixed_precision == ("no" if path.stem == "cpu" else "bf16")


def test_the_folder_describes_the_run(tmp_path: Path) -> None:
    config = TinyConfig(root=str(tmp_path), seed=9)
    run = train(config)
    assert run.folder == tmp_path / "tiny" / "tiny"
    path = str(run.folder / "config.yaml")
    assert parse_config(TinyConfig, ["--config", path])[0] == config
    described = json.loads((run.folder / "environment.json").read_text())
    assert described["seed"] == 9
    assert described["num_processes"] == 1
    assert described["versions"]["torch"] == torch.__version__
    git = ["git", "-C", str(REPO), "rev-parse", "HEAD"]
    if (REPO / ".git").exists():
        assert described["commit"] == subprocess.check_output(git, text=True).strip()
    else:
        assert described["commit"] == "unknown"
    assert json.loads((run.folder / "results.json").read_text())["loss"] > 0
    assert (run.folder / "model" / "model.pt").is_file()
    assert run.finished
    assert not list(tmp_path.rglob(TEMPORARY + "*"))


def test_an_existing_run_is_protected(tmp_path: Path) -> None:
    config = TinyConfig(root=str(tmp_path))
    run = train(config)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    with pytest.raises(HephError, match="holds this run already; add --resume"):
        train(config)
    other = TinyConfig(root=str(tmp_path), lr=0.5, dropout=0.0)
    with pytest.raises(HephError, match=r"another config \(lr, dropout differ\)"):
        train(other, resume=True)
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
    assert train(config, resume=True).finished  # finished: nothing to do, no error
    described = json.loads((run.folder / "environment.json").read_text())
    assert len(described["resumed"]) == 1
    with pytest.raises(UsageError, match="/x' is no folder name"):
        train(TinyConfig(root=str(tmp_path), name="../x"))


@pytest.fixture
def saved_things(tmp_path: Path) -> tuple[Run, Accelerator, torch.nn.Linear]:
    accelerator = make_accelerator(AcceleratorConfig())
    model = accelerator.prepare(torch.nn.Linear(300, 300))
    return Run(tmp_path, resume=True), accelerator, model


def test_old_checkpoints_make_room(saved_things: Any) -> None:
    run, accelerator, _ = saved_things
    for step in (3, 9, 10, 20, 100):
        run.save_checkpoint(accelerator, step, keep=2)
    names = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    assert names == ["step_100", "step_20"]
    assert run.latest() == run.folder / "checkpoints" / "step_100"  # newest by number, not by name


def test_a_full_disk_leaves_the_older_checkpoint(saved_things: Any) -> None:
    run, accelerator, model = saved_things
    run.save_checkpoint(accelerator, 1, keep=1)
    saved = model.weight.detach().clone()
    torch.nn.init.zeros_(model.weight)
    with file_size_limit(100_000), pytest.raises(HephError, match="step_2: could not be written"):
        run.save_checkpoint(accelerator, 2, keep=1)
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step_1"]
    assert run.load_checkpoint(accelerator) == 1
    assert torch.equal(model.weight, saved)


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_checkpoint_of_another_model_or_world_is_refused(saved_things: Any) -> None:
    run, accelerator, _ = saved_things
    run.save_checkpoint(accelerator, 1, keep=1)
    other = make_accelerator(AcceleratorConfig())
    other.prepare(torch.nn.Linear(2, 2))
    with pytest.raises(HephError, match=r"step_1: does not fit the model: .*size mismatch"):
        run.load_checkpoint(other)
    states = run.folder / "checkpoints" / "step_1" / "random_states_1.pkl"
    states.touch()
    with pytest.raises(HephError, match="is of 2 processes, now there are 1; start 2 processes"):
        run.load_checkpoint(accelerator)


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log(1, {"loss": 2.0})
    run.log(2, {"loss": 1.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert run.metrics() == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]


def tiny_process(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.tiny_run", f"--root={root}", *words]
    env = os.environ | {"TRACKIO_DIR": str(root / "trackio")}
    return subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=120)


def test_kill_while_saving_leaves_the_complete_checkpoint(tmp_path: Path) -> None:
    words = ("--event=kill", "--at=9")
    killed = tiny_process(tmp_path, *words)
    assert killed.returncode == -signal.SIGKILL
    run = Run(tmp_path / "tiny" / "tiny")
    names = {path.name for path in (run.folder / "checkpoints").iterdir()}
    assert names == {"step_3", "step_6", TEMPORARY + "step_9"}
    assert run.latest() == run.folder / "checkpoints" / "step_6"
    config = TinyConfig(root=str(tmp_path), event="kill", at=9)
    resumed = train(config, resume=True)
    unbroken = train(TinyConfig(root=str(tmp_path), name="unbroken"))
    assert differences(state(resumed), state(unbroken)) == []
    assert not list(run.folder.rglob(TEMPORARY + "*"))


def test_interrupt_of_a_process_says_how_to_go_on(tmp_path: Path) -> None:
    stopped = tiny_process(tmp_path, "--event=interrupt", "--at=7")
    assert stopped.returncode == 130
    fix = "go on with the same command and --resume"
    assert stopped.stderr.splitlines()[-1] == f"stopped after step 7, saved; {fix}"
    assert "Traceback" not in stopped.stderr
    assert Run(tmp_path / "tiny" / "tiny").latest().name == "step_7"


@pytest.mark.slow
def test_the_tracker_gets_every_line(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    tracked = ("--accelerator.tracker=trackio", "--event=interrupt", "--at=7")
    assert tiny_process(tmp_path, *tracked).returncode == 130
    assert tiny_process(tmp_path, *tracked, "--resume").returncode == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "trackio" / "tiny.db")) as database:
        rows = database.execute("select run_name, step from metrics order by step").fetchall()
    assert rows == [("tiny", line["step"]) for line in Run(tmp_path / "tiny" / "tiny").metrics()]


def test_a_resumed_run_refuses_another_value_of_what_it_depends_on(tmp_path):
    run = Run(tmp_path)
    run.pin("frozen", "a" * 64, "give the same")
    run.pin("frozen", "a" * 64, "give the same")
    Run(tmp_path, is_main=False).pin("other", "b", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frozen.txt"]
    with pytest.raises(HephError, match=f"has {'a' * 12}, now it is {'b' * 12}; give the same"):
        run.pin("frozen", "b" * 64, "give the same")
