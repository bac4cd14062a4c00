"""The dataset as Parquet: written shard by shard, complete or untouched, and read back."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import datasets
from datasets.arrow_writer import ParquetWriter

from heph_vl.data import staging
from heph_vl.data.archive import GENERATION_FILE, SIMULATION_FILE, Archive, Pair, scan_archive
from heph_vl.data.card import dataset_card
from heph_vl.data.examples import ExampleConfig, fingerprint, generate, pairs_by_split
from heph_vl.data.features import features
from heph_vl.data.native import usual_sizes
from heph_vl.data.patches import PatchConfig
from heph_vl.errors import HephError
from heph_vl.files import read_object, without_paths

PAIRS_PER_SHARD = 256


def write_parquet(
    archive: Archive | str | Path,
    out: str | Path,
    *,
    config: str = "interferograms",
    scheme: str = "grouped",
    fold: int | None = None,
    strict: bool = False,
    annotations: str | Path | None = None,
    patch_file: str | Path | None = None,
    patches: PatchConfig | None = None,
    num_proc: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write an archive as Parquet shards with a dataset card.

    Unchanged input: nothing is done. An interrupted run goes on where it stopped. Until all is
    written, what `out` held before stays as it was.

    Args:
        archive: A scanned archive, or its root.
        out: Folder to write; must be new, empty, or written by this function.
        config: One of `interferograms`, `patches`, `unlabeled`.
        scheme: Split scheme (`splits.assign`).
        fold: Fold of the scheme.
        strict: Raise the first problem instead of leaving the record out.
        annotations: Annotations that lie elsewhere; only with a root.
        patch_file: The published patch split, for scheme `official`.
        patches: How patches are cut, for config `patches`.
        num_proc: Processes; more than one needs a main module that can be imported.
        progress: Called with the number of interferograms done and that of all.

    Returns:
        The manifest: `config`, `scheme`, `fold`, `source`, `splits` (counts of each, with
        `pairs`, `rows`, `left_out`), `unassigned` (annotated pairs in no split), `problems` (one
        line each), `rules` (quirks normalised, with counts), `files`, and `unchanged`.

    Raises:
        HephError: If the archive has nothing for this config, or `out` cannot be written.
    """
    out = Path(out)
    if not isinstance(archive, Archive):
        archive = scan_archive(archive, annotations, strict=strict)
    if strict and archive.problems:
        raise archive.problems[0]
    patches = patches or PatchConfig()
    patch_file = None if patch_file is None else Path(patch_file)
    settings = {"config": config, "scheme": scheme, "fold": fold}
    key = fingerprint(archive, settings, patches if config == "patches" else None, patch_file)
    with staging.output_errors(out):
        if staging.is_complete(out, key):
            return (staging.read_manifest(out) or {}) | {"unchanged": True}
        found = pairs_by_split(archive, config, scheme, fold, patch_file)
        sizes = usual_sizes(archive.pairs)
        examples = ExampleConfig(config, archive.source, sizes, patches, strict)
        stage = staging.open_stage(out, key)
        (stage / "data").mkdir(exist_ok=True)
        jobs = _plan(found, stage / "data")
        results = _run(jobs, examples, num_proc, progress)
        report: dict[str, Any] = {**settings, "fingerprint": key, "source": archive.source}
        report |= _summary(archive, config, found, jobs, results)
        report["made"] = _made(archive.root)
        (stage / "README.md").write_text(dataset_card(report, list(found)))
        for sidecar in (stage / "data").glob("*.json"):
            sidecar.unlink()
        staging.publish(out, stage, ["data", "README.md"], report)
    return (staging.read_manifest(out) or {}) | {"unchanged": False}


def _made(root: Path) -> dict[str, Any] | None:
    """The settings by which an archive was simulated or generated; None for a real one."""
    for name in (SIMULATION_FILE, GENERATION_FILE):
        if (root / name).is_file():
            found: dict[str, Any] = without_paths(
                read_object(root / name, "write the archive again")
            )
            return found
    return None


