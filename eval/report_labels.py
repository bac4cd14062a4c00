"""The part of a report on labels and masks: classes beside the majority, curves, confusion."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval.report_cells import ABSENT, EXPLAINED, estimate, number, words
from eval.report_files import Result, same_split, who, who_head
from eval.report_plots import confusion, precision_recall, reliability
from heph_vl import page

TASKS = {
    "deformation": "Deformation",
    "activity_types": "Types of activity",
    "intensities": "Intensity",
    "volcano_phase": "Phase of the volcano",
    "atmosphere": "Atmosphere",
    "quality": "Quality",
}
_CONFUSED = ("activity_types", "intensities", "atmosphere", "volcano_phase")
_METRICS = ("accuracy", "precision", "recall", "f1", "auroc", "average_precision", "ece")
_SHORT = {"average_precision": "average precision", "auroc": "AUROC", "f1": "F1", "ece": "ECE",
          "iou": "IoU", "iou_image": "IoU per image", "f1_image": "F1 per image"}  # fmt: skip
_AGAIN = "evaluate again with eval/evaluate.py to have them"


def section(results: Sequence[Result]) -> str:
    """Labels of all results side by side.

    Args:
        results: Of labels, at least one.

    Returns:
        Markup.
    """
    tasks = [name for name in TASKS if any(_classes(r, name) for r in results)]
    parts = [same_split(results), *(_missing(result) for result in results)]
    parts += [_detailed(results, name) for name in tasks if name == "deformation"]
    parts += [_table(results, name) for name in tasks if name != "deformation"]
    parts.append(page.paragraph(_NOTE + EXPLAINED, faint=True))
    parts += [_curves(results, tasks), _reliability(results, tasks), _confusion(results)]
    parts += [_masks(results), _by_group(results)]
    return "".join(parts)


_NOTE = (
    "The majority is a constant answer: what most training images have, with their share as its "
    "probability; its average precision is the share of the class. ECE is the calibration error "
    "in bins of equal mass; smaller is better. "
)


def _missing(result: Result) -> str:
    """One line on what an older file lacks."""
    lacks = []
    classes = [c for task in TASKS for c in _classes(result, task).values() if c["support"]]
    if not any("curve" in c for c in classes):
        lacks += ["points of precision-recall curves", "bins of reliability"]
    if not any("confusion" in result.values["tasks"].get(task, {}) for task in _CONFUSED):
        lacks.append("confusion matrices")
    if "segmentation" not in result.values["tasks"]:
        lacks.append("masks")
    return page.missing(f"{result.name} holds no {', no '.join(lacks)}: {_AGAIN}.") if lacks else ""


def _detailed(results: Sequence[Result], task: str) -> str:
    """One yes/no question: all its metrics, with the majority and the difference to it."""
    rows = []
    for metric in _METRICS:
        for result in results:
            one = _classes(result, task).get(task)
            compared = None if one is None else one["metrics"][metric]
            if compared is None:
                continue
            cells = [*estimate(compared["model"]), number(compared["majority"]),
                     *estimate(compared["minus_majority"], "+.3f")]  # fmt: skip
            rows.append([_SHORT.get(metric, metric), *who(results, result), *cells])
    one = next(c for r in results if (c := _classes(r, task)))[task]
    title = f"{TASKS[task]}: {one['support']} of {one['support'] + one['negatives']} images"
    head = ["", *who_head(results), "value", "95 %", "majority", "difference", "95 %"]
    return page.heading(TASKS[task]) + page.table(head, rows, caption=title)


def _table(results: Sequence[Result], task: str) -> str:
    """Every class of a question, and their mean."""
    rows: list[list[str]] = []
    names = list(dict.fromkeys(name for r in results for name in _classes(r, task)))
    for name in names:
        for result in results:
            one = _classes(result, task).get(name)
            if one is not None:
                rows.append([words(name), *who(results, result), *_class_cells(one)])
    for result in results:
        mean = result.values["tasks"].get(task, {}).get("macro")
        if mean is not None:
            label = f"mean of {len(mean['classes'])}"
            cells = _metric_cells(mean["metrics"])
            rows.append([label, *who(results, result), "", "", *cells])
    head = ["", *who_head(results), "images", "told", "precision", "recall", "F1", "AUROC",
            "average precision", "95 %", "majority", "ECE"]  # fmt: skip
    return page.heading(TASKS[task]) + page.table(head, rows, caption=_accuracy(results, task))


def _class_cells(one: Mapping[str, Any]) -> list[str]:
    return [str(one["support"]), str(one["predicted"]), *_metric_cells(one["metrics"])]


def _metric_cells(metrics: Mapping[str, Any]) -> list[str]:
    values = [_value(metrics.get(name)) for name in ("precision", "recall", "f1", "auroc")]
    ap = metrics.get("average_precision")
    both = [ABSENT, ABSENT] if ap is None else estimate(ap["model"])
    floor = ABSENT if ap is None else number(ap["majority"])
    return [*values, *both, floor, _value(metrics.get("ece"))]


def _accuracy(results: Sequence[Result], task: str) -> str:
    said = []
    for result in results:
        scored = result.values["tasks"].get(task, {})
        who = f"{result.name}: " if len(results) > 1 else ""
        if "accuracy" in scored:
            model, sure = estimate(scored["accuracy"]["model"])
            floor = number(scored["accuracy"]["majority"])
            said.append(f"{who}{scored['images']} images, accuracy {model} ({sure}), "
                        f"majority {floor}")  # fmt: skip
        elif "images" in scored:
            said.append(f"{who}{scored['images']} images with a known label")
    return "; ".join(said)


def _curves(results: Sequence[Result], tasks: Sequence[str]) -> str:
    def draw(task: str, name: str) -> str:
        lines, share = {}, 0.0
        for result in results:
            one = _classes(result, task).get(name, {})
            if "curve" in one:
                lines[result.name] = one["curve"]
                share = one["support"] / (one["support"] + one["negatives"])
        return precision_recall(lines, share, _titled(results, lines, name)) if lines else ""

    note = "Dotted: the share of the class, which a constant or random answer has."
    return _panels(results, tasks, "Precision and recall", note, draw)


def _reliability(results: Sequence[Result], tasks: Sequence[str]) -> str:
    def draw(task: str, name: str) -> str:
        lines = {
            r.name: one["reliability"]
            for r in results
            if "reliability" in (one := _classes(r, task).get(name, {}))
        }
        labels = "probability said", "share that has it"
        return reliability(lines, *labels, _titled(results, lines, name)) if lines else ""

    note = "Dotted: calibrated. Bins of equal mass; larger dots hold more images."
    return _panels(results, tasks, "Reliability of probabilities", note, draw)


def _titled(results: Sequence[Result], lines: Mapping[str, Any], name: str) -> str:
    """The class, and whose it is where only one of several is drawn: that has no legend."""
    alone = len(lines) == 1 and len(results) > 1
    return f"{words(name)}, {next(iter(lines))}" if alone else words(name)


def _panels(
    results: Sequence[Result], tasks: Sequence[str], title: str, note: str, draw: Any
) -> str:
    """A plot of each class: of deformation and types at once, of the others on a click."""
    drawn: dict[str, list[str]] = {}
    for task in tasks:
        names = dict.fromkeys(name for r in results for name in _classes(r, task))
        drawn[task] = [plot for name in names if (plot := draw(task, name))]
    first = [plot for task in ("deformation", "activity_types") for plot in drawn.get(task, [])]
    rest = {t: plots for t, plots in drawn.items()
            if plots and t not in ("deformation", "activity_types")}  # fmt: skip
    if not first and not rest:
        return ""
    parts = [page.heading(title), page.paragraph(note, faint=True), page.grid(first, least="18rem")]
    parts += [
        page.details(f"{title}: {TASKS[task].lower()}", page.grid(plots, least="18rem"))
        for task, plots in rest.items()
    ]
    return "".join(parts)


def _confusion(results: Sequence[Result]) -> str:
    plots = []
    for task in _CONFUSED:
        for result in results:
            found = result.values["tasks"].get(task, {}).get("confusion")
            if found is None:
                continue
            who = f", {result.name}" if len(results) > 1 else ""
            out = f"; {found['several']} images of several are left out" if found["several"] else ""
            plots.append(confusion(found["classes"], found["counts"], f"{TASKS[task]}{who}{out}"))
    if not plots:
        return ""
    note = "Images by truth (rows) and by what is told (columns): the most probable of what is "
    note += "decided on. Colour is the share of the row."
    return (
        page.heading("What is taken for what")
        + page.paragraph(note, faint=True)
        + page.grid(plots, least="18rem")
    )


def _masks(results: Sequence[Result]) -> str:
    rows = []
    there = [r for r in results if "classes" in r.values["tasks"].get("segmentation", {})]
    if not there:
        return ""
    names = list(dict.fromkeys(
        n for r in there for n in r.values["tasks"]["segmentation"]["classes"]))  # fmt: skip
    for name in names:
        for result in there:
            one = result.values["tasks"]["segmentation"]["classes"].get(name)
            if one is None:
                continue
            metrics = one["metrics"]
            cells = [str(one["support"]), *_against(metrics.get("iou"))]
            cells += [_value(metrics.get(m)) for m in ("f1", "iou_image", "f1_image")]
            rows.append([words(name), *who(results, result), *cells])
    head = ["", *who_head(results), "images", "IoU", "95 %", "empty mask", "F1",
            "IoU per image", "F1 per image"]  # fmt: skip
    parts = [page.heading("Masks"), page.table(head, rows, caption="Masks by class, in pixels")]
    alarms = []
    for result in there:
        for name, compared in result.values["tasks"]["segmentation"]["false_alarms"].items():
            alarms.append([_ALARMS[name], *who(results, result), *_against(compared)])
    head = ["", *who_head(results), "value", "95 %", "empty mask"]
    return "".join([*parts, page.table(head, alarms, caption="Images without deformation")])


_ALARMS = {
    "false_area": "share of the area that is masked",
    "false_alarm_images": "share of images with a mask",
}


def _by_group(results: Sequence[Result]) -> str:
    """Deformation by volcano group: a mean hides where it fails."""
    rows, shown = [], ("f1", "auroc", "average_precision")
    groups: dict[str, None] = {}
    for result in results:
        one = _classes(result, "deformation").get("deformation")
        if one is not None and one["metrics"]["f1"] is not None:
            groups |= dict.fromkeys(one["metrics"]["f1"]["model"]["per_group"])
    for group in sorted(groups):
        for result in results:
            metrics = _classes(result, "deformation")["deformation"]["metrics"]
            values = [metrics[m] and metrics[m]["model"]["per_group"].get(group) for m in shown]
            rows.append([group, *who(results, result), *map(number, values)])
    head = ["", *who_head(results), *(_SHORT.get(m, m) for m in shown)]
    table = page.table(head, rows, caption="Deformation by group of volcanoes")
    return page.details("Deformation by group of volcanoes", table) if rows else ""


def _classes(result: Result, task: str) -> dict[str, Any]:
    found: dict[str, Any] = result.values["tasks"].get(task, {}).get("classes", {})
    return found


def _against(compared: Mapping[str, Any] | None) -> list[str]:
    if compared is None:
        return [ABSENT] * 3
    return [*estimate(compared["model"]), number(compared["empty"])]


def _value(compared: Mapping[str, Any] | None) -> str:
    return ABSENT if compared is None else number(compared["model"]["value"])
