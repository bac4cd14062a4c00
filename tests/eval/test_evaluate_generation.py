"""eval/evaluate_generation.py: scores of known sets, and a tiny generator from end to end."""

import json
from dataclasses import replace

import numpy as np
import pytest

from eval.evaluate_generation import agreement, look, main, realism
from eval.generated_crops import Crops, Reading, read_crops, scrambled
from heph_vl.data import captions
from heph_vl.data.parquet import load, write_parquet
from tests import tiny_generator, tiny_heads
from tests.data.fake_archive import write_fake_archive

SIDE = 32
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("generation")
    write_fake_archive(root / "archive", n=24)
    write_parquet(root / "archive", root / "dataset")
    return root / "dataset"


def make_crops(count: int = 24) -> Crops:
    columns = np.arange(SIDE) * RNG.uniform(0.05, 0.6, (count, 1, 1))
    phase = np.broadcast_to(columns, (count, SIDE, SIDE)) + RNG.normal(0, 0.1, (count, SIDE, SIDE))
    level = np.full_like(phase, 0.5)
    texts = [
        "A sill of high intensity on the left." if i % 2 else "No deformation."
        for i in range(count)
    ]
    return Crops(
        np.stack([np.cos(phase), np.sin(phase), level], axis=1).astype(np.float32),
        np.ones((count, SIDE, SIDE), bool),
        texts,
        [f"group{i % 8}" for i in range(count)],
        list(range(count)),
    )


def test_the_floor_is_0_and_the_scrambled_are_1():
    real = RNG.normal(size=(200, 6))
    sets = {
        "scrambled": RNG.normal(size=(200, 6)) + 3,
        "twin": RNG.normal(size=(200, 6)),
        "half way": RNG.normal(size=(90, 6)) + 1,
    }
    found = realism(real, sets, list(range(200)), 0)
    for kind in ("kid_normalised", "fid_normalised"):
        assert found["floor"][kind]["value"] == pytest.approx(0, abs=1e-9)
        assert found["scrambled"][kind]["value"] == pytest.approx(1)
        assert 0 < found["floor"][kind]["standard_error"] < 0.02
        assert abs(found["twin"][kind]["value"]) < 0.02
        assert 0.005 < found["half way"][kind]["value"] < 0.5
    assert found["twin"]["coverage"]["value"] > 0.8 > 0.3 > found["scrambled"]["coverage"]["value"]


def test_sets_of_the_reference_are_taken_at_the_other_half():
    """A copy of the reference is the floor itself, split by split."""
    real = RNG.normal(size=(60, 4))
    found = realism(real, {"scrambled": real + 5, "copy": real}, list(range(60)), 0)
    assert found["copy"] == found["floor"]


def test_crops_of_one_interferogram_stay_together():
    """Twice the same crop in both halves would be a copy and make the floor too low."""
    once = RNG.normal(size=(40, 4))
    twice, units = np.repeat(once, 2, axis=0), np.repeat(np.arange(40), 2).tolist()
    apart = realism(twice, {"scrambled": twice + 5}, list(range(80)), 0)
    together = realism(twice, {"scrambled": twice + 5}, units, 0)
    assert together["floor"]["fid"]["value"] > 1.1 * apart["floor"]["fid"]["value"]


def test_scrambling_keeps_coherence_and_spectrum_and_loses_the_steps():
    crops = make_crops()
    mixed = scrambled(crops, 0)
    assert np.allclose(mixed.channels[:, 2], crops.channels[:, 2], atol=0.01)
    assert np.allclose(np.hypot(mixed.channels[:, 0], mixed.channels[:, 1]), 1, atol=1e-5)
    found = look({"real": crops, "scrambled": mixed}, 0)
    assert found["floor"]["phase_gradient_rad"] < 0.04
    assert found["scrambled"]["phase_gradient_rad"] > found["floor"]["phase_gradient_rad"]


