"""Everything that can be shared goes to a Hub and comes back: a local one, over HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch

from heph_vl.errors import HephError
from heph_vl.models import weights
from heph_vl.models.heads import Heads
from heph_vl.models.retriever import Retriever
from heph_vl.share import prepare, share
from tests import local_hub, tiny_heads
from tests.conftest import REPO

WEIGHTS = REPO / "weights"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub, which this process and those that it starts use, logged in."""
    from huggingface_hub import constants

    with local_hub.serve() as server:
        cache = tmp_path / "hub_cache"
        for name, value in {
            "HF_ENDPOINT": server.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_CACHE": str(cache),
            "HF_TOKEN": local_hub.TOKEN,
            "HF_HUB_DISABLE_XET": "1",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server has no such store
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        hub_urls = server.url + "/datasets/{repo_id}/resolve/{revision}/{path}"
        monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", hub_urls)
        yield server


def files_of(hub, repo, kind="model", revision="main"):
    return hub.repos[kind, repo].at(revision)[1]


def front_of(hub, repo, kind="model"):
    from heph_vl.cards import front_matter

    return front_matter(files_of(hub, repo, kind)["README.md"].data.decode())


@pytest.mark.parametrize("kind", ["encoder", "heads", "retriever", "captioner", "generator"])
def test_reference_weights_go_and_come_back(hub, kind):
    from heph_vl.generate import load_generator
    from heph_vl.models.captioner import Captioner
    from heph_vl.models.encoder import Encoder

    load = {
        "encoder": Encoder.from_pretrained,
        "heads": Heads.from_pretrained,
        "retriever": Retriever.from_pretrained,
        "captioner": Captioner.from_pretrained,
        "generator": load_generator,
    }[kind]
    share(WEIGHTS / kind, f"user/{kind}", tag="v1")
    here, there = load(WEIGHTS / kind), load(f"user/{kind}@v1")
    if kind == "generator":
        texts, options = ["Earthquake on the left side."], {"num_inference_steps": 2}
        drawn = [
            model(texts, generator=torch.Generator().manual_seed(0), **options).wrapped_phase
            for model in (here, there)
        ]
        assert (drawn[0] == drawn[1]).all()
    else:
        assert weights.state_sha256(here.state_dict()) == weights.state_sha256(there.state_dict())
    names = set(files_of(hub, f"user/{kind}"))
    assert not {name for name in names if name.endswith((".py", ".bin", ".pt", ".pkl"))}
    front, text = front_of(hub, f"user/{kind}")
    assert front["license"] == "mit"
    assert "## Provenance" in text
    assert "COMET LiCSAR" in text
    assert "incidence" in text
    if kind not in ("encoder",):
        results = json.loads((WEIGHTS / kind / "results.json").read_text())
        assert front["model-index"][0]["results"][0]["metrics"][0]["value"]
        assert results["commit"] in text


def test_model_index_says_what_was_measured(hub):
    share(WEIGHTS / "heads", "user/heads")
    results = json.loads((WEIGHTS / "heads" / "results.json").read_text())
    metrics = results["tasks"]["deformation"]["classes"]["deformation"]["metrics"]
    entries = front_of(hub, "user/heads")[0]["model-index"][0]["results"]
    told = {m["name"]: m["value"] for entry in entries for m in entry["metrics"]}
    assert told["AUROC of deformation"] == round(metrics["auroc"]["model"]["value"], 4)
    assert "simulated" in entries[0]["dataset"]["name"]


def test_push_to_hub_branches_and_revisions(hub):
    one, other = tiny_heads.make(), tiny_heads.make()
    torch.nn.init.ones_(other.evidence)
    one.push_to_hub("user/tiny")
    other.push_to_hub("user/tiny", revision="next")
    found = {name: Heads.from_pretrained("user/tiny", revision=name) for name in ("main", "next")}
    assert found["main"].model_id == one.model_id
    assert found["next"].model_id == other.model_id
    first = hub.repos["model", "user/tiny"].refs["main"]
    other.push_to_hub("user/tiny")
    assert Heads.from_pretrained("user/tiny").model_id == other.model_id
    assert Heads.from_pretrained(f"user/tiny@{first}").model_id == one.model_id


def test_all_other_models_go_and_come_back(hub, tmp_path):
    from heph_vl.models.autoencoder import load_autoencoder
    from heph_vl.models.moco import MoCo, MoCoConfig
    from heph_vl.models.patch_classifier import PatchClassifier, PatchClassifierConfig
    from heph_vl.models.prototypes import Prototypes, PrototypesConfig

    backbone = {"backbone": "test_resnet"}
    models = [
        MoCo(MoCoConfig(encoder=tiny_heads.CONFIG.encoder)),
        PatchClassifier(PatchClassifierConfig(**backbone)),
        Prototypes(PrototypesConfig(**backbone)),
    ]
    for number, model in enumerate(models):
        model.push_to_hub(f"user/other{number}")
        again = type(model).from_pretrained(f"user/other{number}")
        saved, found = model.state_dict(), again.state_dict()
        kept = [name for name in saved if "queue" not in name and "key_" not in name]
        assert kept
        assert all(torch.equal(saved[name], found[name]) for name in kept)
    share(WEIGHTS / "generator" / "autoencoder", "user/autoencoder")
    assert load_autoencoder("user/autoencoder").config.in_channels == 3


def test_a_run_goes_with_config_results_and_half_precision(hub, tmp_path):
    run = tmp_path / "runs" / "heads" / "mine"
    model = tiny_heads.make()
    model.save_pretrained(run / "model")
    (run / "config.yaml").write_text("run:\n  seed: 3\n")
    command = "python training/train_heads.py --data.path '/home/me secret/dataset' --x=~/y/z "
    command += "--data.more '[/home/secret/a, runs/b]' -I/secret/c"
    environment = {"command": command, "commit": "abc", "seed": 3, "url": "https://a.b/c/d"}
    (run / "environment.json").write_text(json.dumps(environment))
    (run / "results.json").write_text(json.dumps({"split": "val", "val_iou": 0.4}))
    share(run, "user/run")
    assert "Not evaluated yet" in front_of(hub, "user/run")[1]
    reference = json.loads((WEIGHTS / "heads" / "results.json").read_text())
    (run / "results.test.json").write_text(json.dumps(reference))  # of eval/evaluate.py
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "random_states_0.pkl").write_bytes(b"pickle")
    share(run, "user/run", half=True)
    assert front_of(hub, "user/run")[0]["model-index"]
    files = files_of(hub, "user/run")
    assert {"training.yaml", "environment.json", "encoder/model.safetensors"} <= set(files)
    assert not any("pkl" in name for name in files)
    text = front_of(hub, "user/run")[1]
    assert "seed 3" in text
    assert (
        "python training/train_heads.py --data.path dataset --x=z '[a, runs/b]' -Ic".replace(
            "'[", "--data.more '["
        )
        in text
    )
    assert b"https://a.b/c/d" in files["environment.json"].data
    assert not any(b"secret" in f.data for f in files.values())
    size = sum(len(f.data) for name, f in files.items() if name.endswith("safetensors"))
    full = sum(path.stat().st_size for path in run.rglob("*.safetensors"))
    assert size < 0.75 * full
    again = Heads.from_pretrained("user/run")
    assert torch.allclose(again.queries, model.queries, atol=1e-3)


