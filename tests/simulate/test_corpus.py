"""The archive that is written: bytes, resuming, refusals."""

import errno
import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from heph_vl.data import splits
from heph_vl.data.annotations import parse_annotation, read_annotations
from heph_vl.data.phase import read_interferogram
from heph_vl.data.picture import read_layers, read_picture
from heph_vl.data.raster import fill
from heph_vl.errors import HephError
from heph_vl.simulate import store
from heph_vl.simulate.corpus import simulate, simulate_twin
from heph_vl.simulate.plan import frame_order
from heph_vl.simulate.render import Rendering

SMALL = {"frames": 2, "dates": 5, "seed": 3, "size": 96}


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "archive"
    calls: list[tuple[int, int]] = []
    report = simulate(out, 5, **SMALL, workers=1, progress=lambda *c: calls.append(c))
    assert calls[0] == (0, 5)
    assert calls[-1] == (5, 5)
    assert report.written == report.total == 5
    assert sum(report.frames.values()) == 5
    return out


def test_layout_is_the_raw_archives(archive):
    found = read_annotations(archive / "annotations")
    assert not found.problems
    assert [a.unique_id for a in found.annotations] == [1, 2, 3, 4, 5]
    assert Counter(a.frame_id for a in found.annotations) == {
        frame_order()[0]: 3, frame_order()[1]: 2,
    }  # fmt: skip
    assert len({(a.frame_id, a.pair_name) for a in found.annotations}) == 5
    files = set(digests(archive)) - {"simulation.json"}
    expected = set()
    for a in found.annotations:
        stem = f"{a.frame_id}/interferograms/{a.pair_name}/{a.pair_name}.geo"
        records = {f"{name}/{a.unique_id}.json" for name in ("annotations", "truth")}
        expected |= records | {f"{stem}.diff.png", f"{stem}.cc.png"}
        for part in ("diff", "cc"):
            image = Image.open(archive / f"{stem}.{part}.png")
            assert image.size == (96, 96)
            assert image.mode == "P"
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
            assert (alpha > 0).mean() > 0.45
    assert files == expected


def test_same_bytes_with_two_workers(archive, tmp_path):
    simulate(tmp_path / "b", 5, **SMALL, workers=2)
    assert digests(tmp_path / "b") == digests(archive)


def test_other_seed_other_bytes(archive, tmp_path):
    simulate(tmp_path / "b", 2, **(SMALL | {"seed": 4}), workers=1)
    ours, others = digests(archive), digests(tmp_path / "b")
    assert not set(ours.values()) & set(others.values())


def test_resumes_what_is_missing(archive, tmp_path, monkeypatch):
    out = tmp_path / "resumed"
    real, calls = store.write, []

    def full_disk(path, content):
        calls.append(path)
        if len(calls) == 6:  # the second picture of the second pair; four files a pair
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(store, "write", full_disk)
    with pytest.raises(HephError, match="No space left on device"):
        simulate(out, 5, **SMALL, workers=1)
    assert not list(out.rglob("*.part"))
    assert len(list((out / "annotations").iterdir())) == 1
    monkeypatch.setattr(store, "write", real)
    (out / "annotations" / "1.json").write_text('{"cut')  # a record that is not whole
    report = simulate(out, 5, **SMALL, workers=1)
    assert report.written == 5
    assert digests(out) == digests(archive)
    assert simulate(out, 5, **SMALL, workers=1).written == 0


def test_half_a_file_is_never_left(tmp_path, monkeypatch):
    target = tmp_path / "x.png"
    target.write_bytes(b"old")

    def no_space(self, content):
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(OSError, match="No space"):
        store.write(target, b"new content")
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    assert target.read_bytes() == b"old"


def test_other_settings_are_refused(archive):
    before = digests(archive)
    with pytest.raises(HephError, match="seed is 3 there and 9 here"):
        simulate(archive, 5, **(SMALL | {"seed": 9}), workers=1)
    with pytest.raises(HephError, match="interferograms is 5 there and 6 here"):
        simulate(archive, 6, **SMALL, workers=1)
    assert digests(archive) == before


