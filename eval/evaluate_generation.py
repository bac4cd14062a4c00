"""Score a generator: how real its crops look, and whether they show what they were asked for.

    python eval/evaluate_generation.py --model weights/generator --data DATASET --out results.json

The reference are crops of the split, of held-out volcanoes, cut and varied as for training; their
captions are what the generator is asked for. Beside it always: the reference's own halves (floor),
the reference with its phase scrambled (ceiling), the captions in another order, and, with
`--simulated`, crops of simulated patches. All are read as anyone would: colours decoded. A judge of
another backbone than the encoder of the distances reads the facts off the crops.
"""

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from eval.evaluate import finished
from eval.generated_crops import (
    Crops,
    Floats,
    Reading,
    draw_crops,
    features,
    latents_of,
    read_crops,
    read_facts,
    scrambled,
)
from heph_vl.data import captions, parquet
from heph_vl.errors import HephError
from heph_vl.generate import load_generator
from heph_vl.metrics import generation as measures
from heph_vl.metrics.bootstrap import Clusters, Statistic, clusters, group_weights
from heph_vl.metrics.caption_facts import FactCounts, count_facts, ratio
from heph_vl.metrics.classification import auroc
from heph_vl.models.heads import Heads
from heph_vl.models.pipeline import InSARPipeline

SPLITS = 20  # of the reference into halves
SHUFFLES = 20  # orders of the captions; the mean over them is what chance gives


