"""Anyone's models embedded for the benchmark: open_clip, transformers, timm; random weights."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.embed_with import load_embedder, main, pictures, prototypes
from eval.evaluate import main as evaluate
from heph_vl.data.parquet import load, write_parquet
from heph_vl.models.text import train_tokenizer
from tests.data.fake_archive import write_fake_archive


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("embed_with")
    records = write_fake_archive(root / "archive", n=20, size=64)
    write_parquet(root / "archive", root / "dataset")
    train_tokenizer([r["caption"] for r in records], root / "tokenizer", 320)
    return root


@pytest.fixture(scope="module")
def clip_folder(root: Path) -> Path:
    """A CLIP of a few thousand parameters, as transformers saves one."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 320, "max_position_embeddings": 32, "eos_token_id": 2},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    folder = root / "clip"
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    AutoTokenizer.from_pretrained(root / "tokenizer").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def open_clip_model(root: Path) -> str:
    import open_clip

    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    (root / "heph-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(root / "heph-tiny.json")
    return "heph-tiny"


def scored(root: Path, model: str, out: Path) -> dict[str, Any]:
    words = [model, "--weights", "random", "--data", str(root / "dataset"), "--out", str(out)]
    assert main(words) == 0
    assert evaluate(["--data", str(root / "dataset"), "--predictions", str(out)]) == 0
    found: dict[str, Any] = json.loads(out.with_suffix(".results.json").read_text())
    with np.load(out) as arrays:
        lengths = np.linalg.norm(arrays["image_embeddings"], axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-4)
    return found


def test_open_clip(root: Path, open_clip_model: str, tmp_path: Path) -> None:
    found = scored(root, f"open_clip:{open_clip_model}", tmp_path / "mine.npz")
    assert 0 < found["suites"]["captions"]["metrics"]["mAP"]["model"]["value"] <= 1


def test_transformers(root: Path, clip_folder: Path, tmp_path: Path) -> None:
    found = scored(root, f"transformers:{clip_folder}", tmp_path / "mine.npz")
    assert 0 < found["suites"]["captions"]["metrics"]["mAP"]["model"]["value"] <= 1


def test_timm_asks_by_training_images(root: Path, tmp_path: Path) -> None:
    found = scored(root, "timm:test_resnet", tmp_path / "mine.npz")
    assert 0 < found["suites"]["captions"]["metrics"]["mAP"]["model"]["value"] <= 1


def test_pictures_are_white_without_data_and_come_in_order(root: Path) -> None:
    embedder = load_embedder("timm:test_resnet", "random", "cpu")
    rows = load(root / "dataset", "test")
    problems: list[Any] = []
    found_batches = list(pictures(rows, 3, problems))
    assert [i for positions, _ in found_batches for i in positions] == [0, 1, 2, 3]
    assert problems == []
    batches = [batch for _, batch in found_batches]
    assert [len(batch) for batch in batches] == [3, 1]
    for row, picture in zip(rows, [p for batch in batches for p in batch], strict=True):
        rgba = np.array(row["image"].convert("RGBA"))
        empty = rgba[..., 3] == 0
        found = np.array(picture)
        assert (found[empty] == 255).all()
        np.testing.assert_array_equal(found[~empty], rgba[~empty][:, :3])
    one = embedder.images([batches[0][1]])[0]
    np.testing.assert_allclose(embedder.images(batches[0])[1], one, atol=1e-5)


@pytest.mark.parametrize("kind", ["timm", "transformers", "open_clip"])
def test_nothing_is_cropped(clip_folder: Path, open_clip_model: str, kind: str) -> None:
    names = {"timm": "test_resnet", "transformers": clip_folder, "open_clip": open_clip_model}
    embedder = load_embedder(f"{kind}:{names[kind]}", "random", "cpu")
    wide = Image.new("RGB", (256, 64), "white")
    bordered = wide.copy()
    bordered.paste("black", (0, 0, 60, 64))  # a crop of the middle would not see it
    one, other = embedder.images([wide, bordered])
    assert np.abs(one - other).max() > 1e-3


def test_images_that_none_can_read_are_left_out_by_all(root: Path, tmp_path: Path) -> None:
    """A broken and an empty image: listed, excused by the scorer, and not in our gallery either."""
    import datasets

    from heph_vl.models.text import load_tokenizer
    from tests import tiny_retriever

    parts = datasets.load_dataset("parquet", data_dir=str(root / "dataset" / "data"))
    shutil.copytree(root / "dataset", tmp_path / "dataset")
    rows = parts["test"].cast_column("image", datasets.Image(decode=False)).to_list()
    rows[0]["image"]["bytes"] = rows[0]["image"]["bytes"][:200]
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(buffer, "PNG")
    rows[1]["image"]["bytes"] = buffer.getvalue()
    (path,) = (tmp_path / "dataset" / "data").glob("test*.parquet")
    features = parts["test"].features
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    manifest = tmp_path / "dataset" / "heph_vl.json"
    entries = json.loads(manifest.read_text())
    entries["files"][f"data/{path.name}"] = path.stat().st_size
    card = tmp_path / "dataset" / "README.md"  # whose version is part of the cache's key
    card.write_text(re.sub(r"version: 0\.1\.\d+", "version: 0.1.7", card.read_text()))
    entries["files"]["README.md"] = card.stat().st_size
    manifest.write_text(json.dumps(entries))
    found = scored(tmp_path, "timm:test_resnet", tmp_path / "mine.npz")
    assert found["suites"]["captions"]["num_candidates"] == len(rows) - 2
    assert len(found["split"]["unreadable"]) == 2
    tokenizer = load_tokenizer(root / "tokenizer")
    model = tiny_retriever.make(tokenizer, text=tiny_retriever.LONG_TEXT)
    model.save_pretrained(tmp_path / "model")
    words = ["--data", str(tmp_path / "dataset"), "--model", str(tmp_path / "model")]
    assert evaluate([*words, "--out", str(tmp_path / "ours.json")]) == 0
    ours = json.loads((tmp_path / "ours.json").read_text())
    assert ours["suites"]["captions"]["num_candidates"] == len(rows) - 2
    assert ours["split"]["sha256"] == found["split"]["sha256"]


def test_a_prototype_is_the_mean_of_what_answers() -> None:
    captions = ["Sill-type deformation on the left.", "Turbulent mixing around the area."]
    captions += ["Sill-type deformation on the right."]
    images = np.eye(3, dtype=np.float32)
    found = prototypes(["Sill-type deformation.", "Dyke-type deformation."], captions, images)
    assert found.tolist() == [[0.5, 0, 0.5], [0, 0, 0]]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["keras:resnet"], "the library one of open_clip, transformers, timm"),
        (["timm:no_such_model", "--weights", "random"], "model timm:no_such_model"),
        (["open_clip:ViT-B-32"], "ViT-B-32 has no default weights; one of "),
        (["open_clip:nothing", "--weights", "random"], "model open_clip:nothing"),
        (["timm:test_resnet", "--weights", "random", "--split", "no"], "no split no"),
        (["transformers:no/where"], "model transformers:no/where"),
        (["transformers:no/where", "--weights", "mine.pt"], "'mine.pt' is no choice for transf"),
    ],
)
def test_errors_are_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    out = tmp_path / "mine.npz"
    assert main([*words, "--data", str(root / "dataset"), "--out", str(out)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    assert told in line
    assert not out.exists()
