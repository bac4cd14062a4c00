"""Latents and text features of training crops, made once: the frozen networks' part of a step.

A cache is a folder of `cache.safetensors`: `latents` (N, C, h, w) float16, `text` (N,) int64 the
number of each crop's text, and of M different texts `states` (all tokens, W) float16, `ends` (M,)
int64 where each one's tokens end, `pooled` (M, W) float16; and of `texts.json`: the M texts, and
the identity of the networks, since their latents mean nothing to others.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from heph_vl.errors import HephError
from heph_vl.models.generator import Frozen

_AT_ONCE = 64
TENSORS, TEXTS = "cache.safetensors", "texts.json"


@torch.no_grad()
def write_cache(
    folder: Path,
    frozen: Frozen,
    batches: Iterable[Mapping[str, Any]],
    tokenize: Callable[[list[str]], Mapping[str, Tensor]],
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write a cache.

    Args:
        folder: An existing one.
        frozen: The networks, and where they run.
        batches: Of `pixel_values` (B, 3, H, W), `valid` (B, H, W), all of one size, and `texts`.
        tokenize: Texts -> `input_ids` and `attention_mask`.
        progress: Called with the number of crops done.
    """
    device = frozen.autoencoder.device
    number: dict[str, int] = {}
    latents, text = [], []
    for batch in batches:
        images = {k: batch[k].to(device) for k in ("pixel_values", "valid")}
        empty = torch.zeros(len(images["valid"]), 1, dtype=torch.int64, device=device)
        seen = frozen.prepare({**images, "input_ids": empty, "attention_mask": empty})
        latents.append(seen["latents"].half().cpu())
        text += [number.setdefault(words, len(number)) for words in batch["texts"]]
        progress(len(text))
    states: list[Tensor] = []
    pooled: list[Tensor] = []
    ends: list[int] = []
    left = iter(number)
    while some := list(islice(left, _AT_ONCE)):
        read = frozen.read(**{k: v.to(device) for k, v in tokenize(some).items()})
        for row, mask in zip(read["states"], read["state_mask"], strict=True):
            states.append(row[mask].half().cpu())
            ends.append(len(states[-1]) + (ends[-1] if ends else 0))
        pooled.append(read["pooled"].half().cpu())
    tensors = {
        "latents": torch.cat(latents).contiguous(),
        "text": torch.tensor(text),
        "states": torch.cat(states),
        "ends": torch.tensor(ends),
        "pooled": torch.cat(pooled),
    }
    save_file(tensors, str(folder / TENSORS))
    (folder / TEXTS).write_text(json.dumps({"of": frozen.identity, "texts": list(number)}))


class CachedCrops(Dataset[dict[str, Tensor]]):
    """Crops of a cache, keyed by (index, draw); the draw changes nothing.

    Args:
        folder: Of `write_cache`.
        frozen: What it must have been made with.

    Raises:
        HephError: The cache is incomplete or broken, or of other networks.
    """

    def __init__(self, folder: Path, frozen: Frozen) -> None:
        fix = "delete that folder: it is made again"
        try:
            self._cache = load_file(str(folder / TENSORS))
            about = json.loads((folder / TEXTS).read_text())
            self.texts: list[str] = about["texts"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise HephError(str(folder), f"not a cache of latents ({error})", fix) from error
        if {"latents", "text", "states", "ends", "pooled"} - self._cache.keys():
            raise HephError(str(folder), "not a cache of latents", fix)
        if about.get("of") != frozen.identity:
            what = "these latents are of another autoencoder or text tower"
            raise HephError(str(folder), what, f"{fix}; start the run anew")

    def __len__(self) -> int:
        return len(self._cache["latents"])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        cache, index = self._cache, key[0]
        number = int(cache["text"][index])
        start = int(cache["ends"][number - 1]) if number else 0
        return {
            "latents": cache["latents"][index],
            "states": cache["states"][start : int(cache["ends"][number])],
            "pooled": cache["pooled"][number],
        }


def collate_cached(items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack `CachedCrops`, texts padded to the longest: a batch as of `Frozen.prepare`."""
    lengths = torch.tensor([len(item["states"]) for item in items])
    states = torch.nn.utils.rnn.pad_sequence([item["states"] for item in items], batch_first=True)
    return {
        "latents": torch.stack([item["latents"] for item in items]).float(),
        "states": states.float(),
        "state_mask": torch.arange(states.shape[1]) < lengths[:, None],
        "pooled": torch.stack([item["pooled"] for item in items]).float(),
    }
