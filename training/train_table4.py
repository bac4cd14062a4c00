"""The rows of the paper's Table 4: deformation or none on 224 px patches, three models.

    heph-vl dataset ARCHIVE PATCHES --config patches
    python training/train_table4.py --config configs/table4/resnet18_imagenet.yaml \
        --data.path PATCHES

ResNet-18 from ImageNet or from our MoCo v2 (`heph_vl/models/patch_classifier.py`), and SwinPL in
two runs (`heph_vl/models/prototypes.py`): on simulated patches; then, from there, on labelled ones,
or with the model's own pseudo-labels in the place of labels. Reads top to bottom: data, model,
training, measure. `eval/table4.py` makes the table.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import hashlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from heph_vl.data import parquet
from heph_vl.data.phase import colour, open_png
from heph_vl.data.preview import posterise
from heph_vl.data.samples import PHASE_LEVELS, Sample, pixels, whole_image
from heph_vl.data.sampling import StepSampler
from heph_vl.data.transforms import encoded
from heph_vl.errors import HephError
from heph_vl.files import write_text, writing
from heph_vl.loop import LoopConfig, fit
from heph_vl.metrics.classification import Answers, score_classes
from heph_vl.models import weights
from heph_vl.models.patch_classifier import (
    PatchClassifier,
    PatchClassifierConfig,
    classifier_loss,
    initialise,
    padded,
    rgb_values,
)
from heph_vl.models.prototypes import Prototypes, PrototypesConfig, prototype_loss
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator, seed_everything
from heph_vl.simulate.stream import SimulatedPatches, StreamConfig

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

    path: str = "runs/patches"  # written by `heph-vl dataset --config patches`
    labels: Literal["own", "pseudo"] = "own"  # pseudo: what the model to begin with says
    simulated: bool = False  # train on patches made on the fly; `path` validates and tests
    simulated_epoch: int = 10_000  # patches that count as an epoch of them
    input: Literal["rgb", "phasor"] = "rgb"  # rgb: the coloured picture, as in the paper
    patch_size: int = 224
    batch_size: int = 64  # of all processes together
    num_workers: int = 1  # that prepare batches, for each process

    def __post_init__(self) -> None:
        for name in ("simulated_epoch", "patch_size", "batch_size"):
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
        for name in ("lr", "weight_decay", "momentum"):
            if not 0 <= getattr(self, name) < math.inf:
                what = f"{getattr(self, name)}"
                raise HephError(f"optimizer.{name}", what, "a finite number, at least 0")


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

    Raises:
        HephError: Pseudo-labels without a saved model, or training patches of one class.
    """
    accelerator = make_accelerator(config.accelerator)
    # Data
    validation = Patches(parquet.load(config.data.path, "val"), config.data)
    test = Patches(parquet.load(config.data.path, "test"), config.data)
    prior = float(validation.labels.mean())
    samples: Any = (
        Simulated(config.data, config.run.seed)
        if config.data.simulated
        else Patches(parquet.load(config.data.path, "train"), config.data)
    )
    if config.epochs:
        steps = math.ceil(config.epochs * len(samples) / config.data.batch_size)
        config = replace(config, loop=replace(config.loop, steps=steps))
    # Model: before the run folder exists, so that a start that cannot be had leaves none behind.
    seed_everything(config.run.seed)
    with accelerator.main_process_first():  # one process downloads
        model, initialisation = start(config)
    run = Run.start(
        accelerator,
        config,
        task="table4",
        name=config.run.name,
        seed=config.run.seed,
        resume=resume,
        root=config.run.root,
    )
    if run.finished:
        accelerator.print(f"{run.folder} is finished: nothing to do")
        return

    if config.data.labels == "pseudo":
        samples.labels = score(model.to(accelerator.device), samples, config.data) > THRESHOLD
        model.start_pseudo_labels(config.model.hidden)
    trained = [p for p in model.parameters() if p.requires_grad]
    o = config.optimizer
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(trained, o.lr, weight_decay=o.weight_decay)
        if o.name == "adam"
        else torch.optim.SGD(trained, o.lr, o.momentum, weight_decay=o.weight_decay)
    )

    # Training
    loader = DataLoader(
        samples,
        batch_sampler=StepSampler(
            len(samples),
            config.data.batch_size,
            seed=config.run.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            weights=None if config.data.simulated else balanced(samples.labels, config.data),
        ),
        num_workers=config.data.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )

    def evaluate(model: nn.Module, step: int) -> Mapping[str, float]:
        found = measure(score(model, validation, config.data), validation, prior, num_draws=1)
        return {f"val_{name}": scores["value"] for name, scores in found.items() if scores}

    fit(
        accelerator,
        model,
        loader,
        classifier_loss if config.model.kind == "classifier" else prototype_loss,
        optimizer,
        config=config.loop,
        run=run,
        evaluate=evaluate,
    )

    # Measure
    run.save_model(model.save_pretrained)
    if run.is_main:
        probabilities = score(model.eval(), test, config.data)
        with writing(run.folder):
            write_text(run.folder / "predictions.jsonl", test.lines(probabilities))
        results = {
            "row": config.run.row,
            "model": config.model.kind,
            "backbone": config.model.backbone,
            "initialisation": initialisation,
            "input": config.data.input,
            "labels": config.data.labels,
            "trained_on": samples.source,
            "steps": config.loop.steps,
            "test": test.about(),
            "threshold": THRESHOLD,
            "metrics": measure(probabilities, test, prior),
        }
        run.write_results(results)
    accelerator.wait_for_everyone()


