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


def test_a_small_pattern_within_a_large_one_agrees():
    large = sighting(0, 24, ring=square(14.9, 37.6, 0.3))
    assert agree(large, sighting(12, 36))


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
    later = find_alerts([*seen, sighting(24, 48, ring=west)])
    assert {alert.alert_id for alert in later} == {alert.alert_id for alert in alerts}


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
