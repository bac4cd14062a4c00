"""Probes tell what is in features, nothing of what is not, and metrics their textbook values."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from heph_vl.data.parquet import load, write_parquet
from heph_vl.errors import HephError
from heph_vl.metrics import probe
from heph_vl.models.encoder import Encoder, EncoderConfig
from tests.conftest import REPO
from tests.data.fake_archive import write_fake_archive

ENCODER = EncoderConfig(
    backbone="test_resnet", dim=32, tile_size=64, tile_overlap=0, num_latents=4, num_heads=2
)


def load_command():
    path = REPO / "eval" / "probe.py"
    spec = importlib.util.spec_from_file_location("eval_probe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


command = load_command()


def test_scores_of_a_target_by_hand():
    # The first class: a tie, and one positive above it. The second is never true.
    scores = np.array([[0.9, 0.2], [0.4, 0.6], [0.4, 0.1], [0.1, 0.3]])
    truth = np.array([[1, 0], [1, 0], [0, 0], [0, 0]], bool)
    found = probe.score_target(scores, truth, ("a", "b"), exclusive=False)
    assert found["classes"] == {
        "a": {"auroc": 3.5 / 4, "ap": pytest.approx((1 + 2 / 3) / 2), "positives": 2},
        "b": {"auroc": None, "ap": None, "positives": 0},
    }
    assert (found["auroc"], found["ap"]) == (3.5 / 4, pytest.approx((1 + 2 / 3) / 2))
    assert found["accuracy"] == 6 / 8  # the second row's answers are both wrong


def test_neighbours_vote_by_cosine():
    train = np.array([[1.0, 0], [0.9, 0.1], [-1, 0], [-0.9, -0.1]])
    labels = np.array([[True], [True], [False], [False]])
    queries = np.array([[5.0, 0.2], [-0.1, 0]])
    scores = probe.knn_scores(train, labels, queries, k=2)
    np.testing.assert_allclose(scores[:, 0], [1, 0])
    # What all features have in common does not count.
    shifted = probe.knn_scores(train + 100, labels, queries + 100, k=2)
    np.testing.assert_allclose(shifted, scores, atol=1e-6)
    everyone = probe.knn_scores(train, labels, queries, k=20)
    assert 0.99 < everyone[0, 0] < 1
    assert 0 < everyone[1, 0] < 0.01


def test_the_linear_probe_equals_its_optimum():
    """At the minimum the gradient is 0: mean of (p - y) x = -l2 w, of p - y = 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) * [1, 10, 0.1] + 5
    labels = (x[:, :1] + rng.normal(size=(200, 1)) > 5) & np.ones((1, 2), bool)
    labels[:, 1] = ~labels[:, 0]
    standard = (x - x.mean(0)) / x.std(0)
    for exclusive in (False, True):
        predict = probe.fit_linear(x, labels, 0.1, exclusive=exclusive)
        residual = predict(x) - labels
        np.testing.assert_allclose(residual.mean(0), 0, atol=1e-5)
        logits = np.log(predict(x) / (1 - predict(x))) / (2 if exclusive else 1)
        design = np.column_stack([standard, np.ones(200)])
        w = np.linalg.lstsq(design, logits, rcond=None)[0][:3]
        np.testing.assert_allclose(standard.T @ residual / 200, -0.1 * w, atol=1e-4)


def test_strong_regularisation_is_chosen_for_noise_and_weak_for_signal():
    rng = np.random.default_rng(1)
    groups = [f"g{i % 6}" for i in range(240)]
    x = rng.normal(size=(240, 20))
    signal = x[:, :1] > 0
    noise = rng.random((240, 1)) > 0.5
    assert probe.choose_l2(x, signal, groups, exclusive=False) < 0.05
    assert probe.choose_l2(x, noise, groups, exclusive=False) >= 0.1


def test_folds_share_no_group():
    groups = ["a"] * 10 + ["b"] * 5 + ["c"] * 5 + ["d"] * 4
    folds = probe.make_folds(groups)
    assert {tuple(np.unique(folds[np.array(groups) == g])) for g in "abcd"} == {(0,), (1,), (2,)}
    assert np.bincount(folds).tolist() == [10, 9, 5]
    assert set(probe.make_folds(["a", "a", "b", "a"])) == {0, 1, 2}


