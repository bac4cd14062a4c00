"""eval/evaluate.py: our model and anyone's predictions go one way, and bad files are told."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.evaluate import main
from eval.evaluate_retrieval import embed_with_model, score_embeddings
from heph_vl.data.features import FEATURES
from heph_vl.data.labels import LABELS, SOFTMAX
from heph_vl.data.parquet import load, write_parquet
from heph_vl.embed import embed_images
from heph_vl.metrics.benchmark import Settings
from heph_vl.metrics.label_predictions import read_labels
from heph_vl.metrics.predictions import read_gallery
from heph_vl.models.retriever import Retriever
from heph_vl.models.text import train_tokenizer
from tests import tiny_retriever
from tests.data.fake_archive import write_fake_archive


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive, its dataset and an untrained retriever."""
    root = tmp_path_factory.mktemp("evaluate")
    records = write_fake_archive(root / "archive", n=20, size=64)
    write_parquet(root / "archive", root / "dataset")
    tokenizer = train_tokenizer([r["caption"] for r in records], root / "tokenizer", 320)
    tiny_retriever.make(tokenizer, text=tiny_retriever.LONG_TEXT).save_pretrained(root / "model")
    return root


@pytest.fixture(scope="module")
def queries(root: Path) -> dict[str, Any]:
    assert main(["--data", str(root / "dataset"), "--write-queries", str(root / "q.json")]) == 0
    found: dict[str, Any] = json.loads((root / "q.json").read_text())
    return found


def perfect(queries: dict[str, Any], root: Path) -> dict[str, Any]:
    """Predictions of a model that knows each image's caption."""

    rows = load(root / "dataset", "test")
    captions = dict(zip(rows["unique_id"], rows["caption"], strict=True))
    places = {text: i for i, text in enumerate(queries["texts"])}
    spaced = [" ".join(captions[uid].split()) for uid in queries["unique_ids"]]
    one_hot = np.eye(len(places), dtype=np.float32)
    return {
        "image_embeddings": one_hot[[places[caption] for caption in spaced]],
        "unique_ids": np.array(queries["unique_ids"]),
        "text_embeddings": one_hot,
        "texts": np.array(queries["texts"]),
    }


def run(root: Path, path: Path, *more: str) -> int:
    return main(["--data", str(root / "dataset"), "--predictions", str(path), *more])


def test_our_model_is_scored_and_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(root / "dataset"), "--model", str(root / "model"), "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((root / "results.test.json").read_text())
    assert printed == written
    assert len(written["model_id"]) == 64
    assert written["split"] == {
        "name": "test",
        "sha256": written["split"]["sha256"],
        "images": 4,
        "groups": 1,
        "sources": {"real": 4},
        "unreadable": [],
    }
    assert written["settings"] == {"seed": 0, "num_shuffles": 5, "num_draws": 2000}
    captions = written["suites"]["captions"]
    assert captions["num_candidates"] == 4
    for metric in ("hit@1", "hit@10", "recall@5", "mAP", "nDCG@10", "median_rank"):
        compared = captions["metrics"][metric]
        assert compared["model"]["interval"] is None  # one volcano group
        assert list(compared["model"]["per_group"].values()) == [compared["model"]["value"]]
        assert {"chance", "shuffled", "true_facts", "minus_shuffled"} <= set(compared)
    assert captions["metrics"]["hit@10"]["model"]["value"] == pytest.approx(1)


def test_predictions_of_a_perfect_model_reach_the_ceiling(
    root: Path, queries: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = perfect(queries, root)
    order = np.random.default_rng(0).permutation(len(arrays["texts"]))
    arrays["texts"] = np.char.add(arrays["texts"][order], "  ")  # spacing is not a difference
    arrays["text_embeddings"] = 3 * arrays["text_embeddings"][order]
    extra = {
        "image_embeddings": np.concatenate([arrays["image_embeddings"], np.ones((1, len(order)))]),
        "unique_ids": np.append(arrays["unique_ids"], 999_999),
    }
    np.savez(tmp_path / "mine.npz", **(arrays | extra))
    assert run(root, tmp_path / "mine.npz") == 0
    shown = capsys.readouterr().out
    assert "captions: " in shown
    assert "true facts" in shown
    results = json.loads((tmp_path / "mine.results.json").read_text())
    assert results["ignored_images"] == 1
    metrics = results["suites"]["captions"]["metrics"]
    assert metrics["mAP"]["model"]["value"] == pytest.approx(1)
    assert metrics["median_rank"]["model"]["value"] == 1
    assert metrics["mAP"]["shuffled"] < 1
    assert results["split"]["sha256"] == queries["sha256"]


def test_heads_are_put_beside_a_retriever(
    root: Path, queries: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "mine.npz", **perfect(queries, root))
    labels = read_labels(load(root / "dataset", "test"))
    lines = []
    for i, uid in enumerate(labels.unique_ids):
        line: dict[str, Any] = {"unique_id": uid, "mask": "none.png"}
        for task, names in LABELS.items():
            values = labels.truth[task][i].astype(float).tolist()
            if task in SOFTMAX and not sum(values):
                values[0] = 1.0
            line[task] = dict(zip(names, values, strict=True))
        line["deformation"] = float(labels.truth["deformation"][i, 0])
        lines.append(json.dumps(line))
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "none.png")
    file = tmp_path / "heads.jsonl"
    file.write_text("\n".join(lines))
    assert run(root, tmp_path / "mine.npz", "--heads", str(file)) == 0
    assert "- heads" in capsys.readouterr().out
    results = json.loads((tmp_path / "mine.results.json").read_text())
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert results["heads"] == {"path": str(file), "sha256": sha256}
    for suite in results["suites"].values():
        compared = suite["metrics"]["mAP"]
        assert compared["chance"] <= compared["heads_facts"] <= compared["true_facts"] + 1e-9
        assert "value" in compared["minus_heads_facts"]
    file.write_text(file.read_text().replace("atmosphere", "volcano_phase", 1))
    assert run(root, tmp_path / "mine.npz", "--heads", str(file)) == 1
    assert "heads.jsonl" in capsys.readouterr().err


