"""Configs, processes, the run folder and its checkpoints."""

import contextlib
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from accelerate import Accelerator

from heph_vl.config import UsageError, differing_keys, parse_config, to_plain
from heph_vl.errors import HephError
from heph_vl.files import TEMPORARY, new_folder, write_text
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator, seed_everything
from tests.tiny_run import TinyConfig, differences, state, train

REPO = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Section:
    """A section."""

    learning_rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    sides: tuple[int, int] = (1, 2)
    path: Path | None = None


@dataclass(frozen=True)
class Config:
    """A recipe."""

    seed: int = 0
    shuffle: bool = True
    optim: Section = field(default_factory=Section)
    extra: Section | None = None


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_files_then_overrides_wherever_they_stand(tmp_path: Path) -> None:
    one = write(tmp_path / "1.yaml", "seed: 5\noptim:\n  learning_rate: 1e-4\n  sides: [3, 4]\n")
    two = write(tmp_path / "2.yaml", "optim: {path: some/where}\nextra: {kind: b}\n")
    argv = ["--optim.kind", "b", "--config", one, f"--config={two}", "--resume", "--shuffle=false"]
    config, resume = parse_config(Config, argv)
    optim = Section(1e-4, "b", (3, 4), Path("some/where"))
    assert config == Config(5, False, optim, Section(kind="b"))
    assert resume
    assert parse_config(Config, []) == (Config(), False)


def test_the_resolved_config_reads_back(tmp_path: Path) -> None:
    config = Config(7, False, Section(3e-4, "b", (5, 6), Path("x")), Section())
    text = yaml.safe_dump(to_plain(config), sort_keys=False)
    assert parse_config(Config, ["--config", write(tmp_path / "c.yaml", text)])[0] == config


BAD_FILES = [
    (
        "optim:\n  learning_rat: 1\n",
        r"c.yaml: optim: unknown key 'optim.learning_rat'; did you mean",
    ),
    ("sed: 1\n", r"c.yaml: unknown key 'sed'; did you mean 'seed'\?"),
    ("seed: x\n", r"c.yaml: seed: 'x' is not an integer; give an integer"),
    ("optim: {learning_rate: fast}\n", r"c.yaml: optim.learning_rate: 'fast' is not a number"),
    ("optim: {kind: c}\n", r"c.yaml: optim.kind: 'c' is not one of a, b"),
    ("optim: 3\n", r"c.yaml: optim: 3 is no section; give keys: kind, learning_rate"),
    ("extra: {kindd: a}\n", r"c.yaml: extra: unknown key 'extra.kindd'; did you mean 'kind'"),
    ("extra: {learning_rate: x}\n", r"c.yaml: extra.learning_rate: 'x' is not a number"),
    ("- 3\n", r"c.yaml: \[3\] is no section"),
    ("seed: [1\n", r"c.yaml: is not YAML: .*line 2"),
]


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_bad_files_are_one_line_with_source_and_key(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_config(Config, ["--config", write(tmp_path / "c.yaml", text)])
    assert "\n" not in str(caught.value)


BAD_COMMANDS = [
    (["--optim.learning_rat", "1"], "unknown key 'optim.learning_rat'; did you mean 'optim.lea"),
    (["--optim.learning_rate", "x"], "command line: optim.learning_rate: 'x' is not a number"),
    (["--seed=1.5"], "command line: seed: '1.5' is not an integer"),
    (["--shuffle", "7"], "command line: shuffle: '7' is not true or false"),
    (["--optim", "{}"], "unknown key 'optim'"),
    (["--seed"], "--seed has no value"),
    (["--seed", "--resume"], "--seed has no value"),
    (["train"], "unexpected 'train'"),
    (["--config", "/no/such.yaml"], "/no/such.yaml: cannot be read"),
]


@pytest.mark.parametrize(("argv", "message"), BAD_COMMANDS)
def test_bad_commands_are_one_line_with_the_key(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(Config, argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_launch_gives_exit_codes_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def recipe(config: Config, resume: bool) -> None:
        if config.seed == 1:
            raise HephError("here", "is wrong", "do that")
        if config.seed == 2:
            raise KeyboardInterrupt("stopped after step 3")

    assert launch(recipe, Config, []) == 0
    assert launch(recipe, Config, ["--seed", "1"]) == 1
    assert launch(recipe, Config, ["--seed", "2"]) == 130
    assert launch(recipe, Config, ["--sed", "2"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["error: here: is wrong; do that", "stopped after step 3"]
    assert lines[2].startswith("error: command line: unknown key 'sed'")
    assert len(lines) == 3


def test_differing_keys_are_dotted() -> None:
    one = {"a": 1, "b": {"c": 2, "d": [1, 2]}, "e": 0}
    assert differing_keys(one, one) == []
    assert differing_keys(one, {"a": 1, "b": {"c": 3, "d": [1]}, "f": 0}) == [
        "b.c",
        "b.d",
        "e",
        "f",
    ]


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


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heph_vl.run.find_spec", lambda name: None)
    with pytest.raises(HephError, match="tensorboard is not installed; pip install tensorboard"):
        make_accelerator(AcceleratorConfig(tracker="tensorboard"))


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


def test_files_and_folders_are_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "two")
    assert (tmp_path / "a.txt").read_text() == "two"
    with new_folder(tmp_path / "model") as folder:
        (folder / "x").write_text("1")
    with contextlib.suppress(ValueError), new_folder(tmp_path / "model") as folder:
        (folder / "x").write_text("2")
        raise ValueError
    assert (tmp_path / "model" / "x").read_text() == "1"
    with new_folder(tmp_path / "model") as folder:
        (folder / "y").write_text("3")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["y"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "model"]


def tiny_process(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.tiny_run", f"--root={root}", *words]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)


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
