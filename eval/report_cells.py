"""Numbers of results as cells of tables."""

from collections.abc import Mapping, Sequence
from typing import Any

ABSENT = "-"
EXPLAINED = (
    "Intervals are 95 %, by resampling groups of volcanoes; - where these, or what is asked for, "
    "are too few. Differences use the same resamples."
)


def number(value: float | None, form: str = ".3f") -> str:
    """A value, or that there is none."""
    return ABSENT if value is None else format(value, form)


def interval(edges: Sequence[float] | None, form: str = ".3f") -> str:
    """From the lower to the upper edge."""
    return ABSENT if edges is None else " to ".join(format(edge, form) for edge in edges)


def estimate(found: Mapping[str, Any] | None, form: str = ".3f") -> list[str]:
    """Two cells: a value, and its interval."""
    if found is None:
        return [ABSENT, ABSENT]
    return [number(found["value"], form), interval(found.get("interval"), form)]


def with_error(found: Mapping[str, Any] | None, form: str = ".3f") -> str:
    """One cell: a value and its standard error."""
    if found is None or found["value"] is None:
        return ABSENT
    error = found.get("standard_error")
    return number(found["value"], form) + ("" if error is None else f" ± {error:{form}}")


def words(name: str) -> str:
    """A key for people."""
    return name.replace("_", " ")
