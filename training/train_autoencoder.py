"""Train the phase autoencoder: crops as latents that the generator learns to draw.

    python training/train_autoencoder.py --config configs/autoencoder/tiny.yaml --data.path DATASET

Reads top to bottom: data, model, training, measure. The loss is in `heph_vl/models/autoencoder.py`,
the loop in `heph_vl/loop.py`.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import nn
from torch.utils.data import DataLoader

from heph_vl.data import parquet
from heph_vl.data.labels import row_labels, sampling_weights
from heph_vl.data.sampling import StepSampler
from heph_vl.data.transforms import TrainingSet, TransformConfig, collate
from heph_vl.errors import HephError
from heph_vl.loop import EMA, LoopConfig, fit, make_optimizer
from heph_vl.models.autoencoder import (
    AutoencoderConfig,
    PhaseAutoencoder,
    autoencoder_loss,
    save_autoencoder,
)
from heph_vl.reconstruct import measure_scale, reconstruction, reconstruction_sheet
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator
from heph_vl.validate import no_text


@dataclass(frozen=True)
class RunConfig:
    """The run folder is `<root>/autoencoder/<name>`."""

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
    balance: Literal["none", "deformation"] = "deformation"
    batch_size: int = 64  # of all processes together
    num_workers: int = 1  # that prepare batches, for each process
    cache_bytes: int = 4 << 30  # for decoded interferograms, for each worker
    evaluate_crops: int = 256  # of the validation split

    def __post_init__(self) -> None:
        if not 0 <= self.more_share <= 1 or self.evaluate_crops < 16:
            what = f"{self.more_share}, {self.evaluate_crops}"
            raise HephError("data.more_share, evaluate_crops", what, "0 to 1, and at least 16")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and the average of its weights."""

    lr: float = 1e-3
    weight_decay: float = 1e-4
    ema_decay: float = 0.995


@dataclass(frozen=True)
class Config:
    """The autoencoder's recipe; the measured coherence is what it has to draw, where there is."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    transform: TransformConfig = field(
        default_factory=lambda: TransformConfig(whole_fraction=0.0, estimated_coherence=0.0)
    )
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)

    def __post_init__(self) -> None:
        side = 2 ** (len(self.model.widths) - 1)
        if self.transform.whole_fraction or self.transform.crop_size % side:
            what = f"{self.transform.whole_fraction}, {self.transform.crop_size} px"
            fix = f"0, and a multiple of {side} px"
            raise HephError("transform.whole_fraction, crop_size", what, fix)


def main(config: Config, resume: bool) -> None:
    """Train, and leave the averaged network, with the scale of its latents, in `model/`.

    Args:
        config: The recipe's config.
        resume: Go on from the newest checkpoint, if there is one.
    """
    accelerator = make_accelerator(config.accelerator)
    # Data
    parts = [parquet.load(path, "train") for path in (config.data.path, *config.data.more)]
    rows = parquet.join(parts)
    validation = parquet.load(config.data.path, "val")
    run = Run.start(
        accelerator,
        config,
        task="autoencoder",
        name=config.run.name,
        seed=config.run.seed,
        resume=resume,
        root=config.run.root,
    )
    if run.finished:
        accelerator.print(f"{run.folder} is finished: nothing to do")
        return
    seed, cache = config.run.seed, config.data.cache_bytes
    samples = TrainingSet(rows, config.transform, seed=seed, cache_bytes=cache)
    held_out = TrainingSet(validation, config.transform, seed=seed, cache_bytes=cache)
    weigh = partial(sampling_weights, balance=config.data.balance, rare_share=0.0)
    drawn = config.data.evaluate_crops
    held_out_keys = StepSampler(
        len(held_out), drawn, seed=seed, weights=weigh(row_labels(validation))
    ).batch(0)
    weights = weigh(
        row_labels(rows),
        sizes=[len(part) for part in parts],
        rest_share=config.data.more_share,
    )
    sampler = StepSampler(
        len(samples),
        config.data.batch_size,
        seed=seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        weights=weights,
    )
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=partial(collate, tokenize=no_text),
        num_workers=config.data.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )

    # Model
    model = PhaseAutoencoder(config.model)
    optimizer = make_optimizer(model, config.optimizer.lr, config.optimizer.weight_decay)
    average = EMA(model, config.optimizer.ema_decay, accelerator.device)

    # Training
    def evaluate(model: nn.Module, step: int) -> Mapping[str, float]:
        crops = [held_out[key] for key in held_out_keys]
        if run.is_main:
            reconstruction_sheet(average.model, crops[:16], run.folder / f"sheet_{step}.png")
        return {f"val_{k}": v for k, v in reconstruction(average.model, crops).items()}

    fit(
        accelerator,
        model,
        loader,
        autoencoder_loss,
        optimizer,
        config=config.loop,
        run=run,
        evaluate=evaluate,
        after_step=average,
    )

    # Measure
    network = average.model.network
    order = StepSampler(len(samples), 2048, seed=seed + 1, weights=weights)
    measure_scale(network, (samples[key] for key in order.batch(0)))
    found = evaluate(model, config.loop.steps)
    run.save_model(partial(save_autoencoder, network))
    run.write_results({"split": "val", **found})
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    sys.exit(launch(main, Config))
