"""Which records are simulated: sampling by kind, chunks, digests."""

from collections import Counter
from dataclasses import replace
from datetime import date, timedelta

import pytest

from heph_vl.data import splits
from heph_vl.data.annotations import Annotation, Event
from heph_vl.errors import HephError
from heph_vl.simulate.place import Site
from heph_vl.simulate.plan import (
    CHUNK,
    LEAST_OF_A_STRATUM,
    choose_records,
    digest_of,
    eligible,
    free_chunks,
    stratum_of,
    twin_chunks,
)

PLAIN = Annotation(
    1, "106A_09090_000404", date(2018, 1, 1), date(2018, 1, 13), False, "none", False, False, 2,
    False, False, False, ("Non_Deformation",), (), "rest", 0.8, False, "Turbulent mixing.",
)  # fmt: skip
FRAMES = ("106A_09090_000404", "128D_09016_110500", "124D_05291_081406")


def many():
    records = []
    for i in range(400):
        record = replace(
            PLAIN,
            unique_id=i,
            frame_id=FRAMES[i % 3],
            secondary_date=PLAIN.primary_date + timedelta(days=6 + i),
        )
        if i % 20 == 0:
            record = replace(record, events=(Event("sill", "low", None),), label=("Deformation",))
        elif i % 50 == 1:
            record = replace(record, corrupted=True)
        elif i == 7:
            record = replace(record, glacier_fringes=True)
        records.append(record)
    return records


def test_kinds():
    sill = Event("sill", "low", None)
    assert stratum_of(PLAIN) == ("atmosphere 2", "clear")
    assert stratum_of(replace(PLAIN, low_coherence=True)) == ("atmosphere 2", "noise")
    assert stratum_of(replace(PLAIN, processing_error="debursting")) == ("debursting",)
    assert stratum_of(replace(PLAIN, corrupted=True)) == ("corrupted",)
    deforming = replace(PLAIN, events=(sill, Event("dyke", None, None), sill), corrupted=True)
    assert stratum_of(deforming) == ("deformation", "dyke", "sill")


def test_stratified_choice_keeps_what_is_rare():
    records = many()
    chosen = choose_records(records, 60, True, 0)
    assert len({a.unique_id for a in chosen}) == 60
    assert [a.unique_id for a in chosen] == sorted(a.unique_id for a in chosen)
    counts = Counter(stratum_of(a) for a in chosen)
    assert counts[("glacier_fringes",)] == 1  # all there is
    assert counts[("corrupted",)] >= LEAST_OF_A_STRATUM
    # 20 deforming ones of 400 would be 3 of 60; by the root of their number they are 11.
    assert 9 <= counts[("deformation", "sill")] <= 13
    frames = Counter(a.frame_id for a in chosen if a.events)
    assert max(frames.values()) - min(frames.values()) <= 1
    assert choose_records(records, 60, True, 0) == chosen
    assert choose_records(records, 60, True, 1) != chosen


def test_plain_choice_is_in_proportion():
    chosen = choose_records(many(), 200, False, 0)
    assert 4 <= sum(bool(a.events) for a in chosen) <= 16
    assert choose_records(many(), 400, False, 0) == many()


@pytest.mark.parametrize("n", [0, -1, 401])
def test_impossible_numbers(n):
    with pytest.raises(HephError, match=f"{n} asked of 400 records"):
        choose_records(many(), n, True, 0)


def test_eligible_of_every_part():
    records = many()
    assert eligible(records, None, False) == records
    test = eligible(records, "test", False)  # the last of the three frames
    assert [a.unique_id for a in test] == list(range(2, 400, 3))
    parts = {name: eligible(records, name, False) for name in ("train", "test")}
    for name, part in parts.items():
        assert part == [a for a in records if splits.grouped_split(a.frame_id) == name]
    assert sum(map(len, parts.values())) == len(records)


def test_eligible_with_deformation():
    records = many()
    assert [a.unique_id for a in eligible(records, None, True)] == list(range(0, 400, 20))
    both = eligible(records, "test", True)
    assert [a.unique_id for a in both] == [i for i in range(0, 400, 20) if i % 3 == 2]


@pytest.mark.parametrize(
    ("split", "deforming", "message"),
    [
        ("val", False, "no record in val"),
        ("val", True, "no record with deformation in val"),
        (None, True, "no record with deformation"),
        ("all", False, "split all: unknown; one of train, val, test"),
    ],
)
def test_none_is_eligible(split, deforming, message):
    records = many() if split else [a for a in many() if not a.events]
    with pytest.raises(HephError, match=message):
        eligible(records, split, deforming)


def test_chunks_hold_every_record_once_frame_by_frame():
    sites = {name: Site(name, (336, 336)) for name in FRAMES}
    chunks = twin_chunks(many(), sites)
    ids = [job.unique_id for chunk in chunks for job in chunk.jobs]
    assert sorted(ids) == list(range(400))
    for chunk in chunks:
        assert len(chunk.jobs) <= CHUNK
        assert chunk.site == sites[chunk.frame_id]
        dates = [job.annotation.secondary_date for job in chunk.jobs]
        assert dates == sorted(dates)
        assert {job.annotation.frame_id for job in chunk.jobs} == {chunk.frame_id}


def test_free_chunks_number_the_pairs_of_each_frame():
    chunks = free_chunks(25, FRAMES[:2])
    assert [chunk.of_frame for chunk in chunks] == [13, 13, 12, 12]
    jobs = [(job.unique_id, job.place_in_frame) for chunk in chunks for job in chunk.jobs]
    assert jobs[:2] == [(1, 0), (2, 1)]
    assert jobs[13] == (14, 0)
    assert len(jobs) == 25


def test_digest_is_of_the_content():
    records = many()
    assert digest_of(records) == digest_of(records[::-1])
    changed = [replace(records[0], caption="Other."), *records[1:]]
    assert digest_of(changed) != digest_of(records)
