"""Notebooks run from start to end in a fresh kernel and an empty folder, and produce what they say.

A cell is added at the end of each that prints some of its variables, so that values are tested and
not words. The committed ones hold their outputs: small, of no machine, without noise.
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
ALL = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
LARGEST = 600_000  # bytes
NOISE = re.compile(r"it/s\]|Traceback|Warning:|\x1b\[")  # progress bars, errors, colours
OF_A_MACHINE = re.compile(r"/(home|Users|root|tmp|work|var|opt|mnt|content)/|[A-Z]:\\\\")


def outputs(notebook: Any) -> list[Any]:
    """Of all code cells, in order."""
    return [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]


def texts(notebook: Any) -> list[str]:
    """What is printed or shown in words, tables included."""
    found = []
    for out in outputs(notebook):
        data = {"text/plain": out.text} if out.output_type == "stream" else out.get("data", {})
        found += [str(value) for kind, value in data.items() if kind.startswith("text/")]
    return found


def pictures(notebook: Any) -> list[bytes]:
    """PNG files of all outputs."""
    data = (out.get("data", {}) for out in outputs(notebook))
    return [base64.b64decode(one["image/png"]) for one in data if "image/png" in one]


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Runs a notebook; gives it and the values of an expression in its variables."""
    monkeypatch.delenv("HF_TOKEN", raising=False)  # nothing is sent from a test
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))

    def run(name: str, expression: str) -> tuple[Any, dict[str, Any]]:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        asked = f"import json\nprint(json.dumps({expression}, default=float))"
        notebook.cells.append(nbformat.v4.new_code_cell(asked))
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=600, resources=resources).execute()
        assert not list(folder.iterdir()), "it wrote beside itself"
        values = json.loads(notebook.cells.pop().outputs[-1].text)
        printed = [out for out in outputs(notebook) if out.output_type == "stream"]
        assert not [out.text for out in printed if out.name == "stderr"]
        return notebook, values

    return run


EXPLORED = """{
    "records": len(records), "source": source, "deforming": summary["deformation"],
    "kept": same, "distinct": len(distinct),
    "leaks": {s: splits.leakage(records, assigned[s])["train-test"] for s in schemes},
}"""


@pytest.mark.slow
def test_explore_simulated_annotations(executed, monkeypatch):
    monkeypatch.setenv("HEPH_VL_ANNOTATIONS", "")
    notebook, values = executed("01_explore_hephaestus", EXPLORED)
    assert values["records"] == 84
    assert "SIMULATED" in values["source"]
    assert any("SIMULATED" in text for text in texts(notebook))
    assert values["kept"] == values["distinct"] > 20
    assert values["leaks"]["grouped"]["volcano_groups"] == []
    assert len(pictures(notebook)) == 5


@pytest.mark.slow
@pytest.mark.real_data
def test_explore_hephaestus(executed, monkeypatch, shared):
    path = shared / "data" / "hephaestus" / "annotations.tar.gz"
    monkeypatch.setenv("HEPH_VL_ANNOTATIONS", str(path))
    notebook, values = executed("01_explore_hephaestus", EXPLORED)
    assert (values["records"], values["deforming"]) == (19_919, 1_819)
    assert "SIMULATED" not in values["source"]
    assert values["kept"] == values["distinct"] == 1_266
    leaks = values["leaks"]
    assert leaks["grouped"]["deformation_in_shared_groups"] == 0
    assert leaks["paper"]["deformation_in_shared_groups"] == pytest.approx(0.564, abs=0.001)
    assert any("commonest 1 cover 40.9% of the records" in text for text in texts(notebook))


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.real_data)])
def test_simulate(executed, monkeypatch, request, real):
    path = ""
    if real:
        path = request.getfixturevalue("shared") / "data" / "hephaestus" / "annotations.tar.gz"
    monkeypatch.setenv("HEPH_VL_ANNOTATIONS", str(path))
    notebook, values = executed(
        "02_simulate",
        """{
            "formula": expected, "found": found, "record": whose, "events": compared["events"],
            "open": {k: float(turned(a + b - c)[coherent].abs().max())
                     for k, (a, b, c) in (("clean", clean), ("seen", seen))},
        }""",
    )
    assert values["found"] == pytest.approx(values["formula"], rel=0.01)
    assert values["open"]["clean"] < 1e-4 < 0.1 < values["open"]["seen"]
    assert ("Hephaestus" in values["record"]) == real
    (event,) = values["events"]
    assert event["seen"]
    assert event["iou"] > 0.5
    assert len(pictures(notebook)) == 4


