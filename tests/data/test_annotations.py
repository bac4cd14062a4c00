"""Reading and checking of records: values, named rules, one-line errors, round trips."""

import gzip
import io
import json
import random
import tarfile
import zipfile
from collections import Counter
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heph_vl.data.annotations import (
    ACTIVITY_TYPES,
    CONVENTIONS,
    INTENSITIES,
    Annotation,
    Event,
    check_frame_id,
    parse_annotation,
    read_annotations,
)
from heph_vl.errors import HephError

SQUARE = [10.0, 20.0, 30.0, 20.0, 30.0, 45.5, 10.0, 45.5]
POINTS = ((10.0, 20.0), (30.0, 20.0), (30.0, 45.5), (10.0, 45.5))
MISSING = object()


def make_record(**changes):
    """A record of one sill, as the files write it; MISSING removes a field."""
    record = {
        "uniqueID": 7,
        "frameID": "124D_04854_171313",
        "primary_date": "20170928",
        "secondary_date": "20171115",
        "corrupted": 0,
        "processing_error": 0,
        "glacier_fringes": 0,
        "orbital_fringes": 0,
        "atmospheric_fringes": 1,
        "low_coherence": 1,
        "no_info": 0,
        "image_artifacts": 0,
        "label": ["Deformation"],
        "activity_type": ["Sill"],
        "intensity_level": ["High"],
        "phase": "Unrest",
        "confidence": 0.8,
        "segmentation_mask": [SQUARE],
        "is_crowd": 0,
        "caption": "A sill-type deformation pattern of high intensity is detected.",
    } | changes
    return {key: value for key, value in record.items() if value is not MISSING}


NONE = {
    "label": ["Non_Deformation"],
    "activity_type": [],
    "intensity_level": [],
    "phase": "Rest",
    "segmentation_mask": [],
    "caption": "No deformation activity can be detected.",
}
EARTHQUAKE = {
    "label": ["Earthquake"],
    "activity_type": ["Earthquake"],
    "intensity_level": ["None"],
    "phase": "None",
}


def parse(record):
    rules = Counter()
    return parse_annotation(record, "7.json", rules), dict(rules)


def test_every_field_is_typed():
    item, rules = parse(make_record(low_coherence=1, orbital_fringes=1, corrupted=0))
    assert rules == {}
    assert item == Annotation(
        unique_id=7,
        frame_id="124D_04854_171313",
        primary_date=date(2017, 9, 28),
        secondary_date=date(2017, 11, 15),
        corrupted=False,
        processing_error="none",
        glacier_fringes=False,
        orbital_fringes=True,
        atmosphere=1,
        low_coherence=True,
        no_info=False,
        image_artifacts=False,
        label=("Deformation",),
        events=(Event("sill", "high", POINTS),),
        volcano_phase="unrest",
        confidence=0.8,
        is_crowd=False,
        caption="A sill-type deformation pattern of high intensity is detected.",
    )
    assert item.pass_direction == "descending"
    assert item.temporal_baseline_days == 48
    assert item.pair_name == "20170928_20171115"
    assert item.has_deformation
    assert not parse(make_record(**NONE))[0].has_deformation


@pytest.mark.parametrize(
    ("frame_id", "direction"), [("144A_SM_REUN_S6", "ascending"), ("151D_SM_REUN_S4", "descending")]
)
def test_stripmap_frames_are_frames(frame_id, direction):
    assert parse(make_record(frameID=frame_id))[0].pass_direction == direction


@pytest.mark.parametrize(
    ("changes", "rule", "attribute", "value"),
    [
        ({"glacier_fringes": 2}, "glacier_2_is_1", "glacier_fringes", True),
        ({"caption": " a  b \n"}, "caption_whitespace", "caption", "a b"),
        ({"intensity_level": "High"}, "intensity_string", "intensities", ("high",)),
        (EARTHQUAKE, "intensity_none_string", "intensities", (None,)),
        ({**NONE, "intensity_level": ["None"]}, "intensity_none_without_activity", "events", ()),
        ({"is_crowd": 1}, "is_crowd_disagrees", "is_crowd", True),
        ({"segmentation_mask": SQUARE}, "mask_one_flat_polygon", "events", None),
        ({"segmentation_mask": [[SQUARE]]}, "polygon_wrapped", "events", None),
        ({"segmentation_mask": [[list(p) for p in POINTS]]}, "polygon_nested", "events", None),
    ],
)  # fmt: skip
def test_quirk_is_a_counted_rule(changes, rule, attribute, value):
    item, rules = parse(make_record(**changes))
    assert rules == {rule: 1}
    expected = (Event("sill", "high", POINTS),) if value is None else value
    assert getattr(item, attribute) == expected


