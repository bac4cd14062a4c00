"""How many native patches a second the simulator makes, and where its time goes.

    python benchmarks/simulate.py [--patches 224] [--workers 2] [--device cpu]

An equal mix of no deformation, Mogi, sill and dyke through the full chain: 750 x 750 pixels at
0.001 degree each with terrain, turbulent and stratified atmosphere, exact noise, filter, colours,
resize to 225 x 225 and posterisation, and the labels measured from it; PNG writing is left out. A
place serves 28 patches, all pairs of 8 dates. One thread a worker. Stages are CPU time of one
core; beside each stands its floor: the least that its arithmetic and memory traffic take, in the
same run.
On a GPU a batch of patches of one place is made at once.
"""

import argparse
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from heph_vl.simulate.corpus import worker_pool
from heph_vl.simulate.decorrelation import decorrelate, smooth_coherent
from heph_vl.simulate.fields import unit_los
from heph_vl.simulate.frame import Frame, date_state, draw_frame
from heph_vl.simulate.place import Site, draw_place, seeded
from heph_vl.simulate.plan import frame_order
from heph_vl.simulate.render import Rendering, draw
from heph_vl.simulate.scene import find, observe
from heph_vl.simulate.sources import KINDS, Source

MIX = ((), ("mogi",), ("sill",), ("dyke",))  # () is a frame whose source is not used
DATES, PAIRS, SIZE = 8, 28, 225
OPTIONS = Rendering(posterise=True, flatten=True)


def frame_of(number: int) -> tuple[Frame, list[tuple[int, int]]]:
    """A place of the mix, and its pairs: with motion between, unless it is of no deformation."""
    kinds = MIX[number % len(MIX)]
    name = frame_order()[number % len(frame_order())]
    frame = draw_frame(name, SIZE, DATES, 1_000 + number, kinds=kinds or ("mogi",))
    if not kinds:
        frame = Frame(frame.place, frame.seed, frame.dates, ())
    pairs = [(i, j) for i in range(DATES) for j in range(i + 1, DATES)]
    pairs.sort(
        key=lambda pair: -max((abs(frame.difference(s, pair)) for s in frame.sources), default=0)
    )
    return frame, pairs[:PAIRS]


def make_place(number: int) -> int:
    """Makes the patches of one place; how many."""
    frame, pairs = frame_of(number)
    for pair in pairs:
        g = seeded(number, "benchmark", *pair)
        (scene,) = observe([frame.layers(pair)], [g])
        draw(scene.wrapped_phase[None], scene.valid[None], scene.coherence[None], OPTIONS)
    return len(pairs)


