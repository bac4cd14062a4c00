"""The command line: exit codes, one-line errors, JSON alone on stdout, examples that parse."""

import json
import os
import subprocess
import sys

import pytest

from heph_vl import cli
from heph_vl.data import splits
from heph_vl.models.text import train_tokenizer
from tests import tiny_retriever
from tests.data.fake_archive import write_fake_archive

COMMANDS = (
    "download",
    "inspect",
    "simulate",
    "simulate-patches",
    "dataset",
    "index",
    "search",
    "detect",
    "correct",
    "caption",
    "generate",
    "series",
    "watch",
    "app",
    "share",
)


def call(capsys, *words):
    """Exit code, stdout and stderr of one command."""
    code = cli.run([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_import_is_quick_and_without_torch():
    script = (
        "import sys, heph_vl, heph_vl.cli; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'datasets', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_help_and_usage_errors_do_not_wait_for_torch():
    words = [[command, "--help"] for command in COMMANDS]
    words += [["simulate", "x", "--deforming"], ["search", "x"]]
    words += [["dataset", "x", "y", "--official", "--fold", "1"]]
    script = (
        f"import sys; from heph_vl import cli; print([cli.run(w) for w in {words}][-3:]); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'datasets', 'numpy')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[2, 2, 2]"


def test_commands_are_listed_in_order(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    listed = out.partition("Commands")[2]
    first_words = [line.strip("│ ").partition(" ")[0] for line in listed.splitlines()]
    assert [word for word in first_words if word in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(capsys, command):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"heph-vl {command}" in out
    assert "Example" in out


@pytest.mark.parametrize(
    "words",
    [
        ("frob",),
        ("inspect",),
        ("simulate", "x", "-n", "many"),
        ("simulate", "x", "--stratified"),
        ("simulate", "x", "--split", "train"),
        ("simulate", "x", "--deforming"),
        ("simulate", "x", "--annotations", "a.zip", "--split", "all"),
        ("simulate", "x", "--annotations", "a.zip", "--frames", "3"),
        ("simulate", "x", "--annotations", "a.zip", "--size", "300"),
        ("search", "x"),
        ("search", "x", "mogi", "--data", "y"),
        ("dataset", "a"),
    ],
)
def test_wrong_usage_is_2(capsys, words):
    code, out, err = call(capsys, *words)
    assert code == 2
    assert out == ""
    assert "Error" in err


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "/missing/annotations.tar.gz"),
        ("dataset", "/missing", "out"),
        ("index", "/missing", "out", "--model", "/missing"),
        ("search", "/missing", "mogi"),
        ("simulate", "out", "-n", "0"),
        ("simulate", "out", "--frames", "0"),
        ("simulate", "out", "--dem", "/missing.hgt"),
        ("simulate", "out", "--annotations", "/missing.zip"),
    ],
)
def test_errors_are_one_line(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *words)
    assert code == 1
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_from_archive_to_answer(capsys, tmp_path):
    records = write_fake_archive(tmp_path / "archive", n=8, size=96)
    tokenizer = train_tokenizer([r["caption"] for r in records], tmp_path / "tokenizer", 320)
    tiny_retriever.make(tokenizer, text=tiny_retriever.LONG_TEXT).save_pretrained(
        tmp_path / "model"
    )

    code, out, _ = call(capsys, "inspect", tmp_path / "archive", "--json")
    assert code == 0
    assert json.loads(out)["records"] == 8

    code, out, err = call(capsys, "dataset", tmp_path / "archive", tmp_path / "dataset", "--json")
    assert code == 0, err
    splits = json.loads(out)["splits"]
    assert sum(split["rows"] for split in splits.values()) == 8

    code, out, err = call(
        capsys, "index", tmp_path / "dataset", tmp_path / "index", "--model", tmp_path / "model",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["images"] == 8

    code, out, err = call(
        capsys, "search", tmp_path / "index", "sill on the left", "-k", 3, "--json",
        "--sheet", tmp_path / "sheet.png",
    )  # fmt: skip
    assert code == 0, err
    hits = json.loads(out)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert set(hits[0]) == {
        "rank", "score", "unique_id", "frame_id", "primary_date", "secondary_date", "caption",
        "image",
    }  # fmt: skip
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")

    code, out, _ = call(capsys, "search", tmp_path / "index", "sill on the left")
    assert code == 0
    assert "score" in out

    code, out, err = call(
        capsys, "search", tmp_path / "index", "sill", "-k", 2, "--json",
        "--heatmap", tmp_path / "heat.png",
    )  # fmt: skip
    assert code == 0, err
    assert all(0 <= x < 96 for hit in json.loads(out) for x in hit["peak"])
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")

    code, out, err = call(
        capsys, "search", tmp_path / "index", "sill", "--where", "frame_id = 'nowhere'", "--json",
        "--sheet", tmp_path / "none.png",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out) == []
    assert "no results" in err
    assert not (tmp_path / "none.png").exists()

    for where, word in [("volcano = 'Etna'", "volcano"), ("frame_id = '1' OR", "character 18")]:
        code, out, err = call(capsys, "search", tmp_path / "index", "sill", "--where", where)
        assert code == 1
        assert word in err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees the full device")
def test_a_full_disk_is_one_line(capsys, tmp_path):
    write_fake_archive(tmp_path / "archive", n=2, size=96)
    (tmp_path / "readonly").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", tmp_path / "readonly"],
                   check=False, capture_output=True)  # fmt: skip
    try:
        if not os.path.ismount(tmp_path / "readonly"):
            pytest.skip("no right to mount a small file system")
        code, _, err = call(capsys, "dataset", tmp_path / "archive", tmp_path / "readonly" / "out")
        assert code == 1
        assert len(err.strip().splitlines()) == 1
        assert "space" in err
        assert not (tmp_path / "readonly" / "out" / "README.md").exists()
    finally:
        subprocess.run(["umount", tmp_path / "readonly"], check=False, capture_output=True)


def test_simulate_a_twin_of_records(capsys, tmp_path):
    write_fake_archive(tmp_path / "fake", n=3, size=240, frames=("106A_09090_000404",))
    records = tmp_path / "fake" / "annotations"
    (records / "9999.json").write_text("{}")
    out = tmp_path / "twin"
    words = ("simulate", out, "--annotations", records, "-n", 2, "--workers", 1, "--json")
    code, stdout, _ = call(capsys, *words)
    assert code == 0
    report = json.loads(stdout)
    assert report["written"] == report["total"] == 2
    assert set(report["fidelity"]) == {"effects", "events", "triangles", "open"}
    assert any("9999.json" in problem for problem in report["problems"])
    code, stdout, _ = call(capsys, *words)
    assert json.loads(stdout)["written"] == 0
    code, _, err = call(capsys, "simulate", out, "-n", 2)
    assert code == 1
    assert "use the same settings" in err


def test_simulate_a_twin_of_one_split_and_of_deformation(capsys, tmp_path):
    frames = ("106A_09090_000404", "124D_05291_081406", "022D_04826_121209")
    write_fake_archive(tmp_path / "fake", n=6, size=240, frames=frames)
    assert [splits.grouped_split(name) for name in frames] == ["train", "test", "train"]
    records = ("--annotations", tmp_path / "fake" / "annotations", "--workers", 1, "--json")
    out = tmp_path / "twin"
    code, stdout, err = call(capsys, "simulate", out, *records, "--split", "test", "--deforming")
    assert code == 0, err
    assert json.loads(stdout)["total"] == json.loads(stdout)["written"] == 1
    (written,) = (out / "annotations").iterdir()
    record = json.loads(written.read_text())
    assert (record["uniqueID"], record["frameID"]) == (2, frames[1])
    assert record["label"] == ["Deformation"]

    code, _, err = call(capsys, "simulate", tmp_path / "none", *records, "--split", "val")
    assert code == 1
    assert "no record in val" in err
    assert not (tmp_path / "none").exists()


def test_simulated_patches_are_a_dataset(capsys, tmp_path):
    words = ["simulate-patches", tmp_path / "set", "-n", 2, "--pairs-per-place", 2, "--workers", 1]
    code, out, _ = call(capsys, *words, "--json")
    report = json.loads(out)
    assert (code, report["config"], report["splits"]["train"]["rows"]) == (0, "patches", 2)
    code, _, err = call(capsys, "simulate-patches", tmp_path / "x", "--pairs-per-place", 99)
    assert code == 1
    assert "99 pairs of 8 dates; use 1 to 28" in err
