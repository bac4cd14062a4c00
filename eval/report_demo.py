"""The page of `make demo`: what it simulated, found, detected, said, drew, watched and measured.

Each part is taken if its files are there; what is not there is named in a line.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from eval import report_demo_images as images
from eval.report_files import (
    Result,
    as_written,
    origin,
    provenance,
    read_json,
    read_result,
)
from eval.report_generation import samples
from eval.report_retrieval import sheets
from eval.report_runs import section as runs_section
from eval.report_runs import settings
from eval.report_watch import alerts, plotted, series_table
from heph_vl import page
from heph_vl.data import captions

_SAMPLES = 12  # pictures of the gallery
_TASKS = ("retriever", "heads", "captioner", "generator")
Sections = Callable[[Sequence[Result]], list[page.Section]]


@dataclass(frozen=True)
class Demo:
    """What a folder of `make demo` holds.

    Attributes:
        folder: The folder.
        rows: The whole dataset, images encoded.
        split: Split of each row.
        results: Of evaluation on the test split.
        runs: Training runs with their curves.
    """

    folder: Path
    rows: Any
    split: list[str]
    results: list[Result]
    runs: list[Result]

    @property
    def test(self) -> list[int]:
        """Positions of the test rows."""
        return [i for i, name in enumerate(self.split) if name == "test"]

    @property
    def simulated(self) -> bool:
        """Whether no image is real."""
        return "real" not in set(self.rows["source"])


def read_demo(folder: Path) -> Demo:
    """The dataset and all results of a demo.

    Args:
        folder: With `dataset` at least.

    Returns:
        What is there.

    Raises:
        HephError: No dataset, or a file is unreadable.
    """
    import datasets

    from heph_vl.data.parquet import load

    splits = load(folder / "dataset")
    rows = datasets.concatenate_datasets(list(splits.values()))
    for name in ("image", "coherence", "mask"):
        rows = rows.cast_column(name, datasets.Image(decode=False))
    files = [*sorted((folder / "results").glob("*.json")), folder / "results.json"]
    results = [read_result(file, _name(folder, file)) for file in files if file.is_file()]
    found = [
        read_result(path / "results.json", f"{task}, {path.name}")
        for task in _TASKS
        for path in sorted((folder / task).glob("*"))
        if (path / "results.json").is_file()
    ]
    split = [name for name, part in splits.items() for _ in range(len(part))]
    return Demo(folder, rows, split, results, found)


def demo_page(folder: Path, sections_of: Sections) -> tuple[str, str, list[page.Section]]:
    """Title, lead and sections of the demo's page.

    Args:
        folder: As `make demo` leaves it, whole or in part.
        sections_of: Writes the metric tables of results.

    Returns:
        What `page.write_page` takes.

    Raises:
        HephError: No dataset, or a part is unreadable.
    """
    demo = read_demo(folder)
    pictures = images.Pictures(demo.rows)
    parts = {
        "The archive": _archive(demo, pictures),
        "Search by text": _search(demo),
        "Deformation detected": images.detections(folder, pictures),
        "Described in words": images.described(folder, pictures),
        "Drawn from words": _drawn(folder),
        "Through time": _time(folder),
    }
    sections = [page.Section(*part) for part in parts.items()]
    sections += _measured(demo, sections_of)
    sections.append(page.Section("Training", _training(demo)))
    sections.append(page.Section("Where this is from", _about(demo)))
    title = "Interferograms read, searched, described and drawn: the demo of heph_vl"
    return title, _lead(demo), sections


def choose_queries(demo: Demo) -> list[str]:
    """Three questions that the test split can answer: by intensity, by place, and for none.

    Args:
        demo: Its captions tell what there is.

    Returns:
        Texts as one would type them: the type and intensity, and the type and place, that most of
        the images have; and turbulence without deformation.
    """
    facts = [captions.parse(demo.rows["caption"][i]) for i in demo.test]
    strong: Counter[str] = Counter()
    placed: Counter[str] = Counter()
    for image in facts:
        strong.update(
            {f"{p.type} deformation of {p.intensity} intensity" for p in image.patterns
             if p.intensity}
        )  # fmt: skip
        placed.update(
            {f"{p.type} deformation at the {r}" for p in image.patterns for r in p.regions}
        )
    # The commonest; of equally common ones the first in the alphabet.
    first = [
        min(found, key=lambda text: (-found[text], text)) for found in (strong, placed) if found
    ]
    return [*first, "turbulent mixing, no deformation activity"]


def _lead(demo: Demo) -> str:
    sources = ", ".join(f"{n} {name}" for name, n in sorted(Counter(demo.rows["source"]).items()))
    held_out = len({demo.rows["volcano_group"][i] for i in demo.test})
    text = (
        f"{len(demo.rows)} interferograms ({sources}) over "
        f"{len(set(demo.rows['volcano_group']))} groups of volcanoes, each with a caption, labels "
        f"and outlines. Searched and measured are the {len(demo.test)} images of {held_out} groups "
        "that its split holds out."
    )
    note = (
        "No real interferogram is in here: the numbers show that the path works, from raw files to "
        "a measured result; they are not skill on real data."
    )
    return page.paragraph(text) + (page.paragraph(note, faint=True) if demo.simulated else "")


def _archive(demo: Demo, pictures: images.Pictures) -> str:
    """Images spread over the archive, half of them deforming where there are as many."""
    deforming = [bool(kinds) for kinds in demo.rows["activity_types"]]
    cards = []
    for wanted in (True, False):
        places = [i for i, has in enumerate(deforming) if has == wanted]
        step = max(1, len(places) // (_SAMPLES // 2))
        for i in places[::step][: _SAMPLES // 2]:
            row = demo.rows[i]
            kinds = ", ".join(row["activity_types"]) or "no deformation"
            lines = [row["frame_id"], f"{row['primary_date']}, {_days(row)} days", kinds]
            cards.append(page.card([pictures.plain(i)], lines))
    return page.grid(cards, least="9rem")


def _search(demo: Demo) -> str:
    from heph_vl.hub import model_folder
    from heph_vl.index_meta import read_meta

    index = demo.folder / "index"
    if not index.is_dir():
        return missing(index, "heph-vl index")
    groups = sorted({demo.rows["volcano_group"][i] for i in demo.test})
    quoted = ", ".join("'" + group.replace("'", "''") + "'" for group in groups)
    gallery = [demo.rows["caption"][i] for i in demo.test]
    model = Path(read_meta(index).model)
    if not model.is_dir():  # the folder of the demo, or the clone with the weights, was moved
        inside = demo.folder / Path(*model.parts[-3:])
        model = inside if inside.is_dir() else model_folder(None, "retriever")
    return page.paragraph("Searched among the held-out volcanoes only.") + sheets(
        index,
        choose_queries(demo),
        model=model,
        data=demo.folder / "dataset",
        where=f"volcano_group IN ({quoted})",
        gallery=gallery,
    )


def _drawn(folder: Path) -> str:
    archive = folder / "drawn"
    return samples(archive) if archive.is_dir() else missing(archive, "heph-vl generate")


def _time(folder: Path) -> str:
    """The pairs of a frame and what the watch said of them."""
    parts = []
    told, plot = folder / "series.json", folder / "series.png"
    series = read_json(told) if told.is_file() else {}
    if plot.is_file():
        parts.append(plotted(plot, series.get("frame_id", "A frame")))
    else:
        parts.append(missing(plot, "heph-vl series --plot"))
    if not series:
        parts.append(missing(told, "heph-vl series --json"))
    else:
        with images.broken(told):
            parts.append(series_table(series))
    watched = folder / "alerts"
    there = watched.is_dir()
    parts.append(alerts(watched) if there else missing(watched, "heph-vl watch"))
    return "".join(parts)


def _measured(demo: Demo, sections_of: Sections) -> list[page.Section]:
    """The tables of results, and in a line what was not measured."""
    sections = [page.Section(f"Measured: {s.title.lower()}", s.body)
                for s in sections_of(demo.results)]  # fmt: skip
    kinds = {result.kind for result in demo.results}
    without = [kind for kind in ("retrieval", "labels", "captions") if kind not in kinds]
    if without:
        where = demo.folder / "results"
        lines = [missing(where / f"{kind}.json", "eval/evaluate.py") for kind in without]
        sections.append(page.Section("Not measured", "".join(lines)))
    return sections


def _training(demo: Demo) -> str:
    """Each task's runs, and in a line which task has none."""
    parts = [page.paragraph("Short runs: they show that training works, not how far it goes.")]
    for task in _TASKS:
        some = [run for run in demo.runs if run.name.startswith(f"{task}, ")]
        if some:
            with as_written(some):
                parts += [page.heading(task.capitalize()), runs_section(some)]
        else:
            command = f"training/train_{task}.py"
            parts.append(missing(demo.folder / task / "*" / "results.json", command))
    return "".join(parts)


def _about(demo: Demo) -> str:
    """Where numbers are from, and how the runs were set."""
    everything = [*demo.results, *demo.runs]
    if not everything:
        return missing(demo.folder / "results", "eval/evaluate.py")
    with as_written(everything):
        return provenance(everything) + settings(demo.runs)


def _name(folder: Path, file: Path) -> str:
    """The model that was scored, as the file names it."""
    model = origin(Result(file, "training", "", read_json(file))).get("model", file.stem)
    short = model.removeprefix(f"{folder}/").removesuffix("/model")
    return short if len(short) <= 40 else file.stem


def missing(path: Path, command: str) -> str:
    """The line that stands where a part would."""
    return page.missing(f"Not here: {path}, of {command}.")


def _days(row: Mapping[str, Any]) -> int:
    first, second = (date.fromisoformat(row[f"{name}_date"]) for name in ("primary", "secondary"))
    return (second - first).days