def test_an_adapter_goes_and_comes_back(hub, tmp_path):
    from peft import LoraConfig, LoraModel

    from heph_vl.models.adapters import load_adapter, save_adapter

    text = ["A mogi-type deformation pattern of high intensity is detected on the left side."]
    base = Retriever.from_pretrained(WEIGHTS / "retriever")
    base_id, before = base.model_id, base.embed_texts(text)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=r"text_projection|image_projection")
    tuner = LoraModel(base, config, "default")
    for name, parameter in tuner.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    save_adapter(tuner, tmp_path / "adapter", base_id)
    wanted = tuner.merge_and_unload().embed_texts(text)
    (tmp_path / "config.yaml").write_text("run:\n  seed: 7\n")
    (tmp_path / "environment.json").write_text(json.dumps({"command": "adapt it", "seed": 7}))
    share(tmp_path / "adapter", "user/adapter")
    text_of_card = front_of(hub, "user/adapter")[1]
    assert base_id in text_of_card
    assert "adapt it" in text_of_card
    assert "seed 7" in text_of_card
    fresh = Retriever.from_pretrained(WEIGHTS / "retriever")
    found = load_adapter(fresh, "user/adapter").embed_texts(text)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert not torch.allclose(found, before, atol=1e-2)
    with pytest.raises(HephError, match="learnt on retriever"):
        load_adapter(fresh, "user/adapter")


