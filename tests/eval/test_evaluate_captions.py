"""eval/evaluate.py on captions: scores by hand; our captioner and anyone's file go one way."""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.evaluate import _why_unreadable, main
from eval.evaluate_captions import (
    CaptionSettings,
    commonest,
    heads_captions,
    neighbour_captions,
    predict_captions,
    score_captions,
)
from heph_vl.data import captions
from heph_vl.data.labels import LABELS
from heph_vl.data.parquet import load, write_parquet
from heph_vl.errors import HephError
from heph_vl.metrics.caption_predictions import CaptionPredictions, read_caption_predictions
from heph_vl.metrics.label_predictions import read_labels
from heph_vl.metrics.n_grams import n_gram_scores
from heph_vl.metrics.predictions import Gallery, read_gallery
from heph_vl.models.captioner import Captioner
from heph_vl.models.text import train_tokenizer
from tests import tiny_captioner
from tests.data.fake_archive import FRAMES, write_annotation, write_fake_archive
from tests.metrics.test_caption_facts import REFERENCES, TEXTS

SILL, CALM = "A sill of high intensity on the left.", "No deformation. Noise on the left."
BOTH = "A dyke on the top and a sill on the left."
CONSTANT = "No deformation."
COMMONEST = "Turbulent mixing. Noise. No deformation."  # of the training split
GALLERY = Gallery([7, 3, 5, 1], REFERENCES, ["etna", "etna", "askja", "fogo"], ["real"] * 4)
DEFORMS = [True, True, False, False]
PREDICTIONS = CaptionPredictions([0, 1, 2, 3], TEXTS, None, None, {"whose": "ours"}, [])
OTHERS = {"constant": [CONSTANT] * 4, "heads": [REFERENCES[0], TEXTS[1], CONSTANT, REFERENCES[3]]}


def score(
    gallery: Gallery = GALLERY,
    predictions: CaptionPredictions = PREDICTIONS,
    deforms: list[bool] = DEFORMS,
    others: dict[str, list[str]] = OTHERS,
) -> dict[str, Any]:
    settings = CaptionSettings(seed=0, num_draws=50)
    return score_captions(gallery, predictions, deforms, others, settings, split="val")


def values(side: dict[str, Any], system: str = "model") -> dict[str, float]:
    found = {name: entry["systems"][system]["value"] for name, entry in side["metrics"].items()}
    return {name: value for name, value in found.items() if not name.endswith(("_ptb", "_words"))}


# --- scores by hand -------------------------------------------------------------------------------


def test_facts_of_all_images() -> None:
    side = score()["sides"]["all"]
    assert (side["images"], side["groups"]) == (4, 3)
    # 10 facts wanted, 9 said, 5 right; of deformations 5, 5 and 2. No reference has a flag.
    found = values(side)
    assert {"noise_precision", "place_recall", "intensity_precision"} < found.keys()
    kinds = ("type", "noise", "no_deformation")
    assert [found[f"{k}_precision"] for k in kinds] == pytest.approx([1 / 2, 1, 1 / 2])
    assert [found[f"{k}_recall"] for k in kinds] == pytest.approx([1 / 2, 1, 1 / 2])
    whole = ("fact_precision", "fact_recall", "deformation_precision", "deformation_recall")
    assert {k: v for k, v in found.items() if k in whole or "_f1" in k or k == "exact"} == (
        pytest.approx(
            {
                "fact_precision": 5 / 9,
                "fact_recall": 5 / 10,
                "fact_f1": 10 / 19,
                "deformation_precision": 2 / 5,
                "deformation_recall": 2 / 5,
                "deformation_f1": 4 / 10,
                "atmosphere_f1": 0,
                "noise_f1": 1,
                "type_f1": 1 / 2,
                "intensity_f1": 0,
                "place_f1": 1 / 2,
                "no_deformation_f1": 1 / 2,
                "exact": 1 / 4,
            }
        )
    )
    assert set(values(side, "true facts").values()) == {1}


