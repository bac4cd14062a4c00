"""Adapt a retriever to a new volcano from a few labelled images, by low-rank updates (LoRA).

    python training/adapt_retriever.py --config configs/adapted/base.yaml --data.path DATASET
        --data.group etna --init runs/retriever/base/model

The images of one volcano group are divided by date: the first `shots` train, those that begin
after the last of them are scored before and after, so that no acquisition is on both sides. Only
the updates are trained, batch norms stay as they are. At the end they are kept in `adapter/`, which
`models.adapters` adds to the same retriever again, and merged: `model/` is one like any other.
Reads top to bottom: data, model, training, measure.
"""

import heph_vl  # noqa: F401 - first: it tells libgomp not to spin, before torch is loaded

# isort: split
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from timm.layers import freeze_batch_norm_2d, unfreeze_batch_norm_2d
from torch.utils.data import DataLoader

from heph_vl.data import captions, parquet
from heph_vl.data.sampling import StepSampler
from heph_vl.data.transforms import TrainingSet, TransformConfig, collate
from heph_vl.errors import HephError
from heph_vl.loop import LoopConfig, fit, make_optimizer
from heph_vl.models.adapters import save_adapter
from heph_vl.models.retriever import Retriever, retriever_loss
from heph_vl.models.text import tokenize
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator
from heph_vl.validate import suite_map

# Of the image side: the words stay, what they look like here is learnt.
ADAPTED = (
    r"image_projection|encoder\.projection|encoder\.backbone\.model\.layer3\..*conv\d|"
    r"encoder\.pool\.(query|key_value|cross_out|query_key_value|self_out|mlp\.[02])"
)


@dataclass(frozen=True)
class RunConfig:
    """The run folder is `<root>/adapted/<name>`."""

    root: str = "runs"
    name: str = "adapted"
    seed: int = 0


@dataclass(frozen=True)
class DataConfig:
    """Which volcano, how many of its images, how many at once."""

    path: str = "runs/dataset"  # written by `heph-vl dataset`
    group: str = ""  # a volcano group of the dataset, of any split
    shots: int = 50  # images to learn from
    batch_size: int = 32
    num_workers: int = 1

    def __post_init__(self) -> None:
        if self.shots < 2 or self.batch_size < 2:
            what = f"{self.shots}, {self.batch_size}"
            raise HephError("data.shots, batch_size", what, "at least 2 of each")


@dataclass(frozen=True)
class LoraConfig:
    """Size of the updates (Hu et al., 2022): W + alpha / rank B A."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    modules: str = ADAPTED  # regular expression of the whole name of a layer

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            what = f"{self.rank}, {self.alpha}, {self.dropout}"
            fix = "a rank of at least 1, an alpha above 0, a dropout from 0 to below 1"
            raise HephError("lora.rank, alpha, dropout", what, fix)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW."""

    lr: float = 1e-3
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Config:
    """The recipe of an adaptation."""

    init: str = "weights/retriever"  # folder of a saved retriever
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    transform: TransformConfig = field(default_factory=TransformConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)


