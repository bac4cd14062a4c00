"""Fixtures of the data tests."""

from pathlib import Path

import pytest

from heph_vl.data.annotations import AnnotationSet, read_annotations


@pytest.fixture(scope="session")
def real_annotations(shared: Path) -> AnnotationSet:
    """All real annotations, read once."""
    return read_annotations(shared / "data" / "hephaestus" / "annotations.tar.gz")
