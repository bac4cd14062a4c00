"""Shared fixtures: where the real files are, and one thread per test process."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real Hephaestus files, or a skip that says how to provide it."""
    folder = Path(os.environ.get("HEPH_VL_SHARED", REPO.parent / "shared"))
    if not (folder / "data" / "hephaestus" / "annotations.tar.gz").is_file():
        pytest.skip(f"no real Hephaestus files at {folder}: set HEPH_VL_SHARED to their folder")
    return folder
