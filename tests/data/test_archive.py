"""The archive's listing: what is found, what is joined, what is refused."""

import json
import tarfile
import time

import pytest

from heph_vl.data.archive import scan_archive
from heph_vl.errors import HephError
from tests.data.fake_archive import (
    FRAMES,
    pair_folder,
    write_annotation,
    write_fake_archive,
)


@pytest.fixture
def records(tmp_path):
    return write_fake_archive(tmp_path, n=6, size=32)


def messages(archive):
    return [str(problem) for problem in archive.problems]


def test_every_image_is_joined_with_its_own_record(tmp_path, records):
    archive = scan_archive(tmp_path)
    assert not archive.problems
    assert archive.source == "real"
    assert [pair.annotation.unique_id for pair in archive.annotated] == [1, 2, 3, 4, 5, 6]
    for pair, raw in zip(archive.annotated, records, strict=True):
        assert pair.frame_id == raw["frameID"]
        assert f"{pair.primary_date:%Y%m%d}" == raw["primary_date"]
        assert pair.image.is_file()
        assert pair.image.name.startswith(f"{raw['primary_date']}_{raw['secondary_date']}")
        assert pair.coherence.name == pair.image.name.replace("geo.diff", "geo.cc")
    assert [pair.name for pair in archive.pairs] == sorted(pair.name for pair in archive.pairs)


def test_simulation_file_marks_the_source(tmp_path, records):
    (tmp_path / "simulation.json").write_text("{}")
    assert scan_archive(tmp_path).source == "simulated"


def test_generation_file_marks_the_source(tmp_path, records):
    (tmp_path / "generation.json").write_text("{}")
    assert scan_archive(tmp_path).source == "generated"
    (tmp_path / "generation.json").unlink()
    assert scan_archive(tmp_path).source == "real"


def test_image_without_record_is_unlabeled_and_no_problem(tmp_path, records):
    (tmp_path / "annotations" / "3.json").unlink()
    archive = scan_archive(tmp_path)
    assert not archive.problems
    assert [pair.name.split("/")[0] for pair in archive.unlabeled] == [records[2]["frameID"]]
    assert len(archive.annotated) == 5


def test_record_without_image_is_listed(tmp_path, records):
    pair = pair_folder(tmp_path, records[1])
    (pair / f"{pair.name}.geo.diff.png").unlink()
    archive = scan_archive(tmp_path)
    assert len(archive.annotated) == 5
    said = messages(archive)
    assert len(said) == 2  # the folder without its file, and the record without its image
    assert any(f"no {pair.name}.geo.diff.png, found {pair.name}.geo.cc.png" in s for s in said)
    assert any(s.startswith("annotation 2: no image") for s in said)
    with pytest.raises(HephError, match=r"geo\.diff\.png"):
        scan_archive(tmp_path, strict=True)


def test_missing_coherence_is_fine(tmp_path, records):
    pair = pair_folder(tmp_path, records[0])
    (pair / f"{pair.name}.geo.cc.png").unlink()
    archive = scan_archive(tmp_path)
    assert not archive.problems
    assert archive.annotated[0].coherence is None
    assert archive.annotated[1].coherence is not None


