"""Alerts: two pairs without a common date, on one place, near in time, of one sense."""

from dataclasses import replace
from datetime import date, timedelta

import pytest

from heph_vl.alerts import COLUMNS, Sighting, agree, find_alerts

DAY = date(2020, 1, 1)
FRAME, OTHER_PASS, SAME_PASS = "124D_05291_081406", "044A_05289_081406", "022D_04826_121209"


def square(x: float = 15.0, y: float = 37.7, side: float = 0.02):
    return ((x, y), (x + side, y), (x + side, y + side), (x, y + side))


def sighting(first: int, last: int, frame: str = FRAME, **changes) -> Sighting:
    dates = DAY + timedelta(days=first), DAY + timedelta(days=last)
    seen = Sighting(frame, *dates, f"{first}_{last}.tif", "mogi", 0.9, square(), placed=True)
    return replace(seen, **changes)


def test_two_pairs_of_a_common_date_share_its_air_and_make_no_alert():
    assert find_alerts([sighting(0, 12)]) == []
    assert find_alerts([sighting(0, 12), sighting(12, 24)]) == []
    assert find_alerts([sighting(0, 12), sighting(0, 24), sighting(0, 36)]) == []


def test_two_pairs_without_a_common_date_make_one_on_the_day_both_are_there():
    (alert,) = find_alerts([sighting(12, 36), sighting(0, 24), sighting(0, 48)])
    assert alert.raised == DAY + timedelta(days=36)
    assert len(alert.sightings) == 3
    row = alert.row()
    assert tuple(row) == COLUMNS
    assert row["pairs"] == ["20200101_20200125", "20200101_20200218", "20200113_20200206"]
    assert row["longitude"] == pytest.approx(15.01)
    assert row["volcanoes"] == ["Etna"]
    # The one after another counts as well: nothing overlaps in time, but no date is shared.
    assert find_alerts([sighting(0, 12), sighting(24, 36)])[0].raised == DAY + timedelta(days=36)


def test_a_third_pair_joins_two_that_share_a_date():
    chain = [sighting(0, 12), sighting(12, 24), sighting(24, 36)]
    (alert,) = find_alerts(chain)
    assert len(alert.sightings) == 3
    assert alert.raised == DAY + timedelta(days=36)


@pytest.mark.parametrize(
    "changes",
    [
        {"ring": square(15.015)},  # a quarter of it overlaps
        {"los_sense": "away"},
        {"placed": False},
        {"primary_date": DAY + timedelta(days=86), "secondary_date": DAY + timedelta(days=98)},
    ],
)
def test_what_does_not_agree(changes):
    first, second = sighting(0, 24, los_sense="toward"), sighting(12, 36, los_sense="toward")
    assert agree(first, second)
    assert find_alerts([first, second])
    other = replace(second, **changes)
    assert not agree(first, other)
    assert find_alerts([first, other]) == []


def test_one_broad_pattern_joins_no_places():
    small = sighting(12, 36)
    assert agree(sighting(0, 24, ring=square(14.98, 37.68, 0.058)), small)
    assert not agree(sighting(0, 24, ring=square(14.98, 37.68, 0.062)), small)
    # Of like size and over both: one that shares a date with each joins neither to the other.
    west, east = square(15.0), square(15.03)
    both = ((15.005, 37.7), (15.045, 37.7), (15.045, 37.72), (15.005, 37.72))
    seen = [sighting(a, b, ring=ring) for ring in (west, east) for a, b in ((0, 24), (12, 36))]
    assert len(find_alerts(seen)) == 2
    bridge = [replace(seen[0], secondary_date=DAY + timedelta(days=12), ring=both)]
    found = find_alerts([*seen, *bridge])
    assert len(found) == 2
    assert [len(alert.sightings) for alert in found] == [3, 3]


def test_the_days_between_can_be_chosen():
    pair = [sighting(0, 12), sighting(100, 112)]
    assert find_alerts(pair) == []
    assert len(find_alerts(pair, near_days=88)) == 1
    assert find_alerts(pair, near_days=87) == []


def test_two_places_are_two_alerts_that_keep_their_names():
    west, east = square(), square(15.3)
    seen = [sighting(a, b, ring=ring) for ring in (west, east) for a, b in ((0, 24), (12, 36))]
    alerts = find_alerts(seen)
    assert len({alert.alert_id for alert in alerts}) == 2
    # Whatever comes later, of an earlier first date too, as networks bring it.
    for first, last in ((24, 48), (6, 60), (-30, 40)):
        later = find_alerts([*seen, sighting(first, last, ring=west)])
        assert {alert.alert_id for alert in later} == {alert.alert_id for alert in alerts}


def test_unrest_after_a_long_rest_is_another_alert():
    first = [sighting(0, 24), sighting(12, 36)]
    again = [sighting(100, 124), sighting(112, 136)]
    assert len(find_alerts([*first, *again])) == 2
    assert len(find_alerts([*first, *again, sighting(60, 72)])) == 1


def test_a_single_pair_is_enough_where_that_is_asked():
    assert [a.raised for a in find_alerts([sighting(0, 12)], single=True)] == [
        DAY + timedelta(days=12)
    ]
    shared = [sighting(0, 12), sighting(12, 24)]
    (alert,) = find_alerts(shared, single=True)
    assert len(alert.sightings) == 2


def test_phase_that_follows_height_in_one_pair_only_is_no_warning():
    seen = [sighting(0, 24, height_correlation=0.8), sighting(12, 36, height_correlation=-0.1)]
    assert find_alerts(seen)[0].row()["height_correlation"] == -0.1


def test_the_other_pass_confirms_whatever_its_sense():
    mine = [sighting(a, b, los_sense="toward") for a, b in ((0, 24), (12, 36))]
    theirs = [sighting(a, b, OTHER_PASS, los_sense="away") for a, b in ((3, 27), (15, 39))]
    elsewhere = [sighting(a, b, SAME_PASS) for a, b in ((3, 27), (15, 39))]
    found = {alert.frame_id: alert for alert in find_alerts([*mine, *theirs, *elsewhere])}
    assert found[FRAME].confirmed_by == (OTHER_PASS,)
    assert found[OTHER_PASS].confirmed_by == (SAME_PASS, FRAME)
    far = [replace(s, ring=square(15.5)) for s in theirs]
    assert all(a.confirmed_by == () for a in find_alerts([*mine, *far]))
    unplaced = [replace(s, placed=False) for s in (*mine, *theirs)]
    assert all(a.confirmed_by == () for a in find_alerts(unplaced))


def test_an_outline_that_crosses_itself_is_mended():
    bow = ((15.0, 37.7), (15.02, 37.72), (15.02, 37.7), (15.0, 37.72))
    assert agree(sighting(0, 24, ring=bow), sighting(12, 36))
