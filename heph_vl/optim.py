"""Optimizer, learning rate and weight average that the recipes share."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from heph_vl.errors import HephError

_Tensors = tuple[Tensor, ...] | list[Tensor]


def make_optimizer(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    betas: tuple[float, float] = (0.9, 0.98),
) -> torch.optim.AdamW:
    """Fused AdamW; norms, biases and scales (fewer than 2 dimensions) are not decayed.

    Args:
        model: Its parameters that require a gradient are optimised.
        lr: Peak learning rate.
        weight_decay: Of matrices, kernels and embeddings.
        betas: Decay of the two moments; 0.98 forgets a large gradient sooner than 0.999, the
            usual choice for contrastive losses (OpenCLIP).

    Returns:
        The optimizer, with two groups of parameters where both kinds exist.

    Raises:
        HephError: A learning rate or decay that is negative or not finite.
    """
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not 0 <= value < math.inf:
            raise HephError(f"optimizer.{name}", f"{value}", "a finite number, at least 0")
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def lr_factor(step: int, *, steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine down to 0.

    Args:
        step: Steps done before this one, from 0.
        steps: Steps of the whole training; the factor would reach 0 at this one.
        warmup_steps: The factor is 1 for the first time at step `warmup_steps - 1`.

    Returns:
        Factor in (0, 1], 0 from `steps` on.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class EMA:
    """Exponential moving average of a model's weights, as `fit`'s `after_step`.

    The decay of the n-th update is min(decay, (1 + n) / (10 + n)), so that short trainings do
    not keep their random start. Buffers (batch norm statistics) are copied. Its state is part
    of the checkpoints.

    Args:
        model: Copied; the average starts from its weights.
        decay: Share kept at each update in the long run.
        device: Where the average lives: the accelerator's.

    Raises:
        HephError: A decay outside [0, 1].
    """

    def __init__(self, model: nn.Module, decay: float, device: torch.device | str = "cpu") -> None:
        if not 0 <= decay <= 1:
            raise HephError("optimizer.ema_decay", f"{decay}", "a number from 0 to 1")
        self.decay = decay
        self.updates = 0
        self._average = AveragedModel(model, multi_avg_fn=self._lerp)
        self._average.module.to(device).requires_grad_(False).eval()
        self._average.n_averaged.fill_(1)  # 0 would copy the first update instead of averaging

    @property
    def model(self) -> nn.Module:
        """The averaged model, in evaluation mode."""
        return self._average.module

    def __call__(self, model: nn.Module, step: int) -> None:
        """Update the average with the weights after a step."""
        self.updates += 1
        self._average.update_parameters(model)

    def state_dict(self) -> dict[str, Any]:
        """Averaged weights and the number of updates."""
        return {"updates": self.updates, "model": copy.copy(self.model.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])

    def _lerp(self, average: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(average, current, 1 - decay)
