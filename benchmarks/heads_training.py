"""Training of the heads and of MoCo by `fit`, data loading included, against bare loops.

    python benchmarks/heads_training.py DATASET [--rows 48] [--rounds 3] [--steps 4] [--json]

DATASET is a folder of `heph-vl dataset`; model, samples and batches are those of the tiny recipes.
Three loops take turns, a block of steps each, and the best block of each counts:

    prepared   loss, backward and step on batches that lie ready in memory
    loader     the same, on batches of the recipe's loader (its workers take a core each)
    fit        the recipe's loop: loader, clipping, checks, logging; and the average of weights

Loader and `fit` start with the rows decoded, as after the first epoch; what decoding a row costs
stands beside them, and what samples cost without any training. The first steps of a block are not
counted: batches that the workers made before them would come for nothing.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from heph_vl.config import parse_config
from heph_vl.data import parquet
from heph_vl.data.sampling import StepSampler
from heph_vl.data.transforms import TrainingSet, collate
from heph_vl.data.views import ViewPairs, collate_views
from heph_vl.loop import EMA, LoopConfig, fit, make_optimizer
from heph_vl.models.heads import Heads, heads_loss
from heph_vl.models.moco import MoCo, Momentum, moco_loss
from heph_vl.run import AcceleratorConfig, Run, make_accelerator
from heph_vl.validate import no_text

ROOT = Path(__file__).parents[1]
UNCOUNTED = 3  # steps: a worker is two batches ahead
AfterStep = Callable[[nn.Module, int], None]


@dataclass(frozen=True)
class Task:
    """What a recipe trains, and on what.

    Attributes:
        samples: Keyed as `StepSampler` asks.
        collate: Samples -> batch.
        batch_size: Of a step.
        make: A new model.
        loss: Loss and logs of model and batch.
        after_step: What the algorithm itself does after a step, in all loops.
        average: What only `fit` does after a step, as the recipe.
    """

    samples: Any
    collate: Callable[[Any], dict[str, Any]]
    batch_size: int
    make: Callable[[], nn.Module]
    loss: Callable[[Any, Any], Any]
    after_step: AfterStep | None
    average: Callable[[nn.Module], AfterStep] | None

    def loader(self, workers: int) -> DataLoader[Any]:
        """Of endless batches."""
        sampler = StepSampler(len(self.samples), self.batch_size, seed=0)
        return DataLoader(
            self.samples, batch_sampler=sampler, collate_fn=self.collate, num_workers=workers
        )


def tasks(dataset: Path, rows: int, cache_bytes: int) -> dict[str, Task]:
    """The tiny recipes of heads and MoCo on evenly spaced train rows of a dataset."""
    sys.path.insert(0, str(ROOT / "training"))
    import train_heads
    import train_moco

    train = parquet.load(dataset, "train")
    some = np.linspace(0, len(train), min(rows, len(train)), endpoint=False, dtype=int)
    train = train.select(some)
    configs: dict[str, Any] = {}
    for name, recipe in (("heads", train_heads), ("moco", train_moco)):
        words = ["--config", str(ROOT / "configs" / name / "tiny.yaml")]
        configs[name], _ = parse_config(recipe.Config, words)
    heads, moco = configs["heads"], configs["moco"]
    return {
        "heads": Task(
            TrainingSet(train, heads.transform, seed=0, cache_bytes=cache_bytes),
            partial(collate, tokenize=no_text),
            heads.data.batch_size,
            lambda: Heads(heads.model),
            heads_loss,
            None,
            lambda model: EMA(model, heads.optimizer.ema_decay),
        ),
        "moco": Task(
            ViewPairs(train, moco.views, seed=0, cache_bytes=cache_bytes),
            collate_views,
            moco.data.batch_size,
            lambda: MoCo(moco.model),
            moco_loss,
            Momentum(moco.model.momentum),
            None,
        ),
    }


def now() -> np.ndarray:
    """Seconds (2,) of the wall clock and of all threads of this process; workers are not in it."""
    return np.array([time.perf_counter(), time.process_time()])


def bare_block(
    task: Task, model: nn.Module, optimizer: Any, batches: Iterator[Any], steps: int
) -> np.ndarray:
    """Seconds (2,) of a step."""
    for step in range(UNCOUNTED + steps):
        if step == UNCOUNTED:
            began = now()
        loss, _ = task.loss(model, next(batches))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if task.after_step:
            task.after_step(model, step)
    return (now() - began) / steps


def fit_block(task: Task, model: nn.Module, workers: int, steps: int) -> np.ndarray:
    """Seconds (2,) of a step, without start and end."""
    marks: list[np.ndarray] = []
    after = task.after_step or (task.average and task.average(model))

    def after_step(model: nn.Module, step: int) -> None:
        if after:
            after(model, step)
        marks.append(now())

    config = LoopConfig(steps=UNCOUNTED + steps + 1, warmup_steps=1, log_every=10)
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as null,
        redirect_stderr(null),
    ):
        fit(
            make_accelerator(AcceleratorConfig()),
            model,
            task.loader(workers),
            task.loss,
            make_optimizer(model, 1e-4, 0.05),
            config=config,
            run=Run(Path(folder)),
            after_step=after_step,
        )
    # The last step, with checkpoint and all, is left out.
    return (marks[UNCOUNTED + steps - 1] - marks[UNCOUNTED - 1]) / steps


def sample_ms(task: Task, batches: int) -> tuple[float, float]:
    """CPU time [ms] of decoding a row, and of a sample of a decoded one, collated."""
    samples = task.samples
    began = time.process_time()
    for index in range(len(samples)):
        samples.interferogram(index)
    decode = (time.process_time() - began) / len(samples)
    loader = iter(task.loader(0))
    began = time.process_time()
    for _ in range(batches):
        next(loader)
    return 1e3 * decode, 1e3 * (time.process_time() - began) / (batches * task.batch_size)


def measure(task: Task, rounds: int, steps: int, workers: int) -> dict[str, Any]:
    """Milliseconds [wall, cpu] a step of each loop, ratios, and what samples cost."""
    decode, cached = sample_ms(task, 2)
    prepared = list(islice(task.loader(0), UNCOUNTED + steps))  # the ones that all loops see
    torch.manual_seed(0)
    models = [task.make().train() for _ in range(3)]
    optimizers = [make_optimizer(model, 1e-4, 0.05) for model in models]
    best: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, model, optimizer in zip(
            ("prepared", "loader", "fit"), models, optimizers, strict=True
        ):
            if name == "fit":
                seconds = fit_block(task, model, workers, steps)
            else:
                batches = iter(prepared if name == "prepared" else task.loader(workers))
                seconds = bare_block(task, model, optimizer, batches, steps)
                del batches  # and with it the workers
            best[name] = np.minimum(best.get(name, np.inf), 1e3 * seconds)
    shape = (prepared[0].get("query") or prepared[0])["pixel_values"].shape
    fit_ms = best["fit"]
    return {
        "batch": list(shape),
        "ms_a_step": {name: [round(float(ms), 1) for ms in both] for name, both in best.items()},
        "of_prepared": [round(float(r), 3) for r in best["prepared"] / fit_ms],
        "of_loader": [round(float(r), 3) for r in best["loader"] / fit_ms],
        "decode_ms_a_row": round(decode, 1),
        "sample_ms": round(cached, 2),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("dataset", type=Path, help="folder of `heph-vl dataset`")
    parser.add_argument("--rows", type=int, default=48, help="train rows to draw from")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="counted, of a block")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", choices=["heads", "moco"], default=["heads", "moco"])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    made = tasks(options.dataset, options.rows, cache_bytes=4 << 30)
    result: dict[str, Any] = {
        name: measure(made[name], options.rounds, options.steps, options.workers)
        for name in options.tasks
    }
    if options.json:
        print(json.dumps(result | {"torch": torch.__version__, "threads": options.threads}))
        return
    print(f"torch {torch.__version__}, {options.threads} threads, {options.workers} workers")
    for name in options.tasks:
        found = result[name]
        print(f"{name}, batch {' x '.join(map(str, found['batch']))}: ms a step wall, cpu")
        for loop, (wall, cpu) in found["ms_a_step"].items():
            print(f"  {loop:10}{wall:10.1f}{cpu:10.1f}")
        for floor in ("prepared", "loader"):
            wall, cpu = found[f"of_{floor}"]
            print(f"  fit's share of the speed of {floor:10}{wall:7.3f}{cpu:7.3f}")
        print(
            f"  CPU time: {found['decode_ms_a_row']} ms to decode a row, {found['sample_ms']} ms a "
            f"sample of a decoded one"
        )


if __name__ == "__main__":
    main()
