"""The table of an ablation: variants against the baseline, paired by seed, from the runs' files.

`read_runs` reads, `summarise` computes, `markdown` and `print_table` show; `eval/ablate.py` runs.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heph_vl.config import UsageError
from heph_vl.errors import HephError
from heph_vl.files import read_object

AGAIN = "delete the file, and the same command writes it again"


@dataclass(frozen=True)
class Ablation:
    """One ablation, as its YAML says.

    Args:
        recipe: `training/train_<task>.py`; paths are relative to the repository.
        base: Config of all runs.
        seeds: At least one.
        baseline: The variant that the others are compared with.
        variants: Overrides by name, as on the command line.
        metrics: Dotted path into the JSON of `eval/evaluate.py`, by the column's name.
        overrides: Of all variants.
        evaluate: Further arguments of `eval/evaluate.py`.

    Raises:
        UsageError: If a name, a seed or the baseline cannot be.
    """

    recipe: str
    base: str
    seeds: list[int]
    baseline: str
    variants: dict[str, str]
    metrics: dict[str, str]
    overrides: str = ""
    evaluate: str = "--split test"

    def __post_init__(self) -> None:
        for name in self.variants:
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
                raise UsageError("variants", f"{name!r} is no folder name", "use letters, digits")
        if self.baseline not in self.variants:
            names = ", ".join(self.variants)
            raise UsageError("baseline", f"{self.baseline!r} is no variant", f"one of {names}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UsageError("seeds", f"{self.seeds}", "give at least one, each once")

    @property
    def task(self) -> str:
        """The recipe's folder of runs."""
        return Path(self.recipe).stem.removeprefix("train_")


@dataclass(frozen=True)
class Result:
    """What the files of one run say.

    Args:
        evaluation: test.json: what `eval/evaluate.py` writes, and its `arguments`.
        environment: environment.json.
    """

    evaluation: dict[str, Any]
    environment: dict[str, Any]


def read_runs(ablation: Ablation, root: Path) -> dict[str, dict[int, Result]]:
    """The files of all runs that are finished and scored, by variant and seed."""
    found: dict[str, dict[int, Result]] = {}
    for variant in ablation.variants:
        folders = {seed: root / ablation.task / f"{variant}-{seed}" for seed in ablation.seeds}
        found[variant] = {
            seed: Result(
                read_object(folder / "test.json", AGAIN),
                read_object(folder / "environment.json", AGAIN),
            )
            for seed, folder in folders.items()
            if all((folder / name).is_file() for name in ("results.json", "test.json"))
        }
    return found


def summarise(ablation: Ablation, runs: Mapping[str, Mapping[int, Result]]) -> dict[str, Any]:
    """All rows of the table, ready for JSON.

    Args:
        ablation: Order of rows and columns, the baseline.
        runs: Of `read_runs`.

    Returns:
        `rows`: for each variant with a run `variant`, `seeds` and `metrics`, each with `values`
        by seed, `mean`, `sd` (sample standard deviation) and, but for the baseline, `difference`
        to it, over the seeds that both have: the same, with how many are `up`, `down` and
        `equal`. None where undefined. `notes`: what must be said with it.

    Raises:
        HephError: There is no run, runs were scored on different images, or a path leads to no
            number.
    """
    results = [run for by_seed in runs.values() for run in by_seed.values()]
    if not results:
        raise HephError("table", "no run is finished and scored", "see the messages above")
    ways = {(r.evaluation["split"]["sha256"], *r.evaluation["arguments"]) for r in results}
    if len(ways) > 1:
        what = f"runs were scored on different images or in different ways ({len(ways)})"
        raise HephError("test.json", what, "delete the older ones and run all variants again")
    values = {
        variant: {
            name: {seed: _number_at(run.evaluation, path) for seed, run in by_seed.items()}
            for name, path in ablation.metrics.items()
        }
        for variant, by_seed in runs.items()
    }
    rows = []
    for variant in (v for v in ablation.variants if runs.get(v)):
        metrics = {}
        for name, own in values[variant].items():
            metrics[name] = _spread(own)
            if variant != ablation.baseline:
                base = values.get(ablation.baseline, {}).get(name, {})
                metrics[name]["difference"] = _difference(own, base)
        rows.append({"variant": variant, "seeds": list(runs[variant]), "metrics": metrics})
    return {"rows": rows, "notes": _notes(ablation, rows, results)}


