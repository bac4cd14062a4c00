"""Pretrain the encoder without labels: two views of one interferogram close together.

    python training/train_moco.py --config configs/moco/tiny.yaml --data.path DATASET

Reads top to bottom: data, model, training, measure. The loss is in `heph_vl/models/moco.py`, the
views in `heph_vl/data/views.py`, the loop in `heph_vl/loop.py`.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from heph_vl.data import parquet
from heph_vl.data.sampling import StepSampler
from heph_vl.data.views import ViewConfig, ViewPairs, collate_views
from heph_vl.errors import HephError
from heph_vl.loop import LoopConfig, fit, make_optimizer
from heph_vl.metrics.probe import probe, read_rows
from heph_vl.models.moco import MoCo, MoCoConfig, Momentum, moco_loss
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator


@dataclass(frozen=True)
class RunConfig:
    """The run folder is `<root>/moco/<name>`."""

    root: str = "runs"
    name: str = "physics"
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """Which rows, how many at once, and who prepares them."""

    path: str = "runs/dataset"  # of `heph-vl dataset`, any config; its train rows
    batch_size: int = 256  # of all processes together
    num_workers: int = 8  # that prepare batches, for each process
    cache_bytes: int = 4 << 30  # for decoded interferograms, for each worker


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, or MoCo's own SGD with momentum 0.9."""

    kind: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05


@dataclass(frozen=True)
class ProbeConfig:
    """The labelled rows whose deformation the nearest neighbours tell."""

    path: str | None = None  # the training dataset itself, if it has labels
    train_rows: int = 1000
    val_rows: int = 500


@dataclass(frozen=True)
class Config:
    """MoCo's recipe."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    model: MoCoConfig = field(default_factory=MoCoConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)


def main(config: Config, resume: bool) -> None:
    """Train, and leave the model in `model/`, its encoder in `model/encoder/`.

    Args:
        config: The recipe's config.
        resume: Go on from the newest checkpoint, if there is one.

    Raises:
        HephError: Gradient accumulation, which changes a contrastive loss; views of other dates
            that would be negatives of each other; or rows of one frame only.
    """
    if config.loop.gradient_accumulation != 1:
        raise HephError(
            "loop.gradient_accumulation",
            "a contrastive loss over parts of a batch is another loss",
            "leave it at 1; the queue makes up for small batches",
        )
    if config.views.other_dates and config.model.never_negative != "frame":
        what = "image: other dates of a frame would be positives and negatives"
        raise HephError("model.never_negative", what, "use frame, or views.other_dates 0")
    accelerator = make_accelerator(config.accelerator)
    # Data
    rows = parquet.load(config.data.path, "train")
    labelled = labelled_rows(config)
    run = Run.start(
        accelerator,
        config,
        task="moco",
        name=config.run.name,
        seed=config.run.seed,
        resume=resume,
        root=config.run.root,
    )
    if run.finished:
        accelerator.print(f"{run.folder} is finished: nothing to do")
        return
    samples = ViewPairs(
        rows, config.views, seed=config.run.seed, cache_bytes=config.data.cache_bytes
    )
    if len(samples.frames) < 2 and config.model.never_negative == "frame":
        what = f"its train rows are all of frame {samples.frames[0]}, so there are no negatives"
        raise HephError(config.data.path, what, "use model.never_negative image")
    sampler = StepSampler(
        len(samples),
        config.data.batch_size,
        seed=config.run.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=collate_views,
        num_workers=config.data.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )

    # Model
    model = MoCo(config.model)
    optimizer: torch.optim.Optimizer
    if config.optimizer.kind == "sgd":
        learning = [p for p in model.parameters() if p.requires_grad]
        lr, weight_decay = config.optimizer.lr, config.optimizer.weight_decay
        optimizer = torch.optim.SGD(learning, lr=lr, momentum=0.9, weight_decay=weight_decay)
    else:
        optimizer = make_optimizer(model, config.optimizer.lr, config.optimizer.weight_decay)

    # Training
    def evaluate(model: nn.Module, step: int) -> Mapping[str, float]:
        return measure(model, labelled, config.probe)

    fit(
        accelerator,
        model,
        loader,
        moco_loss,
        optimizer,
        config=config.loop,
        run=run,
        evaluate=evaluate,
        after_step=Momentum(config.model.momentum),
    )

    # Measure
    run.save_model(model.save_pretrained)
    if run.is_main:
        run.write_results({"split": "val", **measure(model, labelled, config.probe)})
    accelerator.wait_for_everyone()


def labelled_rows(config: Config) -> Mapping[str, Any] | None:
    """Train and val rows to probe; None if the training dataset has none and no other is named."""
    named = config.probe.path
    splits = parquet.load(named or config.data.path)
    if {"train", "val"} <= splits.keys() and "activity_types" in splits["train"].column_names:
        return {name: splits[name] for name in ("train", "val")}
    if named:
        raise HephError(f"probe.path: {named}", "no labelled train and val rows", "name others")
    return None


def measure(
    model: Any, labelled: Mapping[str, Any] | None, config: ProbeConfig
) -> dict[str, float]:
    """Accuracy and AUROC of deformation by the nearest train rows; nothing without labels."""
    if labelled is None:
        return {}
    train = read_rows(model.encoder, labelled["train"], limit=config.train_rows)
    val = read_rows(model.encoder, labelled["val"], limit=config.val_rows)
    report = probe(train, val, linear=False)["deformation"]
    found = {"val_knn_accuracy": report["knn"]["accuracy"], "val_knn_auroc": report["knn"]["auroc"]}
    found |= {"val_chance_accuracy": report["chance"]["accuracy"]}
    return {name: value for name, value in found.items() if value is not None}


if __name__ == "__main__":
    sys.exit(launch(main, Config))
