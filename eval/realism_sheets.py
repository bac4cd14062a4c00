"""Sheets of real and simulated patches side by side: labelled, or blind with a key."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from eval.realism_sets import Patch, Pictures
from heph_vl.data.patches import PATCH_SIZE

_SHOWN_PATCHES = 12  # of each set on a sheet


def shown(
    real: Pictures, simulated: Pictures, generator: torch.Generator
) -> tuple[list[Patch], list[Patch]]:
    """As many patches of both sets, of the same kinds where both have them, in random order."""
    kinds = {p.kind for p in real.patches} & {p.kind for p in simulated.patches}
    sides: tuple[list[Patch], list[Patch]] = ([], [])
    every: list[str | None] = [*sorted(kinds)] or [None]
    for kind in every:
        pools = [_shuffled(_of(s.patches, kind), generator) for s in (real, simulated)]
        number = min(_SHOWN_PATCHES // len(every), *map(len, pools))
        for side, pool in zip(sides, pools, strict=True):
            side += pool[:number]
    return sides


def labelled_sheet(real: Sequence[Patch], simulated: Sequence[Patch]) -> Image.Image:
    """Rows of four: two real patches on the left, two simulated ones on the right, with names.

    Args:
        real: Patches of `shown`.
        simulated: As many.

    Returns:
        The page.
    """
    cells: list[tuple[str, Image.Image]] = []
    for start in range(0, len(real), 2):
        for label, side in (("real", real), ("simulated", simulated)):
            pair = [(f"{label} {p.name}", p.image) for p in side[start : start + 2]]
            cells += pair + [("", Image.new("RGB", (1, 1), "white"))] * (2 - len(pair))
    return _page(cells, 4)


def blind_sheet(
    real: Sequence[Patch], simulated: Sequence[Patch], generator: torch.Generator
) -> tuple[Image.Image, dict[str, dict[str, str]]]:
    """Both sets shuffled under numbers, and which number is what.

    Args:
        real: Patches of `shown`.
        simulated: As many.
        generator: Shuffles.

    Returns:
        The page, and {number: {"set", "patch", "kind"}}.
    """
    both = [("real", p) for p in real] + [("simulated", p) for p in simulated]
    order = _shuffled(both, generator)
    key = {
        str(i): {"set": name, "patch": patch.name, "kind": patch.kind}
        for i, (name, patch) in enumerate(order, 1)
    }
    return _page([(str(i), patch.image) for i, (_, patch) in enumerate(order, 1)], 6), key


def _of(patches: Sequence[Patch], kind: str | None) -> list[Patch]:
    return [patch for patch in patches if kind is None or patch.kind == kind]


def _shuffled(items: Sequence[Any], generator: torch.Generator) -> list[Any]:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]


def _page(cells: Sequence[tuple[str, Image.Image]], columns: int) -> Image.Image:
    width, height = PATCH_SIZE + 8, PATCH_SIZE + 24
    page = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for i, (label, image) in enumerate(cells):
        x, y = i % columns * width + 4, i // columns * height + 2
        draw.text((x, y), label, "black", font)
        page.paste(image, (x, y + 18))
    return page