def test_agreement_is_with_the_own_caption_not_another():
    crops = make_crops()
    told = np.array(["sill" in text for text in crops.texts])
    right = Reading(list(crops.texts), told * 0.8 + 0.1)
    wrong = Reading([crops.texts[0]] * len(told), 0.9 - told * 0.8)
    found = agreement(crops, {"real": right, "generated": wrong}, 0)
    assert found["real"]["fact_f1"]["value"] == 1
    assert found["real"]["deformation_auroc"]["value"] == 1
    assert found["generated"]["deformation_auroc"]["value"] == 0
    gap = found["real"]["fact_f1_minus_shuffled"]
    assert gap["interval"][0] > 0.2
    assert gap["value"] == pytest.approx(1 - found["real"]["fact_f1_shuffled"]["value"])
    assert found["generated"]["deformation_f1"]["value"] == 0
    assert found["generated"]["fact_f1_minus_shuffled"] == {"value": 0, "interval": [0, 0]}
    assert found["constant"]["fact_f1"]["value"] == pytest.approx(
        max(_f1(crops.texts, [text] * len(told)) for text in set(crops.texts)), abs=0.5
    )


def _f1(references, texts):
    pairs = [
        (captions.parse(a).atoms(), captions.parse(b).atoms())
        for a, b in zip(references, texts, strict=True)
    ]
    return 2 * sum(len(a & b) for a, b in pairs) / sum(len(a) + len(b) for a, b in pairs)


def test_crops_are_of_one_size_with_the_facts_of_the_crop(dataset):
    rows = load(dataset, "train")
    crops = read_crops(rows, SIDE, 20, 0)
    assert crops.channels.shape[1:] == (3, SIDE, SIDE)
    assert len(crops.texts) == len(crops.groups) == len(crops.units) == len(crops.valid)
    assert set(crops.units) <= set(rows["unique_id"])
    again = read_crops(rows, SIDE, 20, 0)
    assert np.array_equal(again.channels, crops.channels)
    assert again.texts == crops.texts
    assert not np.array_equal(read_crops(rows, SIDE, 20, 1).channels, crops.channels)


def test_from_end_to_end(dataset, tmp_path, capsys):
    tiny_generator.make().save_pretrained(tmp_path / "generator")
    tiny_heads.make().save_pretrained(tmp_path / "encoder")
    other = {"backbone": "resnet10t", "norm": "batch"}
    tiny_heads.make(encoder=other).save_pretrained(tmp_path / "judge")
    words = ["--model", tmp_path / "generator", "--data", dataset, "--split", "train"]
    words += ["--encoder", tmp_path / "encoder", "--number", 24, "--steps", 1, 2]
    judged = [*words, "--judge", tmp_path / "judge"]
    out = tmp_path / "results.json"
    assert main([*map(str, judged), "--out", str(out), "--json"]) == 0
    results = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == results
    names = {"generated, 1 steps", "generated, 2 steps"}
    assert set(results["realism"]) == names | {"floor", "scrambled"}
    assert set(results["agreement"]) == names | {"real", "constant"}
    assert set(results["drawing_seconds"]) == set(results["without_data"]) == names
    assert results["copying"] == {}
    assert results["split"]["crops"] <= 24
    assert main([*map(str, words), "--judge", str(tmp_path / "encoder"), "--out", str(out)]) == 1
    assert "judge" in capsys.readouterr().err
    assert main([*map(str, judged), "--model", str(tmp_path), "--out", str(out)]) == 1
    assert "no saved generator" in capsys.readouterr().err


def test_the_text_matters_only_if_it_is_read():
    """Shuffling texts of equal facts changes nothing."""
    crops = replace(make_crops(), texts=["No deformation."] * 24)
    found = agreement(crops, {"real": Reading(list(crops.texts), np.zeros(24))}, 0)
    assert found["real"]["fact_f1_minus_shuffled"]["value"] == 0
    assert np.isnan(found["real"]["deformation_auroc"]["value"])
