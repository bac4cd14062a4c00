"""The autoencoder's recipe on a small real run: it learns, resumes exactly, and says no clearly."""

import importlib.util
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from heph_vl.data import parquet
from heph_vl.data.parquet import write_parquet
from heph_vl.data.samples import pixels
from heph_vl.data.transforms import TrainingSet
from heph_vl.models.autoencoder import autoencoder_loss, encode, load_autoencoder
from heph_vl.run import launch, parse_config
from tests.conftest import REPO
from tests.data.fake_archive import write_fake_archive

SMALL = [
    "--data.batch_size", "16", "--data.num_workers", "0", "--data.evaluate_crops", "16",
    "--transform.crop_size", "16", "--model.widths", "[16,16]", "--model.latent_channels", "3",
    "--loop.steps", "24", "--loop.warmup_steps", "2", "--loop.checkpoint_every", "12",
    "--loop.log_every", "1", "--loop.keep_checkpoints", "3", "--loop.evaluate_every", "12",
    "--optimizer.lr", "3e-3", "--optimizer.ema_decay", "0.8",
    "--accelerator.mixed_precision", "no",
]  # fmt: skip

FIRST_LOSSES = [2.05722, 1.70380, 1.54718]


def load_recipe():
    path = REPO / "training" / "train_autoencoder.py"
    spec = importlib.util.spec_from_file_location("train_autoencoder", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


def train(dataset, root, *more):
    words = ["--config", str(REPO / "configs" / "autoencoder" / "tiny.yaml"), *SMALL]
    words += ["--data.path", str(dataset), "--run.root", str(root), *more]
    return launch(recipe.main, recipe.Config, words)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    write_fake_archive(root / "archive", n=24, size=96)
    write_parquet(root / "archive", root / "dataset")
    return root / "dataset"


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    assert train(dataset, root) == 0
    return root / "autoencoder" / "tiny"


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder)]


def test_the_loss_falls(finished):
    values = losses(finished)
    assert len(values) == 24
    assert sum(values[-6:]) < 0.7 * sum(values[:6])
    first, last = lines(finished)[0], lines(finished)[-1]
    assert last["phase"] < first["phase"]
    assert last["coherence"] < first["coherence"]


def test_the_first_losses_are_the_stored_ones(finished):
    # A change here is a change of data order, sampling, initialisation or loss: say which.
    assert losses(finished)[:3] == pytest.approx(FIRST_LOSSES, rel=2e-3)


