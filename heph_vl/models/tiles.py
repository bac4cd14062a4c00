"""Tile geometry: an image as a bag of native patches, and back to one grid of 16 px cells.

Tile (b, iy, ix) covers rows [iy * stride, iy * stride + tile_size) of image b, and columns
likewise; `stride` is the tile size less the overlap. Cells are counted from the top-left corner.
All functions are batched and work on any device.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CELL = 16  # side of a token's cell in pixels: the backbone's stride


def tile_counts(lengths: Tensor, tile_size: int, stride: int) -> Tensor:
    """Tiles that cover each side of an image: one, and one more for each stride beyond it.

    Args:
        lengths: Any shape, int64 [px], heights or widths.
        tile_size: Side of a tile [px].
        stride: Distance between neighbouring tiles [px].

    Returns:
        Same shape, int64, at least 1.
    """
    beyond = (lengths - tile_size).clamp(min=0)
    return torch.div(beyond + stride - 1, stride, rounding_mode="floor") + 1


def inside(size: Tensor, height: int, width: int) -> Tensor:
    """(B, height, width) bool, True inside the true `size` (B, 2) [height, width] of each image."""
    rows = torch.arange(height, device=size.device) < size[:, :1]
    columns = torch.arange(width, device=size.device) < size[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def choose_tiles(
    valid: Tensor, size: Tensor, tile_size: int, stride: int, min_valid: float
) -> Tensor:
    """The tiles worth looking at: those with enough data, and at least one for each image.

    Args:
        valid: (B, H, W) bool, False where there is no data and outside `size`.
        size: (B, 2) int64, true height and width of each image.
        tile_size: Side of a tile [px].
        stride: Distance between neighbouring tiles [px].
        min_valid: Least share of a tile's pixels that must be valid, in [0, 1]. An image
            without any such tile keeps the one with most data.

    Returns:
        (T, 3) int64: image, tile row, tile column; sorted.
    """
    share = F.avg_pool2d(
        _pad_to_tiles(valid[:, None].float(), tile_size, stride), tile_size, stride
    )
    share = share[:, 0]
    rows, columns = share.shape[1:]
    exists = inside(tile_counts(size, tile_size, stride), rows, columns)
    keep = exists & (share >= min_valid)
    best = share.masked_fill(~exists, -1.0).flatten(1).argmax(1)
    is_best = F.one_hot(best, rows * columns).bool().view_as(keep)
    return (keep | (is_best & ~keep.any(2).any(1)[:, None, None])).nonzero()


def cut_tiles(images: Tensor, tiles: Tensor, tile_size: int, stride: int) -> Tensor:
    """Cut tiles out of a batch, zeros beyond its edges.

    Args:
        images: (B, C, H, W).
        tiles: (T, 3) int64 of `choose_tiles`.
        tile_size: Side of a tile [px].
        stride: Distance between neighbouring tiles [px].

    Returns:
        (T, C, tile_size, tile_size).
    """
    windows = _pad_to_tiles(images, tile_size, stride)
    windows = windows.unfold(2, tile_size, stride).unfold(3, tile_size, stride)
    image, row, column = tiles.unbind(1)
    return windows.permute(0, 2, 3, 1, 4, 5)[image, row, column]


def nearest_cells(
    tiles: Tensor, tile_cells: int, stride_cells: int, batch: int, grid: tuple[int, int]
) -> Tensor:
    """For each cell of each image, the tile cell to take: that of the tile whose centre is nearest.

    Args:
        tiles: (T, 3) int64 of `choose_tiles`.
        tile_cells: Cells along a tile's side, n.
        stride_cells: Cells between neighbouring tiles.
        batch: Number of images.
        grid: Rows and columns of cells of an image.

    Returns:
        (batch, rows * columns) int64: index into (T * n * n) tile cells, -1 where no tile is.
    """
    num_tiles, device = len(tiles), tiles.device
    image, tile_row, tile_column = tiles.unbind(1)
    local = torch.arange(tile_cells, device=device)
    row = (tile_row[:, None] * stride_cells + local)[:, :, None]  # (T, n, 1)
    column = (tile_column[:, None] * stride_cells + local)[:, None, :]  # (T, 1, n)
    # Squared distance to the tile's centre in half cells, then the tile's number: the least of
    # these keys names the nearest tile, the first of equals.
    offset = (2 * local - (tile_cells - 1)).square()
    key = (offset[:, None] + offset)[None] * num_tiles
    key = key + torch.arange(num_tiles, device=device)[:, None, None]
    cell = (image[:, None, None] * grid[0] + row) * grid[1] + column  # (T, n, n)
    in_grid = (row < grid[0]) & (column < grid[1])
    none = torch.iinfo(torch.int64).max
    nearest = torch.full((batch * grid[0] * grid[1] + 1,), none, device=device)
    nearest.scatter_reduce_(
        0, torch.where(in_grid, cell, len(nearest) - 1).flatten(), key.flatten(), "amin"
    )
    nearest = nearest[:-1].view(batch, *grid)
    tile = nearest % num_tiles  # of cells that no tile covers: any number, masked below
    rows = torch.arange(grid[0], device=device)[:, None]
    columns = torch.arange(grid[1], device=device)
    local_row = rows - tile_row[tile] * stride_cells
    local_column = columns - tile_column[tile] * stride_cells
    source = (tile * tile_cells + local_row) * tile_cells + local_column
    return torch.where(nearest == none, -1, source).flatten(1)


def cell_share(flags: Tensor) -> Tensor:
    """Share of True pixels in each 16 px cell.

    Args:
        flags: (B, H, W) bool.

    Returns:
        (B, ceil(H / 16), ceil(W / 16)) float32 in [0, 1], of all 256 px of a cell, also at edges.
    """
    height, width = flags.shape[1:]
    padded = F.pad(flags[:, None].float(), (0, -width % CELL, 0, -height % CELL))
    return F.avg_pool2d(padded, CELL)[:, 0]


def _pad_to_tiles(images: Tensor, tile_size: int, stride: int) -> Tensor:
    """Zeros to the right and below, up to the end of the last tile."""
    height, width = images.shape[2:]
    ends = [
        int(tile_counts(torch.tensor(length), tile_size, stride)) * stride - stride + tile_size
        for length in (height, width)
    ]
    return F.pad(images, (0, ends[1] - width, 0, ends[0] - height))
