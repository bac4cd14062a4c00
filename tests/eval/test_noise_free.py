"""The oracle's archive: the wrapped displacement and nothing else, with the same records."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from eval.noise_free import main, picture, redraw
from heph_vl.data import palettes, phase
from heph_vl.data.annotations import parse_annotation
from heph_vl.data.archive import load_pair, scan_archive
from heph_vl.data.parquet import load, write_parquet
from heph_vl.errors import HephError
from heph_vl.simulate.corpus import simulate, simulate_twin
from tests.data.fake_archive import record

FRINGE_M = 0.05546576 / 2  # FACTS: Sentinel-1's wavelength; half of it is one fringe


# A Mogi of medium intensity, and no deformation; a small frame.
FRAME, PRIMARY = "106A_09090_000404", date(2018, 1, 1)
QUIET = record(1, FRAME, PRIMARY, date(2018, 1, 13))
DEFORMING = record(2, FRAME, PRIMARY, date(2018, 1, 25)) | {
    "atmospheric_fringes": 0,
    "label": ["Deformation"],
    "activity_type": ["Mogi"],
    "intensity_level": ["Medium"],
    "phase": "Unrest",
    "segmentation_mask": [[40, 60, 70, 60, 76, 75, 70, 90, 40, 90, 34, 75]],
    "caption": "A mogi-type deformation pattern of medium intensity is located on the left. "
    "The atmospheric impact is low.",
}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("twin") / "archive"
    records = [parse_annotation(raw, "record", Counter()) for raw in (QUIET, DEFORMING)]
    simulate_twin(out, records, seed=2, truth=True, workers=1)
    return out


@pytest.fixture(scope="module")
def redrawn(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("redrawn") / "archive"
    calls: list[tuple[int, int]] = []
    report = redraw(twin, out, lambda done, total: calls.append((done, total)))
    assert report == {"interferograms": 2, "moving": 1, "masks": 2, "problems": []}
    assert calls == [(1, 2), (2, 2)]
    return out


def los_of(twin: Path, name: str) -> np.ndarray:
    (path,) = twin.rglob(f"{name}.geo.los.tif")
    return tifffile.imread(path)


def test_pictures_decode_to_the_wrapped_displacement(twin: Path, redrawn: Path) -> None:
    before, after = scan_archive(twin), scan_archive(redrawn)
    assert [pair.name for pair in before.pairs] == [pair.name for pair in after.pairs]
    spans = []
    for old, new in zip(before.pairs, after.pairs, strict=True):
        original = phase.read_interferogram(old.image)
        found = phase.read_interferogram(new.image)
        assert (found.palette, found.posterised) == ("new", False)
        assert np.array_equal(found.valid, original.valid)
        assert 0.3 < found.valid.mean() < 1
        fringes = los_of(twin, new.name.split("/")[1]) / FRINGE_M
        spans.append(float(np.ptp(fringes)))
        # One fringe toward the satellite takes 2 pi off the phase.
        error = np.angle(np.exp(1j * (found.wrapped_phase + 2 * np.pi * fringes)))[found.valid]
        assert np.abs(error).max() < 2 * palettes.NEW_STEP_RAD
        assert np.median(np.abs(error)) < palettes.NEW_STEP_RAD
    assert max(spans) > 1.5
    assert min(spans) == 0


def test_masks_records_and_sizes_stay_and_coherence_is_full(twin: Path, redrawn: Path) -> None:
    before, after = scan_archive(twin), scan_archive(redrawn)
    assert after.source == "simulated"
    assert not after.problems
    for old, new in zip(before.pairs, after.pairs, strict=True):
        assert old.annotation == new.annotation
        first, second = load_pair(old), load_pair(new)
        assert first.size == second.size
        assert np.array_equal(first.mask, second.mask)
        assert second.coherence is not None
        valid = phase.decode_image(second.image).valid
        assert np.array_equal(second.coherence, valid.astype(np.float32))
    assert load_pair(after.annotated[1]).mask.any()
    for name in ("1.json", "2.json"):
        path = Path("annotations") / name
        assert (twin / path).read_bytes() == (redrawn / path).read_bytes()
    settings = json.loads((redrawn / "simulation.json").read_text())
    assert settings.pop("noise_free") is True
    assert settings == json.loads((twin / "simulation.json").read_text())


def test_it_makes_a_dataset(redrawn: Path, tmp_path: Path) -> None:
    write_parquet(redrawn, tmp_path / "dataset")
    rows = load(tmp_path / "dataset", "train")
    assert [row["unique_id"] for row in rows] == [1, 2]
    assert rows[0]["source"] == "simulated"


def test_every_pixel_has_the_colour_next_to_its_phase() -> None:
    los = np.linspace(-1.2, 1.2, 6000, dtype=np.float32).reshape(60, 100) * FRINGE_M
    valid = np.ones(los.shape, bool)
    valid[:, :7] = False
    image = picture(los.astype(np.float32), valid)
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert np.array_equal(alpha == 255, valid)
    middle, _ = palettes.new_table()
    shown = middle[np.asarray(image)[valid]]
    wrapped = np.angle(np.exp(-2j * np.pi * los[valid].astype(np.float64) / FRINGE_M))
    # Near +-pi the table goes a little beyond the circle: no pixel may jump to the other end.
    assert np.abs(shown - wrapped).max() < palettes.NEW_STEP_RAD / 2 + 1e-4


def test_free_archives_have_no_masks_to_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(tmp_path / "free", 2, frames=1, dates=3, seed=3, size=96, truth=True, workers=1)
    assert main([str(tmp_path / "free"), str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["interferograms"] == 2
    assert report["masks"] == 0
    assert not list((tmp_path / "out").rglob("*.mask.png"))
    assert main([str(tmp_path / "free"), str(tmp_path / "again")]) == 0
    assert "2 interferograms" in capsys.readouterr().out


def _no_los(root: Path) -> None:
    next(root.rglob("*.geo.los.tif")).unlink()


def _cut_los(root: Path) -> None:
    path = next(root.rglob("*.geo.los.tif"))
    path.write_bytes(path.read_bytes()[:90])


def _small_los(root: Path) -> None:
    tifffile.imwrite(next(root.rglob("*.geo.los.tif")), np.zeros((4, 5), np.float32))


def _hole_in_los(root: Path) -> None:
    path = next(root.rglob("*.geo.los.tif"))
    tifffile.imwrite(path, np.where(np.eye(96, dtype=bool), np.nan, 0).astype(np.float32))


def _grey_picture(root: Path) -> None:
    Image.new("L", (96, 96), 90).save(next(root.rglob("*.geo.diff.png")))


def _bad_settings(root: Path) -> None:
    (root / "simulation.json").write_text("[1")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_no_los, "no .geo.los.tif beside 1 of 1 interferograms"),
        (_cut_los, "cannot be read"),
        (_small_los, "finite float32 of shape (96, 96) belongs here"),
        (_hole_in_los, "not finite"),
        (_grey_picture, "grey"),
        (_bad_settings, "holds no settings"),
    ],
)
def test_what_cannot_be_redrawn_is_told_in_one_line_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], told: str
) -> None:
    simulate(tmp_path / "bad", 1, frames=1, dates=2, seed=3, size=96, truth=True, workers=1)
    spoil(tmp_path / "bad")
    assert main([str(tmp_path / "bad"), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_nothing_is_overwritten(twin: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(HephError, match="is not empty; give a new folder"):
        redraw(twin, tmp_path)
    for overlapping in (twin, twin / "inside", twin.parent):
        with pytest.raises(HephError, match="overlaps"):
            redraw(twin, overlapping)
    assert (tmp_path / "mine").read_text() == "kept"
