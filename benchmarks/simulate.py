"""Where the simulator's time goes: each stage of one pair, and the rate of a whole run.

    python benchmarks/simulate.py [--size 288] [--repeats 5] [--pairs 40] [--workers 2]

Stages are timed on one core by CPU time, so that other work on the machine disturbs them less.
The share of the frame (terrain, footprint, sources) is spread over 14 pairs, as in
`heph-vl simulate -n 400`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch

from heph_vl.simulate import scene as scenes
from heph_vl.simulate.atmosphere import draw_date
from heph_vl.simulate.corpus import frame_order, simulate, write_pair
from heph_vl.simulate.decorrelation import decorrelate, smooth_coherent
from heph_vl.simulate.frame import choose_pairs, draw_frame, seeded
from heph_vl.simulate.render import Rendering

PAIRS_OF_A_FRAME = 14
DATES = 12


def cpu_ms(function: Callable[[], Any], repeats: int) -> float:
    """Mean CPU time of a call [ms], the first one left out."""
    function()
    start = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - start) / repeats * 1e3


def stages(size: int, repeats: int) -> dict[str, float]:
    """CPU time [ms] of each stage of one pair."""
    name = frame_order()[0]
    frame = draw_frame(name, size, DATES, seed=1)
    g = seeded(1, "benchmark")
    pair = choose_pairs(frame, 1, 1.0, seeded(1, "pair"))[0]
    unwrapped = frame.phase(pair)
    coherence = scenes._coherence(frame, pair)
    noise, sample = decorrelate(coherence[None], [g])
    phasor = torch.polar(torch.ones_like(unwrapped), unwrapped) * noise
    (scene,) = scenes.simulate_scenes(frame, [pair], [g])
    seeds = count()
    with tempfile.TemporaryDirectory() as folder:
        write = cpu_ms(
            lambda: write_pair(Path(folder), scene, scene.annotation(1, g), Rendering()), repeats
        )
        return {
            "frame / 14": cpu_ms(lambda: draw_frame(name, size, DATES, next(seeds)), repeats)
            / PAIRS_OF_A_FRAME,
            "dates": cpu_ms(lambda: draw_date(frame.grid, frame.response, g), repeats)
            * DATES
            / PAIRS_OF_A_FRAME,
            "phase": cpu_ms(lambda: frame.phase(pair), repeats),
            "coherence": cpu_ms(lambda: scenes._coherence(frame, pair), repeats),
            "noise": cpu_ms(lambda: decorrelate(coherence[None], [g]), repeats),
            "filter": cpu_ms(
                lambda: torch.angle(smooth_coherent(phasor, sample, frame.footprint)), repeats
            ),
            "findings": cpu_ms(lambda: scenes._findings(frame, pair, coherence), repeats),
            "render and write": write,
        }


def main() -> None:
    """Prints the table of stages, then the rate of a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=288)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = stages(options.size, options.repeats)
    total = sum(measured.values())
    for name, ms in measured.items():
        print(f"{name:18s}{ms:8.1f} ms  {ms / total:5.0%}")
    print(f"{'sum':18s}{total:8.1f} ms of CPU a pair at {options.size} px")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        frames = max(1, options.pairs // PAIRS_OF_A_FRAME)
        simulate(
            Path(folder) / "run",
            options.pairs,
            frames=frames,
            dates=DATES,
            size=options.size,
            workers=options.workers,
        )
        wall = time.perf_counter() - start
    print(
        f"run: {options.pairs} pairs of {frames} frames with {options.workers} workers in "
        f"{wall:.1f} s, {wall / options.pairs:.2f} s a pair (starting the workers included)"
    )


if __name__ == "__main__":
    main()
