"""Detection in whole frames, from the PNG to the finished entry, against the model's bare calls.

    python benchmarks/detect.py [--side 900] [--rounds 5] [--threads 2] [--memory 3000] [--json]

The frame is synthetic (turbulent phase, grain of a sea, no data beyond a slanted swath, seed 0), in
LiCSAR's colours, a palette PNG with its coherence beside it; the weights are random. Bare calls are
backbone and decoder on tiles that are cut already, and the pooling of their tokens. All parts take
turns in one run and the best round of each counts; `cpu` is the time of all threads together, which
other load hardly touches. Memory is the peak of a fresh process that detects in one frame.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from heph_vl.config import parse_config
from heph_vl.data.images import read_coherence
from heph_vl.data.phase import read_interferogram, wrap
from heph_vl.data.picture import read_picture
from heph_vl.data.samples import decoded_pixels
from heph_vl.data.views import turbulence
from heph_vl.detect import detect, outlines
from heph_vl.models.heads import Heads
from heph_vl.models.segmenter import Blender, to_pixels
from heph_vl.models.tiles import CELL, choose_tiles, cut_tiles
from heph_vl.simulate.render import Rendering, render

CONFIGS = Path(__file__).parents[1] / "configs" / "heads"
MODELS = {"reference": "base.yaml", "tiny": "tiny.yaml"}
DRAWN = 900  # px; larger frames mirror it, which spares drawing 100 megapixels
DEFORMING = 0.001  # share of pixels above the threshold: some tens of patches to outline


def write_frames(folder: Path, side: int, count: int) -> list[Path]:
    """The same frame of side x side px under several names, coherence beside each."""
    rng = np.random.default_rng(0)
    fine = round(DRAWN / 0.3)
    y, x = np.mgrid[:fine, :fine].astype(np.float32) / fine
    smooth = np.kron(turbulence((fine // 4, fine // 4), rng), np.ones((4, 4), np.float32))
    sea = (x - 0.9) ** 2 + (y - 0.2) ** 2 < 0.1
    phase = 3 * smooth + 40 * np.exp(-((x - 0.4) ** 2 + (y - 0.5) ** 2) / 2e-3)
    phase = wrap(np.where(sea, rng.uniform(-np.pi, np.pi, x.shape), phase).astype(np.float32))
    valid = np.abs(x - 0.5 - 0.1 * (y - 0.5)) < 0.46
    pictures = render(phase, valid, np.where(sea, 0.1, 0.8), Rendering(posterise=True))
    data = {}
    for kind, picture in zip(("diff", "cc"), pictures, strict=True):
        pixels = np.pad(np.asarray(picture), (0, max(0, side - DRAWN)), mode="symmetric")
        larger = Image.fromarray(pixels[:side, :side])
        if picture.mode == "P":
            larger.putpalette(picture.getpalette())
        larger.info = dict(picture.info)
        larger.save(folder / f"{kind}.png")
        data[kind] = (folder / f"{kind}.png").read_bytes()
    paths = [folder / f"{i:03}.geo.diff.png" for i in range(count)]
    for path in paths:
        path.write_bytes(data["diff"])
        path.with_name(path.name.replace("diff", "cc")).write_bytes(data["cc"])
    return paths


def make_model(name: str, frame: Path) -> Heads:
    """Heads of a config with random weights, whose mask of the frame is not empty."""
    sys.path.insert(0, str(CONFIGS.parents[1] / "training"))
    from train_heads import Config

    config, _ = parse_config(Config, ["--config", str(CONFIGS / MODELS[name])])
    torch.manual_seed(0)
    heads = Heads(config.model).eval()
    picture = read_picture(frame)
    seen = heads.predict(torch.from_numpy(picture.channels), torch.from_numpy(picture.valid))
    threshold = float(np.quantile(seen.mask_probability, 1 - DEFORMING))
    heads.calibration = replace(heads.calibration, mask_threshold=threshold)
    return heads


def parts(heads: Heads, frame: Path) -> dict[str, Callable[[], Any]]:
    """Each step of a detection on what the step before it gives, and the bare calls."""
    decoded, picture = read_interferogram(frame), read_picture(frame)
    beside = frame.with_name(frame.name.replace("diff", "cc"))
    pixels, valid = torch.from_numpy(picture.channels), torch.from_numpy(picture.valid)
    config, (height, width) = heads.config.encoder, valid.shape
    size, stride = torch.tensor([[height, width]]), config.tile_size - config.tile_overlap
    tiles = choose_tiles(valid[None], size, config.tile_size, stride, config.min_valid_tile)
    cut = cut_tiles(pixels[None] * valid, tiles, config.tile_size, stride)
    cut = cut.contiguous().split(config.max_tiles_per_forward)
    with torch.no_grad():
        seen = heads.encoder(pixels[None], valid[None])
        features = [heads.encoder.backbone(chunk) for chunk in cut]
        logits = torch.cat([heads.decoder(chunk) for chunk in features]).split(1)
    found = heads.predict(pixels, valid)

    def backbone_and_pool() -> None:
        cells = torch.cat([heads.encoder.backbone(chunk)[CELL] for chunk in cut])
        heads.encoder.norm(heads.encoder.projection(cells.permute(0, 2, 3, 1)))
        heads.encoder.pool(seen.tokens, seen.token_mask, seen.saliency_logits)

    def decoder() -> None:
        for chunk in features:
            heads.decoder(chunk)

    def bare() -> None:
        cells = []
        for chunk in cut:
            pyramid = heads.encoder.backbone(chunk)
            heads.decoder(pyramid)
            cells.append(pyramid[CELL])
        heads.encoder.norm(heads.encoder.projection(torch.cat(cells).permute(0, 2, 3, 1)))
        heads.encoder.pool(seen.tokens, seen.token_mask, seen.saliency_logits)

    def blend() -> None:
        blender = Blender(height, width, config.tile_size, stride, device=valid.device)
        for (_, row, column), tile in zip(tiles.tolist(), logits, strict=True):
            blender.add(row, column, to_pixels(tile, config.tile_size).softmax(1)[0])
        blender.finish()

    return {
        "decode PNG": lambda: read_interferogram(frame),
        "read coherence": lambda: read_coherence(beside.read_bytes(), valid.shape, "coherence"),
        "estimate coherence": lambda: decoded_pixels(decoded.wrapped_phase, decoded.valid),
        "read_picture": lambda: read_picture(frame),
        "bare backbone, pooling": backbone_and_pool,
        "encoder": lambda: heads.encoder(pixels[None], valid[None], consume=lambda *_: None),
        "decoder": decoder,
        "blending": blend,
        "outlines": lambda: outlines(found.mask, found.mask_probability),
        "bare calls": bare,
        "predict": lambda: heads.predict(pixels, valid),
    }


def now() -> np.ndarray:
    """Seconds (2,) of the wall clock and of all threads of this process."""
    return np.array([time.perf_counter(), time.process_time()])


@torch.no_grad()
def measure(name: str, side: int, rounds: int) -> dict[str, Any]:
    """Milliseconds [wall, cpu] of each part, and the share that bare calls take of the whole."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = write_frames(folder, side, rounds + 1)
        heads = make_model(name, paths[0])
        runs = parts(heads, paths[0])
        entries = detect(paths, heads)
        written = detect(paths, heads, folder / "out")
        runs |= {"detect": lambda: next(entries), "detect, written": lambda: next(written)}
        best: dict[str, np.ndarray] = {}
        for round_ in range(rounds + 1):
            for part, run in runs.items():
                began = now()
                result = run()
                taken = 1e3 * (now() - began)
                if part == "detect":
                    pieces = len(result["polygons"])
                if round_:
                    best[part] = np.minimum(best.get(part, np.inf), taken)
    floor = best["bare calls"]
    return {
        "ms": {part: [round(float(ms), 1) for ms in both] for part, both in best.items()},
        "bare_over": {
            part: [round(float(r), 3) for r in floor / best[part]]
            for part in ("predict", "detect", "detect, written")
        },
        "outlines": pieces,
    }