@pytest.mark.parametrize(("code", "name"), [(2, "debursting"), (3, "swath_merging")])
def test_processing_error_is_read_as_the_captions_mean_it(code, name):
    item, rules = parse(make_record(processing_error=code))
    assert item.processing_error == name
    assert rules == {f"processing_error_{code}_is_{name}": 1}
    assert item.to_record()["processing_error"] == code


def test_the_one_polygon_and_intensity_of_850_are_the_sills():
    changes = {"activity_type": ["Mogi", "Sill"]}
    item, rules = parse(make_record(**changes))
    assert item.events == (Event("mogi", None, None), Event("sill", "high", POINTS))
    assert item.instances == item.events[1:]
    assert rules == {"fewer_polygons_than_activities": 1, "fewer_intensities_than_activities": 1}


def test_the_one_polygon_of_6176_is_the_sills():
    changes = {
        "frameID": "087D_07004_060904",
        "primary_date": "20180517",
        "secondary_date": "20180529",
        "activity_type": ["Dyke", "Sill"],
        "intensity_level": ["High", "Low"],
        "caption": "A dyke-type pattern of high intensity and a sill-type of low intensity.",
    }
    item, _ = parse(make_record(**changes))
    assert item.events == (Event("dyke", "high", None), Event("sill", "low", POINTS))
    with pytest.raises(HephError, match="segmentation_mask: 1 for 2 activities"):
        parse(make_record(**changes | {"frameID": "124D_04854_171313"}))


