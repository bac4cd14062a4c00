"""Parquet folders: complete or untouched, resumable, readable by `datasets` alone."""

import json
import resource
import shutil
from datetime import datetime

import datasets
import numpy as np
import pytest
from PIL import Image

from heph_vl.data import parquet
from heph_vl.data.archive import scan_archive
from heph_vl.data.hephaestus import FEATURES, Hephaestus, load, write_parquet
from heph_vl.data.patches import PatchConfig
from heph_vl.errors import HephError
from tests.data.fake_archive import pair_folder, record, write_annotation, write_fake_archive


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "archive"
    write_fake_archive(root, n=10, size=48)
    return root


def stored(dataset):
    for name in ("image", "coherence", "mask"):
        dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return list(dataset)


def listing(folder):
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_round_trip(archive, tmp_path):
    out = tmp_path / "out"
    report = write_parquet(archive, out)
    assert report["splits"] == {
        "train": {"pairs": 6, "rows": 6},
        "val": {"pairs": 2, "rows": 2},
        "test": {"pairs": 2, "rows": 2},
    }
    assert report["problems"] == []
    assert report["unassigned"] == 0
    assert not report["unchanged"]
    assert sorted(listing(out)) == [
        "README.md",
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
        "data/val-00000-of-00001.parquet",
        "heph_vl.json",
    ]
    builder = Hephaestus(archive, cache_dir=tmp_path / "builder")
    for split in ("train", "val", "test"):
        ours = load(out, split, cache_dir=tmp_path / "cache")
        theirs = datasets.load_dataset(str(out), split=split, cache_dir=str(tmp_path / "other"))
        assert ours.features == FEATURES == theirs.features
        assert stored(ours) == stored(theirs)
        assert stored(ours) == stored(builder.as_streaming_dataset(split))
    assert set(load(out, cache_dir=tmp_path / "cache")) == {"train", "val", "test"}


def test_card_names_splits_and_source(archive, tmp_path):
    (archive / "simulation.json").write_text("{}")
    write_parquet(archive, tmp_path / "out", config="patches", patches=PatchConfig(32))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "config_name: patches" in card
    assert "path: data/val-*.parquet" in card
    assert "simulated" in card
    loaded = datasets.load_dataset(
        str(tmp_path / "out"), "patches", split="test", cache_dir=str(tmp_path / "c")
    )
    assert set(loaded["source"]) == {"simulated"}
    assert set(loaded["kind"]) == {"crop", "tile"}


def test_unchanged_input_does_nothing(archive, tmp_path):
    out = tmp_path / "out"
    first = write_parquet(archive, out)
    before = listing(out)
    second = write_parquet(archive, out)
    assert second["unchanged"]
    assert listing(out) == before
    assert second["splits"] == first["splits"]


