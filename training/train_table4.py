"""The rows of the paper's Table 4: deformation or none on 224 px patches, three models.

    heph-vl dataset ARCHIVE PATCHES --config patches
    python training/train_table4.py --config configs/table4/tiny_resnet.yaml --data.path PATCHES

ResNet-18 from ImageNet or from our MoCo v2 (`heph_vl/models/patch_classifier.py`), and SwinPL in
two runs (`heph_vl/models/prototypes.py`): on simulated patches; then, from there, on labelled ones,
or with the model's own pseudo-labels in the place of labels. Reads top to bottom: data, model,
training, measure. `eval/table4.py` makes the table.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from heph_vl.data.patch_rows import Patches, balanced_weights
from heph_vl.data.sampling import StepSampler
from heph_vl.errors import HephError
from heph_vl.loop import LoopConfig, fit
from heph_vl.metrics.classification import score_question
from heph_vl.models.backbone import sized_options
from heph_vl.models.patch_classifier import (
    PatchClassifier,
    PatchClassifierConfig,
    classifier_loss,
    initialise,
    predict,
)
from heph_vl.models.prototypes import Prototypes, PrototypesConfig, go_on_from, prototype_loss
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator, seed_everything

THRESHOLD = 0.5  # the paper's
METRICS = ("accuracy", "precision", "recall", "f1", "auroc")


@dataclass(frozen=True)
class RunConfig:
    """The run folder is `<root>/table4/<name>`; `row` is the paper's row that it stands beside."""

    root: str = "runs"
    name: str = "resnet18_imagenet"
    seed: int = 0
    row: Literal["", "SwinPL", "ResNet-18", "ResNet-18-MoCo"] = ""


@dataclass(frozen=True)
class DataConfig:
    """Which patches, in which form, how many at once."""

    path: str = "runs/patches"  # of `heph-vl dataset --config patches` or `simulate-patches`
    evaluate_path: str | None = None  # where val and test patches come from; `path` if None
    labels: Literal["own", "pseudo"] = "own"  # pseudo: what the model to begin with says
    input: Literal["rgb", "phasor"] = "rgb"  # rgb: the coloured picture, as in the paper
    patch_size: int = 224
    batch_size: int = 64  # of all processes together
    num_workers: int = 1  # that prepare batches, for each process

    def __post_init__(self) -> None:
        for name in ("batch_size", "patch_size"):
            if getattr(self, name) < 1:
                raise HephError(f"data.{name}", f"{getattr(self, name)}", "at least 1")


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and what it starts from."""

    kind: Literal["classifier", "prototypes"] = "classifier"
    backbone: str = "resnet18"  # any timm model
    backbone_options: dict[str, Any] = field(default_factory=dict)  # of timm.create_model
    # imagenet, random, a .safetensors file of timm's weights, the folder of a saved encoder, or
    # (prototypes) the `model` folder of the run before.
    init: str = "imagenet"
    hidden: list[int] = field(default_factory=lambda: [8096, 16000])  # projection, pseudo-labels


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam or SGD; weight decay is added to the gradient, as in both papers."""

    name: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-4
    weight_decay: float = 1e-4
    momentum: float = 0.9  # of SGD

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "name" and not 0 <= value < math.inf:
                raise HephError(f"optimizer.{name}", f"{value}", "a finite number, at least 0")


@dataclass(frozen=True)
class Config:
    """The recipe of Table 4."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # An epoch draws as many patches as there are; it becomes ceil(epochs x patches / batch_size)
    # steps, which take the place of loop.steps. 0: loop.steps holds.
    epochs: int = 5
    loop: LoopConfig = field(default_factory=LoopConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)


def main(config: Config, resume: bool) -> None:
    """Train one row, and leave the model, its results and its predictions in the run folder.

    Args:
        config: The recipe's config.
        resume: Go on from the newest checkpoint, if there is one.
    """
    r, d, o = config.run, config.data, config.optimizer
    accelerator = make_accelerator(config.accelerator)

    # Data
    patches = partial(Patches, form=d.input, size=d.patch_size)
    samples = patches(d.path, "train")
    validation, test = (patches(d.evaluate_path or d.path, split) for split in ("val", "test"))
    if config.epochs:
        steps = math.ceil(config.epochs * len(samples) / d.batch_size)
        config = replace(config, loop=replace(config.loop, steps=steps))

    # Model: before the run folder exists, so that a start that cannot be had leaves none behind.
    seed_everything(r.seed)
    with accelerator.main_process_first():  # one process downloads
        model, initialisation = start(config)
    run = Run.start(
        accelerator, config, task="table4", name=r.name, seed=r.seed, resume=resume, root=r.root
    )
    if run.finished:
        accelerator.print(f"{run.folder} is finished: nothing to do")
        return
    probabilities = partial(predict, batch_size=d.batch_size, num_workers=d.num_workers)
    if d.labels == "pseudo":
        samples.labels = probabilities(model.to(accelerator.device), samples) > THRESHOLD
        model.start_pseudo_labels(config.model.hidden)
    trained = [p for p in model.parameters() if p.requires_grad]
    if o.name == "adam":
        optimizer = torch.optim.Adam(trained, o.lr, weight_decay=o.weight_decay)
    else:
        optimizer = torch.optim.SGD(trained, o.lr, o.momentum, weight_decay=o.weight_decay)

    # Training
    loader = DataLoader(
        samples,
        batch_sampler=StepSampler(
            len(samples),
            d.batch_size,
            seed=r.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            weights=balanced_weights(samples.labels, f"{d.path} ({d.labels} labels)"),
        ),
        num_workers=d.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    prior = float(validation.labels.mean())
    scores = partial(score_question, METRICS, threshold=THRESHOLD, prior=prior)

    def evaluate(model: nn.Module, step: int) -> Mapping[str, float]:
        found = probabilities(model, validation)
        known = scores(validation.labels, found, validation.groups, num_draws=1)
        return {f"val_{name}": score["value"] for name, score in known.items() if score}

    loss = classifier_loss if config.model.kind == "classifier" else prototype_loss
    fit(accelerator, model, loader, loss, optimizer, config=config.loop, run=run, evaluate=evaluate)

    # Measure
    run.save_model(model.save_pretrained)
    if run.is_main:
        found = probabilities(model.eval(), test)
        test.write_predictions(run.folder / "predictions.jsonl", found)
        results = {
            "row": r.row,
            "model": config.model.kind,
            "backbone": config.model.backbone,
            "initialisation": initialisation,
            "input": d.input,
            "labels": d.labels,
            "trained_on": samples.source,
            "steps": config.loop.steps,
            "test": test.about(),
            "threshold": THRESHOLD,
            "metrics": scores(test.labels, found, test.groups),
        }
        run.write_results(results)
    accelerator.wait_for_everyone()


def start(config: Config) -> tuple[Any, dict[str, Any]]:
    """The model before training, and what it starts from."""
    c = config.model
    if c.kind == "prototypes" and Path(c.init).is_dir():
        return go_on_from(c.init, c.backbone)
    if config.data.labels == "pseudo":
        what = "only a saved model of kind prototypes can label patches"
        raise HephError("data.labels pseudo", what, "give model.init the folder of a SwinPL model")
    options = sized_options(c.backbone, c.backbone_options, config.data.patch_size)
    model = (
        PatchClassifier(PatchClassifierConfig(c.backbone, options))
        if c.kind == "classifier"
        else Prototypes(PrototypesConfig(c.backbone, options))
    )
    return model, initialise(model.backbone, c.backbone, options, c.init)


if __name__ == "__main__":
    sys.exit(launch(main, Config))
