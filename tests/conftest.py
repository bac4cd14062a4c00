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


@pytest.fixture(scope="session")
def moving_archive(tmp_path_factory):
    """Sixteen pairs of a frame in the Afar, with GeoTIFFs; a sill that swelled is in eight."""
    from heph_vl.simulate.corpus import simulate

    out = tmp_path_factory.mktemp("observatory") / "archive"
    simulate(out, 16, frames=1, dates=9, size=192, seed=3, geotiff=True, workers=1)
    return out


@pytest.fixture(scope="session")
def heads():
    """The reference heads."""
    from heph_vl.models.heads import Heads

    return Heads.from_pretrained(REPO / "weights" / "heads")
