"""The captioner's recipe on a small real run: it learns, resumes exactly, and says no clearly."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from heph_vl.data import captions
from heph_vl.data.parquet import write_parquet
from heph_vl.models.captioner import Captioner
from heph_vl.models.heads import Heads
from heph_vl.run import launch, parse_config
from tests import tiny_heads
from tests.conftest import REPO
from tests.data.fake_archive import write_fake_archive

SMALL = [
    "--data.batch_size", "16", "--data.num_workers", "0", "--transform.crop_size", "64",
    "--model.encoder.tile_size", "64", "--model.encoder.dim", "32", "--model.width", "32",
    "--model.encoder.num_latents", "8", "--model.layers", "1", "--model.context_length", "128",
    "--loop.steps", "24", "--loop.warmup_steps", "2", "--loop.checkpoint_every", "12",
    "--loop.log_every", "1", "--loop.keep_checkpoints", "3", "--loop.evaluate_every", "0",
    "--optimizer.lr", "1e-2",
]  # fmt: skip

FIRST_LOSSES = [7.72096, 7.18510, 6.85673]


def load_recipe():
    path = REPO / "training" / "train_captioner.py"
    spec = importlib.util.spec_from_file_location("train_captioner", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


def train(dataset, root, *more):
    words = ["--config", str(REPO / "configs" / "captioner" / "tiny.yaml"), *SMALL]
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
    return root / "captioner" / "tiny"


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


def test_results_hold_facts_and_the_threshold(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["split"] == "val"
    assert 0 <= results["fact_f1"] <= 1
    model = Captioner.from_pretrained(finished / "model")
    assert model.threshold == results["threshold"]


def test_the_model_loads_and_speaks(finished):
    model = Captioner.from_pretrained(finished / "model")
    memory = model.look(torch.randn(1, 3, 96, 96), torch.ones(1, 96, 96, dtype=torch.bool))
    (answer,) = model.answer([memory], num_samples=2)
    assert answer.facts == captions.parse(answer.text)


def test_resuming_equals_the_unbroken_run(dataset, finished, tmp_path):
    broken = tmp_path / "captioner" / "tiny"
    shutil.copytree(finished, broken)
    for name in ("model", "checkpoints/step_24"):
        shutil.rmtree(broken / name)
    (broken / "results.json").unlink()
    # The root is part of the config, and the copy lies elsewhere.
    config = broken / "config.yaml"
    config.write_text(config.read_text().replace(str(finished.parents[1]), str(tmp_path)))
    assert train(dataset, tmp_path, "--resume") == 0
    one = load_file(finished / "model" / "model.safetensors")
    other = load_file(broken / "model" / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(broken) == losses(finished)
    assert (broken / "results.json").read_bytes() == (finished / "results.json").read_bytes()


def test_it_starts_from_the_encoder_of_heads_and_goes_on_whole(dataset, finished, tmp_path, capsys):
    heads = tiny_heads.make(encoder={"norm": "batch", "num_heads": 4})
    heads.save_pretrained(tmp_path / "heads")
    short = ["--loop.steps", "1", "--optimizer.lr", "0", "--optimizer.ema_decay", "0"]
    frozen = ["--model.freeze_encoder", "true", "--init.path", str(tmp_path / "heads")]
    assert train(dataset, tmp_path, "--run.name", "from_heads", *frozen, *short) == 0
    taken = Captioner.from_pretrained(tmp_path / "captioner" / "from_heads" / "model").encoder
    for name, tensor in Heads.from_pretrained(tmp_path / "heads").encoder.state_dict().items():
        assert torch.equal(taken.state_dict()[name], tensor), name
    whole = ["--init.path", str(finished / "model"), "--init.whole", "true"]
    assert train(dataset, tmp_path, "--run.name", "on", *whole, *short) == 0
    one = Captioner.from_pretrained(finished / "model").decoder.state_dict()
    two = Captioner.from_pretrained(tmp_path / "captioner" / "on" / "model").decoder.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert train(dataset, tmp_path, "--run.name", "off", "--init.whole", "true", *short) == 1
    assert "give init.path a saved captioner" in capsys.readouterr().err


def test_a_finished_run_is_left_alone(dataset, finished, capsys):
    assert train(dataset, finished.parents[1], "--resume") == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert train(dataset, finished.parents[1]) == 1
    assert "holds this run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.more_share", "2"], "numbers from 0 to 1"),
        (["--data.evaluate_images", "0"], "at least 1 image"),
        (["--model.dropout", "1"], "a share below 1"),
        (["--model.layerz", "1"], "layerz"),
    ],
)
def test_bad_values_are_told(dataset, tmp_path, capsys, words, message):
    assert train(dataset, tmp_path, *words) != 0
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


CONFIGS = sorted(
    set((REPO / "configs").glob("captioner/*.yaml")) - set((REPO / "configs").glob("*/ablation*"))
)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_config_is_read_and_has_its_header(path):
    config, _ = parse_config(recipe.Config, ["--config", str(path)])
    assert config.run.name == path.stem
    lines = path.read_text().splitlines()
    assert all(line.startswith("# ") for line in lines[:4])
    assert "train_captioner.py" in lines[1]
    assert lines[2].startswith("# Expected: ")
    assert lines[3].startswith("# Smoke: ")


def test_a_text_tells_all_facts():
    for name in ("tiny", "small", "base"):
        words = ["--config", str(REPO / "configs" / "captioner" / f"{name}.yaml")]
        config, _ = parse_config(recipe.Config, words)
        assert config.transform.fact_dropout == 0
        assert config.data.balance == "deformation"