def test_changed_record_is_written_and_read(archive, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    write_parquet(archive, out)
    before = load(out, "val", cache_dir=cache)["caption"][0]
    raw = json.loads((archive / "annotations" / "2.json").read_text())
    write_annotation(archive, raw | {"caption": raw["caption"].replace("high", "low")})
    assert not write_parquet(archive, out)["unchanged"]
    after = load(out, "val", cache_dir=cache)["caption"][0]
    plain = datasets.load_dataset(str(out), split="val", cache_dir=str(cache))
    assert plain["caption"][0] == after
    assert "high" in before
    assert after == before.replace("high", "low")
    assert not (out / ".partial").exists()


def test_a_damaged_shard_is_noticed_and_mended(archive, tmp_path):
    out = tmp_path / "out"
    write_parquet(archive, out)
    shard = out / "data" / "val-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(HephError, match=r"val-00000-of-00001\.parquet: missing or cut"):
        load(out, "val")
    assert not write_parquet(archive, out)["unchanged"]
    assert len(load(out, "val", cache_dir=tmp_path / "c")) == 2


def test_interrupted_run_goes_on_where_it_stopped(archive, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(parquet, "PAIRS_PER_SHARD", 2)
    write = parquet._write_shard
    written = []

    def stop_after_two(job, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(job.path.name)
        return write(job, *rest)

    monkeypatch.setattr(parquet, "_write_shard", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        write_parquet(archive, out)
    assert not (out / "data").exists()
    with pytest.raises(HephError, match="no complete dataset"):
        load(out, "train")
    kept = listing(out / ".partial" / "data")
    monkeypatch.setattr(parquet, "_write_shard", write)
    opened = []
    generate = parquet.generate

    def counted(pairs, *rest):
        pairs = list(pairs)
        opened.extend(pairs)
        return generate(pairs, *rest)

    monkeypatch.setattr(parquet, "generate", counted)
    report = write_parquet(archive, out)
    assert len(opened) == 10 - 4
    assert report["splits"]["train"] == {"pairs": 6, "rows": 6}
    for name, changed in kept.items():
        if name.endswith(".parquet"):
            assert listing(out / "data")[name] == changed
    assert load(out, "train", cache_dir=tmp_path / "c")["unique_id"][:] == [1, 4, 5, 6, 9, 10]


@pytest.mark.slow
def test_two_processes_write_the_same_rows(archive, tmp_path):
    write_parquet(archive, tmp_path / "one")
    write_parquet(archive, tmp_path / "two", num_proc=2)
    for split in ("train", "val", "test"):
        one, two = (
            stored(load(tmp_path / name, split, cache_dir=tmp_path / "c"))
            for name in ("one", "two")
        )
        assert one == two


def test_bad_records_are_left_out_counted_and_listed(archive, tmp_path):
    raws = [json.loads((archive / "annotations" / f"{i}.json").read_text()) for i in (1, 2, 3)]
    folder = pair_folder(archive, raws[0])
    (folder / f"{folder.name}.geo.diff.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_annotation(archive, raws[1] | {"segmentation_mask": [[1, 1, 400, 1, 9, 40]]})
    folder = pair_folder(archive, raws[2])
    Image.new("L", (10, 10)).save(folder / f"{folder.name}.geo.cc.png")
    report = write_parquet(archive, tmp_path / "out")
    assert {name: count.get("left_out", 0) for name, count in report["splits"].items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    assert len(report["problems"]) == 3
    assert "PNG header is cut" in report["problems"][0]
    assert "annotation 2" in report["problems"][1]
    assert "10 x 10 px" in report["problems"][2]
    assert all("\n" not in line for line in report["problems"])
    assert load(tmp_path / "out", "val", cache_dir=tmp_path / "c")["unique_id"][:] == [7]
    with pytest.raises(HephError, match="PNG header is cut"):
        write_parquet(archive, tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict" / "data").exists()


def test_no_readable_record_says_why(archive, tmp_path):
    for path in (archive / "annotations").iterdir():
        path.write_text("{")
    with pytest.raises(HephError, match=r"problems, the first: .*1\.json: not JSON"):
        write_parquet(archive, tmp_path / "out")


def test_records_outside_the_splits_are_counted(archive, tmp_path):
    raw = record(50, "156A_05796_080500", *_dates("20190520", "20190625"))
    write_annotation(archive, raw)
    scanned = scan_archive(archive)
    assert len(scanned.problems) == 1
    report = write_parquet(scanned, tmp_path / "out", scheme="temporal")
    assert sum(c["pairs"] for c in report["splits"].values()) + report["unassigned"] == 10
    assert "annotation 50: no image" in report["problems"][0]


def _dates(*texts):
    return [datetime.strptime(text, "%Y%m%d").date() for text in texts]


def test_no_space_left_leaves_the_old_dataset_whole(archive, tmp_path):
    out = tmp_path / "out"
    write_parquet(archive, out)
    before = listing(out)
    (archive / "simulation.json").write_text("{}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(HephError, match="cannot be written: File too large"):
            write_parquet(archive, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = listing(out)
    assert {name: after[name] for name in before} == before
    assert len(load(out, "train", cache_dir=tmp_path / "c")) == 6
    assert not write_parquet(archive, out)["unchanged"]
    assert not (out / ".partial").exists()
    assert load(out, "val", cache_dir=tmp_path / "c")["source"][0] == "simulated"


@pytest.mark.parametrize("out", ["file/below", "file"])
def test_output_that_cannot_be_written(archive, tmp_path, out):
    (tmp_path / "file").write_text("")
    with pytest.raises(HephError, match=r"cannot be written: Not a directory|is a file"):
        write_parquet(archive, tmp_path / out)


def test_read_only_output(archive):
    with pytest.raises(HephError, match="/proc/heph_vl: cannot be written"):
        write_parquet(archive, "/proc/heph_vl")


def test_files_of_others_are_not_touched(archive, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("")
    with pytest.raises(HephError, match=r"holds other files, e\.g\. thesis\.tex"):
        write_parquet(archive, out)
    assert sorted(listing(out)) == ["thesis.tex"]


def test_load_says_what_is_wrong(archive, tmp_path):
    with pytest.raises(HephError, match="no such dataset folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(HephError, match="no complete dataset"):
        load(archive)
    write_parquet(archive, tmp_path / "out")
    with pytest.raises(HephError, match="no split validation; one of train, val, test"):
        load(tmp_path / "out", "validation")


def test_progress_is_told_for_every_interferogram(archive, tmp_path):
    told = []
    write_parquet(
        archive, tmp_path / "out", progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (10, 10)
    assert {total for _, total in told} == {10}
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_masks_of_patches_are_cut_from_that_of_the_interferogram(archive, tmp_path):
    for config in ("interferograms", "patches"):
        write_parquet(archive, tmp_path / config, config=config, patches=PatchConfig(20))
    frames, patches = (
        load(tmp_path / name, "train", cache_dir=tmp_path / "c")
        for name in ("interferograms", "patches")
    )
    whole = {row["unique_id"]: row for row in frames}
    assert len(patches) > len(frames)
    for row in patches:
        x0, y0, x1, y1 = row["window"]
        for name in ("image", "mask", "coherence"):
            full = np.asarray(whole[row["unique_id"]][name].convert("RGBA"))
            np.testing.assert_array_equal(np.asarray(row[name].convert("RGBA")), full[y0:y1, x0:x1])


def test_dataset_survives_a_move(archive, tmp_path):
    write_parquet(archive, tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    row = load(tmp_path / "moved", "train", cache_dir=tmp_path / "c")[0]
    assert row["image"].size == (48, 48)
