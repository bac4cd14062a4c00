"""The part of a report on retrieval: suites beside their baselines, and sheets of a search."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from eval.report_cells import EXPLAINED, estimate, number, words
from eval.report_files import Result, same_split
from eval.report_plots import bars
from heph_vl import page
from heph_vl.data import captions
from heph_vl.heat import Heat
from heph_vl.index import Hit
from heph_vl.sheet import spotlight

MAIN = "mAP"
SUITES = {
    "captions": "every distinct caption asks, images with equal facts answer",
    "image_to_text": "every image asks, captions with equal facts answer",
    "deformation_captions": "captions that tell a deformation ask",
    "atoms": "single facts ask, images whose facts entail them answer",
    "type_intensity": "type and intensity",
    "type_place": "type and place",
    "negation": "no deformation, alone and with another fact",
}
_METRICS = ("hit@1", "hit@5", "hit@10", "recall@10", "median_rank", "mAP", "nDCG@10")
_BASELINES = {"chance": "chance", "shuffled": "shuffled pairs", "heads_facts": "heads -> facts",
              "true_facts": "true facts"}  # fmt: skip
_NOTE = (
    "Chance is the expectation under a random order; shuffled pairs give the images one another's "
    "embeddings; heads -> facts ranks by what labels and masks make probable; true facts rank by "
    "the captions themselves and are the ceiling. Ties count by expectation. "
)
NUM_HITS = 6
_SIDE = 208  # px of a picture of a sheet


def section(results: Sequence[Result]) -> str:
    """Suites of all results side by side, and each result's every metric.

    Args:
        results: Of retrieval, at least one.

    Returns:
        Markup.
    """
    suites = [name for name in SUITES if any(name in r.values["suites"] for r in results)]
    return "".join(
        [
            same_split(results),
            "".join(page.paragraph(verdict(result)) for result in results),
            _compared(results, suites),
            _bars(results, suites),
            page.paragraph(_NOTE + EXPLAINED, faint=True),
            *(
                page.details(f"All metrics of {r.name}", "".join(_tables(r, suites)))
                for r in results
            ),
        ]
    )


def verdict(result: Result) -> str:
    """Whether a model searches better than without looking, in a sentence."""
    suite = result.values["suites"].get("captions")
    if suite is None:
        return f"{result.name}: no suite of captions."
    metric = suite["metrics"][MAIN]
    gain = metric["minus_shuffled"]
    text = (
        f"{result.name}: mean average precision of captions {number(metric['model']['value'])}; "
        f"shuffled pairs {number(metric['shuffled'])}, chance {number(metric['chance'])}. "
    )
    if gain["interval"] is None:
        return text + "Too few groups of volcanoes for an interval."
    low, high = gain["interval"]
    told = "above" if low > 0 else "below" if high < 0 else "not told apart from"
    return text + f"It is {told} shuffled pairs: {low:+.3f} to {high:+.3f} (95 %)."


def _compared(results: Sequence[Result], suites: Sequence[str]) -> str:
    models = [cell for r in results for cell in (r.name, "95 %")]
    keys = [key for key in _BASELINES if any(_baseline(results, s, key) for s in suites)]
    rows = []
    for name in suites:
        entries = [_entry(r, name) for r in results]
        queries = next(r for r in results if name in r.values["suites"]).values["suites"][name]
        rows.append(
            [
                f"{words(name)} ({queries['num_queries']})",
                *(cell for e in entries for cell in estimate(None if e is None else e["model"])),
                *(number(_baseline(results, name, key)) for key in keys),
            ]
        )
    title = "Mean average precision by suite (number of queries)"
    if len(results) > 1:
        title += f"; baselines of {results[0].name}, or the first that has them"
    return page.table(["", *models, *(_BASELINES[key] for key in keys)], rows, caption=title)


def _bars(results: Sequence[Result], suites: Sequence[str]) -> str:
    models: dict[str, list[tuple[float | None, Sequence[float] | None]]] = {}
    for result in results:
        entries = [_entry(result, name) for name in suites]
        models[result.name] = [
            (None, None) if e is None else (e["model"]["value"], e["model"]["interval"])
            for e in entries
        ]
    ticks = {
        label: [_baseline(results, name, key) for name in suites]
        for key, label in _BASELINES.items()
        if key != "true_facts"
    }
    ticks = {label: values for label, values in ticks.items() if any(v is not None for v in values)}
    caption = "Mean average precision of the suites, with 95 % intervals"
    return bars([words(name) for name in suites], models, ticks, "mean average precision", caption)


def _tables(result: Result, suites: Sequence[str]) -> list[str]:
    made = []
    for name in suites:
        suite = result.values["suites"].get(name)
        if suite is None:
            continue
        keys = [key for key in _BASELINES if key in suite["metrics"][MAIN]]
        head = ["", "model", "95 %", *(_BASELINES[k] for k in keys), "less shuffled", "95 %"]
        rows = []
        for metric in _METRICS:
            if metric not in suite["metrics"]:
                continue
            compared = suite["metrics"][metric]
            form = ".1f" if metric == "median_rank" else ".3f"
            rows.append(
                [
                    words(metric),
                    *estimate(compared["model"], form),
                    *(number(compared.get(key), form) for key in keys),
                    *estimate(compared["minus_shuffled"], "+" + form),
                ]
            )
        title = f"{words(name)}: {SUITES[name]}; {suite['num_queries']} queries"
        made.append(page.table(head, rows, caption=title))
    return made


def _baseline(results: Sequence[Result], suite: str, key: str) -> float | None:
    entries = (_entry(result, suite) or {} for result in results)
    return next((e[key] for e in entries if e.get(key) is not None), None)


def _entry(result: Result, suite: str) -> Mapping[str, Any] | None:
    found = result.values["suites"].get(suite)
    entry: Mapping[str, Any] | None = None if found is None else found["metrics"][MAIN]
    return entry


def sheets(
    index: Path,
    queries: Sequence[str],
    *,
    model: Path | None = None,
    data: Path | None = None,
    where: str | None = None,
    gallery: Sequence[str] = (),
) -> str:
    """For each query its best images, bright where they agree with it, and which of them match.

    Args:
        index: Folder of an index.
        queries: Texts.
        model: Folder of the retriever; that of the index if None.
        data: Folder of the images; where they were indexed if None.
        where: Filter on columns.
        gallery: Captions of all images searched, to say what chance would find; none: not said.

    Returns:
        Markup.
    """
    from heph_vl.search import Searcher

    searcher = Searcher(index, model)
    parts = [
        page.paragraph(
            "A result is marked where its own caption says everything that the query asks for. "
            "The second picture is bright where the image agrees with the query; the ring marks "
            "the peak."
        )
    ]
    facts = [captions.parse(text) for text in gallery]
    for text in queries:
        found = searcher.search(text=text, k=NUM_HITS, where=where, heat=True, data=data)
        query = captions.parse(text)
        matches = [captions.entails(captions.parse(h.row["caption"] or ""), query)
                   for h in found.hits]  # fmt: skip
        parts.append(page.heading(text))
        said = f"{sum(matches)} of {len(matches)} results match"
        if facts:
            answers = sum(captions.entails(image, query) for image in facts)
            chance = answers / len(facts) * len(matches)
            said += (
                f"; of all {len(facts)} images {answers} do, so a random order would give "
                f"{chance:.1f}"
            )
        parts.append(page.paragraph(said + ".", faint=True))
        if found.not_understood:
            parts.append(page.missing(f"Not understood: {', '.join(found.not_understood)}."))
        parts += [page.missing(f"No heat map: {problem}") for problem in found.problems]
        cards = map(_card, found.hits, found.thumbnails, found.heat, matches)
        parts.append(page.grid(list(cards), least="19rem"))
    return "".join(parts)


def _card(hit: Hit, thumbnail: bytes | None, heat: Heat | None, match: bool) -> str:
    row = hit.row
    pictures = []
    if thumbnail is not None:
        image = Image.open(BytesIO(thumbnail)).convert("RGBA")
        image.thumbnail((_SIDE, _SIDE))
        name = row["frame_id"] or row["image_id"]
        pictures.append(page.picture(image, "interferogram", alt=f"Interferogram of {name}"))
        if heat is not None:
            pictures.append(page.picture(spotlight(image, heat), "where it agrees"))
    dates = " to ".join(row[k] for k in ("primary_date", "secondary_date") if row.get(k))
    lines = [
        f"{hit.rank}.  score {hit.score:.3f}   {row['frame_id'] or row['image_id']}",
        dates,
        row["caption"] or "",
    ]
    return page.card(pictures, lines, badge="match" if match else "")
