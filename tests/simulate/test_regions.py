"""Names of places, measured on fields."""

import pytest
import torch

from heph_vl.simulate.regions import BLOCKS, block_mean, block_spread, cell_of, name_regions

ALL = torch.ones((BLOCKS, BLOCKS))


def blocks(*where):
    field = torch.zeros((BLOCKS, BLOCKS), dtype=torch.bool)
    for rows, columns in where:
        field[rows, columns] = True
    return field


FIRST, MIDDLE, LAST, EVERY = slice(0, 4), slice(4, 8), slice(8, 12), slice(None)


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ([(FIRST, EVERY)], {"top"}),
        ([(EVERY, FIRST)], {"left"}),
        ([(EVERY, LAST)], {"right"}),
        ([(LAST, EVERY)], {"bottom"}),
        ([(FIRST, FIRST)], {"top-left"}),
        ([(LAST, LAST), (MIDDLE, MIDDLE)], {"bottom-right", "center"}),
        ([(FIRST, EVERY), (EVERY, FIRST)], {"top", "left"}),
        ([(EVERY, EVERY)], {"everywhere"}),
        ([], set()),
        ([(slice(0, 1), slice(0, 1))], set()),
    ],
)
def test_named_places_are_those_affected(where, names):
    assert name_regions(blocks(*where), ALL) == names


def test_only_visible_blocks_count():
    share = torch.zeros((BLOCKS, BLOCKS))
    share[EVERY, FIRST] = 1.0
    assert name_regions(blocks((FIRST, FIRST)), share) == {"top", "top-left"} - {"top-left"}
    assert name_regions(blocks((EVERY, LAST)), share) == set()
    assert name_regions(blocks((EVERY, EVERY)), torch.zeros((BLOCKS, BLOCKS))) == set()


def test_block_statistics():
    field = torch.arange(144.0).reshape(1, 144).expand(144, 144)
    visible = torch.ones((144, 144), dtype=torch.bool)
    visible[:, 72:] = False
    mean, share = block_mean(field, visible)
    assert float(share[0, 0]) == 1.0
    assert float(share[0, -1]) == 0.0
    assert float(mean[3, 2]) == pytest.approx(29.5)  # columns 24 to 35
    spread, _ = block_spread(field, visible)
    assert float(spread[5, 3]) == pytest.approx((143 / 12) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [(10, 10, "top-left"), (50, 10, "top"), (95, 50, "right"), (50, 50, "center"),
     (10, 95, "bottom-left"), (100, 100, "bottom-right"), (10, 50, "left")],
)  # fmt: skip
def test_cell_of_a_polygon(x, y, name):
    assert cell_of([(x - 2, y), (x, y - 2), (x, y)], (102, 102)) == name