def test_the_constant_caption_says_no_deformation_of_all() -> None:
    side = score()["sides"]["all"]
    found = values(side, "constant")
    assert found["fact_precision"] == pytest.approx(2 / 4)
    assert found["fact_recall"] == pytest.approx(2 / 10)
    assert found["fact_f1"] == pytest.approx(4 / 14)
    assert np.isnan(found["deformation_precision"])  # it tells none
    assert found["deformation_recall"] == 0
    assert found["no_deformation_f1"] == pytest.approx(2 * 2 / 6)
    assert found["exact"] == 0


def test_differences_are_the_models_less_the_others() -> None:
    metrics = score()["sides"]["all"]["metrics"]
    for name in ("fact_f1", "fact_recall", "exact", "rouge_l_ptb", "cider_d_words"):
        entry = metrics[name]
        assert set(entry) == {"systems", "minus_constant", "minus_heads"}
        for other in ("constant", "heads"):
            gain = entry[f"minus_{other}"]
            expected = entry["systems"]["model"]["value"] - entry["systems"][other]["value"]
            assert gain["value"] == pytest.approx(expected)
            assert gain["interval"] is None  # three volcano groups
    assert metrics["fact_f1"]["minus_constant"]["value"] == pytest.approx(10 / 19 - 4 / 14)
    # heads: 3 of 3, 0 of 1, 1 of 1 and 2 of 2.
    assert metrics["fact_f1"]["minus_heads"]["value"] == pytest.approx(10 / 19 - 2 * 6 / 17)
    assert metrics["exact"]["minus_heads"]["value"] == pytest.approx(1 / 4 - 2 / 4)
    without = score(others={"constant": OTHERS["constant"]})["sides"]["all"]["metrics"]
    assert set(without["exact"]) == {"systems", "minus_constant"}


def test_values_of_each_volcano_group() -> None:
    metrics = score()["sides"]["all"]["metrics"]
    groups = metrics["fact_f1"]["systems"]["model"]["per_group"]
    assert groups == pytest.approx({"etna": 2 * 2 / (5 + 4), "askja": 1, "fogo": 0})


def test_each_side_has_its_own_errors() -> None:
    sides = score()["sides"]
    assert list(sides) == ["all", "deformation", "none"]
    deforming, calm = sides["deformation"], sides["none"]
    assert (deforming["images"], deforming["groups"]) == (2, 1)
    assert (calm["images"], calm["groups"]) == (2, 2)
    found = values(deforming)
    assert found["fact_precision"] == pytest.approx(2 / 4)
    assert found["fact_recall"] == pytest.approx(2 / 5)
    assert found["deformation_precision"] == pytest.approx(2 / 3)
    assert found["miss"] == 1 / 2
    assert found["exact"] == 0
    found = values(calm)
    assert found["fact_precision"] == pytest.approx(3 / 5)
    assert found["fact_recall"] == pytest.approx(3 / 5)
    assert found["hallucination"] == 1 / 2
    assert found["exact"] == 1 / 2
    assert "type_f1" not in found
    assert "deformation_f1" not in found
    for side, name in (("deformation", "hallucination"), ("none", "miss"), ("all", "miss")):
        assert name not in sides[side]["metrics"]
    for name, misses in {"constant": 1, "heads": 1 / 2, "true facts": 0}.items():
        assert values(deforming, name)["miss"] == misses
        assert values(calm, name)["hallucination"] == 0


def test_labels_not_captions_tell_the_sides_apart() -> None:
    sides = score(deforms=[False, False, False, True])["sides"]
    assert sides["deformation"]["images"] == 1
    assert values(sides["deformation"])["miss"] == 0
    assert values(sides["none"])["hallucination"] == pytest.approx(1 / 3)
    calm = score(deforms=[False] * 4)["sides"]
    assert calm["deformation"] == {"images": 0}
    assert calm["none"]["images"] == 4


