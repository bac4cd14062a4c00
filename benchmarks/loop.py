"""Throughput of `fit` against a bare loop with the same model, AdamW and the batch in memory.

    python benchmarks/loop.py [--rounds 5] [--steps 6] [--workers 1] [--threads 2]

Blocks of steps of both take turns in one process and the best block of each counts, so that other
load hits all alike; beside the wall clock stands the time of the main thread, which other load
hardly touches (with --threads 1 it is all there is). `fit` gets its batches from a loader over
samples in memory, clips, checks and logs; the second line keeps an average of the weights too.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from heph_vl.data.sampling import StepSampler
from heph_vl.loop import EMA, LoopConfig, fit, make_optimizer
from heph_vl.run import AcceleratorConfig, Run, make_accelerator

SAMPLES = 256


@dataclass(frozen=True)
class Case:
    """A model, its images and the steps of a block."""

    name: str
    make: Callable[[], nn.Module]
    pixels: int
    batch_size: int
    steps: int


class Images(Dataset[Tensor]):
    """Random images in memory, keyed as `StepSampler` asks."""

    def __init__(self, pixels: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(SAMPLES, 3, pixels, pixels, generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        return self.images[key[0]]


def light() -> nn.Module:
    """A few milliseconds a step: shows the fixed cost of the loop."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.GELU(), nn.Flatten(), nn.LazyLinear(8))


def heavy() -> nn.Module:
    """About as much work as a step of the tiny recipe."""
    return timm.create_model("test_resnet", num_classes=8)


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    """Any loss will do."""
    return model(batch).float().square().mean()


def now() -> np.ndarray:
    """Seconds (2,) of the wall clock and of this thread."""
    return np.array([time.perf_counter(), time.thread_time()])


def bare_block(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor, steps: int
) -> np.ndarray:
    """Seconds (2,) of a step."""
    began = now()
    for _ in range(steps):
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (now() - began) / steps


def fit_block(
    case: Case, model: nn.Module, images: Images, workers: int, average: bool
) -> tuple[np.ndarray, float]:
    """Seconds (2,) of a step, without start and end, and the share of waiting for data."""
    sampler = StepSampler(SAMPLES, case.batch_size, seed=0)
    loader = DataLoader(images, batch_sampler=sampler, num_workers=workers)
    starts: list[np.ndarray] = []

    def loss_fn(model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        starts.append(now())
        loss = loss_of(model, batch)
        return loss, {"twice": 2 * loss}

    steps = case.steps + 2
    config = LoopConfig(steps=steps, warmup_steps=1, log_every=max(2, steps // 3))
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as null:
        run = Run(Path(folder))
        with redirect_stderr(null):
            fit(
                make_accelerator(AcceleratorConfig()),
                model,
                loader,
                loss_fn,
                make_optimizer(model, 1e-4, 0.05),
                config=config,
                run=run,
                after_step=EMA(model, 0.99) if average else None,
            )
        wait = run.metrics()[1]["data_wait"]  # the first line holds the start of the workers
    return (starts[-1] - starts[1]) / case.steps, wait


def measure(case: Case, rounds: int, workers: int) -> None:
    """Print one case."""
    images = Images(case.pixels)
    batch = torch.stack([images[(i, 0)] for i in range(case.batch_size)])
    torch.manual_seed(0)
    models = [case.make().train() for _ in range(3)]
    for model in models:
        model(batch)  # materialises lazy layers
    optimizer = make_optimizer(models[0], 1e-4, 0.05)
    bare_block(models[0], optimizer, batch, 2)
    blocks: dict[str, list[np.ndarray]] = {"bare loop": [], "fit": [], "fit + EMA": []}
    waits: list[float] = []
    for _ in range(rounds):
        blocks["bare loop"].append(bare_block(models[0], optimizer, batch, case.steps))
        for name, model in (("fit", models[1]), ("fit + EMA", models[2])):
            seconds, wait = fit_block(case, model, images, workers, name != "fit")
            blocks[name].append(seconds)
            waits.append(wait)
    best = {name: 1e3 * np.min(times, axis=0) for name, times in blocks.items()}
    floor = best["bare loop"]
    print(f"{case.name}, batch {case.batch_size}:  ms/step, ratio to the bare loop, difference")
    for name, ms in best.items():
        for clock, mine, its in zip(("wall", "thread"), ms, floor, strict=True):
            print(f"  {name:10} {clock:6} {mine:9.2f}  {its / mine:6.3f}  {mine - its:+8.2f}")
    print(f"  share of time waiting for data: {min(waits):.1%} ({workers} workers)")


def main() -> None:
    """Measure a light and a heavy model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="of a block of the heavy model")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads")
    measure(Case("light", light, 32, 32, 20 * options.steps), options.rounds, options.workers)
    measure(Case("heavy", heavy, 96, 48, options.steps), options.rounds, options.workers)


if __name__ == "__main__":
    main()
