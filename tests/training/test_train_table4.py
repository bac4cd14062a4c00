"""The recipe of Table 4 on small real runs: both models learn, resume exactly, say no clearly."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from heph_vl.data.parquet import write_parquet
from heph_vl.data.patch_rows import Patches
from heph_vl.data.patches import PatchConfig
from heph_vl.models.patch_classifier import PatchClassifier, predict
from heph_vl.models.prototypes import Prototypes
from heph_vl.run import launch, parse_config
from heph_vl.simulate.patchset import write_patches
from heph_vl.simulate.stream import StreamConfig
from tests.conftest import REPO
from tests.data.fake_archive import write_fake_archive

SMALL = [
    "--data.batch_size", "16", "--data.num_workers", "0", "--data.patch_size", "48",
    "--loop.checkpoint_every", "4", "--loop.log_every", "1", "--loop.keep_checkpoints", "3",
    "--loop.evaluate_every", "4",
]  # fmt: skip
RESNET = ["--epochs", "4"]
SWIN = [
    *("--epochs", "5", "--model.backbone_options"),
    '{"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 4], "window_size": 3}',
]
FIRST_LOSSES = {
    "tiny_resnet": [0.76875, 0.63657, 0.66602],
    "tiny_swinpl": [5.93907, 3.22244, 5.31841],
}


def load_recipe():
    path = REPO / "training" / "train_table4.py"
    spec = importlib.util.spec_from_file_location("train_table4", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


def train(config, dataset, root, *more):
    words = ["--config", str(REPO / "configs" / "table4" / f"{config}.yaml"), *SMALL]
    words += ["--data.path", str(dataset), "--run.root", str(root), *more]
    return launch(recipe.main, recipe.Config, words)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    write_fake_archive(root / "archive", n=30, size=96)
    write_parquet(
        root / "archive", root / "patches", config="patches", patches=PatchConfig(48, jitter=0)
    )
    return root / "patches"


@pytest.fixture(scope="module")
def root(dataset, tmp_path_factory):
    """The runs `tiny_resnet` and `tiny_swinpl`."""
    root = tmp_path_factory.mktemp("run")
    assert train("tiny_resnet", dataset, root, *RESNET) == 0
    assert train("tiny_swinpl", dataset, root, *SWIN) == 0
    return root


CONFIGS = ["tiny_resnet", "tiny_swinpl"]


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def results(folder: Path):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize(("config", "steps"), [("tiny_resnet", 12), ("tiny_swinpl", 15)])
def test_the_loss_falls_over_the_epochs_steps(root, config, steps):
    values = losses(root / "table4" / config)
    assert len(values) == steps  # ceil(epochs * 47 patches / 16)
    assert sum(values[-4:]) < 0.85 * sum(values[:4])


@pytest.mark.parametrize("config", CONFIGS)
def test_the_first_losses_are_the_stored_ones(root, config):
    # A change here is a change of data order, sampling, initialisation or loss: say which.
    assert losses(root / "table4" / config)[:3] == pytest.approx(FIRST_LOSSES[config], rel=2e-3)


@pytest.mark.parametrize("config", CONFIGS)
def test_results_are_those_of_the_saved_model_and_the_predictions(root, dataset, config):
    folder = root / "table4" / config
    found = results(folder)
    lines = [json.loads(x) for x in (folder / "predictions.jsonl").read_text().splitlines()]
    label = np.array([line["label"] for line in lines])
    p = np.array([line["deformation"] for line in lines])
    assert found["test"] | {"sha256": ""} == {
        "source": "real", "patches": 16, "deforming": 4, "groups": 1, "sha256": "",
    }  # fmt: skip
    assert found["initialisation"] == {"source": "random", "share": 0.0, "random": ["all"]}
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(np.mean((p > 0.5) == label))
    assert found["metrics"]["accuracy"]["majority"] == 0.75
    pairs = [(a > b) + (a == b) / 2 for a in p[label] for b in p[~label]]
    assert found["metrics"]["auroc"]["value"] == pytest.approx(np.mean(pairs))
    assert found["metrics"]["recall"]["interval"] is None  # one group
    kind = PatchClassifier if config == "tiny_resnet" else Prototypes
    model = kind.from_pretrained(folder / "model")
    test = Patches(dataset, "test", form="rgb", size=48)
    again = predict(model, test, batch_size=5, num_workers=0)
    np.testing.assert_allclose(again, p, atol=1e-5)


@pytest.mark.parametrize(("config", "words"), [("tiny_resnet", RESNET), ("tiny_swinpl", SWIN)])
def test_resuming_equals_the_unbroken_run(dataset, root, tmp_path, config, words):
    finished, broken = root / "table4" / config, tmp_path / "table4" / config
    shutil.copytree(finished, broken)
    last = max(int(path.name[5:]) for path in (broken / "checkpoints").iterdir())
    for name in ("model", f"checkpoints/step_{last}"):
        shutil.rmtree(broken / name)
    (broken / "results.json").unlink()
    # The root is part of the config, and the copy lies elsewhere.
    path = broken / "config.yaml"
    path.write_text(path.read_text().replace(str(root), str(tmp_path)))
    assert train(config, dataset, tmp_path, *words, "--resume") == 0
    one = load_file(finished / "model" / "model.safetensors")
    other = load_file(broken / "model" / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(broken) == losses(finished)
    assert results(broken) == results(finished)


def test_a_finished_run_is_left_alone(dataset, root, capsys):
    path = root / "table4" / "tiny_resnet" / "model" / "model.safetensors"
    before = path.stat().st_mtime_ns
    assert train("tiny_resnet", dataset, root, *RESNET, "--resume") == 0
    assert path.stat().st_mtime_ns == before
    assert "nothing to do" in capsys.readouterr().out


def test_pseudo_labels_leave_backbone_and_centres_as_they_are(dataset, root, tmp_path):
    before = root / "table4" / "tiny_swinpl" / "model"
    more = ["--data.labels", "pseudo", "--model.init", str(before), "--run.name", "pseudo"]
    more += ["--epochs", "10", "--optimizer.lr", "0.01"]
    assert train("tiny_swinpl", dataset, tmp_path, *SWIN, *more) == 0
    folder = tmp_path / "table4" / "pseudo"
    one = load_file(before / "model.safetensors")
    other = load_file(folder / "model" / "model.safetensors")
    kept = {name for name in one if not name.startswith("projection")}
    assert kept == {name for name in other if not name.startswith("projection")}
    assert all(torch.equal(one[name], other[name]) for name in kept)
    assert [other[f"projection.{i}.weight"].shape[0] for i in (0, 2, 4)] == [64, 64, 3]
    assert sum(losses(folder)[-4:]) < 0.85 * sum(losses(folder)[:4])
    found = results(folder)
    assert found["labels"] == "pseudo"
    assert found["initialisation"]["source"] == str(before)
    assert found["test"] == results(before.parent)["test"]  # the records' own labels


def test_going_on_with_labels_starts_from_the_saved_model(dataset, root, tmp_path):
    before = root / "table4" / "tiny_swinpl" / "model"
    more = ["--model.init", str(before), "--optimizer.lr", "0", "--epochs", "0", "--loop.steps"]
    assert train("tiny_swinpl", dataset, tmp_path, *SWIN[2:], *more, "1") == 0
    one = load_file(before / "model.safetensors")
    other = load_file(tmp_path / "table4" / "tiny_swinpl" / "model" / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--optimizer.learning_rat", "1"], "unknown key 'optimizer.learning_rat'", 2),
        (["--run.row", "SwinLP"], "'SwinLP' is not one of", 2),
        (["--data.path", "/missing"], "/missing", 1),
        (["--optimizer.lr", "-1"], "optimizer.lr: -1.0; a finite number", 1),
        (["--data.evaluate_path", "/missing"], "/missing: no such dataset folder", 1),
        (["--data.batch_size", "0"], "data.batch_size: 0; at least 1", 1),
        (["--data.patch_size", "32"], "has patches of 48 px, and data.patch_size is 32", 1),
        (["--model.init", "imagenet"], "cannot be had from the hub", 1),
        (["--data.labels", "pseudo"], "only a saved model of kind prototypes can label", 1),
    ],
)
def test_bad_configs_are_one_line(dataset, tmp_path, capsys, words, message, code):
    assert train("tiny_resnet", dataset, tmp_path, *RESNET, *words) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    if words[0].startswith("--model") or words[-1] == "pseudo":
        assert not list(tmp_path.rglob("config.yaml"))  # the name is free for another start


@pytest.mark.slow
def test_simulated_patches_train_and_others_evaluate(dataset, tmp_path, capsys):
    simulated = tmp_path / "simulated"
    write_patches(simulated, 12, StreamConfig(seed=1, pairs_per_place=6, dates=4))
    words = ["--data.patch_size", "224", "--data.batch_size", "8", "--epochs", "2"]
    assert train("tiny_resnet", simulated, tmp_path, *words) == 1
    assert f"{simulated}: no split val" in capsys.readouterr().err
    assert (
        train("tiny_resnet", simulated, tmp_path, *words, "--data.evaluate_path", str(dataset)) == 0
    )
    folder = tmp_path / "table4" / "tiny_resnet"
    found = results(folder)
    assert (found["trained_on"], found["steps"]) == ("simulated", 3)  # 2 epochs of 12 patches / 8
    assert (found["test"]["source"], found["test"]["patches"]) == ("real", 16)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert np.mean([json.loads(line)["deforming"] for line in lines]) == 0.5  # both equally often


def test_whole_interferograms_are_refused(tmp_path, capsys):
    write_fake_archive(tmp_path / "archive", n=10, size=64)
    write_parquet(tmp_path / "archive", tmp_path / "whole")
    assert train("tiny_resnet", tmp_path / "whole", tmp_path) == 1
    assert "holds whole interferograms, not patches" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((REPO / "configs").glob("table4/*.yaml")), ids=str)
def test_every_config_is_read_and_has_its_header(path):
    config, _ = parse_config(recipe.Config, ["--config", str(path)])
    assert config.loop.steps > 0
    header = path.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in header)
    assert header[1].startswith("# python training/train_table4.py")
    assert header[2].startswith("# Expected:")
    assert header[3].startswith("# Smoke:")


def test_the_configs_hold_the_papers_numbers():
    for name in ("resnet18_imagenet", "resnet18_moco", "swinpl"):
        path = REPO / "configs" / "table4" / f"{name}.yaml"
        config, _ = parse_config(recipe.Config, ["--config", str(path)])
        o = config.optimizer
        assert (config.epochs, o.weight_decay, config.loop.warmup_steps) == (5, 1e-4, 0)
        if name == "swinpl":
            assert (o.name, o.lr, o.momentum, config.data.batch_size) == ("sgd", 1e-3, 0.9, 40)
            assert config.model.hidden == [8096, 16000]
        else:
            assert (o.name, o.lr) == ("adam", 1e-4)
