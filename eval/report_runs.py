"""The part of a report on training runs and other flat results: numbers and curves."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.report_cells import ABSENT, estimate, number, words
from eval.report_files import Result
from eval.report_plots import curves
from heph_vl import page

_LONG = 40  # rows: a longer table opens on a click
_LEAST = 2  # points that make a curve
_NO_CURVE = ("lr", "samples_per_s", "data_wait", "step", "grad_norm")


def section(results: Sequence[Result]) -> str:
    """What runs measured at their end, and how they got there.

    Args:
        results: Of training, at least one.

    Returns:
        Markup.
    """
    note = "As each file tells them; where it holds no baseline, evaluation on a split has one."
    parts = [flat(some) + training_curves(some) for some in _alike(results)]
    return page.paragraph(note, faint=True) + "".join(parts)


def _alike(results: Sequence[Result]) -> list[list[Result]]:
    """Results that measure the same things, which is what can be compared."""
    groups: list[tuple[set[str], list[Result]]] = []
    for result in results:
        names = {name for name, _ in _numbers(_told(result))}
        for known, some in groups:
            if 2 * len(known & names) >= min(len(known), len(names)):
                some.append(result)
                break
        else:
            groups.append((names, [result]))
    return [some for _, some in groups]


def flat(results: Sequence[Result]) -> str:
    """Every number of some results by name, one column each.

    Args:
        results: Of any kind.

    Returns:
        Markup.
    """
    numbers = [dict(_numbers(_told(result))) for result in results]
    names = list(dict.fromkeys(name for found in numbers for name in found))
    rows = [[words(name), *(_cell(found.get(name)) for found in numbers)] for name in names]
    titles = []
    for result in results:
        label = result.values.get("label") or result.values.get("split")
        titles.append(f"{result.name}: {label}" if isinstance(label, str) else result.name)
    title = "; ".join(titles)
    table = page.table(["", *(r.name for r in results)], rows, caption=title)
    return table if len(rows) <= _LONG else page.details(f"{len(rows)} numbers of {title}", table)


def patches(results: Sequence[Result]) -> str:
    """Classifiers of patches (training/train_table4.py) beside the majority.

    Args:
        results: Of patches, at least one.

    Returns:
        Markup.
    """
    rows = []
    for metric in dict.fromkeys(m for r in results for m in r.values["metrics"]):
        for result in results:
            found = result.values["metrics"].get(metric)
            if found is not None:
                cells = [*estimate(found), number(found["majority"])]
                rows.append([words(metric), result.name, *cells])
    head = ["", "run", "value", "95 %", "majority"]
    return page.table(head, rows) + training_curves(results)


def training_curves(results: Sequence[Result]) -> str:
    """The loss and what was measured on validation, over the steps; all runs in each plot.

    Args:
        results: Those with a metrics.jsonl are drawn.

    Returns:
        Markup; a line that says so where there is no curve.
    """
    there = [result for result in results if result.curve]
    names = dict.fromkeys(n for r in there for line in r.curve for n in line)
    main: list[str] = []
    rest: list[str] = []
    for name in names:
        if name in _NO_CURVE:
            continue
        lines = {
            r.name: points for r in there if len((points := _points(r.curve, name))[0]) >= _LEAST
        }
        if lines:
            drawn = curves(lines, "step", words(name))
            (main if name == "loss" or name.startswith("val_") else rest).append(drawn)
    if not main and not rest:
        return page.missing("No training curves: no metrics.jsonl beside these results.")
    more = page.details("All that was logged", page.grid(rest, least="18rem")) if rest else ""
    return page.heading("Training curves") + page.grid(main, least="18rem") + more


def settings(results: Sequence[Result]) -> str:
    """config.yaml of each run that has one."""
    return "".join(
        page.details(f"Settings of {r.name}", page.preformatted(r.config))
        for r in results
        if r.config
    )


def _told(result: Result) -> Mapping[str, Any]:
    if result.kind in ("real_patches", "real_captions"):
        summary: Mapping[str, Any] = result.values["summary"]
        return summary
    return result.values


def _numbers(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and name != "per_group":
            yield from _numbers(value, f"{before}{name}, ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield before + name, value


def _cell(value: float | None) -> str:
    if value is None:
        return ABSENT
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _points(curve: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    found = {line["step"]: line[name] for line in curve
             if isinstance(line.get(name), int | float)}  # fmt: skip
    return list(found), list(found.values())