def test_foreign_folders_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(HephError, match="not empty"):
        simulate(tmp_path, 5, **SMALL, workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(HephError, match="not empty"):
        simulate(tmp_path / "thesis.tex", 5, **SMALL, workers=1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "simulation.json").write_text("[1")
    with pytest.raises(HephError, match="no settings file"):
        simulate(tmp_path / "broken", 5, **SMALL, workers=1)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HephError, match="cannot be written"):
        simulate(tmp_path / "file" / "out", 5, **SMALL, workers=1)


@pytest.mark.parametrize(
    ("n", "change", "message"),
    [
        (0, {}, "interferograms: 0 is not a positive number"),
        (-3, {}, "interferograms: -3"),
        (5, {"frames": 0}, "frames: 0"),
        (5, {"frames": 6}, "6 frames for 5 interferograms"),
        (50, {"frames": 40}, "40 frames asked"),
        (5, {"dates": 0}, "dates: 0"),
        (5, {"dates": 2}, "2 dates give 1 pairs, 3 are needed"),
        (5, {"size": 97}, "size: 97"),
        (5, {"size": 30}, "size: 30"),
    ],
)
def test_impossible_settings(tmp_path, n, change, message):
    with pytest.raises(HephError, match=message):
        simulate(tmp_path / "out", n, **(SMALL | change), workers=1)
    assert not (tmp_path / "out").exists()


def test_frame_order_serves_all_splits():
    order = frame_order()
    groups = [splits.volcano_group(name) for name in order]
    assert len(set(order)) == len(order)
    assert not any("_SM_" in name for name in order)
    first = len(set(groups))
    assert len(set(groups[:first])) == first  # every group once before any twice
    for count in (3, 5, 12, 28):
        assert {splits.FRAMES[name].split for name in order[:count]} == set(splits.SPLITS)


def test_settings_are_written_for_the_reader(archive):
    settings = json.loads((archive / "simulation.json").read_text())
    assert settings["seed"] == 3
    assert settings["interferograms"] == 5
    assert settings["version"]


def test_ranks_share_the_records(archive, tmp_path):
    out = tmp_path / "shared"
    first = simulate(out, 5, **SMALL, workers=1, shard=(0, 2))
    second = simulate(out, 5, **SMALL, workers=1, shard=(1, 2))
    assert first.written + second.written == 5
    assert min(first.written, second.written) >= 2
    assert digests(out) == digests(archive)


def test_truth_holds_the_sources_and_the_displacement(tmp_path):
    simulate(tmp_path / "a", 4, **(SMALL | {"seed": 8}), truth=True, workers=1)
    seen = 0
    for a in read_annotations(tmp_path / "a" / "annotations").annotations:
        truth = json.loads((tmp_path / "a" / "truth" / f"{a.unique_id}.json").read_text())
        stem = f"{a.frame_id}/interferograms/{a.pair_name}/{a.pair_name}.geo"
        los = tifffile.imread(tmp_path / "a" / f"{stem}.los.tif")
        assert los.shape == (96, 96)
        told = [source for source in truth["sources"] if source["seen"]]
        assert sorted(source["kind"] for source in told) == sorted(a.activity_types)
        if len(truth["sources"]) == 1 and told:
            seen += 1
            # The displacement spans the fringes that are told, a fringe being 2.773 cm.
            assert np.ptp(los) / 0.02773 > 0.8 * told[0]["fringe_count"]
        if not truth["sources"]:
            assert not los.any()
    assert seen


