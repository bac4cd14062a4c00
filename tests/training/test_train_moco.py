"""MoCo's recipe on a small real run: it learns, resumes exactly, and says no clearly."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from heph_vl.data.parquet import write_parquet
from heph_vl.models.encoder import Encoder
from heph_vl.models.moco import MoCo
from heph_vl.run import launch, parse_config
from tests.conftest import REPO
from tests.data.fake_archive import FRAMES, write_fake_archive

SMALL = [
    "--data.batch_size", "16", "--data.num_workers", "0", "--views.crop_size", "48",
    "--model.encoder.tile_size", "48", "--model.encoder.dim", "32", "--model.dim", "32",
    "--model.encoder.num_latents", "8", "--model.hidden_dim", "32", "--model.queue_size", "40",
    "--model.momentum", "0.9", "--model.sub_batches", "4", "--views.other_dates", "0",
    "--optimizer.kind", "sgd", "--optimizer.lr", "0.05", "--optimizer.weight_decay", "1e-4",
    # Easy views: fake interferograms have no ground that would be seen behind the air.
    "--views.overlap", "1", "--views.physics.mirror", "0", "--views.physics.negate", "0",
    "--views.physics.ramp", "0", "--views.physics.turbulence", "0",
    "--loop.steps", "24", "--loop.warmup_steps", "5", "--loop.checkpoint_every", "12",
    "--loop.log_every", "1", "--loop.keep_checkpoints", "3",
]  # fmt: skip

FIRST_LOSSES = [2.56010, 2.85008, 3.22249]


def load_recipe():
    path = REPO / "training" / "train_moco.py"
    spec = importlib.util.spec_from_file_location("train_moco", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


def train(dataset, root, *more):
    words = ["--config", str(REPO / "configs" / "moco" / "tiny.yaml"), *SMALL]
    words += ["--data.path", str(dataset), "--run.root", str(root), *more]
    return launch(recipe.main, recipe.Config, words)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    write_fake_archive(root / "archive", n=40, size=96)
    write_parquet(root / "archive", root / "dataset")
    return root / "dataset"


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    assert train(dataset, root) == 0
    return root / "moco" / "tiny"


def logged(folder: Path, name: str = "loss") -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


def test_the_loss_falls(finished):
    values, top1 = logged(finished), logged(finished, "top1")
    assert len(values) == 24
    # The queue is full after 3 steps; until then negatives become more.
    assert sum(values[-5:]) < 0.95 * sum(values[4:9])
    assert sum(top1[-5:]) > 1.5 * sum(top1[4:9])
    assert logged(finished, "uniformity")[-1] < -0.3  # not all in one place


def test_the_first_losses_are_the_stored_ones(finished):
    # A change here is a change of data order, views, initialisation or loss: say which.
    assert logged(finished)[:3] == pytest.approx(FIRST_LOSSES, rel=2e-3)


def test_results_hold_the_neighbours_scores(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["split"] == "val"
    assert 0 <= results["val_knn_auroc"] <= 1
    assert 0 <= results["val_knn_accuracy"] <= 1


def test_the_encoder_can_be_loaded_alone(finished):
    model = MoCo.from_pretrained(finished / "model")
    encoder = Encoder.from_pretrained(finished / "model" / "encoder")
    one, other = model.encoder.state_dict(), encoder.state_dict()
    assert all(one[name].equal(other[name]) for name in one)


def test_resuming_equals_the_unbroken_run(dataset, finished, tmp_path):
    broken = tmp_path / "moco" / "tiny"
    shutil.copytree(finished, broken)
    for name in ("model", "checkpoints/step_24"):
        shutil.rmtree(broken / name)
    (broken / "results.json").unlink()
    # The root is part of the config, and the copy lies elsewhere.
    config = broken / "config.yaml"
    config.write_text(config.read_text().replace(str(finished.parents[1]), str(tmp_path)))
    assert train(dataset, tmp_path, "--resume") == 0
    # The checkpoint holds key encoder and queue as well.
    for path in ("model/encoder/model.safetensors", "checkpoints/step_24/model.safetensors"):
        one, other = load_file(finished / path), load_file(broken / path)
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in one)
    assert logged(broken) == logged(finished)


def test_key_encoder_and_queue_have_moved(finished):
    early = load_file(finished / "checkpoints/step_12/model.safetensors")
    late = load_file(finished / "checkpoints/step_24/model.safetensors")
    for name in ("key_projection.0.weight", "key_encoder.projection.weight", "queue"):
        assert not early[name].equal(late[name])
    assert (late["queue_frames"] >= 0).all()
    assert int(late["queue_end"]) == 24 * 16 % 40


@pytest.mark.slow
@pytest.mark.parametrize("recipe_name", ["paper", "physics"])
def test_each_recipe_trains_for_a_few_steps(dataset, tmp_path, recipe_name):
    words = ["--config", str(REPO / "configs" / "moco" / f"{recipe_name}.yaml")]
    words += ["--data.path", str(dataset), "--run.root", str(tmp_path), "--data.num_workers", "0"]
    words += ["--loop.steps", "2", "--data.batch_size", "8", "--model.encoder.backbone"]
    words += ["test_resnet", "--model.queue_size", "64"]
    assert launch(recipe.main, recipe.Config, words) == 0
    assert (tmp_path / "moco" / recipe_name / "results.json").is_file()


def test_rows_without_labels_train_unmeasured(tmp_path):
    write_fake_archive(tmp_path / "archive", n=10, size=64)
    shutil.rmtree(tmp_path / "archive" / "annotations")
    write_parquet(tmp_path / "archive", tmp_path / "dataset", config="unlabeled")
    assert train(tmp_path / "dataset", tmp_path, "--loop.steps", "2") == 0
    results = json.loads((tmp_path / "moco" / "tiny" / "results.json").read_text())
    assert results == {"split": "val"}


def test_one_frame_has_no_negatives(tmp_path, capsys):
    write_fake_archive(tmp_path / "archive", n=6, size=64, frames=FRAMES[:1])
    write_parquet(tmp_path / "archive", tmp_path / "dataset")
    assert train(tmp_path / "dataset", tmp_path) == 1
    assert "so there are no negatives" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--optimizer.learning_rat", "1"], "unknown key 'optimizer.learning_rat'", 2),
        (["--views.recipe", "colour"], "views.recipe", 2),
        (["--loop.gradient_accumulation", "2"], "another loss", 1),
        (
            ["--model.never_negative", "image", "--views.other_dates", "0.2"],
            "positives and negatives",
            1,
        ),
        (["--data.path", "/missing"], "/missing", 1),
    ],
)
def test_bad_configs_are_one_line(dataset, tmp_path, capsys, words, message, code):
    assert train(dataset, tmp_path, *words) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize("path", sorted((REPO / "configs").glob("moco/*.yaml")), ids=str)
def test_every_config_is_read_and_has_its_header(path):
    config, _ = parse_config(recipe.Config, ["--config", str(path)])
    assert config.loop.steps > 0
    header = path.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in header)
    assert header[2].startswith("# Expected:")
    assert header[3].startswith("# Smoke:")
