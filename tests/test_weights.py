"""The reference weights in the repository load, are what their card says, and know their facts."""

import json

import numpy as np
import pytest
import torch

from heph_vl.cards import card_of
from heph_vl.data.samples import decoded_pixels
from heph_vl.generate import load_generator
from heph_vl.models.captioner import Captioner
from heph_vl.models.heads import Heads
from heph_vl.models.retriever import Retriever
from heph_vl.models.weights import weights_sha256
from heph_vl.stage import kind_of
from tests.conftest import REPO

FOLDER = REPO / "weights" / "retriever"
MAX_BYTES, MAX_BYTES_TOGETHER = 15_000_000, 40_000_000


@pytest.fixture(scope="module")
def model():
    return Retriever.from_pretrained(FOLDER)


def test_files_are_small():
    files = [path for path in FOLDER.parent.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert all(path.stat().st_size <= MAX_BYTES for path in files)
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES_TOGETHER


def test_results_and_card_are_of_these_weights(model):
    results = json.loads((FOLDER / "results.json").read_text())
    card = (FOLDER / "README.md").read_text()
    assert results["model_id"] == model.model_id
    assert f"{results['suites']['captions']['metrics']['mAP']['model']['value']:.3f}" in card
    assert results["commit"] in card


@pytest.mark.parametrize("name", ["heads", "judge", "retriever", "captioner"])
def test_encoders_are_the_ones_that_are_named(name):
    encoder = json.loads((FOLDER.parent / name / "config.json").read_text())["encoder"]
    assert encoder["sha256"] == weights_sha256(FOLDER.parent / name / encoder["path"])


def test_what_is_shared_is_stored_once():
    """No two files of weights hold the same; heads and generator refer to others' folders."""
    files = list(FOLDER.parent.rglob("*.safetensors"))
    assert len({path.read_bytes() for path in files}) == len(files)
    assert json.loads((FOLDER.parent / "heads/config.json").read_text())["encoder"]["path"] == (
        "../encoder"
    )
    index = json.loads((FOLDER.parent / "generator/model_index.json").read_text())
    assert index["text_path"] == "../retriever"


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


CAPTIONER = REPO / "weights" / "captioner"


def test_captioner_results_and_card_are_of_these_weights():
    model = Captioner.from_pretrained(CAPTIONER)
    results = json.loads((CAPTIONER / "results.json").read_text())
    card = (CAPTIONER / "README.md").read_text()
    assert results["model_id"] == model.model_id
    assert results["threshold"] == model.threshold
    metrics = results["sides"]["all"]["metrics"]
    for name in ("fact_f1", "deformation_f1", "cider_d_words"):
        assert f"{metrics[name]['systems']['model']['value']:.3f}" in card
    assert results["commit"] in card


def test_the_captioner_tells_fringes_from_calm_ground():
    model = Captioner.from_pretrained(CAPTIONER)
    rows, columns = np.mgrid[:224, :224]
    calm = 0.01 * columns + np.random.default_rng(0).normal(0, 0.2, (224, 224))
    bowl = 20 * np.exp(-((rows - 60) ** 2 + (columns - 165) ** 2) / 500)
    shares = {}
    for name, phase in (("calm", calm), ("fringes", calm + bowl)):
        wrapped = np.angle(np.exp(1j * phase)).astype(np.float32)
        pixels, valid = decoded_pixels(wrapped, np.ones_like(wrapped, bool), None)
        image = torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None]
        (answer,) = model.answer(model.look_often(*image), num_samples=16)
        shares[name] = answer.deformation
        if name == "fringes":
            assert answer.facts.patterns
            assert {r for p in answer.facts.patterns for r in p.regions} & {"top", "top-right"}
    assert shares["calm"] < 0.5 < shares["fringes"]


HEADS = REPO / "weights" / "heads"


@pytest.fixture(scope="module")
def heads():
    return Heads.from_pretrained(HEADS)


@pytest.mark.parametrize("name", ["heads", "judge"])
def test_heads_results_and_card_are_of_these_weights(name):
    folder = REPO / "weights" / name
    results = json.loads((folder / "results.json").read_text())
    card = (folder / "README.md").read_text()
    assert results["model_id"] == Heads.from_pretrained(folder).model_id
    scores = results["tasks"]["deformation"]["classes"]["deformation"]["metrics"]
    for name in ("auroc", "f1"):
        assert f"{scores[name]['model']['value']:.3f}" in card
    assert results["commit"] in card


def test_the_judge_is_another_network(heads):
    judge = Heads.from_pretrained(REPO / "weights" / "judge")
    one, other = (model.config.encoder for model in (heads, judge))
    assert one.backbone != other.backbone
    assert one.tile_size != other.tile_size


def test_heads_find_the_fringes_of_a_ring(heads):
    """Three fringes in 40 px on quiet ground, and the same ground without them."""
    y, x = np.mgrid[:224, :224].astype(np.float32)
    ground = 0.004 * x + np.random.default_rng(0).normal(0, 0.25, x.shape)
    ring = 18 * np.exp(-((x - 150) ** 2 + (y - 80) ** 2) / (2 * 14**2))
    found = {}
    for name, phase in (("ring", ground + ring), ("ground", ground)):
        wrapped = np.angle(np.exp(1j * phase)).astype(np.float32)
        pixels, valid = decoded_pixels(wrapped, np.ones(x.shape, bool))
        found[name] = heads.predict(torch.from_numpy(pixels), torch.from_numpy(valid))
    assert found["ring"].deformation > 0.5 > found["ground"].deformation
    probability = found["ring"].mask_probability
    row, column = np.unravel_index(probability.argmax(), probability.shape)
    assert np.hypot(row - 80, column - 150) < 25


@pytest.mark.parametrize(
    "name", ["encoder", "heads", "judge", "retriever", "captioner", "generator"]
)
def test_cards_have_the_front_matter_of_their_results(name):
    folder = REPO / "weights" / name
    assert card_of(folder, kind_of(folder)) == (folder / "README.md").read_text()


GENERATOR = REPO / "weights" / "generator"


def test_generator_results_and_card_are_of_these_weights():
    pipeline = load_generator(GENERATOR)
    results = json.loads((GENERATOR / "results.json").read_text())
    card = (GENERATOR / "README.md").read_text()
    assert results["guidance_scale"] == pipeline.config.guidance_scale
    for steps in ("generated, 8 steps", "generated, 50 steps"):
        assert f"{results['realism'][steps]['kid_normalised']['value']:.3f}" in card
        assert f"{results['agreement'][steps]['fact_f1']['value']:.3f}" in card
    assert results["commit"] in card
    assert "not an observation" in card


def test_drawn_pictures_deform_where_the_words_say_so(heads):
    """Eight of each sentence, as the reference heads see them."""
    pipeline = load_generator(GENERATOR)
    texts = [
        "A sill-type deformation pattern of high intensity can be detected in the center.",
        "No deformation activity can be detected.",
    ]
    found = []
    for text in texts:
        generator = torch.Generator().manual_seed(0)
        drawn = pipeline([text] * 8, num_inference_steps=8, generator=generator)
        believed = []
        for phase, valid, coherence in zip(
            drawn.wrapped_phase, drawn.valid, drawn.coherence, strict=True
        ):
            pixels, seen = decoded_pixels(phase, valid, coherence)
            if seen.any():
                image = torch.from_numpy(pixels), torch.from_numpy(seen)
                believed.append(heads.predict(*image).deformation)
        found.append(float(np.mean(believed)))
    assert found[0] > 0.2
    assert found[1] < 0.05
