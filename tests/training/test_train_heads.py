"""The recipe of the heads on a small real run: it learns, calibrates, resumes exactly, says no."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from heph_vl.data import parquet
from heph_vl.data.parquet import write_parquet
from heph_vl.data.samples import pixels, read_row, whole
from heph_vl.data.transforms import encoded
from heph_vl.models.heads import Heads
from heph_vl.run import launch, parse_config
from heph_vl.simulate.patchset import write_patches
from heph_vl.simulate.stream import StreamConfig
from heph_vl.validate import Looked
from tests.conftest import REPO
from tests.data.fake_archive import write_fake_archive

SMALL = [
    "--data.batch_size", "16", "--data.num_workers", "0", "--transform.crop_size", "64",
    "--model.encoder.tile_size", "64", "--model.encoder.dim", "32", "--model.decoder_width", "16",
    "--model.encoder.num_latents", "8", "--data.evaluate_images", "3",
    "--loop.steps", "24", "--loop.warmup_steps", "2", "--loop.checkpoint_every", "12",
    "--loop.evaluate_every", "12", "--loop.log_every", "1", "--loop.keep_checkpoints", "3",
]  # fmt: skip

FIRST_LOSSES = [7.57573, 7.13485, 6.45894]


def load_recipe():
    path = REPO / "training" / "train_heads.py"
    spec = importlib.util.spec_from_file_location("train_heads", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


def train(dataset, root, *more):
    words = ["--config", str(REPO / "configs" / "heads" / "tiny.yaml"), *SMALL]
    words += ["--data.path", str(dataset), "--run.root", str(root), *more]
    return launch(recipe.main, recipe.Config, words)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    write_fake_archive(root / "archive", n=30, size=96)
    write_parquet(root / "archive", root / "dataset")
    return root / "dataset"


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    assert train(dataset, root) == 0
    return root / "heads" / "tiny"


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_the_loss_falls(finished):
    values = losses(finished)
    assert len(values) == 24
    assert sum(values[-6:]) < 0.85 * sum(values[:6])


def test_the_first_losses_are_the_stored_ones(finished):
    # A change here is a change of data order, sampling, initialisation or loss: say which.
    assert losses(finished)[:3] == pytest.approx(FIRST_LOSSES, rel=2e-3)


def test_results_are_of_the_validation_split(dataset, finished):
    results = json.loads((finished / "results.json").read_text())
    rows = parquet.load(dataset, "val")
    assert results["split"] == "val"
    assert results["images"] == len(rows)
    assert results["without_valid_phase"] == 0
    kinds = [kind for has in rows["activity_types"] for kind in set(has)]
    assert results["support"]["sill"] == kinds.count("sill")
    assert results["support"]["spheroid"] == 0
    assert {"val_deformation_auroc", "val_activity_map", "val_iou"} <= set(results)
    lines = [json.loads(s) for s in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val_iou" in line] == [12, 24]


def test_the_model_keeps_the_calibration_of_the_split(dataset, finished):
    model = Heads.from_pretrained(finished / "model")
    looked = Looked(model, parquet.load(dataset, "val"))
    assert looked.calibration() == model.calibration
    assert model.calibration.deformation.fitted == [True]
    assert model.calibration.activity_types.fitted[3] is False  # no spheroid
    # The threshold of the masks is the best one: counted again, pixel by pixel.
    assert looked.pixels.sum() == 96 * 96 * looked.counts["images"]
    threshold = model.calibration.mask_threshold
    k = round(threshold * 100)
    assert looked.iou()[k] == looked.iou().max()
    both = union = 0
    rows = parquet.load(dataset, "val")
    for row, image in zip(rows, encoded(rows), strict=True):
        sample = whole(read_row(image), row, estimated=False)
        seen = model.predict(*map(torch.from_numpy, pixels(sample)))
        found = seen.mask_probability >= threshold
        both += (found & (sample.mask > 0)).sum()
        union += (found | (sample.mask > 0)).sum()
    assert looked.iou()[k] == pytest.approx(both / union, abs=0.02)  # levels of 1 / 256


def test_resuming_equals_the_unbroken_run(dataset, finished, tmp_path):
    broken = tmp_path / "heads" / "tiny"
    shutil.copytree(finished, broken)
    for name in ("model", "checkpoints/step_24"):
        shutil.rmtree(broken / name)
    (broken / "results.json").unlink()
    # The root is part of the config, and the copy lies elsewhere.
    config = broken / "config.yaml"
    config.write_text(config.read_text().replace(str(finished.parents[1]), str(tmp_path)))
    assert train(dataset, tmp_path, "--resume") == 0
    for name in ("model.safetensors", "encoder/model.safetensors"):
        one, other = (load_file(f / "model" / name) for f in (finished, broken))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one)
    assert losses(broken) == losses(finished)
    one, other = ((f / "model" / "config.json").read_text() for f in (finished, broken))
    assert one == other


def test_a_run_from_a_saved_encoder_with_every_option(dataset, finished, tmp_path):
    words = ["--init.path", str(finished / "model"), "--model.freeze_encoder", "true"]
    words += ["--model.imbalance", "logit_adjusted", "--model.text_weight", "1"]
    words += ["--data.rare_share", "0.5", "--loop.steps", "2"]
    assert train(dataset, tmp_path, *words) == 0
    path = Path("model") / "encoder" / "model.safetensors"
    one, other = (load_file(f / path) for f in (finished, tmp_path / "heads" / "tiny"))
    assert all(torch.equal(one[k], other[k]) for k in one)
    lines = (tmp_path / "heads" / "tiny" / "metrics.jsonl").read_text().splitlines()
    assert np.isfinite(json.loads(lines[-1])["facts"])


def test_saved_heads_go_on_whole(dataset, finished, tmp_path):
    words = ["--init.path", str(finished / "model"), "--init.whole", "true"]
    words += ["--loop.steps", "1", "--loop.warmup_steps", "0", "--optimizer.lr", "1e-9"]
    assert train(dataset, tmp_path, *words) == 0
    one, two = (
        load_file(f / "model" / "model.safetensors") for f in (finished, tmp_path / "heads/tiny")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)


def test_heads_without_masks_are_measured(dataset, tmp_path):
    words = ["--model.segmentation_weight", "0", "--model.saliency_weight", "0"]
    assert train(dataset, tmp_path, *words, "--loop.steps", "2") == 0
    results = json.loads((tmp_path / "heads" / "tiny" / "results.json").read_text())
    assert "val_deformation_auroc" in results
    assert "val_iou" not in results


def test_more_datasets_and_windows_train(dataset, tmp_path):
    more = tmp_path / "more"
    write_patches(more, 4, StreamConfig(seed=1, pairs_per_place=4, dates=4))
    words = ["--data.more", f"[{more}]", "--transform.whole_size", "80", "--loop.steps", "2"]
    assert train(dataset, tmp_path, *words) == 0
    assert len(losses(tmp_path / "heads" / "tiny")) == 2
    parts = [parquet.load(path, "train") for path in (dataset, more)]
    joined = parquet.join(parts)
    assert list(joined["unique_id"]) == [uid for part in parts for uid in part["unique_id"]]
    assert set(joined.column_names) == set(parts[0].column_names)


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--data.balance", "classes"], "data.balance", 2),
        (["--model.input", "colour"], "model.input", 2),
        (["--data.rare_share", "2"], "numbers from 0 to 1", 1),
        (["--model.text_weight", "-1"], "model.text_weight: -1.0; a number from 0 on", 1),
        (["--model.num_heads", "5"], "5 do not divide encoder.dim 32", 1),
        (["--loop.gradient_accumulation", "2"], "another loss", 1),
        (["--init.path", "/missing"], "/missing: this is no saved encoder", 1),
        (
            ["--init.path", "/missing", "--init.whole", "true"],
            "this is no saved heads",
            1,
        ),
        (["--init.whole", "true"], "give init.path saved heads", 1),
    ],
)
def test_bad_configs_are_one_line(dataset, tmp_path, capsys, words, message, code):
    assert train(dataset, tmp_path, *words) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


CONFIGS = {*(REPO / "configs").glob("heads/*.yaml")} - {
    *(REPO / "configs").glob("*/ablation*.yaml")
}


@pytest.mark.parametrize("path", sorted(CONFIGS), ids=str)
def test_every_config_is_read_and_has_its_header(path):
    config, _ = parse_config(recipe.Config, ["--config", str(path)])
    assert config.loop.steps > 0
    header = path.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in header)
    assert header[2].startswith("# Expected:")
    assert header[3].startswith("# Smoke:")