def realism(
    real: Floats, sets: Mapping[str, Floats], units: Sequence[int], seed: int
) -> dict[str, Any]:
    """KID and FID of sets to half of the reference, normalised, and how they cover it.

    The reference's interferograms are split at random; crops of the other half give the floor.
    Sets that were drawn after the captions of the reference, or made of it, are taken at the rows
    of the other half, and as many rows of the rest, so that all have one size. Over many splits
    the mean is given, and the deviation as its error: that of the full sets to first order
    (`metrics.realism`).

    Args:
        real: (N, D) of the reference.
        sets: (M, D) of others, `scrambled` among them; those of M = N belong to its rows.
        units: Interferogram of each row of the reference.
        seed: Of the splits.

    Returns:
        Of each set, and of `floor`, its scores and their errors.
    """
    rng = np.random.default_rng(seed)
    names = np.unique(np.array(units))
    drawn: dict[str, list[dict[str, float]]] = {name: [] for name in ("floor", *sets)}
    for _ in range(SPLITS):
        half = np.isin(units, rng.choice(names, len(names) // 2, replace=False))
        a, b = real[half], real[~half]
        compared = {"floor": b}
        for name, x in sets.items():
            rows = rng.choice(len(x), min(len(b), len(x)), replace=False)
            compared[name] = x[~half] if len(x) == len(real) else x[rows]
        found = {
            name: {
                "kid": measures.kid(a, x),
                "fid": measures.frechet_distance(a, x),
                **measures.coverage_scores(a, x),
            }
            for name, x in compared.items()
        }
        for name, scores in found.items():
            drawn[name].append(scores)
    for kind in ("kid", "fid"):  # between the means: of one split floor and ceiling may cross
        low, high = (
            float(np.mean([scores[kind] for scores in drawn[name]]))
            for name in ("floor", "scrambled")
        )
        for scores in (scores for splits in drawn.values() for scores in splits):
            scores[f"{kind}_normalised"] = measures.normalised(scores[kind], low, high)
    return {
        name: {
            key: {
                "value": float(np.mean([scores[key] for scores in splits])),
                "standard_error": float(np.std([scores[key] for scores in splits], ddof=1)),
            }
            for key in splits[0]
        }
        for name, splits in drawn.items()
    }


def look(sets: Mapping[str, Crops], seed: int) -> dict[str, Any]:
    """Distances of phase steps and spectra to half of the reference, as in `realism`.

    Args:
        sets: The reference, `real`, and others; those of its size belong to its rows.
        seed: Of the splits.

    Returns:
        Of each set, and of `floor`, the other half, both distances.
    """
    rng = np.random.default_rng(seed)
    each = {}
    for name, crops in sets.items():
        pairs = list(zip(crops.wrapped_phase, crops.valid, strict=True))
        each[name] = (
            np.stack([measures.phase_gradient_histogram(*pair) for pair in pairs]),
            np.stack([measures.radial_spectrum(*pair) for pair in pairs]),
        )
    real, units = sets["real"], np.unique(np.array(sets["real"].units))
    drawn: dict[str, list[tuple[float, float]]] = {}
    for _ in range(SPLITS):
        half = np.isin(real.units, rng.choice(units, len(units) // 2, replace=False))
        steps, spectra = each["real"]
        for name, (other_steps, other_spectra) in each.items():
            kept = ~half if len(other_steps) == len(half) else np.ones(len(other_steps), bool)
            found = (
                measures.wasserstein(steps[half].sum(0), other_steps[kept].sum(0), np.pi),
                measures.log_spectral_distance(spectra[half].mean(0), other_spectra[kept].mean(0)),
            )
            drawn.setdefault("floor" if name == "real" else name, []).append(found)
    return {
        name: dict(
            zip(("phase_gradient_rad", "spectrum_db"), np.mean(found, 0).tolist(), strict=True)
        )
        for name, found in drawn.items()
    }


def copies(
    pipeline: InSARPipeline, sets: Mapping[str, Crops], real: Crops, cache: Path
) -> dict[str, Any]:
    """Nearest training crop in latents, of generated crops, of held-out and of training ones.

    Args:
        pipeline: The generator.
        sets: Its crops.
        real: Held-out ones.
        cache: `cache.safetensors` of the training: the very crops that it learnt from.

    Returns:
        Of each set `measures.copying`; and of `training crops`, the nearest other one, what having
        learnt from the same images alone would give.
    """
    path = cache / "cache.safetensors"
    if not path.is_file():
        raise HephError(str(cache), "no cached latents here", "name RUN/latents of the training")
    train = load_file(path)["latents"].float().flatten(1).double().numpy()
    held_out = latents_of(pipeline, real)
    own, rest = train[: len(held_out)], train[len(held_out) :]
    found = {
        name: measures.copying(latents_of(pipeline, crops), rest, held_out)
        for name, crops in sets.items()
    }
    return found | {"training crops": measures.copying(own, rest, held_out)}


def agreement(crops: Crops, readings: Mapping[str, Reading], seed: int) -> dict[str, Any]:
    """Whether what the judge reads off images is what their captions say.

    Args:
        crops: The reference, whose captions all sets were drawn after.
        readings: Of the reference, `real`, and of each set.
        seed: Of orders and draws.

    Returns:
        Of each set its fact F1 with its own captions and with shuffled ones, their difference with
        an interval, and the AUROC of the judge's deformation for what the captions say.
    """
    membership = np.eye(len(crops.texts), dtype=bool)
    drawn = clusters(*group_weights(membership, list(crops.groups)), seed=seed)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(crops.texts)) for _ in range(SHUFFLES)]
    told = np.array([bool(captions.parse(text).patterns) for text in crops.texts])
    constant = Counter(crops.texts).most_common(1)[0][0]
    systems = {name: reading.texts for name, reading in readings.items()}
    systems["constant"] = [constant] * len(crops.texts)
    found: dict[str, Any] = {}
    for name, texts in systems.items():
        matched = count_facts(crops.texts, texts)
        others = [count_facts(crops.texts, [texts[i] for i in order]) for order in orders]
        shuffled = _together(others)
        entry: dict[str, Any] = {}
        for group in ("all", "deformation"):
            own, chance = (_f1(counts, group, drawn) for counts in (matched, shuffled))
            label = "fact_f1" if group == "all" else "deformation_f1"
            entry[label] = drawn.estimate(own)
            entry[f"{label}_shuffled"] = drawn.estimate(chance)
            entry[f"{label}_minus_shuffled"] = drawn.difference(own, chance)
        if name in readings:
            entry["deformation_auroc"] = drawn.estimate(
                auroc(told, readings[name].deformation, drawn.members)
            )
        found[name] = entry
    return found


def _f1(counts: FactCounts, group: str, drawn: Clusters) -> Statistic:
    wanted, said, right = counts.sums(group)
    return ratio(drawn.members, 2 * right, wanted + said)


def _together(parts: Sequence[FactCounts]) -> FactCounts:
    """Mean counts over several orders of the captions."""
    first = parts[0]
    wanted, said, right = (
        np.mean([getattr(part, name) for part in parts], axis=0)
        for name in ("wanted", "said", "right")
    )
    return FactCounts(wanted, said, right, first.exact, first.told)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score, write the results, print the tables."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except HephError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    started = time.perf_counter()
    pipeline = load_generator(options.model)
    judge, seer = Heads.from_pretrained(options.judge), Heads.from_pretrained(options.encoder)
    if judge.config.encoder.backbone == seer.config.encoder.backbone:
        what = f"the judge's backbone is {judge.config.encoder.backbone}, as the encoder's"
        raise HephError(str(options.judge), what, "give a --judge of another backbone and seed")
    rows, seed = parquet.load(options.data, options.split), options.seed
    real = read_crops(rows, pipeline.side, options.number, seed)
    sets = {"real": real, "scrambled": scrambled(real, seed)}
    names = {steps: f"generated, {steps} steps" for steps in options.steps}
    seconds = {}
    for steps, name in names.items():
        before = time.perf_counter()
        with _progress(name, len(real.texts)) as progress:
            sets[name] = draw_crops(pipeline, real, steps, options.guidance, seed, progress)
        seconds[name] = round(time.perf_counter() - before, 1)
    if options.simulated is not None:
        held_out = parquet.load(options.simulated, options.split)
        sets["simulator"] = read_crops(held_out, pipeline.side, options.number, seed)
    seen = {name: features(seer, crops) for name, crops in sets.items()}
    own = [name for name in sets if name in ("real", *names.values())]
    readings = {name: read_facts(judge, sets[name]) for name in own}
    groups = list(real.groups)
    results = {
        "task": "generation",
        "model": str(options.model),
        "data": str(options.data),
        "split": {
            "name": options.split,
            "crops": len(real.texts),
            "groups": len(set(groups)),
            "sources": dict(Counter(rows["source"])),
        },
        "guidance_scale": pipeline.config.guidance_scale
        if options.guidance is None
        else options.guidance,
        "judge": judge.model_id,
        "encoder": seer.model_id,
        "realism": realism(
            seen["real"], {n: x for n, x in seen.items() if n != "real"}, real.units, seed
        ),
        "look": look(sets, seed),
        "agreement": agreement(real, readings, seed),
        "copying": {}
        if options.latents is None
        else copies(pipeline, {n: sets[n] for n in names.values()}, real, options.latents),
        "without_data": {n: int((~sets[n].valid.any((1, 2))).sum()) for n in names.values()},
        "drawing_seconds": seconds,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
    }
    results = finished(results)
    out = options.out or options.model / "results.json"
    _report(results, out, options.as_json)


def _report(results: Mapping[str, Any], out: Path, as_json: bool) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    from heph_vl.files import write_text, writing

    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, json.dumps(results, indent=1, allow_nan=False) + "\n")
    if as_json:
        print(json.dumps(results, allow_nan=False))
        return
    console = Console(width=150)
    table = Table(
        "set",
        "KID normalised",
        "FID normalised",
        "precision",
        "recall",
        "density",
        "coverage",
        "steps [rad]",
        "spectrum [dB]",
        title="How real",
    )
    for name, found in results["realism"].items():
        seen = results["look"].get(name, {})
        keys = "kid_normalised", "fid_normalised", "precision", "recall", "density", "coverage"
        cells = [
            " ± ".join(_number(found[k][part]) for part in ("value", "standard_error"))
            for k in keys
        ]
        table.add_row(
            name, *cells, *(_number(seen.get(k)) for k in ("phase_gradient_rad", "spectrum_db"))
        )
    console.print(table)
    table = Table(
        "set",
        "fact F1",
        "shuffled",
        "difference",
        "deformation F1",
        "shuffled",
        "difference",
        "AUROC",
        title="What the judge reads",
    )
    for name, found in results["agreement"].items():
        cells = []
        for label in ("fact_f1", "deformation_f1"):
            gap = found[f"{label}_minus_shuffled"]
            ends = [_number(end) for end in gap["interval"] or ()]
            cells += [_number(found[label]["value"]), _number(found[f"{label}_shuffled"]["value"])]
            cells.append(_number(gap["value"]) + (f" ({ends[0]} to {ends[1]})" if ends else ""))
        table.add_row(name, *cells, _number(found.get("deformation_auroc", {}).get("value")))
    console.print(table)
    for name, found in results["copying"].items():
        console.print(f"nearest training crop, {name}: {found}")
    console.print(f"written to {out}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of a generator")
    parser.add_argument("--data", type=Path, required=True, help="folder of `heph-vl dataset`")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument("--judge", type=Path, default=Path("weights/judge"), help="heads")
    parser.add_argument("--encoder", type=Path, default=Path("weights/heads"), help="heads")
    parser.add_argument("--simulated", type=Path, help="patches of `heph-vl simulate-patches`")
    parser.add_argument(
        "--latents", type=Path, help="RUN/latents: was anything copied from its training crops?"
    )
    parser.add_argument("--number", type=_positive, default=512, help="crops (default: 512)")
    parser.add_argument(
        "--steps", type=_positive, nargs="+", default=[8, 50], help="of the sampler"
    )
    parser.add_argument("--guidance", type=float, help="(default: the model's own)")
    parser.add_argument("--seed", type=int, default=0, help="of crops, noise and draws")
    parser.add_argument("--out", type=Path, help="default: results.json beside the model")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print results as JSON")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
