"""Whole masks: nothing depends on the order of work, and bad or extreme images are answered."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from heph_vl.errors import HephError
from heph_vl.models.heads import Heads
from heph_vl.models.segmenter import NUM_CLASSES, Blender, to_pixels
from heph_vl.models.tiles import choose_tiles, cut_tiles
from tests.tiny_heads import make

CPU = torch.device("cpu")


def image(height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    phase = 6 * torch.rand(height, width, generator=generator)
    return torch.stack([phase.cos(), phase.sin(), torch.ones_like(phase)]), phase > 0.5


def decided(**changes: object) -> Heads:
    """Heads whose classes compete in every pixel: new ones give background everywhere."""
    model = make(**changes).eval()
    assert model.decoder is not None
    with torch.no_grad():
        torch.nn.init.normal_(model.decoder.classify.weight, std=1.0)
        torch.nn.init.zeros_(model.decoder.classify.bias)
    return model


def test_masks_equal_the_blend_of_all_tiles_at_once() -> None:
    model = decided(encoder={"max_tiles_per_forward": 2})
    model.calibration = dataclasses.replace(model.calibration, mask_threshold=0.25)
    pixels, valid = image(150, 117)
    config = model.config.encoder
    side, stride = config.tile_size, config.tile_size - config.tile_overlap
    size = torch.tensor([[150, 117]])
    tiles = choose_tiles(valid[None], size, side, stride, config.min_valid_tile)
    cut = cut_tiles(pixels[None] * valid, tiles, side, stride)
    with torch.no_grad():
        assert model.decoder is not None
        classes = to_pixels(model.decoder(model.encoder.backbone(cut)), side).softmax(1)
    edge = torch.arange(side) + 0.5
    ramp = (torch.minimum(edge, side - edge) / config.tile_overlap).clamp(max=1)
    total = torch.zeros(NUM_CLASSES + 1, 300, 300)
    for (_, row, column), tile in zip(tiles.tolist(), classes, strict=True):
        area = total[
            :, row * stride : row * stride + side, column * stride : column * stride + side
        ]
        area += ramp[:, None] * ramp * torch.cat([tile, torch.ones(1, side, side)])
    p = (total[:-1] / total[-1].clamp(min=1e-6))[:, :150, :117]
    seen = model.predict(pixels, valid)
    np.testing.assert_allclose(seen.mask_if_deforming, p[1:].sum(0).numpy(), rtol=0, atol=1e-5)
    kinds = (p[1:].argmax(0) + 1).masked_fill(p[1:].sum(0) * seen.deformation < 0.25, 0)
    assert seen.mask is not None
    assert len(np.unique(seen.mask)) > 2
    assert (seen.mask != kinds.numpy()).mean() < 1e-3  # but for ties to rounding


def test_of_equal_classes_the_first_is_named() -> None:
    blender = Blender(8, 8, 8, 8, device=CPU)
    tile = torch.full((NUM_CLASSES, 8, 8), 0.2)
    tile[:3], tile[6] = 0.0, 0.0  # of 3, 4 and 5
    blender.add(0, 0, tile)
    kinds, deformation = blender.finish()
    assert (kinds == 3).all()
    np.testing.assert_allclose(deformation, 0.6, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (63, 64), (20, 200)])
def test_images_smaller_than_a_tile_keep_their_size(height: int, width: int) -> None:
    pixels, _ = image(height, width)
    seen = decided().predict(pixels, torch.ones(height, width, dtype=torch.bool))
    assert seen.mask is not None
    assert seen.mask_probability is not None
    assert seen.mask.shape == seen.mask_probability.shape == (height, width)
    assert np.isfinite(seen.mask_probability).all()
    assert (seen.mask_probability > 0).all()  # the tile was looked at
    assert 0 < seen.deformation < 1


def test_one_valid_pixel_is_an_image_and_none_is_not() -> None:
    model, (pixels, valid) = decided(), image(80, 80)
    valid[:] = False
    with pytest.raises(HephError, match="image 0: no valid phase; the whole image is no-data"):
        model.predict(pixels, valid)
    valid[70, 3] = True
    seen = model.predict(pixels, valid)
    assert seen.mask is not None
    assert seen.mask.shape == (80, 80)
    # Beyond its true size nothing counts as data.
    with pytest.raises(HephError, match="no valid phase"):
        model.predict(pixels, valid, torch.tensor([60, 80]))


@pytest.mark.parametrize("shape", [(79, 80), (80, 81), (40, 40)])
def test_valid_of_another_size_is_told(shape: tuple[int, int]) -> None:
    pixels, _ = image(80, 80)
    what = f"valid: 1 of {shape[1]} x {shape[0]} px for 1 images of 80 x 80 px"
    with pytest.raises(HephError, match=what):
        decided().predict(pixels, torch.ones(shape, dtype=torch.bool))


@pytest.mark.slow
def test_a_frame_of_3000_px_says_in_each_part_what_the_part_says_alone() -> None:
    # Tiles of the large frame from row and column 40 on are those of the part cut out there.
    model = decided(encoder={"tile_overlap": 32})
    config = model.config.encoder
    stride = config.tile_size - config.tile_overlap
    pixels, valid = image(3000, 3000)
    whole = model.predict(pixels, valid)
    assert whole.mask is not None
    assert whole.mask_if_deforming is not None
    assert whole.mask.shape == (3000, 3000)
    top, side = 40 * stride, 8 * stride + config.tile_size
    part = np.s_[top : top + side, top : top + side]
    alone = model.predict(pixels[:, *part], valid[part])
    assert alone.mask_if_deforming is not None
    inner = np.s_[config.tile_overlap : -config.tile_overlap]  # edges lack the tiles outside
    np.testing.assert_allclose(
        whole.mask_if_deforming[part][inner, inner],
        alone.mask_if_deforming[inner, inner],
        atol=1e-5,
    )


def test_the_band_does_not_grow_with_the_images_height() -> None:
    tall = Blender(10_000, 64, 64, 32, device=CPU)
    low = Blender(64, 64, 64, 32, device=CPU)
    assert tall._band.shape == low._band.shape


def test_saved_thresholds_decide_the_mask(tmp_path: Path) -> None:
    model, (pixels, valid) = decided(), image(90, 90)
    seen = model.predict(pixels, valid)
    assert seen.mask_probability is not None
    middle = float(np.median(seen.mask_probability))
    model.calibration = dataclasses.replace(model.calibration, mask_threshold=middle)
    model.save_pretrained(tmp_path)
    again = Heads.from_pretrained(tmp_path).predict(pixels, valid)
    np.testing.assert_array_equal(again.mask > 0, seen.mask_probability >= middle)
