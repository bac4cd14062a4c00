"""Every command and snippet of README runs, on a small archive in the place of the demo's."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPO
from tests.data.fake_archive import write_fake_archive

SETUP = """
heph-vl simulate runs/demo/archive -n 24 --frames 6 --dates 4 --size 96
heph-vl dataset runs/demo/archive runs/demo/dataset
python training/train_retriever.py --config configs/retriever/tiny.yaml
  --data.path runs/demo/dataset --run.root runs/demo --loop.steps 2 --data.batch_size 8
heph-vl index runs/demo/dataset runs/demo/index --model runs/demo/retriever/tiny/model
"""
SMALL_TRAINING = " --loop.steps 2 --data.batch_size 8"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (REPO / "README.md").read_text(), re.M | re.S)


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def run(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command.replace(".venv/bin/", ""))
    here = Path(sys.executable).parent
    env = os.environ | {"PATH": f"{here}:{os.environ['PATH']}", "GOMP_SPINCOUNT": "0"}
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like the repository's, with a small demo and the user's own files."""
    root = tmp_path_factory.mktemp("readme")
    for name in ("training", "eval", "configs", "weights"):
        (root / name).symlink_to(REPO / name)
    for command in SETUP.replace("\n  ", " ").strip().splitlines():
        done = run(command, root)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    write_fake_archive(root / "HEPHAESTUS", n=6)
    (root / "HEPHAESTUS" / "annotations").rename(root / "annotations")
    subprocess.run(["tar", "czf", "annotations.tar.gz", "annotations"], cwd=root, check=True)
    rows, columns = np.mgrid[:1201, :1201]
    ground = np.rint(900 - np.hypot(rows - 600, columns - 600)).astype(">i2")
    (root / "N31E130.hgt").write_bytes(ground.tobytes())
    pictures = root / "folder_of_pngs"
    pictures.mkdir()
    for i, path in enumerate(sorted((root / "HEPHAESTUS").rglob("*.geo.diff.png"))):
        (pictures / f"{i}.png").write_bytes(path.read_bytes())
    return root


@pytest.mark.slow
def test_readme_commands_run(place):
    ran = 0
    for command in commands():
        if command.startswith(("make", "accelerate launch")):
            continue  # make demo is this test's model; several GPUs are absent
        command = command.replace("--weights openai", "--weights random")  # no hub here
        if "realism.py" in command:
            continue  # the real patches are absent
        if "training/" in command:
            command += SMALL_TRAINING
        command = command.replace("simulate OUT -n 400", "simulate OUT -n 4 --size 96")
        command = command.replace("-n 1000 --stratified", "-n 2 --stratified")
        command = command.replace("-n 8 --frames 2", "-n 2 --frames 1 --size 96")
        done = run(command, place)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
        ran += 1
    assert ran >= 8
    assert (place / "out.png").is_file()
    assert (place / "queries.json").is_file()


@pytest.mark.slow
def test_readme_snippets_run(place):
    for snippet in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert len(done.stdout.splitlines()) == (3 if "print(" in snippet else 0)
    assert (place / "quake.png").is_file()


def test_every_folder_of_readme_exists():
    tree = blocks("")[0]
    for name in re.findall(r"^(\w+)/", tree, re.M):
        assert (REPO / name).is_dir(), name
    for name in re.findall(r"(\w+\.py)", tree):
        assert list(REPO.rglob(name)), name