def test_the_model_by_way_of_predictions_scores_the_same(
    root: Path, queries: dict[str, Any], tmp_path: Path
) -> None:

    retriever = Retriever.from_pretrained(root / "model")
    embedded = embed_images(retriever, load(root / "dataset", "test"), batch_size=3)
    np.savez(
        tmp_path / "ours.npz",
        image_embeddings=embedded.vectors,
        unique_ids=np.array(queries["unique_ids"])[embedded.positions],
        text_embeddings=retriever.embed_texts(queries["texts"]).numpy(),
        texts=np.array(queries["texts"]),
    )
    assert run(root, tmp_path / "ours.npz", "--out", str(tmp_path / "ours.json")) == 0
    model = ["--model", str(root / "model"), "--out", str(tmp_path / "model.json")]
    assert main(["--data", str(root / "dataset"), *model]) == 0
    found = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ours", "model")]
    assert found[0]["suites"] == found[1]["suites"]


BAD: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "missing array": (lambda a: {k: v for k, v in a.items() if k != "texts"}, "no array texts"),
    "missing image": (
        lambda a: a | {k: a[k][1:] for k in ("unique_ids", "image_embeddings")},
        "1 of 4 missing",
    ),
    "missing text": (
        lambda a: a | {k: a[k][1:] for k in ("texts", "text_embeddings")},
        "missing, the first",
    ),
    "image twice": (lambda a: a | {"unique_ids": a["unique_ids"] * 0}, "0 twice"),
    "lengths differ": (lambda a: a | {"unique_ids": a["unique_ids"][1:]}, "give one row for each"),
    "dimensions differ": (lambda a: a | {"text_embeddings": a["text_embeddings"][:, 1:]}, "length"),
    "not finite": (lambda a: a | {"image_embeddings": a["image_embeddings"] / 0}, "row 0 is not"),
    "text ids": (lambda a: a | {"unique_ids": a["unique_ids"].astype(str)}, "give integers"),
    "objects": (lambda a: a | {"texts": a["texts"].astype(object)}, "numpy.array(texts, dtype=str"),
    "numbers as text": (lambda a: a | {"texts": np.arange(len(a["texts"]))}, "give str"),
    "flat": (lambda a: a | {"text_embeddings": a["text_embeddings"].ravel()}, "shape"),
}


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize("case", BAD)
def test_bad_predictions_are_told_in_one_line(
    root: Path,
    queries: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    change, says = BAD[case]
    np.savez(tmp_path / "mine.npz", **change(perfect(queries, root)))
    capsys.readouterr()
    assert run(root, tmp_path / "mine.npz") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "mine.npz" in error
    assert says in error
    assert not (tmp_path / "mine.results.json").exists()


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut", b"not a zip at all"])
def test_a_file_that_is_no_npz_is_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "mine.npz").write_bytes(content)
    assert run(root, tmp_path / "mine.npz") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unreadable_image_is_left_out_and_listed(root: Path) -> None:
    [shard] = (root / "dataset" / "data").glob("test-*.parquet")
    table = pq.read_table(shard)
    images = table["image"].to_pylist()
    images[1]["bytes"] = images[1]["bytes"][:300]
    column = pa.array(images, table.schema.field("image").type)
    table = table.set_column(
        table.schema.get_field_index("image"), table.schema.field("image"), column
    )

    rows = datasets.Dataset(table).cast(FEATURES)
    gallery = read_gallery(rows)
    retriever = Retriever.from_pretrained(root / "model")
    embedded = embed_with_model(retriever, rows, gallery, 2, lambda done, total: None)
    assert embedded.positions == [0, 2, 3]
    results = score_embeddings(gallery, embedded, Settings(num_draws=10), split="test", source=root)
    assert results["split"]["images"] == 4
    assert len(results["split"]["unreadable"]) == 1
    assert str(gallery.unique_ids[1]) in results["split"]["unreadable"][0]
    assert results["suites"]["captions"]["num_candidates"] == 3


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--data", "nowhere", "--model", "m"], 1),
        (["--data", "DATA", "--split", "dev", "--model", "m"], 1),
        (["--data", "DATA", "--model", "nowhere"], 1),
    ],
)
def test_missing_input_is_told(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    words = [str(root / "dataset") if word == "DATA" else word for word in arguments]
    assert main(words) == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["--model", "m"], ["--data", "d"], ["--data", "d", "--mod", "m"]]
)
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
