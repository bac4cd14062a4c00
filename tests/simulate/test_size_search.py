"""Image sizes from captions: cells that patterns are said to lie in, and their polygons."""

import numpy as np
import pytest

from heph_vl.data.captions import CELLS
from heph_vl.simulate.place import known_frames
from heph_vl.simulate.size_search import LEAST_RECORDS, best_size, placed_patterns


def test_size_is_found_from_the_cells():
    rng = np.random.default_rng(0)
    height, width = 700, 800
    middles = rng.uniform((20, 20), (width - 20, height - 20), size=(400, 2))
    cell = (3 * middles / (width, height)).astype(int)
    named = np.eye(9, dtype=bool)[3 * cell[:, 1] + cell[:, 0]]
    (h, w), share = best_size(9, (790, 690), middles, named)
    assert share > 0.99
    assert abs(h - height) <= 12
    assert abs(w - width) <= 12
    assert h % 3 == w % 3 == 0


def test_few_records_give_the_squarest_size():
    few = np.full((LEAST_RECORDS - 1, 2), 100.0)
    (h, w), share = best_size(6, (0, 0), few, np.ones((LEAST_RECORDS - 1, 9), dtype=bool))
    assert share == 0.0
    assert (h // 224) * (w // 224) == 6
    assert max(h, w) / min(h, w) < 1.1


@pytest.mark.real_data
def test_polygons_lie_where_captions_say(shared):
    from heph_vl.data.annotations import read_annotations

    records = read_annotations(shared / "data/hephaestus/annotations.tar.gz").annotations
    agree = total = 0
    for frame_id, known in known_frames().items():
        middles, named = placed_patterns([a for a in records if a.frame_id == frame_id])
        height, width = known.size
        cell = np.minimum((3 * middles / (width, height)).astype(int), 2)
        agree += int(named[np.arange(len(cell)), 3 * cell[:, 1] + cell[:, 0]].sum())
        total += len(cell)
    assert total > 1_400
    assert agree / total > 0.8
    assert CELLS[4] == "center"
