"""Training and sampling of the generator against diffusers' own step and bare denoiser calls.

    python benchmarks/generator.py [--config configs/generator/tiny.yaml] [--rounds 5] [--json]

Networks have the config's sizes and random weights; batches lie ready in memory. In turn, a block
of steps each, the best block of each counts:

    diffusers   the training step of its examples/text_to_image/train_text_to_image.py: encode,
                text, noise, denoiser, loss gathered, clipping, AdamW as it makes it, EMAModel
    uncached    `fit` with the recipe's loss on the same batches of images and tokens
    cached      the same on latents and text features made before

and for sampling: the pipeline's loop with guidance, and as many bare calls of the denoiser.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.nn import functional as F

from heph_vl.config import parse_config
from heph_vl.loop import EMA, LoopConfig, fit, make_optimizer
from heph_vl.models.autoencoder import AutoencoderConfig, PhaseAutoencoder, set_scale, to_channels
from heph_vl.models.generator import Frozen, generator_loss, make_denoiser, make_scheduler
from heph_vl.models.pipeline import CaptionEncoder, InSARPipeline
from heph_vl.models.text import TextConfig, TextTower, train_tokenizer
from heph_vl.run import AcceleratorConfig, Run, make_accelerator

ROOT = Path(__file__).parents[1]
UNCOUNTED = 2
TOKENS = 48  # of a text, about the mean of training captions
TEXT = TextConfig(width=192, layers=2)
AUTOENCODER = AutoencoderConfig(widths=(32, 64, 64), layers=1)


@dataclass
class Ready:
    """Batches in memory, as `fit` wants a loader to be."""

    batches: list[dict[str, torch.Tensor]]
    batch_size: int

    def __post_init__(self) -> None:
        self.batch_sampler = SimpleNamespace(batch_size=self.batch_size, start=0)

    def __iter__(self) -> Any:
        while True:
            yield from self.batches


def make(config: Any) -> tuple[Any, Frozen]:
    """A denoiser of a config's size and what it builds on, with random weights."""
    torch.manual_seed(0)
    network = PhaseAutoencoder(AUTOENCODER).network
    channels = AUTOENCODER.latent_channels
    set_scale(network, [0.0] * channels, [1.0] * channels)
    frozen = Frozen(network, TextTower(TEXT), config.model)
    side = config.transform.crop_size // 4
    return make_denoiser(config.model, channels, TEXT.width, side), frozen


def batches_of(config: Any, count: int) -> list[dict[str, torch.Tensor]]:
    """Images and tokens of the recipe's sizes."""
    size, side = config.data.batch_size, config.transform.crop_size
    found = []
    for _ in range(count):
        angle = torch.rand(size, side, side) * 6.28
        pixels = torch.stack([angle.cos(), angle.sin(), torch.rand(size, side, side)], dim=1)
        ids = torch.randint(4, 1000, (size, TOKENS))
        found.append(
            {
                "pixel_values": pixels,
                "valid": torch.ones(size, side, side, dtype=torch.bool),
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
            }
        )
    return found


def diffusers_block(model: Any, frozen: Frozen, batches: list[Any], steps: int) -> float:
    """Seconds a step of the example's loop; the denoiser is also given the text as a whole."""
    accelerator = make_accelerator(AcceleratorConfig())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8
    )
    schedule = get_scheduler("constant", optimizer=optimizer, num_warmup_steps=0)
    unet, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    average = EMAModel(unet.parameters(), model_config=unet.config)
    noising = DDPMScheduler(num_train_timesteps=1000)
    unet.train()
    for step in range(UNCOUNTED + steps):
        if step == UNCOUNTED:
            began = time.perf_counter()
        batch = batches[step % len(batches)]
        with accelerator.accumulate(unet):
            channels = to_channels(batch["pixel_values"], batch["valid"])
            with torch.no_grad():
                latents = frozen.autoencoder.encode(channels).latent_dist.sample()
            latents = latents * frozen.autoencoder.config.scaling_factor
            noise = torch.randn_like(latents)
            times = torch.randint(0, 1000, (len(latents),)).long()
            noised = noising.add_noise(latents, noise, times)
            text = frozen.read(batch["input_ids"], batch["attention_mask"])
            found = unet(
                noised,
                times,
                text["states"],
                encoder_attention_mask=text["state_mask"],
                class_labels=text["pooled"],
                return_dict=False,
            )[0]
            loss = F.mse_loss(found.float(), noise.float(), reduction="mean")
            accelerator.gather(loss.repeat(len(latents))).mean().item()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            average.step(unet.parameters())
    return (time.perf_counter() - began) / steps


