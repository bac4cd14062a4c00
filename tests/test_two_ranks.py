"""What two processes do together, checked in one torchrun session (`tests/two_ranks.py`)."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_run import train
from tests.two_ranks import ALONE, CHECKS

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What each rank says of each check."""
    folder = tmp_path_factory.mktemp("two_ranks")
    train(replace(ALONE, root=str(folder)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "tests.two_ranks", str(folder)]
    threads = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
    done = subprocess.run(
        command,
        cwd=REPO,
        env=os.environ | threads | {"ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    paths = [folder / f"rank_{rank}.json" for rank in range(2)]
    assert all(path.is_file() for path in paths), done.stderr[-3000:]
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.parametrize("name", [check.__name__ for check in CHECKS])
def test_two_ranks(name: str, reports: list[dict[str, str]]) -> None:
    for rank, report in enumerate(reports):
        assert report.get(name, "not reached") == "ok", f"rank {rank}: {report.get(name)}"
