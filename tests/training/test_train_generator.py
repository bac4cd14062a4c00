"""The generator's recipe on a small real run: it learns, resumes exactly, and says no clearly."""

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
from heph_vl.data.sampling import StepSampler
from heph_vl.data.transforms import TrainingSet, collate
from heph_vl.latents import CachedCrops, collate_cached
from heph_vl.models.autoencoder import load_autoencoder, save_autoencoder
from heph_vl.models.generator import Frozen, generator_loss
from heph_vl.models.pipeline import InSARPipeline
from heph_vl.models.retriever import Retriever
from heph_vl.models.text import tokenize
from heph_vl.run import launch, parse_config
from tests import tiny_generator, tiny_retriever
from tests.conftest import REPO
from tests.data.fake_archive import write_fake_archive

SMALL = [
    "--data.batch_size", "16", "--data.num_workers", "0", "--data.evaluate_crops", "16",
    "--data.cached_crops", "0", "--transform.crop_size", "16", "--model.widths", "[16,16]",
    "--loop.steps", "24", "--loop.warmup_steps", "2", "--loop.checkpoint_every", "12",
    "--loop.log_every", "1", "--loop.keep_checkpoints", "3", "--loop.evaluate_every", "12",
    "--optimizer.lr", "1e-2", "--optimizer.ema_decay", "0.8", "--sample.steps", "2",
]  # fmt: skip

FIRST_LOSSES = [1.72325, 1.34799, 1.07174]
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def load_recipe():
    path = REPO / "training" / "train_generator.py"
    spec = importlib.util.spec_from_file_location("train_generator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset, an autoencoder and a retriever."""
    root = tmp_path_factory.mktemp("place")
    write_fake_archive(root / "archive", n=24, size=96)
    write_parquet(root / "archive", root / "dataset")
    save_autoencoder(tiny_generator.autoencoder(), root / "autoencoder")
    retriever = tiny_retriever.make(tiny_generator.tokenizer(), text=tiny_generator.TEXT)
    retriever.save_pretrained(root / "retriever")
    return root


def words_of(place, root, *more):
    words = ["--config", str(REPO / "configs" / "generator" / "tiny.yaml"), *SMALL]
    words += ["--data.path", str(place / "dataset"), "--run.root", str(root)]
    words += ["--init.autoencoder", str(place / "autoencoder")]
    return [*words, "--init.text", str(place / "retriever"), *more]


def train(place, root, *more):
    return launch(recipe.main, recipe.Config, words_of(place, root, *more))


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    assert train(place, root) == 0
    return root / "generator" / "tiny"


@pytest.fixture(scope="module")
def cached(place, tmp_path_factory):
    root = tmp_path_factory.mktemp("cached")
    assert train(place, root, "--data.cached_crops", "70") == 0
    return root / "generator" / "tiny"


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder)]


@pytest.mark.parametrize("mode", ["finished", "cached"])
def test_the_loss_falls(mode, request):
    values = losses(request.getfixturevalue(mode))
    assert len(values) == 24
    assert sum(values[-6:]) < 0.9 * sum(values[:6])


def test_the_first_losses_are_the_stored_ones(finished, cached):
    # A change here is a change of data order, sampling, initialisation or loss: say which.
    assert losses(finished)[:3] == pytest.approx(FIRST_LOSSES, rel=2e-3)
    assert losses(cached)[0] == pytest.approx(FIRST_LOSSES[0], rel=0.05)  # of other crops


