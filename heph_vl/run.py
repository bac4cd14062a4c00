"""Start of a training run: processes, seed, run folder, checkpoints and resume.

A run folder `runs/<task>/<name>/` holds

    config.yaml          the resolved config; `--config` reads it back
    environment.json     command, commit, versions, seed, device, number of processes; resumes
    checkpoints/step_N/  complete ones only: written under another name, synced, then renamed
    metrics.jsonl        one JSON object a line, at most one line for each step
    model/               the trained model, loadable by `from_pretrained`
    <name>.txt           what else it depends on, such as the hash of frozen weights (`pin`)
    results.json         written last: a run with it is finished
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from accelerate import Accelerator

from heph_vl.config import ConfigT, UsageError, differing_keys, parse_config, to_plain
from heph_vl.errors import HephError
from heph_vl.files import TEMPORARY, new_folder, publish, write_text, writing

__all__ = [
    "AcceleratorConfig",
    "Run",
    "launch",
    "make_accelerator",
    "parse_config",
    "seed_everything",
]

_VERSIONS = (
    "heph-vl",
    "accelerate",
    "transformers",
    "open_clip_torch",
    "timm",
    "datasets",
    "numpy",
)


@dataclass(frozen=True)
class AcceleratorConfig:
    """Precision and tracker; processes and devices come from the launch command."""

    mixed_precision: Literal["launch", "no", "bf16"] = "launch"  # launch: accelerate's config
    tracker: Literal["none", "trackio"] = "none"


def launch(
    recipe: Callable[[ConfigT, bool], None],
    config_class: type[ConfigT],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a recipe from the command line; a HephError is one line on stderr, without a traceback.

    Args:
        recipe: Called with the config and whether to resume.
        config_class: Read by `parse_config`.
        argv: Command line without the program's name; the process's own if None.

    Returns:
        Exit code: 0 done, 1 a problem, 2 wrong usage, 130 stopped by Ctrl-C.
    """
    rank = os.environ.get("RANK", "0")
    prefix = "" if rank == "0" else f"[rank {rank}] "
    try:
        config, resume = parse_config(config_class, sys.argv[1:] if argv is None else argv)
        recipe(config, resume)
    except HephError as error:
        # One write: ranks share the terminal. Their group is left to torchrun to take down.
        sys.stderr.write(f"{prefix}error: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"{prefix}{stop or 'stopped'}\n")
        return 130
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


def make_accelerator(config: AcceleratorConfig) -> Accelerator:
    """Start this process's accelerator and check it against what the launch command asked for.

    Args:
        config: Precision and tracker.

    Returns:
        The accelerator.

    Raises:
        HephError: Processes that would each train alone, a precision other than bf16 or float32,
            or a tracker that is not installed.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    several_asked = launched and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
    if several_asked:
        # accelerate's own CPU launcher sets the address of a group and then starts one process.
        raise HephError(
            "launch",
            "accelerate was asked for several processes and started one",
            "on CPU use ACCELERATE_USE_CPU=true torchrun --nproc-per-node N",
        )
    if config.tracker != "none" and find_spec(config.tracker) is None:
        raise HephError(
            "tracker", f"{config.tracker} is not installed", f"pip install {config.tracker}"
        )
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = Accelerator(
        mixed_precision=None if config.mixed_precision == "launch" else config.mixed_precision,
        log_with=None if config.tracker == "none" else config.tracker,
    )
    if accelerator.num_processes != wanted:
        raise HephError(
            "launch",
            f"{wanted} processes were started but each would train alone",
            "on CPU set ACCELERATE_USE_CPU=true; with GPUs start at most one process for each",
        )
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise HephError(
            "launch", f"mixed precision {accelerator.mixed_precision!r}", "use bf16 or no"
        )
    return accelerator


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed the global generators of Python, numpy and torch; ranks differ in their noise."""
    words = np.random.SeedSequence([seed, rank]).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(int(words[0]))  # noqa: NPY002 - libraries still draw from the global generator
    torch.manual_seed(int(words[1]))


@dataclass(frozen=True)
class Run:
    """One run folder; every rank holds one, only the main process writes."""

    folder: Path
    is_main: bool = True
    resume: bool = False

    @classmethod
    def start(
        cls,
        accelerator: Accelerator,
        config: Any,
        *,
        task: str,
        name: str,
        seed: int,
        resume: bool = False,
        root: Path | str = "runs",
    ) -> "Run":
        """Open the run folder, new or to be resumed, and seed the global generators.

        Args:
            accelerator: From `make_accelerator`.
            config: The recipe's config dataclass; it must equal that of a run to be resumed.
            task: Folder under `root`.
            name: Folder under the task.
            seed: Seed of the run.
            resume: Go on with what is there, if anything is.
            root: Folder of all runs.

        Returns:
            The run, to be resumed if it exists.

        Raises:
            HephError: The folder holds another run, or this one and `resume` is False.
        """
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise UsageError("name", f"{name!r} is no folder name", "use letters, digits, - and _")
        folder = Path(root) / task / name
        plain = to_plain(config)
        known = _check_folder(folder, plain, resume)
        accelerator.wait_for_everyone()  # every rank has looked before one writes
        run = cls(folder, accelerator.is_main_process, resume=known)
        if run.is_main:
            with writing(folder):
                run._describe(accelerator, plain, seed)
        accelerator.wait_for_everyone()
        seed_everything(seed, accelerator.process_index)
        if accelerator.log_with:
            options = {"name": name, "resume": "allow" if known else "never"}
            accelerator.init_trackers(task, init_kwargs={"trackio": options})
        return run

    @property
    def finished(self) -> bool:
        """Whether the run has its results, so that nothing is left to do."""
        return (self.folder / "results.json").is_file()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        if self.is_main:
            line = json.dumps({"step": step, **values}) + "\n"
            with writing(self.folder), (self.folder / "metrics.jsonl").open("a") as file:
                file.write(line)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one cut off by a kill is left out."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        found = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def pin(self, name: str, value: str, fix: str) -> None:
        """Keep what the run depends on beside its config, such as the hash of frozen weights.

        Args:
            name: Of it.
            value: One line.
            fix: What to do where a resumed run finds another value.

        Raises:
            HephError: The run was started with another value.
        """
        path = self.folder / f"{name}.txt"
        known = path.read_text().strip() if path.is_file() else value
        if known != value:
            raise HephError(str(path), f"the run has {known[:12]}, now it is {value[:12]}", fix)
        if self.is_main:
            with writing(self.folder):
                write_text(path, value + "\n")

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json, which marks the run as finished."""
        if self.is_main:
            with writing(self.folder):
                write_text(self.folder / "results.json", json.dumps(results, indent=2) + "\n")

    def save_model(self, save: Callable[[Path], Any]) -> Path:
        """Fill `model/` by `save(folder)`, all or nothing, on the main process; its path."""
        target = self.folder / "model"
        if self.is_main:
            with writing(target), new_folder(target) as temporary:
                save(temporary)
        return target

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        steps = self._steps()
        return self.folder / "checkpoints" / f"step_{steps[-1]}" if steps else None

    def save_checkpoint(self, accelerator: Accelerator, step: int, keep: int) -> None:
        """Save the state of all that `accelerator` knows; keep the newest `keep` checkpoints.

        Args:
            accelerator: Holds the prepared and registered objects.
            step: Optimizer steps done.
            keep: Older ones are deleted once the new one is complete.

        Raises:
            HephError: The disk is full or read-only; the older checkpoints are untouched.
        """
        target = self.folder / "checkpoints" / f"step_{step}"
        if target.is_dir():
            return
        temporary = target.with_name(TEMPORARY + target.name)
        with writing(target):
            temporary.mkdir(parents=True, exist_ok=True)
            accelerator.wait_for_everyone()
            try:
                accelerator.save_state(str(temporary))
                accelerator.wait_for_everyone()
                if self.is_main:
                    publish(temporary, target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        if self.is_main:
            for old in self._steps()[:-keep]:
                shutil.rmtree(target.with_name(f"step_{old}"))
        accelerator.wait_for_everyone()

    def load_checkpoint(self, accelerator: Accelerator) -> int:
        """Load the newest complete checkpoint of a resumed run; metrics after it are dropped.

        Args:
            accelerator: Holds the prepared and registered objects.

        Returns:
            Optimizer steps done, 0 for a new run.

        Raises:
            HephError: The checkpoint does not fit the model or the number of processes.
        """
        checkpoint = self.latest() if self.resume else None
        step = int(checkpoint.name.removeprefix("step_")) if checkpoint else 0
        if checkpoint:
            saved = len(list(checkpoint.glob("random_states_*.pkl")))
            if saved != accelerator.num_processes:
                raise HephError(
                    str(checkpoint),
                    f"is of {saved} processes, now there are {accelerator.num_processes}",
                    f"start {saved} processes",
                )
            try:
                accelerator.load_state(str(checkpoint))
            except (RuntimeError, ValueError, KeyError) as error:
                fix = "the code has changed since: start a new run under another name"
                raise HephError(str(checkpoint), f"does not fit the model: {error}", fix) from error
        if self.is_main:
            with writing(self.folder):
                for left_over in self.folder.glob(f"checkpoints/{TEMPORARY}*"):
                    shutil.rmtree(left_over)
                kept = [line for line in self.metrics() if line["step"] <= step]
                text = "".join(json.dumps(line) + "\n" for line in kept)
                write_text(self.folder / "metrics.jsonl", text)
        accelerator.wait_for_everyone()
        return step

    def _steps(self) -> list[int]:
        folders = self.folder.glob("checkpoints/step_*")
        names = (re.fullmatch(r"step_(\d+)", folder.name) for folder in folders)
        return sorted(int(name.group(1)) for name in names if name)

    def _describe(self, accelerator: Accelerator, plain: Any, seed: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "environment.json"
        session = _environment(accelerator, seed)
        if path.is_file():
            described = json.loads(path.read_text())
            described.setdefault("resumed", []).append(session)
        else:
            described = session
        write_text(path, json.dumps(described, indent=2) + "\n")
        # Last: a folder with config.yaml is a run.
        write_text(self.folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False))


def _check_folder(folder: Path, plain: Any, resume: bool) -> bool:
    """Whether the folder holds this very run."""
    path = folder / "config.yaml"
    if not path.is_file():
        if folder.is_dir() and (folder / "checkpoints").exists():
            raise HephError(str(folder), "is no run folder", "choose another name")
        return False
    differing = differing_keys(yaml.safe_load(path.read_text()), plain)
    if differing:
        what = f"holds a run with another config ({', '.join(differing)} differ)"
        raise HephError(str(folder), what, "choose another name or restore the config")
    if not resume:
        raise HephError(
            str(folder), "holds this run already", "add --resume or choose another name"
        )
    return True


def _environment(accelerator: Accelerator, seed: int) -> dict[str, Any]:
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "command": shlex.join(sys.orig_argv),
        **_commit(),
        "versions": versions | {package: _version(package) for package in _VERSIONS},
        "seed": seed,
        "device": f"{device.type} {name}".strip(),
        "num_processes": accelerator.num_processes,
        "mixed_precision": accelerator.mixed_precision,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> dict[str, Any]:
    """Commit of this source file; unknown where it is installed outside its repository."""
    here = Path(__file__)

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": None}
