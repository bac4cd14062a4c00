"""Train the heads: is there deformation, of which kind, where, and is the image any good.

    python training/train_heads.py --config configs/heads/tiny.yaml --data.path DATASET

Reads top to bottom: data, model, training, measure. The loss is in `heph_vl/models/heads.py`, the
loop in `heph_vl/loop.py`.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from heph_vl.data import parquet
from heph_vl.data.labels import label_shares, row_labels, sampling_weights
from heph_vl.data.sampling import StepSampler
from heph_vl.data.transforms import TrainingSet, TransformConfig, collate
from heph_vl.errors import HephError
from heph_vl.loop import EMA, LoopConfig, fit, make_optimizer
from heph_vl.models.heads import Heads, HeadsConfig, heads_loss
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator
from heph_vl.validate import Looked, no_text


@dataclass(frozen=True)
class RunConfig:
    """The run folder is `<root>/heads/<name>`."""

    root: str = "runs"
    name: str = "base"
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """Which rows, how often, how many at once, and who prepares them."""

    path: str = "runs/dataset"  # written by `heph-vl dataset`
    # Further datasets whose train rows are added, such as one of `heph-vl simulate-patches`.
    more: list[str] = field(default_factory=list)
    more_share: float = 0.5  # of the draws that are rows of `more`, equally often of each set
    batch_size: int = 128  # of all processes together
    # As in the paper, images with and without deformation are drawn equally often.
    balance: Literal["none", "deformation"] = "deformation"
    # Images of an activity type or flag rarer than this are drawn sqrt(share / own share) times
    # as often (repeat factors; Gupta et al., 2019, section 4.2); 0: never.
    rare_share: float = 0.0
    # An image of a volcano group with n in its set is drawn n^-power times as often; 1: all groups
    # alike, before sets and deformation are balanced.
    group_power: float = 0.0
    evaluate_images: int = 200  # of the validation split during training; at the end all
    num_workers: int = 1  # that prepare batches, for each process
    cache_bytes: int = 4 << 30  # for decoded interferograms, for each worker

    def __post_init__(self) -> None:
        shares = self.rare_share, self.more_share, self.group_power
        if not all(0 <= share <= 1 for share in shares) or self.evaluate_images < 1:
            what = ", ".join(map(str, (*shares, self.evaluate_images)))
            fix = "numbers from 0 to 1, and at least 1 image"
            where = "data.rare_share, more_share, group_power, evaluate_images"
            raise HephError(where, what, fix)


@dataclass(frozen=True)
class InitConfig:
    """A saved encoder to start from: an encoder, or the one of MoCo, a retriever or heads."""

    path: str | None = None
    sha256: str | None = None  # of the encoder's weights, to be sure which
    whole: bool = False  # of saved heads take all: go on learning, on other data or draws

    def __post_init__(self) -> None:
        if self.whole and (self.path is None or self.sha256 is not None):
            fix = "give init.path saved heads, and no sha256: theirs is in their folder"
            raise HephError("init.whole", f"path {self.path}, sha256 {self.sha256}", fix)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and the average of its weights."""

    lr: float = 1e-3
    weight_decay: float = 0.05
    ema_decay: float = 0.99


@dataclass(frozen=True)
class Config:
    """The recipe of the heads."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    transform: TransformConfig = field(default_factory=TransformConfig)
    init: InitConfig = field(default_factory=InitConfig)
    model: HeadsConfig = field(default_factory=HeadsConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)


def main(config: Config, resume: bool) -> None:
    """Train, calibrate on the validation split, and leave the averaged model in `model/`.

    Args:
        config: The recipe's config.
        resume: Go on from the newest checkpoint, if there is one.

    Raises:
        HephError: Gradient accumulation, which changes losses that are balanced over a batch.
    """
    if config.loop.gradient_accumulation != 1:
        what = "masks are balanced over a batch: over parts of one it is another loss"
        fix = "leave it at 1 and use more processes for a larger batch"
        raise HephError("loop.gradient_accumulation", what, fix)
    accelerator = make_accelerator(config.accelerator)
    # Data
    parts = [parquet.load(path, "train") for path in (config.data.path, *config.data.more)]
    rows = parquet.join(parts)
    validation = parquet.load(config.data.path, "val")
    labels = row_labels(rows)
    weights = sampling_weights(
        labels,
        config.data.balance,
        config.data.rare_share,
        sizes=[len(part) for part in parts],
        rest_share=config.data.more_share,
        groups=rows["volcano_group"],
        group_power=config.data.group_power,
    )
    samples = TrainingSet(
        rows, config.transform, seed=config.run.seed, cache_bytes=config.data.cache_bytes
    )
    sampler = StepSampler(
        len(samples),
        config.data.batch_size,
        seed=config.run.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        weights=weights,
    )
    run = Run.start(
        accelerator,
        config,
        task="heads",
        name=config.run.name,
        seed=config.run.seed,
        resume=resume,
        root=config.run.root,
    )
    if run.finished:
        accelerator.print(f"{run.folder} is finished: nothing to do")
        return
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=partial(collate, tokenize=no_text),
        num_workers=config.data.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )

    # Model
    model = Heads(config.model)
    if config.init.path is not None and config.init.whole:
        model.fill_from(config.init.path)
    elif config.init.path is not None:
        model.encoder.fill_from(config.init.path, config.init.sha256)
    model.set_priors(label_shares(labels, weights))
    optimizer = make_optimizer(model, config.optimizer.lr, config.optimizer.weight_decay)
    average = EMA(model, config.optimizer.ema_decay, accelerator.device)
    averaged: Any = average.model

    # Training
    some = np.linspace(0, len(validation), config.data.evaluate_images, endpoint=False, dtype=int)
    few = validation.select(np.unique(some))

    def evaluate(model: nn.Module, step: int) -> Mapping[str, float]:
        return Looked(averaged, few).metrics()

    fit(
        accelerator,
        model,
        loader,
        heads_loss,
        optimizer,
        config=config.loop,
        run=run,
        evaluate=evaluate,
        after_step=average,
    )

    # Measure
    looked = Looked(averaged, validation)
    averaged.calibration = looked.calibration()
    run.save_model(averaged.save_pretrained)
    run.write_results(
        {"split": "val", **looked.metrics(), "support": looked.support(), **looked.counts}
    )
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    sys.exit(launch(main, Config))