def test_results_and_sheets_tell_what_is_learnt(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results.keys() == {"split", "val_velocity"}
    assert results["split"] == "val"
    measured = {line["step"]: line["val_velocity"] for line in lines(finished)
                if "val_velocity" in line}  # fmt: skip
    assert list(measured) == [12, 24]
    assert measured[24] == results["val_velocity"] < measured[12]
    for step in (12, 24):
        assert Image.open(finished / f"sheet_{step}.png").width == 4 * (64 + 8) + 8


def test_the_model_is_a_pipeline_with_the_frozen_parts(place, finished):
    pipeline = InSARPipeline.from_pretrained(finished / "model")
    assert (pipeline.side, pipeline.multiple) == (16, 4)
    assert pipeline.config.guidance_scale == 2.0
    out = pipeline("a sill", num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert out.valid.shape == (1, 16, 16)
    frozen = {
        "autoencoder": tiny_generator.autoencoder(),
        "text_encoder": Retriever.from_pretrained(place / "retriever").text_tower,
    }
    found = {"autoencoder": pipeline.autoencoder, "text_encoder": pipeline.text_encoder.tower}
    for name, module in frozen.items():
        state = found[name].state_dict()
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    # The average of the weights is saved, not the last ones.
    last = load_file(finished / "checkpoints" / "step_24" / "model.safetensors")
    saved = load_file(finished / "model" / WEIGHTS)
    assert saved.keys() == last.keys()
    assert not torch.equal(saved["conv_in.weight"], last["conv_in.weight"])


def unfinished(folder, root, step=24):
    """A copy of a finished run whose last steps are not done."""
    broken = root / "generator" / "tiny"
    shutil.copytree(folder, broken)
    shutil.rmtree(broken / "model")
    for checkpoint in (broken / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step_")) >= step:
            shutil.rmtree(checkpoint)
    (broken / "results.json").unlink()
    # The root is part of the config, and the copy lies elsewhere.
    config = broken / "config.yaml"
    config.write_text(config.read_text().replace(str(folder.parents[1]), str(root)))
    return broken


def same_model(one, other):
    one, other = (load_file(folder / "model" / WEIGHTS) for folder in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# From step 12, and from a stop before the first checkpoint, when the cache may be there already.
@pytest.mark.parametrize("step", [24, 1])
@pytest.mark.parametrize("mode", ["finished", "cached"])
def test_resuming_equals_the_unbroken_run(place, mode, step, request, tmp_path):
    whole = request.getfixturevalue(mode)
    broken = unfinished(whole, tmp_path, step)
    more = ("--data.cached_crops", "70") if mode == "cached" else ()
    assert train(place, tmp_path, *more, "--resume") == 0
    assert losses(broken) == losses(whole)
    assert same_model(whole, broken)
    assert (broken / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def test_cached_latents_and_texts_are_those_of_the_same_crops(place, cached):
    config, _ = parse_config(recipe.Config, ["--config", str(cached / "config.yaml")])
    retriever = Retriever.from_pretrained(place / "retriever")
    frozen = Frozen(load_autoencoder(place / "autoencoder"), retriever.text_tower, config.model)
    crops = CachedCrops(cached / "latents", frozen)
    assert len(crops) == 70
    rows = parquet.load(place / "dataset", "train")
    samples = TrainingSet(rows, config.transform, seed=config.run.seed)
    weigh = partial(recipe.sampling_weights, balance="deformation", rare_share=0.05)
    weights = weigh(recipe.row_labels(rows), sizes=[len(rows)], rest_share=0.5)
    keys = StepSampler(len(samples), 70, seed=config.run.seed, weights=weights).batch(0)
    items = [samples[key] for key in keys]
    assert [crops.texts[int(n)] for n in load_file(cached / "latents/cache.safetensors")["text"]] \
        == [item["text"] for item in items]  # fmt: skip
    batch = collate(items, partial(tokenize, retriever.tokenizer, context_length=160))
    kept = ("pixel_values", "valid", "input_ids", "attention_mask")
    wanted = frozen.prepare({name: batch[name] for name in kept})
    found = collate_cached([crops[i, 0] for i in range(70)])
    assert torch.equal(found["state_mask"], wanted["state_mask"])
    for name in ("latents", "pooled"):
        torch.testing.assert_close(found[name], wanted[name], rtol=2e-3, atol=2e-3)
    seen = wanted["state_mask"]
    torch.testing.assert_close(found["states"][seen], wanted["states"][seen], rtol=2e-3, atol=2e-3)


def test_a_velocity_on_a_cosine_schedule_learns_and_draws_too(place, tmp_path):
    words = ("--model.prediction", "v", "--loop.steps", "8", "--loop.evaluate_every", "8")
    assert train(place, tmp_path, *words) == 0
    folder = tmp_path / "generator" / "tiny"
    assert losses(folder)[-1] < losses(folder)[0]
    pipeline = InSARPipeline.from_pretrained(folder / "model")
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline(num_inference_steps=2).valid.shape == (1, 16, 16)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_step(
    place, tmp_path, monkeypatch, capsys
):
    steps = iter(range(1, 100))

    def spoilt(model, batch, frozen):
        loss, logs = generator_loss(model, batch, frozen)
        return loss * (float("nan") if next(steps) == 5 else 1), logs

    monkeypatch.setattr(recipe, "generator_loss", spoilt)
    words = ("--loop.steps", "6", "--loop.checkpoint_every", "2", "--loop.evaluate_every", "0")
    assert train(place, tmp_path, *words) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("error: step 5: loss is nan")
    assert not any("Traceback" in line for line in told)
    folder = tmp_path / "generator" / "tiny"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_2", "step_4"]
    assert not (folder / "model").exists()
    assert len(losses(folder)) == 4
    assert train(place, tmp_path, *words, "--resume") == 0
    assert (folder / "model" / "model_index.json").is_file()


def test_a_finished_run_is_left_alone(place, finished, capsys):
    assert train(place, finished.parents[1], "--resume") == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert train(place, finished.parents[1]) == 1
    assert "holds this run already" in capsys.readouterr().err


def test_it_goes_on_from_a_saved_denoiser(place, finished, tmp_path, capsys):
    saved = ["--init.denoiser", str(finished / "model"), "--loop.steps", "2"]
    assert train(place, tmp_path, *saved) == 0
    after = losses(tmp_path / "generator" / "tiny")
    assert after[0] < 0.9 * losses(finished)[0]
    assert train(place, tmp_path, *saved, "--run.name", "other", "--model.widths", "[16,32]") == 1
    assert "other sizes" in capsys.readouterr().err
    torch.manual_seed(5)
    other = tiny_retriever.make(tiny_generator.tokenizer(), text=tiny_generator.TEXT)
    torch.nn.init.normal_(other.text_tower.transformer.token_embedding.weight)
    other.save_pretrained(tmp_path / "text")
    words = [*saved, "--run.name", "third", "--init.text", str(tmp_path / "text")]
    assert train(place, tmp_path, *words) == 1
    assert "another autoencoder or text tower" in capsys.readouterr().err


def test_a_broken_cache_is_told_and_made_again(place, cached, tmp_path, capsys):
    broken = unfinished(cached, tmp_path)
    path = broken / "latents" / "cache.safetensors"
    path.write_bytes(path.read_bytes()[:300])
    words = ("--data.cached_crops", "70", "--resume")
    assert train(place, tmp_path, *words) == 1
    assert "delete that folder: it is made again" in capsys.readouterr().err
    shutil.rmtree(broken / "latents")
    assert train(place, tmp_path, *words) == 0
    assert same_model(cached, broken)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.more_share", "2"], "numbers from 0 to 1"),
        (["--data.rare_share", "-1"], "numbers from 0 to 1"),
        (["--data.cached_crops", "-1"], "-1, 16; at least 0, at least 16"),
        (["--data.evaluate_crops", "15"], "0, 15; at least 0, at least 16"),
        (["--transform.whole_fraction", "0.1"], "transform.whole_fraction: 0.1"),
        (["--transform.crop_size", "18"], "transform.crop_size: 18 px; a multiple of 4 px"),
        (["--model.widths", "[16]"], "at least two multiples of 16"),
        (["--model.prediction", "epsilon"], "prediction"),
        (["--model.headz", "1"], "headz"),
        (["--data.path", "nowhere"], "nowhere"),
        (["--init.autoencoder", "nowhere"], "nowhere: no autoencoder here: no config.json"),
        (["--init.text", "nowhere"], "nowhere"),
    ],
)
def test_bad_values_are_told(place, tmp_path, capsys, words, message):
    assert train(place, tmp_path, *words) != 0
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "generator").exists()


def test_an_autoencoder_without_a_scale_is_told(place, tmp_path, capsys):
    network = tiny_generator.autoencoder()
    network.register_to_config(latents_mean=None, latents_std=None)
    save_autoencoder(network, tmp_path / "autoencoder")
    assert train(place, tmp_path, "--init.autoencoder", str(tmp_path / "autoencoder")) == 1
    assert "it does not say the scale of its latents" in capsys.readouterr().err


CONFIGS = sorted((REPO / "configs").glob("generator/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_read_and_has_its_header(path):
    config, _ = parse_config(recipe.Config, ["--config", str(path)])
    assert config.run.name == path.stem
    lines = path.read_text().splitlines()
    assert all(line.startswith("# ") for line in lines[:4])
    assert "train_generator.py" in lines[1]
    assert f"configs/generator/{path.name}" in lines[1]
    assert lines[2].startswith("# Expected: ")
    assert lines[3].startswith("# Smoke: ")


def test_configs_fit_their_autoencoders():
    assert {path.stem for path in CONFIGS} >= {"tiny", "small", "base"}
    for path in CONFIGS:
        config, _ = parse_config(recipe.Config, ["--config", str(path)])
        widths = (REPO / "configs" / "autoencoder" / path.name).read_text()
        count = (
            widths.split("widths: [")[1].split("]")[0].count(",") + 1 if "widths" in widths else 3
        )
        multiple = 2 ** (count - 1) * 2 ** (len(config.model.widths) - 1)
        assert config.transform.crop_size % multiple == 0, path
        # Texts say often only a part of what is there, and crops show the measured coherence.
        assert config.transform.fact_dropout > 0
        assert config.transform.estimated_coherence == 0
        assert not config.transform.phase_shift  # images are centred: what was added is taken off
        own = f"runs/autoencoder/{path.stem}/model"
        command = path.read_text().splitlines()[1]
        assert config.init.autoencoder == own or f"--init.autoencoder {own}" in command
