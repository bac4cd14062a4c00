"""The filter language: every text either means what it says or is refused with its position."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heph_vl.errors import HephError
from heph_vl.where import MAX_DEPTH, MAX_LENGTH, Both, Comparison, Filter, Kind, Not, parse_where

COLUMNS: dict[str, Kind] = {
    "frame_id": "text",
    "primary_date": "date",
    "atmosphere": "integer",
    "confidence": "number",
    "low_coherence": "flag",
    "activity_types": "list",
}
ROWS = [
    ("A", "2017-12-31", 0, 0.5, True, ["sill"]),
    ("B", "2018-01-01", 1, 0.8, False, ["dyke", "sill"]),
    ("O'Hara", "2019-06-30", 2, 0.8, False, []),
    (None, None, None, None, None, None),
]
TABLE = pa.table(
    {
        name: pa.array([row[i] for row in ROWS], pa.list_(pa.string()) if kind == "list" else None)
        for i, (name, kind) in enumerate(COLUMNS.items())
    }
)


def selected(text: str) -> list[int]:
    mask = parse_where(text, COLUMNS).mask(TABLE)
    assert mask.dtype == bool
    assert mask.shape == (len(ROWS),)
    return [int(i) for i in mask.nonzero()[0]]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("frame_id = 'A'", [0]),
        ("frame_id = 'a'", []),
        ("frame_id != 'A'", [1, 2, 3]),
        ("frame_id = 'O''Hara'", [2]),
        ("frame_id IN ('A', 'B')", [0, 1]),
        ("frame_id not in ('A', 'B')", [2, 3]),
        ("frame_id < 'B'", [0]),
        ("primary_date > '2018'", [1, 2]),
        ("primary_date >= '2018-01-01'", [1, 2]),
        ("primary_date < '2018'", [0]),
        ("primary_date <= '2018-01-01'", [0, 1]),
        ("atmosphere = 1", [1]),
        ("atmosphere > -1", [0, 1, 2]),
        ("atmosphere>=0.5", [1, 2]),
        ("atmosphere < 1e300", [0, 1, 2]),
        ("atmosphere IN (0, 2.0)", [0, 2]),
        ("confidence = .8", [1, 2]),
        ("low_coherence = TRUE", [0]),
        ("low_coherence != true", [1, 2, 3]),
        ("activity_types = 'sill'", [0, 1]),
        ("activity_types != 'sill'", [2, 3]),
        ("activity_types IN ('dyke', 'mogi')", [1]),
        ("activity_types = 'sill' AND NOT activity_types = 'dyke'", [0]),
        # AND binds closer than OR, NOT closer than both.
        ("frame_id = 'A' OR frame_id = 'B' AND atmosphere = 5", [0]),
        ("(frame_id = 'A' OR frame_id = 'B') AND atmosphere = 5", []),
        ("NOT frame_id = 'A' AND frame_id = 'A'", []),
        ("not not frame_id='A'", [0]),
    ],
)
def test_a_filter_selects_what_it_says(text: str, rows: list[int]) -> None:
    assert selected(text) == rows


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 1, "expected a column, found the end"),
        ("   ", 1, "expected a column"),
        ("frame_id", 9, "expected one of = != < <= > >= IN, found the end"),
        ("volcano = 'A'", 1, "unknown column 'volcano'"),
        ("frame_id = 'A", 12, "without its closing quote"),
        ("frame_id = A", 12, "expected a text in single quotes for frame_id, found 'A'"),
        ("frame_id = 3", 12, "expected a text"),
        ("atmosphere = '3'", 14, "expected a number for atmosphere, found '3'"),
        ("low_coherence = 1", 17, "expected TRUE or FALSE"),
        ("low_coherence < TRUE", 15, "has no order"),
        ("activity_types > 'a'", 16, "has no order"),
        ("primary_date > 'yesterday'", 16, "expected a date"),
        ("frame_id = 'A' frame_id = 'B'", 16, "expected AND, OR or the end, found 'frame_id'"),
        ("(frame_id = 'A'", 16, "expected ), found the end"),
        ("frame_id = 'A')", 15, "found ')'"),
        ("frame_id IN ()", 14, "expected a text"),
        ("frame_id IN ('A',)", 18, "expected a text"),
        ("frame_id IN 'A'", 13, "expected (, found 'A'"),
        ("frame_id = 'A'; DROP TABLE images", 15, "unexpected character ';'"),
        ("frame_id = 'A' -- all", 16, "unexpected character '-'"),
        ("frame_id LIKE 'A%'", 10, "expected one of"),
        ("AND frame_id = 'A'", 1, "expected a column"),
        ("'A' = frame_id", 1, "expected a column"),
        ("frame_id == 'A'", 11, "expected a text"),
        ("(" * 100 + "frame_id = 'A'" + ")" * 100, MAX_DEPTH + 1, "deep"),
        ("NOT " * 400 + "frame_id = 'A'", 4 * MAX_DEPTH + 1, "deep"),
    ],
)
def test_a_bad_filter_names_its_position_and_the_columns(
    text: str, position: int, says: str
) -> None:
    with pytest.raises(HephError) as caught:
        parse_where(text, COLUMNS)
    assert caught.value.where == f"filter, character {position}"
    assert says in caught.value.what
    assert caught.value.fix == "columns: " + ", ".join(COLUMNS)


def test_a_filter_too_long_is_refused() -> None:
    text = "frame_id = '" + "x" * MAX_LENGTH + "'"
    with pytest.raises(HephError, match=f"{len(text)} characters"):
        parse_where(text, COLUMNS)


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parse_where(text, COLUMNS).mask(TABLE)
    except HephError:
        return


comparisons = st.one_of(
    st.builds(
        lambda values: Comparison("frame_id", "=", tuple(values)),
        st.lists(st.sampled_from(["A", "B", "O'Hara", "') OR 1"]), min_size=1, max_size=3),
    ),
    st.builds(
        lambda op, value: Comparison("atmosphere", op, (float(value),)),
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.integers(-1, 3),
    ),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    comparisons,
    lambda part: st.one_of(st.builds(Not, part), st.builds(Both, part, part, st.booleans())),
    max_leaves=6,
)


def write(tree: Filter) -> str:
    if isinstance(tree, Not):
        return f"NOT ({write(tree.part)})"
    if isinstance(tree, Both):
        return f"({write(tree.left)}) {'OR' if tree.either else 'AND'} ({write(tree.right)})"
    quoted = [
        "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
        for value in tree.values
    ]
    if len(quoted) > 1:
        return f"{tree.column} IN ({', '.join(quoted)})"
    return f"{tree.column} {tree.operator} {quoted[0]}"


@given(filters)
def test_a_tree_written_out_parses_back(tree: Filter) -> None:
    assert parse_where(write(tree), COLUMNS) == tree
