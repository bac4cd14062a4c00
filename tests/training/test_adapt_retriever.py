"""Adapting a retriever: only the updates learn, a plain retriever comes out, errors are told."""

import dataclasses
import importlib.util
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from heph_vl.data.parquet import load, write_parquet
from heph_vl.models.retriever import Retriever
from heph_vl.models.text import train_tokenizer
from heph_vl.run import launch, parse_config
from tests import tiny_retriever
from tests.conftest import REPO
from tests.data.fake_archive import write_fake_archive

SMALL = [
    "--data.shots", "4", "--data.batch_size", "4", "--data.num_workers", "0",
    "--transform.crop_size", "64", "--lora.rank", "2", "--loop.steps", "3",
    "--loop.warmup_steps", "0", "--loop.log_every", "1", "--loop.checkpoint_every", "0",
]  # fmt: skip


def load_recipe():
    path = REPO / "training" / "adapt_retriever.py"
    spec = importlib.util.spec_from_file_location("adapt_retriever", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapt")
    records = write_fake_archive(root / "archive", n=48, size=96)
    write_parquet(root / "archive", root / "dataset")
    tokenizer = train_tokenizer([r["caption"] for r in records], root / "tokenizer", 320)
    encoder = dataclasses.replace(tiny_retriever.CONFIG.encoder, norm="batch")
    model = tiny_retriever.make(tokenizer, text=tiny_retriever.LONG_TEXT, encoder=encoder)
    model.save_pretrained(root / "start")
    return root


@pytest.fixture(scope="module")
def group(root):
    groups = [g for rows in load(root / "dataset").values() for g in rows["volcano_group"]]
    return max(sorted(set(groups)), key=groups.count)


def adapt(root, group, out, *more):
    words = ["--config", str(REPO / "configs" / "adapted" / "base.yaml"), *SMALL]
    words += ["--data.path", str(root / "dataset"), "--data.group", group]
    words += ["--init", str(root / "start"), "--run.root", str(out), *more]
    return launch(recipe.main, recipe.Config, words)


def test_only_the_updates_learn(root, group, tmp_path):
    assert adapt(root, group, tmp_path) == 0
    folder = tmp_path / "adapted" / "adapted"
    results = json.loads((folder / "results.json").read_text())
    assert results["shots"] == 4
    assert results["splits"]
    assert results["scored"] > 0
    assert results["before"].keys() == results["after"].keys()
    assert "captions" in results["after"]
    before = Retriever.from_pretrained(root / "start").state_dict()
    after = Retriever.from_pretrained(folder / "model").state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "image_projection.weight" in changed
    assert "encoder.pool.query.weight" in changed
    assert all(re.fullmatch(recipe.ADAPTED, name.rpartition(".")[0]) for name in changed), changed
    # An update of rank 2.
    difference = after["image_projection.weight"] - before["image_projection.weight"]
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2


def test_few_come_before_rest(root, group):
    config = recipe.DataConfig(path=str(root / "dataset"), group=group, shots=4)
    few, rest, about = recipe.few_and_rest(config)
    assert len(few) == 4
    everything = sum(
        part["volcano_group"].count(group) for part in load(root / "dataset", None).values()
    )
    assert about["scored"] == len(rest)
    assert about["between"] == everything - len(few) - len(rest) >= 0
    assert set(few["volcano_group"]) | set(rest["volcano_group"]) == {group}
    assert max(map(str, few["secondary_date"])) < min(map(str, rest["primary_date"]))


def test_resuming_equals_the_unbroken_run(root, group, tmp_path):
    words = ["--loop.checkpoint_every", "2", "--loop.keep_checkpoints", "3"]
    assert adapt(root, group, tmp_path, *words) == 0
    folder = tmp_path / "adapted" / "adapted"
    unbroken = load_file(folder / "model" / "model.safetensors")
    for name in ("model", "checkpoints/step_3"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "results.json").unlink()
    assert adapt(root, group, tmp_path, *words, "--resume") == 0
    again = load_file(folder / "model" / "model.safetensors")
    assert all(torch.equal(again[name], unbroken[name]) for name in unbroken)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data.group", "atlantis"], "'atlantis' is no group of"),
        (["--data.shots", "1000"], "choose fewer, so that some are scored"),
        (["--lora.rank", "0"], "a rank of at least 1"),
        (["--lora.modules", "nothing"], "lora.modules: 'nothing': "),
        (["--loop.gradient_accumulation", "2"], "another loss"),
        (["--data.shots", "1"], "at least 2 of each"),
        (["--init", "nowhere"], "nowhere"),
    ],
)
def test_wrong_use_is_told(root, group, tmp_path, capsys, words, told):
    assert adapt(root, group, tmp_path, *words) == 1
    assert told in capsys.readouterr().err


def test_the_config_is_read_and_has_its_header():
    path = REPO / "configs" / "adapted" / "base.yaml"
    config, _ = parse_config(recipe.Config, ["--config", str(path)])
    assert config.data.shots == 50
    header = path.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in header)
    assert header[2].startswith("# Expected:")
    assert header[3].startswith("# Smoke:")


def test_a_group_that_the_start_may_have_learnt_is_warned_of(root, tmp_path, capsys):
    groups = load(root / "dataset", "train")["volcano_group"]
    known = max(sorted(set(groups)), key=groups.count)
    words = ["--data.shots", "2", "--data.batch_size", "2", "--loop.steps", "1"]
    assert adapt(root, known, tmp_path, *words) == 0
    assert f"{known} is in the train split" in capsys.readouterr().out
