"""One page about a run: sample images, text searches with pictures, metrics, training curves.

    python eval/report.py --demo runs/demo

reads `dataset`, `index`, `retriever/tiny` (the run folder) and `results.json` (of eval/evaluate.py)
in that folder and writes `index.html` there.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from heph_vl import page
from heph_vl.data import captions
from heph_vl.data.samples import PHASE_LEVELS, read_row
from heph_vl.embed import encoded_images
from heph_vl.errors import HephError
from heph_vl.index import Hit

RUN = Path("retriever", "tiny")  # where make demo trains
NUM_RESULTS = 6
NUM_SAMPLES = 12
_METRICS = ("hit@1", "hit@5", "hit@10", "recall@10", "median_rank", "mAP", "nDCG@10")
_SUITES = {
    "captions": "Text to image: every distinct caption asks, images with equal facts answer",
    "deformation_captions": "The same, captions that tell a deformation",
    "image_to_text": "Image to text: every image asks, captions with equal facts answer",
    "atoms": "Single facts: images whose facts entail the query answer",
    "type_intensity": "Type and intensity",
    "type_place": "Type and place",
    "negation": "No deformation, alone and with another fact",
}
_FIRST = 3  # suites shown at once; the others open on a click
_CURVES = {"loss": "loss", "val_mAP_captions": "mAP on the validation split, captions"}


@dataclass(frozen=True)
class Demo:
    """What the page is made of.

    Args:
        rows: The whole dataset, images as stored.
        split: Split of each row.
        results: Of eval/evaluate.py.
        curve: Lines of metrics.jsonl.
        config: Text of config.yaml.
        environment: environment.json.
    """

    rows: Any
    split: list[str]
    results: dict[str, Any]
    curve: list[dict[str, Any]]
    config: str
    environment: dict[str, Any]


def read_demo(folder: Path) -> Demo:
    """Everything but the index.

    Args:
        folder: With `dataset`, RUN and `results.json`.

    Returns:
        The parts of the page.

    Raises:
        HephError: If a part is missing or unreadable.
    """
    import datasets

    from heph_vl.data.parquet import load

    splits = load(folder / "dataset")
    run = folder / RUN
    lines = _read(run / "metrics.jsonl").splitlines()
    return Demo(
        datasets.concatenate_datasets(list(splits.values())),
        [name for name, rows in splits.items() for _ in range(len(rows))],
        _json(folder / "results.json"),
        [json.loads(line) for line in lines if line.endswith("}")],
        _read(run / "config.yaml"),
        _json(run / "environment.json"),
    )


def write_report(out: Path, demo: Demo, found: Mapping[str, Sequence[Hit]]) -> None:
    """The page.

    Args:
        out: The .html file.
        demo: Of `read_demo`.
        found: For each query its hits, best first; their unique_id is in the dataset.
    """
    pictures = _Pictures(demo.rows)
    sections = [
        page.Section("The archive", _samples(demo, pictures)),
        page.Section("Searching by text", _searches(demo, found, pictures)),
        page.Section("Retrieval on held-out volcanoes", _metrics(demo.results)),
        page.Section("Training", _training(demo)),
    ]
    page.write_page(out, "heph_vl: interferograms found by text", _lead(demo), sections)


def choose_queries(demo: Demo) -> list[str]:
    """Three questions that the test split can answer: by intensity, by place, and for none.

    Args:
        demo: Its captions tell what there is.

    Returns:
        Texts as one would type them: the type and intensity, and the type and place, that most of
        the images have; and turbulence without deformation.
    """
    facts = [captions.parse(demo.rows["caption"][i]) for i in _test_rows(demo)]
    strong: Counter[str] = Counter()
    placed: Counter[str] = Counter()
    for image in facts:
        strong.update(
            {
                f"{p.type} deformation of {p.intensity} intensity"
                for p in image.patterns
                if p.intensity
            }
        )
        placed.update(
            {f"{p.type} deformation at the {r}" for p in image.patterns for r in p.regions}
        )
    # The commonest; of equally common ones the first in the alphabet.
    first = [
        min(found, key=lambda text: (-found[text], text)) for found in (strong, placed) if found
    ]
    return [*first, "turbulent mixing, no deformation activity"]


def search_all(folder: Path, demo: Demo, queries: Sequence[str]) -> dict[str, list[Hit]]:
    """Hits of each query among the volcanoes of the test split, which training has not seen.

    Args:
        folder: With `index` and the model of RUN.
        demo: Its dataset tells which volcano groups are held out.
        queries: Texts.

    Returns:
        At most `NUM_RESULTS` hits for each.
    """
    from heph_vl.search import search

    groups = sorted({demo.rows["volcano_group"][i] for i in _test_rows(demo)})
    quoted = ", ".join("'" + group.replace("'", "''") + "'" for group in groups)
    where = f"volcano_group IN ({quoted})"
    model = folder / RUN / "model"
    return {
        text: search(folder / "index", text=text, k=NUM_RESULTS, where=where, model=model).hits
        for text in queries
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--demo", type=Path, required=True, help="folder of make demo")
    parser.add_argument("--out", type=Path, help="default: index.html in that folder")
    options = parser.parse_args(arguments)
    try:
        demo = read_demo(options.demo)
        out = options.out or options.demo / "index.html"
        write_report(out, demo, search_all(options.demo, demo, choose_queries(demo)))
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {out}")
    return 0


class _Pictures:
    """Pictures of dataset rows, by unique_id."""

    def __init__(self, rows: Any) -> None:
        self._images = encoded_images(rows)
        self._place = {unique_id: i for i, unique_id in enumerate(rows["unique_id"])}

    def colour(self, unique_id: int, *, caption: str = "") -> str:
        """The interferogram as LiCSAR colours it."""
        from io import BytesIO

        image = Image.open(BytesIO(self._images[self._place[unique_id]]["image"]["bytes"]))
        return page.picture(image, caption, alt=f"Interferogram {unique_id}")

    def decoded(self, unique_id: int) -> list[str]:
        """What the model sees: the phase on a cyclic colour map, and the coherence."""
        import matplotlib

        seen = read_row(self._images[self._place[unique_id]])
        valid = seen.phase_code > 0
        turn = (seen.phase_code.astype(np.float32) - 1) / PHASE_LEVELS
        phase = (matplotlib.colormaps["twilight"](turn) * 255).astype(np.uint8)
        phase[..., 3] = valid * 255
        measured = seen.coherence
        grey = seen.estimated_coherence if measured is None else measured
        coherence = np.stack([grey, grey, grey, valid * np.uint8(255)], axis=-1)
        name = "coherence, estimated" if measured is None else "coherence"
        return [
            page.picture(Image.fromarray(phase), "decoded phase"),
            page.picture(Image.fromarray(coherence), name),
        ]


def _lead(demo: Demo) -> str:
    rows, split = demo.rows, demo.results["split"]
    sources = ", ".join(f"{n} {name}" for name, n in sorted(Counter(rows["source"]).items()))
    text = (
        f"{len(rows)} interferograms ({sources}) over {len(set(rows['volcano_group']))} groups of "
        f"volcanoes. A retriever learnt from their captions to put images and texts into one "
        f"space; below it searches and is scored on the {split['images']} images of "
        f"{split['groups']} groups that it was not trained on."
    )
    note = "No real interferograms: the numbers show that the path works, not skill on real data."
    simulated = "real" not in set(rows["source"])
    return page.paragraph(text) + (page.paragraph(note, faint=True) if simulated else "")


def _samples(demo: Demo, pictures: _Pictures) -> str:
    """Images spread over the archive, half of them deforming where there are as many."""
    rows = demo.rows
    deforming = [bool(kinds) for kinds in rows["activity_types"]]
    chosen: list[int] = []
    for wanted in (True, False):
        places = [i for i, has in enumerate(deforming) if has == wanted]
        step = max(1, len(places) // (NUM_SAMPLES // 2))
        chosen += places[::step][: NUM_SAMPLES // 2]
    cards = []
    for i in chosen:
        row = rows[i]
        kinds = ", ".join(row["activity_types"]) or "no deformation"
        lines = [row["frame_id"], f"{row['primary_date']}, {_days(row)} days", kinds]
        cards.append(page.card([pictures.colour(row["unique_id"])], lines))
    return page.grid(cards)


def _searches(demo: Demo, found: Mapping[str, Sequence[Hit]], pictures: _Pictures) -> str:
    facts = [captions.parse(demo.rows["caption"][i]) for i in _test_rows(demo)]
    parts = [
        page.paragraph(
            "Searched among the test volcanoes only. A result is marked where its own caption "
            "says everything that the query asks for."
        )
    ]
    for text, hits in found.items():
        query = captions.parse(text)
        matches = [captions.entails(captions.parse(hit.row["caption"]), query) for hit in hits]
        answers = sum(captions.entails(image, query) for image in facts)
        share = answers / max(1, len(facts))
        parts.append(page.heading(text))
        parts.append(
            page.paragraph(
                f"{sum(matches)} of {len(hits)} results match; of all {len(facts)} images "
                f"{answers} do, so a random order would give {share * len(hits):.1f}.",
                faint=True,
            )
        )
        parts.append(
            page.grid(
                [_hit(hit, match, pictures) for hit, match in zip(hits, matches, strict=True)],
                least="19rem",
            )
        )
    return "".join(parts)


def _hit(hit: Hit, match: bool, pictures: _Pictures) -> str:
    row = hit.row
    images = [
        pictures.colour(row["unique_id"], caption="interferogram"),
        *pictures.decoded(row["unique_id"]),
    ]
    place = f"{hit.rank}.  score {hit.score:.3f}   {row['frame_id']}"
    return page.card(images, [place, _dates(row), row["caption"]], badge="match" if match else "")


def _metrics(results: Mapping[str, Any]) -> str:
    found = results["suites"]
    tables = [_table(_SUITES[name], found[name]) for name in _SUITES if name in found]
    note = (
        "Chance is the expectation under a random order; shuffled pairs give the images one "
        "another's embeddings; true facts rank by the captions themselves and are the ceiling. "
        "Ties count by expectation. Intervals resample groups of volcanoes; – where these or the "  # noqa: RUF001
        "queries are too few."
    )
    return (
        page.paragraph(_verdict(found["captions"]))
        + "".join(tables[:_FIRST])
        + page.details("Single facts, types, places, negation", "".join(tables[_FIRST:]))
        + page.paragraph(note, faint=True)
    )


def _table(title: str, suite: Mapping[str, Any]) -> str:
    head = ("", "model", "95 %", "chance", "shuffled", "true facts", "less shuffled", "95 %")
    body = [
        (metric.replace("_", " "), *_cells(metric, suite["metrics"][metric]))
        for metric in _METRICS
        if metric in suite["metrics"]
    ]
    return page.table(head, body, caption=f"{title} ({suite['num_queries']} queries)")


def _verdict(suite: Mapping[str, Any]) -> str:
    metric = suite["metrics"]["mAP"]
    gain = metric["minus_shuffled"]
    text = (
        f"Mean average precision of captions: {metric['model']['value']:.3f}; shuffled pairs "
        f"{metric['shuffled']:.3f}, chance {metric['chance']:.3f}. "
    )
    if gain["interval"] is None:
        return text + "Too few groups of volcanoes for an interval."
    low, high = gain["interval"]
    verdict = "above" if low > 0 else "below" if high < 0 else "not told apart from"
    return text + f"The difference is {verdict} shuffled pairs: {low:+.3f} to {high:+.3f} (95 %)."


def _training(demo: Demo) -> str:
    charts = []
    for name, title in _CURVES.items():
        points = [(line["step"], line[name]) for line in demo.curve if name in line]
        if points:
            charts.append(page.line_chart(points, title))
    environment, results = demo.environment, demo.results
    versions = environment.get("versions", {})
    about = {
        "commit": f"{environment.get('commit')}{' (changed)' if environment.get('dirty') else ''}",
        "command": environment.get("command", ""),
        "device": environment.get("device", ""),
        "seed": str(environment.get("seed", "")),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "model": results.get("model_id", ""),
        "test split": results["split"]["sha256"],
    }
    return (
        page.grid(charts, least="20rem")
        + page.facts({name: str(value) for name, value in about.items() if value})
        + page.details("Settings", page.preformatted(demo.config))
    )


def _cells(metric: str, compared: Mapping[str, Any]) -> list[str]:
    form = ".1f" if metric == "median_rank" else ".3f"
    model, gain = compared["model"], compared["minus_shuffled"]
    return [
        _number(model["value"], form),
        _interval(model["interval"], form),
        *(_number(compared[name], form) for name in ("chance", "shuffled", "true_facts")),
        _number(gain["value"], "+" + form),
        _interval(gain["interval"], "+" + form),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)  # noqa: RUF001


def _interval(interval: Sequence[float] | None, form: str) -> str:
    return "–" if interval is None else " … ".join(format(edge, form) for edge in interval)  # noqa: RUF001


def _test_rows(demo: Demo) -> list[int]:
    return [i for i, split in enumerate(demo.split) if split == demo.results["split"]["name"]]


def _dates(row: Mapping[str, Any]) -> str:
    return f"{row['primary_date']} to {row['secondary_date']}, {_days(row)} days"


def _days(row: Mapping[str, Any]) -> int:
    first, second = (date.fromisoformat(row[f"{name}_date"]) for name in ("primary", "secondary"))
    return (second - first).days


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise HephError(str(path), f"unreadable: {error}", "run make demo up to the end") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(_read(path))
    except ValueError as error:
        raise HephError(str(path), f"not JSON: {error}", "delete it and run make demo") from error
    return found


if __name__ == "__main__":
    sys.exit(main())