@pytest.mark.parametrize("cut", ["ptb", "words"])
def test_word_scores_are_those_of_the_side(cut: str) -> None:
    sides = score()["sides"]
    everything = n_gram_scores(REFERENCES, TEXTS, cut)
    for side, part in (("all", slice(0, 4)), ("deformation", slice(0, 2)), ("none", slice(2, 4))):
        metrics = sides[side]["metrics"]
        for name in ("rouge_l", "meteor", "cider_d"):
            found = metrics[f"{name}_{cut}"]["systems"]["model"]["value"]
            # Document frequencies of CIDEr-D are those of all images on each side.
            assert found == pytest.approx(everything.each[name][part].mean()), name
        alone = n_gram_scores(REFERENCES[part], TEXTS[part], cut)
        for n in range(1, 5):
            entry = metrics[f"bleu_{n}_{cut}"]
            expected = alone.corpus[f"bleu_{n}"]
            assert entry["systems"]["model"] == {"value": pytest.approx(expected), "interval": None}
            assert set(entry) == {"systems"}
            assert entry["systems"]["constant"]["value"] != expected


def test_distinct_captions_are_counted() -> None:
    gallery = dataclasses.replace(GALLERY, captions=[*REFERENCES[:3], f" {REFERENCES[2]} "])
    texts = [TEXTS[0], TEXTS[0], TEXTS[2], TEXTS[3]]
    sides = score(gallery, dataclasses.replace(PREDICTIONS, texts=texts))["sides"]
    assert sides["all"]["distinct"] == {
        "model": 3, "constant": 1, "heads": 3, "true facts": 3, "references": 3,
    }  # fmt: skip
    assert sides["deformation"]["distinct"]["model"] == 1
    assert sides["none"]["distinct"]["references"] == 1


def test_equal_groups_have_no_width() -> None:
    names = [f"volcano {i}" for i in range(8) for _ in range(4)]
    gallery = Gallery(list(range(32)), REFERENCES * 8, names, ["real"] * 32)
    predictions = CaptionPredictions(list(range(32)), TEXTS * 8, None, None, {}, [])
    others = {name: texts * 8 for name, texts in OTHERS.items()}
    metrics = score(gallery, predictions, DEFORMS * 8, others)["sides"]["all"]["metrics"]
    found = metrics["fact_f1"]["systems"]["model"]
    assert found["interval"] == pytest.approx([10 / 19] * 2)
    gain = metrics["fact_f1"]["minus_constant"]
    assert gain["interval"] == pytest.approx([10 / 19 - 4 / 14] * 2)
    # One volcano of which all is wrong: the interval has a width and holds the value.
    wrong = [*TEXTS * 7, *["Orbital fringes."] * 4]
    predictions = dataclasses.replace(predictions, texts=wrong)
    found = score(gallery, predictions, DEFORMS * 8, others)["sides"]["all"]["metrics"]
    low, high = found["fact_f1"]["systems"]["model"]["interval"]
    value = found["fact_f1"]["systems"]["model"]["value"]
    assert value == pytest.approx(2 * 35 / (80 + 67))
    assert low < value < high <= 10 / 19 + 1e-9


def test_unreadable_images_are_left_out_of_everything() -> None:
    predictions = CaptionPredictions(
        [0, 2, 3], [TEXTS[i] for i in (0, 2, 3)], None, None, {"whose": "ours"}, ["3: no image"]
    )
    others = {"constant": [CONSTANT] * 3}
    results = score(GALLERY, predictions, DEFORMS, others)
    assert results["whose"] == "ours"
    assert results["split"] == {
        "name": "val",
        "sha256": GALLERY.sha256,
        "images": 4,
        "groups": 3,
        "sources": {"real": 4},
        "unreadable": ["3: no image"],
    }
    found = values(results["sides"]["all"])
    assert found["fact_precision"] == pytest.approx(5 / 8)
    assert found["fact_recall"] == pytest.approx(5 / 8)
    assert results["sides"]["deformation"]["images"] == 1
    assert values(results["sides"]["deformation"])["miss"] == 0


