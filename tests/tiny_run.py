"""A whole recipe of a few lines: what the tests of loop and run train, in and out of process."""

import os
import signal
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from heph_vl.data.sampling import StepSampler
from heph_vl.loop import EMA, LoopConfig, fit, make_optimizer
from heph_vl.run import AcceleratorConfig, Run, launch, make_accelerator

LENGTH = 20  # not a multiple of the batch: batches cross epochs
TIMES = ("samples_per_s", "data_wait")


@dataclass(frozen=True)
class TinyConfig:
    """A regression with an MLP."""

    name: str = "tiny"
    seed: int = 3
    lr: float = 0.02
    batch_size: int = 8
    dropout: float = 0.2
    workers: int = 0
    root: str = "runs"
    event: str = ""  # "nan", "interrupt" or "kill", at step `at` of a new run
    at: int = 0
    rank: int = 0  # on which it happens
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=12, warmup_steps=3, log_every=5, evaluate_every=4, checkpoint_every=3
        )
    )
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)


class Points(Dataset[tuple[Tensor, Tensor]]):
    """Fixed points, each with noise of its own draw."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.x = np.random.default_rng(seed).normal(size=(LENGTH, 4)).astype(np.float32)

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, draw = key
        noise = np.random.default_rng((self.seed, draw, index)).normal(size=4).astype(np.float32)
        x = torch.from_numpy(self.x[index] + 0.1 * noise)
        return x, x.prod().reshape(1)


class Suicide(EMA):
    """An average whose saving kills the process after the model has been written."""

    def __init__(self, *args: Any, at: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.at = at

    def state_dict(self) -> dict[str, Any]:
        if self.updates == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().state_dict()


def train(config: TinyConfig, resume: bool = False) -> Run:
    accelerator = make_accelerator(config.accelerator)
    run = Run.start(
        accelerator,
        config,
        task="tiny",
        name=config.name,
        seed=config.seed,
        resume=resume,
        root=config.root,
    )
    if run.finished:
        return run
    model = nn.Sequential(
        nn.Linear(4, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(16, 1)
    )
    sampler = StepSampler(
        LENGTH,
        config.batch_size,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    loader = DataLoader(Points(config.seed), batch_sampler=sampler, num_workers=config.workers)
    steps = iter(range(1, 10**6))
    happens = accelerator.process_index == config.rank and not run.resume

    def loss_fn(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        step = -(-next(steps) // config.loop.gradient_accumulation)
        error = model(x) - y
        loss = error.square().mean()
        if happens and step == config.at and config.event == "interrupt":
            signal.raise_signal(signal.SIGINT)
        if happens and step == config.at and config.event == "nan":
            loss = loss * float("nan")
        return loss, {"error": error.abs().mean()}

    ema = EMA(model, 0.99, accelerator.device)
    if config.event == "kill" and happens:
        ema = Suicide(model, 0.99, accelerator.device, at=config.at)

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        assert not model.training
        x, y = torch.randn(5, 4), torch.zeros(5, 1)  # draws from the global generator, as some do
        with torch.no_grad():
            return {"val/error": float((ema.model(x) - y).abs().mean())}

    fit(
        accelerator,
        model,
        loader,
        loss_fn,
        make_optimizer(model, config.lr, 0.1),
        config=config.loop,
        run=run,
        evaluate=evaluate,
        after_step=ema,
    )
    run.save_model(lambda folder: torch.save(ema.model.state_dict(), folder / "model.pt"))
    run.write_results({"loss": run.metrics()[-1]["loss"]})
    return run


def state(run: Run) -> dict[str, Any]:
    """All that training leaves, flat: weights, moments, average, generators and metrics."""
    from safetensors.torch import load_file

    checkpoint = run.latest()
    assert checkpoint is not None
    found: dict[str, Any] = {"step": checkpoint.name}
    for name, value in load_file(checkpoint / "model.safetensors").items():
        found[f"model.{name}"] = value
    for file in sorted(checkpoint.glob("*.bin")) + sorted(checkpoint.glob("*.pkl")):
        _flatten(torch.load(file, weights_only=False), file.name, found)
    found["metrics"] = [line["step"] for line in run.metrics()]
    for line in run.metrics():
        kept = {key: value for key, value in line.items() if key not in TIMES}
        found[f"metrics.{line['step']}"] = kept
    return found


def _flatten(value: Any, prefix: str, into: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(inner, f"{prefix}.{key}", into)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _flatten(inner, f"{prefix}.{number}", into)
    else:
        into[prefix] = value


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names under which two states are not the same to the last bit."""
    wrong = sorted(one.keys() ^ other.keys())
    for name in sorted(one.keys() & other.keys()):
        a, b = one[name], other[name]
        same = torch.equal(a, b) if isinstance(a, Tensor) else bool(np.all(a == b))
        wrong += [] if same else [name]
    return wrong


if __name__ == "__main__":
    sys.exit(launch(lambda config, resume: train(config, resume) and None, TinyConfig))