def test_datasets_keep_several_configs(hub, tmp_path):
    from heph_vl.simulate.patchset import write_patches
    from heph_vl.simulate.stream import StreamConfig

    write_patches(tmp_path / "a", 2, StreamConfig(seed=0))
    write_patches(tmp_path / "b", 3, StreamConfig(seed=1))
    share(tmp_path / "a", "user/data", config="small")
    share(tmp_path / "b", "user/data", config="large")
    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    counts = {
        name: len(datasets.load_dataset("user/data", name, **options))
        for name in ("small", "large")
    }
    assert counts == {"small": 2, "large": 3}
    assert len(datasets.load_dataset("user/data", **options)) == 2  # the first is the default
    front, text = front_of(hub, "user/data", "dataset")
    assert [c["config_name"] for c in front["configs"]] == ["large", "small"]
    assert "MIT" in text
    assert "COMET LiCSAR" in text
    (tmp_path / "b" / "data" / "train-00000-of-00001.parquet").rename(
        tmp_path / "b" / "data" / "train-00001-of-00002.parquet"
    )
    share(tmp_path / "b", "user/data", config="large")
    shards = [n for n in files_of(hub, "user/data", "dataset") if n.endswith(".parquet")]
    assert len(shards) == 2  # those of the version before are gone, the other config's are not
    own = files_of(hub, "user/data", "dataset")["large/README.md"].data.decode()
    assert "simulated" in own
    assert 'load_dataset("user/data", "large"' in own
    assert '"seed": 1' in own
    share(tmp_path / "b", "user/data", config="data", revision="next")  # a branch keeps the others
    told = hub.repos["dataset", "user/data"].at("next")[1]["README.md"].data.decode()
    assert [name for name in ("small", "large", "data") if f"config_name: {name}" in told] == [
        "small",
        "large",
        "data",
    ]


def test_the_app_goes_as_a_space(hub):
    share(REPO / "space", "user/app")
    files = files_of(hub, "user/app", "space")
    assert {"app.py", "README.md", "requirements.txt"} <= set(files)
    assert b"sdk: gradio" in files["README.md"].data


