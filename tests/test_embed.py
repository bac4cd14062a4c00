"""Embedding: one vector for each readable row, whatever the batch, and the rest listed."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from heph_vl.embed import embed_batches, embed_images
from heph_vl.errors import HephError
from tests import tiny_retriever
from tests.data.fake_archive import draw_pair


def encoded(width: int, height: int, seed: int) -> dict[str, Any]:
    columns: dict[str, Any] = {"unique_id": seed}
    pair = draw_pair(width, height, [], np.random.default_rng(seed))
    for name, image in zip(("image", "coherence"), pair, strict=True):
        buffer = BytesIO()
        image.save(buffer, "PNG", transparency=image.info.get("transparency"))
        columns[name] = {"bytes": buffer.getvalue()}
    return columns


ROWS = [encoded(64, 64, 1), encoded(90, 70, 2), encoded(64, 100, 3)]


def test_the_batch_size_does_not_change_the_vectors() -> None:
    model = tiny_retriever.make().eval()
    one = embed_images(model, ROWS, batch_size=1)
    all_at_once = embed_images(model, ROWS, batch_size=3)
    assert one.positions == all_at_once.positions == [0, 1, 2]
    assert one.vectors == pytest.approx(all_at_once.vectors, abs=1e-5)
    assert np.linalg.norm(one.vectors, axis=1) == pytest.approx(1)
    assert np.abs(one.vectors[0] - one.vectors[1]).max() > 1e-4


def test_an_image_that_cannot_be_read_is_listed_and_the_others_keep_their_place() -> None:
    model = tiny_retriever.make()
    cut = {**ROWS[1], "image": {"bytes": ROWS[1]["image"]["bytes"][:200]}}
    grey = BytesIO()
    Image.new("L", (64, 64), 7).save(grey, "PNG")
    rows = [
        cut,
        ROWS[0],
        {"unique_id": 9, "image": None},
        ROWS[2],
        {"image": {"bytes": grey.getvalue()}},
    ]
    done: list[tuple[int, int]] = []
    found = embed_images(model, rows, batch_size=2, progress=lambda *state: done.append(state))
    assert found.positions == [1, 3]
    plain = embed_images(model, [ROWS[0], ROWS[2]], batch_size=1)
    assert found.vectors == pytest.approx(plain.vectors, abs=1e-5)
    assert [p.where.removeprefix("interferogram ")[:5] for p in found.problems] == [
        "2",
        "9",
        "row 4",
    ]
    assert done == [(2, 5), (4, 5), (5, 5)]


def test_nothing_readable_is_an_error() -> None:
    with pytest.raises(HephError, match="none of 1 could be read, the first because no image"):
        embed_images(tiny_retriever.make(), [{"unique_id": 9, "image": None}])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_in_the_mode_it_was_in(training: bool) -> None:
    model = tiny_retriever.make().train(training)
    batches = embed_batches(model, ROWS, batch_size=1)
    next(batches)
    assert not model.training
    batches.close()  # given up half way
    assert model.training is training
