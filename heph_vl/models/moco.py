"""MoCo v2 (He et al., 2020; Chen et al., 2020) on the shared encoder, and its loss.

    B images of one rank, K keys in the queue, E = `dim` of the contrastive space

    query view -> encoder -> pooled (B, D) -> MLP -> query (B, E), unit
    key view -> momentum encoder -> pooled -> momentum MLP -> key (B, E), unit, no gradient
    loss = -log(e^(q.k / t) / (e^(q.k / t) + sum over queue keys that may be negatives))

The queue knows the frame of each key: one place on other dates is no negative.

Batch norm lets a model recognise a key by the statistics that it shares with its query. MoCo
shuffles keys over GPUs; we must also train on one. So images go through the encoder in sub-batches,
whose statistics are their own: queries in rows, keys in columns of the same table, so that a key
and its query share as few other images as possible, none when sub_batches^2 >= B. Group norms have
no statistics to share, and the batch stays whole; but they would not do for ImageNet's weights.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heph_vl.errors import HephError
from heph_vl.hub import OnHub, located
from heph_vl.models import weights
from heph_vl.models.encoder import Encoder, EncoderConfig
from heph_vl.models.gather import gather_rows

Images = Mapping[str, Tensor]  # pixel_values, valid, size: arguments of `Encoder.forward`


@dataclass(frozen=True)
class MoCoConfig:
    """Parts of the model and of its loss.

    Raises:
        HephError: If a size or a share is impossible.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    dim: int = 128
    hidden_dim: int = 512
    queue_size: int = 65536
    momentum: float = 0.999  # of the key encoder
    temperature: float = 0.2
    sub_batches: int = 8  # of each rank; used where the encoder has batch norms
    # image: only keys of the same interferogram are spared, as if there were no frames.
    never_negative: Literal["frame", "image"] = "frame"

    def __post_init__(self) -> None:
        for name in ("dim", "hidden_dim", "queue_size", "sub_batches"):
            if getattr(self, name) < 1:
                raise HephError(f"model.{name}", f"{getattr(self, name)}", "at least 1")
        if not 0 <= self.momentum <= 1:
            raise HephError("model.momentum", f"{self.momentum}", "a number from 0 to 1")
        if not 0 < self.temperature < math.inf:
            raise HephError("model.temperature", f"{self.temperature}", "a positive number")


