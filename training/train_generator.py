"""Train the generator: text to an interferogram, in the latents of a trained autoencoder.

    python training/train_generator.py --config configs/generator/tiny.yaml --data.path DATASET
        --init.autoencoder runs/autoencoder/tiny/model --init.text weights/retriever

Reads top to bottom: frozen parts, data, model, training, measure. The loss is in
`heph_vl/models/generator.py`, the loop in `heph_vl/loop.py`.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from heph_vl.data import parquet
from heph_vl.data.labels import row_labels, sampling_weights
from heph_vl.data.sampling import StepSampler
from heph_vl.data.transforms import TrainingSet, TransformConfig, collate
from heph_vl.errors import HephError
from heph_vl.files import new_folder, writing
from heph_vl.generate import generated_sheet, velocity_error
from heph_vl.latents import CachedCrops, collate_cached, write_cache
from heph_vl.loop import EMA, LoopConfig, fit, make_optimizer
from heph_vl.models.autoencoder import factor, load_autoencoder
from heph_vl.models.generator import (
    Frozen,
    GeneratorConfig,
    generator_loss,
    make_denoiser,
    make_scheduler,
)
from heph_vl.models.pipeline import CaptionEncoder, InSARPipeline
from heph_vl.models.retriever import Retriever
from heph_vl.models.text import tokenize
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator
from heph_vl.terminal import progress_bar


@dataclass(frozen=True)
class RunConfig:
    """The run folder is `<root>/generator/<name>`."""

    root: str = "runs"
    name: str = "base"
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """Which rows, how many at once, and who prepares them."""

    path: str = "runs/dataset"  # written by `heph-vl dataset`
    # Further datasets whose train rows are added, such as one of `heph-vl simulate-patches`.
    more: list[str] = field(default_factory=list)
    more_share: float = 0.5  # of the draws that are rows of `more`, equally often of each set
    # deformation: images with it half the time.
    balance: Literal["none", "deformation"] = "deformation"
    # Images of an activity type or flag rarer than this are drawn sqrt(share / own share) times
    # as often (repeat factors; Gupta et al., 2019, section 4.2); 0: never.
    rare_share: float = 0.05
    batch_size: int = 256  # of all processes together
    num_workers: int = 1  # that prepare batches, for each process, without cached latents
    cache_bytes: int = 4 << 30  # for decoded interferograms, for each worker
    # So many crops go through the frozen networks once, before the training, and are drawn from
    # then on, while other processes wait and find them in the run folder; 0: each step cuts and
    # encodes its own, as several GPUs should.
    cached_crops: int = 0
    evaluate_crops: int = 192  # of the validation split

    def __post_init__(self) -> None:
        shares = self.rare_share, self.more_share
        if not all(0 <= share <= 1 for share in shares):
            raise HephError("data.rare_share, more_share", f"{shares}", "numbers from 0 to 1")
        if self.cached_crops < 0 or self.evaluate_crops < 16:
            what = f"{self.cached_crops}, {self.evaluate_crops}"
            raise HephError("data.cached_crops, evaluate_crops", what, "at least 0, at least 16")


@dataclass(frozen=True)
class InitConfig:
    """The frozen parts, and a denoiser to go on with."""

    autoencoder: str = "runs/autoencoder/base/model"  # of training/train_autoencoder.py
    text: str = "weights/retriever"  # a retriever, whose text tower and tokenizer are used
    denoiser: str | None = None  # a saved generator with the same frozen parts: go on learning


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and the average of its weights."""

    lr: float = 5e-4
    weight_decay: float = 1e-2
    ema_decay: float = 0.999


@dataclass(frozen=True)
class SampleConfig:
    """How the sheets of the validation are drawn, and the guidance that the pipeline keeps."""

    steps: int = 20
    guidance_scale: float = 2.0