BAD_FIELDS = [
    *((flag, bad) for flag in ("corrupted", "is_crowd") for bad in (True, "1", 1.0, 2, None)),
    *(("uniqueID", bad) for bad in ("7", -1, 7.0, 2**63, 10**5000)),
    *(("frameID", bad) for bad in ("../../etc", "124D", "124D_04854_171313/x", 7, None, [])),
    *(("primary_date", bad) for bad in ("2017-09-28", "20170231", 20170928, "2017092\uff18")),
    ("secondary_date", "20170928"),
    ("secondary_date", "20160101"),
    ("processing_error", 1),
    ("glacier_fringes", 3),
    ("atmospheric_fringes", 4),
    ("label", ["Non_Deformation"]),
    ("label", ["Deformation", "Earthquake"]),
    ("label", "Deformation"),
    ("activity_type", ["Caldera"]),
    ("activity_type", ["sill"]),
    ("activity_type", "Sill"),
    ("activity_type", [["Sill"]]),
    *(("intensity_level", bad) for bad in (["None"], ["Huge"], ["High", "Low"], [], [3], None)),
    *(("phase", bad) for bad in ("Rest", "None", "Eruption", None)),
    *(("confidence", bad) for bad in (1.5, -0.1, float("nan"), "0.8", True)),
    *(("caption", bad) for bad in ("", "   ", None, "a\x1b[31m", "\ud800", "x" * 10_001)),
    *(("segmentation_mask", bad) for bad in (None, [], {}, "x", [SQUARE, SQUARE])),
    *(
        ("segmentation_mask", [bad])
        for bad in (
            SQUARE[:-1],
            SQUARE[:4],
            [5.0, 5.0] * 4,
            [0.0, 0.0, 1.0, 1.0, 2.0, 2.0],
            [float("nan"), *SQUARE[1:]],
            [float("inf"), *SQUARE[1:]],
            [-1.0, *SQUARE[1:]],
            [10**400, *SQUARE[1:]],
            [True, *SQUARE[1:]],
            ["10", *SQUARE[1:]],
            [[1.0, 2.0], [3.0]],
            [SQUARE, SQUARE],
            {},
            [],
        )
    ),
    ("los_sense", ["up"]),
    ("los_sense", []),
    ("caption", MISSING),
    ("surprise", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"), BAD_FIELDS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BAD_FIELDS)]
)
def test_bad_field_is_one_line_that_names_source_and_field(field, value):
    rules = Counter()
    with pytest.raises(HephError) as caught:
        parse_annotation(make_record(**{"glacier_fringes": 2} | {field: value}), "7.json", rules)
    message = str(caught.value)
    assert message.startswith("7.json")
    assert field in message
    assert "\n" not in message
    assert message.isprintable()
    assert not rules, "the rules of a rejected record are not counted"


@pytest.mark.parametrize(
    "frame_id",
    ["..", "a/b", "124D_04854_171313\n", "124d_04854_171313", "\uff1124D_04854_171313"],
)
def test_a_frame_id_is_safe_as_a_folder_name(frame_id):
    with pytest.raises(HephError, match=r"^image\.png: .*LiCSAR"):
        check_frame_id(frame_id, "image.png")


def events():
    number = st.floats(0, 5000, width=32)
    corner = st.tuples(number, number)
    # A triangle of legs of at least 1 px encloses an area whatever its corner is.
    triangle = st.builds(
        lambda p, a, b: (p, (p[0] + a, p[1]), (p[0], p[1] + b)),
        corner,
        st.floats(1, 99),
        st.floats(1, 99),
    )
    return st.builds(
        lambda kind, intensity, polygon, sense: Event(
            kind, None if kind == "earthquake" else intensity, polygon, sense
        ),
        st.sampled_from(ACTIVITY_TYPES),
        st.sampled_from((*INTENSITIES, None)),
        st.none() | triangle,
        st.sampled_from(("toward", "away", "unknown")),
    )


@st.composite
def annotations(draw):
    found = tuple(draw(st.lists(events(), max_size=4)))
    kinds = {event.type for event in found}
    label = ("Deformation",) * bool(kinds - {"earthquake"})
    label += ("Earthquake",) * ("earthquake" in kinds)
    phases = {(): ["rest"], ("Earthquake",): ["none"]}
    first, days = draw(st.dates(date(1, 1, 1), date(9000, 1, 1))), draw(st.integers(1, 2000))
    flag = st.booleans()
    return Annotation(
        unique_id=draw(st.integers(0, 2**63 - 1)),
        frame_id=draw(st.sampled_from(("144A_SM_REUN_S6", "124D_04854_171313"))),
        primary_date=first,
        secondary_date=date.fromordinal(first.toordinal() + days),
        corrupted=draw(flag),
        processing_error=draw(st.sampled_from(("none", "debursting", "swath_merging"))),
        glacier_fringes=draw(flag),
        orbital_fringes=draw(flag),
        atmosphere=draw(st.integers(0, 3)),
        low_coherence=draw(flag),
        no_info=draw(flag),
        image_artifacts=draw(flag),
        label=label or ("Non_Deformation",),
        events=found,
        volcano_phase=draw(st.sampled_from(phases.get(label, ["unrest", "rebound"]))),
        confidence=draw(st.floats(0, 1)),
        is_crowd=draw(flag),
        caption=draw(st.from_regex(r"\A\w+( \w+){0,5}\Z").filter(str.isprintable)),
    )


@settings(deadline=None, max_examples=60)
@given(annotations())
def test_record_and_back(item):
    record = json.loads(json.dumps(item.to_record()))
    again, rules = parse(record)
    assert again == item
    assert set(rules) <= {*CONVENTIONS, "is_crowd_disagrees"}
    assert again.to_record() == record
    assert ("los_sense" in record) == any(e.los_sense != "unknown" for e in item.events)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from([*make_record(), "los_sense"]), JSON, min_size=1))
def test_any_json_value_is_a_record_or_one_line(changes):
    try:
        item, _ = parse(make_record(**changes))
    except HephError as error:
        message = str(error)
    else:
        message = "7.json"
        assert parse(item.to_record())[0] == item
    assert message.startswith("7.json")
    assert "\n" not in message


def dumps(**changes):
    return json.dumps(make_record(**changes)).encode()


MEMBERS = {
    "some/deep path/annotations/7.json": dumps(),
    "some/deep path/annotations/12.json": dumps(uniqueID=12, primary_date="20170101"),
}


def write_tar(path, members, mode="w:gz", links=()):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_folder(path, members):
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_keyed(path, members, opener=open):
    records = [json.loads(content) for content in members.values()]
    with opener(path, "wb") as file:
        file.write(json.dumps({str(r["uniqueID"]): r for r in records}).encode())
    return path


