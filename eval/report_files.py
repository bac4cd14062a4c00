"""Results files that a report is made of: read, told apart by kind, and named."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heph_vl import page
from heph_vl.errors import HephError

# What each kind's file must hold; `task` names the kind in those of `eval/`.
_MUST = {
    "retrieval": {"suites": dict, "split": dict},
    "labels": {"tasks": dict, "split": dict},
    "captions": {"sides": dict, "split": dict},
    "generation": {"realism": dict, "agreement": dict},
    "watch": {"summary": dict},
    "realism": {"groups": dict, "sets": dict},
    "real_patches": {"summary": dict},
    "real_captions": {"summary": dict},
    "patches": {"metrics": dict, "test": dict},  # training/train_table4.py
    "training": {},
}
_FIX = "give results.json of a script in eval/ or of a training run"


@dataclass(frozen=True)
class Result:
    """One file of results.

    Attributes:
        path: The file.
        kind: Of the keys above.
        name: Short, and of no other result of the page.
        values: What it holds.
        environment: environment.json of its run folder, if it lies in one.
        curve: Lines of its metrics.jsonl, if any.
        config: Its config.yaml, if any.
    """

    path: Path
    kind: str
    name: str
    values: dict[str, Any]
    environment: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    config: str = ""


def read_results(paths: Sequence[Path]) -> list[Result]:
    """Results in the order given.

    Args:
        paths: Files, or folders with a results.json.

    Returns:
        One for each.

    Raises:
        HephError: A file is missing, broken, of no known kind, or given twice.
    """
    files = [_file(path) for path in paths]
    twice = next((f for i, f in enumerate(files) if f in files[:i]), None)
    if twice is not None:
        raise HephError(str(twice), "it is given twice", "give it once")
    return [read_result(*both) for both in zip(files, _names(files), strict=True)]


def read_result(path: Path, name: str) -> Result:
    """One file, with what its run folder tells.

    Args:
        path: The file.
        name: How the page calls it.

    Returns:
        The result.

    Raises:
        HephError: It is missing, broken, or of no known kind.
    """
    values = read_json(path)
    kind = _kind(path, values)
    run = path.parent
    return Result(
        path,
        kind,
        name,
        values,
        read_json(run / "environment.json") if (run / "environment.json").is_file() else {},
        read_curve(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else [],
        _read(run / "config.yaml") if (run / "config.yaml").is_file() else "",
    )


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        HephError: It cannot be read, or holds something else.
    """
    text = _read(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HephError(str(path), f"not JSON: {error}", _FIX) from error
    if not isinstance(found, dict):
        raise HephError(str(path), f"it holds a {type(found).__name__}, not results", _FIX)
    return found


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl; a last one that was cut off in writing is no line yet."""
    lines = [line for line in _read(path).splitlines() if line.endswith("}")]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise HephError(str(path), f"not JSON lines: {error}", "train again") from error


def who(results: Sequence[Result], result: Result) -> list[str]:
    """The cell that names a result's model, where there are several."""
    return [result.name] if len(results) > 1 else []


def who_head(results: Sequence[Result]) -> list[str]:
    """The heading above these cells."""
    return ["model"] if len(results) > 1 else []


@contextmanager
def as_written(results: Sequence[Result]) -> Iterator[None]:
    """Anything that is not where evaluation writes it is an error that names the files."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        files = ", ".join(str(result.path) for result in results)
        what = f"not as evaluation writes it ({type(error).__name__}: {error})"
        raise HephError(files, what, "evaluate again") from error


def provenance(results: Sequence[Result]) -> str:
    """For each result where it is from: model, data, seed, commit, command.

    Args:
        results: Any kinds.

    Returns:
        Markup.
    """
    parts = []
    for result in results:
        parts += [page.heading(f"{result.name}: {result.kind}"), page.facts(origin(result))]
    return "".join(parts)


def origin(result: Result) -> dict[str, str]:
    """Names and values of where a result is from; what its file does not say is not in it."""
    values, environment = result.values, result.environment
    split = values.get("split", {})
    if not isinstance(split, dict):
        split = {"name": split}
    settings = values.get("settings", {})
    test = values.get("test", {}) if result.kind == "patches" else {}
    model = next(
        (
            values[k]
            for k in ("model", "predictions", "embeddings")
            if isinstance(values.get(k), str)
        ),
        "",
    )
    commit = values.get("commit") or environment.get("commit", "")
    if environment.get("dirty") and not values.get("commit"):
        commit += " (changed)"
    versions = environment.get("versions", {})
    told = {
        "file": result.path,
        "model": model,
        "model id": values.get("model_id") or values.get("weights_sha256"),
        "judge": values.get("judge"),
        "data": values.get("data") or values.get("patches"),
        "split": split.get("name"),
        "images": _counted(split) or _counted(test),
        "simulated or real": simulated_or_real(result),
        "split sha256": split.get("sha256") or test.get("sha256"),
        "seed": _first(settings.get("seed"), values.get("seed"), environment.get("seed")),
        "resamples for intervals": settings.get("num_draws"),
        "commit": commit,
        "created": values.get("created") or environment.get("started"),
        "heph_vl": values.get("heph_vl"),
        "command": environment.get("command"),
        "device": environment.get("device"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {name: str(value) for name, value in told.items() if value not in (None, "", [])}


def simulated_or_real(result: Result) -> str:
    """What the images that were scored are, as the file says it."""
    values = result.values
    split = values.get("split")
    sources = split.get("sources") if isinstance(split, dict) else None
    if sources:
        return ", ".join(f"{number} {name}" for name, number in sorted(sources.items()))
    if result.kind == "patches":
        return str(values["test"].get("source", "not told"))
    if result.kind in ("real_patches", "real_captions"):
        return str(values.get("label", "real"))
    if result.kind == "watch":
        return str(values.get("data", "not told"))
    if result.kind == "realism":
        return ", ".join(values["sets"])
    return "not told in this file"


def same_split(results: Sequence[Result]) -> str:
    """A line where results that stand side by side are not of the same images."""
    found: dict[str, list[str]] = {}
    for result in results:
        split = result.values.get("split")
        if isinstance(split, dict) and "sha256" in split:
            found.setdefault(split["sha256"], []).append(result.name)
    if len(found) < 2:
        return ""
    sides = "; ".join(", ".join(names) for names in found.values())
    return page.missing(f"Not the same images, so their numbers cannot be compared: {sides}.")


def _kind(path: Path, values: Mapping[str, Any]) -> str:
    task = values.get("task")
    if task is not None and task not in _MUST:
        raise HephError(str(path), f"results of an unknown kind, {task!r}", _FIX)
    kind = task or ("patches" if "backbone" in values and "metrics" in values else "training")
    if kind == "training" and not any(name in values for name in ("split", "before")):
        what = f"results of no known kind: {', '.join(list(values)[:5]) or 'it is empty'}"
        raise HephError(str(path), what, _FIX)
    for key, wanted in _MUST[kind].items():
        if not isinstance(values.get(key), wanted):
            raise HephError(str(path), f"{kind} without {key!r}", "evaluate again")
    return str(kind)


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / "results.json").is_file():
        there = sorted(file.name for file in path.glob("*.json"))
        what = "no results.json in it" + (f", but {', '.join(there[:4])}" if there else "")
        raise HephError(str(path), what, "name the file")
    return path / "results.json"


def _names(files: Sequence[Path]) -> list[str]:
    """As few of the last parts of each path as tell all apart."""
    parts = [[*file.absolute().parts[1:-1], *_stem(file)] for file in files]
    longest = max(map(len, parts), default=1)
    for number in range(1, longest + 1):
        names = ["/".join(some[-number:]) for some in parts]
        if len(set(names)) == len(names):
            return names
    return [str(file) for file in files]


def _stem(file: Path) -> list[str]:
    stem = file.name.removesuffix(".json").removesuffix(".results")
    return [] if stem == "results" else [stem]


def _counted(split: Mapping[str, Any]) -> str:
    what = next((name for name in ("images", "crops", "patches") if name in split), None)
    if what is None:
        return ""
    groups = f" of {split['groups']} groups of volcanoes" if "groups" in split else ""
    return f"{split[what]} {what}{groups}"


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        why = error.strerror or str(error)
        raise HephError(str(path), f"cannot be read: {why}", _FIX) from error
    except UnicodeDecodeError as error:
        raise HephError(str(path), "it is no text", _FIX) from error