def test_what_was_sent_meanwhile_is_not_overwritten(hub, tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    tiny_heads.make().save_pretrained(tmp_path / "model")
    share(tmp_path / "model", "user/x", tag="v1")
    with pytest.raises(HephError, match=r"sent to .* but not tagged v1"):
        share(tmp_path / "model", "user/x", tag="v1")
    info = HfApi.repo_info

    def late(self, *args, **options):
        found = info(self, *args, **options)
        hub.repos["model", "user/x"].commit("main", files_of(hub, "user/x"))
        return found

    monkeypatch.setattr(HfApi, "repo_info", late)
    torch.nn.init.ones_((model := tiny_heads.make()).evidence)
    with pytest.raises(HephError, match="meanwhile"):
        model.push_to_hub("user/x")


def test_a_fetched_model_can_be_sent_again(hub, tmp_path):
    from heph_vl.hub import fetch

    tiny_heads.make().save_pretrained(tmp_path / "model")
    share(tmp_path / "model", "user/x")
    share(fetch("user/x"), "user/y")  # a snapshot of links into the cache
    assert Heads.from_pretrained("user/y").model_id == Heads.from_pretrained("user/x").model_id
    (tmp_path / "model" / "link.json").symlink_to("/etc/hostname")
    left = prepare(tmp_path / "model", tmp_path / "out")
    assert [str(name) for name in left] == ["link.json"]


def test_metrics_go_and_come_back(hub, tmp_path, monkeypatch):
    import evaluate

    from heph_vl.metric_modules import MODULES, write_module

    monkeypatch.setattr(evaluate.config, "HF_ENDPOINT", hub.url)
    address = hub.url + "/spaces/{path}/resolve/{revision}/{name}"
    monkeypatch.setattr(evaluate.config, "HUB_EVALUATE_URL", address)
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", False)
    said = ["No deformation activity can be detected.", "Turbulent mixing on the left side."]
    for name in MODULES:
        folder = write_module(name, tmp_path)
        app = (folder / "app.py").read_text()
        assert f'evaluate.load(str(Path(__file__).with_name("{name}.py")))' in app
        metric = evaluate.load(str(folder / f"{name}.py"))
        assert type(metric).__module__.startswith(("heph_vl", "evaluate_modules"))
        score = metric.compute(predictions=said, references=said)
        assert max(v for v in score.values() if isinstance(v, float)) > 0.9
    share(tmp_path / "fact_scores", "user/fact_scores")
    assert "fact_scores.py" in files_of(hub, "user/fact_scores", "space")
    metric = evaluate.load("user/fact_scores", cache_dir=str(tmp_path / "cache"))
    assert metric.compute(predictions=said, references=said)["exact"] == 1.0


def test_an_interrupted_upload_publishes_nothing_and_can_be_repeated(hub, tmp_path, monkeypatch):
    tiny_heads.make().save_pretrained(tmp_path / "model")
    hub.drop_uploads, hub.keep_uploads = True, 1
    with pytest.raises(HephError, match="broke") as told:
        share(tmp_path / "model", "user/broken")
    assert len(str(told.value).splitlines()) == 1
    assert set(files_of(hub, "user/broken")) == {".gitattributes"}
    assert len(hub.lfs) == 1
    hub.drop_uploads, before = False, len(hub.log)
    share(tmp_path / "model", "user/broken")
    Heads.from_pretrained("user/broken")
    sent = [line for line in hub.log[before:] if line.startswith("PUT /_lfs/")]
    assert len(sent) == len(hub.lfs) - 1  # what had arrived is not sent again


def test_wrong_token_missing_repo_revision_and_hub_down_are_one_line(hub, tmp_path, monkeypatch):
    tiny_heads.make().save_pretrained(tmp_path / "model")
    with pytest.raises(HephError, match="token"):
        share(tmp_path / "model", "user/x", token="hf_wrong")
    assert ("model", "user/x") not in hub.repos
    with pytest.raises(HephError, match="no such repository"):
        Heads.from_pretrained("user/none")
    share(tmp_path / "model", "user/x")
    with pytest.raises(HephError, match="no such branch, tag or commit"):
        Heads.from_pretrained("user/x@v9")
    with pytest.raises(HephError, match="user/name"):
        share(tmp_path / "model", "not a name")
    hub.down = True
    with pytest.raises(HephError, match="503"):
        share(tmp_path / "model", "user/x")


def test_another_kind_of_model_and_pickles_are_refused(hub, tmp_path):
    tiny_heads.make().save_pretrained(tmp_path / "model")
    share(tmp_path / "model", "user/heads")
    with pytest.raises(HephError, match="saved heads"):
        Retriever.from_pretrained("user/heads")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.pt").write_bytes(b"x")
    with pytest.raises(HephError, match="neither model"):
        share(tmp_path / "other", "user/other")


def test_the_command_line_sends_and_reads(hub, tmp_path):
    def run(*words):
        command = [sys.executable, "-m", "heph_vl.cli", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)

    done = run("share", WEIGHTS / "heads", "user/heads", "--tag", "v1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"].startswith(hub.url)
    image = Path(__file__).parent / "data"
    from heph_vl.simulate.patchset import write_patches
    from heph_vl.simulate.stream import StreamConfig

    write_patches(tmp_path / "patches", 1, StreamConfig(seed=0))
    row = datasets.load_dataset(str(tmp_path / "patches"), split="train")[0]
    image = tmp_path / "one.png"
    row["image"].save(image)
    done = run("detect", image, "--model", "user/heads@v1", "--json")
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)[0]["deformation"]["probability"] <= 1
    done = run("detect", image, "--model", "user/none", "--json")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    done = run("share", "metric:nothing", "user/x")
    assert done.returncode == 1
    assert "fact_scores" in done.stderr


