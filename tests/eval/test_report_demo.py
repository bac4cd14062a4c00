"""The demo's page: every part that is there, a line for every part that is not."""

import contextlib
import io
import json
import re
import shutil
from datetime import date
from pathlib import Path

import pytest

from eval import evaluate, report
from eval.report_demo import choose_queries, read_demo
from heph_vl import cli
from heph_vl.alerts import Sighting, find_alerts
from heph_vl.data import captions
from heph_vl.data.parquet import write_parquet
from heph_vl.generate import Request, write_archive
from heph_vl.models.text import train_tokenizer
from heph_vl.search import Searcher, build_index
from heph_vl.watch import update_alerts
from tests import tiny_captioner, tiny_generator, tiny_heads, tiny_retriever
from tests.conftest import REPO
from tests.data.fake_archive import FRAMES, write_fake_archive

HELD_OUT = FRAMES[2]
SAID = (
    "A sill-type deformation pattern of low intensity can be detected on the left side.",
    "No deformation activity can be detected. Turbulent mixing.",
)
PROMPT = "A sill-type deformation <left>"


def write_run(folder: Path) -> None:
    """What a training run leaves beside its model; the last line of its log was cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"step": s, "loss": 4.2 - s, "val_mAP_captions": 0.1 * s} for s in (1, 2)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 3, "lo')
    (folder / "config.yaml").write_text("run:\n  name: <tiny>\n")
    environment = {"commit": "abc123", "dirty": True, "versions": {"torch": "2.11"}, "seed": 0}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "results.json").write_text(json.dumps({"split": "val", "val_mAP_captions": 0.2}))


def printed(*words: object) -> str:
    """What a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli.run([*map(str, words)]) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what searching needs, and one training run."""
    root = tmp_path_factory.mktemp("demo")
    records = write_fake_archive(root / "archive", n=20, size=64)
    (root / "archive" / "simulation.json").write_text("{}")
    write_parquet(root / "archive", root / "dataset")
    tokenizer = train_tokenizer([r["caption"] for r in records], root / "tokenizer", 320)
    model = root / "retriever" / "tiny" / "model"
    tiny_retriever.make(tokenizer, text=tiny_retriever.LONG_TEXT).save_pretrained(model)
    speaker = tiny_captioner.make(tokenizer, context_length=96)
    tiny_captioner.teach(speaker, SAID).save_pretrained(root / "words")
    write_run(model.parent)
    build_index(root / "dataset", root / "index", model)
    arguments = ["--data", str(root / "dataset"), "--model", str(model), "--draws", "100"]
    assert evaluate.main([*arguments, "--out", str(root / "results.json")]) == 0
    return root


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with every other part, each written by what writes it."""
    root = tmp_path_factory.mktemp("whole") / "demo"
    shutil.copytree(small, root)
    images = sorted((root / "archive" / HELD_OUT).rglob("*.geo.diff.png"))[:2]
    tiny_heads.make().save_pretrained(root / "sight")
    told = printed("detect", *images, "--model", root / "sight", "--out", root / "detected",
                   "--json")  # fmt: skip
    (root / "detected.json").write_text(told)
    told = printed("caption", *images, "--model", root / "words", "--samples", 2,
                   "--explain", root / "explained", "--json")  # fmt: skip
    (root / "captions.json").write_text(told)
    write_archive(root / "drawn", tiny_generator.make(), Request(PROMPT, 2, 8), model="tiny")
    told = printed("series", root / "archive", "--frame", HELD_OUT, "--plot", root / "series.png",
                   "--json")  # fmt: skip
    (root / "series.json").write_text(told)
    ring = ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0), (0.0, 9.0))
    dates = [(date(2018, 1, d), date(2018, 1, d + 6)) for d in (1, 13)]
    seen = [Sighting(HELD_OUT, *d, "p", "sill", 0.9, ring, False) for d in dates]
    (root / "alerts").mkdir()
    update_alerts(root / "alerts", find_alerts(seen), {})
    for task in ("heads", "captioner", "generator"):
        write_run(root / task / "short")
    (root / "results").mkdir()
    for name, model in (("labels", "heads"), ("captions", "captioner")):
        scored = REPO / "weights" / model / "results.json"
        shutil.copy(scored, root / "results" / f"{name}.json")
    return root


def page_of(folder: Path) -> str:
    assert report.main(["--demo", str(folder)]) == 0
    return (folder / "index.html").read_text()


def section(markup: str, title: str) -> str:
    found = re.search(rf'<h2 id="s\d+">{re.escape(title)}</h2>(.*?)(<h2|</body>)', markup, re.S)
    assert found is not None, title
    return found[1]


@pytest.fixture(scope="module")
def full_page(whole: Path) -> str:
    return page_of(whole)


def test_the_whole_demo_misses_nothing(full_page: str) -> None:
    titles = re.findall(r'<h2 id="s\d+">([^<]+)</h2>', full_page)
    assert titles == [
        *("The archive", "Search by text", "Deformation detected", "Described in words"),
        *("Drawn from words", "Through time", "Measured: retrieval", "Measured: labels and masks"),
        *("Measured: captions", "Training", "Where this is from"),
    ]
    assert "Not here:" not in full_page
    assert "No real interferogram is in here" in full_page
    assert not re.search(r" (src|href)=\"(?!data:|#)", full_page)
    assert len(full_page) < 8_000_000


