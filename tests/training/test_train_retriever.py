"""The retriever's recipe on a small real run: it learns, resumes exactly, and says no clearly."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from heph_vl.data.parquet import write_parquet
from heph_vl.models.retriever import Retriever
from heph_vl.run import launch, parse_config
from tests.conftest import REPO
from tests.data.fake_archive import write_fake_archive

SMALL = [
    "--data.batch_size", "16", "--data.num_workers", "0", "--transform.crop_size", "64",
    "--model.encoder.tile_size", "64", "--model.encoder.dim", "32", "--model.dim", "32",
    "--model.encoder.num_latents", "8", "--model.text.width", "32", "--model.text.layers", "1",
    "--loop.steps", "24", "--loop.warmup_steps", "2", "--loop.checkpoint_every", "12",
    "--loop.log_every", "1", "--loop.keep_checkpoints", "3",
]  # fmt: skip

FIRST_LOSSES = [2.74758, 2.87294, 2.39000]


def load_recipe():
    path = REPO / "training" / "train_retriever.py"
    spec = importlib.util.spec_from_file_location("train_retriever", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


def train(dataset, root, *more):
    words = ["--config", str(REPO / "configs" / "retriever" / "tiny.yaml"), *SMALL]
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
    return root / "retriever" / "tiny"


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


def test_results_hold_each_suite(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["split"] == "val"
    assert 0 < results["val_mAP_captions"] <= 1


def test_the_model_loads_and_searches(finished):
    model = Retriever.from_pretrained(finished / "model")
    embeds = model.embed_texts(["sill on the left", "no deformation"])
    assert embeds.shape == (2, 32)
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(2))


def test_resuming_equals_the_unbroken_run(dataset, finished, tmp_path):
    broken = tmp_path / "retriever" / "tiny"
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


def test_a_corpus_of_one_caption_is_warned_of_and_teaches_the_masks(tmp_path):
    write_fake_archive(tmp_path / "archive", n=16, size=96)
    for path in (tmp_path / "archive" / "annotations").glob("*.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"caption": "Turbulent mixing can be detected."}))
    write_parquet(tmp_path / "archive", tmp_path / "dataset")
    with pytest.warns(UserWarning, match="the batch has no negatives"):
        assert train(tmp_path / "dataset", tmp_path, "--loop.steps", "4") == 0
    logged = (tmp_path / "retriever" / "tiny" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in logged]
    assert [step["contrastive"] for step in steps] == [0, 0, 0, 0]
    assert all(0 < step["saliency"] < 10 and 0 < step["grad_norm"] < 1e3 for step in steps)


def test_a_finished_run_is_left_alone(dataset, finished, capsys):
    before = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    assert train(dataset, finished.parents[1], "--resume") == 0
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--optimizer.learning_rat", "1"], "unknown key 'optimizer.learning_rat'", 2),
        (["--data.batch_size", "many"], "'many' is not an integer", 2),
        (["--loop.gradient_accumulation", "2"], "another loss", 1),
        (["--data.path", "/missing"], "/missing", 1),
    ],
)
def test_bad_configs_are_one_line(dataset, tmp_path, capsys, words, message, code):
    assert train(dataset, tmp_path, *words) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


CONFIGS = sorted(
    set((REPO / "configs").glob("retriever/*.yaml")) - set((REPO / "configs").glob("*/ablation*"))
)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_config_is_read_and_has_its_header(path):
    config, _ = parse_config(recipe.Config, ["--config", str(path)])
    assert config.loop.steps > 0
    header = path.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in header)
    assert header[2].startswith("# Expected:")
    assert header[3].startswith("# Smoke:")


def test_it_starts_from_a_saved_encoder_and_joins_datasets(finished, dataset, tmp_path):
    words = [
        *("--init.path", str(finished / "model"), "--data.more", f"[{dataset}]"),
        *("--data.group_power", "0.5", "--data.balance", "deformation", "--model.loss", "sigmoid"),
        *("--loop.steps", "1", "--loop.warmup_steps", "0", "--optimizer.lr", "1e-9"),
    ]
    assert train(dataset, tmp_path, *words) == 0
    one, two = (
        load_file(run / "model" / "encoder" / "model.safetensors")
        for run in (finished, tmp_path / "retriever" / "tiny")
    )
    for name, tensor in one.items():
        if "running_" not in name and "num_batches" not in name:
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)


def test_a_saved_retriever_goes_on_whole(finished, dataset, tmp_path):
    words = ["--init.path", str(finished / "model"), "--init.whole", "true"]
    words += ["--loop.steps", "1", "--loop.warmup_steps", "0", "--optimizer.lr", "1e-9"]
    assert train(dataset, tmp_path, *words, "--model.loss", "diagonal") == 0
    one, two = (
        Retriever.from_pretrained(folder)
        for folder in (finished / "model", tmp_path / "retriever" / "tiny" / "model")
    )
    texts = ["a sill on the left", "no deformation"]
    torch.testing.assert_close(one.embed_texts(texts), two.embed_texts(texts), rtol=0, atol=1e-5)
    assert two.config.loss == "diagonal"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--init.whole", "true"], "give init.path a saved retriever"),
        (["--model.text.heads", "2"], "the saved retriever's text is TextConfig("),
        (["--model.loss", "sigmoid"], "logit_bias"),
    ],
)
def test_another_kind_of_retriever_does_not_go_on(finished, dataset, tmp_path, capsys, words, told):
    start = ["--init.path", str(finished / "model"), "--init.whole", "true"]
    start = start if "--model" in words[0] else []
    assert train(dataset, tmp_path, *start, *words) == 1
    assert told in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_share_is_one(dataset, tmp_path, capsys):
    assert train(dataset, tmp_path, "--data.group_power", "2") == 1
    assert "data.more_share, group_power: 0.5, 2.0; numbers from 0 to 1" in capsys.readouterr().err
