"""The part of a report on captions: the model beside a constant, a neighbour and the heads."""

from collections.abc import Sequence

from eval.report_cells import ABSENT, EXPLAINED, estimate, number, words
from eval.report_files import Result, same_split, who, who_head
from eval.report_plots import bars, reliability
from heph_vl import page

_SYSTEMS = {"constant": "constant", "neighbour": "nearest neighbour", "heads": "heads -> facts",
            "true facts": "true facts"}  # fmt: skip
_SIDES = {
    "all": "all images",
    "deformation": "images with deformation",
    "none": "images without deformation",
}
_FACTS = (
    *("fact_precision", "fact_recall", "fact_f1", "deformation_precision", "deformation_recall"),
    *("deformation_f1", "type_f1", "intensity_f1", "place_f1", "atmosphere_f1", "noise_f1"),
    *("flags_f1", "no_deformation_f1", "exact", "hallucination", "miss"),
)
_DRAWN = ("fact_f1", "deformation_f1", "type_f1", "intensity_f1", "place_f1", "atmosphere_f1",
          "noise_f1", "exact")  # fmt: skip
_MEANT = {
    "exact": "all facts equal",
    "hallucination": "without deformation, given one (less is better)",
    "miss": "with deformation, given none (less is better)",
}
_NOTE = (
    "Facts are read off both captions and compared. The constant caption is the commonest of "
    "training, the nearest neighbour's that of the training image most alike; heads -> facts puts "
    "labels and masks into words; true facts are the references, read and said again. The "
    "difference is to heads -> facts where that is there, else to the constant. "
)


def section(results: Sequence[Result]) -> str:
    """Captions of all results side by side: by facts, by words, and how sure they were.

    Args:
        results: Of captions, at least one.

    Returns:
        Markup.
    """
    parts = [same_split(results), *(_missing(result) for result in results)]
    parts += [_bars(results), _table(results, "all", facts=True)]
    parts.append(page.paragraph(_NOTE + EXPLAINED, faint=True))
    parts.append(
        page.details("By words: n-grams of all images", _table(results, "all", facts=False))
    )
    for side in ("deformation", "none"):
        if any(result.values["sides"].get(side, {}).get("images") for result in results):
            body = _table(results, side, facts=True) + _table(results, side, facts=False)
            parts.append(page.details(f"Only {_SIDES[side]}", body))
    return "".join([*parts, _confidence(results), _commonest(results)])


def _missing(result: Result) -> str:
    systems = _systems([result], "all")
    lacks = {
        "confidences": bool(result.values.get("confidence")),
        "nearest neighbour (a captioner and a training split have one)": "neighbour" in systems,
        "heads -> facts (evaluate with --heads)": "heads" in systems,
    }
    missing = [name for name, there in lacks.items() if not there]
    return page.missing(f"{result.name} holds no {', no '.join(missing)}.") if missing else ""


def _systems(results: Sequence[Result], side: str) -> list[str]:
    """The baselines that any result has."""
    found: dict[str, None] = {}
    for result in results:
        for entry in result.values["sides"].get(side, {}).get("metrics", {}).values():
            found |= dict.fromkeys(entry["systems"])
    return [name for name in _SYSTEMS if name in found]


def _table(results: Sequence[Result], side: str, *, facts: bool) -> str:
    baselines = _systems(results, side)
    there = [r for r in results if r.values["sides"].get(side, {}).get("images")]
    metrics = dict.fromkeys(m for r in there for m in r.values["sides"][side]["metrics"])
    rows = []
    for metric in [m for m in metrics if (m in _FACTS) == facts]:
        for result in there:
            entry = result.values["sides"][side]["metrics"].get(metric)
            if entry is None:
                continue
            systems = entry["systems"]
            gain = entry.get("minus_heads", entry.get("minus_constant"))
            others = [number(systems[b]["value"]) if b in systems else ABSENT for b in baselines]
            label = _MEANT.get(metric, words(metric).replace(" f1", " F1"))
            rows.append(
                [
                    label,
                    *who(results, result),
                    *estimate(systems["model"]),
                    *others,
                    *estimate(gain, "+.3f"),
                ]
            )
    if facts and there:
        for result in there:
            distinct = result.values["sides"][side]["distinct"]
            others = [str(distinct.get(name, ABSENT)) for name in baselines]
            rows.append(
                [
                    "distinct captions",
                    *who(results, result),
                    str(distinct["model"]),
                    "",
                    *others,
                    "",
                    "",
                ]
            )
    first = there[0].values["sides"][side]
    title = f"{'By facts' if facts else 'By words'}: {_SIDES[side]}, {first['images']} images of "
    title += f"{first['groups']} groups of volcanoes"
    head = ["", *who_head(results), "value", "95 %", *(_SYSTEMS[b] for b in baselines),
            "difference", "95 %"]  # fmt: skip
    return page.table(head, rows, caption=title)


def _bars(results: Sequence[Result]) -> str:
    sides = [result.values["sides"]["all"]["metrics"] for result in results]
    metrics = [m for m in _DRAWN if any(m in side for side in sides)]
    models = {
        result.name: [
            (None, None)
            if metric not in side
            else tuple(side[metric]["systems"]["model"][k] for k in ("value", "interval"))
            for metric in metrics
        ]
        for result, side in zip(results, sides, strict=True)
    }
    ticks = {
        _SYSTEMS[name]: [
            sides[0][m]["systems"].get(name, {"value": None})["value"] if m in sides[0] else None
            for m in metrics
        ]
        for name in _systems(results[:1], "all")
        if name != "true facts"
    }
    labels = [words(m).replace(" f1", " F1") for m in metrics]
    caption = "Facts told and missed, all images, with 95 % intervals; marks are baselines"
    return bars(labels, models, ticks, "F1, or share", caption)  # type: ignore[arg-type]


def _confidence(results: Sequence[Result]) -> str:
    """How often facts are right by how sure the captioner is of them."""
    there = [r for r in results if r.values.get("confidence")]
    if not there:
        return ""
    rows, plots = [], []
    for name in ("all", "deformation"):
        lines = {}
        for result in there:
            one = result.values["confidence"].get(name)
            if one is None:
                continue
            lines[result.name] = [
                {"probability": b["mean"], "share": b["right"], "images": b["facts"]}
                for b in one["quarters"]
            ]
            told = [number(one[key]) for key in ("right", "auroc", "ece")]
            label = "all facts" if name == "all" else "facts on deformation"
            rows.append([label, result.name, str(one["facts"]), *told])
        if lines:
            what = "all facts" if name == "all" else "facts on deformation"
            plots.append(reliability(lines, "confidence", "share that is right", what))
    head = ["", "model", "facts told", "right", "AUROC", "ECE"]
    note = (
        "Dotted: calibrated. One dot for each quarter of confidence; larger ones hold more facts."
    )
    return (
        page.heading("Are confident facts right")
        + page.table(head, rows)
        + page.paragraph(note, faint=True)
        + page.grid(plots, least="18rem")
    )


def _commonest(results: Sequence[Result]) -> str:
    """What each system says most often: a captioner that always says one thing is seen here."""
    parts = []
    for result in results:
        said = {f"{result.name}, {name}": text for name, text in result.values["commonest"].items()}
        parts.append(page.facts(said))
    return page.details("The commonest caption of each", "".join(parts))