def start(config: Config) -> tuple[Any, dict[str, Any]]:
    """The model before training, and what it starts from."""
    c = config.model
    saved = c.kind == "prototypes" and Path(c.init).is_dir()
    if config.data.labels == "pseudo" and (not saved or config.data.simulated):
        what = "only a saved model of kind prototypes can label patches, and those of a dataset"
        fix = "give model.init the `model` folder of a SwinPL run, and data.simulated false"
        raise HephError("data.labels pseudo", what, fix)
    if saved:
        model = Prototypes.from_pretrained(c.init)
        if model.config.backbone != c.backbone:
            what = f"it is on {model.config.backbone}, model.backbone is {c.backbone}"
            raise HephError(f"model.init: {c.init}", what, "give both the same backbone")
        sha256 = weights.weights_sha256(c.init)
        return model, {"source": c.init, "sha256": sha256, "share": 1.0, "random": []}
    options, known = dict(c.backbone_options), timm.get_pretrained_cfg(c.backbone)
    if known is not None and known.fixed_input_size:  # Swin and ViT are made for one size
        options.setdefault("img_size", config.data.patch_size)
    chosen: PatchClassifier | Prototypes = (
        PatchClassifier(PatchClassifierConfig(c.backbone, options))
        if c.kind == "classifier"
        else Prototypes(PrototypesConfig(c.backbone, options))
    )
    return chosen, initialise(chosen.backbone, c.backbone, options, c.init)


class Patches:
    """Patches of a dataset as a model takes them, keyed by (row, draw); nothing is varied.

    Args:
        rows: A `datasets.Dataset` of config `patches`.
        config: Form and size; smaller patches are padded with no-data at the right and below.
    """

    def __init__(self, rows: Any, config: DataConfig) -> None:
        if "patch" not in rows.column_names:
            fix = "write it with: heph-vl dataset ARCHIVE OUT --config patches"
            raise HephError(config.path, "holds whole interferograms, not patches", fix)
        windows = np.array(rows["window"])
        largest = int((windows[:, 2:] - windows[:, :2]).max())
        if largest > config.patch_size:
            what = f"has patches of {largest} px, and data.patch_size is {config.patch_size}"
            raise HephError(config.path, what, "set data.patch_size to the dataset's")
        self._images = encoded(rows.select_columns(["unique_id", "patch", "image", "coherence"]))
        self._names = rows.select_columns(["unique_id", "patch", "volcano_group"]).to_list()
        self.groups = [row["volcano_group"] for row in self._names]
        self._config = config
        self.labels: NDArray[np.bool_] = np.array([bool(kinds) for kinds in rows["activity_types"]])
        self.source = " and ".join(sorted(set(rows["source"])))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, _ = key
        row, size = self._images[index], self._config.patch_size
        where = f"patch {row['patch']}"
        if self._config.input == "rgb":
            values = rgb_values(read_picture(row["image"]["bytes"], where), size, where)
        else:
            values = padded(whole_image(row)[0], size, 0.0, where)
        return {"pixel_values": values, "deformation": bool(self.labels[index])}

    def lines(self, probabilities: NDArray[np.float64]) -> str:
        """Predictions as JSON lines, beside the labels."""
        rows = zip(self._names, self.labels.tolist(), probabilities.tolist(), strict=True)
        return "".join(
            json.dumps({**row, "label": label, "deformation": p}) + "\n" for row, label, p in rows
        )

    def about(self) -> dict[str, Any]:
        """What tells this set of patches from another."""
        named = json.dumps([[row["patch"] for row in self._names], self.labels.tolist()])
        return {
            "source": self.source,
            "patches": len(self),
            "deforming": int(self.labels.sum()),
            "groups": len(set(self.groups)),
            "sha256": hashlib.sha256(named.encode()).hexdigest(),
        }


