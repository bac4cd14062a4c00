"""The command line on small sets: tables, files, and one line for what cannot be compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from eval import realism
from eval.realism_sets import CROP, TILE, baselines, measure_set, read_set
from heph_vl.data.phase import colour, wrap
from heph_vl.data.preview import posterise
from tests.data.fake_archive import write_fake_archive

SIDE = 224


def write_patches(folder: Path, seed: int, fringes: float = 3.0, number: int = 6) -> Path:
    """Patches of land with fringes beside grain and no data, each of its own record; an index."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    index = []
    for i in range(number):
        smooth = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 20)
        phase = fringes * 2 * smooth / smooth.std() + rng.uniform(0, 6)
        phase[:, :90] = rng.uniform(0, 6.28, (SIDE, 90))
        valid = np.ones((SIDE, SIDE), dtype=bool)
        valid[: int(rng.integers(20, 40)), :] = False
        rgb = posterise(colour(wrap(phase), valid))
        rgb[~valid] = 255
        name = f"{100 * seed + i}_1"
        Image.fromarray(rgb).save(folder / f"{name}.png")
        kind = TILE if i % 2 else CROP
        index.append({"patch": name, "kind": kind, "frameID": f"frame{i % 2}"})
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sets")
    write_fake_archive(root / "archive", n=10, size=240)
    return {
        "real": write_patches(root / "real", 1),
        "alike": write_patches(root / "alike", 2),
        "dense": write_patches(root / "dense", 3, fringes=12),
        "archive": root / "archive",
    }


def command(folders: dict[str, Path], simulated: str, *more: str) -> list[str]:
    sets = ["--real", str(folders["real"]), "--simulated", str(folders[simulated])]
    return [*sets, "--draws", "20", *more]