WRITERS = {
    "folder": write_folder,
    "a.zip": write_zip,
    "a.tar.gz": write_tar,
    "a.tgz": write_tar,
    "a.tar": lambda path, members: write_tar(path, members, "w"),
    "minicubes.json": write_keyed,
    "minicubes.json.gz": lambda path, members: write_keyed(path, members, gzip.open),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_container_gives_the_same_records(tmp_path, name):
    found = read_annotations(WRITERS[name](tmp_path / name, MEMBERS))
    assert [item.unique_id for item in found.annotations] == [7, 12]
    assert found.annotations[0] == parse(make_record())[0]
    assert not found.problems
    assert not found.rules


def test_one_record_in_one_file(tmp_path):
    (tmp_path / "7.json").write_bytes(dumps())
    assert [item.unique_id for item in read_annotations(tmp_path / "7.json").annotations] == [7]


def test_a_folder_that_holds_annotations_is_read_from_there(tmp_path):
    write_folder(tmp_path, {"annotations/7.json": dumps(), "frame/other.json": b"{}"})
    found = read_annotations(tmp_path)
    assert len(found.annotations) == 1
    assert not found.problems


def test_other_files_are_counted(tmp_path):
    side = {"__MACOSX/._7.json": b"\0\5", "README.md": b"x"}
    found = read_annotations(write_zip(tmp_path / "a.zip", MEMBERS | side))
    assert found.rules == {"macos_resource_fork_ignored": 1, "other_file_ignored": 1}
    assert len(found.annotations) == 2
    assert not found.problems


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("3.json", dumps(uniqueID=3)[:-40], "not JSON"),
        ("3.json", b'"' + b"[" * 10, "not JSON"),
        ("3.json", b"[" * 100_000, "not JSON"),
        ("3.json", b"\xff\xfe" + dumps(), "UTF-8"),
        ("3.json", b"[1, 2]", "no record"),
        ("3.json", b"{}", "no field uniqueID"),
        ("3.json", dumps(uniqueID=4), "4 in a file named 3"),
        ("3.json", dumps()[:-1] + b', "phase": "Rest"}', "'phase' occurs twice"),
        ("b/7.json", dumps(), "7 occurs twice"),
        ("3.json", dumps(uniqueID=3), "same pair as"),
        ("3.json", b" " * (4 * 2**20 + 1), "more than the 4,194,304 allowed"),
        ("../3.json", dumps(uniqueID=3), "leads out"),
        ("a/../../3.json", dumps(uniqueID=3), "leads out"),
        ("/etc/3.json", dumps(uniqueID=3), "leads out"),
        ("..\\3.json", dumps(uniqueID=3), "leads out"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("writer", [write_tar, write_zip])
def test_bad_member_is_left_out_and_listed(tmp_path, writer, name, content, what):
    path = writer(tmp_path / "archive", {"7.json": dumps(), name: content})
    before = sorted(tmp_path.rglob("*"))
    found = read_annotations(path)
    assert [item.pair_name for item in found.annotations] == ["20170928_20171115"]
    assert len(found.problems) == 1
    message = str(found.problems[0])
    assert what in message
    assert "json" in message
    assert "archive" in message
    assert sorted(tmp_path.rglob("*")) == before, "nothing is extracted"
    with pytest.raises(HephError) as caught:
        read_annotations(path, strict=True)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_problems(tmp_path, kind):
    found = read_annotations(write_tar(tmp_path / "a.tar.gz", MEMBERS, links=[("9.json", kind)]))
    assert len(found.annotations) == 2
    assert [problem.what for problem in found.problems] == ["a link or a device, not a plain file"]


def test_link_in_a_zip_is_a_problem(tmp_path):
    link = zipfile.ZipInfo("9.json")
    link.external_attr = 0o120777 << 16
    write_zip(tmp_path / "a.zip", MEMBERS)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr(link, "/etc/passwd")
    found = read_annotations(tmp_path / "a.zip")
    assert len(found.annotations) == 2
    assert "a link" in found.problems[0].what


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_cut_tar_keeps_what_is_whole_and_says_so(tmp_path, mode, kept):
    noise = random.Random(0)  # does not compress: half of the file is half of the records
    members = {
        f"{i}.json": dumps(
            uniqueID=i, primary_date=f"2016{i:04}", caption=noise.randbytes(99).hex()
        )
        for i in range(101, 113)
    }
    path = write_tar(tmp_path / "a.tar", members, mode)
    size = len(path.read_bytes().rstrip(b"\0")) if mode == "w" else path.stat().st_size
    path.write_bytes(path.read_bytes()[: int(size * kept)])
    found = read_annotations(path)
    assert 0 < len(found.annotations) <= 12
    assert any("damaged or cut short" in problem.what for problem in found.problems)


def test_tar_that_ends_between_two_members_is_cut(tmp_path):
    path = write_tar(tmp_path / "a.tar", MEMBERS, "w")
    path.write_bytes(path.read_bytes()[: 512 + -(-len(dumps()) // 512) * 512])
    found = read_annotations(path)
    assert len(found.annotations) == 1
    assert "cut short" in found.problems[0].what


def test_cut_zip_is_one_line(tmp_path):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    path.write_bytes(path.read_bytes()[:-30])
    found = read_annotations(path)
    assert not found.annotations
    assert "cut short" in found.problems[0].what


def test_gzip_of_several_streams_is_one_file(tmp_path):
    text = dumps()
    parts = gzip.compress(text[:100]) + gzip.compress(text[100:]) + b"\0" * 100
    (tmp_path / "7.json.gz").write_bytes(parts)
    assert read_annotations(tmp_path / "7.json.gz").annotations == [parse(make_record())[0]]


def test_gzip_bomb_is_refused_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr("heph_vl.data.documents.MAX_TOTAL", 10_000)
    with gzip.open(tmp_path / "bomb.json.gz", "wb") as file:
        file.write(b" " * 3_000_000)
    with pytest.raises(HephError, match="more than the 10,000 allowed"):
        read_annotations(tmp_path / "bomb.json.gz")


def test_keyed_object_names_the_key(tmp_path):
    good, bad = make_record(), make_record(uniqueID=8, phase="Rest", primary_date="20160101")
    (tmp_path / "a.json").write_text(json.dumps({"7": good, "8": bad, "9": None, "x": good}))
    found = read_annotations(tmp_path / "a.json")
    assert [item.unique_id for item in found.annotations] == [7]
    assert [problem.where.rpartition("a.json: ")[2] for problem in found.problems] == [
        "8: phase",
        "9",
        "x: uniqueID",
    ]


def test_key_that_occurs_twice_in_a_keyed_object(tmp_path):
    other = dumps(primary_date="20160101").decode()
    (tmp_path / "a.json").write_text(f'{{"7": {dumps().decode()}, "7": {other}}}')
    found = read_annotations(tmp_path / "a.json")
    assert [item.primary_date.year for item in found.annotations] == [2017]
    assert "7 occurs twice" in str(found.problems[0])


@pytest.mark.parametrize("make", ["missing", "empty folder", "empty tar", "empty zip", "pictures"])
def test_nothing_to_read_is_an_error(tmp_path, make):
    path = tmp_path / "input"
    if make == "empty folder":
        path.mkdir()
    elif make == "empty tar":
        write_tar(path, {})
    elif make == "empty zip":
        write_zip(path, {})
    elif make == "pictures":
        write_folder(path, {"a/b.png": b"x"})
    with pytest.raises(HephError, match=r"input: no (such file|annotation)"):
        read_annotations(path)


def test_linked_folder_is_reported(tmp_path):
    write_folder(tmp_path / "elsewhere", {"8.json": dumps(uniqueID=8)})
    write_folder(tmp_path / "in", {"7.json": dumps()})
    (tmp_path / "in" / "more").symlink_to(tmp_path / "elsewhere")
    found = read_annotations(tmp_path / "in")
    assert len(found.annotations) == 1
    assert "not followed" in found.problems[0].what


@pytest.mark.real_data
def test_all_real_annotations(real_annotations):
    assert len(real_annotations.annotations) == 19_919
    assert real_annotations.problems == []
    assert real_annotations.rules == {
        "caption_whitespace": 18_118,
        "processing_error_2_is_debursting": 172,
        "processing_error_3_is_swath_merging": 324,
        "intensity_none_string": 55,
        "glacier_2_is_1": 1,
        "fewer_polygons_than_activities": 2,
        "fewer_intensities_than_activities": 1,
        "is_crowd_disagrees": 2,
    }
    by_id = {item.unique_id: item for item in real_annotations.annotations}
    assert [(e.type, e.intensity, bool(e.polygon)) for e in by_id[850].events] == [
        ("sill", "high", True),
        ("mogi", None, False),
    ]
    assert [(e.type, e.intensity, bool(e.polygon)) for e in by_id[6176].events] == [
        ("dyke", "high", False),
        ("sill", "low", True),
    ]


@pytest.mark.real_data
def test_real_record_and_back(real_annotations):
    rules = Counter()
    for item in real_annotations.annotations:
        assert parse_annotation(item.to_record(), "x", rules) == item
    assert rules == {
        "processing_error_2_is_debursting": 172,
        "processing_error_3_is_swath_merging": 324,
        "intensity_none_string": 55,
        "is_crowd_disagrees": 2,
    }