def load(path: str | Path, split: str | None = None, *, cache_dir: str | Path | None = None) -> Any:
    """A dataset written by `write_parquet`.

    Args:
        path: The folder.
        split: `train`, `val` or `test`; None: all that there are.
        cache_dir: Where `datasets` keeps its memory-mapped copy.

    Returns:
        A `datasets.Dataset`, or a `DatasetDict` without `split`.

    Raises:
        HephError: If the folder is missing, incomplete or damaged, or has no such split.
    """
    path = Path(path)
    again = "write it with: heph-vl dataset ARCHIVE OUT"
    if not path.is_dir():
        raise HephError(str(path), "no such dataset folder", again)
    manifest = staging.read_manifest(path)
    if manifest is None:
        raise HephError(str(path), f"no complete dataset ({staging.MANIFEST} is missing)", again)
    damaged = staging.damaged_files(path, manifest)
    if damaged:
        raise HephError(str(path / damaged[0]), "missing or cut", again)
    if split is not None and split not in manifest["splits"]:
        raise HephError(str(path), f"no split {split}", f"one of {', '.join(manifest['splits'])}")
    cache = None if cache_dir is None else str(cache_dir)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets.load_dataset(str(path), split=split, cache_dir=cache)


def join(parts: Sequence[Any]) -> Any:
    """Rows of several `datasets.Dataset`, one after another, with the columns that all have."""
    common = [c for c in parts[0].column_names if all(c in part.column_names for part in parts)]
    return datasets.concatenate_datasets([part.select_columns(common) for part in parts])


@dataclass(frozen=True)
class _Job:
    split: str
    path: Path
    pairs: list[Pair]


def _plan(found: dict[str, list[Pair]], folder: Path) -> list[_Job]:
    jobs = []
    for split, pairs in found.items():
        starts = range(0, len(pairs), PAIRS_PER_SHARD)
        for number, start in enumerate(starts):
            path = folder / f"{split}-{number:05d}-of-{len(starts):05d}.parquet"
            jobs.append(_Job(split, path, pairs[start : start + PAIRS_PER_SHARD]))
    return jobs


def _run(
    jobs: list[_Job],
    examples: ExampleConfig,
    num_proc: int,
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    """Write the shards that are missing; the counts and problems of each, in order."""
    results, done, total = [], 0, sum(len(job.pairs) for job in jobs)
    if num_proc > 1:
        # Not fork: a child of a process that runs arrow's threads may never start.
        with ProcessPoolExecutor(num_proc, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(_write_shard, job, examples) for job in jobs]
            finished = (future.result() for future in futures)
            for job, result in zip(jobs, finished, strict=True):
                results.append(result)
                done += len(job.pairs)
                if progress:
                    progress(done, total)
        return results
    for job in jobs:

        def tell(count: int, before: int = done) -> None:
            if progress:
                progress(before + count, total)

        results.append(_write_shard(job, examples, tell))
        done += len(job.pairs)
        tell(0, done)
    return results


def _write_shard(
    job: _Job, examples: ExampleConfig, tell: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """One shard under a temporary name, then renamed; its counts lie beside it."""
    sidecar = job.path.with_suffix(".json")
    if job.path.exists() and sidecar.exists():
        finished: dict[str, Any] = json.loads(sidecar.read_text())
        return finished
    problems: list[Any] = []
    counts: Counter[str] = Counter()

    def counted() -> Iterator[Pair]:
        for number, pair in enumerate(job.pairs):
            if tell:
                tell(number)
            yield pair

    temporary = job.path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        writer = ParquetWriter(
            stream=stream, features=features(examples.config), writer_batch_size=64
        )
        for _, row in generate(counted(), examples, problems, counts):
            writer.write(writer._features.encode_example(row))
        writer.finalize(close_stream=False)
    result = {"counts": dict(counts), "problems": [str(problem) for problem in problems]}
    staging.write_atomically(sidecar, json.dumps(result))
    temporary.replace(job.path)
    return result


def _summary(
    archive: Archive,
    config: str,
    found: dict[str, list[Pair]],
    jobs: list[_Job],
    results: list[dict[str, Any]],
) -> dict[str, Any]:
    counts = {split: Counter({"pairs": len(pairs)}) for split, pairs in found.items()}
    problems = [str(problem) for problem in archive.problems]
    for job, result in zip(jobs, results, strict=True):
        counts[job.split].update(result["counts"])
        problems += result["problems"]
    taken = sum(len(pairs) for pairs in found.values())
    available = archive.unlabeled if config == "unlabeled" else archive.annotated
    return {
        "splits": {split: dict(sorted(count.items())) for split, count in counts.items()},
        "unassigned": len(available) - taken,
        "without_record": len(archive.unlabeled),
        "problems": problems,
        "rules": dict(sorted(archive.rules.items())),
    }