def test_json_names_what_differs_and_the_files_are_written(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    arguments = command(folders, "alike", "--set", f"dense={folders['dense']}", "--out", str(out))
    assert realism.main([*arguments, "--json"]) == 0
    printed = capsys.readouterr().out
    results = json.loads(printed)
    assert json.loads((out / "results.json").read_text()) == results
    found = results["groups"]["all"]["distances"]["ground_step_rad"]
    assert list(found) == ["real", "simulated", "dense", "scrambled", "random"]
    above = {name: found[name]["value"] - found["real"]["value"] for name in ("simulated", "dense")}
    assert above["dense"] > 4 * found["dense"]["standard_error"] > 0
    assert abs(above["simulated"]) < 2 * found["simulated"]["standard_error"]
    assert results["sets"]["real"] == {
        "path": str(folders["real"]),
        "patches": 6,
        "records": 6,
        "frames": 2,
        "left_out": [],
    }
    # Three patches of each kind are too few.
    assert list(results["groups"]) == ["all"]
    assert realism.main([*arguments, "--json"]) == 0
    assert capsys.readouterr().out == printed


def test_the_sheets_show_as_many_real_as_simulated_patches_and_the_key_fits(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    assert realism.main(command(folders, "alike", "--out", str(tmp_path))) == 0
    key: dict[str, Any] = json.loads((tmp_path / "blind_key.json").read_text())
    assert sorted(map(int, key)) == list(range(1, 13))
    assert [entry["set"] for entry in key.values()].count("real") == 6
    page = np.asarray(Image.open(tmp_path / "blind.png"))
    for number, entry in key.items():
        folder = folders["real" if entry["set"] == "real" else "alike"]
        x, y = ((int(number) - 1) % 6) * (SIDE + 8) + 4, (int(number) - 1) // 6 * (SIDE + 24) + 20
        shown = page[y : y + SIDE, x : x + SIDE]
        assert np.array_equal(shown, np.asarray(Image.open(folder / entry["patch"])))
    labelled = Image.open(tmp_path / "labelled.png")
    assert labelled.size == (4 * (SIDE + 8), 3 * (SIDE + 24))


def test_an_archive_is_cut_into_crops_and_whole_tiles(folders: dict[str, Path]) -> None:
    found = read_set(folders["archive"])
    kinds = [patch.kind for patch in found.patches]
    # Five deforming records, one of them with two events; five others with one whole tile each.
    assert (kinds.count(CROP), kinds.count(TILE)) == (6, 5)
    assert len({patch.record for patch in found.patches}) == 10
    assert all(patch.frame for patch in found.patches)
    # The archive marks no data by transparency, published patches by white.
    pixels = np.concatenate([np.asarray(p.image).reshape(-1, 3) for p in found.patches])
    assert 0.005 < (pixels == 255).all(axis=1).mean() < 0.6


def test_markdown_has_a_row_for_each_measure_with_its_error(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(folders, "archive", "--out", str(tmp_path), "--markdown")
    assert realism.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("distances, all (real 6 of 6 units, simulated 11 of 10 units")
    assert lines[2] == "|  | floor | simulated | scrambled | random |"
    row = next(line for line in lines if line.startswith("| colours tv |"))
    assert row.count("±") == 4
    measures = realism.realism
    rows = [line for line in lines if line.startswith("| ") and "---" not in line]
    assert len(rows) == len(measures.DISTANCES) + len(measures.VALUES) + 2


def test_grey_pictures_are_left_out_and_listed(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = write_patches(tmp_path / "some", 4)
    Image.new("L", (SIDE, SIDE), 90).save(folder / "999_1.png")
    (folder / "998_1.png").write_bytes(b"no picture")
    pictures = read_set(folder)
    measure_set(pictures, folder)
    assert len(pictures.patches) == 6
    assert sorted(text.split(":")[0].split("/")[-1] for text in pictures.left_out) == [
        "998_1.png",
        "999_1.png",
    ]
    assert "grey" in pictures.left_out[1]


def _few(folder: Path) -> None:
    for i in (3, 4, 5):
        next(folder.glob(f"*0{i}_1.png")).unlink()


def _small(folder: Path) -> None:
    Image.new("RGB", (100, 100)).save(folder / "7.png")


def _one_record(folder: Path) -> None:
    for i, file in enumerate(sorted(folder.glob("*.png"))):
        file.rename(folder / f"5_{i}.png")


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _bad_index(folder: Path) -> None:
    (folder / "index.json").write_text("[1]")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_few, "3 usable patches, 0 left out; give at least 4"),
        (_small, "picture of 100 x 100 px; cut it to 224 x 224 px"),
        (_one_record, "all patches are of record 5"),
        (_empty, "empty folder"),
        (_bad_index, "no index of patches"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Any,
    told: str,
) -> None:
    bad = write_patches(tmp_path / "bad", 4)
    spoil(bad)
    arguments = ["--real", str(bad), "--simulated", str(folders["real"]), "--out", str(tmp_path)]
    assert realism.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert "bad" in error


@pytest.mark.parametrize("text", ["nothing", "=x", "x=", "real=x"])
def test_a_set_needs_a_new_name(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert realism.main(command(folders, "alike", "--set", text)) == 1
    assert "write --set NAME=FOLDER" in capsys.readouterr().err


@pytest.mark.real_data
def test_real_patches_lie_far_from_random_phase(shared: Path) -> None:
    path = shared / "data" / "hephaestus" / "patches" / "images"
    pictures = read_set(path)
    real = measure_set(pictures, path)
    assert [p.kind for p in pictures.patches].count(CROP) == 15
    assert len(set(real.units.tolist())) == 18
    generator = torch.Generator().manual_seed(0)
    others = baselines(pictures, real, generator)
    found = realism.evaluate(real, others, 30, generator)["all"]
    colours = found["distances"]["colours_tv"]
    assert colours["real"].value == pytest.approx(0.10, abs=0.03)
    assert colours["random"].value > 0.5
    assert found["values"]["distinct_colours"]["real"].value == pytest.approx(94, abs=2)
    spectrum = found["distances"]["spectrum_db"]
    assert spectrum["scrambled"].value < 1.5 < 9 < spectrum["random"].value