def markdown(table: Mapping[str, Any]) -> str:
    """The table and its notes as Markdown."""
    head, *lines = _lines(table, "; ")
    text = [head, ["---"] * len(head), *lines]
    shown = "\n".join("| " + " | ".join(line) + " |" for line in text)
    return shown + "\n\n" + "\n\n".join(table["notes"]) + "\n"


def print_table(table: Mapping[str, Any]) -> None:
    """Print the table and its notes on the terminal."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 200)
    head, *lines = _lines(table, "\n")
    shown = Table(box=SIMPLE, pad_edge=False)
    for name in head:
        shown.add_column(name, justify="right" if name else "left")
    for line in lines:
        shown.add_row(*line)
    console.print(shown)
    for note in table["notes"]:
        console.print(note, highlight=False)


def _number_at(evaluation: Mapping[str, Any], path: str) -> float | None:
    """The number at a dotted path; None where the path ends early: a task that was not scored."""
    found: Any = evaluation
    for key in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(key)
    if found is None or (isinstance(found, int | float) and not isinstance(found, bool)):
        return found
    what = f"{path} leads to no number"
    raise HephError("metrics", what, "end the path at a number, such as .model.value")


def _spread(values: Mapping[int, float | None]) -> dict[str, Any]:
    known = [value for value in values.values() if value is not None]
    return {
        "values": {str(seed): value for seed, value in values.items()},
        "mean": statistics.mean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
    }


def _difference(
    own: Mapping[int, float | None], base: Mapping[int, float | None]
) -> dict[str, Any]:
    """Own minus baseline over the seeds at which both are defined."""
    gaps: dict[int, float | None] = {}
    for seed, value in own.items():
        other = base.get(seed)
        if value is not None and other is not None:
            gaps[seed] = value - other
    known = [gap for gap in gaps.values() if gap is not None]
    signs = {
        "up": sum(gap > 0 for gap in known),
        "down": sum(gap < 0 for gap in known),
        "equal": sum(gap == 0 for gap in known),
    }
    return _spread(gaps) | signs


def _notes(
    ablation: Ablation,
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
) -> list[str]:
    count, split = len(ablation.seeds), results[0].evaluation["split"]
    sources = ", ".join(f"{n} {source}" for source, n in split["sources"].items())
    notes = [
        f"Split {split['name']}: {sources} images, {split['groups']} groups of volcanoes. Mean and "
        f"standard deviation over {count} seed{'s'[: count != 1]}; below it the difference to "
        f"{ablation.baseline}, paired by seed."
    ]
    if count > 1:
        notes.append(
            "Where the differences do not all have one sign, it is said how many go up and down. "
            f"With no effect at all, {count} have one sign in 1 of {2 ** (count - 1)} cases."
        )
    there = {row["variant"]: row["seeds"] for row in rows}
    for variant in ablation.variants:
        missing = [str(s) for s in ablation.seeds if s not in there.get(variant, [])]
        if missing:
            notes.append(f"{variant}: seed {', '.join(missing)} not finished.")
    for name in ablation.metrics:
        if all(row["metrics"][name]["mean"] is None for row in rows):
            notes.append(f"{name}: not defined in any run.")
    unreadable = max(len(run.evaluation["split"]["unreadable"]) for run in results)
    if unreadable:
        notes.append(f"{unreadable} images of the split could not be read and are left out.")
    trained = sorted(
        {
            f"{env['commit'][:8]}{' (changed)' if env.get('dirty') else ''}, {env['device']}"
            for env in (run.environment for run in results)
        }
    )
    notes.append(f"Trained at {'; '.join(trained)}.")
    return notes


def _lines(table: Mapping[str, Any], joint: str) -> list[list[str]]:
    """Head and rows as text; the parts of a cell are joined by `joint`."""
    lines = [["", *table["rows"][0]["metrics"]]]
    for row in table["rows"]:
        cells = [joint.join(_cell(one)) for one in row["metrics"].values()]
        lines.append([row["variant"], *cells])
    return lines


def _cell(one: Mapping[str, Any]) -> list[str]:
    parts = [_shown(one, "")]
    gap = one.get("difference")
    if gap is not None and gap["mean"] is not None:
        parts.append(_shown(gap, "+"))
        told = [f"{gap[sign]} {sign}" for sign in ("up", "down", "equal") if gap[sign]]
        if len(told) > 1 or gap["equal"]:
            parts.append(", ".join(told))
    return parts


def _shown(spread: Mapping[str, Any], sign: str) -> str:
    if spread["mean"] is None:
        return "-"
    mean = f"{spread['mean']:{sign}.3f}"
    return mean if spread["sd"] is None else f"{mean} ± {spread['sd']:.3f}"