def rate(patches: int, workers: int) -> float:
    """Patches a second with so many processes; starting them is left out."""
    places = -(-patches // (PAIRS * len(MIX))) * len(MIX)
    with worker_pool(workers) as pool:
        list(pool.map(make_place, range(workers)))
        start = time.perf_counter()
        made = sum(pool.map(make_place, range(places)))
        return made / (time.perf_counter() - start)


def cpu_ms(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median CPU time of a call [ms], the first one left out."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return sorted(times)[len(times) // 2] * 1e3


def stages() -> dict[str, tuple[float, float | None]]:
    """CPU time [ms] a patch of each stage, and its floor where there is one."""
    frame, pairs = frame_of(1)
    place, pair = frame.place, pairs[0]
    layers = frame.layers(pair)
    g = seeded(0, "stages")
    phase = layers.unwrapped_phase
    noise, sample = decorrelate(layers.coherence[None], [g])
    (scene,) = observe([layers], [g])
    shape = phase.shape
    one, planes = torch.rand(shape), torch.rand(5, *shape)
    states = [date_state(place, frame.seed, day) for day in frame.dates]
    coarse = states[0].turbulence.shape
    kinds = defaultdict(float)
    for kind in ("mogi", "sill", "dyke"):
        for k in range(3):
            source = Source(kind, 0.0, 0.0, KINDS[kind].prior(seeded(k, kind)))
            kinds[kind] += cpu_ms(lambda s=source: unit_los(s, place.grid, place.look), 3) / 3
    seeds = iter(range(10_000))
    bits = torch.empty(shape, dtype=torch.int64)
    index = torch.randint(0, 252, (phase.numel(),), dtype=torch.int32)
    table = torch.rand(252)

    def white() -> Any:
        return torch.fft.irfft2(torch.fft.rfft2(torch.randn(coarse)), s=coarse)

    def draw_date() -> Any:
        from heph_vl.simulate import frame as module

        module._states.clear()
        return date_state(place, next(seeds), frame.dates[0])

    site = Site(place.site.frame_id, place.site.native)
    return {
        f"place / {PAIRS}": (cpu_ms(lambda: draw_place(site, next(seeds)), 3) / PAIRS, None),
        f"sources / {PAIRS}": (sum(kinds.values()) / 4 * 2 / PAIRS, None),
        f"dates x {DATES} / {PAIRS}": (
            cpu_ms(draw_date) * DATES / PAIRS,
            cpu_ms(white) * DATES / PAIRS,
        ),
        "layers and sum": (cpu_ms(lambda: frame.layers(pair).unwrapped_phase), 3 * cpu_ms(one.exp)),
        "noise": (
            cpu_ms(lambda: decorrelate(layers.coherence[None], [g])),
            cpu_ms(bits.random_) + 4 * cpu_ms(lambda: table.index_select(0, index)),
        ),
        "filter": (
            cpu_ms(lambda: smooth_coherent(phase[None], noise, sample, place.footprint)),
            cpu_ms(lambda: (one.sin(), one.cos(), torch.atan2(one, one)))
            + 12 * cpu_ms(lambda: planes[0] + planes[1]),
        ),
        "labels": (cpu_ms(lambda: find(layers, place.footprint)), None),
        "colours and resize": (
            cpu_ms(
                lambda: draw(
                    scene.wrapped_phase[None], scene.valid[None], scene.coherence[None], OPTIONS
                )
            ),
            3 * cpu_ms(lambda: table.index_select(0, index))
            + cpu_ms(lambda: torch.rand(SIZE, 28) @ torch.rand(28, 5 * 750))
            + cpu_ms(planes.sum),
        ),
    }


def gpu_rate(patches: int, device: str) -> float:
    """Patches a second of the chain on a device, a place's pairs in one batch."""
    frame, pairs = frame_of(1)
    frame = frame.to(device)
    made = 0
    for repeat in range(-1, max(1, patches // PAIRS)):
        if repeat == 0:
            torch.cuda.synchronize(device)
            start = time.perf_counter()
        generators = [seeded(repeat, "gpu", *pair, device=device) for pair in pairs]
        scenes = observe([frame.layers(pair) for pair in pairs], generators)
        fields = (
            torch.stack([getattr(s, name) for s in scenes])
            for name in ("wrapped_phase", "valid", "coherence")
        )
        draw(*fields, OPTIONS)
        made += len(pairs) * (repeat >= 0)
    torch.cuda.synchronize(device)
    return made / (time.perf_counter() - start)


def main() -> None:
    """Prints the rate and the table of stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--patches", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.device != "cpu":
        print(f"{gpu_rate(options.patches, options.device):.0f} patches/s on {options.device}")
        return
    table = stages()
    both, single = rate(options.patches, options.workers), rate(options.patches // 2, 1)
    total = sum(ms for ms, _ in table.values())
    if options.json:
        print(
            json.dumps(
                {
                    "patches_per_second": both,
                    "workers": options.workers,
                    "patches_per_second_one_core": single,
                    "ms": {name: ms for name, (ms, _) in table.items()},
                    "floor_ms": {name: floor for name, (_, floor) in table.items()},
                    "machine": platform.processor() or platform.machine(),
                }
            )
        )
        return
    for name, (ms, floor) in table.items():
        least = "" if floor is None else f"floor {floor:6.1f} ms, {ms / floor:4.1f} x"
        print(f"{name:22s}{ms:8.1f} ms {ms / total:6.0%}   {least}")
    print(f"{'sum':22s}{total:8.1f} ms of one core a patch")
    print(f"{both:.1f} patches/s with {options.workers} workers, {single:.1f} with one")


if __name__ == "__main__":
    main()
