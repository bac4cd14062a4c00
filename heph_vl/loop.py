"""The one training loop; it knows no task.

`loss, logs = loss_fn(model, batch)` is all it asks of a recipe. The forward of `model` runs under
autocast and gives float32 back; what `loss_fn` computes outside of it stays in float32. With
several processes `model` is wrapped: `loss_fn` must go through its forward, once.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from heph_vl.errors import HephError
from heph_vl.meter import Meter
from heph_vl.optim import EMA, lr_factor, make_optimizer
from heph_vl.run import Run
from heph_vl.terminal import progress_bar, stop_on_interrupt

__all__ = ["EMA", "LoopConfig", "fit", "make_optimizer"]


@dataclass(frozen=True)
class LoopConfig:
    """Steps are optimizer steps; what happens every 0 steps never happens."""

    steps: int = 1000
    warmup_steps: int = 100
    clip_norm: float = 1.0  # 0: gradients are not clipped
    gradient_accumulation: int = 1  # changes a contrastive loss: such recipes refuse it
    log_every: int = 10
    evaluate_every: int = 0
    checkpoint_every: int = 500  # the last step is always saved
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        positive = ("steps", "gradient_accumulation", "log_every", "keep_checkpoints")
        for name, value in vars(self).items():
            least = 1 if name in positive else 0
            if not least <= value < float("inf"):
                raise HephError(f"loop.{name}", f"{value} is too small", f"at least {least}")


def fit(
    accelerator: Accelerator,
    model: nn.Module,
    loader: Any,
    loss_fn: Callable[[Any, Any], tuple[Tensor, Mapping[str, Tensor | float]]],
    optimizer: torch.optim.Optimizer,
    *,
    config: LoopConfig,
    run: Run,
    evaluate: Callable[[nn.Module, int], Mapping[str, float]] | None = None,
    after_step: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Train to `config.steps`, from the newest checkpoint if `run` is a resumed one.

    Args:
        accelerator: A fresh one: all that it knows goes into the checkpoints.
        model: Not yet prepared.
        loader: DataLoader, not prepared, with a `StepSampler` as its batch sampler.
        loss_fn: Gives the loss and scalars to log, under the same keys at each step and rank.
        optimizer: Of the model's parameters; its learning rates are the peak ones.
        config: Lengths and intervals.
        run: Takes metrics and checkpoints.
        evaluate: Called with model and step, in evaluation mode, on every rank.
        after_step: Called with model and step; saved with them if it has a `state_dict`.

    Returns:
        The trained model.

    Raises:
        HephError: The loss or its gradient is not finite; nothing is saved of it.
        KeyboardInterrupt: Ctrl-C; the step was finished and saved.
    """
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    peak = [group["lr"] for group in optimizer.param_groups]
    parts, clip_norm = config.gradient_accumulation, config.clip_norm or float("inf")
    meter = Meter(accelerator, loader.batch_sampler.batch_size * parts)
    stateful = [after_step] if hasattr(after_step, "state_dict") else []
    accelerator.register_for_checkpointing(meter, *stateful)
    start = run.load_checkpoint(accelerator)
    loader.batch_sampler.start = start * parts
    bar = progress_bar(config.steps, start, show=run.is_main)
    with stop_on_interrupt() as interrupted, bar as progress:
        # A loader draws a seed for its workers, which a resumed run must not draw once more.
        with torch.random.fork_rng(devices=[]):
            batches = iter(loader) if start < config.steps else iter(())
        wrapped.train()
        meter.restart()
        for step in range(start + 1, config.steps + 1):
            factor = lr_factor(step - 1, steps=config.steps, warmup_steps=config.warmup_steps)
            for group, lr in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = lr * factor
            for part in range(parts):
                with meter.waiting():
                    batch = send_to_device(next(batches), accelerator.device, non_blocking=True)
                with accelerator.no_sync(wrapped) if part < parts - 1 else nullcontext():
                    loss, logs = loss_fn(wrapped, batch)
                    accelerator.backward(loss / parts)
                meter.add({"loss": loss, **logs})
            norm = accelerator.clip_grad_norm_(wrapped.parameters(), clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            meter.end_step(grad_norm=norm)
            if after_step:
                after_step(model, step)

            last = step == config.steps
            log_due = last or _due(step, config.log_every)
            evaluate_due = _due(step, config.evaluate_every) or (last and config.evaluate_every > 0)
            stopping = _agree(accelerator, interrupted(), log_due)
            save_due = last or stopping or _due(step, config.checkpoint_every)
            if log_due or evaluate_due or save_due:
                meter.settle(step)
            line = {"lr": peak[0] * factor, **meter.line()} if log_due else {}
            with meter.paused():
                if evaluate and evaluate_due:
                    wrapped.eval()
                    with torch.no_grad():
                        line |= evaluate(model, step)
                    wrapped.train()
                if line:
                    run.log(step, line)
                    accelerator.log(line, step=step)
                if save_due:
                    run.save_checkpoint(accelerator, step, config.keep_checkpoints)
            progress(step, line)
            if stopping:
                fix = "go on with the same command and --resume"
                raise KeyboardInterrupt(f"stopped after step {step}, saved; {fix}")
    return model


def _agree(accelerator: Accelerator, stop: bool, log_due: bool) -> bool:
    """Several processes must stop at one step, which costs a message: at log lines only."""
    if accelerator.num_processes == 1:
        return stop
    if stop:
        accelerator.set_trigger()
    return log_due and bool(accelerator.check_trigger())


def _due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