@pytest.mark.slow
def test_search_caption_detect(executed):
    notebook, values = executed(
        "03_search_caption_detect",
        """{
            "outcomes": outcomes, "told": list(told.values()),
            "deforming": sum(record.has_deformation for record in records),
            "confidence": [p for a in answers.values() for p in a.confidence.values()],
        }""",
    )
    outcomes = values["outcomes"]
    assert len(outcomes) == 27
    assert outcomes.count("found") + outcomes.count("FAILURE, missed") == values["deforming"] == 9
    assert outcomes.count("found") >= 3
    assert outcomes.count("quiet") >= 15
    searched = [text for text in texts(notebook) if "images have what was asked for" in text]
    assert [text.split(",")[0] for text in searched] == ["right", "right", "WRONG"]
    assert len(values["told"]) == 9
    assert all(0 <= share <= 1 for share in values["confidence"])
    assert any("FAILURE, missed" in text for text in texts(notebook))
    assert len(pictures(notebook)) == 5


@pytest.mark.slow
def test_generate(executed):
    notebook, values = executed(
        "04_generate",
        """{
            "phase": [float(phases[valid].min()), float(phases[valid].max())],
            "deforms": by_heads.deformation.tolist(), "asked": drawn.prompts,
            "table": table, "written": [one.caption for one in written], "notice": NOTICE,
        }""",
    )
    assert -3.1416 <= values["phase"][0] < -3 < 3 < values["phase"][1] <= 3.1416
    read = list(zip(values["asked"], values["deforms"], strict=True))
    moving = [share for text, share in read if "No deformation" not in text]
    still = [share for text, share in read if "No deformation" in text]
    assert (len(moving), len(still)) == (9, 6)
    assert sum(moving) / 9 > 0.2 > max(still)  # the heads see it where it was asked for
    assert {one["crops"] for one in values["table"].values()} == {"16"}
    assert values["table"]["generated"]["fact F1"] > 0.2
    assert len(values["written"]) == 6
    assert any(values["written"])
    assert len([text for text in texts(notebook) if values["notice"] in text]) >= 4
    assert len(pictures(notebook)) == 4


@pytest.mark.slow
def test_train_and_share(executed):
    notebook, values = executed(
        "05_train_and_share",
        """{
            "code": training.returncode, "steps": list(losses.index), "losses": losses.tolist(),
            "rows": rows, "same": bool(same), "card": card,
        }""",
    )
    assert values["code"] == 130  # stopped as by Ctrl-C
    assert values["steps"] == list(range(1, 13))
    assert all(0 < loss < 100 for loss in values["losses"])
    auroc = values["rows"]["AUROC of deformation"]
    assert set(auroc) == {"reference weights", "trained here", "majority class"}
    assert auroc["majority class"] == "0.50"
    assert values["same"]
    assert "| AUROC of deformation |" in values["card"]
    said = "\n".join(texts(notebook))
    assert "finished: False" in said
    assert "HF_TOKEN is not set: nothing was sent" in said
    assert "model.safetensors" in said


@pytest.mark.parametrize("name", ALL)
def test_committed_outputs(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    assert path.stat().st_size < LARGEST
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [cell for cell in code if "execution" in cell.metadata]  # when each was run
    assert {out.output_type for out in outputs(notebook)} <= {
        *("stream", "display_data", "execute_result")
    }
    assert not [out for out in outputs(notebook) if out.get("name") == "stderr"]
    for text in [*texts(notebook), *(cell.source for cell in notebook.cells)]:
        assert not OF_A_MACHINE.search(text)
        assert not NOISE.search(text)
    assert pictures(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            linked = re.findall(r"\]\((\.\./[^)#]+)\)", cell.source)
            assert all((NOTEBOOKS / link).exists() for link in linked)
