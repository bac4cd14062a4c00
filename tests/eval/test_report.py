"""The page of a small demo: every result, number and picture that belongs there."""

import json
import re
from pathlib import Path

import pytest

from eval import evaluate, report
from heph_vl.data import captions
from heph_vl.data.parquet import write_parquet
from heph_vl.models.text import train_tokenizer
from heph_vl.search import build_index
from tests import tiny_retriever
from tests.data.fake_archive import write_fake_archive


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `make demo` leaves it, with an untrained model."""
    root = tmp_path_factory.mktemp("demo")
    records = write_fake_archive(root / "archive", n=20, size=64)
    write_parquet(root / "archive", root / "dataset")
    tokenizer = train_tokenizer([r["caption"] for r in records], root / "tokenizer", 320)
    model = root / "retriever" / "tiny" / "model"
    tiny_retriever.make(tokenizer, text=tiny_retriever.LONG_TEXT).save_pretrained(model)
    build_index(root / "dataset", root / "index", model)
    lines = [{"step": 1, "loss": 4.2}, {"step": 2, "loss": 3.1, "val_mAP_captions": 0.25}]
    (root / "retriever" / "tiny" / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lo'
    )
    (root / "retriever" / "tiny" / "config.yaml").write_text("run:\n  name: <tiny>\n")
    (root / "retriever" / "tiny" / "environment.json").write_text(
        json.dumps({"commit": "abc123", "dirty": True, "versions": {"torch": "2.11"}, "seed": 0})
    )
    arguments = ["--data", str(root / "dataset"), "--model", str(model), "--draws", "100"]
    assert evaluate.main([*arguments, "--out", str(root / "results.json")]) == 0
    return root


def test_the_page_shows_images_searches_metrics_and_training(demo: Path) -> None:
    assert report.main(["--demo", str(demo)]) == 0
    markup = (demo / "index.html").read_text()
    results = json.loads((demo / "results.json").read_text())
    mean = results["suites"]["captions"]["metrics"]["mAP"]
    assert f"Mean average precision of captions: {mean['model']['value']:.3f}" in markup
    assert "Too few groups of volcanoes for an interval." in markup
    for name in ("hit@1", "recall@10", "median rank", "nDCG@10", "true facts", "chance"):
        assert name in markup
    assert markup.count("<svg") == 2  # loss and validation
    assert "abc123 (changed)" in markup
    assert "name: &lt;tiny&gt;" in markup
    # 12 samples; 3 queries with the 4 images of the test split, three pictures each.
    assert markup.count("<img") == 12 + 3 * 4 * 3
    assert not re.search(r"(src|href)=\"(?!data:)", markup)


def test_hits_are_held_out_and_marked_by_their_facts(demo: Path) -> None:
    data = report.read_demo(demo)
    queries = report.choose_queries(data)
    assert len(queries) == 3
    found = report.search_all(demo, data, queries)
    held_out = {data.rows["unique_id"][i] for i, name in enumerate(data.split) if name == "test"}
    for text, hits in found.items():
        assert {hit.row["unique_id"] for hit in hits} == held_out
        facts = [captions.parse(hit.row["caption"]) for hit in hits]
        matches = sum(captions.entails(image, captions.parse(text)) for image in facts)
        assert matches >= 1  # a question that the split can answer
        report.write_report(demo / "one.html", data, {text: hits})
        markup = (demo / "one.html").read_text()
        assert f"{matches} of 4 results match; of all 4 images {matches} do" in markup
        assert markup.count('class="badge">match') == matches


@pytest.mark.parametrize("missing", ["results.json", "retriever/tiny/metrics.jsonl", "dataset"])
def test_a_missing_part_is_told_in_one_line(
    demo: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (demo / missing).rename(demo / "away")
    try:
        assert report.main(["--demo", str(demo), "--out", str(demo / "none.html")]) == 1
    finally:
        (demo / "away").rename(demo / missing)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert missing.split("/")[-1] in error
    assert not (demo / "none.html").exists()
