"""The paper's Table 4 beside our runs of `training/train_table4.py`, from their result files.

    python eval/table4.py runs/table4/resnet18_imagenet runs/table4/swinpl [--markdown | --json]

Of each run folder it reads `results.json` (scores, test patches, start) and `environment.json`
(seed, commit, device). Precision, recall and F1 are those of deformation at probability 0.5;
intervals resample volcano groups, where there are at least 8.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heph_vl.errors import HephError
from heph_vl.files import read_object
from heph_vl.metrics.bootstrap import MIN_GROUPS

METRICS = {"accuracy": "ACC", "precision": "P", "recall": "R", "f1": "F1", "auroc": "AUROC"}
# Bountos et al. (2022), Table 4, in percent; AUROC is not reported.
PAPER = {
    "SwinPL": {"accuracy": 97.3, "precision": 76.9, "recall": 88.5, "f1": 82.2},
    "ResNet-18": {"accuracy": 97.4, "precision": 79.9, "recall": 84.6, "f1": 82.2},
    "ResNet-18-MoCo": {"accuracy": 97.3, "precision": 89.1, "recall": 71.8, "f1": 79.5},
}
MAJORITY = "majority class"
_AGAIN = "finish the run with --resume, or name another folder"
_HEAD = (
    *("model", "run", *METRICS.values()),
    *("starts from", "trained on", "test", "seed", "commit", "device"),
)


@dataclass(frozen=True)
class Result:
    """What the files of one run say.

    Args:
        name: Of the run folder.
        results: results.json.
        environment: environment.json.
    """

    name: str
    results: dict[str, Any]
    environment: dict[str, Any]


def read_run(folder: Path) -> Result:
    """The files of a finished run.

    Args:
        folder: `runs/table4/<name>`.

    Returns:
        Their content.

    Raises:
        HephError: If a file is missing, broken, or of another recipe.
    """
    names = ("results.json", "environment.json")
    results, environment = (read_object(folder / name, _AGAIN) for name in names)
    absent = [name for name in ("row", "initialisation", "test", "metrics") if name not in results]
    if absent:
        what = f"{absent[0]} is missing: no results of training/train_table4.py"
        raise HephError(str(folder / "results.json"), what, "name a folder of runs/table4")
    return Result(folder.resolve().name, results, environment)


def make_table(runs: Sequence[Result]) -> dict[str, Any]:
    """All lines of the table, ready for JSON.

    Args:
        runs: In the order in which those of one row stand.

    Returns:
        `rows`: each row of the paper and our runs beside it, then other runs, then the majority
        class of each set of test patches; values in percent, None where undefined. `tests`: the
        sets by letter. `notes`: what must be said with it.
    """
    letters: dict[str, str] = {}
    tests: dict[str, dict[str, Any]] = {}
    for run in runs:
        test = run.results["test"]
        letter = letters.setdefault(test["sha256"], chr(ord("A") + len(letters)))
        tests[letter] = test
    rows: list[dict[str, Any]] = []
    for name in (*PAPER, ""):
        if name:
            values = {metric: _score(PAPER[name].get(metric)) for metric in METRICS}
            rows.append({"model": name, "run": "paper", **values, "test": "the paper's"})
        rows += [_row(run, letters) for run in runs if run.results["row"] == name]
    for sha256, letter in letters.items():
        run = next(run for run in runs if run.results["test"]["sha256"] == sha256)
        metrics = run.results["metrics"]
        values = {m: _score(_percent((metrics[m] or {}).get("majority"))) for m in METRICS}
        rows.append({"model": MAJORITY, "run": "", **values, "test": letter})
    return {"rows": rows, "tests": tests, "notes": _notes(runs, tests)}


def markdown(table: Mapping[str, Any]) -> str:
    """The table and its notes as Markdown."""
    lines = [_HEAD, tuple("---" for _ in _HEAD), *map(_cells, table["rows"])]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return text + "\n\n" + "\n\n".join(table["notes"]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; an error is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="runs/table4/<name>")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument("--json", action="store_true", dest="as_json", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        table = make_table([read_run(folder) for folder in options.runs])
    except HephError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.as_json:
        print(json.dumps(table, indent=1, allow_nan=False))
    elif options.markdown:
        print(markdown(table), end="")
    else:
        _print(table)
    return 0


def _row(run: Result, letters: Mapping[str, str]) -> dict[str, Any]:
    results, environment = run.results, run.environment
    scores = {}
    for metric in METRICS:
        found = results["metrics"].get(metric) or {}
        interval = found.get("interval")
        scores[metric] = _score(
            _percent(found.get("value")), interval and [_percent(edge) for edge in interval]
        )
    commit = str(environment.get("commit", "unknown"))[:8]
    return {
        "model": f"{results['model']}, {results['backbone']}, {results['input']}",
        "run": run.name,
        **scores,
        "starts from": _start(results["initialisation"]),
        "trained on": _training(results),
        "test": letters[results["test"]["sha256"]],
        "seed": environment.get("seed"),
        "commit": commit + (" (changed)" if environment.get("dirty") else ""),
        "device": environment.get("device", "unknown"),
    }


def _start(initialisation: Mapping[str, Any]) -> str:
    source, share = str(initialisation["source"]), initialisation["share"]
    if source == "random" or share == 1:
        return source
    return f"{source} ({share:.0%} of the backbone; random: {', '.join(initialisation['random'])})"


def _training(results: Mapping[str, Any]) -> str:
    labels = ", pseudo-labels" if results["labels"] == "pseudo" else ""
    return f"{results['trained_on']}{labels}, {results['steps']} steps"


def _notes(runs: Sequence[Result], tests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = [
        "Deformation or none on patches, percent; precision, recall and F1 of deformation at "
        "probability 0.5. The rows of the paper (Bountos et al., 2022, Table 4) were measured on "
        "its own real test patches, ours on the patches named here: different images, so that a "
        "difference between the two is none between the models."
    ]
    for letter, test in tests.items():
        few = test["groups"] < MIN_GROUPS
        notes.append(
            f"Test {letter}: {test['patches']} {test['source']} patches, {test['deforming']} with "
            f"deformation, groups of volcanoes: {test['groups']}"
            + (", too few for intervals." if few else "; in brackets 95 % over groups.")
        )
    if len(tests) > 1:
        notes.append("Runs with different letters were tested on different patches.")
    if any(run.environment.get("dirty") for run in runs):
        notes.append("Changed: the code differed from the commit.")
    return notes


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    marks = {name: key for key, name in METRICS.items()}
    return tuple(
        _shown(row[marks[name]]) if name in marks else str(row.get(name, "")) for name in _HEAD
    )


def _shown(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "-"
    low, high = score["interval"] or (None, None)
    return f"{score['value']:.1f}" + (f" ({low:.1f} to {high:.1f})" if score["interval"] else "")


def _score(value: float | None, interval: Sequence[float] | None = None) -> dict[str, Any]:
    return {"value": value, "interval": interval}


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _print(table: Mapping[str, Any]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 200)
    shown = Table(box=SIMPLE, pad_edge=False)
    for name in _HEAD:
        shown.add_column(name, justify="right" if name in METRICS.values() else "left")
    for row in table["rows"]:
        shown.add_row(*_cells(row))
    console.print(shown)
    for note in table["notes"]:
        console.print(note)


if __name__ == "__main__":
    sys.exit(main())
