"""The report's command line: kinds told apart, numbers beside baselines, errors in one line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval import report
from eval.report_files import read_results
from tests.conftest import REPO
from tests.test_page import Reader

WEIGHTS = REPO / "weights"
SCORED = ("heads", "retriever", "captioner", "generator")


def stored(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((WEIGHTS / name / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of all reference weights."""
    out = tmp_path_factory.mktemp("page") / "page.html"
    folders = [str(WEIGHTS / name) for name in SCORED]
    assert report.main([*folders, "--out", str(out)]) == 0
    return out.read_text()


def cells(markup: str) -> list[list[str]]:
    """The texts of the rows of all tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", markup, re.S)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in rows]


def test_retrieval_stands_beside_its_baselines(reference: str) -> None:
    metric = stored("retriever")["suites"]["captions"]["metrics"]["mAP"]
    low, high = metric["model"]["interval"]
    wanted = [f"{metric['model']['value']:.3f}", f"{low:.3f} to {high:.3f}"]
    wanted += [f"{metric[k]:.3f}" for k in ("chance", "shuffled", "heads_facts", "true_facts")]
    assert ["captions (73)", *wanted] in cells(reference)


def test_labels_stand_beside_the_majority(reference: str) -> None:
    one = stored("heads")["tasks"]["deformation"]["classes"]["deformation"]["metrics"]["f1"]
    (low, high), gain = one["model"]["interval"], one["minus_majority"]
    row = ["F1", f"{one['model']['value']:.3f}", f"{low:.3f} to {high:.3f}"]
    row += [f"{one['majority']:.3f}", f"{gain['value']:+.3f}"]
    row += [" to ".join(f"{edge:+.3f}" for edge in gain["interval"])]
    assert row in cells(reference)
    dyke = stored("heads")["tasks"]["activity_types"]["classes"]["dyke"]
    ap = dyke["metrics"]["average_precision"]
    found = next(row for row in cells(reference) if row[0] == "dyke" and len(row) == 11)
    assert found[1:3] == [str(dyke["support"]), str(dyke["predicted"])]
    assert found[7] == f"{ap['model']['value']:.3f}"
    assert found[9] == f"{ap['majority']:.3f}"


def test_captions_stand_beside_constant_neighbour_and_heads(reference: str) -> None:
    entry = stored("captioner")["sides"]["all"]["metrics"]["deformation_f1"]
    names = ("constant", "neighbour", "heads", "true facts")
    values = [f"{entry['systems'][name]['value']:.3f}" for name in names]
    found = next(row for row in cells(reference) if row[0] == "deformation F1")
    assert found[1] == f"{entry['systems']['model']['value']:.3f}"
    assert found[3:7] == values
    assert found[7] == f"{entry['minus_heads']['value']:+.3f}"


def test_drawn_pictures_stand_between_floor_and_ceiling(reference: str) -> None:
    realism = stored("generator")["realism"]
    shown = {row[0]: row[1] for row in cells(reference) if len(row) == 9}
    for name in ("scrambled", "generated, 8 steps", "simulator"):
        kid = realism[name]["kid_normalised"]
        assert shown[name] == f"{kid['value']:.2f} ± {kid['standard_error']:.2f}"


def test_where_results_are_from_is_told(reference: str) -> None:
    heads = stored("heads")
    text = Reader(reference.removeprefix("<!doctype html>")).text
    for value in (heads["model_id"], heads["split"]["sha256"], heads["commit"], heads["created"]):
        assert value in text
    assert "299 simulated" in text


def test_an_older_file_is_shown_with_what_it_lacks(tmp_path: Path) -> None:
    values = stored("heads")
    for task in values["tasks"].values():
        task.pop("confusion", None)
        for one in task.get("classes", {}).values():
            one.pop("curve", None)
            one.pop("reliability", None)
    (tmp_path / "old.json").write_text(json.dumps(values))
    assert report.main([str(tmp_path / "old.json"), "--out", str(tmp_path / "a.html")]) == 0
    markup = (tmp_path / "a.html").read_text()
    assert "old holds no points of precision-recall curves, no bins of reliability" in markup
    assert "<svg" not in markup


def test_two_models_stand_side_by_side_and_other_images_are_told(tmp_path: Path) -> None:
    mine = stored("retriever")
    mine["suites"]["captions"]["metrics"]["mAP"]["model"]["value"] = 0.987
    mine["split"]["sha256"] = "other"
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    out = tmp_path / "a.html"
    both = [str(WEIGHTS / "retriever"), str(tmp_path / "mine.json")]
    assert report.main([*both, "--out", str(out)]) == 0
    markup = out.read_text()
    row = next(row for row in cells(markup) if row and row[0] == "captions (73)")
    value = stored("retriever")["suites"]["captions"]["metrics"]["mAP"]["model"]["value"]
    assert (row[1], row[3]) == (f"{value:.3f}", "0.987")
    assert "Not the same images" in markup
    assert "Not the same images" not in reference_of(tmp_path, both[:1])


def reference_of(folder: Path, paths: list[str]) -> str:
    assert report.main([*paths, "--out", str(folder / "b.html")]) == 0
    return (folder / "b.html").read_text()


def test_names_are_as_long_as_tells_them_apart(tmp_path: Path) -> None:
    names = ["a/heads", "b/heads", "b/other"]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(WEIGHTS / "heads" / "results.json", tmp_path / name)
    assert [r.name for r in read_results([tmp_path / n for n in names[1:]])] == ["heads", "other"]
    assert [r.name for r in read_results([tmp_path / n for n in names])] == names


def test_markdown_says_the_same_with_figures_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    assert report.main([str(WEIGHTS / "retriever"), "--out", str(out)]) == 0
    text = out.read_text()
    metric = stored("retriever")["suites"]["captions"]["metrics"]["mAP"]
    low, high = metric["model"]["interval"]
    row = [f"{metric['model']['value']:.3f}", f"{low:.3f} to {high:.3f}"]
    row += [f"{metric[k]:.3f}" for k in ("chance", "shuffled", "heads_facts", "true_facts")]
    assert f"| captions (73) | {' | '.join(row)} |" in text
    (figure,) = re.findall(r"\]\((page_figures/[^)]+\.svg)\)", text)
    drawn = (tmp_path / figure).read_text()
    assert drawn.startswith("<?xml")
    assert "currentColor" not in drawn
    assert ">mean average precision<" in drawn
    assert not re.search(r"<(p|div|table|svg|figure)\b", text)


NASTY = '<img src=x> & "quoted" | *bold*'


@pytest.mark.parametrize("ending", ["html", "md"])
def test_all_text_of_files_is_escaped(tmp_path: Path, ending: str) -> None:
    values = stored("captioner")
    values["predictions"] = values["commonest"]["model"] = NASTY
    (tmp_path / "mine.json").write_text(json.dumps(values))
    out = tmp_path / f"page.{ending}"
    assert report.main([str(tmp_path / "mine.json"), "--title", NASTY, "--out", str(out)]) == 0
    text = out.read_text()
    if ending == "html":
        reader = Reader(text.removeprefix("<!doctype html>"))
        assert reader.text.count(NASTY) == 4  # title twice, model, commonest
        assert "img" not in reader.tags
    else:
        assert "<img" not in text.replace(r"\<", "")
        assert text.count(r"\<img src=x\> & \"quoted\" \| \*bold\*".replace(r"\"", '"')) == 3


BROKEN = {
    "not JSON": "{",
    "it holds a list": "[1]",
    "results of an unknown kind, 'poetry'": '{"task": "poetry"}',
    "results of no known kind: a": '{"a": 1}',
    "retrieval without 'suites'": '{"task": "retrieval", "split": {}}',
    "not as evaluation writes it": '{"task": "labels", "split": {}, "tasks": {"quality": 3}}',
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_or_unknown_file_is_one_line(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    path.write_text(BROKEN[what])
    good, out = str(WEIGHTS / "generator"), tmp_path / "page.html"
    assert report.main([good, str(path), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(path) in error
    assert what in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["{weights}/nowhere.json", "--out", "{out}"], "No such file"),
        (["{weights}", "--out", "{out}"], "no results.json in it"),
        (["{weights}/heads", "{weights}/heads/results.json", "--out", "{out}"], "given twice"),
        (["{weights}/heads"], "--out"),
        (["--out", "{out}"], "nothing to show"),
        (["{weights}/heads", "--out", "{out}.pdf"], "neither .html nor .md"),
        (["{weights}/heads", "--index", "x", "--out", "{out}"], "--query"),
        (["--samples", "{weights}", "--out", "{out}"], "not drawn by heph-vl generate"),
        (["--alerts", "{weights}", "--out", "{out}"], "alerts.jsonl"),
        (["--demo", "{weights}", "{weights}/heads"], "give either"),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [a.format(weights=WEIGHTS, out=tmp_path / "page.html") for a in arguments]
    assert report.main(filled) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert what in error
    assert list(tmp_path.iterdir()) == []
