"""Train the captioner: what is in an interferogram, in words.

    python training/train_captioner.py --config configs/captioner/tiny.yaml --data.path DATASET

Reads top to bottom: data, model, training, measure. The loss is in `heph_vl/models/captioner.py`,
the loop in `heph_vl/loop.py`.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.utils.data import DataLoader

from heph_vl.data import captions, parquet
from heph_vl.data.labels import row_labels, sampling_weights
from heph_vl.data.sampling import StepSampler
from heph_vl.data.transforms import TrainingSet, TransformConfig, collate
from heph_vl.errors import HephError
from heph_vl.files import new_folder
from heph_vl.loop import EMA, LoopConfig, fit, make_optimizer
from heph_vl.models.captioner import Captioner, CaptionerConfig, captioner_loss
from heph_vl.models.text import load_tokenizer, save_tokenizer, tokenize, train_tokenizer
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator
from heph_vl.validate import caption_facts, fit_threshold


@dataclass(frozen=True)
class RunConfig:
    """The run folder is `<root>/captioner/<name>`."""

    root: str = "runs"
    name: str = "base"
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """Which rows, how many at once, and who prepares them.

    The commonest caption is that of 41 % of all interferograms: drawn as they come, it wins.
    """

    path: str = "runs/dataset"  # written by `heph-vl dataset`
    # Further datasets whose train rows are added, such as one of `heph-vl simulate-patches`.
    more: list[str] = field(default_factory=list)
    more_share: float = 0.5  # of the draws that are rows of `more`, equally often of each set
    # deformation: images with it half the time.
    balance: Literal["none", "deformation"] = "deformation"
    # Images of an activity type or flag rarer than this are drawn sqrt(share / own share) times
    # as often (repeat factors; Gupta et al., 2019, section 4.2); 0: never.
    rare_share: float = 0.05
    # An image of a volcano group with n in its set is drawn n^-power times as often; 1: all groups
    # alike, before sets and deformation are balanced.
    group_power: float = 0.0
    batch_size: int = 256  # of all processes together
    num_workers: int = 1  # that prepare batches, for each process
    cache_bytes: int = 4 << 30  # for decoded interferograms, for each worker
    evaluate_images: int = 60  # of the validation split, evenly spread, while it trains
    fit_images: int = 0  # of it, for the threshold of what is said; 0: all

    def __post_init__(self) -> None:
        shares = self.rare_share, self.more_share, self.group_power
        least = self.evaluate_images >= 1 and self.fit_images >= 0
        if not all(0 <= share <= 1 for share in shares) or not least:
            what = ", ".join(map(str, (*shares, self.evaluate_images, self.fit_images)))
            where = "data.rare_share, more_share, group_power, evaluate_images, fit_images"
            raise HephError(where, what, "numbers from 0 to 1, at least 1 image, and none or more")


@dataclass(frozen=True)
class InitConfig:
    """A saved encoder to start from: an encoder, or the one of MoCo, heads or a retriever."""

    path: str | None = None
    sha256: str | None = None  # of the encoder's weights, to be sure which
    whole: bool = False  # of a saved captioner take all: go on learning, on other data

    def __post_init__(self) -> None:
        if self.whole and (self.path is None or self.sha256 is not None):
            fix = "give init.path a saved captioner, and leave sha256 out: it knows its encoder's"
            raise HephError("init.whole", f"path {self.path}, sha256 {self.sha256}", fix)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and the average of its weights."""

    lr: float = 1e-3
    weight_decay: float = 0.05
    ema_decay: float = 0.99


@dataclass(frozen=True)
class Config:
    """The captioner's recipe; a text tells all facts of its image, so `fact_dropout` is 0."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    transform: TransformConfig = field(
        default_factory=lambda: TransformConfig(fact_dropout=0.0, paraphrase=0.3)
    )
    init: InitConfig = field(default_factory=InitConfig)
    model: CaptionerConfig = field(default_factory=CaptionerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)


def main(config: Config, resume: bool) -> None:
    """Train, and leave the averaged model, with its threshold, in `model/`.

    Args:
        config: The recipe's config.
        resume: Go on from the newest checkpoint, if there is one.
    """
    accelerator = make_accelerator(config.accelerator)
    # Data
    parts = [parquet.load(path, "train") for path in (config.data.path, *config.data.more)]
    rows = parquet.join(parts)
    validation = parquet.load(config.data.path, "val")
    some = _spread(validation, config.data.evaluate_images)
    start = Captioner.from_pretrained(str(config.init.path)) if config.init.whole else None
    run = Run.start(
        accelerator,
        config,
        task="captioner",
        name=config.run.name,
        seed=config.run.seed,
        resume=resume,
        root=config.run.root,
    )
    if run.finished:
        accelerator.print(f"{run.folder} is finished: nothing to do")
        return
    samples = TrainingSet(
        rows, config.transform, seed=config.run.seed, cache_bytes=config.data.cache_bytes
    )
    sampler = StepSampler(
        len(samples),
        config.data.batch_size,
        seed=config.run.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        weights=sampling_weights(
            row_labels(rows),
            config.data.balance,
            config.data.rare_share,
            sizes=[len(part) for part in parts],
            rest_share=config.data.more_share,
            groups=rows["volcano_group"],
            group_power=config.data.group_power,
        ),
    )
    tokenizer_folder = run.folder / "tokenizer"
    with accelerator.main_process_first():
        if not tokenizer_folder.is_dir():
            with new_folder(tokenizer_folder) as folder:
                if start is not None:
                    save_tokenizer(start.tokenizer, folder)
                else:
                    texts = [*rows["caption"], *captions.fact_texts()]
                    train_tokenizer(texts, folder, config.model.vocab_size)
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenize_texts = partial(tokenize, tokenizer, context_length=config.model.context_length)
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=partial(collate, tokenize=tokenize_texts),
        num_workers=config.data.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )

    # Model
    model = Captioner(config.model, tokenizer)
    if start is not None:
        model.fill_from(start, str(config.init.path))
    elif config.init.path is not None:
        model.encoder.fill_from(config.init.path, config.init.sha256)
    optimizer = make_optimizer(model, config.optimizer.lr, config.optimizer.weight_decay)
    average = EMA(model, config.optimizer.ema_decay, accelerator.device)

    # Training
    def evaluate(model: nn.Module, step: int) -> Mapping[str, float]:
        return {f"val_{k}": v for k, v in caption_facts(average.model, some).items()}

    fit(
        accelerator,
        model,
        loader,
        captioner_loss,
        optimizer,
        config=config.loop,
        run=run,
        evaluate=evaluate,
        after_step=average,
    )

    # Measure
    found = fit_threshold(average.model, _spread(validation, config.data.fit_images))
    run.save_model(average.model.save_pretrained)
    run.write_results({"split": "val", **found})
    accelerator.wait_for_everyone()


def _spread(rows: Any, count: int) -> Any:
    """At most so many rows, evenly spread; 0: all."""
    return rows.select(range(0, len(rows), -(-len(rows) // (count or len(rows)))))


if __name__ == "__main__":
    sys.exit(launch(main, Config))