def test_results_hold_what_is_kept(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results.pop("split") == "val"
    assert results.keys() == {
        f"val_{name}"
        for name in ("circular_error", "fringe_count_error", "lines_off", "coherence_error",
                     "valid_error", "equivariance_error", "drawn_circular_error",
                     "drawn_fringe_count_error")
    }  # fmt: skip
    assert all(0 <= value < 4 for value in results.values())
    measured = [line for line in lines(finished) if "val_circular_error" in line]
    assert [line["step"] for line in measured] == [12, 24]
    assert measured[1]["val_circular_error"] == results["val_circular_error"]
    for step in (12, 24):  # crops of 16 px, phase beside coherence, twice as large, four in a row
        assert Image.open(finished / f"sheet_{step}.png").width == 4 * (64 + 8) + 8


def test_the_model_loads_with_the_scale_of_training_crops(dataset, finished):
    network = load_autoencoder(finished / "model")
    config, _ = parse_config(recipe.Config, ["--config", str(finished / "config.yaml")])
    samples = TrainingSet(parquet.load(dataset, "train"), config.transform, seed=7)
    crops = [pixels(samples[i % len(samples), i]["sample"]) for i in range(256)]
    images, valid = (torch.stack([torch.from_numpy(c[k]) for c in crops]) for k in (0, 1))
    with torch.no_grad():
        latents = encode(network, images, valid)
    assert latents.shape == (256, 3, 8, 8)
    assert latents.mean((0, 2, 3)).abs().max() < 0.2
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.2


def test_the_average_of_the_weights_is_saved(finished):
    last = load_file(finished / "checkpoints" / "step_24" / "model.safetensors")
    saved = load_file(finished / "model" / "diffusion_pytorch_model.safetensors")
    assert {f"network.{name}" for name in saved} == set(last)
    assert not torch.equal(saved["encoder.conv_in.weight"], last["network.encoder.conv_in.weight"])


def test_resuming_equals_the_unbroken_run(dataset, finished, tmp_path):
    broken = tmp_path / "autoencoder" / "tiny"
    shutil.copytree(finished, broken)
    for name in ("model", "checkpoints/step_24"):
        shutil.rmtree(broken / name)
    (broken / "results.json").unlink()
    # The root is part of the config, and the copy lies elsewhere.
    config = broken / "config.yaml"
    config.write_text(config.read_text().replace(str(finished.parents[1]), str(tmp_path)))
    assert train(dataset, tmp_path, "--resume") == 0
    name = "diffusion_pytorch_model.safetensors"
    one, other = (load_file(folder / "model" / name) for folder in (finished, broken))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert losses(broken) == losses(finished)
    for file in ("results.json", "model/config.json"):
        assert (broken / file).read_bytes() == (finished / file).read_bytes()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_step(
    dataset, tmp_path, monkeypatch, capsys
):
    steps = iter(range(1, 100))

    def spoilt(model, batch):
        loss, logs = autoencoder_loss(model, batch)
        return loss * (float("nan") if next(steps) == 5 else 1), logs

    monkeypatch.setattr(recipe, "autoencoder_loss", spoilt)
    words = ("--loop.steps", "6", "--loop.checkpoint_every", "2", "--loop.evaluate_every", "0")
    assert train(dataset, tmp_path, *words) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("error: step 5: loss is nan")
    assert not any("Traceback" in line for line in told)
    folder = tmp_path / "autoencoder" / "tiny"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_2", "step_4"]
    assert not (folder / "model").exists()
    assert len(losses(folder)) == 4
    assert train(dataset, tmp_path, *words, "--resume") == 0
    assert (folder / "model" / "config.json").is_file()


def test_a_finished_run_is_left_alone(dataset, finished, capsys):
    assert train(dataset, finished.parents[1], "--resume") == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert train(dataset, finished.parents[1]) == 1
    assert "holds this run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.more_share", "2"], "0 to 1, and at least 16"),
        (["--data.evaluate_crops", "15"], "0.5, 15; 0 to 1, and at least 16"),
        (["--transform.whole_fraction", "0.1"], "transform.whole_fraction, crop_size: 0.1, 16 px"),
        (["--transform.crop_size", "17"], "0.0, 17 px; 0, and a multiple of 2 px"),
        (["--model.widths", "[8]"], "multiples of 16"),
        (["--model.layerz", "1"], "layerz"),
        (["--data.path", "nowhere"], "nowhere"),
        (["--data.balance", "types"], "balance"),
    ],
)
def test_bad_values_are_told(dataset, tmp_path, capsys, words, message):
    assert train(dataset, tmp_path, *words) != 0
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "autoencoder").exists()


CONFIGS = sorted((REPO / "configs").glob("autoencoder/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_read_and_has_its_header(path):
    config, _ = parse_config(recipe.Config, ["--config", str(path)])
    assert config.run.name == path.stem
    lines = path.read_text().splitlines()
    assert all(line.startswith("# ") for line in lines[:4])
    assert "train_autoencoder.py" in lines[1]
    assert f"configs/autoencoder/{path.name}" in lines[1]
    assert lines[2].startswith("# Expected: ")
    assert lines[3].startswith("# Smoke: ")


def test_crops_show_the_measured_coherence():
    assert {path.stem for path in CONFIGS} >= {"tiny", "small", "base"}
    for path in CONFIGS:
        config, _ = parse_config(recipe.Config, ["--config", str(path)])
        assert config.transform.estimated_coherence == 0


def test_further_datasets_are_drawn_from(dataset, tmp_path, monkeypatch):
    seen = []
    make = recipe.StepSampler
    monkeypatch.setattr(recipe, "StepSampler", partial(spy, make, seen))
    more = ("--data.more", f"[{dataset}]", "--data.more_share", "0.75", "--loop.steps", "1")
    assert train(dataset, tmp_path, *more, "--loop.evaluate_every", "0") == 0
    held_out, training, scale = seen
    rows = len(parquet.load(dataset, "train"))
    assert training[0] == scale[0] == 2 * rows
    assert held_out[0] == len(parquet.load(dataset, "val"))
    share = training[1][rows:].sum() / training[1].sum()
    assert float(share) == pytest.approx(0.75)


def spy(make, seen, length, batch_size, **options):
    seen.append((length, options.get("weights")))
    return make(length, batch_size, **options)