def main(config: Config, resume: bool) -> None:
    """Train the updates, and leave the merged retriever in `model/`.

    Args:
        config: The recipe's config.
        resume: Go on from the newest checkpoint, if there is one.

    Raises:
        HephError: No such group, too few images of it, no such layers; or gradient accumulation,
            which changes a contrastive loss.
    """
    if config.loop.gradient_accumulation != 1:
        what = "a contrastive loss over parts of a batch is another loss"
        raise HephError("loop.gradient_accumulation", what, "leave it at 1")
    accelerator = make_accelerator(config.accelerator)
    # Data
    few, rest, about = few_and_rest(config.data)
    if "train" in about["splits"]:
        what = f"warning: {config.data.group} is in the train split: a model that was trained on it"
        accelerator.print(f"{what} knows it already, and 'before' is not held out")

    # Model: before the run folder exists, so that wrong layers leave none behind.
    retriever = Retriever.from_pretrained(config.init)
    base = retriever.model_id
    facts = [captions.encode(captions.parse(text)) for text in few["caption"]]
    retriever.weigh_facts(*(torch.from_numpy(np.stack(p)) for p in zip(*facts, strict=True)))
    freeze_batch_norm_2d(retriever.encoder)
    tuner = with_updates(retriever, config.lora)
    run = Run.start(
        accelerator,
        config,
        task="adapted",
        name=config.run.name,
        seed=config.run.seed,
        resume=resume,
        root=config.run.root,
    )
    if run.finished:
        accelerator.print(f"{run.folder} is finished: nothing to do")
        return
    samples = TrainingSet(few, config.transform, seed=config.run.seed)
    sampler = StepSampler(
        len(samples),
        config.data.batch_size,
        seed=config.run.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    context = retriever.config.text.context_length
    tokenize_texts = partial(tokenize, retriever.tokenizer, context_length=context)
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=partial(collate, tokenize=tokenize_texts),
        num_workers=config.data.num_workers,
    )
    optimizer = make_optimizer(retriever, config.optimizer.lr, config.optimizer.weight_decay)
    before = suite_map(retriever.to(accelerator.device), rest)  # the updates begin with 0

    # Training
    fit(
        accelerator,
        retriever,
        loader,
        retriever_loss,
        optimizer,
        config=config.loop,
        run=run,
    )

    # Measure
    if run.is_main:
        save_adapter(tuner, run.folder / "adapter", base)
    adapted: Any = tuner.merge_and_unload()
    unfreeze_batch_norm_2d(adapted.encoder)
    run.save_model(adapted.save_pretrained)
    if run.is_main:
        scores = {"before": before, "after": suite_map(adapted, rest)}
        run.write_results({"group": config.data.group, "shots": len(few), **about, **scores})
    accelerator.wait_for_everyone()


def with_updates(retriever: Retriever, config: LoraConfig) -> Any:
    """Peft's model around the retriever, into whose layers it has put updates of 0."""
    from peft import LoraConfig as PeftConfig
    from peft import LoraModel

    lora = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.modules,
    )
    try:
        return LoraModel(retriever, lora, "default")
    except Exception as error:  # peft has several for layers that are not there or of no kind
        reason = " ".join(str(error).split())[:200]
        fix = "a regular expression of names of linear layers or convolutions"
        raise HephError("lora.modules", f"{config.modules!r}: {reason}", fix) from error


def few_and_rest(config: DataConfig) -> tuple[Any, Any, dict[str, Any]]:
    """The first images of the volcano group by their second date, and those that begin later.

    Args:
        config: Which.

    Returns:
        Rows to learn from, rows to be scored, and `splits` of the group, number of rows `scored`
        and of those `between`, which begin before the last of the first ends and are not used.

    Raises:
        HephError: No such group, or too few images of it.
    """
    parts = parquet.load(config.path, None)
    rows = datasets.concatenate_datasets(list(parts.values()))
    groups = rows["volcano_group"]
    known = sorted(set(groups))
    if config.group not in known:
        fix = f"one of {', '.join(known)}"
        raise HephError("data.group", f"{config.group!r} is no group of {config.path}", fix)
    mine = [i for i, group in enumerate(groups) if group == config.group]
    first, second = ([str(d) for d in rows[f"{name}_date"]] for name in ("primary", "secondary"))
    mine.sort(key=lambda i: (second[i], i))
    few = mine[: config.shots]
    rest = [i for i in mine if first[i] > second[few[-1]]]
    if len(few) < config.shots or not rest:
        what = f"{config.group} has {len(mine)} images, {len(rest)} of them after the first "
        raise HephError("data.shots", what + f"{len(few)}", "choose fewer, so that some are scored")
    splits = [name for name, part in parts.items() if config.group in part["volcano_group"]]
    between = len(mine) - len(few) - len(rest)
    about = {"splits": splits, "scored": len(rest), "between": between}
    return rows.select(few), rows.select(rest), about


if __name__ == "__main__":
    sys.exit(launch(main, Config))