def test_detections_and_captions_stand_beside_the_truth(whole: Path, full_page: str) -> None:
    detected = section(full_page, "Deformation detected")
    entries = json.loads((whole / "detected.json").read_text())
    rows = {(r["primary_date"], r["frame_id"]): r for r in read_demo(whole).rows}
    right = 0
    for entry in entries:
        row = rows[entry["primary_date"], entry["frame_id"]]
        assert f"({entry['deformation']['probability']:.2f})" in detected
        right += entry["deformation"]["present"] == bool(row["activity_types"])
    assert f"told rightly in {right} of 2." in detected
    assert detected.count("<img") == 4
    assert detected.count('class="badge"') == right
    described = section(full_page, "Described in words")
    said = json.loads((whole / "captions.json").read_text())
    assert all(entry["facts"] for entry in said)
    for entry in said:
        assert f"<td>{entry['caption']}</td>" in described
        assert all(f"<td>{p:.2f}</td>" in described for p in entry["fact_confidence"])
    assert "<td>truth</td>" in described
    assert described.count("<img") == 2


def test_drawings_series_and_alerts_are_shown(full_page: str) -> None:
    drawn = section(full_page, "Drawn from words")
    assert "A sill-type deformation &lt;left&gt;" in drawn
    assert drawn.count("<img") == 4  # phase and coherence of two
    time = section(full_page, "Through time")
    assert time.count("<img") == 1
    assert "<td>2018-01-19</td>" in time  # the alert: both pairs are complete
    assert "1 alert:" in time


def test_a_demo_of_today_is_a_page_that_names_what_it_lacks(small: Path) -> None:
    markup = page_of(small)
    results = json.loads((small / "results.json").read_text())
    mean = results["suites"]["captions"]["metrics"]["mAP"]
    assert f"mean average precision of captions {mean['model']['value']:.3f}" in markup
    assert "Too few groups of volcanoes for an interval." in markup
    assert "abc123 (changed)" in markup
    assert "name: &lt;tiny&gt;" in markup
    assert section(markup, "Training").count("<svg") == 2  # loss and validation
    lines = re.findall(r'class="missing">Not here: ([^<]+)</p>', markup)
    named = [str(Path(line.split(",")[0]).relative_to(small)) for line in lines]
    assert named == [
        *("detected.json", "captions.json", "drawn", "series.png", "series.json", "alerts"),
        *("results/labels.json", "results/captions.json"),
        *(f"{task}/*/results.json" for task in ("heads", "captioner", "generator")),
    ]
    # 12 samples; 3 queries with the 4 images of the test split, each with its heat map.
    assert markup.count("<img") == 12 + 3 * 4 * 2


def test_hits_are_held_out_and_marked_by_their_facts(small: Path) -> None:
    demo = read_demo(small)
    searched = section(page_of(small), "Search by text")
    facts = [captions.parse(demo.rows["caption"][i]) for i in demo.test]
    queries = choose_queries(demo)
    assert len(queries) == 3
    marked = 0
    for text in queries:
        matches = sum(captions.entails(image, captions.parse(text)) for image in facts)
        assert matches >= 1  # a question that the split can answer
        assert f"{matches} of 4 results match; of all 4 images {matches} do" in searched
        marked += matches
    assert searched.count('class="badge">match') == marked
    frames = {row["frame_id"] for row in demo.rows.select(demo.test)}
    assert set(re.findall(r"score -?[\d.]+   (\w+)", searched)) == frames


def test_a_demo_that_was_moved_finds_its_model(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "moved")
    meta = tmp_path / "moved" / "index" / "meta.json"
    gone = json.loads(meta.read_text()) | {"model": "/nowhere/retriever/tiny/model"}
    meta.write_text(json.dumps(gone))
    assert "score" in section(page_of(tmp_path / "moved"), "Search by text")


@pytest.mark.parametrize("name", ["detected.json", "captions.json", "series.json", "results.json"])
def test_a_broken_part_is_one_line(
    whole: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "demo")
    (tmp_path / "demo" / name).write_text('[{"image": 3}]')
    assert report.main(["--demo", str(tmp_path / "demo"), "--out", str(tmp_path / "a.html")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert name in error
    assert not (tmp_path / "a.html").exists()


def test_without_a_dataset_there_is_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--demo", str(tmp_path)]) == 1
    assert "dataset" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_searches_of_any_index_and_pictures_side_by_side(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    options = ["--index", str(small / "index"), "--query", "sill", "--query", "glorp, mogi"]
    options += ["--simulated", str(small / "archive"), "--real", str(tmp_path / "real")]
    write_fake_archive(tmp_path / "real", n=3, size=64)
    assert report.main([*options, "--out", str(out)]) == 0
    markup = out.read_text()
    best = Searcher(small / "index").search(text="sill", k=6)
    assert section(markup, "Search").count("<img") == 2 * 6 * 2
    assert f"1.  score {best.hits[0].score:.3f}" in markup
    assert "Not understood: glorp" in markup
    sides = section(markup, "Real and simulated")
    assert sides.index("Real: real") < sides.index("Simulated: archive")
    assert sides.count("<img") >= 3 + 8


def test_simulated_pictures_are_never_shown_as_real(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("archive", "dataset"):
        both = ["--real", str(small / folder), "--simulated", str(small / "archive")]
        assert report.main([*both, "--out", str(tmp_path / "a.html")]) == 1
        assert "simulated, not real" in capsys.readouterr().err