@dataclass(frozen=True)
class Config:
    """The generator's recipe: crops with what can be said of them, often only a part of it."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    transform: TransformConfig = field(
        default_factory=lambda: TransformConfig(
            whole_fraction=0.0, estimated_coherence=0.0, event_fraction=0.8, phase_shift=False
        )
    )
    init: InitConfig = field(default_factory=InitConfig)
    model: GeneratorConfig = field(default_factory=GeneratorConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)

    def __post_init__(self) -> None:
        if self.transform.whole_fraction:
            what = f"{self.transform.whole_fraction}"
            raise HephError("transform.whole_fraction", what, "0: it learns crops of one size")


def main(config: Config, resume: bool) -> None:
    """Train, and leave a pipeline with the averaged denoiser in `model/`.

    Args:
        config: The recipe's config.
        resume: Go on from the newest checkpoint, if there is one.
    """
    accelerator = make_accelerator(config.accelerator)
    # Frozen parts
    autoencoder = load_autoencoder(config.init.autoencoder)
    retriever = Retriever.from_pretrained(config.init.text)
    tower, tokenizer = retriever.text_tower, retriever.tokenizer
    frozen = Frozen(autoencoder, tower, config.model).to(accelerator.device)
    tokenize_texts = partial(tokenize, tokenizer, context_length=tower.config.context_length)
    side, cell = config.transform.crop_size, factor(autoencoder)
    multiple = cell * 2 ** (len(config.model.widths) - 1)
    if side % multiple:
        raise HephError("transform.crop_size", f"{side} px", f"a multiple of {multiple} px")

    # Data
    parts = [parquet.load(path, "train") for path in (config.data.path, *config.data.more)]
    rows = parquet.join(parts)
    validation = parquet.load(config.data.path, "val")
    run = Run.start(
        accelerator,
        config,
        task="generator",
        name=config.run.name,
        seed=config.run.seed,
        resume=resume,
        root=config.run.root,
    )
    if run.finished:
        accelerator.print(f"{run.folder} is finished: nothing to do")
        return
    fix = "give init.* what the run was started with, or another run.name"
    run.pin("frozen", frozen.identity, fix)
    seed, cache_bytes = config.run.seed, config.data.cache_bytes
    samples = TrainingSet(rows, config.transform, seed=seed, cache_bytes=cache_bytes)
    held_out = TrainingSet(validation, config.transform, seed=seed, cache_bytes=cache_bytes)
    weigh = partial(
        sampling_weights, balance=config.data.balance, rare_share=config.data.rare_share
    )
    weights = weigh(
        row_labels(rows),
        sizes=[len(part) for part in parts],
        rest_share=config.data.more_share,
    )
    drawn = config.data.evaluate_crops
    held_out_keys = StepSampler(
        len(held_out), drawn, seed=seed, weights=weigh(row_labels(validation))
    ).batch(0)
    shared = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    loaded: dict[str, Any] = {"pin_memory": accelerator.device.type == "cuda"}
    count = config.data.cached_crops
    if count:
        cache = run.folder / "latents"
        # Reading the crops draws a seed for its workers, which a resumed run would not draw.
        with accelerator.main_process_first(), torch.random.fork_rng(devices=[]):
            if not cache.is_dir():
                keys = StepSampler(len(samples), count, seed=seed, weights=weights).batch(0)
                batches = _batches(samples, keys, tokenize_texts, config.data.num_workers)
                with (
                    writing(cache),
                    new_folder(cache) as folder,
                    progress_bar(count, 0, show=run.is_main) as progress,
                ):
                    write_cache(folder, frozen, batches, tokenize_texts, lambda n: progress(n, {}))
        crops: Any = CachedCrops(cache, frozen)
        sampler = StepSampler(len(crops), config.data.batch_size, seed=seed, **shared)
        loaded |= {"collate_fn": collate_cached}
    else:
        crops = samples
        sampler = StepSampler(
            len(samples), config.data.batch_size, seed=seed, weights=weights, **shared
        )
        loaded |= {"collate_fn": partial(collate, tokenize=tokenize_texts)}
        loaded |= {"num_workers": config.data.num_workers}
    loader = DataLoader(crops, batch_sampler=sampler, **loaded)

    # Model
    model = make_denoiser(
        config.model, autoencoder.config.latent_channels, tower.config.width, side // cell
    )
    if config.init.denoiser is not None:
        fill_denoiser(model, config.init.denoiser, frozen)
    optimizer = make_optimizer(
        model, config.optimizer.lr, config.optimizer.weight_decay, betas=(0.9, 0.99)
    )
    average = EMA(model, config.optimizer.ema_decay, accelerator.device)
    pipeline = InSARPipeline(
        autoencoder,
        average.model,
        make_scheduler(config.model),
        CaptionEncoder.of(tower),
        tokenizer,
        guidance_scale=config.sample.guidance_scale,
    )

    # Training
    def evaluate(model: nn.Module, step: int) -> Mapping[str, float]:
        crops = [held_out[key] for key in held_out_keys]
        if run.is_main:
            path = run.folder / f"sheet_{step}.png"
            generated_sheet(pipeline, crops[:16], path, num_steps=config.sample.steps)
        batch = collate(crops, tokenize_texts)
        return {"val_velocity": velocity_error(average.model, batch, frozen)}

    fit(
        accelerator,
        model,
        loader,
        partial(generator_loss, frozen=frozen),
        optimizer,
        config=config.loop,
        run=run,
        evaluate=evaluate,
        after_step=average,
    )

    # Measure
    found = evaluate(model, config.loop.steps)
    run.save_model(pipeline.save_pretrained)
    run.write_results({"split": "val", **found})
    accelerator.wait_for_everyone()


def fill_denoiser(model: nn.Module, folder: str, frozen: Frozen) -> None:
    """Take the denoiser of a saved generator.

    Args:
        model: Of the same sizes, overwritten.
        folder: Of the generator, or `user/repo` of the Hub.
        frozen: What it must have learnt with.

    Raises:
        HephError: It is of other sizes, or learnt with other frozen parts.
    """
    saved = InSARPipeline.from_pretrained(folder)
    theirs = Frozen(saved.autoencoder, saved.text_encoder.tower, frozen.config).identity
    if theirs != frozen.identity:
        what = f"{folder} learnt with another autoencoder or text tower"
        raise HephError("init.denoiser", what, "give init.autoencoder and init.text as it had")
    try:
        model.load_state_dict(saved.unet.state_dict())
    except RuntimeError as error:
        what = f"{folder} is of other sizes: {str(error).splitlines()[-1].strip()}"
        raise HephError("init.denoiser", what, "set model.* as it was trained") from None


def _batches(
    samples: TrainingSet, keys: list[tuple[int, int]], tokenize: Any, num_workers: int
) -> Iterator[dict[str, Any]]:
    """Crops in the order of their keys, with their texts."""

    def stack(items: list[dict[str, Any]]) -> dict[str, Any]:
        return {**collate(items, tokenize), "texts": [item["text"] for item in items]}

    groups = [keys[start : start + 64] for start in range(0, len(keys), 64)]
    yield from DataLoader(samples, batch_sampler=groups, collate_fn=stack, num_workers=num_workers)


if __name__ == "__main__":
    sys.exit(launch(main, Config))