def test_confident_facts_are_right_as_often_as_they_say() -> None:
    sure: list[dict[tuple[str, ...], float]] = [
        {
            ("deformation", "1", "sill"): 0.9,
            ("deformation", "1", "intensity", "high"): 0.2,  # wrong
            ("deformation", "1", "at", "left"): 0.8,
        },
        {("no_deformation",): 0.6},  # wrong
        {("noise",): 1.0, ("noise", "left"): 0.5, ("no_deformation",): 0.9},
        {("deformation", "1", "mogi"): 0.3, ("deformation", "1", "at", "top"): 0.1},  # wrong
    ]
    found = score(predictions=dataclasses.replace(PREDICTIONS, confidence=sure))["confidence"]
    assert list(found) == ["all", "deformation"]
    everything = found["all"]
    assert everything["facts"] == 9
    assert everything["right"] == pytest.approx(5 / 9)
    assert everything["auroc"] == pytest.approx(19 / 20)  # 0.5 is right, 0.6 is wrong
    assert everything["quarters"] == [
        {"facts": 2, "mean": pytest.approx(0.15), "right": 0},
        {"facts": 1, "mean": pytest.approx(0.3), "right": 0},
        {"facts": 2, "mean": pytest.approx(0.55), "right": 0.5},
        {"facts": 4, "mean": pytest.approx(0.9), "right": 1},
    ]
    assert everything["ece"] == pytest.approx((2 * 0.15 + 0.3 + 2 * 0.05 + 4 * 0.1) / 9)
    patterns = found["deformation"]
    assert (patterns["facts"], patterns["auroc"]) == (5, 1)
    assert patterns["right"] == pytest.approx(2 / 5)
    assert score()["confidence"] is None


def test_there_is_no_auroc_where_all_facts_are_right() -> None:
    texts = [CONSTANT] * 4
    sure: list[Any] = [{("no_deformation",): 0.9}] * 4
    gallery = dataclasses.replace(GALLERY, captions=texts)
    predictions = CaptionPredictions([0, 1, 2, 3], texts, sure, None, {}, [])
    found = score(gallery, predictions)["confidence"]
    assert found["all"]["auroc"] is None
    assert found["all"]["ece"] == pytest.approx(0.1)
    assert "deformation" not in found


# --- what captions are compared with --------------------------------------------------------------


def test_commonest_caption() -> None:
    assert commonest(["b", "a", "b ", "c", " a"]) == "a"  # of equals the first in the alphabet
    assert commonest(["b", "a", "b"]) == "b"
    assert commonest(["x  y", "a", "x y "]) == "x y"
    results = score(others={"constant": ["z", "z", "y", "y"]})
    assert results["commonest"]["constant"] == "y"
    assert set(results["commonest"]) == {"model", "constant", "true facts"}


def test_the_neighbour_is_the_nearest_by_cosine_around_the_mean() -> None:
    texts = ["a", "b"]
    train = np.array([[1, 0], [3, 2]], np.float32)  # mean (2, 1)
    pooled = np.array([[10, 1], [-10, 1], [2.1, 0.8]], np.float32)
    # By plain cosine (10, 1) would be nearest to the first.
    assert neighbour_captions(pooled, train, texts) == ["b", "a", "a"]
    # Length is no nearness: the second is longest, the first points the same way.
    train = np.array([[1, 0], [4, 4], [-5, -4]], np.float32)
    assert neighbour_captions(np.array([[2, 0.5]], np.float32), train, ["a", "b", "c"]) == ["a"]
    # An image like the mean has no direction; nothing is divided by 0.
    assert neighbour_captions(np.zeros((1, 2), np.float32), train, ["a", "b", "c"]) == ["a"]


