"""Simulated patches as a dataset: the stream's own pictures, readable, resumed, unchanged."""

import numpy as np
import pytest

from heph_vl.data import captions, parquet, splits
from heph_vl.data.samples import read_row, whole
from heph_vl.data.transforms import encoded
from heph_vl.errors import HephError
from heph_vl.simulate.patchset import write_patches
from heph_vl.simulate.stream import SimulatedPatches, StreamConfig

CONFIG = StreamConfig(seed=3, pairs_per_place=3, dates=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("patches") / "set"
    seen = []
    manifest = write_patches(out, 5, CONFIG, progress=lambda done, n: seen.append((done, n)))
    assert manifest["splits"] == {"train": {"pairs": 5, "rows": 5}}
    assert seen[-1] == (5, 5)
    return out


def test_rows_are_the_streams_patches(folder):
    rows = encoded(parquet.load(folder, "train"))
    stream = SimulatedPatches(CONFIG)
    assert rows["unique_id"] == list(range(5))
    for number, row in enumerate(rows):
        image = read_row(row)
        expected = stream.sample(number)["sample"]
        assert np.array_equal(image.phase_code, expected.phase_code)
        assert np.array_equal(image.mask, expected.mask)
        assert captions.parse(row["caption"]) == expected.facts
        sample = whole(image, row, estimated=False)
        assert (sample.quality, sample.atmosphere) == (expected.quality, expected.atmosphere)
        assert [e.type for e in sample.events] == [e.type for e in expected.events]
        assert row["window"] == [0, 0, 224, 224]


def test_places_are_frames_of_their_own(folder):
    rows = parquet.load(folder, "train")
    names = rows["frame_id"]
    assert names[0] == names[2] != names[3]
    assert [name[-6:] for name in names] == ["000000"] * 3 + ["000001"] * 2
    of_train = {f.group for f in splits.FRAMES.values() if f.split == "train"}
    assert set(rows["volcano_group"]) <= of_train


def test_again_changes_nothing_and_other_settings_replace(folder):
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "data").iterdir()}
    assert write_patches(folder, 5, CONFIG)["unchanged"]
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "data").iterdir()} == before
    assert not write_patches(folder, 2, CONFIG)["unchanged"]
    assert len(parquet.load(folder, "train")) == 2


def test_bad_number_and_foreign_folder(tmp_path):
    with pytest.raises(HephError, match="0 asked"):
        write_patches(tmp_path / "x", 0, CONFIG)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(HephError, match="holds other files"):
        write_patches(tmp_path, 1, CONFIG)
