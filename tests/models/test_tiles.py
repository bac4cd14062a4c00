"""Tile geometry against slow loops written from the definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heph_vl.models.tiles import (
    cell_share,
    choose_tiles,
    cut_tiles,
    inside,
    nearest_cells,
    tile_counts,
)


def test_tiles_along_a_side() -> None:
    lengths = torch.tensor([1, 224, 225, 416, 417, 900, 1120])
    assert tile_counts(lengths, 224, 192).tolist() == [1, 1, 2, 2, 3, 5, 6]


def choose(
    valid: Tensor, size: list[int] | None = None, min_valid: float = 0.05
) -> list[list[int]]:
    sizes = torch.tensor([size or valid.shape]).expand(1, 2)
    return choose_tiles(valid[None], sizes, 32, 16, min_valid).tolist()


def test_tiles_without_data_are_dropped() -> None:
    valid = torch.zeros(64, 48, dtype=torch.bool)
    valid[:16, 40:] = True  # 8 columns, of tile column 1 (16..48) only
    assert choose(valid) == [[0, 0, 1]]
    assert choose(valid, min_valid=16 * 8 / 32**2) == [[0, 0, 1]]
    # Nothing is enough: the tile with most data stays.
    assert choose(valid, min_valid=0.5) == [[0, 0, 1]]
    assert choose(torch.zeros_like(valid)) == [[0, 0, 0]]
    assert len(choose(torch.ones_like(valid))) == 3 * 2


def test_no_tile_lies_beyond_the_true_size() -> None:
    valid = torch.ones(64, 64, dtype=torch.bool)  # also where the image is not
    assert choose(valid, [32, 20]) == [[0, 0, 0]]
    assert choose(valid, [33, 32]) == [[0, 0, 0], [0, 1, 0]]
    assert choose(torch.zeros_like(valid), [32, 20]) == [[0, 0, 0]]


def test_a_tile_is_its_window_with_zeros_beyond_the_edge() -> None:
    images = torch.randn(2, 3, 40, 70)
    tiles = torch.tensor([[0, 0, 0], [1, 0, 2], [1, 1, 3]])
    padded = torch.zeros(2, 3, 48, 80)
    padded[:, :, :40, :70] = images
    expected = [padded[b, :, 16 * y : 16 * y + 32, 16 * x : 16 * x + 32] for b, y, x in tiles]
    assert torch.equal(cut_tiles(images, tiles, 32, 16), torch.stack(expected))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_nearest_kept_tile_gives_each_cell(tile_cells: int, stride: int, seed: int) -> None:
    stride = min(stride, tile_cells)
    generator = torch.Generator().manual_seed(seed)
    all_tiles = torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(3))
    tiles = all_tiles[torch.rand(len(all_tiles), generator=generator) < 0.6]
    if len(tiles) == 0:
        return
    grid = (2 * stride + tile_cells - 1, 2 * stride + tile_cells + 1)
    source = nearest_cells(tiles, tile_cells, stride, 2, grid).view(2, *grid)
    for b, y, x in torch.cartesian_prod(*map(torch.arange, (2, *grid))).tolist():
        found = []
        for t, (image, row, column) in enumerate(tiles.tolist()):
            ly, lx = y - row * stride, x - column * stride
            if image == b and 0 <= ly < tile_cells and 0 <= lx < tile_cells:
                middle = (tile_cells - 1) / 2
                distance = (ly - middle) ** 2 + (lx - middle) ** 2
                found.append((distance, t, (t * tile_cells + ly) * tile_cells + lx))
        assert source[b, y, x] == (min(found)[2] if found else -1)


def test_share_of_a_cell_counts_all_its_pixels() -> None:
    flags = torch.zeros(1, 20, 33, dtype=torch.bool)
    flags[0, :16, :8] = True
    flags[0, 16:, 32] = True
    assert cell_share(flags).tolist() == [[[0.5, 0, 0], [0, 0, 4 / 256]]]


def test_inside_is_height_then_width() -> None:
    mask = inside(torch.tensor([[1, 2]]), 3, 4)
    assert mask[0].nonzero().tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("side", [16, 31, 32])
def test_an_image_not_larger_than_the_tile_is_one_tile(side: int) -> None:
    assert choose(torch.ones(side, side, dtype=torch.bool)) == [[0, 0, 0]]
