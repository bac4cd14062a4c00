"""Encoder speed, forward and backward, beside the bare timm backbone on the same tiles.

    python benchmarks/encoder.py [--device cuda] [--rounds 5]

Prints images/s for crops (96 px, one tile) and whole interferograms (288 px, 9 tiles), for each
norm, with and without bf16, and the share of the backbone's own speed that the encoder keeps.
Rounds of all cases alternate and the best of each counts, so that other load hits all alike.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

from heph_vl.models.encoder import Encoder, EncoderConfig

TILE = 96
CASES = {"crops 96 px": (32, 96), "whole 288 px": (4, 288)}  # images, side


def step(model: nn.Module, inputs: tuple[torch.Tensor, ...], *, bf16: bool) -> Callable[[], None]:
    """One forward and backward of the sum of what the model gives."""
    device = inputs[0].device.type

    def run() -> None:
        with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            out = model(*inputs)
        out = out.pooled if hasattr(out, "pooled") else out[16]
        out.float().sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def seconds(run: Callable[[], None]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbones", nargs="+", default=["test_resnet", "resnet18"])
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads")
    print(f"{'backbone':12} {'norm':6} {'images':13} {'bf16':5} {'images/s':>9} {'of bare':>8}")
    for backbone in args.backbones:
        runs: dict[tuple[str, str, bool], tuple[int, Callable[[], None], Callable[[], None]]] = {}
        for norm in ("group", "batch"):
            config = EncoderConfig(
                backbone=backbone, norm=norm, tile_size=TILE, tile_overlap=0, dim=128, num_heads=4
            )
            encoder = Encoder(config).to(args.device)
            for case, (images, side) in CASES.items():
                pixels = torch.randn(images, 3, side, side, device=args.device)
                valid = torch.ones(images, side, side, dtype=torch.bool, device=args.device)
                tiles = torch.randn(images * (side // TILE) ** 2, 3, TILE, TILE, device=args.device)
                for bf16 in (False, True):
                    runs[norm, case, bf16] = (
                        images,
                        step(encoder, (pixels, valid), bf16=bf16),
                        step(encoder.backbone, (tiles,), bf16=bf16),
                    )
        best = {key: [float("inf"), float("inf")] for key in runs}
        for round_ in range(args.rounds + 1):
            for key, (_, ours, bare) in runs.items():
                times = seconds(ours), seconds(bare)
                if round_:  # the first warms up
                    best[key] = [min(pair) for pair in zip(best[key], times, strict=True)]
        for (norm, case, bf16), (ours_s, bare_s) in best.items():
            rate = runs[norm, case, bf16][0] / ours_s
            print(
                f"{backbone:12} {norm:6} {case:13} {'yes' if bf16 else 'no':5} {rate:9.1f} "
                f"{bare_s / ours_s:8.2f}"
            )


if __name__ == "__main__":
    main()