# --- files and models -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive, its dataset (2 of 4 test images deform) and a captioner that says three texts."""
    root = tmp_path_factory.mktemp("evaluate_captions")
    for raw in write_fake_archive(root / "archive", n=20, size=64):
        if raw["frameID"] != FRAMES[2] and not raw["activity_type"]:  # not of the test split
            write_annotation(root / "archive", raw | {"caption": COMMONEST})
    write_parquet(root / "archive", root / "dataset")
    tokenizer = train_tokenizer([SILL, CALM, BOTH], root / "tokenizer", 320)
    model = tiny_captioner.make(tokenizer, context_length=28)
    tiny_captioner.teach(model, [SILL, CALM, BOTH]).save_pretrained(root / "model")
    # The first texts of a model that has learnt nothing are bytes at random.
    untaught = tiny_captioner.make(tokenizer, context_length=12)
    untaught.save_pretrained(root / "untaught")
    return root


def run(root: Path, *more: str) -> int:
    few = ["--samples", "6"] if "--model" in more else []
    return main(["--data", str(root / "dataset"), "--draws", "50", *few, *more])


def true_lines(root: Path) -> list[dict[str, Any]]:
    """Lines of one who knows the captions."""
    rows = load(root / "dataset", "test")
    pairs = zip(rows["unique_id"], rows["caption"], strict=True)
    return [{"unique_id": uid, "caption": caption} for uid, caption in pairs]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def scored(root: Path, path: Path, *more: str) -> dict[str, Any]:
    assert run(root, "--predictions", str(path), *more) == 0
    found: dict[str, Any] = json.loads(path.with_suffix(".results.json").read_text())
    return found