def peak_memory(name: str, side: int, threads: int) -> dict[str, float]:
    """MiB of a fresh process with the model loaded, and at the peak of detecting in one frame."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(name, write_frames(folder, DRAWN, 1)[0]).save_pretrained(folder / "model")
        (path,) = write_frames(folder, side, 1)
        words = [sys.executable, __file__, "--threads", str(threads), "--in-process", path, folder]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found


def detect_here(path: Path, folder: Path) -> dict[str, float]:
    """What `peak_memory` tells, of this process."""
    heads = Heads.from_pretrained(folder / "model")
    before = peak_mib()
    began = time.perf_counter()
    for _ in detect([path], heads, folder / "out"):
        pass
    seconds = round(time.perf_counter() - began, 2)
    return {"loaded_mib": before, "peak_mib": peak_mib(), "seconds": seconds}


def peak_mib() -> float:
    """Largest resident memory of this process so far, of Linux.

    `getrusage` would count the process that started this one, too: its peak outlives the exec.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 1024, 1)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--side", type=int, default=900, help="side of the frame [px]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--memory", type=int, default=0, help="side of a frame [px]; 0: not asked")
    parser.add_argument("--in-process", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.in_process:
        print(json.dumps(detect_here(*options.in_process)))
        return
    result: dict[str, Any] = {"torch": torch.__version__, "threads": options.threads}
    for name in options.models:
        result[name] = measure(name, options.side, options.rounds)
        if options.memory:
            result[name]["memory"] = peak_memory(name, options.memory, options.threads)
    if options.json:
        print(json.dumps(result))
        return
    print(f"torch {torch.__version__}, {options.threads} threads, {options.side} px")
    for name in options.models:
        print(f"{name}, {result[name]['outlines']} outlines: ms wall, cpu")
        for part, (wall, cpu) in result[name]["ms"].items():
            print(f"  {part:24}{wall:10.1f}{cpu:10.1f}")
        for part, (wall, cpu) in result[name]["bare_over"].items():
            print(f"  bare calls / {part:16}{wall:6.3f}{cpu:10.3f}")
        if options.memory:
            numbers = ", ".join(f"{k} {v}" for k, v in result[name]["memory"].items())
            print(f"  {options.memory} px: {numbers}")


if __name__ == "__main__":
    main()