def test_geotiffs_show_what_the_pictures_show(tmp_path):
    simulate(tmp_path / "a", 2, **SMALL, geotiff=True, workers=1)
    for image in (tmp_path / "a").rglob("*.diff.png"):
        shown = read_picture(image)
        exact = read_picture(image.with_name(image.name.replace("diff.png", "diff_pha.tif")))
        assert exact.measured
        assert exact.channels.shape == shown.channels.shape
        both = exact.valid & shown.valid
        assert both.sum() > 0.95 * exact.valid.sum()
        clear = both & (exact.channels[2] > 0.5)
        z = exact.channels[0] + 1j * exact.channels[1]
        error = np.angle(z * (shown.channels[0] - 1j * shown.channels[1]))[clear]
        assert np.median(np.abs(error)) < 0.25
        coherence = exact.channels[2][both] - shown.channels[2][both]
        assert np.abs(coherence).mean() < 0.03
        layers = read_layers(exact)
        assert np.hypot.reduce(layers.look_vector[:, 48, 48]) == pytest.approx(1.0, abs=1e-4)
        east = layers.look_vector[0, 0, 0]
        assert (east < 0) == (image.parts[-4][3] == "A")
        assert np.isfinite(layers.height).all()
        # Where the frame's name says: the middle number is the colatitude.
        frame = image.parts[-4]
        latitude = 90 - int(frame.split("_")[1]) / 100
        assert exact.place.lonlat(48, 48)[1] == pytest.approx(latitude, abs=0.01)


def test_without_the_chain_colours_are_those_of_the_palette(tmp_path):
    from heph_vl.data.palettes import new_table

    simulate(tmp_path / "a", 2, **SMALL, chain=False, workers=1)
    allowed = {tuple(row) for row in np.rint(new_table()[1]).astype(int).tolist()}
    for path in (tmp_path / "a").rglob("*.diff.png"):
        rgba = np.asarray(Image.open(path).convert("RGBA")).reshape(-1, 4)
        shown = np.unique(rgba[rgba[:, 3] > 0, :3], axis=0)
        assert {tuple(row) for row in shown.tolist()} <= allowed


def test_old_palette_has_amplitude(tmp_path):
    simulate(tmp_path / "a", 2, **SMALL, rendering=Rendering(palette="old"), workers=1)
    for path in (tmp_path / "a").rglob("*.diff.png"):
        decoded = read_interferogram(path)
        assert decoded.palette == "old"
        rgba = np.asarray(Image.open(path).convert("RGBA"))
        brightness = rgba[..., :3].max(axis=-1)[rgba[..., 3] > 0]
        assert brightness.std() > 10


RECORD = {
    "uniqueID": 7, "frameID": "106A_09090_000404", "primary_date": "20180101",
    "secondary_date": "20180113", "processing_error": 0, "glacier_fringes": 0,
    "orbital_fringes": 0, "atmospheric_fringes": 0, "low_coherence": 0, "no_info": 0,
    "image_artifacts": 0, "label": ["Deformation"], "activity_type": ["Mogi"],
    "intensity_level": ["Medium"], "phase": "Unrest", "confidence": 0.8, "corrupted": 0,
    "segmentation_mask": [[40, 60, 70, 60, 76, 75, 70, 90, 40, 90, 34, 75]], "is_crowd": 0,
    "caption": "A mogi-type deformation pattern of medium intensity is located on the left. "
    "The atmospheric impact is low.",
}  # fmt: skip


def records(*changes):
    found = [
        parse_annotation(RECORD | {"uniqueID": 7 + i} | change, f"{7 + i}.json", Counter())
        for i, change in enumerate(changes)
    ]
    return found


QUIET = {
    "secondary_date": "20180125", "label": ["Non_Deformation"], "activity_type": [],
    "intensity_level": [], "phase": "Rest", "segmentation_mask": [], "atmospheric_fringes": 2,
    "caption": "Turbulent mixing effect can be detected around the area. No deformation activity "
    "can be detected.",
}  # fmt: skip


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("twin") / "archive"
    report = simulate_twin(out, records({}, QUIET), seed=2, truth=True, workers=1)
    assert report.written == 2
    assert report.fidelity["effects"]["turbulent_mixing"] == {
        "asked_and_seen": 1, "neither": 1,
    }  # fmt: skip
    mogi = report.fidelity["events"]["mogi"]
    assert mogi["given"] == mogi["seen"] == mogi["same_intensity"] == 1
    assert mogi["median_iou"] > 0.6
    return out