class Simulated:
    """Simulated patches made on the fly, keyed by (index, draw).

    They come as decoded phase: `rgb` colours that again, so that decorrelated areas have purer
    colours than a picture's grain. A dataset of `heph-vl simulate` has the pictures themselves.

    Args:
        config: Form of the patches, and how many are an epoch.
        seed: Of the patches.
    """

    source = "simulated on the fly"

    def __init__(self, config: DataConfig, seed: int) -> None:
        self._patches = SimulatedPatches(StreamConfig(seed=seed), config.simulated_epoch)
        self._config = config

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        sample: Sample = self._patches[key]["sample"]
        size, where = self._config.patch_size, f"simulated patch {key[1]}"
        if self._config.input == "rgb":
            values = rgb_values(recoloured(sample), size, where)
        else:
            values = padded(pixels(sample)[0], size, 0.0, where)
        return {"pixel_values": values, "deformation": bool(sample.events)}


def read_picture(data: bytes, where: str) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 colours of a stored patch; no-data white, as in the published patches."""
    picture = open_png(data, where).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def recoloured(sample: Sample) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 posterised colours of a sample's phase; no-data white."""
    code = sample.phase_code
    turn = (code.astype(np.float32) - 1) * (2 * np.pi / PHASE_LEVELS)
    return posterise(colour(np.angle(np.exp(1j * turn)), code > 0))


def balanced(labels: NDArray[np.bool_], config: DataConfig) -> NDArray[np.float64]:
    """Sampling weights (N,) that draw both classes equally often: the rarer is repeated."""
    counts = np.bincount(labels, minlength=2)
    if not counts.all():
        what = f"all {len(labels)} training patches are of one class ({config.labels} labels)"
        raise HephError(config.path, what, "give a dataset that has both")
    return 1 / counts[labels.astype(int)]


@torch.no_grad()
def score(model: Any, patches: Patches, config: DataConfig) -> NDArray[np.float64]:
    """Probability of deformation (N,) of all patches; the model comes back in its mode."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    size, count = config.batch_size, len(patches)
    batches = [[(i, 0) for i in range(n, min(n + size, count))] for n in range(0, count, size)]
    found = [
        model.probability(batch["pixel_values"].to(device)).cpu()
        for batch in DataLoader(patches, batch_sampler=batches, num_workers=config.num_workers)
    ]
    model.train(was_training)
    return torch.cat(found).double().numpy()


def measure(
    probabilities: NDArray[np.float64], patches: Patches, prior: float, *, num_draws: int = 2000
) -> dict[str, Any]:
    """Scores of deformation at the paper's threshold, with intervals, beside the majority class.

    Args:
        probabilities: (N,) of deformation.
        patches: Their labels and volcano groups.
        prior: Share of deformation where the majority class is learned.
        num_draws: Resamples of the groups.

    Returns:
        For each of METRICS `value`, `interval`, `per_group` and `majority`, or None where patches
        of one class do not define it.
    """
    columns = patches.labels[:, None], probabilities[:, None], probabilities[:, None] > THRESHOLD
    answers = Answers(*columns, prior=np.array([prior]), exclusive=False)
    scores = score_classes(["deformation"], answers, patches.groups, num_draws=num_draws)
    found = scores["classes"]["deformation"]["metrics"]
    return {
        name: found[name]
        and _json_ready({**found[name]["model"], "majority": found[name]["majority"]})
        for name in METRICS
    }


def _json_ready(value: Any) -> Any:
    """NaN, such as the recall of a group without deformation, is None."""
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    sys.exit(launch(main, Config))