class MoCo(OnHub, nn.Module):
    """A query encoder that learns, a key encoder that follows, and a queue of keys.

    Args:
        config: Its parts.

    Raises:
        HephError: If batch norms would show a key's query in its statistics.
    """

    queue: Tensor
    queue_frames: Tensor
    queue_images: Tensor
    queue_end: Tensor

    def __init__(self, config: MoCoConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.projection = nn.Sequential(
            nn.Linear(config.encoder.dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.dim),
        )
        has_batch_norm = any(isinstance(m, nn.BatchNorm2d) for m in self.encoder.modules())
        if has_batch_norm and config.sub_batches < 2:
            raise HephError(
                "model.sub_batches",
                "1: batch norms would show which query a key belongs to",
                "at least 2, best the square root of the batch, or encoder.norm: group",
            )
        self.num_parts = config.sub_batches if has_batch_norm else 1
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.key_projection = copy.deepcopy(self.projection).requires_grad_(False)
        size = config.queue_size
        self.register_buffer("queue", torch.zeros(size, config.dim))
        self.register_buffer("queue_frames", torch.full((size,), -1))  # -1: no key yet
        self.register_buffer("queue_images", torch.full((size,), -1))
        self.register_buffer("queue_end", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`query` (B, E) and `key` (B, E), float32 of unit length, of a `views.collate_views`."""
        rows = torch.arange(len(batch["frame"]), device=batch["frame"].device)
        parts = min(self.num_parts, len(rows))
        query = _pooled(self.encoder, batch["query"], rows.tensor_split(parts))
        with torch.no_grad():
            columns = [rows[i::parts] for i in range(parts)]
            key = _pooled(self.key_encoder, batch["key"], columns)
            key = _unit(self.key_projection(key))
        return {"query": _unit(self.projection(query)), "key": key}

    @torch.no_grad()
    def enqueue(self, keys: Tensor, frames: Tensor, images: Tensor) -> Tensor:
        """Put keys into the queue, over the oldest ones.

        Args:
            keys: (n, E), of all ranks in the same order on each, so that their queues are equal.
            frames: (n,) int64, number of the frame of each.
            images: (n,) int64, number of the interferogram of each.

        Returns:
            (n,) int64, where they are now.

        Raises:
            HephError: If they are more than the queue has room for.
        """
        size = self.config.queue_size
        if len(keys) > size:
            what = f"{size}, but a batch has {len(keys)} keys"
            raise HephError("model.queue_size", what, "make it several batches long")
        places = (self.queue_end + torch.arange(len(keys), device=keys.device)) % size
        self.queue[places] = keys.to(self.queue.dtype)
        self.queue_frames[places], self.queue_images[places] = frames, images
        self.queue_end.copy_((self.queue_end + len(keys)) % size)
        return places

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the query encoder (subfolder `encoder`) and its MLP; queue and key encoder stay.

        Args:
            folder: Made if need be.
        """
        folder = Path(folder)
        encoder = {"path": "encoder", "sha256": self.encoder.save_pretrained(folder / "encoder")}
        config = replace(self.config, encoder=replace(self.config.encoder, pretrained=None))
        weights.write_model(folder, "moco", config, self.projection.state_dict(), encoder=encoder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, revision: str | None = None) -> "MoCo":
        """Read a model of `save_pretrained`, in evaluation mode, with an empty queue.

        Args:
            folder: Where it was saved, or `user/repo` of the Hub.
            revision: Branch, tag or commit there.

        Returns:
            The model; its key encoder equals its query encoder.

        Raises:
            HephError: If the folder is incomplete, broken, or holds another model.
        """
        folder = located(folder, revision)
        entries = weights.read_config(folder, "moco")
        where = str(folder / weights.CONFIG)
        config = weights.config_from_dict(MoCoConfig, entries["config"], f"{where}: config")
        encoder = weights.part(entries, "encoder", ("path", "sha256"), where)
        model = cls(config)
        seen = weights.read_weights(folder / encoder["path"], encoder["sha256"])
        weights.fill(model.encoder, seen, folder / encoder["path"])
        state = weights.read_weights(folder, entries["weights_sha256"])
        weights.fill(model.projection, state, folder)
        model.key_encoder.load_state_dict(model.encoder.state_dict())
        model.key_projection.load_state_dict(model.projection.state_dict())
        return model.eval()


class Momentum:
    """The key encoder follows the query encoder: `fit`'s `after_step`.

    Its state is the number of updates; the followed weights are part of the model and saved with
    it. Batch norm statistics do not follow: the key encoder has those of the keys.

    Args:
        momentum: Share of its weights that the key encoder keeps at each step.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.updates = 0

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int) -> None:
        """Move the keys' weights towards the queries', after a step."""
        moco: Any = model
        self.updates += 1
        keys = [*moco.key_encoder.parameters(), *moco.key_projection.parameters()]
        queries = [*moco.encoder.parameters(), *moco.projection.parameters()]
        torch._foreach_lerp_(keys, queries, 1 - self.momentum)

    def state_dict(self) -> dict[str, Any]:
        """The number of updates."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.updates = state["updates"]


def moco_loss(
    model: nn.Module, batch: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor | float]]:
    """Tell the key of each query among the queue's keys; this batch's keys of all ranks join first.

    Args:
        model: A `MoCo`, possibly wrapped for several ranks; its queue changes.
        batch: Of `data.views.collate_views`.

    Returns:
        The loss (), and scalars to log: `top1` (share of queries nearest to their own key),
        `alignment` and `uniformity` (Wang and Isola, 2020; of this rank's queries), `negatives`.
    """
    unwrapped: Any = getattr(model, "module", model)
    config: MoCoConfig = unwrapped.config
    out = model(batch)
    query, key = out["query"], out["key"]
    unwrapped.enqueue(*gather_rows(key, batch["frame"], batch["image"]))
    known = unwrapped.queue_frames if config.never_negative == "frame" else unwrapped.queue_images
    own = batch["frame" if config.never_negative == "frame" else "image"]
    # A query's own key is of its frame, so it is spared, too.
    spared = (known == own[:, None]) | (known < 0)  # (B, K)
    with torch.autocast(query.device.type, enabled=False):
        positive = (query * key).sum(1, keepdim=True)  # (B, 1)
        negative = (query @ unwrapped.queue.T).masked_fill(spared, -math.inf)  # (B, K)
        logits = torch.cat([positive, negative], dim=1) / config.temperature
        loss = F.cross_entropy(logits, torch.zeros_like(own))
    with torch.no_grad():
        logs: dict[str, Tensor | float] = {
            "top1": (positive[:, 0] > negative.max(1).values).float().mean(),
            "alignment": (query - key).square().sum(1).mean(),
            "uniformity": _uniformity(query),
            "negatives": (~spared).float().sum(1).mean(),
        }
    return loss, logs


def _uniformity(points: Tensor) -> Tensor:
    """Log of the mean of exp(-2 distance^2) over pairs (): 0 collapsed, about -4 uniform."""
    if len(points) < 2:
        return points.new_zeros(())
    return torch.pdist(points.detach()).square().mul(-2).exp().mean().log()


def _pooled(encoder: nn.Module, images: Images, parts: Sequence[Tensor]) -> Tensor:
    """Pooled features (B, D) in the images' order, seen in sub-batches of rows."""
    names = ("pixel_values", "valid", "size")
    seen = [encoder(*(images[name][part] for name in names)).pooled for part in parts]
    return torch.cat(seen)[torch.cat(list(parts)).argsort()]


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.float(), dim=-1)