def make_rows(count, seed, *, informative=True):
    rng = np.random.default_rng(seed)
    deforming = rng.random(count) < 0.3
    atmosphere = rng.integers(0, 4, count)
    vectors = rng.normal(size=(count, 12)).astype(np.float32)
    if informative:
        vectors[:, 0] += 6 * deforming
        vectors[np.arange(count), 1 + atmosphere] += 6
    quality = np.zeros((count, 7), bool)
    quality[:, 2] = rng.random(count) < 0.2
    labels = {
        "deformation": deforming[:, None],
        "atmosphere": atmosphere[:, None] == np.arange(4),
        "quality": quality,
    }
    return probe.Rows(vectors, labels, [f"g{i % 7}" for i in range(count)])


def test_features_that_know_are_told_from_features_that_do_not():
    report = probe.probe(make_rows(300, 0), make_rows(200, 1))
    for kind in ("knn", "linear"):
        assert report["deformation"][kind]["auroc"] > 0.95
        assert report["atmosphere"][kind]["accuracy"] > 0.9
        assert 0.3 < report["quality"][kind]["auroc"] < 0.7  # nothing of it in the features
    for entry in report.values():
        assert entry["chance"]["auroc"] == 0.5
    chance = report["deformation"]["chance"]
    truth = make_rows(200, 1).labels["deformation"]
    assert chance["ap"] == pytest.approx(truth.mean())
    assert chance["accuracy"] == pytest.approx(1 - truth.mean())
    absent = report["quality"]["linear"]["classes"]["corrupted"]
    assert absent == {"auroc": None, "ap": None, "positives": 0}
    blind = probe.probe(make_rows(300, 0), make_rows(200, 1, informative=False))
    assert 0.35 < blind["deformation"]["linear"]["auroc"] < 0.65


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("probe")
    write_fake_archive(root / "archive", n=40, size=96)
    write_parquet(root / "archive", root / "dataset")
    return root / "dataset"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("encoder")
    Encoder(ENCODER).save_pretrained(path)
    return path


def test_rows_bring_features_and_labels(dataset, folder):
    rows = load(dataset, "train")
    encoder = command.load_encoder(folder)
    read = probe.read_rows(encoder, rows)
    assert read.vectors.shape == (len(rows), 32)
    assert read.labels["deformation"][:, 0].tolist() == [len(a) > 0 for a in rows["activity_types"]]
    assert read.labels["atmosphere"].argmax(1).tolist() == rows["atmosphere"]
    assert not read.labels["quality"].any()
    assert read.groups == rows["volcano_group"]
    some = probe.read_rows(encoder, rows, limit=7, features="mean")
    assert some.vectors.shape == (7, 32)
    with pytest.raises(HephError, match="no labels"):
        probe.read_rows(encoder, rows.select_columns(["image"]))


def test_the_command_prints_one_json_value(dataset, folder, capsys, tmp_path):
    out = tmp_path / "results.json"
    words = ["--data", str(dataset), "--encoder", str(folder), "--random", "--out", str(out)]
    assert command.main([*words, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads(out.read_text())
    assert set(results["encoders"]) == {"encoder", "random"}
    for report in results["encoders"].values():
        assert set(report) == {"deformation", "atmosphere", "quality"}
        assert 0 <= report["deformation"]["knn"]["auroc"] <= 1
        assert report["deformation"]["linear"]["l2"] in probe.L2_GRID
        assert report["atmosphere"]["knn"]["accuracy"] == 1  # all are turbulent here
        assert report["atmosphere"]["knn"]["auroc"] is None
    assert command.main(words) == 0
    shown = capsys.readouterr().out
    assert "deformation" in shown
    assert "random linear" in shown


def test_random_weights_are_others_and_repeatable(folder):
    saved = command.load_encoder(folder)
    one, same = (command.load_encoder(folder, random_seed=1) for _ in range(2))
    assert torch.equal(one.projection.weight, same.projection.weight)
    assert not torch.equal(one.projection.weight, saved.projection.weight)
    assert not one.training


def test_a_model_that_keeps_an_encoder_will_do(tmp_path):
    from heph_vl.models.moco import MoCo, MoCoConfig

    torch.manual_seed(6)
    model = MoCo(MoCoConfig(encoder=ENCODER, dim=8, hidden_dim=8, queue_size=8))
    model.save_pretrained(tmp_path / "moco")
    found = command.load_encoder(tmp_path / "moco")
    assert torch.equal(found.projection.weight, model.encoder.projection.weight)
    with pytest.raises(HephError, match="no saved encoder"):
        command.load_encoder(tmp_path)


def test_errors_are_one_line(dataset, folder, tmp_path, capsys):
    assert command.main(["--data", str(tmp_path / "no"), "--encoder", str(folder)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'no'}")
    assert command.main(["--data", str(dataset), "--encoder", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
