"""Rows of all ranks, with gradient: what a loss over the global batch needs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


class _AllGather(torch.autograd.Function):
    """Stack a tensor over ranks; the gradient of each rank's part is summed over ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def gather_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Concatenate tensors over ranks in rank order; without process group they are unchanged.

    When every rank computes the same loss of the gathered rows, the mean over ranks of the
    parameters' gradients, which DistributedDataParallel takes, is that of one process.

    Args:
        *tensors: (n, ...) each, with the same n on one rank; n may differ between ranks.

    Returns:
        (sum of n, ...) each. Gradient flows to those that ask for it.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return tensors
    count = torch.tensor([len(tensors[0])], device=tensors[0].device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    lengths = [int(n) for n in counts]
    return tuple(_gather(tensor, lengths) for tensor in tensors)


def gather_objects(value: Any) -> list[Any]:
    """One value of each rank, in rank order, on every rank; without process group the own one.

    Args:
        value: Anything that can be pickled, small.

    Returns:
        As many as there are ranks.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def rank_and_world() -> tuple[int, int]:
    """The rank of this process, and how many there are."""
    if not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _gather(tensor: Tensor, lengths: list[int]) -> Tensor:
    # Neither gloo nor nccl promises bool.
    sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
    sent = F.pad(sent, (0, 0) * (sent.ndim - 1) + (0, max(lengths) - len(sent)))
    parts = _AllGather.apply(sent)
    rows = torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)])
    return rows.to(tensor.dtype)
