"""The archive that is written: bytes, resuming, refusals."""

import errno
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from heph_vl.data import splits
from heph_vl.data.annotations import read_annotations
from heph_vl.errors import HephError
from heph_vl.simulate import corpus
from heph_vl.simulate.corpus import frame_order, simulate

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
        expected |= {f"annotations/{a.unique_id}.json", f"{stem}.diff.png", f"{stem}.cc.png"}
        for part in ("diff", "cc"):
            image = Image.open(archive / f"{stem}.{part}.png")
            assert image.size == (96, 96)
            assert image.mode == "P"
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
            assert (alpha > 0).mean() > 0.6
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
    real, calls = corpus._write, []

    def full_disk(path, content):
        calls.append(path)
        if len(calls) == 6:  # the second picture of the second pair
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(corpus, "_write", full_disk)
    with pytest.raises(HephError, match="No space left on device"):
        simulate(out, 5, **SMALL, workers=1)
    assert not list(out.rglob("*.part"))
    assert len(list((out / "annotations").iterdir())) == 1
    monkeypatch.setattr(corpus, "_write", real)
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
        corpus._write(target, b"new content")
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
