"""`make demo` from the first file to the page, on a small archive."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

SIZE = "-n 36 --frames 9 --dates 4 --size 96 --seed 0"


def heph_vl(*words):
    command = [sys.executable, "-m", "heph_vl.cli", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.slow
def test_make_demo(tmp_path):
    demo = tmp_path / "demo"
    heph_vl("simulate", demo / "archive", *SIZE.split())
    frame = sorted(path.parent.name for path in demo.glob("archive/*/interferograms"))[0]
    # What is installed is used as it is: -o takes the stamp for old.
    command = ["make", "-o", ".venv/.installed", "demo", f"DEMO={demo}", f"DEMO_SIZE={SIZE}"]
    command += [f"DEMO_FRAME={frame}", "DEMO_STEPS=2", f"BIN={Path(sys.executable).parent}"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    steps = re.findall(r"(\d+)/10  ", done.stdout)
    assert steps == [str(number) for number in range(1, 11)]
    text = (demo / "index.html").read_text()
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert {"Search by text", "Deformation detected", "Described in words"} <= set(titles)
    assert "Not here: " not in text
    again = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, env=env)
    assert again.returncode == 0
    assert re.findall(r"(\d+)/10  ", again.stdout) == ["1", "2"]  # the rest is there