def test_twin_keeps_the_record_and_adds_the_sense(twin):
    given = records({}, QUIET)
    stored = read_annotations(twin / "annotations").annotations
    for before, after in zip(given, stored, strict=True):
        assert after.caption == before.caption
        assert [e.polygon for e in after.events] == [e.polygon for e in before.events]
    assert stored[0].events[0].los_sense in ("toward", "away")


def test_training_sees_the_rendered_mask(twin):
    from heph_vl.data.archive import load_pair, scan_archive

    pair = scan_archive(twin).annotated[0]
    assert pair.mask is not None
    native = load_pair(pair)
    rendered = np.asarray(Image.open(pair.mask))
    assert np.array_equal(native.mask, rendered)
    assert set(np.unique(rendered)) == {0, 1}
    given = np.zeros_like(rendered)
    fill(given, pair.annotation.events[0].polygon, 1)
    overlap = (given & rendered).sum() / (given | rendered).sum()
    assert overlap > 0.6
    assert overlap < 1.0
    wrong = pair.mask.with_name("wrong.png")
    Image.fromarray(np.full((5, 5), 1, np.uint8)).save(wrong)
    with pytest.raises(HephError, match="5 x 5 px"):
        load_pair(replace(pair, mask=wrong))
    wrong.unlink()


def test_twin_bytes_do_not_depend_on_what_else_is_asked(twin, tmp_path):
    # The ground of a frame hangs on all records, but one record's picture on no other's choice.
    simulate_twin(tmp_path / "b", records({}, QUIET), 1, seed=2, truth=True, workers=1)
    one = digests(tmp_path / "b")
    one.pop("simulation.json")
    both = digests(twin)
    assert one.items() <= both.items()
    simulate_twin(tmp_path / "c", records({}, QUIET), seed=2, truth=True, workers=2)
    assert digests(tmp_path / "c") == both


def test_twin_resumes_and_reports_again(twin):
    report = simulate_twin(twin, records({}, QUIET), seed=2, truth=True, workers=1)
    assert report.written == 0
    assert report.fidelity["events"]["mogi"]["given"] == 1
    with pytest.raises(HephError, match="annotations is"):
        simulate_twin(twin, records({}), seed=2, truth=True, workers=1)


def test_records_that_cannot_be_simulated(tmp_path):
    outside = records({"segmentation_mask": [[900, 10, 990, 10, 990, 90]]})
    with pytest.raises(HephError, match=r"annotation 7: segmentation_mask.*423 x 306 px"):
        simulate_twin(tmp_path / "a", outside)
    far = records({"frameID": "001A_05000_131313", "segmentation_mask": [[9e4, 1, 9e4, 9, 3, 9]]})
    with pytest.raises(HephError, match="annotation 7: segmentation_mask"):
        simulate_twin(tmp_path / "a", far)
    (known,) = records({})
    (event,) = known.events
    strange = replace(known, events=(replace(event, type="geyser"),))
    with pytest.raises(HephError, match="annotation 7: activity_type: 'geyser'"):
        simulate_twin(tmp_path / "a", [strange])
    assert not (tmp_path / "a").exists()


def test_too_many_records_asked(tmp_path):
    with pytest.raises(HephError, match="3 asked of 1 records"):
        simulate_twin(tmp_path / "a", records({}), 3)
    with pytest.raises(HephError, match="no record"):
        simulate_twin(tmp_path / "a", [])
    assert not (tmp_path / "a").exists()


def test_small_elevation_is_refused_before_anything_is_written(tmp_path):
    tile = tmp_path / "N31E130.hgt"
    tile.write_bytes(np.full((1201, 1201), 300, ">i2").tobytes())
    with pytest.raises(HephError, match="covers 1 x 1 degrees"):
        simulate(tmp_path / "a", 3, **(SMALL | {"size": 450}), dem=tile, workers=1)
    assert not (tmp_path / "a").exists()
    simulate(tmp_path / "b", 2, **SMALL, dem=tile, workers=1)
    settings = json.loads((tmp_path / "b" / "simulation.json").read_text())
    assert len(settings["dem"]) == 16