def test_annotations_given_separately(tmp_path):
    records = write_fake_archive(tmp_path / "a", n=3, size=32)
    (tmp_path / "a" / "annotations").rename(tmp_path / "labels")
    assert not scan_archive(tmp_path / "a").annotated
    assert len(scan_archive(tmp_path / "a", tmp_path / "labels").annotated) == 3
    with tarfile.open(tmp_path / "labels.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "labels", "deep/path/annotations")
    assert len(scan_archive(tmp_path / "a", tmp_path / "labels.tar.gz").annotated) == 3
    one = {str(raw["uniqueID"]): raw for raw in records}
    (tmp_path / "a" / "annotations.json").write_text(json.dumps(one))
    assert len(scan_archive(tmp_path / "a").annotated) == 3


def test_two_records_for_one_pair(tmp_path, records):
    write_annotation(tmp_path, records[1] | {"uniqueID": 77})
    archive = scan_archive(tmp_path)
    assert [pair.annotation.unique_id for pair in archive.annotated] == [1, 2, 3, 4, 5, 6]
    (said,) = messages(archive)
    assert "77" in said


def test_cut_json_leaves_one_record_out(tmp_path, records):
    path = tmp_path / "annotations" / "4.json"
    path.write_text(path.read_text()[:100])
    archive = scan_archive(tmp_path)
    assert [pair.annotation.unique_id for pair in archive.annotated] == [1, 2, 3, 5, 6]
    assert len(archive.unlabeled) == 1
    assert "4.json" in messages(archive)[0]


def test_path_traversal_in_frame_id(tmp_path, records):
    write_annotation(tmp_path, records[0] | {"uniqueID": 9, "frameID": "../../etc"})
    archive = scan_archive(tmp_path)
    assert len(archive.annotated) == 6
    (said,) = messages(archive)
    assert "../../etc" in said


@pytest.mark.parametrize("name", ["sierra negra", "128D-09016-110500", "128d_09016_110500"])
def test_odd_frame_folder_is_a_problem(tmp_path, records, name):
    (tmp_path / FRAMES[0]).rename(tmp_path / name)
    said = messages(scan_archive(tmp_path))
    assert any(name in line for line in said)
    assert any("annotation 1: no image" in line for line in said)


@pytest.mark.parametrize("name", ["20160104-20160116", "20161304_20170101", "20170101_20160101"])
def test_odd_pair_folder_is_a_problem(tmp_path, records, name):
    folder = pair_folder(tmp_path, records[0])
    folder.rename(folder.with_name(name))
    assert any(f"{name}: no pair of dates" in line for line in messages(scan_archive(tmp_path)))


def test_one_folder_too_high_names_the_right_one(tmp_path):
    write_fake_archive(tmp_path / "Hephaestus_Raw", n=2, size=32)
    with pytest.raises(HephError, match=f"one folder too high; give {tmp_path}/Hephaestus_Raw"):
        scan_archive(tmp_path)


@pytest.mark.parametrize("below", [FRAMES[0], f"{FRAMES[0]}/interferograms"])
def test_too_low_names_the_right_one(tmp_path, records, below):
    with pytest.raises(HephError, match=f"inside an archive; give {tmp_path}$"):
        scan_archive(tmp_path / below)
    with pytest.raises(HephError, match=f"inside an archive; give {tmp_path}$"):
        scan_archive(pair_folder(tmp_path, records[0]))


def test_empty_missing_and_file(tmp_path):
    with pytest.raises(HephError, match="no interferogram in it; expected <frameID>"):
        scan_archive(tmp_path)
    with pytest.raises(HephError, match="no such folder"):
        scan_archive(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(HephError, match="no such folder"):
        scan_archive(tmp_path / "file")


def test_archive_of_odd_names_only_says_why(tmp_path):
    write_fake_archive(tmp_path, n=1, size=32)
    (tmp_path / FRAMES[0]).rename(tmp_path / "galapagos")
    with pytest.raises(HephError, match=r"no usable interferogram; first problem: .*galapagos"):
        scan_archive(tmp_path)


def test_links_are_followed_inside_only(tmp_path):
    root, outside = tmp_path / "archive", tmp_path / "outside"
    records = write_fake_archive(root, n=3, size=32)
    write_fake_archive(outside, n=1, size=32, frames=["022D_04826_121209"])
    (root / "022D_04826_121209").symlink_to(outside / "022D_04826_121209")
    folder = pair_folder(root, records[1])
    secret = tmp_path / "secret.png"
    (folder / f"{folder.name}.geo.cc.png").rename(secret)
    (folder / f"{folder.name}.geo.cc.png").symlink_to(secret)
    (root / "store").mkdir()
    (root / FRAMES[0]).rename(root / "store" / "moved")
    (root / FRAMES[0]).symlink_to(root / "store" / "moved")
    archive = scan_archive(root)
    assert [pair.annotation.unique_id for pair in archive.annotated] == [1, 2, 3]
    assert archive.annotated[1].coherence is None
    assert sorted("022D" in line for line in messages(archive)) == [False, True]
    assert all("outside the archive" in line for line in messages(archive))


def test_twenty_thousand_pairs_are_listed_quickly(tmp_path):
    # 2,000 here; the bound is generous, a pass that opened the images would break it.
    for i in range(2000):
        year, rest = divmod(i, 300)
        name = f"{2014 + year}{1 + rest // 28:02d}{1 + rest % 28:02d}_20300101"
        folder = tmp_path / FRAMES[i % 5] / "interferograms" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.geo.diff.png").touch()
    start = time.perf_counter()
    archive = scan_archive(tmp_path)
    assert time.perf_counter() - start < 2
    assert len(archive.pairs) == 2000
    assert len(archive.unlabeled) == 2000