def fit_block(
    model: Any, loss: Callable[..., Any], batches: list[Any], config: Any, steps: int
) -> float:
    """Seconds a step of `fit`, without start and end."""
    marks: list[float] = []
    average = EMA(model, config.optimizer.ema_decay)

    def after_step(model: Any, step: int) -> None:
        average(model, step)
        marks.append(time.perf_counter())

    loop = LoopConfig(steps=UNCOUNTED + steps + 1, warmup_steps=1, log_every=10)
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as null,
        redirect_stderr(null),
    ):
        fit(
            make_accelerator(AcceleratorConfig()),
            model,
            Ready(batches, config.data.batch_size),
            loss,
            make_optimizer(model, 1e-4, 0.01),
            config=loop,
            run=Run(Path(folder)),
            after_step=after_step,
        )
    return (marks[UNCOUNTED + steps - 1] - marks[UNCOUNTED - 1]) / steps


def training(config: Any, rounds: int, steps: int) -> dict[str, Any]:
    """Samples a second of each loop and ratios."""
    images = batches_of(config, 2)
    models = {}
    for name in ("diffusers", "uncached", "cached"):
        models[name], frozen = make(config)
    latents = [frozen.prepare(batch) for batch in images]
    loss = partial(generator_loss, frozen=frozen)
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, model in models.items():
            if name == "diffusers":
                seconds = diffusers_block(model, frozen, images, steps)
            else:
                batches = images if name == "uncached" else latents
                seconds = fit_block(model, loss, batches, config, steps)
            best[name] = min(best.get(name, float("inf")), seconds)
    size = config.data.batch_size
    return {
        "parameters": sum(p.numel() for p in models["cached"].parameters()),
        "samples_per_s": {name: round(size / seconds, 1) for name, seconds in best.items()},
        "uncached_ratio": round(best["diffusers"] / best["uncached"], 3),
        "cached_ratio": round(best["diffusers"] / best["cached"], 3),
    }


@torch.no_grad()
def sampling(config: Any, rounds: int, count: int, steps: int) -> dict[str, Any]:
    """Seconds of the pipeline's loop and of as many bare calls on twice the images."""
    unet, frozen = make(config)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(["a mogi-type deformation on the left"], folder)
    pipeline = InSARPipeline(
        frozen.autoencoder,
        unet.eval(),
        make_scheduler(config.model),
        CaptionEncoder.of(frozen.text),
        tokenizer,
    )
    texts = pipeline.read(["a mogi-type deformation on the left"] * count)
    doubled = {name: torch.cat([values, values]) for name, values in texts.items()}
    side = pipeline.side
    latents = torch.randn(2 * count, 4, side // 4, side // 4)
    best = {"pipeline": float("inf"), "bare": float("inf")}
    for _ in range(rounds):
        began = time.perf_counter()
        pipeline.sample(texts, (side, side), steps, 2.0)
        middle = time.perf_counter()
        for time_step in range(steps):
            unet(
                latents,
                time_step,
                doubled["states"],
                encoder_attention_mask=doubled["state_mask"],
                class_labels=doubled["pooled"],
            )
        best["pipeline"] = min(best["pipeline"], middle - began)
        best["bare"] = min(best["bare"], time.perf_counter() - middle)
    return {
        "images_per_s": round(count / best["pipeline"], 2),
        "of_bare_calls": round(best["pipeline"] / best["bare"], 3),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/generator/tiny.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="counted, of a block")
    parser.add_argument("--images", type=int, default=8, help="drawn at once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.path.insert(0, str(ROOT / "training"))
    import train_generator

    config, _ = parse_config(train_generator.Config, ["--config", str(options.config)])
    found = {
        "config": str(options.config),
        "torch": torch.__version__,
        "threads": options.threads,
        "training": training(config, options.rounds, options.steps),
        "sampling_8_steps": sampling(config, options.rounds, options.images, 8),
    }
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
