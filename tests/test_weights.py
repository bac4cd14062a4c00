"""The reference weights in the repository load, are what their card says, and know their facts."""

import json

import pytest

from heph_vl.models.retriever import Retriever
from heph_vl.models.weights import weights_sha256
from tests.conftest import REPO

FOLDER = REPO / "weights" / "retriever"
MAX_BYTES = 15 << 20


@pytest.fixture(scope="module")
def model():
    return Retriever.from_pretrained(FOLDER)


def test_files_are_small():
    assert all(path.stat().st_size <= MAX_BYTES for path in FOLDER.rglob("*") if path.is_file())


def test_results_and_card_are_of_these_weights(model):
    results = json.loads((FOLDER / "results.json").read_text())
    card = (FOLDER / "README.md").read_text()
    assert results["model_id"] == model.model_id
    assert f"{results['suites']['captions']['metrics']['mAP']['model']['value']:.3f}" in card
    assert results["commit"] in card
    encoder = json.loads((FOLDER / "config.json").read_text())["encoder"]
    assert encoder["sha256"] == weights_sha256(FOLDER / "encoder")


def test_texts_of_equal_facts_are_nearer_than_others(model):
    texts = [
        "A sill-type deformation pattern of high intensity is detected on the left side.",
        "On the left a sill-type deformation pattern of high intensity can be detected.",
        "No deformation activity can be detected. Turbulent mixing effect is detected on the top.",
    ]
    embeds = model.embed_texts(texts)
    likeness = embeds @ embeds.T
    assert likeness[0, 1] > likeness[0, 2]
    assert likeness[0, 1] > likeness[1, 2]
