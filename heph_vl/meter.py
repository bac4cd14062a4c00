"""Averages of a training's scalars and times between two lines of metrics.jsonl."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from heph_vl.errors import HephError


class Meter:
    """Scalars of the steps since the last line, averaged over parts of a step, ranks and steps.

    They stay on the device until a line or a checkpoint is due, so that no step waits for them.
    Its state is part of the checkpoints: a line's mean does not depend on a resume before it.

    Args:
        accelerator: Gives the device and the other ranks.
        batch_size: Samples of a step over all ranks.
    """

    def __init__(self, accelerator: Accelerator, batch_size: int) -> None:
        self._accelerator = accelerator
        self._batch_size = batch_size
        self._parts: list[dict[str, Tensor]] = []  # of the step under way
        self._pending: list[dict[str, Tensor]] = []  # steps still on the device
        self._rows: list[dict[str, float]] = []  # steps averaged over the ranks
        self.restart()

    def restart(self) -> None:
        """Start timing the steps of the next line."""
        self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time within counts as waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time within (evaluation, saving) is no part of training."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Take the scalars of one batch."""
        device = self._accelerator.device
        tensors = {key: torch.as_tensor(value, device=device) for key, value in values.items()}
        self._parts.append({key: value.detach().float() for key, value in tensors.items()})

    def end_step(self, **values: Tensor | float) -> None:
        """Close a step, with the scalars that it has only once."""
        parts, self._parts = self._parts, []
        row = {key: torch.stack([part[key] for part in parts]).mean() for key in parts[0]}
        self.add(values)
        self._pending.append(row | self._parts.pop())
        self._steps += 1

    def settle(self, step: int) -> None:
        """Fetch the steps up to `step` from the device, on all ranks at once.

        Args:
            step: The last one closed.

        Raises:
            HephError: The loss or the gradient of one of them is not finite.
        """
        if not self._pending:
            return
        keys = list(self._pending[0])
        table = torch.stack([torch.stack([row[key] for key in keys]) for row in self._pending])
        table = self._accelerator.reduce(table, reduction="mean")
        first = step - len(self._pending) + 1
        self._pending = []
        for at, values in enumerate(table.tolist(), first):
            row = dict(zip(keys, values, strict=True))
            for key in ("loss", "grad_norm"):
                if not abs(row[key]) < float("inf"):  # true for nan too
                    fix = "lower the learning rate; the last checkpoint is from before"
                    raise HephError(f"step {at}", f"{key} is {row[key]}", fix)
            self._rows.append(row)

    def line(self) -> dict[str, float]:
        """Means since the last line, samples a second, share of waiting for data, GPU memory."""
        rows, self._rows = self._rows, []
        means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        elapsed = time.perf_counter() - self._began
        speed = self._steps * self._batch_size / elapsed
        means |= {"samples_per_s": speed, "data_wait": self._waited / elapsed}
        if self._accelerator.device.type == "cuda":  # the most so far, on this rank's device
            means["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self.restart()
        return means

    def state_dict(self) -> dict[str, Any]:
        """The settled steps of the line under way."""
        return {"rows": list(self._rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._rows = list(state["rows"])