def test_staging_says_what_stays_behind(tmp_path):
    tiny_heads.make().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "secret.pkl").write_bytes(b"x")
    left = prepare(tmp_path / "model", tmp_path / "out")
    assert [str(name) for name in left] == ["secret.pkl"]
    assert not (tmp_path / "out" / "secret.pkl").exists()
    with pytest.raises(HephError, match="not empty"):
        prepare(tmp_path / "model", tmp_path / "out")


def test_shared_encoders_are_referred_to_or_bundled(tmp_path):
    model = tiny_heads.make()
    model.save_pretrained(tmp_path / "model")
    model.encoder.save_pretrained(tmp_path / "encoder")
    prepare(tmp_path / "model", tmp_path / "light", encoder=tmp_path / "encoder")
    assert not (tmp_path / "light" / "encoder").exists()
    assert Heads.from_pretrained(tmp_path / "light").model_id == model.model_id
    prepare(tmp_path / "light", tmp_path / "whole")
    assert (tmp_path / "whole" / "encoder" / "model.safetensors").is_file()
    assert Heads.from_pretrained(tmp_path / "whole").model_id == model.model_id
    tiny_heads.make(encoder={"dim": 64}).encoder.save_pretrained(tmp_path / "other")
    with pytest.raises(HephError, match="another encoder"):
        prepare(tmp_path / "model", tmp_path / "wrong", encoder=tmp_path / "other")


@pytest.mark.parametrize("kind", ["generator", "autoencoder"])
def test_what_diffusers_saves_is_halved_too(tmp_path, kind):
    from heph_vl.models.autoencoder import load_autoencoder
    from heph_vl.models.pipeline import InSARPipeline

    load = InSARPipeline.from_pretrained if kind == "generator" else load_autoencoder
    source = WEIGHTS / "generator" / ("" if kind == "generator" else "autoencoder")
    load(source).save_pretrained(str(tmp_path / "full"))  # as a run leaves it: float32
    prepare(tmp_path / "full", tmp_path / "half", half=True)
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*.safetensors"))
        for name in ("full", "half")
    ]
    assert sizes[1] < 0.55 * sizes[0]
    load(tmp_path / "half")


def test_broken_files_are_told(tmp_path):
    tiny_heads.make().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "results.json").write_text("{")
    with pytest.raises(HephError, match=r"results\.json: not valid json"):
        prepare(tmp_path / "model", tmp_path / "out")
    (tmp_path / "model" / "results.json").write_text('{"task": "labels", "tasks": {}}')
    with pytest.raises(HephError, match="not as evaluation writes it"):
        prepare(tmp_path / "model", tmp_path / "out2")


def test_halving_leaves_the_statistics_of_norms(tmp_path):
    from safetensors.torch import load_file

    model = tiny_heads.make(encoder={"norm": "batch"})
    small = {k: v for k, v in model.encoder.state_dict().items() if "running_var" in k}
    assert small
    for value in small.values():
        value.fill_(1e-9)  # 0 in half precision
    model.save_pretrained(tmp_path / "model")
    prepare(tmp_path / "model", tmp_path / "half", half=True)
    saved = load_file(tmp_path / "half" / "encoder" / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in small.items())
    assert saved["projection.weight"].dtype == torch.float16


def test_paths_out_of_the_folder_are_refused(tmp_path):
    tiny_heads.make().save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    entries = json.loads(path.read_text())
    for bad in ("../../encoder", "/etc", "a/../../b", ".."):
        entries["encoder"]["path"] = bad
        path.write_text(json.dumps(entries))
        with pytest.raises(HephError, match="as a path one inside"):
            Heads.from_pretrained(tmp_path / "model")