def test_the_truth_scores_one_beside_the_commonest_caption(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"unique_id": 999_999, "caption": "x"}, *true_lines(root)[::-1]]
    path = write(tmp_path / "mine.jsonl", lines)
    results = scored(root, path)
    shown = capsys.readouterr().out
    for text in ("4 images, 1 volcano groups", "2 images with deformation", "hallucination"):
        assert text in shown
    assert "- constant" in shown
    assert "confidence of facts" not in shown
    assert results["task"] == "captions"
    assert results["predictions"] == str(path)
    assert results["predictions_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert results["ignored_images"] == 1
    assert results["split"]["sources"] == {"real": 4}
    assert results["settings"] == {"seed": 0, "num_draws": 50}
    assert results["confidence"] is None
    assert results["commonest"]["constant"] == COMMONEST
    sides = results["sides"]
    found = values(sides["all"])
    for name in ("fact_precision", "fact_recall", "fact_f1", "type_f1", "exact"):
        assert found[name] == 1, name
    assert values(sides["deformation"])["miss"] == 0
    assert values(sides["deformation"], "constant")["miss"] == 1
    assert values(sides["none"])["hallucination"] == 0
    # The fake archive tells turbulence everywhere; of each deformation type, intensity and place.
    # Of turbulence, noise and no deformation two are right where nothing deforms, else one.
    patterns = sum(len(captions.parse(line["caption"]).patterns) for line in lines)
    wanted, right = 2 * 3 + 2 * 2 + 3 * patterns, 2 * 2 + 2 * 1
    expected = 2 * right / (wanted + 4 * 3)
    assert values(sides["all"], "constant")["fact_f1"] == pytest.approx(expected)
    assert sides["all"]["metrics"]["fact_f1"]["systems"]["model"]["interval"] is None
    bleu = sides["all"]["metrics"]["bleu_4_ptb"]["systems"]
    assert bleu["model"]["value"] == pytest.approx(1)
    assert bleu["constant"]["value"] < 0.9


def test_our_captioner_is_scored_and_its_captions_score_the_same(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "written"
    arguments = ["--model", str(root / "model"), "--write-predictions", str(written), "--json"]
    assert run(root, *arguments, "--out", str(tmp_path / "ours.json")) == 0
    ours = json.loads(capsys.readouterr().out)
    assert ours == json.loads((tmp_path / "ours.json").read_text())
    captioner = Captioner.from_pretrained(root / "model")
    assert ours["model_id"] == captioner.model_id
    assert (ours["threshold"], ours["num_samples"], ours["num_beams"]) == (0.5, 6, 0)
    assert list(ours["sides"]["all"]["metrics"]["exact"]["systems"]) == [
        "model", "neighbour", "constant", "true facts",
    ]  # fmt: skip
    assert ours["commonest"]["model"] in (SILL, CALM, BOTH)
    assert ours["confidence"]["all"]["facts"] >= 4

    path = written / "predictions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    rows = load(root / "dataset", "test")
    assert [line["unique_id"] for line in lines] == list(rows["unique_id"])
    for line in lines:
        assert set(line) == {"unique_id", "caption", "fact_confidence", "deformation"}
        told = {tuple(atom) for atom, _ in line["fact_confidence"]}
        assert told == captions.parse(line["caption"]).atoms()
        assert 6 * line["deformation"] == pytest.approx(round(6 * line["deformation"]))
    again = scored(root, path)
    for side in ("all", "deformation", "none"):
        for name, entry in again["sides"][side]["metrics"].items():
            expected = ours["sides"][side]["metrics"][name]
            del expected["systems"]["neighbour"]
            expected.pop("minus_neighbour", None)
            assert entry == expected, name
    assert again["confidence"] == ours["confidence"]

    # Nothing is kept unless asked for; the same again.
    assert run(root, "--model", str(root / "model")) == 0
    shown = capsys.readouterr().out
    assert "neighbour" in shown
    assert "confidence of facts" in shown
    assert json.loads((root / "results.test.json").read_text())["confidence"] == ours["confidence"]
    (root / "results.test.json").unlink()
    assert {path.name for path in written.iterdir()} == {
        "predictions.jsonl",
        "predictions.results.json",
    }


def test_beams_are_told_and_used(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "beams.json"
    assert run(root, "--model", str(root / "model"), "--beams", "2", "--out", str(out)) == 0
    results = json.loads(out.read_text())
    assert results["num_beams"] == 2
    model = Captioner.from_pretrained(root / "model")
    rows = load(root / "dataset", "test")
    found, _ = predict_captions(
        model, rows, read_gallery(rows), None, lambda done, total: None, num_samples=1, num_beams=2
    )
    assert results["commonest"]["model"] == commonest(found.texts)


def test_a_captioner_that_has_learnt_nothing_is_scored(root: Path, tmp_path: Path) -> None:
    written = tmp_path / "written"
    arguments = ["--model", str(root / "untaught"), "--write-predictions", str(written)]
    assert run(root, *arguments, "--out", str(tmp_path / "ours.json")) == 0
    ours = json.loads((tmp_path / "ours.json").read_text())
    again = scored(root, written / "predictions.jsonl")
    assert again["commonest"]["model"] == ours["commonest"]["model"]
    assert again["sides"]["all"]["distinct"]["model"] == ours["sides"]["all"]["distinct"]["model"]


def test_an_image_without_data_is_left_out_and_listed(root: Path, tmp_path: Path) -> None:
    rows = load(root / "dataset", "test")
    empty = Image.new("RGB", rows[1]["image"].size, "white")

    def blank(row: dict[str, Any], i: int) -> dict[str, Any]:
        return row | {"image": empty} if i == 1 else row

    rows = rows.map(blank, with_indices=True, features=rows.features, keep_in_memory=True)
    gallery = read_gallery(rows)
    model = Captioner.from_pretrained(root / "model")
    done: list[tuple[int, int]] = []
    found, pooled = predict_captions(
        model, rows, gallery, tmp_path, lambda *count: done.append(count), num_samples=4
    )
    assert found.positions == [0, 2, 3]
    assert pooled.shape == (3, tiny_captioner.CONFIG.encoder.dim)
    assert str(gallery.unique_ids[1]) in found.unreadable[0]
    assert "no valid phase" in found.unreadable[0]
    assert done[-1] == (4, 4)
    again = read_caption_predictions(
        tmp_path / "predictions.jsonl", gallery, partial(_why_unreadable, rows)
    )
    assert (again.positions, again.texts) == (found.positions, found.texts)
    assert again.confidence == found.confidence
    assert again.unreadable == found.unreadable
    deforms = [bool(kinds) for kinds in rows["activity_types"]]
    results = score(gallery, found, deforms, {"constant": [CONSTANT] * 3})
    assert results["sides"]["all"]["images"] == 3
    assert results["split"]["images"] == 4


# --- heads ----------------------------------------------------------------------------------------


def heads_file(root: Path, folder: Path, **limits: Any) -> Path:
    """Labels and masks of one who knows them; with thresholds if any are given."""
    rows = load(root / "dataset", "test")
    labels = read_labels(rows)
    (folder / "masks").mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"thresholds": limits}] if limits else []
    for i, uid in enumerate(labels.unique_ids):
        line: dict[str, Any] = {"unique_id": uid, "mask": f"masks/{uid}.png"}
        rows[i]["mask"].save(folder / line["mask"])
        for task, names in LABELS.items():
            known = labels.truth[task][i].astype(float).tolist()
            line[task] = dict(zip(names, known, strict=True))
        line["deformation"] = line["deformation"]["deformation"]
        lines.append(line)
    return write(folder / "heads.jsonl", lines)


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A file beside another, each image's line changed in place."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if "unique_id" in line:
            change(line)
    return write(path.with_name("changed.jsonl"), lines)


def test_true_labels_and_masks_say_the_true_deformations(root: Path, tmp_path: Path) -> None:
    rows = load(root / "dataset", "test")
    path = heads_file(root, tmp_path)
    texts, source = heads_captions(path, rows, [0, 1, 2, 3])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert source == {"path": str(path), "sha256": sha256}
    told = [captions.parse(text) for text in texts]
    truth = [captions.parse(caption) for caption in rows["caption"]]
    assert [set(facts.patterns) for facts in told] == [set(facts.patterns) for facts in truth]
    assert sum(bool(facts.patterns) for facts in told) == 2
    for facts in told:
        # Where something deforms, labels do not tell where the turbulence is.
        where = () if facts.patterns else (("turbulent_mixing", "everywhere"), ("no_deformation",))
        assert facts.scene == {("turbulent_mixing",), *where}
    some, _ = heads_captions(path, rows, [1, 3])
    assert some == [texts[1], texts[3]]


def test_heads_are_put_beside_captions(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = heads_file(root, tmp_path)
    path = write(tmp_path / "mine.jsonl", true_lines(root))
    results = scored(root, path, "--heads", str(heads))
    assert "- heads" in capsys.readouterr().out
    assert results["heads"]["path"] == str(heads)
    sides = results["sides"]
    assert values(sides["none"], "heads")["exact"] == 1
    assert values(sides["all"], "heads")["deformation_f1"] == 1
    entry = sides["deformation"]["metrics"]["fact_f1"]
    right = wanted = 0
    for caption in load(root / "dataset", "test")["caption"]:
        facts = captions.parse(caption)
        if facts.patterns:  # all but where the turbulence is
            wanted += len(facts.atoms())
            right += len(facts.atoms()) - 1
    expected = 2 * right / (wanted + right)
    assert entry["systems"]["heads"]["value"] == pytest.approx(expected)
    assert entry["minus_heads"]["value"] == pytest.approx(1 - expected)


def test_thresholds_of_heads_hold_but_for_flags(root: Path, tmp_path: Path) -> None:
    rows = load(root / "dataset", "test")
    deforming = [bool(kinds) for kinds in rows["activity_types"]]
    limits = {"deformation": 0.2, "quality": {"image_artifacts": 0.1, "orbital_fringes": 0.9}}
    path = heads_file(root, tmp_path, **limits)

    def change(line: dict[str, Any]) -> None:
        line["deformation"] = 0.1 + 0.1 * line["deformation"]  # 0.1 or 0.2
        line["quality"] |= {"image_artifacts": 0.4, "orbital_fringes": 0.5}

    texts, _ = heads_captions(changed(path, change), rows, [0, 1, 2, 3])
    told = [captions.parse(text) for text in texts]
    assert [bool(facts.patterns) for facts in told] == deforming
    for facts in told:
        assert ("image_artifacts",) not in facts.scene
        assert ("orbital_fringes",) in facts.scene


def test_heads_without_masks_or_deformation_are_refused(root: Path, tmp_path: Path) -> None:
    rows = load(root / "dataset", "test")
    path = heads_file(root, tmp_path)
    for name in ("mask", "deformation"):
        with pytest.raises(HephError, match="no deformation or no masks"):
            heads_captions(changed(path, lambda line, n=name: line.pop(n)), rows, [0, 1, 2, 3])
    with pytest.raises(HephError, match=r"no\.jsonl: no such file"):
        heads_captions(tmp_path / "no.jsonl", rows, [0])


# --- errors ---------------------------------------------------------------------------------------


def test_what_is_wrong_is_told_in_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = true_lines(root)
    half = [line | {"fact_confidence": []} for line in lines[:1]] + lines[1:]
    good = write(tmp_path / "good.jsonl", lines)

    def file(name: str, lines: list[Any]) -> list[str]:
        return ["--predictions", str(write(tmp_path / f"{name}.jsonl", lines))]

    cases = [
        (file("few", lines[1:]), "few.jsonl: 1 of 4 images missing"),
        (file("twice", [*lines, lines[0]]), "twice.jsonl:5: unique_id"),
        (file("list", [line | {"caption": ["a"]} for line in lines]), "list.jsonl:1: caption"),
        (file("half", half), "half.jsonl: fact_confidence in 1 of 4 lines"),
        (
            file("told", [line | {"fact_confidence": [[["corrupted"], 1]]} for line in lines]),
            "told.jsonl:1: fact_confidence",
        ),
        (["--predictions", str(tmp_path / "no.jsonl")], "no.jsonl: no such file"),
        (["--predictions", str(good), "--heads", str(good)], "good.jsonl:1: caption"),
        (["--predictions", str(good), "--write-predictions", "x"], "use it with --model"),
        (["--predictions", str(good), "--beams", "2"], "--beams: no text is searched for"),
        (["--predictions", str(good), "--samples", "2"], "--samples: no text is drawn"),
        (["--model", str(root / "model" / "encoder")], "a saved captioner"),
    ]
    for arguments, says in cases:
        capsys.readouterr()
        assert run(root, *arguments) == 1, says
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert says in error
    assert not list(tmp_path.glob("*.results.json"))


def test_a_file_too_deep_to_be_read_is_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    assert run(root, "--predictions", str(tmp_path / "deep.jsonl")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "deep.jsonl:1" in error


def test_a_broken_captioner_is_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captioner = Captioner.from_pretrained(root / "model")
    captioner.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer" / "tokenizer.json").unlink()
    assert run(root, "--model", str(tmp_path / "model")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no tokenizer.json here" in error


def test_without_a_training_split_the_constant_is_of_the_split_itself(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "dataset", tmp_path / "dataset")
    for path in (tmp_path / "dataset" / "data").glob("train*"):
        path.unlink()
    card = tmp_path / "dataset" / "README.md"
    kept = re.sub(r" *- split: train\n *path: .*\n", "", card.read_text())
    card.write_text(kept.replace("version: 0.1.", "version: 0.2."))  # `datasets` caches by it
    manifest = tmp_path / "dataset" / "heph_vl.json"
    told = json.loads(manifest.read_text())
    del told["splits"]["train"]
    sizes = {name: size for name, size in told["files"].items() if "train" not in name}
    told["files"] = sizes | {"README.md": card.stat().st_size}
    manifest.write_text(json.dumps(told))
    path = write(tmp_path / "mine.jsonl", true_lines(root))
    words = ["--predictions", str(path), "--draws", "20"]
    for dataset, source in ((tmp_path / "dataset", "test"), (root / "dataset", "train")):
        out = tmp_path / f"{source}.json"
        assert main(["--data", str(dataset), *words, "--out", str(out)]) == 0
        results = json.loads(out.read_text())
        assert results["constant_from"] == source
        rows = load(root / "dataset", source)
        assert results["commonest"]["constant"] == commonest(rows["caption"])
